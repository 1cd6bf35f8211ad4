import { describe, expect, it } from 'vitest';
import { consequenceOf, type Verdict } from '../../src/jobs/attempt.ts';
import { jobStatusesBefore } from '../../src/jobs/job.ts';
import { stopOf, verdictOfStop, type RunState } from '../../src/jobs/run-state.ts';

const running = { status: 'running', attempt: 1, wanted_instance_id: null } as const;
const lost: Verdict = { kind: 'lost', code: 'instance_lost', reason: 'The host went offline.' };

describe('the end of an attempt', () => {
  it('decides the job where the attempt decided something', () => {
    const error = { code: 'node_error', detail: 'Node 2 failed.' } as const;
    expect(consequenceOf(running, { kind: 'succeeded', outputs: [] }, 3).status).toBe('succeeded');
    expect(consequenceOf(running, { kind: 'failed', error }, 3)).toMatchObject({ status: 'failed', error });
  });

  it('sends the job back to the queue when the instance was lost', () => {
    expect(consequenceOf(running, lost, 3)).toMatchObject({ status: 'queued', outcome: 'lost', error: null });
  });

  it('gives the job up after the last attempt, and says why', () => {
    const { status, error } = consequenceOf({ ...running, attempt: 3 }, lost, 3);
    expect(status).toBe('failed');
    expect(error).toMatchObject({ code: 'instance_lost', detail: expect.stringContaining('tried 3 times') });
  });

  it('fails a job that wanted the lost instance and no other', () => {
    const pinned = { ...running, wanted_instance_id: 'x' };
    expect(consequenceOf(pinned, lost, 3)).toMatchObject({
      status: 'failed',
      error: { code: 'instance_lost' },
    });
    expect(consequenceOf(pinned, { ...lost, code: 'prompt_lost' }, 3).status).toBe('queued');
  });

  it('cancels a job that was being canceled, however its attempt ended', () => {
    const canceling = { ...running, status: 'canceling' } as const;
    expect(consequenceOf(canceling, lost, 3)).toMatchObject({ status: 'canceled', outcome: 'lost' });
  });

  it('leads only to statuses that may follow', () => {
    for (const status of ['running', 'canceling'] as const) {
      for (const attempt of [1, 3]) {
        const { status: next } = consequenceOf({ ...running, status, attempt }, lost, 3);
        expect(jobStatusesBefore(next)).toContain(status);
      }
    }
  });
});

describe('a prompt', () => {
  const state: RunState = {
    jobStatus: 'running',
    cancelRequestedAt: null,
    timeLimitMs: 1000,
    waitLimitMs: 5000,
    attemptStatus: 'submitted',
    clientId: 'c',
    submittedAt: new Date(10_000),
    startedAt: null,
  };

  it('may wait in ComfyUI as long as the job may wait', () => {
    expect(stopOf(state, new Date(14_999))).toBeNull();
    expect(stopOf(state, new Date(15_000))?.because).toBe('wait_limit');
  });

  it('may run for its time limit, counted from its start', () => {
    const started = { ...state, startedAt: new Date(14_000) };
    expect(stopOf(started, new Date(14_999))).toBeNull();
    expect(stopOf(started, new Date(16_000))).toEqual({ because: 'time_limit', since: new Date(15_000) });
  });

  it('stops for a cancel before anything else', () => {
    const canceling: RunState = {
      ...state,
      jobStatus: 'canceling',
      startedAt: new Date(0),
      cancelRequestedAt: new Date(12_000),
    };
    expect(stopOf(canceling, new Date(20_000))).toEqual({ because: 'canceled', since: new Date(12_000) });
  });

  it('that did not confirm its stop is reported as such', () => {
    const stop = { because: 'time_limit', since: new Date(0) } as const;
    expect(verdictOfStop(stop, state, false)).toMatchObject({
      error: { code: 'time_limit', detail: expect.stringContaining('not confirmed') },
    });
  });
});
