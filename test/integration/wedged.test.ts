// What becomes of instances whose ComfyUI is wedged, is started again, or still has results: run and instance together.
import { describe, expect, type TestContext } from 'vitest';
import { startComfyDouble, type ComfyDouble } from '../doubles/comfyui/index.ts';
import type { VastDouble } from '../doubles/vast/index.ts';
import type { JobView } from '../../src/jobs/presentation.ts';
import { fresh } from '../support/jobs.ts';
import { it, type Instance, type StartRenting } from '../support/renting.ts';
import { startTestService, type TestService } from '../support/service.ts';
import { emptyImage, slowFrames, slowList } from '../support/workflows.ts';

const env = { STALL_TIMEOUT_SECONDS: '0.4', STOP_TIMEOUT_SECONDS: '0.5', INSTANCE_CHECK_SECONDS: '0.4' };

async function submit(service: TestService, workflow: object, request: object = {}): Promise<string> {
  const json = { workflow, ...request };
  return (await service.call<JobView>('/jobs', { method: 'POST', json })).body.id;
}
const jobWhen = (service: TestService, id: string, done: (job: JobView) => boolean) =>
  service.until<JobView>(`/jobs/${id}`, done);
const ended = (service: TestService, id: string) =>
  jobWhen(service, id, ({ status }) => ['succeeded', 'failed', 'canceled'].includes(status));
const executing = (job: JobView) => job.attempts.at(-1)?.startedAt != null;

describe.concurrent('ComfyUI servers of the settings', () => {
  /** Two servers, ready, and their instances in the same order. */
  async function startTwo(atEnd: TestContext['onTestFinished']) {
    const doubles = [await startComfyDouble(), await startComfyDouble()];
    for (const double of doubles) atEnd(() => double.stop());
    const service = await startTestService({ comfyUrls: doubles.map(({ url }) => url), env });
    atEnd(() => service.stop());
    await service.until<{ items: Instance[] }>('/instances?status=ready', ({ items }) => items.length === 2);
    const rows = await service.service.database.db
      .selectFrom('instances')
      .select(['id', 'static_url'])
      .execute();
    const ids = doubles.map(({ url }) => rows.find(({ static_url: each }) => each === url)?.id ?? '');
    return { service, doubles, ids };
  }

  it('that are wedged get no more jobs, which go on elsewhere, until they work again', async ({
    onTestFinished,
  }) => {
    const { service, doubles, ids } = await startTwo(onTestFinished);
    const [wedged, sound] = doubles;
    if (wedged === undefined || sound === undefined) throw new Error('There are two.');
    wedged.knobs.wedged = true;
    const jobs = await Promise.all([1, 2, 3, 4].map(() => submit(service, fresh(emptyImage))));
    for (const id of jobs)
      expect(await ended(service, id)).toMatchObject({ status: 'succeeded', instanceId: ids[1] });
    const lost = (await Promise.all(jobs.map((id) => ended(service, id)))).filter(
      ({ attempt }) => attempt > 1,
    );
    expect(lost.length).toBeGreaterThan(0);
    for (const { attempts } of lost) {
      expect(attempts[0]).toMatchObject({
        instanceId: ids[0],
        outcome: 'lost',
        reason: expect.stringContaining('run nothing'),
      });
    }
    await service.until<Instance>(
      `/instances/${ids[0]}`,
      ({ message }) => message === 'ComfyUI does not work off its queue.',
    );
    const given = wedged.counters.promptsAccepted;
    const later = await submit(service, fresh(emptyImage), { instanceId: ids[0] });
    await jobWhen(
      service,
      later,
      ({ waitingFor }) => waitingFor === 'The instance that fits does not answer at the moment.',
    );
    expect(wedged.counters.promptsAccepted).toBe(given);

    wedged.knobs.wedged = false;
    expect(await ended(service, later)).toMatchObject({
      status: 'succeeded',
      attempt: 1,
      instanceId: ids[0],
    });
  });

  it('that are started again lose the prompt and not the job, which runs there once more', async ({
    onTestFinished,
  }) => {
    const { service, doubles, ids } = await startTwo(onTestFinished);
    const [first] = doubles;
    if (first === undefined) throw new Error('There are two.');
    first.knobs.frameMs = 20;
    const id = await submit(service, fresh(slowFrames), { instanceId: ids[0] });
    await jobWhen(service, id, executing);
    await first.exit();
    await service.until<Instance>(
      `/instances/${ids[0]}`,
      ({ message }) => message === 'Nothing listens on its port yet.',
    );
    first.knobs.frameMs = 0;
    await first.restart();
    expect(await ended(service, id)).toMatchObject({
      status: 'succeeded',
      attempts: [
        { instanceId: ids[0], outcome: 'lost', reason: expect.stringContaining('no longer knows') },
        { instanceId: ids[0], outcome: 'succeeded' },
      ],
    });
  });

  it('that do not stop a canceled job get no others before they are rid of it', async ({
    onTestFinished,
  }) => {
    const { service, doubles, ids } = await startTwo(onTestFinished);
    const [first] = doubles;
    if (first === undefined) throw new Error('There are two.');
    first.knobs.itemMs = 50;
    first.knobs.loseInterrupts = 1_000_000;
    const id = await submit(service, fresh(slowList), { instanceId: ids[0] });
    await jobWhen(service, id, executing);
    await service.call(`/jobs/${id}/cancel`, { method: 'POST' });
    expect(await ended(service, id)).toMatchObject({
      status: 'canceled',
      attempts: [{ reason: expect.stringContaining('not confirmed') }],
    });
    const later = await submit(service, fresh(emptyImage), { instanceId: ids[0] });
    await jobWhen(
      service,
      later,
      ({ waitingFor }) => waitingFor === 'The instance that fits does not answer at the moment.',
    );
    await first.restart();
    expect(await ended(service, later)).toMatchObject({ status: 'succeeded', attempt: 1 });
  });
});

describe.concurrent('a rented instance', () => {
  async function rentOne(start: StartRenting, more: Record<string, string> = {}) {
    const renting = await start({ env: { ...env, ...more } });
    const { id } = await renting.readyInstance();
    return { ...renting, id };
  }
  const comfyOf = (vast: VastDouble): ComfyDouble => {
    const [rental] = vast.liveRentals();
    const double = rental === undefined ? undefined : vast.comfyOf(rental.id);
    if (double === undefined) throw new Error('Nothing is rented.');
    return double;
  };

  it('that is wedged is destroyed and replaced, and its job runs on the other', async ({ start }) => {
    const { service, vast, instanceWhen, id } = await rentOne(start);
    comfyOf(vast).knobs.wedged = true;
    const job = await ended(service, await submit(service, fresh(emptyImage)));
    expect(job).toMatchObject({
      status: 'succeeded',
      attempts: [{ instanceId: id, outcome: 'lost' }, { outcome: 'succeeded' }],
    });
    expect(job.instanceId).not.toBe(id);
    expect(await instanceWhen(id, 'terminated')).toMatchObject({ terminationReason: 'wedged' });
  });

  describe('that is out of reach together with the provider', () => {
    const limitMs = 1000;

    /** One of two jobs runs there, and the other is next, when the network goes. */
    async function startOutage(start: StartRenting, request = {}) {
      const { service, vast, instanceWhen, id } = await rentOne(start, {
        UNREACHABLE_TIMEOUT_SECONDS: String(limitMs / 1000),
      });
      const double = comfyOf(vast);
      double.knobs.frameMs = 40;
      const first = await submit(service, fresh(slowFrames), { instanceId: id, ...request });
      await jobWhen(service, first, executing);
      const second = await submit(service, fresh(emptyImage), { instanceId: id });
      await jobWhen(service, second, (job) => job.attempts.at(-1)?.submittedAt != null);
      for (const call of ['show', 'list'] as const)
        vast.knobs.faultChances[call] = [{ fault: 'reset', chance: 1 }];
      const routes = ['GET /system_stats', 'GET /queue', 'GET /history/{id}', 'POST /api/jobs/{id}/cancel'];
      double.knobs.requestFaults = routes.map((route) => ({ route, how: 'drop-before' }));
      await instanceWhen(id, ({ message }) => message?.includes('cannot be asked either') === true);
      return {
        service,
        id,
        first,
        second,
        executionsOf: double.counters.executionsOf,
        /** Returns the job when it is with another attempt or none, or after three times the limit. */
        muchLater: (jobId: string) => {
          const begun = performance.now();
          const isLate = () => performance.now() - begun > 3 * limitMs;
          const isMoved = ({ status, attempt }: JobView) => status !== 'running' || attempt > 1;
          return jobWhen(service, jobId, (job) => isMoved(job) || isLate());
        },
        end: () => {
          double.knobs.frameMs = 0;
          vast.knobs.faultChances = {};
          double.knobs.requestFaults = [];
        },
      };
    }

    it('keeps its jobs, which end there when both are back', async ({ start }) => {
      const { service, id, first, second, executionsOf, muchLater, end } = await startOutage(start);
      for (const job of await Promise.all([first, second].map(muchLater)))
        expect(job).toMatchObject({ status: 'running', attempt: 1 });
      end();
      for (const job of [first, second])
        expect(await ended(service, job)).toMatchObject({
          status: 'succeeded',
          attempts: [{ instanceId: id, outcome: 'succeeded' }],
        });
      expect(Object.values(executionsOf)).toEqual([1, 1]);
    });

    it('lets its jobs be canceled, and ends them at their limits', async ({ start }) => {
      const { service, id, first, second, muchLater } = await startOutage(start, { timeLimitSeconds: 6 });
      await muchLater(second);
      await service.call(`/jobs/${second}/cancel`, { method: 'POST' });
      expect(await ended(service, second)).toMatchObject({ status: 'canceled', attempt: 1 });
      expect(await ended(service, first)).toMatchObject({
        status: 'failed',
        attempt: 1,
        error: { code: 'time_limit', detail: expect.stringContaining('not confirmed') },
      });
      expect((await service.call<Instance>(`/instances/${id}`)).body.status).toBe('ready');
    });
  });

  it('is not destroyed in good order before the results on it are fetched', async ({ start }) => {
    const { service, vast, instanceWhen, id } = await rentOne(start);
    const double = comfyOf(vast);
    double.knobs.nodes['SaveLarge'] = { durationMs: 0, outputCount: 1, outputBytes: 1_000_000 };
    // Fetching lasts until the instance is seen to drain, and for a second more.
    double.knobs.downloadBytesPerSecond = 200_000;
    const job = await submit(service, { '1': { class_type: 'SaveLarge', inputs: {} } });
    await jobWhen(service, job, ({ attempts }) => attempts.at(-1)?.status === 'collecting');
    await service.call(`/instances/${id}?drain=true`, { method: 'DELETE' });
    expect(await instanceWhen(id, ({ status }) => status !== 'ready')).toMatchObject({ status: 'draining' });
    double.knobs.downloadBytesPerSecond = 700_000;
    expect(await ended(service, job)).toMatchObject({ status: 'succeeded', attempt: 1 });
    await instanceWhen(id, 'terminated');
  });
});
