// Searching offers: what is asked, how rows read, what speaks against them.
import { describe, expect, it } from 'vitest';
import { z } from 'zod';
import { completeRequirements, requirementsSchema } from '../../src/instances/requirements.ts';
import { findOffers, PAGE_SIZE, searchBody } from '../../src/vast/offers.ts';

/** A row as vast.ai gives it. */
const row = {
  id: 31_415_926,
  ask_contract_id: 31_415_926,
  machine_id: 33_307,
  bundle_id: 812_345_678,
  compute_cap: 890,
  cpu_arch: 'amd64',
  cpu_cores: 64,
  cpu_cores_effective: 16,
  cpu_ram: 257_822,
  cuda_max_good: 12.8,
  direct_port_count: 249,
  disk_space: 812.4,
  dph_base: 0.335,
  dph_total: 0.3518,
  duration: 2_591_999.2,
  external: null,
  geolocation: 'Texas, US',
  gpu_frac: 0.25,
  gpu_name: 'RTX 4090',
  gpu_ram: 24_564,
  gpu_total_ram: 24_564,
  hosting_type: 0,
  inet_down: 1699,
  inet_down_cost: 0.002,
  inet_up: 812,
  inet_up_cost: 0.004,
  is_bid: false,
  num_gpus: 1,
  reliability: 0.9942,
  reliability2: 0.9942,
  rentable: true,
  rented: false,
  storage_cost: 0.15,
  storage_total_cost: 0.0168,
  verification: 'verified',
  time_remaining: '',
};

const needs = { ports: 2, minCuda: 12 };

function requirements(wanted: object = {}) {
  return completeRequirements(requirementsSchema.parse(wanted), { diskGb: 80, maxPricePerHourUsd: 1 });
}

const searchIn = (rows: unknown[], wanted: object = {}) =>
  findOffers(() => Promise.resolve(rows), { requirements: requirements(wanted), needs });

async function reasonsFor(changed: object, wanted: object = {}) {
  const { offers, rejected } = await searchIn([{ ...row, ...changed }], wanted);
  return offers.length === 1 ? [] : (rejected[0]?.reasons ?? ['unreadable']);
}

describe('a row', () => {
  it("reads in our units: gigabytes, our share of the machine's memory, a country", async () => {
    const { offers } = await searchIn([row]);
    expect(offers).toEqual([
      {
        offerId: '31415926',
        machineId: '33307',
        gpuName: 'RTX 4090',
        gpuCount: 1,
        vramGb: 24,
        ramGb: 62.9,
        cpuCores: 16,
        diskGb: 80,
        region: 'US',
        reliability: 0.9942,
        downloadMbps: 1699,
        uploadMbps: 812,
        cudaVersion: 12.8,
        verified: true,
        pricePerHourUsd: 0.3518,
        storagePricePerHourUsd: 0.0168,
        downloadPricePerGbUsd: 0.002,
        uploadPricePerGbUsd: 0.004,
        remainingSeconds: 2_591_999.2,
      },
    ]);
  });

  it.each([
    ['Texas, US', 'US'],
    [', DE', 'DE'],
    ['SE', 'SE'],
    ['Somewhere', null],
    [null, null],
  ])('from "%s" is in %s', async (geolocation, region) => {
    const { offers } = await searchIn([{ ...row, geolocation }]);
    expect(offers[0]?.region).toBe(region);
  });

  it('with a field that makes no sense reads as if it were not given', async () => {
    const { offers } = await searchIn([{ ...row, inet_up: 'fast', cpu_cores_effective: null }]);
    expect(offers[0]).toMatchObject({ uploadMbps: null, cpuCores: null });
  });

  it('that cannot be read is left out', async () => {
    const { offers, rejected } = await searchIn([row, { id: 1 }, null]);
    expect([offers.length, rejected.length]).toEqual([1, 0]);
  });

  it('that cannot be read, and nothing else, is an error and not an empty answer', async () => {
    await expect(searchIn([{ id: 1 }, { id: 2 }])).rejects.toMatchObject({ kind: 'unavailable' });
  });
});

describe('an offer is refused, in words, when', () => {
  it.each<[string, object, object, RegExp]>([
    ['it is not rentable', { rentable: false }, {}, /not for rent/],
    ['it is rented', { rented: true }, {}, /not for rent/],
    ['it is external', { external: true }, {}, /not for rent/],
    ['what a download costs is not given', { inet_down_cost: null }, {}, /download price is not given/],
    ['a download would earn money', { inet_down_cost: -1 }, {}, /download price is not given/],
    ['what an upload costs is not given', { inet_up_cost: undefined }, {}, /upload price is not given/],
    ['its price is a bid', { is_bid: true }, {}, /bid/],
    [
      'it was deverified, which the filter lets through',
      { verification: 'deverified' },
      {},
      /not verified.*deverified/,
    ],
    ['it has another GPU', {}, { gpuNames: ['RTX 5090'] }, /GPU is RTX 4090, wanted is RTX 5090/],
    ['it has more GPUs', { num_gpus: 2 }, {}, /2 GPUs/],
    ['it is elsewhere', {}, { regions: ['DE', 'SE'] }, /region is US, wanted is DE or SE/],
    ['its country is not given', { geolocation: null }, { regions: ['DE'] }, /region is not given/],
    ['it is too dear', { dph_total: 1.2 }, {}, /1\.200 USD per hour, at most 1/],
    ['its processor is of another kind', { cpu_arch: 'arm64' }, {}, /arm64/],
    ['its GPU memory is too small', { gpu_ram: 12_288 }, {}, /GPU memory is 12 GB, needed is 16 GB/],
    [
      "our share of the machine's memory is too small",
      { gpu_frac: 0.05 },
      {},
      /main memory is 12.6 GB, needed is 16 GB/,
    ],
    ['its memory is not given', { cpu_ram: null }, {}, /main memory is not given/],
    ['its disk is too small', { disk_space: 79 }, {}, /free disk is 79 GB, needed is 80 GB/],
    ['it is unreliable', { reliability2: 0.9 }, {}, /reliability is 0\.9/],
    [
      'its reliability is not given',
      { reliability2: null, reliability: null },
      {},
      /reliability is not given/,
    ],
    ['it is slow', { inet_down: 100 }, {}, /download speed is 100 Mbit\/s/],
    ['its driver is old', { cuda_max_good: 12.2 }, {}, /CUDA version is 12\.2, needed is 12\.8/],
    ['its GPU is old', { compute_cap: 610 }, {}, /compute capability/],
    ['it has no open ports', { direct_port_count: 0 }, {}, /open ports is 0, needed is 2/],
    ['its host stops soon', { duration: 3600 }, {}, /remaining time is 3600 s/],
  ])('%s', async (_, changed, wanted, words) => {
    const reasons = await reasonsFor(changed, wanted);
    expect(reasons).toHaveLength(1);
    expect(reasons[0]).toMatch(words);
  });
});

describe('an offer is taken when', () => {
  it.each<[string, object, object]>([
    ['its memory is nominal, such as the 22.5 GB of an L4', { gpu_ram: 23_034 }, { minVramGb: 24 }],
    ['its GPU is spelled with an underscore in the request', {}, { gpuNames: ['RTX_4090'] }],
    [
      'nobody asked for verification',
      { verification: 'unverified', vericode: null },
      { verifiedOnly: false },
    ],
    [
      'nobody asked for what is not given',
      { inet_down: null, cpu_ram: null },
      { minDownloadMbps: 0, minRamGb: 0 },
    ],
  ])('%s', async (_, changed, wanted) => {
    expect(await reasonsFor(changed, wanted)).toEqual([]);
  });

  it('the image needs a newer CUDA than the caller does, and it has it', async () => {
    const rows = [{ ...row, cuda_max_good: 12.8 }];
    const found = await findOffers(() => Promise.resolve(rows), {
      requirements: requirements(),
      needs: { ports: 2, minCuda: 13 },
    });
    expect(found.rejected[0]?.reasons).toEqual(['Its CUDA version is 12.8, needed is 13.']);
  });
});

describe('the question', () => {
  it("is in vast.ai's units and includes the disk, on which the price depends", () => {
    const wanted = requirements({ minVramGb: 24, gpuNames: ['RTX_4090'], regions: ['US', 'DE'] });
    expect(searchBody({ requirements: wanted, needs }, 0)).toMatchObject({
      type: 'on-demand',
      order: [['dph_total', 'asc']],
      limit: 64,
      allocated_storage: 80,
      rentable: { eq: true },
      rented: { eq: false },
      external: { eq: false },
      verified: { eq: true },
      num_gpus: { eq: 1 },
      gpu_name: { in: ['RTX 4090'] },
      gpu_ram: { gte: 22_855 },
      disk_space: { gte: 80 },
      direct_port_count: { gte: 2 },
      dph_total: { lte: 1 },
      geolocation: { in: ['US', 'DE'] },
      cuda_max_good: { gte: 12.8 },
      duration: { gte: 86_400 },
    });
  });

  it('does not mention what is not asked for', () => {
    const body = searchBody({ requirements: requirements({ verifiedOnly: false }), needs }, 0);
    for (const field of ['gpu_name', 'geolocation', 'verified']) expect(body).not.toHaveProperty(field);
  });
});

describe('more offers than one answer holds', () => {
  const market = (count: number) =>
    Array.from({ length: count }, (_, index) => ({
      ...row,
      id: 1000 + index,
      dph_total: 0.1 + index / 1000,
    }));

  const floorSchema = z.object({ dph_total: z.object({ gt: z.number().optional() }) });

  /** Answers as vast.ai does: cheapest first, 64 at most. */
  function searching(rows: (typeof row)[]) {
    const floors: number[] = [];
    const search = (body: object) => {
      const floor = floorSchema.parse(body).dph_total.gt ?? 0;
      floors.push(floor);
      return Promise.resolve(rows.filter((offer) => offer.dph_total > floor).slice(0, PAGE_SIZE));
    };
    return { floors, search };
  }

  it('are fetched page by page above the last price', async () => {
    const { floors, search } = searching(market(150));
    const { offers } = await findOffers(search, { requirements: requirements(), needs });
    expect(offers).toHaveLength(150);
    expect(floors).toEqual([0, 0.162, 0.225]);
  });

  it('are all found where a page ends between offers of one price', async () => {
    const rows = market(150).map((offer, index) =>
      index >= 50 && index < 90 ? { ...offer, dph_total: 0.15 } : offer,
    );
    const { search } = searching(rows);
    const { offers } = await findOffers(search, { requirements: requirements(), needs });
    expect(offers.map(({ offerId }) => Number(offerId))).toEqual(rows.map(({ id }) => id));
  });

  it('are found behind a whole page of one price', async () => {
    const rows = market(100).map((offer, index) => (index < 70 ? { ...offer, dph_total: 0.1 } : offer));
    const { search } = searching(rows);
    const { offers } = await findOffers(search, { requirements: requirements(), needs });
    expect(offers).toHaveLength(64 + 30);
  });

  it('are not fetched without end', async () => {
    const { floors, search } = searching(market(600));
    await findOffers(search, { requirements: requirements(), needs });
    expect(floors).toHaveLength(4);
  });

  it('are not fetched again from a service that ignores the price floor', async () => {
    let searches = 0;
    const rows = market(PAGE_SIZE);
    const search = () => {
      searches += 1;
      return Promise.resolve(rows);
    };
    const { offers } = await findOffers(search, { requirements: requirements(), needs });
    expect([offers.length, searches]).toEqual([64, 2]);
  });
});
