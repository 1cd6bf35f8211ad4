// What becomes of an instance that was rented, through the API against the double of vast.ai: it moves, falls silent, ends, is destroyed.
import { sql } from 'kysely';
import { describe, expect } from 'vitest';
import { instantPhases } from '../doubles/vast/knobs.ts';
import { eventually } from '../support/eventually.ts';
import { it, type Instance, type Renting, type StartRenting } from '../support/renting.ts';

describe.concurrent('a rented instance', () => {
  it('goes on destroying through refusals, lies and lost answers until the machine is gone', async ({
    start,
  }) => {
    const { vast, service, settled, instanceWhen } = await start();
    const { id } = await settled();
    vast.knobs.faults.destroy.push('noop', 'lying-404', '503', 'rate-limit-json');
    await service.call(`/instances/${id}`, { method: 'DELETE' });
    const gone = await instanceWhen(id, 'terminated', 60_000);
    expect(gone.rentals[0]?.status).toBe('gone');
    expect(vast.liveRentals()).toHaveLength(0);
  });

  it('does not hold a machine to be gone that no view shows yet, however long its create has taken', async ({
    start,
  }) => {
    const { vast, service, rent, instanceWhen } = await start({ env: { RENT_SETTLE_SECONDS: '20' } });
    // Longer than the test: only a destroy ends it.
    vast.knobs.readLag = { byIdMs: 60_000, listMs: 60_000 };
    vast.knobs.faults.destroy.push('noop');
    const { id } = await rent();
    await instanceWhen(id, ({ phase }) => phase === 'loading');
    // As when the call had to wait for its turn.
    const sentAt = new Date(Date.now() - 3_600_000);
    await service.service.database.db.updateTable('rentals').set({ create_sent_at: sentAt }).execute();
    await service.call(`/instances/${id}`, { method: 'DELETE' });
    await vast.until(() => vast.liveRentals().length === 0);
    expect((await service.call<Instance>(`/instances/${id}`)).body.rentals[0]?.goneAt).toBeNull();
  });

  it('bills a machine until its absence was seen, not until somebody began to look', async ({ start }) => {
    const { vast, service, settled, instanceWhen } = await start();
    const { id } = await settled();
    await service.call(`/instances/${id}`, { method: 'DELETE' });
    await vast.until(() => vast.counters.calls.destroy === 1);
    const before = vast.counters.calls.show;
    vast.knobs.latencyMs = 600;
    await vast.until(() => vast.counters.calls.show > before);
    // Half of what the list takes that is asked for next.
    const seenAt = Date.now() + 300;
    vast.knobs.latencyMs = 600;
    const gone = await instanceWhen(id, 'terminated');
    expect(Date.parse(gone.rentals[0]?.goneAt ?? '')).toBeGreaterThan(seenAt);
  });

  it('ends an instance that is still being rented without losing its machine', async ({ start }) => {
    const { vast, rent, instanceWhen, end } = await start({
      vast: { knobs: { phases: { ...instantPhases, loadingMs: 5000 } } },
    });
    const { id } = await rent();
    await instanceWhen(id, ({ phase }) => phase === 'loading');
    await end(id);
    expect(vast.liveRentals()).toHaveLength(0);
  });

  it.for([
    ['offline', 'offline'],
    ['exited', 'exited'],
    ['unknown', 'unknown_to_provider'],
    ['outbid', 'outbid'],
    ['contract-ended', 'stopped_by_provider'],
  ] as const)('ends a ready instance that is %s, with the reason', async ([mishap, reason], { start }) => {
    const { vast, settled, instanceWhen } = await start();
    const { id, rentals } = await settled();
    vast.strike(Number(rentals[0]?.providerInstanceId), mishap);
    const ended = await instanceWhen(id, 'terminated');
    expect(ended.terminationReason).toBe(reason);
    expect(vast.liveRentals()).toHaveLength(0);
  });

  it('says so, at every check, when a machine runs another ComfyUI than the image should have', async ({
    start,
  }) => {
    const { service, settled, instanceWhen } = await start({
      vast: { comfyKnobs: { reportedVersion: '0.7.0' } },
    });
    const warning = 'ComfyUI 0.7.0 answers, and not 0.35.0 as VAST_IMAGE_TAG says.';
    const ready = await settled();
    expect(ready).toMatchObject({ status: 'ready', comfyuiVersion: '0.7.0', message: warning });
    await service.service.database.db.updateTable('instances').set({ message: null }).execute();
    await instanceWhen(ready.id, ({ message }) => message === warning);
  });

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

  it('gives up a ready instance that swallows connections, after its limit', async ({ start }) => {
    const { vast, settled, instanceWhen } = await start({ env: { UNREACHABLE_TIMEOUT_SECONDS: '1' } });
    const { id, rentals } = await settled();
    vast.strike(Number(rentals[0]?.providerInstanceId), 'comfyui-gone');
    const ended = await instanceWhen(id, 'terminated');
    expect(ended.terminationReason).toBe('unreachable');
  });

  it('is given up after its limit although the single view of the provider fails for ever', async ({
    start,
  }) => {
    const { vast, settled, instanceWhen } = await start({
      env: { UNREACHABLE_TIMEOUT_SECONDS: '1', INSTANCE_CHECK_SECONDS: '0.2' },
    });
    const { id, rentals } = await settled();
    vast.knobs.faultChances.show = [{ fault: '500', chance: 1 }];
    vast.strike(Number(rentals[0]?.providerInstanceId), 'comfyui-gone');
    await vast.until(() => vast.liveRentals().length === 0);
    vast.knobs.faultChances = {};
    const ended = await instanceWhen(id, 'terminated');
    expect(ended.terminationReason).toBe('unreachable');
  });

  describe('that is silent while the provider is silent too', () => {
    const limitMs = 2000;

    /** A ready instance that nobody can reach, and whose provider nobody can ask, noted as such. */
    async function startOutage(start: StartRenting, fault: 'reset' | 'auth-401' | 'rate-limit-json') {
      const renting = await start({
        env: { UNREACHABLE_TIMEOUT_SECONDS: String(limitMs / 1000), INSTANCE_CHECK_SECONDS: '0.2' },
      });
      const { vast, readyInstance } = renting;
      const { id, rentals } = await readyInstance();
      const rentalId = Number(rentals[0]?.providerInstanceId);
      for (const call of ['show', 'list', 'destroy'] as const)
        vast.knobs.faultChances[call] = [{ fault, chance: 1 }];
      const comfy = vast.comfyOf(rentalId);
      if (comfy === undefined) throw new Error('ComfyUI does not run.');
      comfy.knobs.requestFaults = [{ route: 'GET /system_stats', how: 'drop-before' }];
      return { ...renting, id, comfy };
    }
    const isSilent = ({ message }: Instance) => message?.includes('cannot be asked either') === true;
    /** Returns what it has become of it when it is no longer ready, or after three times its limit. */
    const muchLater = ({ id, instanceWhen }: Pick<Renting, 'instanceWhen'> & { id: string }) => {
      const begun = performance.now();
      const isLate = () => performance.now() - begun > 3 * limitMs;
      return instanceWhen(id, ({ status }) => status !== 'ready' || isLate());
    };

    it('is kept however long that lasts, without new jobs, and is used again after it', async ({ start }) => {
      const outage = await startOutage(start, 'reset');
      const { vast, instanceWhen, id, comfy } = outage;
      await instanceWhen(id, isSilent);
      expect(await muchLater(outage)).toMatchObject({ status: 'ready', reachable: false });
      vast.knobs.faultChances = {};
      comfy.knobs.requestFaults = [];
      const back = await instanceWhen(id, ({ reachable }) => reachable);
      expect(back).toMatchObject({ status: 'ready', rentals: [{ status: 'active' }] });
      expect(vast.liveRentals()).toHaveLength(1);
    });

    it('has its whole limit to answer once the provider does, and is given up after it', async ({
      start,
    }) => {
      const outage = await startOutage(start, 'reset');
      const { vast, instanceWhen, id } = outage;
      await instanceWhen(id, isSilent);
      expect(await muchLater(outage)).toMatchObject({ status: 'ready' });
      vast.knobs.faultChances = {};
      const begun = performance.now();
      await instanceWhen(id, ({ status }) => status !== 'ready');
      // The count begins with the last look in vain, which may have been a moment before.
      expect(performance.now() - begun).toBeGreaterThan(limitMs / 2);
      const ended = await instanceWhen(id, 'terminated');
      expect(ended.terminationReason).toBe('unreachable');
    });

    it.for(['auth-401', 'rate-limit-json'] as const)(
      'is given up after its limit when the provider does answer, with %s',
      async (fault, { start }) => {
        const { vast, instanceWhen, id } = await startOutage(start, fault);
        await instanceWhen(id, ({ status }) => status !== 'ready');
        vast.knobs.faultChances = {};
        const ended = await instanceWhen(id, 'terminated');
        expect(ended.terminationReason).toBe('unreachable');
      },
    );
  });
});
