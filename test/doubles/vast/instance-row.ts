// A rental as the instance views show it.
import type { Row } from './filters.ts';
import { hardwareOf, performanceFields, priceParts } from './offer-row.ts';
import type { Rental } from './rental.ts';
import type { World } from './world.ts';

export function instanceRow(world: World, rental: Rental, view: 'byId' | 'list'): Row {
  const nowMs = world.clock.now();
  const { request, machine, runningSinceMs } = rental;
  const gpuUsd = rental.gpuPricePerHourUsd;
  const storageUsd = rental.storagePricePerHourUsd;
  const isRunning = runningSinceMs !== null;
  const portNumbers = rental.ports.map((entry) => entry.held.port);
  return {
    ...hardwareOf(machine),
    ...performanceFields(machine, gpuUsd + storageUsd),
    id: rental.id,
    bundle_id: 812_000_000 + machine.machineId,
    label: rental.label,
    actual_status: rental.actualStatus,
    intended_status: rental.intendedStatus,
    cur_state: rental.currentState,
    next_state: rental.nextState,
    status_msg: rental.statusMessage,
    image_uuid: request.image,
    image_args: request.args,
    image_runtype: imageRuntype(request.runtype),
    extra_env: request.env,
    onstart: request.onstart === '' ? null : request.onstart,
    template_id: null,
    template_hash_id: null,
    template_name: null,
    jupyter_token: rental.jupyterToken,
    public_ipaddr: publicAddress(world, rental),
    local_ipaddrs: '10.0.0.5 172.17.0.1 \n',
    ports: portMap(world, rental, view),
    direct_port_start: rental.arePortsPublished ? Math.min(...portNumbers) : -1,
    direct_port_end: rental.arePortsPublished ? Math.max(...portNumbers) : -1,
    ssh_host: 'ssh7.vast.ai',
    ssh_idx: '7',
    ssh_port: 37_044,
    machine_dir_ssh_port: 37_045,
    start_date: rental.createdAtMs / 1000,
    end_date: machine.contractEndsAtMs / 1000,
    duration: Math.max(0, (machine.contractEndsAtMs - nowMs) / 1000),
    uptime_mins: isRunning ? (nowMs - runningSinceMs) / 60_000 : null,
    gpu_totalram: machine.vramMb * machine.gpuCount,
    gpu_util: isRunning ? 0 : null,
    gpu_temp: isRunning ? 41 : null,
    cpu_util: 0,
    mem_limit: isRunning ? 62.9 : null,
    mem_usage: isRunning ? 2.1 : null,
    vmem_usage: null,
    disk_space: request.diskGb,
    disk_usage: isRunning ? 21.3 : -1,
    disk_util: isRunning ? 0.35 : -1,
    inet_up_billed: null,
    inet_down_billed: null,
    dph_base: gpuUsd,
    dph_total: gpuUsd + storageUsd,
    is_bid: rental.isBid,
    min_bid: machine.gpuPricePerHourUsd * 0.55,
    storage_total_cost: storageUsd,
    rentable: machine.rentable,
    time_remaining: '',
    time_remaining_isbid: '',
    webpage: null,
    external: false,
    country_code: null,
    volume_info: [],
    credit_balance: null,
    credit_discount: null,
    client_run_time: (nowMs - rental.createdAtMs) / 1000,
    host_run_time: 2_592_000,
    search: priceParts(gpuUsd, storageUsd),
    instance: priceParts(gpuUsd, storageUsd),
  };
}

/** Null until the host is known, then early, before anything listens there. */
function publicAddress(world: World, rental: Rental): string | null {
  if (rental.actualStatus === null || rental.fate === 'no-address') return null;
  return world.knobs.views.blanksInAddress ? ` ${world.publicHost} \n` : world.publicHost;
}

function portMap(world: World, rental: Rental, view: 'byId' | 'list'): Row | null {
  if (rental.actualStatus === null) return null;
  if (!rental.arePortsPublished) return {};
  const { ipv6First, portsOnlyInList } = world.knobs.views;
  if (portsOnlyInList && view === 'byId') return {};
  return Object.fromEntries(
    rental.ports.map(({ containerPort, held }) => {
      const ipv4 = { HostIp: '0.0.0.0', HostPort: String(held.port) };
      const ipv6 = { HostIp: '::', HostPort: String(held.port) };
      return [containerPort, ipv6First ? [ipv6, ipv4] : [ipv4, ipv6]];
    }),
  );
}

function imageRuntype(runtype: string): string {
  switch (runtype) {
    case '':
    case 'ssh':
    case 'ssh_proxy':
      return 'ssh ssh_proxy';
    case 'ssh_direct':
      return 'ssh ssh_direc ssh_proxy';
    case 'jupyter_direct':
      return 'jupyter jupyter_direc ssh_direc ssh_proxy';
    default:
      return runtype;
  }
}
