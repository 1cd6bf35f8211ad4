// Webhooks: every end of a job is announced, as part of the end itself; what is announced arrives, whatever receivers do.
import { randomUUID } from 'node:crypto';
import type { ServerResponse } from 'node:http';
import { sql } from 'kysely';
import type { z } from 'zod';
import { afterAll, afterEach, beforeAll, describe, expect, it, onTestFinished } from 'vitest';
import { loadConfig } from '../../src/config.ts';
import type { Database } from '../../src/database/database.ts';
import { endAttempt } from '../../src/jobs/attempt.ts';
import { endJobs } from '../../src/jobs/ending.ts';
import { closeSlots } from '../../src/jobs/placement.ts';
import { presentJob, type JobView } from '../../src/jobs/presentation.ts';
import { findJob } from '../../src/jobs/records.ts';
import { sweepRetention } from '../../src/jobs/retention.ts';
import { sweepJobs } from '../../src/jobs/sweep.ts';
import type { Clock } from '../../src/support/clock.ts';
import { deliver, deliverNow, type DeliveryDeps } from '../../src/webhooks/deliver.ts';
import type { deliverySchema } from '../../src/webhooks/schemas.ts';
import { createDeliveries, type Deliveries } from '../../src/webhooks/service.ts';
import { createSilentHosts } from '../../src/webhooks/silent-hosts.ts';
import { sweepDeliveries } from '../../src/webhooks/sweep.ts';
import { startComfyDouble, type ComfyDouble } from '../doubles/comfyui/index.ts';
import { startChild } from '../support/child.ts';
import { createTestDatabase } from '../support/database.ts';
import { createJobBench, fresh, type JobBench } from '../support/jobs.ts';
import { startTestService, type TestService } from '../support/service.ts';
import { startWebhookReceiver, webhookSecret, type WebhookReceiver } from '../support/webhook-receiver.ts';
import { emptyImage, failingSave, slowFrames } from '../support/workflows.ts';

const settings = {
  WEBHOOK_SECRET: webhookSecret,
  WEBHOOK_ALLOWED_HOSTS: '127.0.0.1',
  WEBHOOK_RETRY_SECONDS: '0.05,0.05',
  WEBHOOK_TIMEOUT_SECONDS: '1',
};
const deliverChild = new URL('../support/deliver-child.ts', import.meta.url);
const forever = new AbortController().signal;

let bench: JobBench;
let deps: DeliveryDeps;
let log: Deliveries;

beforeAll(async () => {
  bench = await createJobBench(settings);
  deps = {
    ...bench.deps,
    showJob: async (id) => presentJob(await bench.jobs.get(id), new Date()),
    countTry: () => undefined,
  };
  log = createDeliveries(bench.deps);
});
afterAll(() => bench.stop());

const receivers: WebhookReceiver[] = [];
afterEach(async () => {
  for (const receiver of receivers.splice(0)) await receiver.close();
});

async function receive(...args: Parameters<typeof startWebhookReceiver>): Promise<WebhookReceiver> {
  const receiver = await startWebhookReceiver(...args);
  receivers.push(receiver);
  return receiver;
}

const deliveriesOf = async (jobId: string) =>
  (await log.list({ jobId, status: [], limit: 10, cursor: undefined })).items;

async function deliveryOf(jobId: string) {
  const [delivery, ...more] = await deliveriesOf(jobId);
  if (delivery === undefined || more.length > 0) throw new Error('The job has no delivery, or several.');
  return delivery;
}

/** A job that was announced to be canceled, with nothing delivered yet. */
async function canceledJob(webhookUrl: string): Promise<string> {
  const id = await bench.submit(fresh(emptyImage), { webhookUrl });
  await bench.jobs.cancel(id);
  return id;
}

/** Makes the try that is due, as its message would. */
async function tryNow(jobId: string, signal = forever): Promise<void> {
  const { wake, id } = await bench.database.db
    .selectFrom('webhook_deliveries')
    .select(['id', 'wake'])
    .where('job_id', '=', jobId)
    .executeTakeFirstOrThrow();
  await deliver(deps, { deliveryId: id, wake, lane: '' }, { signal });
}

describe('the end of a job', () => {
  const webhookUrl = 'http://127.0.0.1:9/hook';
  const placed = async (workflow = fresh(emptyImage)) => {
    const instanceId = await bench.addInstance();
    const jobId = await bench.submit(workflow, { webhookUrl, instanceId });
    await bench.dispatch();
    return { jobId, instanceId, attempt: await bench.attemptOf(jobId) };
  };
  const close = (instanceId: string, maxAttempts: number) =>
    bench.database.db
      .transaction()
      .execute((trx) => closeSlots(trx, bench.database.queues, instanceId, 'It was lost.', maxAttempts));

  it.each<[string, string, () => Promise<string>]>([
    [
      'succeeds',
      'job.succeeded',
      async () => {
        const { jobId } = await placed();
        await bench.run(jobId);
        return jobId;
      },
    ],
    [
      'fails',
      'job.failed',
      async () => {
        const { jobId } = await placed(failingSave);
        await bench.run(jobId);
        return jobId;
      },
    ],
    ['is canceled while it waits', 'job.canceled', async () => canceledJob(webhookUrl)],
    [
      'is canceled while it runs',
      'job.canceled',
      async () => {
        const { jobId } = await placed(fresh(slowFrames));
        const running = bench.run(jobId);
        await bench.jobWhen(jobId, (job) => job.attempts.at(-1)?.startedAt != null);
        await bench.jobs.cancel(jobId);
        expect(await deliveriesOf(jobId)).toEqual([]);
        await running;
        return jobId;
      },
    ],
    [
      'waits too long',
      'job.expired',
      async () => {
        const jobId = await bench.submit(fresh(emptyImage), { webhookUrl, waitLimitSeconds: 0.001 });
        await sweepJobs(bench.deps);
        return jobId;
      },
    ],
    [
      'wants an instance that ends',
      'job.failed',
      async () => {
        const instanceId = await bench.addInstance();
        const jobId = await bench.submit(fresh(emptyImage), { webhookUrl, instanceId });
        await close(instanceId, 1);
        await bench.database.db
          .updateTable('instances')
          .set({ status: 'terminating' })
          .where('id', '=', instanceId)
          .execute();
        await sweepJobs(bench.deps);
        return jobId;
      },
    ],
    [
      'loses its instance for good',
      'job.failed',
      async () => {
        const { jobId, instanceId } = await placed();
        await close(instanceId, 1);
        return jobId;
      },
    ],
  ])('is announced when it %s', async (_name, type, end) => {
    const jobId = await end();
    expect(await deliveryOf(jobId)).toMatchObject({
      type,
      url: webhookUrl,
      status: 'pending',
      tries: 0,
    });
    expect(`job.${(await bench.job(jobId)).status}`).toBe(type);
  });

  it('is not announced where nobody asked for it, nor before it has come', async () => {
    const silent = await bench.submit(fresh(emptyImage));
    await bench.jobs.cancel(silent);
    expect(await deliveriesOf(silent)).toEqual([]);

    const instanceId = await bench.addInstance({ gpuName: 'Lonely' });
    const jobId = await bench.submit(fresh(emptyImage), {
      webhookUrl,
      requirements: { gpuNames: ['Lonely'] },
    });
    await bench.dispatch();
    await close(instanceId, 3);
    expect((await bench.job(jobId)).status).toBe('queued');
    expect(await deliveriesOf(jobId)).toEqual([]);
    await bench.jobs.cancel(jobId);
  });

  it('is announced once, however often it is written', async () => {
    const { jobId, attempt } = await placed();
    const endings = [1, 2, 3].map(() =>
      bench.database.db
        .transaction()
        .execute((trx) =>
          endAttempt(
            trx,
            bench.database.queues,
            attempt,
            { kind: 'failed', error: { code: 'node_error', detail: 'No.' } },
            { maxAttempts: 3, now: new Date() },
          ),
        ),
    );
    expect((await Promise.all(endings)).filter(Boolean)).toHaveLength(1);
    await bench.jobs.cancel(jobId);
    await deliveryOf(jobId);
  });

  it('and its announcement are written together or not at all', async () => {
    const jobId = await bench.submit(fresh(emptyImage), { webhookUrl });
    const end = { status: 'canceled' as const, error: null, instanceId: null, now: new Date() };
    const cutOff = bench.database.db.transaction().execute(async (trx) => {
      expect(await endJobs(trx, bench.database.queues, [jobId], end)).toEqual([jobId]);
      throw new Error('cut off');
    });
    await expect(cutOff).rejects.toThrow('cut off');
    expect((await bench.job(jobId)).status).toBe('queued');
    expect(await deliveriesOf(jobId)).toEqual([]);
    await bench.jobs.cancel(jobId);
  });
});

describe('a delivery', () => {
  it('tells the whole job, signed', async () => {
    const receiver = await receive();
    const jobId = await canceledJob(`${receiver.url}/hook?a=1`);
    await tryNow(jobId);
    const delivery = await deliveryOf(jobId);
    expect(delivery).toMatchObject({ status: 'delivered', tries: 1, next_try_at: null });
    const job = await bench.job(jobId);
    expect(receiver.received).toEqual([
      {
        path: '/hook?a=1',
        id: delivery.id,
        body: expect.any(String),
        event: { type: 'job.canceled', timestamp: job.finishedAt, data: job },
      },
    ]);
  });

  it('is tried again with the same id and the same body, and keeps what came of each try', async () => {
    const receiver = await receive((response, _path, before) => {
      response.writeHead(before === 0 ? 500 : 204).end(before === 0 ? 'not \0 yet' : '');
    });
    const jobId = await canceledJob(receiver.url);
    await tryNow(jobId);
    expect(await deliveryOf(jobId)).toMatchObject({ status: 'pending', tries: 1 });
    await bench.database.db
      .updateTable('jobs')
      .set({ metadata: '{"changed":"since"}' })
      .where('id', '=', jobId)
      .execute();
    await tryNow(jobId);
    const [first, second] = receiver.received;
    expect(second).toEqual(first);
    const { delivery, tries } = await log.get((await deliveryOf(jobId)).id);
    expect(delivery).toMatchObject({ status: 'delivered', body: first?.body });
    expect(tries).toMatchObject([
      { number: 1, status_code: 500, error: null, answer: 'not  yet', ended_at: expect.any(Date) },
      { number: 2, status_code: 204, error: null, answer: '' },
    ]);
  });

  it('is given up after the last wait, and begins anew when it is replayed', async () => {
    let isWell = false;
    const receiver = await receive((response) => void response.writeHead(isWell ? 200 : 503).end());
    const jobId = await canceledJob(receiver.url);
    for (let n = 0; n < 3; n += 1) await tryNow(jobId);
    const delivery = await deliveryOf(jobId);
    expect(delivery).toMatchObject({ status: 'failed', tries: 3, next_try_at: null });
    expect(delivery.ended_at).not.toBeNull();
    await tryNow(jobId);
    expect(receiver.received).toHaveLength(3);

    isWell = true;
    expect((await log.replay(delivery.id)).delivery).toMatchObject({ status: 'pending', ended_at: null });
    await tryNow(jobId);
    expect(await deliveryOf(jobId)).toMatchObject({ status: 'delivered', tries: 4 });
    expect(new Set(receiver.received.map(({ id, body }) => id + body)).size).toBe(1);
  });

  it('is tried no more where the receiver is gone', async () => {
    const receiver = await receive((response) => void response.writeHead(410).end());
    const jobId = await canceledJob(receiver.url);
    await tryNow(jobId);
    expect(await deliveryOf(jobId)).toMatchObject({ status: 'failed', tries: 1 });
  });

  it('waits as long as a busy receiver asks', async () => {
    const receiver = await receive(
      (response) => void response.writeHead(429, { 'retry-after': '120' }).end(),
    );
    const jobId = await canceledJob(receiver.url);
    const before = Date.now();
    await tryNow(jobId);
    const { next_try_at: next } = await deliveryOf(jobId);
    expect(next?.getTime()).toBeGreaterThanOrEqual(before + 120_000);
    expect(next?.getTime()).toBeLessThan(Date.now() + 121_000);
  });

  it('that is replayed while it is tried is tried once more, whatever comes of the try', async () => {
    const receiver = await receive((response, _path, before) => {
      if (before > 0) response.end();
      else void replayThenAnswer(response);
    });
    const jobId = await canceledJob(receiver.url);
    const replayThenAnswer = async (response: ServerResponse): Promise<void> => {
      await log.replay((await deliveryOf(jobId)).id);
      response.end();
    };
    await tryNow(jobId);
    expect(await deliveryOf(jobId)).toMatchObject({ status: 'pending', tries: 1 });
    await tryNow(jobId);
    expect(await deliveryOf(jobId)).toMatchObject({ status: 'delivered', tries: 2 });
  });

  it('that is cut off in a try is tried again, and the message of an overtaken one does nothing', async () => {
    const stopping = new AbortController();
    const receiver = await receive((response, _path, before) => {
      if (before === 0) stopping.abort(new Error('The service stops'));
      else response.end();
    });
    const jobId = await canceledJob(receiver.url);
    await expect(tryNow(jobId, stopping.signal)).rejects.toThrow('The service stops');
    expect(await deliveryOf(jobId)).toMatchObject({ status: 'pending', tries: 1 });
    await tryNow(jobId);
    const { delivery, tries } = await log.get((await deliveryOf(jobId)).id);
    expect(delivery.status).toBe('delivered');
    expect(tries).toMatchObject([
      { number: 1, ended_at: null, status_code: null },
      { number: 2, status_code: 200 },
    ]);
    await deliver(deps, { deliveryId: delivery.id, wake: 0, lane: '' }, { signal: forever });
    expect(receiver.received).toHaveLength(2);
  });

  it('never goes to a private address, though the name was public when the job was submitted', async () => {
    const receiver = await receive();
    const jobId = await canceledJob(`http://hook.example:${new URL(receiver.url).port}/`);
    const rebound = { ...deps, resolveHost: async () => [{ address: '127.0.0.1', family: 4 }] };
    const { id } = await deliveryOf(jobId);
    await deliver(rebound, { deliveryId: id, wake: 0, lane: '' }, { signal: forever });
    expect((await log.get(id)).tries).toMatchObject([
      {
        status_code: null,
        error:
          'The host of the URL was not found on the public internet. One that is elsewhere must be named in INPUT_URL_ALLOWED_HOSTS for inputs, in WEBHOOK_ALLOWED_HOSTS for webhooks.',
      },
    ]);
    expect(receiver.received).toEqual([]);
  });

  it('to a host that does not answer travels apart from others, until it does', async () => {
    const receiver = await receive((response, _path, before) =>
      before === 0 ? response.destroy() : response.end(),
    );
    const knowing = { ...deps, silentHosts: createSilentHosts() };
    const inLane = async (lane: number) => {
      const { id } = await deliveryOf(await canceledJob(receiver.url));
      return { deliveryId: id, wake: 0, lane: `${receiver.host}/${lane}` };
    };
    await deliver(knowing, await inLane(2), { signal: forever });
    expect(receiver.received).toHaveLength(1);

    const { lane, ...message } = await inLane(1);
    const moved = { ...message, host: receiver.host };
    await deliver(knowing, { ...message, lane }, { signal: forever });
    expect(receiver.received).toHaveLength(1);
    expect(await bench.database.queues.missing(bench.database.db, 'deliver_silent', [moved])).toEqual([]);

    await deliverNow(knowing, moved, { signal: forever });
    await deliver(knowing, await inLane(3), { signal: forever });
    expect(receiver.received).toHaveLength(3);
  });

  it('to a host that answers and never ends its answer holds up as little as to one that is silent', async () => {
    const receiver = await receive((response) => void response.writeHead(200).write('and then'));
    const knowing = { ...deps, silentHosts: createSilentHosts() };
    const { id } = await deliveryOf(await canceledJob(receiver.url));
    await deliver(knowing, { deliveryId: id, wake: 0, lane: `${receiver.host}/1` }, { signal: forever });
    expect((await log.get(id)).delivery.status).toBe('delivered');
    const next = await deliveryOf(await canceledJob(receiver.url));
    await deliver(knowing, { deliveryId: next.id, wake: 0, lane: `${receiver.host}/1` }, { signal: forever });
    expect(receiver.received).toHaveLength(1);
  });

  it('fails its tries, and sends nothing, while there is no secret', async () => {
    const receiver = await receive();
    const jobId = await canceledJob(receiver.url);
    const { id } = await deliveryOf(jobId);
    const unsigned = { ...deps, config: { ...deps.config, WEBHOOK_SECRET: [] } };
    await deliver(unsigned, { deliveryId: id, wake: 0, lane: '' }, { signal: forever });
    expect((await log.get(id)).tries[0]?.error).toContain('WEBHOOK_SECRET');
    expect(receiver.received).toEqual([]);
  });

  it('gets its message again when that was lost, and is forgotten in the end', async () => {
    const receiver = await receive();
    const jobId = await canceledJob(receiver.url);
    const { id } = await deliveryOf(jobId);
    const at = (minutes: number) => ({ now: () => new Date(Date.now() + minutes * 60_000) });
    await loseMessage(bench.database, id);
    await sweepDeliveries({ ...bench.deps, clock: at(1) });
    expect((await log.get(id)).delivery.wake).toBe(0);
    await sweepDeliveries({ ...bench.deps, clock: at(3) });
    expect((await log.get(id)).delivery.wake).toBe(1);
    await tryNow(jobId);
    const days = 24 * 60;
    await sweepDeliveries({ ...bench.deps, clock: at(29 * days) });
    expect((await log.get(id)).tries).toHaveLength(1);
    await sweepDeliveries({ ...bench.deps, clock: at(31 * days) });
    await expect(log.get(id)).rejects.toMatchObject({ code: 'delivery_not_found' });
  });

  it('that waits behind others for its host, however long, has one message', async () => {
    const { database, stop } = await createTestDatabase();
    onTestFinished(stop);
    const { db, queues } = database;
    await announce(database, ['http://127.0.0.1:9/a', 'http://127.0.0.1:9/b', 'http://127.0.0.1:9/c']);
    const [moved] = await db.selectFrom('webhook_deliveries').select(['id', 'wake']).execute();
    if (moved === undefined) throw new Error('There is no delivery.');
    await loseMessage(database, moved.id);
    await queues.send(db, 'deliver_silent', { deliveryId: moved.id, wake: 0, host: '127.0.0.1:9' });
    for (const minutes of [3, 6]) {
      const clock = { now: () => new Date(Date.now() + minutes * 60_000) };
      await sweepDeliveries({ ...bench.deps, db, queues, clock });
    }
    const { depth } = await queues.health();
    expect(depth).toMatchObject({ deliver: 2, deliver_silent: 1 });
  });

  it.each<[string, (clock: Clock) => Promise<unknown>]>([
    ['it would be forgotten', (clock) => sweepDeliveries({ ...bench.deps, clock })],
    ['its job would be forgotten', (clock) => sweepRetention({ ...bench.deps, clock })],
  ])('that is replayed just when %s is kept', async (_name, sweep) => {
    const receiver = await receive();
    const jobId = await canceledJob(receiver.url);
    await tryNow(jobId);
    const { id } = await deliveryOf(jobId);
    const { db } = bench.database;
    const waiting = async () =>
      (
        await sql`select from pg_stat_activity
          where datname = current_database() and wait_event_type = 'Lock'`.execute(db)
      ).rows.length;
    const held = await db.startTransaction().execute();
    await held.selectFrom('webhook_deliveries').select('id').where('id', '=', id).forUpdate().execute();
    const replayed = log.replay(id);
    await expect.poll(waiting).toBe(1);
    let isSwept = false;
    const swept = sweep({ now: () => new Date(Date.now() + 400 * 86_400_000) }).finally(
      () => (isSwept = true),
    );
    await expect.poll(async () => isSwept || (await waiting()) === 2).toBe(true);
    await held.commit().execute();
    await Promise.all([replayed, swept]);
    expect((await log.get(id)).delivery).toMatchObject({ status: 'pending', wake: 2 });
  });
});

describe('a replica', () => {
  it('whose every hand could be held by silent receivers delivers to others at once', async () => {
    const { database, stop } = await createTestDatabase();
    onTestFinished(stop);
    const { db, queues } = database;
    const receiver = await receive();
    const dead = await Promise.all(Array.from({ length: 8 }, () => receive(() => undefined)));
    const config = loadConfig({ ...settings, WEBHOOK_TIMEOUT_SECONDS: '60' });
    const silentHosts = createSilentHosts();
    for (const { host } of dead) silentHosts.note(host, true);
    const own: DeliveryDeps = {
      ...deps,
      db,
      queues,
      config,
      silentHosts,
      showJob: async (id) => presentJob(await findJob(db, id), new Date()),
    };
    await announce(
      database,
      dead.map(({ url }) => url),
    );
    await queues.start();
    await queues.work('deliver', 8, (message, context) => deliver(own, message, context));
    await queues.work('deliver_silent', 8, (message, context) => deliverNow(own, message, context));
    for (const one of dead) await one.got(1);
    await announce(database, [receiver.url]);
    expect(await receiver.got(1)).toHaveLength(1);
    await queues.stop(5000);
  });

  it('that dies in a try leaves it to another', async () => {
    const { database, url, stop } = await createTestDatabase();
    onTestFinished(stop);
    const receiver = await receive((response, _path, before) => {
      if (before > 0) response.end();
    });
    const [jobId] = await announce(database, [receiver.url]);
    const start = () => startChild(deliverChild, url, webhookSecret, receiver.host);
    const first = start();
    onTestFinished(() => first.kill());
    await receiver.got(1);
    await first.kill();
    const second = start();
    onTestFinished(() => second.kill());
    const [lost, repeated] = await receiver.got(2);
    expect(repeated).toEqual(lost);
    expect(lost?.event).toMatchObject({ type: 'job.expired', data: { id: jobId, status: 'expired' } });
  });
});

/** As if the row of a message had been taken out of the database by hand. */
async function loseMessage({ db }: Pick<Database, 'db'>, deliveryId: string): Promise<void> {
  await sql`delete from pgboss.job where data->>'deliveryId' = ${deliveryId}`.execute(db);
}

/** Ends a job for each of these receivers, with nothing delivered yet. */
async function announce({ db, queues }: Database, urls: string[]): Promise<string[]> {
  const jobs = urls.map((webhook_url) => ({ id: randomUUID(), webhook_url }));
  const facts = { status: 'queued' as const, workflow: '{}', wait_limit_ms: 1, time_limit_ms: 1 };
  await db
    .insertInto('jobs')
    .values(jobs.map((job) => ({ ...facts, ...job })))
    .execute();
  const ids = jobs.map(({ id }) => id);
  const end = { status: 'expired' as const, error: null, instanceId: null, now: new Date() };
  await db.transaction().execute((trx) => endJobs(trx, queues, ids, end));
  return ids;
}

describe('the service', () => {
  let comfy: ComfyDouble;
  let service: TestService;
  let receiver: WebhookReceiver;
  let dead: WebhookReceiver;

  beforeAll(async () => {
    comfy = await startComfyDouble();
    receiver = await startWebhookReceiver((response, path, before) => {
      response.writeHead(path.startsWith('/late') && before === 0 ? 500 : 200).end('seen');
    });
    dead = await startWebhookReceiver(() => undefined);
    service = await startTestService({
      comfyUrls: [comfy.url],
      env: {
        ...settings,
        WEBHOOK_TIMEOUT_SECONDS: '10',
        WEBHOOK_ALLOWED_HOSTS: `${receiver.host},${dead.host}`,
        PUBLIC_URL: 'https://comfy.example/',
      },
    });
  });
  afterAll(async () => {
    await service.stop();
    await receiver.close();
    await dead.close();
    await comfy.stop();
  });

  const submit = (request: object) =>
    service.call<JobView & { code: string; field: string; detail: string }>('/jobs', {
      method: 'POST',
      json: { workflow: fresh(emptyImage), ...request },
    });
  /** One that no instance fits, canceled: announced without a run. */
  const cancel = async (webhookUrl: string): Promise<string> => {
    const { body } = await submit({ webhookUrl, requirements: { minVramGb: 512 } });
    await service.call(`/jobs/${body.id}/cancel`, { method: 'POST' });
    return body.id;
  };

  it('announces a job that succeeded, with links that work elsewhere', async () => {
    const { body: job } = await submit({ webhookUrl: `${receiver.url}/done`, metadata: { order: '7' } });
    expect(job.webhookUrl).toBe(`${receiver.url}/done`);
    const [received] = await receiver.got(1, '/done');
    const { body: ended } = await service.call<JobView>(`/jobs/${job.id}`);
    const output = ended.outputs[0];
    expect(received?.event).toMatchObject({
      type: 'job.succeeded',
      timestamp: ended.finishedAt,
      data: {
        id: job.id,
        status: 'succeeded',
        metadata: { order: '7' },
        outputs: [{ name: output?.name, url: `https://comfy.example${output?.url}` }],
        urls: { self: `https://comfy.example/jobs/${job.id}` },
      },
    });
  });

  it('tries again by itself, shows what came of it, and sends again on request', async () => {
    const jobId = await cancel(`${receiver.url}/late`);
    const [first, second] = await receiver.got(2, '/late');
    expect(second).toEqual(first);
    const list = await service.until<{ items: Delivery[] }>(
      `/webhooks/deliveries?jobId=${jobId}&status=delivered`,
      ({ items }) => items.length > 0,
    );
    expect(list.items).toMatchObject([{ jobId, type: 'job.canceled', tryCount: 2, id: first?.id }]);
    const path = `/webhooks/deliveries/${first?.id}`;
    const { body: delivery } = await service.call<Delivery>(path);
    expect(delivery).toMatchObject({
      body: first?.body,
      nextTryAt: null,
      tries: [
        { number: 1, statusCode: 500, answer: 'seen' },
        { number: 2, statusCode: 200 },
      ],
    });
    const replay = await service.call<Delivery>(`${path}/replay`, { method: 'POST' });
    expect(replay.status).toBe(202);
    // It may have arrived before the answer was written.
    expect(['pending', 'delivered']).toContain(replay.body.status);
    expect((await receiver.got(3, '/late'))[2]).toEqual(first);
  });

  it('is not held up, and not unwell, for a receiver that never answers', async () => {
    await Promise.all(Array.from({ length: 12 }, (_, n) => cancel(`${dead.url}/${n}`)));
    const before = performance.now();
    await cancel(`${receiver.url}/alive`);
    await receiver.got(1, '/alive');
    expect(performance.now() - before).toBeLessThan(5000);
    expect(dead.mostAtOnce()).toBeLessThanOrEqual(4);
    expect(dead.received.length).toBeGreaterThan(0);
    const health = await service.call<{ status: string }>('/health');
    expect(health).toMatchObject({ status: 200, body: { status: 'ok' } });
  });

  it('counts tries and deliveries', async () => {
    const text = await (await fetch(`${service.url}/metrics`)).text();
    expect(text).toMatch(/comfyfleet_webhook_tries_total\{outcome="delivered"\} [1-9]/);
    expect(text).toMatch(/comfyfleet_webhook_tries_total\{outcome="failed"\} [1-9]/);
    expect(text).toMatch(/comfyfleet_webhook_deliveries\{status="delivered"\} [1-9]/);
  });

  it('lists deliveries page by page, newest first', async () => {
    const ids = [];
    let cursor: string | null = '';
    while (cursor !== null) {
      const page: { body: { items: Delivery[]; nextCursor: string | null } } = await service.call(
        `/webhooks/deliveries?limit=5${cursor === '' ? '' : `&cursor=${cursor}`}`,
      );
      ids.push(...page.body.items.map(({ id }) => id));
      cursor = page.body.nextCursor;
    }
    expect(new Set(ids).size).toBe(ids.length);
    expect(ids.length).toBeGreaterThanOrEqual(15);
    expect(ids).toEqual(ids.toSorted().toReversed());
  });

  it.each([
    ['GET', '/webhooks/deliveries/0192f0a4-6f2e-7c1d-9a53-1f0d3b6c8e21', 404, 'delivery_not_found'],
    ['POST', '/webhooks/deliveries/0192f0a4-6f2e-7c1d-9a53-1f0d3b6c8e21/replay', 404, 'delivery_not_found'],
    ['GET', '/webhooks/deliveries/x', 400, 'invalid_request'],
    ['GET', '/webhooks/deliveries?status=lost', 400, 'invalid_request'],
  ])('answers %s %s with %i', async (method, path, status, code) => {
    expect(await service.call(path, { method })).toMatchObject({ status, body: { code } });
  });

  it.each([
    ['a private address', 'http://10.0.0.1/hook', 422, 'invalid_input'],
    ['the metadata of a cloud', 'http://169.254.169.254/', 422, 'invalid_input'],
    ['another port of a host that is allowed', 'http://127.0.0.1:1/', 422, 'invalid_input'],
    ['a password', 'https://user:hunter2@example.com/', 422, 'invalid_input'],
    ['another scheme', 'ftp://example.com/', 400, 'invalid_request'],
    ['no URL', 'example', 400, 'invalid_request'],
  ])('refuses a webhookUrl with %s', async (_name, webhookUrl, status, code) => {
    const answer = await submit({ webhookUrl });
    expect(answer).toMatchObject({ status, body: { code, field: 'webhookUrl' } });
    expect(JSON.stringify(answer.body)).not.toContain('hunter2');
  });

  it('refuses an input from a private address at once', async () => {
    const inputs = [{ node: '1', input: 'color', url: 'http://192.168.0.1/a.png' }];
    expect(await submit({ inputs })).toMatchObject({
      status: 422,
      body: { code: 'invalid_input', field: 'inputs[0].url' },
    });
  });

  it('announces every job of a batch', async () => {
    const { status, body } = await service.call<{ jobs: { id: string }[] }>('/jobs/batch', {
      method: 'POST',
      json: {
        workflow: fresh(emptyImage),
        webhookUrl: `${receiver.url}/batch`,
        items: [0, 1, 2].map((n) => ({ metadata: { n: String(n) } })),
      },
    });
    expect(status).toBe(201);
    const received = await receiver.got(3, '/batch');
    expect(received.map(({ event }) => event.data.id).toSorted()).toEqual(
      body.jobs.map(({ id }) => id).toSorted(),
    );
  });
});

type Delivery = z.output<typeof deliverySchema>;
