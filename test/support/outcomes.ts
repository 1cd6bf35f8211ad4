// One service with a double of ComfyUI for each of many cases, so that faults of one do not meet the jobs of another.
import { expect } from 'vitest';
import type { Workflow } from '../../src/jobs/job.ts';
import type { JobView } from '../../src/jobs/presentation.ts';
import {
  startComfyDouble,
  type ComfyDouble,
  type ComfyKnobs,
  type ComfyVersion,
} from '../doubles/comfyui/index.ts';
import { defaultKnobs, newCounters } from '../doubles/comfyui/knobs.ts';
import { eventually } from './eventually.ts';
import { startTestService, type Answer, type TestService } from './service.ts';
import { TESTS_AT_ONCE } from './tests-at-once.ts';

/** A ComfyUI with its knobs turned, and jobs that run on it and nowhere else. */
export interface Play {
  readonly double: ComfyDouble;
  readonly instanceId: string;
  /** Asks for a job; a refusal is an answer too. */
  readonly ask: (workflow: Workflow, request?: Record<string, unknown>) => Promise<Answer<JobView>>;
  /** The id of a job that was accepted. */
  readonly submit: (workflow: Workflow, request?: Record<string, unknown>) => Promise<string>;
  /** Submits it and waits for its final status. */
  readonly run: (workflow: Workflow, request?: Record<string, unknown>) => Promise<JobView>;
  readonly ended: (id: string) => Promise<JobView>;
  /** The job once `done` says so. */
  readonly when: (id: string, done: (job: JobView) => boolean) => Promise<JobView>;
  readonly cancel: (id: string) => Promise<void>;
  /** Uploads bytes; the id of the asset. */
  readonly upload: (bytes: Buffer, name: string) => Promise<string>;
  /** The bytes of an output. */
  readonly read: (output: JobView['outputs'][number] | undefined) => Promise<Buffer>;
}

export interface Case {
  version: ComfyVersion;
  /** Has a double for itself, because of what it does to it; with these knobs from the start. */
  own?: Partial<ComfyKnobs> | true;
}

export interface Stage {
  /** Plays a case on a double that nothing else uses meanwhile, with its counters at zero and its knobs as they are by default. */
  play<T>(at: Case, act: (play: Play) => Promise<T>): Promise<T>;
  stop(): Promise<void>;
}

/** Starts everything, and resolves when every instance is ready and its nodes are known. */
export async function setStage(cases: readonly Case[], env: Record<string, string>): Promise<Stage> {
  const versions = [...new Set(cases.map(({ version }) => version))];
  const shared = versions.flatMap((version) =>
    Array.from({ length: TESTS_AT_ONCE }, (): Case => ({ version })),
  );
  const parts = [...shared, ...cases.filter(({ own }) => own !== undefined)];
  const doubles = await Promise.all(
    parts.map(({ version, own }) =>
      startComfyDouble({ version, ...(own === undefined || own === true ? {} : { knobs: own }) }),
    ),
  );
  const service = await startTestService({ comfyUrls: doubles.map(({ url }) => url), env });
  const { db } = service.service.database;
  const known = () =>
    db
      .selectFrom('instances')
      .select(['id', 'static_url'])
      .where('status', '=', 'ready')
      .where('catalog_id', 'is not', null)
      .execute();
  await eventually(async () => expect(await known()).toHaveLength(parts.length), 45_000);
  const instances = await known();
  const plays = doubles.map((double) => {
    const instance = instances.find(({ static_url: url }) => url === double.url);
    return createPlay(service, double, instance?.id ?? '');
  });
  const free = plays
    .slice(0, shared.length)
    .map((play, index) => ({ play, version: shared[index]?.version }));
  return {
    async play(at, act) {
      const own = plays[parts.indexOf(at)];
      if (own !== undefined) return act(own);
      const taken = free.find(({ version }) => version === at.version);
      if (taken === undefined) throw new Error(`More than ${TESTS_AT_ONCE} cases are played at once.`);
      free.splice(free.indexOf(taken), 1);
      const { knobs, counters } = taken.play.double;
      Object.assign(knobs, defaultKnobs());
      Object.assign(counters, newCounters(), { socketsOpen: counters.socketsOpen });
      try {
        return await act(taken.play);
      } finally {
        free.push(taken);
      }
    },
    async stop() {
      await service.stop();
      await Promise.all(doubles.map((double) => double.stop()));
    },
  };
}

function createPlay(service: TestService, double: ComfyDouble, instanceId: string): Play {
  const play: Play = {
    double,
    instanceId,
    ask: (workflow, request = {}) =>
      service.call<JobView>('/jobs', { method: 'POST', json: { workflow, instanceId, ...request } }),
    async submit(workflow, request) {
      const { status, body } = await play.ask(workflow, request);
      expect({ status, body }).toMatchObject({ status: 201 });
      return body.id;
    },
    run: async (workflow, request) => play.ended(await play.submit(workflow, request)),
    async ended(id) {
      const { body } = await service.call<JobView>(`/jobs/${id}`, { headers: { prefer: 'wait=20' } });
      expect(body.finishedAt).not.toBeNull();
      return body;
    },
    when: (id, done) => service.until<JobView>(`/jobs/${id}`, done),
    async cancel(id) {
      await service.call(`/jobs/${id}/cancel`, { method: 'POST' });
    },
    async upload(bytes, name) {
      const form = new FormData();
      form.set('file', new Blob([new Uint8Array(bytes)]), name);
      return (await service.call<{ id: string }>('/assets', { method: 'POST', body: form })).body.id;
    },
    async read(output) {
      const answer = await fetch(service.url + (output?.url ?? ''));
      return Buffer.from(await answer.arrayBuffer());
    },
  };
  return play;
}
