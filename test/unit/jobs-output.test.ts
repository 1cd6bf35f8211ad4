import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { storable } from '../../src/jobs/json-value.ts';
import { createNamer, outputKindOf, outputUrl } from '../../src/jobs/output.ts';

describe('the name of an output', () => {
  it('is the name of the file while that is free, and tells the node when it is not', () => {
    const nameFor = createNamer();
    const names = ['9', '12', '12'].map((node) => nameFor('video_00001_.mp4', node));
    expect(names).toEqual(['video_00001_.mp4', '12-video_00001_.mp4', '2-12-video_00001_.mp4']);
  });

  it('is found soon, also where a node has thousands of one name', () => {
    const nameFor = createNamer();
    const names = Array.from({ length: 20_000 }, () => nameFor('2-text.txt', '2'));
    expect(new Set(names).size).toBe(names.length);
    expect(names.at(-1)).toBe('19999-2-2-text.txt');
  });

  it('is unique and one short segment of a path, whatever ComfyUI calls the file', () => {
    const unit = fc.constantFrom('a', '.', '/', '\\', '\0', '%', ' ', 'é', '长', '😀', '\ud800');
    const files = fc.array(fc.string({ unit, maxLength: 300 }), { maxLength: 3 });
    fc.assert(
      fc.property(files, (fileNames) => {
        const nameFor = createNamer();
        const names = [...fileNames, ...fileNames].map((fileName) => nameFor(fileName, fileName));
        expect(new Set(names).size).toBe(names.length);
        for (const name of names) {
          const [, , , , segment = '', ...rest] = new URL(
            outputUrl('id', name),
            'http://host',
          ).pathname.split('/');
          expect([decodeURIComponent(segment), rest]).toEqual([name, []]);
          expect(segment.length).toBeLessThan(300);
        }
      }),
      { numRuns: 50 },
    );
  });

  it('keeps its end when it is too long', () => {
    expect(createNamer()(`${'长'.repeat(300)}_00001_.png`, '1')).toMatch(/^长{3,}_00001_\.png$/);
  });
});

describe('the kind of an output', () => {
  it.each([
    ['a.png', 'image/png', 'image'],
    ['a.mp4', 'video/mp4', 'video'],
    ['a.flac', 'audio/flac', 'audio'],
    ['a.txt', 'text/plain', 'text'],
    ['a.glb', 'application/octet-stream', 'model'],
    ['a.latent', 'application/octet-stream', 'file'],
    ['a', null, 'file'],
  ])('of %s with %s is %s', (name, contentType, kind) => {
    expect(outputKindOf(name, contentType)).toBe(kind);
  });
});

describe('what another program says', () => {
  it('is cured and cut before it is stored', () => {
    const said = { 'a\0': ['x\0y\ud800', 'z'.repeat(50_000)], n: 1, none: null };
    const { n, none, a } = storable<Record<string, unknown>>(said);
    expect({ n, none }).toEqual({ n: 1, none: null });
    expect(a).toEqual(['xy\ufffd', 'z'.repeat(20_000)]);
  });
});
