// Renting on a clock of the test's own: from an offer to a ready machine, what can go wrong between, and to the second how long it may.
import { describe, expect } from 'vitest';
import { requirementsSchema } from '../../src/instances/requirements.ts';
import { instantPhases } from '../doubles/vast/knobs.ts';
import { it, machineOf, rentalOf } from '../support/simulation.ts';

/** Where it is not the looks at a machine that count, they need not be many. */
const seldom = { INSTANCE_POLL_SECONDS: '30' };

describe('renting an instance', () => {
  it('rents the machine that the caller chose, and no other when it fails', async ({ simulate }) => {
    const simulation = await simulate();
    const { vast, offers, settled, pass } = simulation;
    const [, chosen] = (await offers()).items;
    if (chosen === undefined) throw new Error('The double has too few offers.');
    vast.knobs.machineFates[Number(chosen.machineId)] = 'oci-error';
    const ended = await settled({ offerId: chosen.id });
    expect(ended).toMatchObject({ status: 'terminated', terminationReason: 'rental_failed' });
    expect(ended.rentals.map(({ machineId, endReason }) => [machineId, endReason])).toEqual([
      [chosen.machineId, 'container_failed'],
    ]);
    await pass(600);
    expect(vast.counters.calls.create).toBe(1);
    expect(vast.liveRentals()).toHaveLength(0);
  });

  it('rents the machine that the caller chose behind any number of cheaper ones', async ({ simulate }) => {
    const cheap = Array.from({ length: 300 }, () => ({ gpuName: 'RTX 3060', gpuPricePerHourUsd: 0.05 }));
    const simulation = await simulate({
      vast: { offers: [...cheap, { gpuName: 'RTX 5090', gpuPricePerHourUsd: 0.6 }] },
    });
    const [chosen] = (await simulation.offers({ gpuNames: ['RTX 5090'] })).items;
    if (chosen === undefined) throw new Error('The machine is not listed.');
    const ready = await simulation.settled({ offerId: chosen.id });
    expect(ready).toMatchObject({ status: 'ready', gpuName: 'RTX 5090' });
    expect(ready.rentals.map(({ machineId }) => machineId)).toEqual([chosen.machineId]);
  });

  it.for([
    ['pull-error', 'image_pull_failed'],
    ['exited-at-start', 'exited'],
    ['gpu-error', 'container_failed'],
  ] as const)(
    'destroys a machine with %s and takes the next offer on another machine',
    async ([fate, reason], { simulate }) => {
      const { vast, settled } = await simulate({ vast: { knobs: { fates: [fate] } } });
      const ready = await settled();
      expect(ready.status).toBe('ready');
      expect(ready.rentals.map(({ status, endReason }) => [status, endReason])).toEqual([
        ['gone', reason],
        ['active', null],
      ]);
      expect(new Set(ready.rentals.map(({ machineId }) => machineId)).size).toBe(2);
      expect(vast.liveRentals()).toHaveLength(1);
      expect(vast.counters).toMatchObject({ created: 2, destroyed: 1 });
    },
  );

  it.for([
    ['loading-forever', 'loading', 1800, 'loading_timeout'],
    ['provisioning-forever', 'starting', 1200, 'starting_timeout'],
    ['no-ports', 'loading', 1800, 'loading_timeout'],
  ] as const)(
    'gives up a machine that is %s when its phase is over',
    async ([fate, phase, limitSeconds, reason], { simulate }) => {
      const { vast, rent, instanceWhen, show, pass } = await simulate({
        vast: { knobs: { fates: [fate] } },
        env: { ...seldom, MAX_RENTALS_PER_INSTANCE: '1' },
      });
      const id = await rent();
      await instanceWhen(id, (instance) => instance.phase === phase);
      await pass(limitSeconds - 1);
      const before = await show(id);
      expect(before).toMatchObject({ phase, rentals: [{ status: 'active', endReason: null }] });
      expect(before.phases.at(-1)).toMatchObject({ phase, seconds: limitSeconds - 1 });
      await pass(1);
      expect((await show(id)).rentals[0]).toMatchObject({ endReason: reason });
      const ended = await instanceWhen(id, 'terminated');
      expect(ended).toMatchObject({ status: 'terminated', terminationReason: 'rental_failed' });
      expect(ended.rentals[0]).toMatchObject({ status: 'gone', endReason: reason });
      expect(ended.rentals).toHaveLength(1);
      expect(vast.liveRentals()).toHaveLength(0);
    },
  );

  it('keeps to the limit of a phase also while the provider cannot be asked for the machine', async ({
    simulate,
  }) => {
    const { vast, rent, instanceWhen, show, pass } = await simulate({
      vast: { knobs: { fates: ['loading-forever'] } },
      env: { ...seldom, MAX_RENTALS_PER_INSTANCE: '1' },
    });
    vast.knobs.faultChances.show = [{ fault: '500', chance: 1 }];
    vast.knobs.faultChances.list = [{ fault: '500', chance: 1 }];
    const id = await rent();
    await instanceWhen(id, ({ phase }) => phase === 'loading');
    await pass(1799);
    expect((await show(id)).rentals[0]).toMatchObject({ status: 'active', endReason: null });
    expect(vast.counters.calls.show).toBeGreaterThanOrEqual(60);
    // Until the next look, which may be half the usual time after the last one, or all of it.
    await pass(31);
    expect((await show(id)).rentals[0]).toMatchObject({ status: 'destroying', endReason: 'loading_timeout' });
    await pass(60);
    expect(vast.liveRentals()).toHaveLength(0);
    expect((await show(id)).rentals[0]).toMatchObject({ status: 'destroying' });
    vast.knobs.faultChances = {};
    const ended = await instanceWhen(id, 'terminated');
    expect(ended.rentals[0]).toMatchObject({ status: 'gone', endReason: 'loading_timeout' });
    expect(vast.liveRentals()).toHaveLength(0);
  });

  it('gives up a machine whose log holds bytes that no text may hold', async ({ simulate }) => {
    const { vast, rent, instanceWhen, show, pass } = await simulate({
      vast: { knobs: { phases: { ...instantPhases, bootMs: 3_600_000 } } },
      env: { ...seldom, MAX_RENTALS_PER_INSTANCE: '1' },
    });
    const id = await rent();
    const { rentals } = await instanceWhen(id, ({ phase }) => phase === 'starting');
    const machine = vast.state.rentals.get(machineOf({ rentals }));
    machine?.plan.log.push('\u0001\u0000\u0000Traceback');
    await pass(1199);
    expect((await show(id)).rentals[0]).toMatchObject({ endReason: null, status: 'active' });
    await pass(1);
    expect((await show(id)).rentals[0]).toMatchObject({ endReason: 'starting_timeout' });
    const ended = await instanceWhen(id, 'terminated');
    expect(ended.rentals[0]).toMatchObject({ endReason: 'starting_timeout', status: 'gone' });
    expect(ended.terminationDetail).toContain('Traceback');
  });

  it.for([
    '503-after-create',
    'reset-after-create',
    'truncated-after-create',
    'no-id-after-create',
    '503-and-late',
  ] as const)(
    'finds by its label what a create with %s has made, and rents nothing twice',
    async (fault, { simulate }) => {
      const { vast, settled, show, pass } = await simulate({ vast: { knobs: { lateCreateMs: 100_000 } } });
      vast.knobs.faults.create.push(fault);
      const ready = await settled();
      expect(ready.status).toBe('ready');
      expect(ready.rentals).toHaveLength(1);
      expect(vast.liveRentals()).toHaveLength(1);
      const before = { ...vast.counters.calls };
      // One too many would be an orphan, and be destroyed two minutes after it was seen.
      await pass(240);
      expect(vast.counters.calls.list - before.list).toBe(4);
      expect(vast.counters.calls.show - before.show).toBe(8);
      expect(await show(ready.id)).toMatchObject({ status: 'ready', rentals: [{ status: 'active' }] });
      expect(vast.counters.calls.create).toBe(1);
      expect(vast.counters).toMatchObject({ created: 1, destroyed: 0 });
    },
  );

  it('takes the next offer when one is gone, and destroys what a refused create has left behind', async ({
    simulate,
  }) => {
    const { vast, settled } = await simulate();
    vast.knobs.faults.create.push('no-such-ask-410', '400-with-new-contract');
    const ready = await settled();
    expect(ready.status).toBe('ready');
    expect(ready.rentals.map(({ endReason }) => endReason)).toEqual([
      'renting_failed',
      'renting_failed',
      null,
    ]);
    expect(new Set(ready.rentals.map(({ machineId }) => machineId)).size).toBe(3);
    expect(vast.liveRentals()).toHaveLength(1);
    expect(vast.counters).toMatchObject({ created: 2, destroyed: 1 });
  });

  it('stops at once when the provider finds the search wrong, and says what it finds', async ({
    simulate,
  }) => {
    const { vast, settled, pass } = await simulate();
    vast.knobs.faultChances.search = [{ fault: 'bad-request', chance: 1 }];
    const ended = await settled();
    expect(ended).toMatchObject({
      status: 'terminated',
      terminationReason: 'renting_failed',
      terminationDetail: expect.stringContaining('bad_request: q.type'),
    });
    await pass(600);
    expect(vast.counters.calls.search).toBe(1);
  });

  it('stops at once when the account lacks credit', async ({ simulate }) => {
    const { vast, settled, pass } = await simulate();
    vast.knobs.faults.create.push('insufficient-credit');
    const ended = await settled();
    expect(ended).toMatchObject({
      status: 'terminated',
      terminationReason: 'insufficient_credit',
      costUsd: 0,
    });
    await pass(600);
    expect(vast.counters.calls).toMatchObject({ search: 1, create: 1 });
    expect(vast.liveRentals()).toHaveLength(0);
  });

  it('takes a machine whose ComfyUI calls its version what no text may hold', async ({ simulate }) => {
    const { settled } = await simulate({ vast: { comfyKnobs: { reportedVersion: '0.35.0\u0000' } } });
    const ready = await settled();
    expect(ready).toMatchObject({ status: 'ready', comfyuiVersion: 'unknown' });
  });

  it('follows a machine that moves while ComfyUI starts on it', async ({ simulate }) => {
    const phases = { ...instantPhases, provisioningMs: 120_000 };
    const simulation = await simulate({
      vast: { knobs: { fates: ['moved'], phases, mishapAfterMs: 60_000 } },
    });
    const { vast, rent, instanceWhen, pass, passUntil } = simulation;
    const id = await rent();
    await instanceWhen(id, ({ phase }) => phase === 'starting');
    await pass(1);
    await vast.until(() => [...vast.state.rentals.values()].every(({ container }) => container?.isBooted()));
    await passUntil(async () => (await rentalOf(simulation)).certificate_fingerprint !== null, 10);
    const before = await rentalOf(simulation);
    await passUntil(async () => (await rentalOf(simulation)).address_url !== before.address_url);
    // At its new address too it is trusted by the certificate of the first one.
    expect(await rentalOf(simulation)).toMatchObject({
      certificate_fingerprint: before.certificate_fingerprint,
    });
    const ready = await instanceWhen(id, 'ready');
    expect(ready).toMatchObject({ status: 'ready', rentals: [{ status: 'active' }] });
    expect(ready.rentals).toHaveLength(1);
  });

  it('forgets that a port gave no answer once it only refuses: two such moments are not a long one', async ({
    simulate,
  }) => {
    const phases = { ...instantPhases, bootMs: 3_600_000 };
    const simulation = await simulate({ vast: { knobs: { phases } } });
    const { database, replica, rent, instanceWhen, pass, show } = simulation;
    const id = await rent();
    await instanceWhen(id, ({ phase }) => phase === 'starting');
    await pass(60);
    // As if a look had found no answer.
    const troubled = { trouble: 'timeout', trouble_since: replica.clock.now() } as const;
    await database.db.updateTable('rentals').set(troubled).where('status', '=', 'active').execute();
    // Until the next look.
    await pass(5);
    expect(await rentalOf(simulation)).toMatchObject({
      certificate_fingerprint: null,
      trouble: null,
      trouble_since: null,
    });
    expect(await show(id)).toMatchObject({ phase: 'starting', rentals: [{ status: 'active' }] });
  });

  it('refuses a machine that speaks plain HTTP where HTTPS was asked for, without showing it the secret', async ({
    simulate,
  }) => {
    const { vast, rent, instanceWhen, pass, show } = await simulate({
      vast: { knobs: { edge: { httpsFailsOpen: true, portsChangeOnRestart: false, refusalMs: 0 } } },
      env: { ...seldom, MAX_RENTALS_PER_INSTANCE: '1' },
    });
    const id = await rent();
    const { rentals } = await instanceWhen(id, ({ phase }) => phase === 'starting');
    const comfyUiOf = () => vast.comfyOf(machineOf({ rentals }));
    await vast.until(() => comfyUiOf() !== undefined);
    const insecure = await instanceWhen(id, ({ message }) => /plain HTTP/.test(message ?? ''));
    expect(insecure.rentals[0]).toMatchObject({ status: 'active', endReason: null });
    await pass(59);
    expect((await show(id)).rentals[0]).toMatchObject({ status: 'active', endReason: null });
    // One with the secret would have got to ComfyUI, which has only been asked by the machine's own switch; any other is refused.
    expect(Object.keys(comfyUiOf()?.counters.requests ?? {})).toEqual(['GET /view']);
    expect(vast.counters.edgeRefusals).toBe(0);
    await pass(1);
    expect((await show(id)).rentals[0]).toMatchObject({ endReason: 'insecure' });
    const ended = await instanceWhen(id, 'terminated');
    expect(ended.rentals[0]).toMatchObject({ status: 'gone', endReason: 'insecure' });
    expect(vast.liveRentals()).toHaveLength(0);
  });
});

describe('requests for instances', () => {
  it('end with the nearest offers named when nothing fits', async ({ simulate }) => {
    const { vast, rent, instanceWhen, show, pass } = await simulate({
      vast: { knobs: { search: { unappliedFilters: ['gpu_ram'] } } },
    });
    const id = await rent({ requirements: requirementsSchema.parse({ minVramGb: 600 }) });
    await instanceWhen(id, ({ phase }) => phase === 'searching');
    await pass(299);
    expect(await show(id)).toMatchObject({ status: 'provisioning', phase: 'searching' });
    // A look at once, and then one every five seconds.
    expect(vast.counters.calls.search).toBe(60);
    await pass(1);
    expect((await show(id)).terminationReason).toBe('no_offer');
    const ended = await instanceWhen(id, 'terminated');
    expect(ended).toMatchObject({ status: 'terminated', terminationReason: 'no_offer', costUsd: 0 });
    expect(ended.terminationDetail).toMatch(/No offer satisfies the requirements.* The nearest: /);
    await pass(600);
    expect(vast.counters.calls.search).toBe(61);
  });
});
