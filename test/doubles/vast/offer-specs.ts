// The machines that the double lets out unless it is given others.

/** A machine as a test writes it; what is left out has an ordinary value. Units are in the names. */
export interface OfferSpec {
  gpuName: string;
  /** GPU alone. */
  gpuPricePerHourUsd: number;
  machineId?: number;
  gpuCount?: number;
  vramMb?: number;
  /** The whole machine's, of which the offer has its `gpuFraction`. */
  ramMb?: number;
  gpuFraction?: number;
  cpuCores?: number | null;
  diskGb?: number;
  storagePricePerGbMonthUsd?: number;
  downloadMbps?: number;
  uploadMbps?: number;
  downloadPricePerGbUsd?: number;
  uploadPricePerGbUsd?: number;
  reliability?: number;
  verification?: 'verified' | 'unverified' | 'deverified';
  /** Free direct ports; 0 leaves only the ssh proxy. */
  directPorts?: number;
  cudaVersion?: number;
  driverVersion?: string;
  computeCapability?: number;
  cpuArch?: 'amd64' | 'arm64';
  /** As vast.ai writes it: "Texas, US", ", US" or null. */
  geolocation?: string | null;
  hostingType?: 0 | 1;
  /** Whether the address survives a restart. */
  staticIp?: boolean;
  rentable?: boolean;
  /** How long the host still lets the machine out. */
  remainingSeconds?: number;
  /** Offers of the same kind on this machine; the next is listed, under another id, when one is taken. */
  slices?: number;
}

/** Twelve machines worth ranking, and five that a careful client leaves alone. */
export function defaultOffers(): OfferSpec[] {
  return [
    {
      ...rtx3090,
      machineId: 12_041,
      gpuPricePerHourUsd: 0.168,
      geolocation: 'Poland, PL',
      reliability: 0.981,
      downloadMbps: 720,
      staticIp: false,
    },
    {
      ...rtx3090,
      machineId: 27_733,
      gpuPricePerHourUsd: 0.191,
      geolocation: 'Quebec, CA',
      reliability: 0.9941,
      downloadMbps: 1480,
      cudaVersion: 12.9,
    },
    {
      ...rtx4090,
      machineId: 33_307,
      gpuPricePerHourUsd: 0.335,
      geolocation: 'Texas, US',
      reliability: 0.9942,
      downloadMbps: 1699,
    },
    {
      ...rtx4090,
      machineId: 41_190,
      gpuPricePerHourUsd: 0.298,
      geolocation: 'Bulgaria, BG',
      reliability: 0.9763,
      downloadMbps: 830,
      staticIp: false,
    },
    {
      ...rtx4090,
      machineId: 44_871,
      gpuPricePerHourUsd: 0.402,
      geolocation: 'Sweden, SE',
      reliability: 0.9987,
      downloadMbps: 6200,
      hostingType: 1,
      cudaVersion: 13.2,
      driverVersion: '590.44.01',
      slices: 2,
    },
    {
      ...rtx5090,
      machineId: 58_212,
      gpuPricePerHourUsd: 0.496,
      geolocation: 'Germany, DE',
      reliability: 0.9911,
      downloadMbps: 2350,
    },
    {
      ...rtx5090,
      machineId: 60_045,
      gpuPricePerHourUsd: 0.548,
      geolocation: ', US',
      reliability: 0.9978,
      downloadMbps: 4100,
      hostingType: 1,
    },
    {
      gpuName: 'RTX A5000',
      cpuCores: null,
      machineId: 19_560,
      gpuPricePerHourUsd: 0.204,
      vramMb: 24_564,
      computeCapability: 860,
      geolocation: 'Netherlands, NL',
      reliability: 0.9969,
      downloadMbps: 940,
      cudaVersion: 12.8,
    },
    {
      gpuName: 'RTX 6000Ada',
      machineId: 22_918,
      gpuPricePerHourUsd: 0.734,
      vramMb: 49_140,
      computeCapability: 890,
      geolocation: 'Finland, FI',
      reliability: 0.9955,
      downloadMbps: 3050,
      cudaVersion: 13.2,
      driverVersion: '590.44.01',
      diskGb: 1500,
    },
    {
      gpuName: 'L40S',
      machineId: 51_006,
      gpuPricePerHourUsd: 0.612,
      vramMb: 46_068,
      computeCapability: 890,
      geolocation: 'Virginia, US',
      reliability: 0.9991,
      downloadMbps: 7900,
      hostingType: 1,
      cudaVersion: 13.2,
      driverVersion: '590.44.01',
      diskGb: 2900,
    },
    {
      gpuName: 'A100 PCIE',
      machineId: 9_874,
      gpuPricePerHourUsd: 0.781,
      vramMb: 81_920,
      computeCapability: 800,
      geolocation: 'Czechia, CZ',
      reliability: 0.9936,
      downloadMbps: 1800,
      diskGb: 2200,
    },
    {
      gpuName: 'H100 SXM',
      machineId: 63_410,
      gpuPricePerHourUsd: 1.873,
      vramMb: 81_559,
      computeCapability: 900,
      geolocation: 'Norway, NO',
      reliability: 0.9989,
      downloadMbps: 9400,
      hostingType: 1,
      cudaVersion: 13.2,
      driverVersion: '590.44.01',
      diskGb: 5200,
    },
    // Each of these is cheaper than its kind and has one thing that must keep it from being rented.
    {
      ...rtx4090,
      machineId: 35_002,
      gpuPricePerHourUsd: 0.121,
      geolocation: 'Ukraine, UA',
      verification: 'deverified',
      reliability: 0.9902,
    },
    {
      ...rtx4090,
      machineId: 38_115,
      gpuPricePerHourUsd: 0.133,
      geolocation: 'Spain, ES',
      directPorts: 0,
      reliability: 0.991,
    },
    {
      ...rtx3090,
      machineId: 14_404,
      gpuPricePerHourUsd: 0.119,
      geolocation: null,
      cudaVersion: 12.2,
      driverVersion: '535.86.05',
      reliability: 0.9871,
    },
    {
      gpuName: 'GH200 SXM',
      machineId: 64_777,
      gpuPricePerHourUsd: 0.188,
      vramMb: 97_871,
      computeCapability: 900,
      cpuArch: 'arm64',
      geolocation: 'Utah, US',
      reliability: 0.9962,
    },
    {
      ...rtx5090,
      machineId: 59_090,
      gpuPricePerHourUsd: 0.207,
      geolocation: 'Japan, JP',
      rentable: false,
      reliability: 0.9924,
    },
  ];
}

const rtx3090 = { gpuName: 'RTX 3090', vramMb: 24_576, computeCapability: 860, cudaVersion: 12.8 } as const;
const rtx4090 = { gpuName: 'RTX 4090', vramMb: 24_564, computeCapability: 890, cudaVersion: 12.8 } as const;
const rtx5090 = {
  gpuName: 'RTX 5090',
  vramMb: 32_607,
  computeCapability: 1200,
  cudaVersion: 13.2,
  driverVersion: '590.44.01',
} as const;
