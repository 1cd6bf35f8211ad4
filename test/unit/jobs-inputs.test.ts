import { describe, expect, it } from 'vitest';
import { ServiceError } from '../../src/errors.ts';
import { checkAssets, checkInputs, checkUrls, type RequestedInput } from '../../src/jobs/inputs.ts';
import { scaledImage } from '../support/workflows.ts';

const image = { node: '1', input: 'image' };
const assetId = 'ab'.repeat(32);

function refusalOf(...inputs: RequestedInput[]): ServiceError {
  try {
    checkInputs(scaledImage, inputs);
  } catch (error) {
    if (error instanceof ServiceError) return error;
    throw error;
  }
  throw new Error('The inputs were accepted.');
}

describe('an input', () => {
  it.each([
    ['a value', { ...image, value: 'x.png' }],
    ['null as a value', { ...image, value: null }],
    ['an asset', { ...image, assetId }],
    ['a URL', { ...image, url: 'https://example.com/a.png' }],
  ])('may be %s', (_name, input) => {
    expect(checkInputs(scaledImage, [input])).toEqual([input]);
  });

  it.each([
    ['no source', image, 'inputs[0]'],
    ['two sources', { ...image, value: 1, assetId }, 'inputs[0]'],
    ['a node that does not exist', { ...image, node: '9', value: 1 }, 'inputs[0].node'],
    ['a node by an inherited name', { ...image, node: 'toString', value: 1 }, 'inputs[0].node'],
    ['a file that did not come with it', { ...image, file: 'photo' }, 'inputs[0].file'],
    ['a value that cannot be stored', { ...image, value: { a: ['\0'] } }, 'inputs[0].value.a.0'],
  ])('may not have %s', (_name, input, field) => {
    expect(refusalOf(input)).toMatchObject({ code: 'invalid_input', field });
  });

  it('may not be given twice', () => {
    expect(refusalOf({ ...image, value: 1 }, { ...image, value: 2 })).toMatchObject({ field: 'inputs[1]' });
  });

  it('may not come from a private address, unless the settings allow it', () => {
    const inputs = [
      { ...image, url: 'https://example.com/a.png' },
      { node: '4', input: 'x', url: 'http://127.0.0.1:9000/a.png' },
    ];
    expect(() => checkUrls(inputs, [])).toThrow(
      expect.objectContaining({ code: 'invalid_input', field: 'inputs[1].url' }),
    );
    checkUrls(inputs, ['127.0.0.1:9000']);
  });

  it('may not name a file that is not stored', async () => {
    const inputs = [
      { ...image, value: 1 },
      { node: '4', input: 'x', assetId },
    ];
    await expect(checkAssets({ use: async () => null }, inputs)).rejects.toMatchObject({
      code: 'invalid_input',
      field: 'inputs[1].assetId',
    });
  });
});
