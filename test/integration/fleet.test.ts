// The fleet on a clock of the test's own: jobs that name no instance bring one, and idle ones go.
import { describe, expect } from 'vitest';
import { instantPhases } from '../doubles/vast/knobs.ts';
import { it, type FleetSimulation } from '../support/fleet-simulation.ts';

const never = '0';

async function secondsUntil(
  { replica: { clock } }: FleetSimulation,
  done: Promise<unknown>,
): Promise<number> {
  const since = clock.now().getTime();
  await done;
  return (clock.now().getTime() - since) / 1000;
}

describe('a job that names no instance', () => {
  it('brings no more than the fleet may have, however many there are, and all of them run', async ({
    simulateFleet,
  }) => {
    const { vast, submit, succeeded, list } = await simulateFleet({
      env: { FLEET_MAX: '2', FLEET_JOBS_PER_INSTANCE: '2', INSTANCE_IDLE_MINUTES: never },
      vast: { knobs: { phases: { ...instantPhases, loadingMs: 60_000 } } },
    });
    const ids = [];
    for (let count = 0; count < 12; count += 1) ids.push(await submit());
    for (const id of ids) await succeeded(id);
    expect(vast.state.rentals.size).toBe(2);
    expect((await list()).map(({ origin }) => origin)).toEqual(['fleet', 'fleet']);
  });

  it('says that the fleet may have no more', async ({ simulateFleet }) => {
    const { vast, submit, waits, pass } = await simulateFleet({
      env: { FLEET_MAX: '1' },
      vast: { knobs: { fates: ['loading-forever'] } },
    });
    const covered = await submit();
    await waits(covered, /loads its image/);
    const other = await submit({ requirements: { minVramGb: 40 } });
    await waits(other, /FLEET_MAX \(1\) is reached/);
    await pass(60);
    expect(vast.state.rentals.size).toBe(1);
  });

  it('gets another machine in place of one that has had nothing to do for a minute, where the fleet may have no more', async ({
    simulateFleet,
  }) => {
    const fleet = await simulateFleet({ env: { FLEET_MAX: '1' } });
    const { instanceWhen, submit, succeeded, waits } = fleet;
    const { instanceId } = await succeeded(await submit({ requirements: { gpuNames: ['RTX 3090'] } }));
    const small = instanceId ?? '';
    const id = await submit({ requirements: { minVramGb: 40 } });
    await waits(id, /FLEET_MAX \(1\) is reached/);
    const idle = await secondsUntil(
      fleet,
      instanceWhen(small, ({ status }) => status !== 'ready'),
    );
    expect(idle).toBe(60);
    expect((await succeeded(id)).instanceId).not.toBe(small);
    expect(await instanceWhen(small, 'terminated')).toMatchObject({
      terminationReason: 'idle',
      terminationDetail: 'Other jobs need another machine, and FLEET_MAX has no room for both.',
    });
  });

  it('says which limit forbids another instance', async ({ simulateFleet }) => {
    const { rent, submit, waits, pass, list } = await simulateFleet({
      env: { MAX_INSTANCES: '1' },
      vast: { knobs: { fates: ['loading-forever'] } },
    });
    await rent();
    const id = await submit({ requirements: { minVramGb: 40 } });
    await waits(id, /MAX_INSTANCES/);
    await pass(60);
    expect(await list()).toHaveLength(1);
  });

  it('uses an instance that somebody asked for, also one that is on its way', async ({ simulateFleet }) => {
    const { rent, submit, succeeded, list } = await simulateFleet({
      vast: { knobs: { phases: { ...instantPhases, loadingMs: 60_000 } } },
    });
    const instanceId = await rent();
    const id = await submit();
    expect(await succeeded(id)).toMatchObject({ instanceId });
    expect(await list()).toHaveLength(1);
  });

  it('is rented for by its own requirements, and otherwise by those of the settings', async ({
    simulateFleet,
  }) => {
    const { show, end, submit, succeeded } = await simulateFleet({
      env: { FLEET_REQUIREMENTS: '{"minVramGb":40}' },
    });
    const own = await succeeded(await submit({ requirements: { gpuNames: ['RTX 3090'] } }));
    expect((await show(own.instanceId ?? '')).gpuName).toBe('RTX 3090');
    await end(own.instanceId ?? '');
    const any = await succeeded(await submit());
    expect((await show(any.instanceId ?? '')).vramGb).toBeGreaterThanOrEqual(40);
  });

  it('does not bring machine after machine when none ever gets ready', async ({ simulateFleet }) => {
    const fleet = await simulateFleet({
      env: { SEARCH_TIMEOUT_SECONDS: '120', FLEET_RETRY_SECONDS: '300' },
    });
    const { submit, waits, list, passUntil, pass } = fleet;
    const id = await submit({ requirements: { minVramGb: 600 } });
    const waiting = await waits(id, /tries again at \d\d:\d\d:\d\d UTC/);
    expect(waiting.waitingFor).toMatch(/No offer satisfied the requirements in time/);
    expect(await list()).toHaveLength(1);
    await pass(299);
    expect(await list()).toHaveLength(1);
    await passUntil(async () => (await list()).length === 2, 10);
    await waits(id, /The last 2 instances/);
  });

  it('rents nothing once it was canceled', async ({ simulateFleet }) => {
    const { vast, jobs, instanceWhen, submit, passUntil, list } = await simulateFleet({
      vast: { offers: [] },
    });
    const id = await submit();
    await passUntil(async () => (await list()).length === 1);
    const [coming] = await list();
    await jobs.cancel(id);
    const gone = await instanceWhen(coming?.id ?? '', 'terminated', 60);
    expect(gone).toMatchObject({ origin: 'fleet', terminationReason: 'not_needed' });
    expect(vast.state.rentals.size).toBe(0);
  });

  it('rents nothing for anybody while the account lacks credit', async ({ simulateFleet }) => {
    const { vast, submit, jobWhen, pass, list } = await simulateFleet({
      env: { FLEET_RETRY_SECONDS: '600' },
      vast: { creditUsd: 0 },
    });
    const ids = [await submit(), await submit({ requirements: { minVramGb: 40 } })];
    // Of an account that was not read yet, it is the instance that finds out.
    for (const id of ids) {
      await jobWhen(id, ({ waitingFor, comingInstance }) =>
        /credit/.test(`${waitingFor} ${comingInstance?.message}`),
      );
    }
    await pass(500);
    expect(vast.state.rentals.size).toBe(0);
    expect((await list()).length).toBeLessThanOrEqual(2);
  });

  it('waits no longer for credit once the account has more', async ({ simulateFleet }) => {
    const { vast, submit, jobWhen, waits, pass } = await simulateFleet({
      env: { FLEET_RETRY_SECONDS: '3600', CREDIT_CHECK_SECONDS: '60' },
      vast: { creditUsd: 20 },
      money: true,
    });
    await pass(60);
    vast.knobs.faults.create.push('insufficient-credit');
    const id = await submit();
    await waits(id, /credit.*The fleet tries again at/);
    vast.state.creditUsd = 30;
    await jobWhen(id, ({ status }) => status === 'succeeded', 120);
    expect(vast.counters.created).toBe(1);
  });

  it('waits for a person where the fleet rents nothing', async ({ simulateFleet }) => {
    const { submit, waits, pass, list } = await simulateFleet({ env: { FLEET_MAX: '0' } });
    await waits(await submit(), /FLEET_MAX is 0.*POST \/instances/);
    await pass(600);
    expect(await list()).toEqual([]);
  });
});

describe('an idle instance', () => {
  it('stays as long as its request says', async ({ simulateFleet }) => {
    const fleet = await simulateFleet({ env: { INSTANCE_IDLE_MINUTES: '10' } });
    const { readyInstance, instanceWhen, show } = fleet;
    const kept = await readyInstance({ idleMinutes: 0 });
    const given = await readyInstance();
    const idle = await secondsUntil(
      fleet,
      instanceWhen(given.id, ({ status }) => status !== 'ready'),
    );
    expect(idle).toBeCloseTo(600, 0);
    expect(await instanceWhen(given.id, 'terminated')).toMatchObject({ terminationReason: 'idle' });
    expect(await show(kept.id)).toMatchObject({ status: 'ready', origin: 'request' });
  });

  it('stays where it is the last that is to be kept, and is rented before anybody asks', async ({
    simulateFleet,
  }) => {
    const { readyInstance, passUntil, pass, list } = await simulateFleet({
      env: { FLEET_MIN: '1', INSTANCE_IDLE_MINUTES: '10' },
    });
    await passUntil(async () => (await list()).some(({ status }) => status === 'ready'));
    const first = await list();
    const { id: other } = await readyInstance();
    await pass(1200);
    const both = await list();
    expect(both.map(({ status }) => status).sort()).toEqual(['ready', 'terminated']);
    expect(both.map(({ id }) => id)).toContain(other);
    expect(first).toHaveLength(1);
  });
});

describe('a race', () => {
  it('keeps the first machine that is ready and destroys the other', async ({ simulateFleet }) => {
    const { vast, submit, succeeded, passUntil, list } = await simulateFleet({
      env: { FLEET_RACE: '2' },
      vast: { knobs: { fates: ['loading-forever'] } },
    });
    await succeeded(await submit());
    await passUntil(async () => (await list()).some(({ status }) => status === 'terminated'), 60);
    expect(new Set((await list()).map(({ terminationReason }) => terminationReason))).toEqual(
      new Set(['lost_race', null]),
    );
    const machines = [...vast.state.rentals.values()].map(({ machine }) => machine.machineId);
    expect(new Set(machines).size).toBe(2);
    expect(vast.liveRentals()).toHaveLength(1);
  });

  it('is held with as many machines as the limits allow', async ({ simulateFleet }) => {
    const { vast, submit, succeeded } = await simulateFleet({
      env: { FLEET_RACE: '2', MAX_INSTANCES: '1' },
    });
    await succeeded(await submit());
    expect(vast.state.rentals.size).toBe(1);
  });
});
