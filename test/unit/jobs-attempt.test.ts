import { describe, expect, it } from 'vitest';
import { failureOf } from '../../src/jobs/failure.ts';
import { jobStatusesBefore } from '../../src/jobs/job.ts';
import { nextVramGb } from '../../src/jobs/memory.ts';
import type { RunState } from '../../src/jobs/run-state.ts';
import { stopOf, verdictOfStop } from '../../src/jobs/stop.ts';
import { consequenceOf, type PastAttempts, type Verdict } from '../../src/jobs/verdict.ts';

const running = { status: 'running', wanted_instance_id: null } as const;
const canceling = { ...running, status: 'canceling' } as const;
const lost: Verdict = { kind: 'lost', code: 'instance_lost', reason: 'The host went offline.' };
const full: Verdict = {
  kind: 'again',
  error: { code: 'out_of_memory', detail: 'Node 1 ran out of memory.', requirements: { minVramGb: 32 } },
};
const none: PastAttempts = { lost: 0, retriedFor: [] };

describe('the end of an attempt', () => {
  it('decides the job where the attempt decided something', () => {
    const error = { code: 'node_error', detail: 'Node 2 failed.' } as const;
    expect(consequenceOf(running, { kind: 'succeeded', outputs: [] }, none, 3).status).toBe('succeeded');
    expect(consequenceOf(running, { kind: 'failed', error }, none, 3)).toMatchObject({
      status: 'failed',
      error,
      retriedFor: null,
    });
  });

  it('sends the job back to the queue when the instance was lost', () => {
    expect(consequenceOf(running, lost, none, 3)).toMatchObject({
      status: 'queued',
      outcome: 'lost',
      error: null,
      retriedFor: null,
    });
  });

  it('gives the job up after the last loss, and says why', () => {
    const { status, error } = consequenceOf(running, lost, { ...none, lost: 2 }, 3);
    expect(status).toBe('failed');
    expect(error).toMatchObject({ code: 'instance_lost', detail: expect.stringContaining('lost 3 times') });
  });

  it('fails a job that wanted the lost instance and no other', () => {
    const pinned = { ...running, wanted_instance_id: 'x' };
    expect(consequenceOf(pinned, lost, none, 3)).toMatchObject({
      status: 'failed',
      error: { code: 'instance_lost' },
    });
    expect(consequenceOf(pinned, { ...lost, code: 'prompt_lost' }, none, 3).status).toBe('queued');
  });

  it('cancels a job that was being canceled, however its attempt ended', () => {
    expect(consequenceOf(canceling, lost, none, 3)).toMatchObject({ status: 'canceled', outcome: 'lost' });
    expect(consequenceOf(canceling, full, none, 3)).toMatchObject({ status: 'canceled', outcome: 'failed' });
  });

  it('by a lack of memory is repeated once, also after losses, and counts as none', () => {
    expect(consequenceOf(running, full, { ...none, lost: 2 }, 3)).toMatchObject({
      status: 'queued',
      outcome: 'failed',
      error: null,
      reason: 'Node 1 ran out of memory.',
      retriedFor: 'out_of_memory',
    });
    const second = consequenceOf(running, full, { lost: 0, retriedFor: ['out_of_memory'] }, 3);
    expect(second).toMatchObject({
      status: 'failed',
      error: { code: 'out_of_memory', requirements: { minVramGb: 32 } },
      retriedFor: null,
    });
    expect(second.error?.detail).toContain('tried twice');
    expect(consequenceOf(running, full, { lost: 0, retriedFor: ['output_unavailable'] }, 3).status).toBe(
      'queued',
    );
  });

  it('leads only to statuses that may follow', () => {
    for (const status of ['running', 'canceling'] as const) {
      for (const verdict of [lost, full]) {
        for (const past of [none, { lost: 2, retriedFor: ['out_of_memory'] } as const]) {
          const { status: next } = consequenceOf({ ...running, status }, verdict, past, 3);
          expect(jobStatusesBefore(next)).toContain(status);
        }
      }
    }
  });
});

describe('a prompt', () => {
  const state: RunState = {
    jobStatus: 'running',
    timeLimitMs: 1000,
    waitLimitMs: 5000,
    attemptStatus: 'submitted',
    clientId: 'c',
    createdAt: new Date(9800),
    submittedAt: new Date(10_000),
    startedAt: null,
    touchedAt: new Date(9800),
  };

  it('may wait in ComfyUI as long as the job may wait', () => {
    expect(stopOf(state, new Date(14_999))).toBeNull();
    expect(stopOf(state, new Date(15_000))).toBe('wait_limit');
  });

  it('may take its time limit to be staged and to run, without the wait in between', () => {
    const staging = { ...state, clientId: null, submittedAt: null };
    expect(stopOf(staging, new Date(10_799))).toBeNull();
    expect(stopOf(staging, new Date(10_800))).toBe('time_limit');
    const started = { ...state, startedAt: new Date(14_000) };
    expect(stopOf(started, new Date(14_799))).toBeNull();
    expect(stopOf(started, new Date(14_800))).toBe('time_limit');
  });

  it('that is done may be collected however long that takes, unless it is canceled', () => {
    const collecting: RunState = { ...state, attemptStatus: 'collecting', startedAt: new Date(14_000) };
    expect(stopOf(collecting, new Date(99_000))).toBeNull();
    expect(stopOf({ ...collecting, jobStatus: 'canceling' }, new Date(99_000))).toBe('canceled');
  });

  it('stops for a cancel before anything else', () => {
    const toBeCanceled: RunState = { ...state, jobStatus: 'canceling', startedAt: new Date(0) };
    expect(stopOf(toBeCanceled, new Date(20_000))).toBe('canceled');
  });

  it('that did not confirm its stop is reported as such', () => {
    expect(verdictOfStop('time_limit', state, false)).toMatchObject({
      error: { code: 'time_limit', detail: expect.stringContaining('not confirmed') },
    });
  });
});

describe('a failed prompt', () => {
  const error = {
    nodeId: '5',
    nodeType: 'KSampler',
    exceptionType: 'torch.OutOfMemoryError',
    message: 'Allocation on device',
    outOfMemory: 'gpu',
  } as const;

  it('that lacked memory of the GPU names the next size of it', () => {
    expect(failureOf({ error }, 23.6)).toEqual({
      kind: 'again',
      error: {
        code: 'out_of_memory',
        detail:
          'Node 5 (KSampler) ran out of the memory of the GPU, which has 24 GB. Ask for requirements.minVramGb 32, or make the work smaller. Allocation on device',
        nodeId: '5',
        nodeType: 'KSampler',
        exceptionType: 'torch.OutOfMemoryError',
        requirements: { minVramGb: 32 },
      },
    });
  });

  it.each([
    [11.9, 16],
    [15.7, 24],
    [22.5, 32],
    [31.8, 48],
    [47.5, 80],
    [79.6, 96],
    [95.6, 141],
    [140.7, null],
  ])('of a GPU that shows %d GB is advised to ask for %s', (shown, next) => {
    expect(nextVramGb(shown)).toBe(next);
  });

  it('that lacked main memory, or whose GPU is unknown or the largest, gets no number', () => {
    for (const verdict of [
      failureOf({ error: { ...error, outOfMemory: 'host' } }, 24),
      failureOf({ error }, null),
      failureOf({ error }, 141),
    ]) {
      expect(verdict).toMatchObject({ kind: 'again', error: { code: 'out_of_memory' } });
      expect(verdict).not.toHaveProperty('error.requirements');
    }
  });

  it('of any other kind would fail again', () => {
    expect(failureOf({ error: { ...error, outOfMemory: null } }, 24)).toMatchObject({
      kind: 'failed',
      error: { code: 'node_error', detail: 'Node 5 (KSampler) failed: Allocation on device' },
    });
    expect(failureOf({ error: null }, 24)).toMatchObject({ kind: 'failed', error: { code: 'node_error' } });
  });
});
