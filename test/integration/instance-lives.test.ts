// What becomes of an instance that was rented, against the double of vast.ai: it moves, falls silent, ends, is destroyed.
import { sql } from 'kysely';
import { describe, expect } from 'vitest';
import { instantPhases } from '../doubles/vast/knobs.ts';
import { eventually } from '../support/eventually.ts';
import { it, type Instance } from '../support/renting.ts';
import {
  it as simulated,
  machineOf,
  type Instance as Simulated,
  type Simulate,
  type Simulation,
} from '../support/simulation.ts';

const isUnreachable = ({ status, reachable }: Simulated): boolean => status === 'ready' && !reachable;

/** A silent instance is kept until its limit is over, counted from now, and not a second longer. */
async function expectGivenUpAfterLimit({ pass, show }: Simulation, id: string): Promise<void> {
  await pass(119);
  expect((await show(id)).status).toBe('ready');
  await pass(1);
  expect(await show(id)).toMatchObject({ status: 'terminating', terminationReason: 'unreachable' });
}

describe('a rented instance', () => {
  simulated(
    'goes on destroying through refusals, lies and lost answers until the machine is gone',
    async ({ simulate }) => {
      const { vast, instances, settled, show, passUntil, instanceWhen } = await simulate();
      const { id } = await settled();
      vast.knobs.faults.destroy.push('noop', 'lying-404', '503', 'rate-limit-json');
      await instances.end(id, { drain: false });
      await passUntil(() => vast.counters.calls.destroy === 3);
      expect(vast.liveRentals()).toHaveLength(1);
      expect((await show(id)).rentals[0]).toMatchObject({ status: 'destroying', goneAt: null });
      const gone = await instanceWhen(id, 'terminated', 60);
      expect(gone.rentals[0]?.status).toBe('gone');
      expect(vast.liveRentals()).toHaveLength(0);
      // What is asked too often is sent again at once, as the same try.
      expect(vast.counters.calls.destroy).toBe(5);
    },
  );

  simulated(
    'does not hold a machine to be gone that no view shows yet, however long its create has taken',
    async ({ simulate }) => {
      const { vast, instances, replica, database, ...simulation } = await simulate();
      const { rent, show, passUntil, instanceWhen } = simulation;
      // Longer than the test: only a destroy ends it.
      vast.knobs.readLag = { byIdMs: 3_600_000, listMs: 3_600_000 };
      vast.knobs.faults.destroy.push('noop');
      const id = await rent();
      await instanceWhen(id, ({ phase }) => phase === 'loading');
      const confirmedAt = replica.clock.now();
      // As when the call had to wait for its turn.
      const sentAt = new Date(confirmedAt.getTime() - 3_600_000);
      await database.db.updateTable('rentals').set({ create_sent_at: sentAt }).execute();
      await instances.end(id, { drain: false });
      await passUntil(() => vast.liveRentals().length === 0);
      expect((await show(id)).rentals[0]?.goneAt).toBeNull();
      const gone = await instanceWhen(id, 'terminated');
      const knownSeconds = (Date.parse(gone.rentals[0]?.goneAt ?? '') - confirmedAt.getTime()) / 1000;
      expect(knownSeconds).toBeGreaterThanOrEqual(120);
      // It is looked for at least once a minute.
      expect(knownSeconds).toBeLessThan(180);
    },
  );

  simulated(
    'bills a machine until its absence was seen, not until somebody began to look',
    async ({ simulate }) => {
      const { vast, provider, replica, settled, show, passUntil, instances } = await simulate();
      const { id } = await settled();
      await instances.end(id, { drain: false });
      await passUntil(() => vast.counters.calls.destroy === 1);
      const { clock } = replica;
      let delayMs = 0;
      let askedAt = 0;
      replica.clock = { now: () => new Date(clock.now().getTime() + delayMs) };
      replica.provider = {
        ...provider,
        async listAll(signal) {
          askedAt = clock.now().getTime();
          const listed = await provider.listAll(signal);
          delayMs = 30_000;
          return listed;
        },
      };
      const goneAt = async () => (await show(id)).rentals[0]?.goneAt ?? null;
      await passUntil(async () => (await goneAt()) !== null);
      expect(Date.parse((await goneAt()) ?? '')).toBe(askedAt + 30_000);
    },
  );

  simulated(
    'ends an instance that is still being rented without losing its machine',
    async ({ simulate }) => {
      const { vast, rent, pass, show, instanceWhen, end } = await simulate({
        vast: { knobs: { phases: { ...instantPhases, loadingMs: 600_000 } } },
      });
      const id = await rent();
      await instanceWhen(id, ({ phase }) => phase === 'loading');
      await pass(60);
      expect(await show(id)).toMatchObject({ status: 'provisioning', phase: 'loading' });
      expect(vast.liveRentals()).toHaveLength(1);
      expect((await end(id)).rentals).toMatchObject([{ status: 'gone', endReason: 'requested' }]);
      expect(vast.liveRentals()).toHaveLength(0);
    },
  );

  simulated.for([
    ['offline', 'offline'],
    ['exited', 'exited'],
    ['unknown', 'unknown_to_provider'],
    ['outbid', 'outbid'],
    ['contract-ended', 'stopped_by_provider'],
  ] as const)('ends a ready instance that is %s, with the reason', async ([mishap, reason], { simulate }) => {
    const { vast, readyInstance, pass, show, instanceWhen } = await simulate();
    const ready = await readyInstance();
    vast.strike(machineOf(ready), mishap);
    await pass(29);
    expect((await show(ready.id)).status).toBe('ready');
    await pass(1);
    expect((await show(ready.id)).status).toBe('terminating');
    const ended = await instanceWhen(ready.id, 'terminated');
    expect(ended.terminationReason).toBe(reason);
    expect(vast.liveRentals()).toHaveLength(0);
  });

  simulated(
    'says so, at every check, when a machine runs another ComfyUI than the image should have',
    async ({ simulate }) => {
      const { database, settled, pass, show } = await simulate({
        vast: { comfyKnobs: { reportedVersion: '0.7.0' } },
      });
      const warning = 'ComfyUI 0.7.0 answers, and not 0.35.0 as VAST_IMAGE_TAG says.';
      const ready = await settled();
      expect(ready).toMatchObject({ status: 'ready', comfyuiVersion: '0.7.0', message: warning });
      for (let checks = 0; checks < 3; checks += 1) {
        await database.db.updateTable('instances').set({ message: null }).execute();
        await pass(30);
        expect((await show(ready.id)).message).toBe(warning);
      }
    },
  );

  simulated('gives up a ready instance whose ComfyUI is gone, after its limit', async ({ simulate }) => {
    const simulation = await simulate();
    const { vast, readyInstance, instanceWhen } = simulation;
    const ready = await readyInstance();
    vast.strike(machineOf(ready), 'comfyui-gone');
    await instanceWhen(ready.id, isUnreachable);
    await expectGivenUpAfterLimit(simulation, ready.id);
    const ended = await instanceWhen(ready.id, 'terminated');
    expect(ended.terminationReason).toBe('unreachable');
  });

  simulated(
    'is given up after its limit although the single view of the provider fails for ever',
    async ({ simulate }) => {
      const simulation = await simulate();
      const { vast, readyInstance, passUntil, instanceWhen } = simulation;
      const ready = await readyInstance();
      vast.knobs.faultChances.show = [{ fault: '500', chance: 1 }];
      vast.strike(machineOf(ready), 'comfyui-gone');
      await instanceWhen(ready.id, isUnreachable);
      await expectGivenUpAfterLimit(simulation, ready.id);
      await passUntil(() => vast.liveRentals().length === 0);
      vast.knobs.faultChances = {};
      const ended = await instanceWhen(ready.id, 'terminated');
      expect(ended.terminationReason).toBe('unreachable');
    },
  );

  describe('that is silent while the provider is silent too', () => {
    /** A ready instance that nobody can reach, and whose provider nobody can ask. */
    async function startOutage(simulate: Simulate, fault: 'reset' | 'auth-401' | 'rate-limit-json') {
      // Its switch would destroy a machine that hears of nobody for so long.
      const simulation = await simulate({ env: { DEAD_MAN_SWITCH_MINUTES: '0' } });
      const { vast, readyInstance } = simulation;
      const ready = await readyInstance();
      for (const call of ['show', 'list', 'destroy'] as const)
        vast.knobs.faultChances[call] = [{ fault, chance: 1 }];
      const comfy = vast.comfyOf(machineOf(ready));
      if (comfy === undefined) throw new Error('ComfyUI does not run.');
      comfy.knobs.requestFaults = [{ route: 'GET /system_stats', how: 'drop-before' }];
      return { ...simulation, simulation, id: ready.id, comfy };
    }
    const isSilent = ({ message }: Simulated) => message?.includes('cannot be asked either') === true;

    /** Three times its limit. */
    async function passSixMinutes({ vast, pass }: Simulation): Promise<void> {
      const before = vast.counters.calls.show;
      await pass(360);
      // It is suspect, and looked at every 5 seconds.
      expect(vast.counters.calls.show - before).toBe(72);
    }

    simulated(
      'is kept however long that lasts, without new jobs, and is used again after it',
      async ({ simulate }) => {
        const { simulation, vast, show, instanceWhen, id, comfy } = await startOutage(simulate, 'reset');
        await instanceWhen(id, isSilent);
        await passSixMinutes(simulation);
        expect(await show(id)).toMatchObject({ status: 'ready', reachable: false });
        vast.knobs.faultChances = {};
        comfy.knobs.requestFaults = [];
        const back = await instanceWhen(id, ({ reachable }) => reachable, 5);
        expect(back).toMatchObject({ status: 'ready', rentals: [{ status: 'active' }] });
        expect(vast.liveRentals()).toHaveLength(1);
      },
    );

    simulated(
      'has its whole limit to answer once the provider does, and is given up after it',
      async ({ simulate }) => {
        const { simulation, vast, show, instanceWhen, id } = await startOutage(simulate, 'reset');
        await instanceWhen(id, isSilent);
        await passSixMinutes(simulation);
        expect(await show(id)).toMatchObject({ status: 'ready' });
        vast.knobs.faultChances = {};
        // The count begins with the last look in vain, which was just now.
        await expectGivenUpAfterLimit(simulation, id);
        const ended = await instanceWhen(id, 'terminated');
        expect(ended.terminationReason).toBe('unreachable');
      },
    );

    simulated.for(['auth-401', 'rate-limit-json'] as const)(
      'is given up after its limit when the provider does answer, with %s',
      async (fault, { simulate }) => {
        const { simulation, vast, instanceWhen, id } = await startOutage(simulate, fault);
        await instanceWhen(id, isUnreachable);
        await expectGivenUpAfterLimit(simulation, id);
        vast.knobs.faultChances = {};
        const ended = await instanceWhen(id, 'terminated');
        expect(ended.terminationReason).toBe('unreachable');
      },
    );
  });
});

describe.concurrent('a rented instance of a whole service', () => {
  it('follows a ready instance that moves to another address, and its job goes on there', async ({
    start,
  }) => {
    const { vast, service, post, settled } = await start({
      vast: { comfyKnobs: { nodes: { FakeSampler: { durationMs: 3000, steps: 30 } } } },
    });
    const ready = await settled();
    const workflow = {
      '1': { class_type: 'FakeSampler', inputs: {} },
      '2': { class_type: 'SaveImage', inputs: { images: ['1', 0], filename_prefix: 'moved' } },
    };
    const { body: job } = await post<{ id: string }>('/jobs', { workflow });
    const jobWhen = (
      done: (now: { status: string; attempt: number; progress: { phase: string } | null }) => boolean,
    ) => service.until(`/jobs/${job.id}`, done);
    await jobWhen(({ progress }) => progress?.phase === 'executing');
    const machine = Number(ready.rentals[0]?.providerInstanceId);
    vast.strike(machine, 'moved');
    await jobWhen(({ status, attempt }) => status === 'succeeded' && attempt === 1);
    expect(vast.comfyOf(machine)?.counters.executionsStarted).toBe(1);
    const { body: after } = await service.call<Instance>(`/instances/${ready.id}`);
    expect(after).toMatchObject({ status: 'ready', rentals: [{ status: 'active' }] });
  });

  it('lets the jobs of an instance end that is drained, asked once or again, and says what it waits for', async ({
    start,
  }) => {
    const { service, post, settled, instanceWhen } = await start({
      vast: { comfyKnobs: { nodes: { FakeSampler: { durationMs: 3000, steps: 30 } } } },
    });
    const { id } = await settled();
    const workflow = {
      '1': { class_type: 'FakeSampler', inputs: {} },
      '2': { class_type: 'SaveImage', inputs: { images: ['1', 0], filename_prefix: 'drained' } },
    };
    const { body: job } = await post<{ id: string }>('/jobs', { workflow });
    await service.until<{ status: string }>(`/jobs/${job.id}`, ({ status }) => status === 'running');
    await service.call(`/instances/${id}?drain=true`, { method: 'DELETE' });
    const { message } = await instanceWhen(
      id,
      ({ message: text }) => text?.startsWith('Waiting for') === true,
    );
    expect(message).toBe('Waiting for 1 job to end.');
    const again = await service.call<Instance>(`/instances/${id}?drain=true`, { method: 'DELETE' });
    expect(again).toMatchObject({ status: 202, body: { status: 'draining' } });
    const ended = await service.until<{ status: string; attempt: number }>(
      `/jobs/${job.id}`,
      ({ status }) => status !== 'running',
    );
    expect(ended).toMatchObject({ status: 'succeeded', attempt: 1 });
  });

  it('ends an instance whose steps fail for long, whatever the reason, and not before', async ({ start }) => {
    const { vast, service, settled, instanceWhen } = await start({ env: { INSTANCE_CHECK_SECONDS: '0.2' } });
    const { id } = await settled();
    const { db } = service.service.database;
    await sql`
      create function fail() returns trigger language plpgsql as $$ begin raise 'This is not foreseen.'; end $$;
      create trigger failing before update on instances for each row
        when (new.status = 'ready' and new.next_step_at is distinct from old.next_step_at) execute function fail();
    `.execute(db);
    const failingSince = async () =>
      (await db.selectFrom('instances').select('failing_since').executeTakeFirstOrThrow()).failing_since;
    await eventually(async () => expect(await failingSince()).toBeInstanceOf(Date));
    expect((await service.call<Instance>(`/instances/${id}`)).body.status).toBe('ready');
    await db
      .updateTable('instances')
      .set({ failing_since: new Date(Date.now() - 16 * 60_000) })
      .execute();
    const ended = await instanceWhen(id, 'terminated');
    expect(ended).toMatchObject({
      terminationReason: 'step_failed',
      terminationDetail: expect.stringContaining('"check"'),
    });
    expect(vast.liveRentals()).toHaveLength(0);
  });
});
