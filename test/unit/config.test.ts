import { describe, expect, it } from 'vitest';
import { ConfigError, configuredApiKeys, describeSettings, loadConfig } from '../../src/config.ts';

/** The lines about settings at fault. */
function linesOf(env: Record<string, string>): string[] {
  try {
    loadConfig(env);
  } catch (error) {
    if (error instanceof ConfigError) return error.lines;
    throw error;
  }
  return [];
}

const key = 'a'.repeat(32);

describe('loadConfig', () => {
  it('needs nothing', () => {
    expect(loadConfig({})).toMatchObject({ HOST: '127.0.0.1', PORT: 8400, API_KEYS: [], TRUST_PROXY: 0 });
  });

  it('takes an empty value for unset', () => {
    expect(loadConfig({ PORT: '', DATABASE_URL: '', VASTAI_API_KEY: '' })).toEqual(loadConfig({}));
  });

  it('ignores the rest of the environment', () => {
    expect(loadConfig({ PATH: '/bin', PORTS: 'x' })).toEqual(loadConfig({}));
  });

  it('reads numbers, flags, lists and URLs', () => {
    const config = loadConfig({
      PORT: '0',
      BODY_LIMIT_MB: '2.5',
      TRUST_PROXY: 'true',
      CORS_ORIGINS: ' https://a.example , https://b.example,',
      COMFYUI_URLS: 'http://10.0.0.1:8188/',
    });
    expect(config).toMatchObject({
      PORT: 0,
      BODY_LIMIT_MB: 2.5,
      TRUST_PROXY: 1,
      CORS_ORIGINS: ['https://a.example', 'https://b.example'],
      COMFYUI_URLS: ['http://10.0.0.1:8188'],
    });
  });

  it.each([
    ['PORT', '70000'],
    ['PORT', '8400.5'],
    ['PORT', 'http'],
    ['LOG_LEVEL', 'loud'],
    ['TRUST_PROXY', 'yes'],
    ['DATABASE_URL', 'mysql://x/y'],
    ['COMFYUI_URLS', 'http://ok.example,not a url'],
    ['VAST_EXTRA_PORTS', '80,abc'],
    ['VAST_PROVISIONING_SCRIPT', 'http://insecure.example/script.sh'],
    ['LABEL_PREFIX', 'Has Spaces'],
    ['MAX_PRICE_PER_HOUR_USD', '-1'],
    ['SHUTDOWN_TIMEOUT_SECONDS', 'NaN'],
  ])('refuses %s=%s, naming it and what it is for', (name, value) => {
    const [line, ...others] = linesOf({ [name]: value });
    expect(line).toMatch(new RegExp(`^${name}`));
    expect(line).toContain(describeSettings().find((setting) => setting.name === name)?.description);
    expect(others).toEqual([]);
  });

  it.each([
    ['CORS_ORIGINS', 'https://app.example.com/', 'https://app.example.com,http://localhost:3000,*'],
    ['CORS_ORIGINS', 'example.com', 'http://[::1]:3000'],
    ['CORS_ORIGINS', 'https://App.example.com', 'https://app.example.com:8443'],
    ['CORS_ORIGINS', 'https://app.example.com:443', 'https://10.0.0.7'],
    ['CORS_ORIGINS', 'ftp://app.example.com', '*'],
    ['VAST_EXTRA_PORTS', '99999', '1,65535'],
    ['VAST_EXTRA_PORTS', '0', '8080'],
    ['WEBHOOK_ALLOWED_HOSTS', 'http://hooks.internal:9000/', 'hooks.internal:9000,Hooks.internal'],
    ['WEBHOOK_ALLOWED_HOSTS', 'a b', 'hooks.internal:80,hooks.internal:443'],
    ['WEBHOOK_ALLOWED_HOSTS', '*.internal', 'hooks'],
    ['INPUT_URL_ALLOWED_HOSTS', 'https://x/y', '10.0.0.7,10.0.0.7:9000'],
    ['INPUT_URL_ALLOWED_HOSTS', '::1', '[::1],[::1]:9000'],
    ['INPUT_URL_ALLOWED_HOSTS', 'files.internal:99999', 'files.internal:65535'],
  ])('refuses in %s the entry %s, which would never do anything, and takes %s', (name, useless, usable) => {
    expect(linesOf({ [name]: usable })).toEqual([]);
    expect(linesOf({ [name]: `${usable},${useless}` })).toEqual([
      expect.stringContaining(`entry ${usable.split(',').length + 1} must be `),
    ]);
  });

  it('names every setting at fault at once, those included that are judged together', () => {
    const lines = linesOf({
      PORT: 'x',
      LOG_LEVEL: 'x',
      HOST: 'ok',
      API_KEYS: 'alice=short',
      VAST_COMFYUI_PORT: '8188',
      VAST_COMFYUI_INTERNAL_PORT: '8188',
    });
    expect(lines.map((line) => line.split(/[ :]/)[0])).toEqual([
      'PORT',
      'LOG_LEVEL',
      'API_KEYS',
      'VAST_COMFYUI_INTERNAL_PORT',
    ]);
  });

  it.each([
    ['PORT', '70000', 'PORT (got "70000"): must be a whole number from 0 to 65535. '],
    ['PORT', 'http', 'PORT (got "http"): must be a whole number from 0 to 65535. '],
    ['BODY_LIMIT_MB', '0', 'BODY_LIMIT_MB (got "0"): must be a number from 0.1 to 100, in MB. '],
    [
      'MAX_SPEND_PER_DAY_USD',
      '-4',
      'MAX_SPEND_PER_DAY_USD (got "-4"): must be a number from 0 to 1000000, or none, in USD. ',
    ],
    ['LOG_FORMAT', 'xml', 'LOG_FORMAT (got "xml"): must be one of json, pretty. '],
    [
      'TRUST_PROXY',
      'yes',
      'TRUST_PROXY (got "yes"): must be true, false, or the number of proxies, 0 to 10. ',
    ],
    ['VAST_HTTPS', 'yes', 'VAST_HTTPS (got "yes"): must be true or false. '],
    ['VAST_IMAGE', ' ', 'VAST_IMAGE (got " "): must be a text of 1 to 900 characters. '],
    [
      'DATABASE_URL',
      'x',
      'DATABASE_URL: must be a URL such as postgres://user:password@host:5432/database. ',
    ],
    ['LABEL_PREFIX', 'A', 'LABEL_PREFIX (got "A"): must be 1 to 16 lower-case letters, digits or -. '],
    [
      'COMFYUI_URLS',
      'http://ok.example,nope',
      'COMFYUI_URLS (got "http://ok.example,nope"): entry 2 must be a URL that begins with http:// or https://. ',
    ],
    ['FLEET_REQUIREMENTS', '{', 'FLEET_REQUIREMENTS (got "{"): must be JSON. '],
    [
      'FLEET_REQUIREMENTS',
      '{"gpuCount":0}',
      'FLEET_REQUIREMENTS (got "{"gpuCount":0}"): "gpuCount" is not valid: it must be at least 1. ',
    ],
    ['API_KEYS', 'alice=x', 'API_KEYS: the key named alice must have at least 32 characters. '],
  ])('says of %s=%s in plain words what is accepted', (name, value, start) => {
    expect(linesOf({ [name]: value })).toEqual([expect.stringContaining(start)]);
  });

  it('has no words of its library in any complaint', () => {
    for (const value of ['x', '-1', '{"a":[]}', '[1]', 'a,b', ' ', '1e999', 'http://u:p@h', '=']) {
      for (const { name } of describeSettings()) {
        const lines = linesOf({ [name]: value }).join('\n');
        expect(lines).not.toMatch(/Invalid|expected \w+,|received|Too (?:small|big)|undefined|NaN/);
      }
    }
  });

  it('refuses credentials in the URL of a ComfyUI server, which would not be sent, and does not repeat them', () => {
    const [line, ...others] = linesOf({
      COMFYUI_URLS: 'http://ok.example,http://user:hunter2@comfy.example',
    });
    expect(line).toMatch(
      /^COMFYUI_URLS: entry 2 must be a URL without a user and a password; .*COMFYUI_TOKEN/,
    );
    expect(line).not.toContain('hunter2');
    expect(others).toEqual([]);
  });

  it('never repeats a secret', () => {
    const lines = linesOf({ DATABASE_URL: 'hunter2', API_KEYS: 'alice=hunter2,hunter2', PORT: 'x' });
    expect(lines.length).toBeGreaterThan(1);
    expect(lines.join()).not.toContain('hunter2');
  });

  it.each([
    ['a key without a name', key],
    ['a key with an unusable name', `a b=${key}`],
    ['a short key', 'alice=short'],
    ['a name that appears twice', `alice=${key},alice=${key}x`],
  ])('refuses %s', (_name, API_KEYS) => {
    expect(linesOf({ API_KEYS })).toEqual([expect.stringMatching(/^API_KEYS: /)]);
  });

  it.each([
    ['API_KEYS', `alice=${key} ${key}`, 'the key named alice must be'],
    ['API_KEYS', `alice=${key}é`, 'the key named alice must be'],
    ['VASTAI_API_KEY', '“0123456789abcdef”', 'must be'],
    ['COMFYUI_TOKEN', 'two words', 'must be'],
  ])('refuses a key that no header Authorization can carry: %s=%s', (name, value, start) => {
    expect(linesOf({ [name]: value })).toEqual([
      expect.stringContaining(`${name}: ${start} a text of printable ASCII without spaces`),
    ]);
  });

  it('refuses one port for the proxy of the image and for ComfyUI behind it', () => {
    const ports = { VAST_COMFYUI_PORT: '8188', VAST_COMFYUI_INTERNAL_PORT: '8188' };
    expect(linesOf(ports)).toEqual([expect.stringMatching(/^VAST_COMFYUI_INTERNAL_PORT/)]);
  });

  it.each([
    ['FLEET_MIN', 'FLEET_MAX'],
    ['FLEET_MIN', 'MAX_INSTANCES'],
    ['FLEET_MAX', 'MAX_INSTANCES'],
  ])('refuses %s beyond %s where both are given, and minds no default', (name, limitName) => {
    expect(linesOf({ [name]: '5', [limitName]: '4', PORT: 'x' })).toEqual([
      expect.stringMatching(/^PORT /),
      expect.stringContaining(`${name} (got "5"): must be no more than ${limitName}. `),
    ]);
    expect(linesOf({ [name]: '4', [limitName]: '4' })).toEqual([]);
    expect(linesOf({ [name]: '1000' })).toEqual([]);
    expect(linesOf({ [limitName]: '0' })).toEqual([]);
  });
});

it('splits an API key from its name at the first equals sign', () => {
  const config = loadConfig({ API_KEYS: `alice=${key}==,bob=${key}` });
  expect(configuredApiKeys(config)).toEqual([
    { name: 'alice', key: `${key}==` },
    { name: 'bob', key },
  ]);
});

describe('describeSettings', () => {
  const settings = describeSettings();

  it('says of each setting what it is for', () => {
    const unexplained = settings.filter(({ description }) => !/^[A-Z].*\.$/.test(description));
    expect(unexplained).toEqual([]);
  });

  it('gives defaults that are accepted, and are what is used', () => {
    const defaults = Object.fromEntries(settings.map((setting) => [setting.name, setting.default ?? '']));
    expect(loadConfig(defaults)).toEqual(loadConfig({}));
  });

  it('gives the values of a choice', () => {
    const choices = Object.fromEntries(settings.map(({ name, choices: values }) => [name, values]));
    expect(choices).toMatchObject({ LOG_FORMAT: ['json', 'pretty'], VAST_IMAGE_KIND: ['vast', 'ai-dock'] });
    expect(choices).toMatchObject({ PORT: null, DEPLOYMENT: null });
  });

  it('gives no secret a default', () => {
    const secret = settings.filter((setting) => setting.secret === true);
    expect(secret.filter((setting) => (setting.default ?? '') !== '')).toEqual([]);
  });

  it('knows every secret: what is named like one is marked', () => {
    const telling = /KEY|TOKEN|SECRET|PASSWORD|DATABASE_URL/;
    const unmarked = settings.filter(({ name, secret }) => telling.test(name) && secret !== true);
    expect(unmarked.map(({ name }) => name)).toEqual([]);
  });
});
