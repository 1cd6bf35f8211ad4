// What differs between the two generations of ComfyUI that this double plays.

export type ComfyVersion = '0.33.0' | '0.3.64';

export interface VersionTraits {
  readonly version: ComfyVersion;
  /** `/api/jobs*` exists (0.6 and later; its cancel routes 0.26 and later). */
  readonly jobsApi: boolean;
  /** `prompt_id` must be a canonical lowercase UUID (0.25 and later); before, anything is turned into text. */
  readonly strictPromptId: boolean;
  /** `create_time` in extra_data, secrets taken out of the queue, `null` extra_data refused (0.3.69 and later). */
  readonly stampsExtraData: boolean;
  /** Results of all earlier prompts stay cached; before 0.3.68 only those of the last prompt. */
  readonly keepsAllResults: boolean;
  /** A cycle is named in `node_errors` (0.20 and later); before, validation fails without a word. */
  readonly findsCycles: boolean;
  /** Node replacement runs before validation and stumbles over nodes that are not objects (0.14 and later). */
  readonly replacesNodes: boolean;
  /** `error.type` is `missing_node_type`; before, `invalid_prompt`. */
  readonly namesMissingNodes: boolean;
  /** Progress below 100 ms or 0.5 % apart is not sent (0.9.2 and later). */
  readonly throttlesProgress: boolean;
  /** `Sec-Fetch-Site: cross-site` is refused. */
  readonly refusesCrossSite: boolean;
  /** Basic assets: the routes exist and answer 503 while the feature is off (0.9 and later). */
  readonly assetRoutes: boolean;
  /** `/view` sends `nosniff` and forces a download of pages and scripts. */
  readonly hardenedView: boolean;
  /** `/object_info` tells whether a node takes lists, shows results while it runs, and its other names. */
  readonly describesNodesFully: boolean;
  /** An error about a path outside the output folder also names the common path. */
  readonly namesCommonPath: boolean;
  /** `system.os`: sys.platform in the newer one, os.name in the older one. */
  readonly os: string;
  /** Line numbers of execution.py as they stand in tracebacks. */
  readonly lines: Readonly<{
    validatePrompt: number;
    nodeInputs: number;
    linkedClass: number;
    linkedType: number;
    innerValidation: number;
    execute: number;
    outputData: number;
    mapNode: number;
    processInputs: number;
  }>;
}

export const VERSIONS: Readonly<Record<ComfyVersion, VersionTraits>> = {
  '0.33.0': {
    version: '0.33.0',
    jobsApi: true,
    strictPromptId: true,
    stampsExtraData: true,
    keepsAllResults: true,
    findsCycles: true,
    replacesNodes: true,
    namesMissingNodes: true,
    throttlesProgress: true,
    refusesCrossSite: true,
    assetRoutes: true,
    hardenedView: true,
    describesNodesFully: true,
    namesCommonPath: false,
    os: 'linux',
    lines: {
      validatePrompt: 1184,
      nodeInputs: 870,
      linkedClass: 933,
      linkedType: 935,
      innerValidation: 955,
      execute: 545,
      outputData: 344,
      mapNode: 318,
      processInputs: 306,
    },
  },
  '0.3.64': {
    version: '0.3.64',
    jobsApi: false,
    strictPromptId: false,
    stampsExtraData: false,
    keepsAllResults: false,
    findsCycles: false,
    replacesNodes: false,
    namesMissingNodes: false,
    throttlesProgress: false,
    refusesCrossSite: false,
    assetRoutes: false,
    hardenedView: false,
    describesNodesFully: false,
    namesCommonPath: true,
    os: 'posix',
    lines: {
      validatePrompt: 1010,
      nodeInputs: 730,
      linkedClass: 788,
      linkedType: 790,
      innerValidation: 808,
      execute: 496,
      outputData: 315,
      mapNode: 289,
      processInputs: 277,
    },
  },
};
