// The dead-man switch: a machine whose controller has gone destroys itself, and one that is watched never does.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect } from 'vitest';
import { withDeadManSwitch } from '../../src/vast/dead-man-script.ts';
import { instantPhases } from '../doubles/vast/knobs.ts';
import { eventually } from '../support/eventually.ts';
import { it, type Instance, type Renting, type StartRenting } from '../support/renting.ts';

/** Two seconds. */
const SWITCH_MINUTES = String(2 / 60);
/** Three: long enough for a busy machine to be in time, where a test is about machines that are watched. */
const WATCHED_SWITCH_MINUTES = String(3 / 60);
const WATCHED_MS = 3_500;
/** Whatever comes by itself comes within this, also on a busy machine. */
const PATIENCE_MS = 40_000;

describe.concurrent('a rented machine', () => {
  const startQuick = (start: StartRenting, env: Record<string, string> = {}) =>
    start({ env: { DEAD_MAN_SWITCH_MINUTES: SWITCH_MINUTES, INSTANCE_CHECK_SECONDS: '0.3', ...env } });

  /** Returns when signs of life have come for so long; throws at once when the machine has gone instead. */
  async function watchedFor({ vast, service }: Renting, ms: number): Promise<void> {
    const { db } = service.service.database;
    const lastBeat = async () => {
      const rental = await db
        .selectFrom('rentals')
        .select(['status', 'end_reason', 'heartbeat_at'])
        .executeTakeFirstOrThrow();
      expect(rental).toMatchObject({ status: 'active', end_reason: null });
      expect(vast.liveRentals()).toHaveLength(1);
      return rental.heartbeat_at?.getTime() ?? 0;
    };
    const first = await lastBeat();
    await until(async () => (await lastBeat()) - first > ms, PATIENCE_MS);
  }

  it('destroys itself when the service is gone', async ({ start }) => {
    const { vast, service, readyInstance } = await startQuick(start);
    await readyInstance();
    // As if it had been killed: nothing tells the machine.
    await service.service.stop();
    expect(vast.liveRentals()).toHaveLength(1);
    await vast.until(() => vast.liveRentals().length === 0, PATIENCE_MS);
    expect(vast.counters).toMatchObject({ selfDestroyed: 1 });
  });

  it('goes on for as long as it is watched: while its provider cannot be asked and while it only ends its jobs too', async ({
    start,
  }) => {
    const renting = await start({
      vast: { comfyKnobs: { nodes: { FakeSampler: { durationMs: 60_000, steps: 60 } } } },
      // The service would look at it less often than it wants to hear.
      env: { DEAD_MAN_SWITCH_MINUTES: WATCHED_SWITCH_MINUTES, INSTANCE_CHECK_SECONDS: '3600' },
    });
    const { vast, service, post, readyInstance } = renting;
    const { id } = await readyInstance();
    const workflow = {
      '1': { class_type: 'FakeSampler', inputs: {} },
      '2': { class_type: 'SaveImage', inputs: { images: ['1', 0], filename_prefix: 'x' } },
    };
    await post('/jobs', { workflow, instanceId: id });
    await watchedFor(renting, WATCHED_MS);
    expect((await service.call<Instance>(`/instances/${id}`)).body.status).toBe('ready');

    vast.knobs.faultChances.show = [{ fault: '500', chance: 1 }];
    vast.knobs.faultChances.list = [{ fault: '500', chance: 1 }];
    await watchedFor(renting, WATCHED_MS);
    expect((await service.call<Instance>(`/instances/${id}`)).body.status).toBe('ready');
    vast.knobs.faultChances = {};

    await service.call(`/instances/${id}?drain=true`, { method: 'DELETE' });
    await watchedFor(renting, WATCHED_MS);
    expect((await service.call<Instance>(`/instances/${id}`)).body.status).toBe('draining');
    expect(vast.counters.selfDestroyed).toBe(0);
  });

  it('goes on while it is watched by a clock that was set back', async ({ start }) => {
    const { vast, service, readyInstance } = await startQuick(start);
    await readyInstance();
    const { db } = service.service.database;
    // As one looks that came an hour before the clock was set back by an hour.
    const ahead = new Date(Date.now() + 3_600_000);
    await db.updateTable('rentals').set({ heartbeat_at: ahead }).execute();
    const lastBeat = async () =>
      (await db.selectFrom('rentals').select('heartbeat_at').executeTakeFirstOrThrow()).heartbeat_at;
    await eventually(async () => expect(await lastBeat()).not.toEqual(ahead), 5_000);
    expect(vast.counters.selfDestroyed).toBe(0);
  });

  it('destroys itself when the service is gone before ComfyUI was up, later', async ({ start }) => {
    const { vast, service, rent, instanceWhen } = await start({
      vast: { knobs: { phases: { ...instantPhases, provisioningMs: 60_000 } } },
      env: { DEAD_MAN_SWITCH_MINUTES: SWITCH_MINUTES, STARTING_TIMEOUT_SECONDS: '3' },
    });
    const begun = performance.now();
    const { id } = await rent();
    await instanceWhen(id, ({ phase }) => phase === 'starting');
    await service.service.stop();
    await vast.until(() => vast.liveRentals().length === 0, PATIENCE_MS);
    // The time of the start and that of the switch, counted from the boot.
    expect(performance.now() - begun).toBeGreaterThan(5000);
    expect(vast.counters.selfDestroyed).toBe(1);
  });

  it.for([{ DEAD_MAN_SWITCH_MINUTES: '0' }, { VAST_RUNTYPE: 'args' }] as Record<string, string>[])(
    'has no switch with %o',
    async (env, { start }) => {
      const { vast, service, readyInstance } = await startQuick(start, env);
      await readyInstance();
      const rental = await service.service.database.db
        .selectFrom('rentals')
        .select(['dead_man_seconds', 'heartbeat_at'])
        .executeTakeFirstOrThrow();
      expect(rental).toEqual({ dead_man_seconds: null, heartbeat_at: null });
      expect([...vast.state.rentals.values()].map(({ plan }) => plan.deadMan)).toEqual([null]);
    },
  );

  it('is given up in good order when it does not take the sign of life any more', async ({ start }) => {
    const { vast, readyInstance, instanceWhen } = await startQuick(start, {
      DEAD_MAN_SWITCH_MINUTES: String(6 / 60),
    });
    const { id } = await readyInstance();
    const [rental] = vast.liveRentals();
    const comfy = vast.comfyOf(rental?.id ?? 0);
    if (comfy === undefined) throw new Error('ComfyUI does not run.');
    comfy.knobs.diskFull = true;
    const ended = await instanceWhen(id, 'terminated');
    expect(ended.terminationReason).toBe('heartbeat_lost');
    expect(vast.counters.selfDestroyed).toBe(0);
  });

  it('says why it is gone, when the service comes back to find that it has destroyed itself', async ({
    start,
  }) => {
    const { vast, service, readyInstance, instanceWhen } = await startQuick(start, {
      RENT_SETTLE_SECONDS: '1',
    });
    const { id } = await readyInstance();
    const { db } = service.service.database;
    const [rental] = vast.liveRentals();
    const record = vast.state.rentals.get(rental?.id ?? 0);
    if (record === undefined) throw new Error('There is no rental.');
    record.endedAtMs = Date.now();
    record.hiddenFromMs = Date.now();
    await instanceWhen(id, ({ message }) => message?.includes('does not show') === true);
    await db
      .updateTable('rentals')
      .set({ heartbeat_at: new Date(Date.now() - 60_000) })
      .execute();
    const ended = await instanceWhen(id, 'terminated');
    expect(ended).toMatchObject({
      terminationReason: 'lost',
      terminationDetail: expect.stringContaining('destroyed itself') as string,
    });
    // It did as it was told, so its machine has not failed.
    const machines = await db.selectFrom('machines').select(['successes', 'failures']).execute();
    expect(machines).toEqual([{ successes: 1, failures: 0 }]);
  });
});

describe.concurrent('the loop of the start script', () => {
  /** The provider and ComfyUI in one: what the loop asked for, and the heartbeat that it sees. */
  async function startWorld() {
    const calls: { method: string; url: string; authorization: string | undefined; body: string }[] = [];
    const state = { looks: 0, renewing: false };
    const answer = async (request: IncomingMessage, response: ServerResponse) => {
      const { method = '', url = '', headers } = request;
      const body = await readBody(request);
      if (url.startsWith('/view')) {
        state.looks += 1;
        response.writeHead(state.renewing ? 200 : 404).end(state.renewing ? `beat ${state.looks}` : '');
        return;
      }
      calls.push({ method, url, authorization: headers.authorization, body });
      response.writeHead(200, { 'content-type': 'application/json' }).end('{"success":true}');
    };
    const server = createServer((request, response) => void answer(request, response));
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    const { port } = server.address() as AddressInfo;
    return { calls, state, server, port };
  }

  async function runScript(port: number, limits: { limitSeconds: number; firstSeconds: number }) {
    const config = { VAST_API_URL: `http://127.0.0.1:${port}`, VAST_COMFYUI_INTERNAL_PORT: port };
    const script = withDeadManSwitch('echo started', config, limits);
    const child = spawn('bash', ['-ec', script], {
      detached: true,
      stdio: ['ignore', 'pipe', 'inherit'],
      env: {
        PATH: process.env['PATH'],
        TMPDIR: tmpdir(),
        CONTAINER_ID: '4242',
        CONTAINER_API_KEY: 'restricted',
      },
    });
    let said = '';
    child.stdout.on('data', (chunk: Buffer) => (said += chunk.toString()));
    await once(child, 'exit');
    return { said: () => said, kill: () => process.kill(-(child.pid ?? 0), 'SIGKILL') };
  }

  it('starts the image, waits while the heartbeat changes, and then destroys its own instance', async () => {
    const world = await startWorld();
    const script = await runScript(world.port, { limitSeconds: 3, firstSeconds: 30 });
    try {
      expect(script.said()).toBe('started\n');
      world.state.renewing = true;
      const begun = performance.now();
      await until(() => world.state.looks >= 5 && performance.now() - begun > 5000, PATIENCE_MS);
      expect(world.calls).toEqual([]);
      world.state.renewing = false;
      await until(() => world.calls.length > 0, PATIENCE_MS);
      expect(world.calls[0]).toEqual({
        method: 'DELETE',
        url: '/api/v0/instances/4242/',
        authorization: 'Bearer restricted',
        body: '{}',
      });
    } finally {
      script.kill();
      world.server.closeAllConnections();
      world.server.close();
    }
  });

  it('goes on trying, and stops its instance when destroying it does not help', async () => {
    const world = await startWorld();
    const script = await runScript(world.port, { limitSeconds: 1, firstSeconds: 1 });
    try {
      await until(() => world.calls.some(({ method }) => method === 'PUT'), PATIENCE_MS);
      expect(world.calls.filter(({ method }) => method === 'DELETE').length).toBeGreaterThanOrEqual(10);
      expect(world.calls.at(-1)).toMatchObject({ method: 'PUT', body: '{"state":"stopped"}' });
    } finally {
      script.kill();
      world.server.closeAllConnections();
      world.server.close();
    }
  });
});

async function until(condition: () => boolean | Promise<boolean>, limitMs: number): Promise<void> {
  const deadline = performance.now() + limitMs;
  while (!(await condition())) {
    if (performance.now() > deadline) throw new Error('It did not come to pass.');
    await sleep(200);
  }
}

async function readBody(request: IncomingMessage): Promise<string> {
  let body = '';
  for await (const chunk of request) body += String(chunk);
  return body;
}
