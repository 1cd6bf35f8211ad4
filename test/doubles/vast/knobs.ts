// Everything that can be turned on the double, read live. README.md says which trap each knob stands for.
import { checkKnob, mapOf, oneOf } from '../comfyui/support/knob-text.ts';
import type { FaultChances, FaultQueues } from './faults.ts';
import { faultNames, noFaults } from './faults.ts';

/** What goes wrong with a rental while it comes up. */
const startMishaps = [
  /** Stays `loading` for ever, without an error. */
  'loading-forever',
  /** The daemon's error in `status_msg`, `loading` as before, stopped by vast.ai later. */
  'pull-error',
  'oci-error',
  'gpu-error',
  'exited-at-start',
  /** `running`, and `ports` stays empty in every view. */
  'no-ports',
  'no-address',
  /** The image's proxy answers 502 for ever. */
  'provisioning-forever',
  /** `running`, but nothing is ever answered on its ports. */
  'black-holed-from-start',
] as const;

/** What goes wrong with a rental that runs. */
export const lifeMishaps = [
  'exited',
  'offline',
  'unknown',
  'outbid',
  'contract-ended',
  'black-holed',
  /** ComfyUI is gone and the image's proxy answers 502. */
  'comfyui-gone',
  /** The host doubles the price of the GPU. */
  'price-raised',
  /** The machine goes on, at other ports. */
  'moved',
  /** The end of `offline`, `unknown` and `black-holed`. */
  'recovered',
] as const;

export type LifeMishap = (typeof lifeMishaps)[number];

const fates = ['healthy', ...startMishaps, ...lifeMishaps] as const;

export type Fate = (typeof fates)[number];

const unknownIdAnswers = ['null', '404'] as const;

export interface VastKnobs {
  /** How long each phase of a rental takes, in milliseconds. */
  phases: {
    /** `actual_status` null. */
    scheduledMs: number;
    /** `created`. */
    createdMs: number;
    /** `loading`, with the lines of a pull. */
    loadingMs: number;
    /** `running` without `ports`. */
    portsLateMs: number;
    /** `running`, connections refused, until the image's proxy listens. */
    bootMs: number;
    /** The proxy answers 502 until ComfyUI does. */
    provisioningMs: number;
    /** `rebooting`. */
    rebootMs: number;
    /** From a failed pull to `intended_status` "stopped"; about seven minutes in reality. */
    pullErrorToStoppedMs: number;
    /** From an accepted destroy until the views stop showing it. */
    destroyShownMs: number;
    /** How long a queued start waits for its GPU; null waits for ever. */
    queuedStartMs: number | null;
  };
  /** How long after a create a view does not show the rental, in milliseconds. */
  readLag: { byIdMs: number; listMs: number };
  /** How the instance views are written. */
  views: {
    /** `ports` only in the v1 list. */
    portsOnlyInList: boolean;
    /** The IPv6 entry before the IPv4 one. */
    ipv6First: boolean;
    /** Blanks around `public_ipaddr`. */
    blanksInAddress: boolean;
    /** `{"instances": [{...}]}` where an object is usual. */
    byIdAsArray: boolean;
    /** What an unknown id answers. */
    unknownId: (typeof unknownIdAnswers)[number];
  };
  search: {
    /** Chance that a machine is listed under a new offer id in the next search. */
    newOfferIdChance: number;
    /** How long an offer id that is no longer listed can still be rented, in milliseconds. */
    oldOfferIdMs: number;
    /** Known filters that the service does not apply all the same. */
    unappliedFilters: string[];
  };
  /** Faults for the next calls, one each, first in first out. */
  faults: FaultQueues;
  /** Chances of faults for calls without a queued one, decided by the seed. */
  faultChances: FaultChances;
  /** From a create answered by `503-and-late` until the rental exists, in milliseconds. */
  lateCreateMs: number;
  /** Fates of the next rentals, one each. */
  fates: Fate[];
  /** Fates of every rental on a machine, by `machine_id`; they come before `fates`. */
  machineFates: Record<number, Fate>;
  /** From `running` until a mishap of a running rental, in milliseconds. */
  mishapAfterMs: number;
  /** Machines that somebody else takes at the moment of a create, by `machine_id`. */
  takenMachines: number[];
  /** A start of a stopped rental is queued, because its GPU is taken. */
  gpuTakenOnStart: boolean;
  /** Tags that can be pulled, by repository; a tag that is not listed loads for ever, a repository that is not listed cannot be pulled. */
  imageTags: Record<string, string[]>;
  /** What the automatic tag gets. */
  automaticTag: string;
  /** Rate limits: 0 is none, 1 the real intervals, 0.01 a hundredth of them. */
  rateLimitScale: number;
  money: {
    /** Seconds that are billed for each second that passes. */
    secondsPerSecond: number;
    /** Storage of a stopped rental costs this many times as much. */
    stoppedStorageFactor: number;
  };
  /** How long every call takes before it is looked at, in milliseconds. */
  latencyMs: number;
  /** Variables that the account puts into every container; the request's own win. */
  accountEnv: Record<string, string>;
  /** Answers 404 to this many fetches of a log before it is there. */
  logMisses: number;
  edge: {
    /** The certificate could not be made: ENABLE_HTTPS is ignored and the port speaks plain HTTP. */
    httpsFailsOpen: boolean;
    /** Port mappings of a machine without a fixed address change when it starts again. */
    portsChangeOnRestart: boolean;
    /** What a wrong credential costs before its 401, in milliseconds: the image checks it with bcrypt. */
    refusalMs: number;
    /** The page of a service that is not ready comes as 200, as through a Cloudflare tunnel. */
    placeholderAs200: boolean;
  };
}

/** Phases that can be watched: about six seconds from create to ComfyUI's first answer. */
function defaultKnobs(): VastKnobs {
  return {
    phases: {
      scheduledMs: 400,
      createdMs: 500,
      loadingMs: 2500,
      portsLateMs: 400,
      bootMs: 700,
      provisioningMs: 1500,
      rebootMs: 500,
      pullErrorToStoppedMs: 2000,
      destroyShownMs: 0,
      queuedStartMs: null,
    },
    readLag: { byIdMs: 0, listMs: 0 },
    views: {
      portsOnlyInList: false,
      ipv6First: true,
      blanksInAddress: true,
      byIdAsArray: false,
      unknownId: 'null',
    },
    search: { newOfferIdChance: 0.5, oldOfferIdMs: 60_000, unappliedFilters: ['inet_up', 'duration'] },
    faults: noFaults(),
    faultChances: {},
    lateCreateMs: 300,
    fates: [],
    machineFates: {},
    mishapAfterMs: 0,
    takenMachines: [],
    gpuTakenOnStart: false,
    imageTags: defaultImageTags(),
    automaticTag: 'v0.7.0-cuda-12.8-py312',
    rateLimitScale: 0,
    money: { secondsPerSecond: 1, stoppedStorageFactor: 1.5 },
    latencyMs: 0,
    accountEnv: {},
    logMisses: 2,
    edge: { httpsFailsOpen: false, portsChangeOnRestart: true, refusalMs: 0, placeholderAs200: false },
  };
}

/** Phases of a millisecond or so, for tests that do not look at them. */
export const instantPhases: VastKnobs['phases'] = {
  scheduledMs: 0,
  createdMs: 0,
  loadingMs: 0,
  portsLateMs: 0,
  bootMs: 0,
  provisioningMs: 0,
  rebootMs: 0,
  pullErrorToStoppedMs: 0,
  destroyShownMs: 0,
  queuedStartMs: null,
};

export type PartialKnobs = {
  [K in keyof VastKnobs]?: VastKnobs[K] extends unknown[] ? VastKnobs[K] : Partial<VastKnobs[K]>;
};

/** Knobs that were written as JSON. Throws for what is none. */
export function readVastKnobs(given: unknown): PartialKnobs {
  const { views, ...defaults } = defaultKnobs();
  const faults = Object.entries(faultNames).map(([operation, names]) => [operation, oneOf(names)] as const);
  const example: Record<keyof VastKnobs, unknown> = {
    ...defaults,
    views: { ...views, unknownId: oneOf(unknownIdAnswers) },
    faults: Object.fromEntries(faults.map(([operation, fault]) => [operation, [fault]])),
    faultChances: Object.fromEntries(faults.map(([operation, fault]) => [operation, [{ fault, chance: 0 }]])),
    fates: [oneOf(fates)],
    machineFates: mapOf(oneOf(fates)),
    takenMachines: [0],
    imageTags: mapOf(['']),
    accountEnv: mapOf(''),
  };
  checkKnob(given, example, 'vast');
  return given as PartialKnobs;
}

/** The defaults with `given` over them, one level deep. */
export function completeKnobs(given: PartialKnobs = {}): VastKnobs {
  const knobs = defaultKnobs();
  for (const [name, value] of Object.entries(given)) {
    const target: unknown = Reflect.get(knobs, name);
    if (isRecord(target) && isRecord(value)) Object.assign(target, value);
    else Object.assign(knobs, { [name]: value });
  }
  return knobs;
}

function defaultImageTags(): Record<string, string[]> {
  const comfy = ['v0.28.0', 'v0.33.0', 'v0.35.0', 'v0.37.0'].flatMap((version) => [
    `${version}-cuda-12.9-py312`,
    `${version}-cuda-13.2-py312`,
  ]);
  return {
    'vastai/comfy': comfy,
    'vastai/comfyui': comfy,
    'ghcr.io/ai-dock/comfyui': ['latest', 'latest-cuda', 'v2-cuda-12.1.1-base-22.04-v0.2.7'],
  };
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
