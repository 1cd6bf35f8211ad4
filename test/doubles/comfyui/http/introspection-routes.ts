// What a server says of itself: versions, devices, nodes, models, features.
import { freemem, totalmem } from 'node:os';
import { describeNode } from '../nodes/registry.ts';
import type { ComfyKnobs } from '../knobs.ts';
import type { ComfyProcess } from '../process.ts';
import type { Dict } from '../support/model.ts';
import { emptyAnswer, jsonAnswer, textAnswer, type Answer } from './exchange.ts';
import type { Route } from './router.ts';

const FRONTEND_VERSION = '1.28.7';
const TEMPLATES_VERSION = '0.1.95';

export const introspectionRoutes = (server: ComfyProcess): Route[] => [
  { method: 'GET', path: '/system_stats', handle: () => jsonAnswer(systemStats(server)) },
  { method: 'GET', path: '/features', handle: () => jsonAnswer(featureFlags(server)) },
  { method: 'GET', path: '/object_info', handle: () => describeAll(server) },
  {
    method: 'GET',
    path: '/object_info/{class}',
    handle: ({ params }) => describeOne(params['class'] ?? '', server),
  },
  { method: 'GET', path: '/models', handle: () => jsonAnswer(Object.keys(server.knobs.models)) },
  {
    method: 'GET',
    path: '/models/{folder}',
    handle: ({ params }) => listModels(params['folder'] ?? '', server),
  },
  { method: 'GET', path: '/embeddings', handle: () => jsonAnswer(server.knobs.models['embeddings'] ?? []) },
  { method: 'GET', path: '/extensions', handle: () => jsonAnswer([]) },
  { method: 'GET', path: '/users', handle: () => jsonAnswer({ storage: 'server', migrated: true }) },
  { method: 'GET', path: '/settings', handle: () => jsonAnswer({}) },
  { method: 'GET', path: '/userdata', handle: () => textAnswer(400, 'Directory not provided') },
  {
    method: 'GET',
    path: '/',
    handle: () => ({
      status: 200,
      headers: { 'Content-Type': 'text/html' },
      body: '<!doctype html><title>ComfyUI</title>',
    }),
  },
  ...(server.traits.assetRoutes ? assetRoutes() : []),
  ...(server.traits.replacesNodes
    ? [
        {
          method: 'GET',
          path: '/node_replacements',
          handle: () => jsonAnswer(server.knobs.nodeReplacements),
        } as const,
      ]
    : []),
];

/** Also what the server answers to a client's feature flags. */
export function featureFlags({ knobs, traits }: Pick<ComfyProcess, 'knobs' | 'traits'>): Dict {
  if (!traits.replacesNodes)
    return { supports_preview_metadata: true, max_upload_size: knobs.maxUploadBytes };
  return {
    supports_preview_metadata: true,
    supports_model_type_tags: true,
    max_upload_size: knobs.maxUploadBytes,
    extension: { manager: { supports_v4: true } },
    node_replacements: true,
    assets: false,
  };
}

const argumentsOf = ({ arguments: given, gpu }: ComfyKnobs): string[] =>
  given.length > 0 ? given : ['--listen', '127.0.0.1', '--port', '8188', ...(gpu === null ? ['--cpu'] : [])];

function systemStats({ knobs, traits }: ComfyProcess): Dict {
  const vram = knobs.gpu?.vramTotalBytes ?? totalmem();
  return {
    system: {
      os: traits.os,
      ram_total: totalmem(),
      ram_free: freemem(),
      comfyui_version: knobs.reportedVersion ?? traits.version,
      required_frontend_version: FRONTEND_VERSION,
      installed_templates_version: TEMPLATES_VERSION,
      required_templates_version: TEMPLATES_VERSION,
      ...(traits.jobsApi
        ? {
            comfy_package_versions: [
              { name: 'comfyui-frontend-package', installed: FRONTEND_VERSION, required: FRONTEND_VERSION },
            ],
          }
        : {}),
      python_version: '3.11.2 (main) [GCC 12.2.0]',
      pytorch_version: knobs.gpu === null ? '2.13.0+cpu' : '2.13.0+cu130',
      embedded_python: false,
      ...(traits.jobsApi ? { deploy_environment: 'local-git' } : {}),
      argv: ['main.py', ...argumentsOf(knobs)],
    },
    devices: [
      {
        name: knobs.gpu === null ? 'cpu' : `cuda:0 ${knobs.gpu.name} : cudaMallocAsync`,
        type: knobs.gpu === null ? 'cpu' : 'cuda',
        index: knobs.gpu === null ? null : 0,
        vram_total: vram,
        vram_free: knobs.gpu === null ? freemem() : Math.floor(vram * 0.95),
        torch_vram_total: knobs.gpu === null ? vram : 0,
        torch_vram_free: knobs.gpu === null ? freemem() : 0,
      },
    ],
  };
}

async function describeAll({ registry, storage, traits }: ComfyProcess): Promise<Answer> {
  const entries = registry.names().map(async (name) => {
    const node = registry.find(name);
    return [name, node === undefined ? {} : await describeNode(node, storage, traits)] as const;
  });
  return jsonAnswer(Object.fromEntries(await Promise.all(entries)));
}

async function describeOne(name: string, { registry, storage, traits }: ComfyProcess): Promise<Answer> {
  const node = registry.find(name);
  return jsonAnswer(node === undefined ? {} : { [name]: await describeNode(node, storage, traits) });
}

const listModels = (folder: string, { knobs }: ComfyProcess): Answer =>
  Object.hasOwn(knobs.models, folder) ? jsonAnswer(knobs.models[folder]) : emptyAnswer(404);

/** The feature is off: every route of it says so. */
function assetRoutes(): Route[] {
  const handle = (): Answer =>
    jsonAnswer(
      {
        error: {
          code: 'SERVICE_DISABLED',
          message: 'Assets system is disabled. Start the server with --enable-assets to use this feature.',
          details: {},
        },
      },
      503,
    );
  return [
    { method: 'GET', path: '/api/assets', handle, once: true },
    { method: 'POST', path: '/api/assets', handle, once: true },
    { method: 'GET', path: '/api/assets/{id}', handle, once: true },
    { method: 'POST', path: '/api/assets/from-hash', handle, once: true },
    { method: 'GET', path: '/api/tags', handle, once: true },
  ];
}
