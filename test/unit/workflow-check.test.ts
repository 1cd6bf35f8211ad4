import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { ServiceError } from '../../src/errors.ts';
import {
  applyInputs,
  checkWorkflow,
  withOutputPrefix,
  withoutOutputPrefix,
} from '../../src/jobs/workflow.ts';
import {
  emptyImage,
  failingRegex,
  failingSave,
  scaledImage,
  slowFrames,
  slowList,
  video,
} from '../support/workflows.ts';

const node = (inputs: Record<string, unknown> = {}) => ({ class_type: 'Anything', inputs });

function refusalOf(workflow: unknown, maxNodes = 1000): ServiceError {
  try {
    checkWorkflow(workflow, maxNodes);
  } catch (error) {
    if (error instanceof ServiceError) return error;
    throw error;
  }
  throw new Error('The workflow was accepted.');
}

describe('a workflow', () => {
  it.each(
    Object.entries({ emptyImage, scaledImage, video, failingSave, failingRegex, slowList, slowFrames }),
  )('that ComfyUI runs is accepted as it is: %s', (_name, workflow) => {
    expect(checkWorkflow(workflow, 1000)).toEqual(workflow);
  });

  it('may have dotted and colon ids, titles, nested values and lists that are no links', () => {
    const workflow = {
      '57:8': {
        ...node({ size: [512, 768], words: ['a', 'b'], nested: { list: [1, 2, 3] } }),
        _meta: { title: 'x' },
      },
      '9': node({ image: ['57:8', 1], 'format.codec': 'h264' }),
    };
    expect(checkWorkflow(workflow, 1000)).toEqual(workflow);
  });

  it('may not be a UI export, and the refusal says how to export the right one', () => {
    const refusal = refusalOf({ nodes: [], links: [], version: 0.4 });
    expect(refusal).toMatchObject({ code: 'workflow_format_ui', field: 'workflow' });
    expect(refusal.message).toContain('Export (API)');
  });

  it.each([
    ['a list', [], 'workflow'],
    ['null', null, 'workflow'],
    ['text', 'x', 'workflow'],
    ['without nodes', {}, 'workflow'],
    ['wrapped in prompt', { prompt: emptyImage }, 'workflow.prompt'],
    ['wrapped in workflow', { workflow: emptyImage, extra: 1 }, 'workflow.workflow'],
    ['with a node that is no object', { '1': [] }, 'workflow.1'],
    ['with an empty id', { '': node() }, 'workflow.'],
    ['with a node without class_type', { '1': { inputs: {} } }, 'workflow.1.class_type'],
    ['with an empty class_type', { '1': { class_type: ' ', inputs: {} } }, 'workflow.1.class_type'],
    [
      'with a node without inputs, which would end ComfyUI',
      { '3': { class_type: 'X' } },
      'workflow.3.inputs',
    ],
    ['with inputs as a list', { '3': { class_type: 'X', inputs: [] } }, 'workflow.3.inputs'],
    ['with a link to a missing node', { '1': node({ a: ['9', 0] }) }, 'workflow.1.inputs.a'],
    ['with a link to an inherited name', { '1': node({ a: ['constructor', 0] }) }, 'workflow.1.inputs.a'],
    ['with a link by number', { '1': node(), '2': node({ a: [1, 0] }) }, 'workflow.2.inputs.a'],
    ['with a link to half an output', { '1': node(), '2': node({ a: ['1', 0.5] }) }, 'workflow.2.inputs.a'],
    ['with a link to output -1', { '1': node(), '2': node({ a: ['1', -1] }) }, 'workflow.2.inputs.a'],
    ['with a node linked to itself', { '1': node({ a: ['1', 0] }) }, 'workflow.1'],
    ['with a NUL, which the database refuses', { '1': node({ a: 'x\0' }) }, 'workflow.1.inputs.a'],
    ['with half a character', { '1': node({ a: '\ud800' }) }, 'workflow.1.inputs.a'],
    ['with a seed that JavaScript has changed', { '1': node({ seed: 2 ** 63 }) }, 'workflow.1.inputs.seed'],
  ])('may not be %s', (_name, workflow, field) => {
    expect(refusalOf(workflow)).toMatchObject({ code: 'invalid_workflow', field });
  });

  it('may not have more nodes than allowed', () => {
    const workflow = { '1': node(), '2': node(), '3': node() };
    expect(checkWorkflow(workflow, 3)).toEqual(workflow);
    expect(refusalOf(workflow, 2)).toMatchObject({ code: 'invalid_workflow', field: 'workflow' });
  });

  it('may not be nested without end', () => {
    let value: unknown = 1;
    for (let depth = 0; depth < 10_000; depth += 1) value = { value };
    expect(refusalOf({ '1': node({ value }) }).message).toContain('nested');
  });

  it('may not have a cycle, and the refusal names its nodes and no others', () => {
    const workflow = {
      before: node(),
      a: node({ in: ['c', 0], and: ['before', 0] }),
      b: node({ in: ['a', 0] }),
      c: node({ in: ['b', 0] }),
      behind: node({ in: ['c', 0] }),
    };
    const names = /Nodes (.*) are linked/.exec(refusalOf(workflow).message)?.[1]?.split(', ').toSorted();
    expect(names).toEqual(['a', 'b', 'c']);
  });

  it('is checked in time even when it is long', () => {
    const long = Object.fromEntries(
      Array.from({ length: 5000 }, (_, index) => [
        String(index),
        node(index === 0 ? {} : { in: [String(index - 1), 0], hub: ['0', 0] }),
      ]),
    );
    expect(Object.keys(checkWorkflow(long, 100_000))).toHaveLength(5000);
  });

  it('is accepted or refused with a reason, whatever it is', () => {
    fc.assert(
      fc.property(fc.jsonValue(), (value) => {
        try {
          checkWorkflow(value, 5);
        } catch (error) {
          expect(error).toBeInstanceOf(ServiceError);
        }
      }),
    );
  });
});

describe('the inputs of a workflow', () => {
  it('are put into a copy', () => {
    const applied = applyInputs(emptyImage, [
      { node: '1', input: 'color', value: 7 },
      { node: '1', input: 'extra', value: null },
    ]);
    expect(applied['1']?.inputs).toEqual({ width: 64, height: 48, batch_size: 1, color: 7, extra: null });
    expect(emptyImage['1']?.inputs).toMatchObject({ color: 3_368_652 });
  });

  it('are put into it in time, however many a node has already', () => {
    const given = Array.from({ length: 10_000 }, (_, n) => [`n${n}`, 0] as const);
    const large = { '1': { class_type: 'Large', inputs: Object.fromEntries(given) } };
    const begun = performance.now();
    const applied = applyInputs(
      large,
      given.map(([input]) => ({ node: '1', input, value: 1 })),
    );
    expect(performance.now() - begun).toBeLessThan(1000);
    expect(new Set(Object.values(applied['1']?.inputs ?? {}))).toEqual(new Set([1]));
  });
});

describe('the names of outputs', () => {
  const attempt = '0192f0a4-6f2e-7c1d-9a53-1f0d3b6c8e21';
  const other = '0192f0a4-6f2e-7c1d-9a53-1f0d3b6c8e22';

  it('carry the mark of the attempt at their end, so that a path keeps its meaning', () => {
    expect(withOutputPrefix(failingSave, attempt)['2']?.inputs['filename_prefix']).toBe(
      '../outside/e2e-3b6c8e21',
    );
    expect(withOutputPrefix(emptyImage, attempt)['1']).toEqual(emptyImage['1']);
  });

  it('differ between two attempts of the same moment', () => {
    expect(withOutputPrefix(emptyImage, attempt)).not.toEqual(withOutputPrefix(emptyImage, other));
  });

  it('are left alone where they come from another node', () => {
    const workflow = { '1': node({ text: 'a' }), '2': node({ filename_prefix: ['1', 0] }) };
    expect(withOutputPrefix(workflow, attempt)).toEqual(workflow);
  });

  it('are shown without the mark, and only without their own', () => {
    expect(withoutOutputPrefix('empty-3b6c8e21_00001_.png', attempt)).toBe('empty_00001_.png');
    expect(withoutOutputPrefix('empty-3b6c8e21_00001_.png', other)).toBe('empty-3b6c8e21_00001_.png');
  });
});
