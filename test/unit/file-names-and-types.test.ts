import { describe, expect, it } from 'vitest';
import { detectContentType, isSafeToShow } from '../../src/assets/content-type.ts';
import { plainFileName } from '../../src/assets/file-name.ts';

const png = Buffer.from(
  '89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c4890000000a49444154789c6360000000020001e221bc330000000049454e44ae426082',
  'hex',
);
const text = Buffer.from('a few words');

describe('the content type', () => {
  it.each([
    ['the bytes win over the claim and the name', png, 'text/html', 'page.html', 'image/png'],
    ['the claim counts where the bytes tell nothing', text, 'text/markdown', null, 'text/markdown'],
    [
      'parameters and capitals of a claim are dropped',
      text,
      'Text/Plain; charset=latin1',
      null,
      'text/plain',
    ],
    [
      'an empty claim gives way to the name',
      text,
      'application/octet-stream',
      'notes.json',
      'application/json',
    ],
    ["curl's claim says nothing", text, 'application/x-www-form-urlencoded', 'a.txt', 'text/plain'],
    ['a claim that is no type says nothing', text, 'text/html\r\nx: y', 'a.txt', 'text/plain'],
    ['latents are just bytes', text, null, 'ComfyUI_00001_.latent', 'application/octet-stream'],
    ['an empty file is just bytes', Buffer.alloc(0), null, null, 'application/octet-stream'],
  ])('%s', async (_rule, head, claimed, fileName, expected) => {
    expect(await detectContentType(head, { claimed, fileName })).toBe(expected);
  });

  it.each(['image/png', 'image/webp', 'video/mp4', 'audio/flac', 'text/plain', 'application/json'])(
    '%s may be shown in a browser',
    (type) => expect(isSafeToShow(type)).toBe(true),
  );

  it.each([
    'text/html',
    'application/xhtml+xml',
    'image/svg+xml',
    'image/svg',
    'text/xml',
    'application/xml',
    'text/javascript',
    'application/javascript',
    'text/css',
    'multipart/x-mixed-replace',
    'application/octet-stream',
  ])('%s may not', (type) => expect(isSafeToShow(type)).toBe(false));
});

describe('a file name', () => {
  it.each([
    ['cat.png', 'cat.png'],
    ['Größe 猫.png', 'Größe 猫.png'],
    ['../../etc/passwd', 'passwd'],
    ['C:\\Users\\me\\cat.png', 'cat.png'],
    ['a\0b\r\n.png', 'ab.png'],
    ['cat\u202egnp.exe', 'catgnp.exe'],
    ['..', null],
    ['folder/', null],
    ['   ', null],
    ['', null],
  ])('%j becomes %j', (given, expected) => {
    expect(plainFileName(given)).toBe(expected);
  });

  it('keeps its extension when it is cut', () => {
    const name = plainFileName(`${'long'.repeat(100)}.safetensors`);
    expect(name).toHaveLength(200);
    expect(name).toMatch(/g.*\.safetensors$/);
  });

  it('is well-formed Unicode even when it is cut inside a character', () => {
    const name = plainFileName(`a${'😀'.repeat(150)}.png`);
    expect(name?.isWellFormed()).toBe(true);
    expect(plainFileName('\ud800.png')).toBe('\ufffd.png');
  });
});
