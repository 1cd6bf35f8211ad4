// Secrets never leave in texts from the outside.
import { randomBytes } from 'node:crypto';
import { assert, pre, property, uint8Array } from 'fast-check';
import { describe, expect, it } from 'vitest';
import { briefText, withoutSecrets } from '../../src/vast/redaction.ts';
import { cpuMs } from '../support/cpu-time.ts';

const secret = 'Xk3-9_aBcDeFgHiJkLmNoPqRsTuVwXyZ0123456789ab';

describe('a log without secrets', () => {
  it.each([
    `web credentials: user comfyfleet, password hunter2`,
    `Authorization: Bearer hunter2.hunter2`,
    `Authorization: Basic Y29tZnlmbGVldDpodW50ZXIyaHVudGVyMg==`,
    `export WEB_PASSWORD="hunter2"`,
    `HF_TOKEN=hunter2 python main.py`,
    `{"token": "hunter2", "a": 1}`,
    `GET /?token=hunter2&x=1`,
    `https://user:hunter2@example.com/file`,
    `api_key: hunter2`,
  ])('hides the one in %s', (line) => {
    expect(withoutSecrets(line)).not.toMatch(/hunter2|aHVudGVyMg|odW50ZXIy/);
  });

  it('hides the keys that vast.ai makes', () => {
    const key = randomBytes(32).toString('hex');
    expect(withoutSecrets(`token file holds ${key}.`)).toBe('token file holds [removed].');
  });

  it('hides given secrets wherever they stand', () => {
    expect(withoutSecrets('a=my-own-key;b', ['my-own-key'])).toBe('a=[removed];b');
  });

  it('hides a machine secret behind terminal colours and escapes', () => {
    expect(withoutSecrets(`\u001b[32m${secret}\u001b[0m`)).toBe('[removed]');
    expect(withoutSecrets(`\\n${secret}`)).not.toContain(secret);
  });

  it('hides every secret of our making', () => {
    assert(
      property(uint8Array({ minLength: 32, maxLength: 32 }), (bytes) => {
        const made = Buffer.from(bytes).toString('base64url');
        pre(/[a-z]/.test(made) && /[A-Z]/.test(made));
        expect(withoutSecrets(`credentials are ${made} today`)).not.toContain(made);
      }),
    );
  });

  it('keeps its lines, and no other control characters', () => {
    expect(withoutSecrets('one\u0000\u0007\r\n\ttwo\u007f\n')).toBe('one\r\n\ttwo\n');
  });

  it('takes no long time, whatever a machine writes', () => {
    const flood = ['a'.repeat(2_000_000), 'token '.repeat(200_000), '://a:'.repeat(200_000)].join('\n');
    expect(cpuMs(() => withoutSecrets(flood))).toBeLessThan(1000);
  });

  it('leaves ordinary lines alone', () => {
    const line = 'Loading /workspace/ComfyUI/models/checkpoints/v1-5-pruned-emaonly.safetensors: 42% 1.3GB/s';
    expect(withoutSecrets(line)).toBe(line);
  });
});

describe('a brief text', () => {
  it('is one trimmed line', () => {
    expect(briefText('  success, running\r\n vastai/comfy/ssh\n')).toBe('success, running vastai/comfy/ssh');
  });

  it('is null when nothing is said', () => {
    expect(briefText(null)).toBeNull();
    expect(briefText(' \n')).toBeNull();
  });

  it('has an end', () => {
    expect(briefText('x '.repeat(5000))).toHaveLength(300);
  });
});
