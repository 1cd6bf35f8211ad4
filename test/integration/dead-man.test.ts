// The dead-man switch: a machine whose controller has gone destroys itself, and one that is watched never does.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';
import { v7 as uuid } from 'uuid';
import { describe, expect } from 'vitest';
import { dispatch } from '../../src/jobs/dispatch.ts';
import { withDeadManSwitch } from '../../src/vast/dead-man-script.ts';
import { instantPhases } from '../doubles/vast/knobs.ts';
import { it } from '../support/renting.ts';
import { it as simulated, rentalOf, type Simulation } from '../support/simulation.ts';

/** Whatever comes by itself comes within this, also on a busy machine. */
const PATIENCE_MS = 40_000;
/** A sign of life comes ten times in the half hour that the switch waits by default. */
const LIMIT_SECONDS = 1800;
const BEAT_SECONDS = 180;
const WATCHED_MINUTES = 33;
/** A machine looks for a sign of life this often, so it may see the last one, and miss the next, that much later. */
const LOOK_SECONDS = 20;

describe.concurrent('a rented machine', () => {
  simulated(
    'destroys itself half an hour after the last sign of life, and not before',
    async ({ simulate }) => {
      const { vast, readyInstance, pass, passUnwatched, ...simulation } = await simulate();
      await readyInstance();
      await pass(600);
      const silentSeconds = await silenceOf(simulation);
      await passUnwatched(LIMIT_SECONDS - 1 - silentSeconds);
      expect(vast.liveRentals()).toHaveLength(1);
      await passUnwatched(1 + 2 * LOOK_SECONDS);
      expect(vast.liveRentals()).toHaveLength(0);
      expect(vast.counters).toMatchObject({ selfDestroyed: 1 });
    },
  );

  simulated(
    'goes on for as long as it is watched: while its provider cannot be asked and while it only ends its jobs too',
    async ({ simulate }) => {
      const simulation = await simulate({
        // The service would look at it less often than it wants to hear, but for the drain.
        env: { INSTANCE_CHECK_SECONDS: '3600', INSTANCE_POLL_SECONDS: '60' },
      });
      const { vast, instances, show, readyInstance } = simulation;
      const { id } = await readyInstance();
      await placeJob(simulation);
      await watchedForLong(simulation);
      expect((await show(id)).status).toBe('ready');

      vast.knobs.faultChances.show = [{ fault: '500', chance: 1 }];
      vast.knobs.faultChances.list = [{ fault: '500', chance: 1 }];
      await watchedForLong(simulation);
      expect((await show(id)).status).toBe('ready');
      expect(vast.counters.faults).toBeGreaterThanOrEqual((WATCHED_MINUTES * 60) / BEAT_SECONDS - 1);
      vast.knobs.faultChances = {};

      await instances.end(id, { drain: true });
      await watchedForLong(simulation);
      expect((await show(id)).status).toBe('draining');
      expect(vast.counters.selfDestroyed).toBe(0);
    },
  );

  simulated('goes on while it is watched by a clock that was set back', async ({ simulate }) => {
    const simulation = await simulate({ env: { INSTANCE_CHECK_SECONDS: '3600' } });
    const { vast, replica, readyInstance, pass } = simulation;
    const { readyAt } = await readyInstance();
    // As one looks that came an hour before the clock was set back by an hour.
    const ahead = new Date(replica.clock.now().getTime() + 3_600_000);
    await replica.db.updateTable('rentals').set({ heartbeat_at: ahead }).execute();
    const lastBeat = async () => (await rentalOf(simulation)).heartbeat_at;
    await pass(BEAT_SECONDS - 1);
    expect(await lastBeat()).toEqual(ahead);
    await pass(2);
    expect(await lastBeat()).toEqual(new Date(Date.parse(readyAt ?? '') + BEAT_SECONDS * 1000));
    await watchedForLong(simulation);
    expect(vast.counters.selfDestroyed).toBe(0);
  });

  simulated('destroys itself when the service is gone before ComfyUI was up, later', async ({ simulate }) => {
    const simulation = await simulate({
      vast: { knobs: { phases: { ...instantPhases, provisioningMs: 86_400_000 } } },
    });
    const { vast, replica, rent, instanceWhen, passUnwatched } = simulation;
    await instanceWhen(await rent(), ({ phase }) => phase === 'starting');
    const bootedAtMs = recordOf(simulation).history.find(
      ({ actualStatus }) => actualStatus === 'running',
    )?.atMs;
    const passedSeconds = (replica.clock.now().getTime() - (bootedAtMs ?? NaN)) / 1000;
    // The time of the start and that of the switch, counted from the boot.
    const limitSeconds = replica.config.STARTING_TIMEOUT_SECONDS + LIMIT_SECONDS;
    await passUnwatched(limitSeconds - 1 - passedSeconds);
    expect(vast.liveRentals()).toHaveLength(1);
    await passUnwatched(1 + LOOK_SECONDS);
    expect(vast.liveRentals()).toHaveLength(0);
    expect(vast.counters.selfDestroyed).toBe(1);
  });

  simulated.for([{ DEAD_MAN_SWITCH_MINUTES: '0' }, { VAST_RUNTYPE: 'args' }] as Record<string, string>[])(
    'has no switch with %o',
    async (env, { simulate }) => {
      const simulation = await simulate({ env });
      const { vast, readyInstance, pass, passUnwatched } = simulation;
      await readyInstance();
      await pass(600);
      const rental = await rentalOf(simulation);
      expect(rental).toMatchObject({ dead_man_seconds: null, heartbeat_at: null });
      expect([...vast.state.rentals.values()].map(({ plan }) => plan.deadMan)).toEqual([null]);
      await passUnwatched(86_400);
      expect(vast.liveRentals()).toHaveLength(1);
    },
  );

  simulated(
    'is given up in good order when it does not take the sign of life any more',
    async ({ simulate }) => {
      const simulation = await simulate();
      const { vast, replica, show, readyInstance, pass, instanceWhen } = simulation;
      const { id } = await readyInstance();
      const comfy = vast.comfyOf(recordOf(simulation).id);
      if (comfy === undefined) throw new Error('ComfyUI does not run.');
      comfy.knobs.diskFull = true;
      const looks = vast.counters.calls.show;
      // Half of the time that the machine has.
      await pass(LIMIT_SECONDS / 2 - 1);
      expect((await show(id)).status).toBe('ready');
      expect(vast.counters.calls.show - looks).toBe(
        Math.floor((LIMIT_SECONDS / 2 - 1) / replica.config.INSTANCE_CHECK_SECONDS),
      );
      const ended = await instanceWhen(id, 'terminated', 10);
      expect(ended.terminationReason).toBe('heartbeat_lost');
      expect(vast.liveRentals()).toHaveLength(0);
      expect(vast.counters.selfDestroyed).toBe(0);
    },
  );

  simulated(
    'says why it is gone, when the service comes back to find that it has destroyed itself',
    async ({ simulate }) => {
      const { vast, replica, show, readyInstance, pass, passUnwatched, instanceWhen } = await simulate();
      const { id } = await readyInstance();
      await passUnwatched(LIMIT_SECONDS + 2 * LOOK_SECONDS);
      expect(vast.counters.selfDestroyed).toBe(1);
      await instanceWhen(id, ({ message }) => message?.includes('does not show') === true, 1);
      await pass(replica.config.RENT_SETTLE_SECONDS - 1);
      expect((await show(id)).status).toBe('ready');
      const ended = await instanceWhen(id, 'terminated', 10);
      expect(ended).toMatchObject({
        terminationReason: 'lost',
        terminationDetail: expect.stringContaining('destroyed itself') as string,
      });
      // It did as it was told, so its machine has not failed.
      const machines = await replica.db.selectFrom('machines').select(['successes', 'failures']).execute();
      expect(machines).toEqual([{ successes: 1, failures: 0 }]);
    },
  );
});

/** The only machine, as the provider knows it. */
function recordOf({ vast }: Simulation) {
  const [record] = vast.state.rentals.values();
  if (record === undefined) throw new Error('There is no rental.');
  return record;
}

/** Seconds since the last sign of life. */
async function silenceOf(simulation: Pick<Simulation, 'replica'>): Promise<number> {
  const { heartbeat_at: beatAt } = await rentalOf(simulation);
  return (simulation.replica.clock.now().getTime() - (beatAt?.getTime() ?? NaN)) / 1000;
}

/** For longer than the machine would wait. Throws when a sign of life does not come in time, or when the machine has gone. */
async function watchedForLong(simulation: Simulation): Promise<void> {
  for (let minutes = 0; minutes < WATCHED_MINUTES; minutes += 1) {
    await simulation.pass(60);
    expect(await rentalOf(simulation)).toMatchObject({ status: 'active', end_reason: null });
    expect(simulation.vast.liveRentals()).toHaveLength(1);
    expect(await silenceOf(simulation)).toBeLessThanOrEqual(BEAT_SECONDS);
  }
}

/** A job on the instance that nobody works on, so that it never ends. */
async function placeJob({ replica }: Simulation): Promise<void> {
  await replica.db
    .insertInto('jobs')
    .values({ id: uuid(), status: 'queued', workflow: '{}', wait_limit_ms: 1, time_limit_ms: 1 })
    .execute();
  expect(await dispatch(replica)).toBe(1);
}

describe.concurrent('a rented machine of the whole service', () => {
  it('destroys itself when the service is gone', async ({ start }) => {
    const { vast, service, readyInstance } = await start({
      // Two seconds.
      env: { DEAD_MAN_SWITCH_MINUTES: String(2 / 60), INSTANCE_CHECK_SECONDS: '0.3' },
    });
    await readyInstance();
    // As if it had been killed: nothing tells the machine.
    await service.service.stop();
    expect(vast.liveRentals()).toHaveLength(1);
    await vast.until(() => vast.liveRentals().length === 0, PATIENCE_MS);
    expect(vast.counters).toMatchObject({ selfDestroyed: 1 });
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
