// A machine as a row of the search, with the complete set of keys of vast.ai's answer.
import type { Row } from './filters.ts';
import type { Machine } from './market.ts';

const hoursPerMonth = 720;

/** What storage costs in an hour. */
export function storagePricePerHourUsd(machine: Machine, diskGb: number): number {
  return (machine.storagePricePerGbMonthUsd * diskGb) / hoursPerMonth;
}

/** The row with the prices that `allocatedGb` of disk make. */
export function offerRow(machine: Machine, allocatedGb: number, nowMs: number): Row {
  const storage = storagePricePerHourUsd(machine, allocatedGb);
  const total = machine.gpuPricePerHourUsd + storage;
  return {
    id: machine.offerId,
    ask_contract_id: machine.offerId,
    bundle_id: 812_000_000 + machine.machineId,
    bundled_results: null,
    ...hardwareOf(machine),
    disk_space: machine.diskGb,
    ...performanceFields(machine, total),
    dph_base: machine.gpuPricePerHourUsd,
    dph_total: total,
    dph_total_adj: total * 1.01,
    duration: Math.max(0, (machine.contractEndsAtMs - nowMs) / 1000),
    end_date: machine.contractEndsAtMs / 1000,
    expected_reliability: machine.reliability,
    external: null,
    geolocode: 1_234_567,
    gpu_display_active: false,
    gpu_ids: [machine.machineId * 10],
    hostname: null,
    internet_down_cost_per_tb: machine.downloadPricePerGbUsd * 1000,
    internet_up_cost_per_tb: machine.uploadPricePerGbUsd * 1000,
    is_bid: false,
    is_vm_deverified: false,
    min_bid: machine.gpuPricePerHourUsd * 0.55,
    public_ipaddr: '203.0.113.20',
    reliability_mult: 0.98,
    rentable: machine.rentable,
    rented: false,
    resource_type: 'gpu',
    rn: 1,
    start_date: nowMs / 1000 - 86_400,
    storage_total_cost: storage,
    vericode: machine.verification === 'verified' ? 1 : 0,
    vms_enabled: false,
    webpage: null,
    cluster_id: null,
    avail_vol_ask_id: null,
    avail_vol_dph: null,
    avail_vol_size: null,
    nw_disk_min_bw: null,
    nw_disk_max_bw: null,
    nw_disk_avg_bw: null,
    discount_rate: 0,
    discounted_hourly: 0,
    discounted_dph_total: total,
    search: priceParts(machine.gpuPricePerHourUsd, storage),
    instance: priceParts(0, 0),
    time_remaining: '',
    time_remaining_isbid: '',
  };
}

/** The facts of the machine that an offer and an instance show alike. */
export function hardwareOf(machine: Machine): Row {
  const [major = 0, minor = 0, patch = 0] = machine.driverVersion.split('.').map(Number);
  return {
    machine_id: machine.machineId,
    host_id: 50_000 + (machine.machineId % 1000),
    hosting_type: machine.hostingType,
    gpu_name: machine.gpuName,
    gpu_arch: 'nvidia',
    num_gpus: machine.gpuCount,
    gpu_frac: machine.gpuFraction,
    gpu_ram: machine.vramMb,
    gpu_total_ram: machine.vramMb * machine.gpuCount,
    gpu_lanes: 16,
    gpu_mem_bw: 918.5,
    gpu_max_power: 450,
    gpu_max_temp: 90,
    bw_nvlink: 0,
    compute_cap: machine.computeCapability,
    cuda_max_good: machine.cudaVersion,
    driver_version: machine.driverVersion,
    driver_vers: major * 1_000_000 + minor * 1000 + patch,
    cpu_arch: machine.cpuArch,
    cpu_cores: machine.cpuCores,
    cpu_cores_effective: (machine.cpuCores ?? 16) * machine.gpuFraction,
    cpu_ghz: 2.9,
    cpu_name: 'AMD EPYC 7543',
    cpu_ram: machine.ramMb,
    has_avx: 1,
    disk_bw: 2873,
    disk_name: 'Samsung SSD 980',
    inet_down: machine.downloadMbps,
    inet_down_cost: machine.downloadPricePerGbUsd,
    inet_up: machine.uploadMbps,
    inet_up_cost: machine.uploadPricePerGbUsd,
    direct_port_count: machine.directPorts,
    geolocation: machine.geolocation,
    static_ip: machine.staticIp,
    mobo_name: 'ROMED8-2T',
    os_version: '22.04',
    pci_gen: 4,
    pcie_bw: 24.1,
    reliability: machine.reliability,
    reliability2: machine.reliability,
    storage_cost: machine.storagePricePerGbMonthUsd,
    verification: machine.verification,
    credit_discount_max: 0.1,
    logo: '/static/logos/vastai_small2.png',
  };
}

/** How fast it is, alone and for its price, in offers and instances alike. */
export function performanceFields(machine: Machine, totalPerHourUsd: number): Row {
  const performance = performanceOf(machine);
  return {
    dlperf: performance,
    dlperf_per_dphtotal: performance / totalPerHourUsd,
    total_flops: performance * 0.85,
    flops_per_dphtotal: (performance * 0.85) / totalPerHourUsd,
    score: (performance / totalPerHourUsd) * machine.reliability,
    vram_costperhour: machine.gpuPricePerHourUsd / machine.vramMb,
  };
}

/** The breakdown that `search` and `instance` hold. */
export function priceParts(gpuUsd: number, storageUsd: number): Row {
  return {
    gpuCostPerHour: gpuUsd,
    diskHour: storageUsd,
    totalHour: gpuUsd + storageUsd,
    discountTotalHour: 0,
    discountedTotalPerHour: gpuUsd + storageUsd,
  };
}

/** A rough figure that grows with the generation and the memory. */
function performanceOf(machine: Machine): number {
  return (machine.computeCapability / 10 + machine.vramMb / 4096) * machine.gpuCount;
}
