// The life of a rental of the vast.ai double, its mishaps and its bill, as the reference says vast.ai's go.
import { expect, test } from 'vitest';
import { instantPhases, manualClock } from '../doubles/vast/index.ts';
import type { ComfyUiOrder } from '../doubles/vast/index.ts';
import {
  call,
  careful,
  openDouble,
  rent,
  search,
  secureRecipe,
  show,
  startStandIn,
} from './vast-double-client.ts';

test('a rental passes through its phases, and its ports come a moment after it runs', async () => {
  const clock = manualClock();
  const vast = await openDouble({
    clock,
    knobs: {
      phases: { ...instantPhases, scheduledMs: 100, createdMs: 100, loadingMs: 500, portsLateMs: 100 },
    },
  });
  const id = await rent(vast);
  expect(await show(vast, id)).toMatchObject({
    actual_status: null,
    intended_status: 'running',
    status_msg: null,
    ports: null,
    public_ipaddr: null,
  });
  clock.advance(100);
  expect(await show(vast, id)).toMatchObject({ actual_status: 'created', ports: {} });
  clock.advance(100);
  expect(await show(vast, id)).toMatchObject({ actual_status: 'loading' });
  clock.advance(400);
  expect((await show(vast, id))?.status_msg).toMatch(/: Pull complete\n$/);
  clock.advance(100);
  expect(await show(vast, id)).toMatchObject({
    actual_status: 'running',
    cur_state: 'running',
    status_msg: 'success, running vastai/comfy_v0.35.0-cuda-12.9-py312/ssh\n',
    ports: {},
    direct_port_start: -1,
  });
  clock.advance(100);
  const up = await show(vast, id);
  expect(Object.keys(up?.ports ?? {})).toEqual(['22/tcp', '8188/tcp']);
  expect(up?.ports?.['8188/tcp']?.map((entry) => entry.HostIp)).toEqual(['::', '0.0.0.0']);
  expect(up?.public_ipaddr).toMatch(/^\s+127\.0\.0\.1\s+$/);
  expect(up).toMatchObject({ uptime_mins: 100 / 60_000, extra_env: Object.entries(secureRecipe.env) });
});

test.each([
  ['loading-forever', { actual_status: 'loading', intended_status: 'running' }],
  [
    'oci-error',
    { actual_status: 'created', status_msg: expect.stringContaining('OCI runtime create failed') },
  ],
  ['gpu-error', { actual_status: 'created', status_msg: expect.stringContaining('GPU error') }],
  ['exited-at-start', { actual_status: 'exited', intended_status: 'running', cur_state: 'running' }],
  ['no-ports', { actual_status: 'running', ports: {} }],
  ['no-address', { actual_status: 'running', public_ipaddr: null }],
  ['exited', { actual_status: 'exited', intended_status: 'running', cur_state: 'running', ports: {} }],
  ['offline', { actual_status: 'offline', cur_state: 'running' }],
  ['unknown', { actual_status: 'unknown', cur_state: 'running' }],
  [
    'outbid',
    {
      actual_status: 'stopped',
      intended_status: 'stopped',
      cur_state: 'stopped',
      next_state: 'stopped',
      is_bid: true,
    },
  ],
  [
    'contract-ended',
    { actual_status: 'exited', intended_status: 'stopped', cur_state: 'stopped', is_bid: false },
  ],
  ['price-raised', { actual_status: 'running', dph_base: 0.67 }],
] as const)('a rental whose fate is %s shows it', async (fate, shown) => {
  const clock = manualClock();
  const vast = await openDouble({ clock, knobs: { fates: [fate], mishapAfterMs: 1000 } });
  const id = await rent(vast, secureRecipe, 33_307);
  clock.advance(3_600_000);
  expect(await show(vast, id)).toMatchObject(shown);
});

test('a pull that fails says so, and is stopped minutes later while it still loads', async () => {
  const clock = manualClock();
  const vast = await openDouble({
    clock,
    knobs: { fates: ['pull-error'], phases: { ...instantPhases, pullErrorToStoppedMs: 420_000 } },
  });
  const id = await rent(vast);
  clock.advance(1000);
  const failed = await show(vast, id);
  expect(failed).toMatchObject({ actual_status: 'loading', intended_status: 'running' });
  expect(failed?.status_msg).toMatch(/^Error response from daemon: pull access denied.*\n$/);
  clock.advance(420_000);
  expect(await show(vast, id)).toMatchObject({
    actual_status: 'loading',
    intended_status: 'stopped',
    cur_state: 'stopped',
  });
});

test.each([
  ['vastai/comfy:latest', null],
  ['vastai/comfy', null],
  ['vastai/comfy:v9.9.9-cuda-12.9-py312', null],
  ['nobody/comfy:v0.35.0-cuda-12.9-py312', 'pull access denied'],
])('the image %s never runs, with the error %s', async (image, error) => {
  const clock = manualClock();
  const vast = await openDouble({ clock });
  const id = await rent(vast, { ...secureRecipe, image });
  clock.advance(3_600_000);
  const shown = await show(vast, id);
  expect(shown).toMatchObject({ actual_status: 'loading' });
  expect((shown?.status_msg ?? '').includes('denied') ? 'pull access denied' : null).toBe(error);
});

test('the contract of the host ends at its time, whatever the rental does', async () => {
  const clock = manualClock();
  const vast = await openDouble({
    clock,
    offers: [{ gpuName: 'RTX 4090', gpuPricePerHourUsd: 0.3, remainingSeconds: 7200 }],
  });
  const id = await rent(vast);
  clock.advance(7_199_000);
  expect(await show(vast, id)).toMatchObject({ actual_status: 'running', duration: 1 });
  clock.advance(1000);
  expect(await show(vast, id)).toMatchObject({ actual_status: 'exited', intended_status: 'stopped' });
});

test.each([
  ['v0.35.0-cuda-13.2-py312', 33_307, 'v0.35.0-cuda-13.2-py312', true],
  ['v0.35.0-cuda-13.2-py312', 58_212, 'v0.35.0-cuda-13.2-py312', false],
  ['v0.35.0-cuda-12.9-py312', 33_307, 'v0.35.0-cuda-12.9-py312', false],
  ['@vastai-automatic-tag', 33_307, 'v0.7.0-cuda-12.8-py312', false],
])('the tag %s on machine %i runs %s, too new for its driver: %s', async (tag, machineId, runs, isTooNew) => {
  const orders: ComfyUiOrder[] = [];
  const vast = await openDouble({
    startComfyUi: (order) => {
      orders.push(order);
      return startStandIn();
    },
  });
  const id = await rent(vast, { ...secureRecipe, image: `vastai/comfy:${tag}` }, machineId);
  await vast.until(() => vast.state.rentals.get(id)?.installation?.running() !== undefined);
  expect(orders).toMatchObject([{ image: `vastai/comfy:${runs}`, hasCudaMismatch: isTooNew }]);
});

test('a bad machine fails whoever rents it, under whatever offer id', async () => {
  const vast = await openDouble({ knobs: { machineFates: { 12_041: 'gpu-error' } } });
  for (let round = 0; round < 2; round += 1) {
    const id = await rent(vast);
    expect(vast.state.rentals.get(id)?.machine.machineId).toBe(12_041);
    await vast.until(() => vast.state.rentals.get(id)?.statusMessage?.includes('GPU error') === true);
    await call(vast, 'DELETE', `/api/v0/instances/${id}/`);
  }
});

test.each(['loading-forever', 'pull-error', 'gpu-error', 'oci-error', 'exited-at-start'] as const)(
  'a machine that met %s does not come up by a reboot either',
  async (fate) => {
    const clock = manualClock();
    const vast = await openDouble({ clock, knobs: { fates: [fate] } });
    const id = await rent(vast);
    clock.advance(60_000);
    await call(vast, 'PUT', `/api/v0/instances/reboot/${id}/`, {});
    clock.advance(60_000);
    expect((await show(vast, id))?.actual_status).not.toBe('running');
  },
);

test('a rental does not start again after the end of its contract', async () => {
  const clock = manualClock();
  const offers = [{ gpuName: 'RTX 4090', gpuPricePerHourUsd: 0.3, remainingSeconds: 7200 }];
  const vast = await openDouble({ clock, offers });
  const id = await rent(vast);
  clock.advance(7_200_000);
  const start = await call(vast, 'PUT', `/api/v0/instances/${id}/`, { state: 'running' });
  expect(start).toMatchObject({ body: { success: false } });
  clock.advance(3_600_000);
  expect(await show(vast, id)).toMatchObject({ actual_status: 'exited', cur_state: 'stopped' });
});

test('nothing recovers without a container', async () => {
  const vast = await openDouble();
  const id = await rent(vast);
  await vast.until(() => vast.state.rentals.get(id)?.actualStatus === 'running');
  vast.strike(id, 'exited');
  expect(() => vast.strike(id, 'recovered')).toThrow('container runs');
});

test('a host lost and found again: offline, then running', async () => {
  const vast = await openDouble();
  const id = await rent(vast);
  await vast.until(() => vast.state.rentals.get(id)?.actualStatus === 'running');
  vast.strike(id, 'offline');
  expect(await show(vast, id)).toMatchObject({ actual_status: 'offline' });
  vast.strike(id, 'recovered');
  expect(await show(vast, id)).toMatchObject({ actual_status: 'running' });
});

test('the GPU is billed from loading on, the storage from creation to the end, and dearer while stopped', async () => {
  const clock = manualClock();
  const hourMs = 3_600_000;
  const vast = await openDouble({
    clock,
    creditUsd: 10,
    knobs: { phases: { ...instantPhases, createdMs: hourMs, loadingMs: hourMs } },
  });
  const id = await rent(vast, { ...secureRecipe, disk: 72 }, 33_307);
  clock.advance(hourMs);
  expect(vast.bill()).toMatchObject([{ rentalId: id, gpuUsd: 0, storageUsd: expect.closeTo(0.015) }]);
  clock.advance(2 * hourMs);
  expect(vast.bill()[0]?.gpuUsd).toBeCloseTo(2 * 0.335);
  expect(vast.bill()[0]?.storageUsd).toBeCloseTo(3 * 0.015);

  await call(vast, 'PUT', `/api/v0/instances/${id}/`, { state: 'stopped' });
  clock.advance(hourMs);
  expect(vast.bill()[0]?.gpuUsd).toBeCloseTo(2 * 0.335);
  expect(vast.bill()[0]?.storageUsd).toBeCloseTo(4.5 * 0.015);

  await call(vast, 'DELETE', `/api/v0/instances/${id}/`);
  clock.advance(hourMs);
  expect(vast.bill()[0]?.totalUsd).toBeCloseTo(2 * 0.335 + 4.5 * 0.015);
  const user = await call(vast, 'GET', '/api/v0/users/current/');
  expect(user.body).toMatchObject({ credit: expect.closeTo(10 - 2 * 0.335 - 4.5 * 0.015), balance: 0 });
});

test('nothing is billed while the host is offline', async () => {
  const clock = manualClock();
  const vast = await openDouble({ clock });
  const id = await rent(vast, secureRecipe, 33_307);
  clock.advance(1000);
  vast.strike(id, 'offline');
  const before = vast.bill()[0]?.totalUsd;
  clock.advance(3_600_000);
  expect(vast.bill()[0]?.totalUsd).toBe(before);
});

test('without credit everything is stopped and nothing more can be rented', async () => {
  const clock = manualClock();
  const vast = await openDouble({ clock, creditUsd: 0.34 });
  const id = await rent(vast, secureRecipe, 33_307);
  clock.advance(3_600_000);
  expect(await show(vast, id)).toMatchObject({ intended_status: 'stopped', cur_state: 'stopped' });
  const [offer] = await search(vast, careful);
  expect(await call(vast, 'PUT', `/api/v0/asks/${offer?.id ?? 0}/`, secureRecipe)).toMatchObject({
    status: 400,
    body: { error: 'insufficient_credit' },
  });
  vast.state.creditUsd = 5;
  expect(await rent(vast)).toBeGreaterThan(0);
});

test('a rental can be renamed, stopped and started; a start without a free GPU is queued and costs later', async () => {
  const clock = manualClock();
  const vast = await openDouble({ clock, knobs: { phases: { ...instantPhases, queuedStartMs: 60_000 } } });
  const id = await rent(vast);
  const manage = (body: object) => call(vast, 'PUT', `/api/v0/instances/${id}/`, body);
  clock.advance(1000);
  expect(await manage({ label: 'renamed' })).toMatchObject({ status: 200, body: { success: true } });
  expect(await manage({ label: 'x'.repeat(1025) })).toMatchObject({
    status: 400,
    body: { error: 'label_too_long' },
  });
  await manage({ state: 'stopped' });
  expect(await show(vast, id)).toMatchObject({
    label: 'renamed',
    actual_status: 'exited',
    intended_status: 'stopped',
    status_msg: expect.stringContaining('success, running'),
  });
  vast.knobs.gpuTakenOnStart = true;
  expect(await manage({ state: 'running' })).toMatchObject({ status: 200, body: { success: false } });
  expect(await show(vast, id)).toMatchObject({
    actual_status: 'exited',
    intended_status: 'running',
    cur_state: 'stopped',
  });
  const before = vast.bill()[0]?.gpuUsd ?? 0;
  clock.advance(60_000);
  await vast.until(() => vast.state.rentals.get(id)?.currentState === 'running');
  await vast.until(() => vast.state.rentals.get(id)?.actualStatus === 'loading');
  clock.advance(60_000);
  expect(vast.bill()[0]?.gpuUsd).toBeGreaterThan(before);
});
