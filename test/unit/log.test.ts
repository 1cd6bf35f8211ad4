import { describe, expect, it } from 'vitest';
import { loadConfig } from '../../src/config.ts';
import { createLogger, type Logger } from '../../src/support/log.ts';
import { cpuMs } from '../support/cpu-time.ts';

const secrets = {
  VASTAI_API_KEY: 'vast-key-0123456789',
  COMFYUI_TOKEN: 'token/with"quotes"&signs',
  API_KEYS: 'alice=alices-key-alices-key-alices-key-1,bob=bobs-key-bobs-key-bobs-key-bobs-2',
  DATABASE_URL: 'postgres://service:p%40ssw0rd@db.example:5432/fleet',
};
const forbidden = [
  secrets.VASTAI_API_KEY,
  secrets.COMFYUI_TOKEN,
  'alices-key-alices-key-alices-key-1',
  'bobs-key-bobs-key-bobs-key-bobs-2',
  'p%40ssw0rd',
  'p@ssw0rd',
];

function capture(settings: Record<string, string> = {}): { log: Logger; lines: string[] } {
  const lines: string[] = [];
  const config = loadConfig({ LOG_LEVEL: 'trace', ...secrets, ...settings });
  return { log: createLogger(config, { write: (line) => lines.push(line) }), lines };
}

describe('the log', () => {
  it('is one JSON object a line', () => {
    const { log, lines } = capture();
    log.child({ jobId: 'j1' }).warn({ count: 2 }, 'looked');
    expect(lines).toHaveLength(1);
    expect(JSON.parse(lines[0] ?? '')).toEqual({
      level: 'warn',
      time: expect.stringMatching(/^\d{4}-\d\d-\d\dT.*Z$/),
      jobId: 'j1',
      count: 2,
      msg: 'looked',
    });
  });

  it('leaves out what is below its level', () => {
    const { log, lines } = capture({ LOG_LEVEL: 'warn' });
    log.info('hello');
    expect(lines).toEqual([]);
  });

  it.each(['json', 'pretty'])(
    'never shows a secret of the settings, however it is logged, as %s',
    async (LOG_FORMAT) => {
      const { log, lines } = capture({ LOG_FORMAT });
      for (const secret of forbidden) {
        const error = new Error(`outer ${secret}`, { cause: new Error(`inner ${secret}`) });
        log.info(`said ${secret}`);
        log.info('said %s %j', secret, { secret });
        log.info({ value: secret, nested: { deep: [secret, { deeper: secret }] } }, 'object');
        log.info({ [secret]: 1 }, 'as a name');
        log.child({ binding: secret }).info('child');
        log.error(error);
        log.error({ err: Object.assign(error, { extra: { secret } }) }, 'error');
        log.info({ url: `https://x.example/?q=${encodeURIComponent(secret)}` }, 'url');
        log.info({ body: JSON.stringify({ a: secret }) }, 'JSON in JSON');
      }
      const all = lines.join('');
      expect(all.length).toBeGreaterThan(1000);
      for (const secret of forbidden) {
        expect(all).not.toContain(secret);
        expect(all).not.toContain(JSON.stringify(secret).slice(1, -1));
        expect(all).not.toContain(encodeURIComponent(secret));
      }
    },
  );

  it.each([
    ['a header', { headers: { authorization: 'Bearer hunter2hunter2', accept: 'text/html' } }],
    ['a secret of a machine', { rental: { secret: 'hunter2hunter2' } }],
    ['an environment', { env: { WEB_PASSWORD: 'hunter2hunter2', JUPYTER_TOKEN: 'hunter2hunter2' } }],
    [
      'a name in another style',
      { apiKey: 'hunter2hunter2', 'x-api-key': 'hunter2hunter2', api_key: 'hunter2hunter2' },
    ],
    ['a secret with quotes', { password: 'x"hunter2hunter2"' }],
    ['a body as text', { body: '{"client_secret": "hunter2hunter2"}' }],
    ['a query', { url: 'https://x.example/view?token=hunter2hunter2&a=1' }],
    ['a signed link', { url: 'https://s3.example/a?X-Amz-Signature=hunter2hunter2&sig=hunter2hunter2' }],
    ['a URL with credentials', { url: 'https://user:hunter2hunter2@x.example/' }],
    ['a command line', { command: 'docker run -e WEB_PASSWORD=hunter2hunter2 image' }],
    ['a header in a text', { text: 'Authorization: Bearer hunter2hunter2' }],
    ['another scheme in a text', { text: 'authorization: Basic hunter2hunter2' }],
    ['a key by that name', { name: 'alice', key: 'hunter2hunter2' }],
  ])('hides what it was not told of but looks secret: %s', (_name, object) => {
    const { log, lines } = capture();
    log.info(object, 'logged');
    expect(lines.join('')).not.toContain('hunter2hunter2');
    expect(lines.join('')).toContain('[redacted]');
    expect(() => JSON.parse(lines[0] ?? '')).not.toThrow();
  });

  it('keeps what is no secret', () => {
    const { log, lines } = capture();
    const facts = {
      tokens: 12,
      monkey: 'ape',
      url: 'https://x.example/?keyboard=qwerty',
      text: 'a basic question',
    };
    log.info(facts, 'the key is under the mat');
    expect(JSON.parse(lines[0] ?? '')).toMatchObject({ ...facts, msg: 'the key is under the mat' });
  });

  it('tells the whole chain of an error', () => {
    const { log, lines } = capture();
    log.error({ err: new Error('outer', { cause: new Error('inner') }) }, 'failed');
    expect(lines[0]).toContain('outer');
    expect(lines[0]).toContain('inner');
  });

  it('takes no long time over a long line', () => {
    const { log, lines } = capture();
    const blobs = { blob: 'a.'.repeat(100_000), quotes: '"'.repeat(50_000) };
    expect(cpuMs(() => log.info(blobs))).toBeLessThan(1000);
    expect(lines).toHaveLength(1);
  });
});
