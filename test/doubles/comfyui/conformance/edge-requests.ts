// The requests behind the recorded edge answers, in the order in which they were sent.
import { randomUUID } from 'node:crypto';
import type { ComfyVersion } from '../versions.ts';
import type { RawRequest } from './client.ts';

export interface EdgeRequest extends RawRequest {
  readonly name: string;
  readonly path: string;
  /** Would end the worker of a real server of that version; sent to the double only. */
  readonly breaks?: '0.3.64';
  /** Versions in which its prompt has to be in the history before the next request is sent. */
  readonly waitForEnd?: readonly ComfyVersion[];
}

type Graph = Record<string, unknown>;

const BOTH: readonly ComfyVersion[] = ['0.33.0', '0.3.64'];

const empty = (color: number, extra: object = {}): Graph => ({
  '1': {
    class_type: 'EmptyImage',
    inputs: { width: 64, height: 48, batch_size: 1, color, ...extra },
    _meta: { title: 'Empty Image' },
  },
  '2': {
    class_type: 'SaveImage',
    inputs: { images: ['1', 0], filename_prefix: 'e2e/empty' },
    _meta: { title: 'Save Image' },
  },
});

const scaled = (method: string, image = 'e2e_input.png'): Graph => ({
  '1': { class_type: 'LoadImage', inputs: { image } },
  '2': {
    class_type: 'ImageScale',
    inputs: { image: ['1', 0], upscale_method: method, width: 96, height: 64, crop: 'center' },
  },
  '3': { class_type: 'ImageInvert', inputs: { image: ['2', 0] } },
  '4': { class_type: 'SaveImage', inputs: { images: ['3', 0], filename_prefix: 'e2e/scaled' } },
});

const saving = (images: unknown): Graph => ({
  ...empty(1),
  '2': { class_type: 'SaveImage', inputs: { images, filename_prefix: 'e2e/empty' } },
});
const without = (graph: Graph, id: string): Graph =>
  Object.fromEntries(Object.entries(graph).filter(([key]) => key !== id));

const prompt = (name: string, graph: unknown, fields: object = {}): EdgeRequest => ({
  name,
  path: '/prompt',
  method: 'POST',
  body: JSON.stringify({ prompt: graph, ...fields }),
});
const posted = (name: string, path: string, body: string): EdgeRequest => ({
  name,
  path,
  method: 'POST',
  body,
});
const got = (name: string, path: string, headers: Record<string, string> = {}): EdgeRequest => ({
  name,
  path,
  headers,
});

/** `ownId` is a UUID that no server has seen. */
export function edgeRequests(ownId = randomUUID()): readonly EdgeRequest[] {
  const uiGraph = { nodes: [{ id: 1, type: 'SaveImage' }], links: [], version: 0.4 };
  return [
    posted('prompt_bad_json', '/prompt', '{'),
    posted('prompt_empty', '/prompt', ''),
    posted('prompt_no_prompt', '/prompt', '{}'),
    posted('prompt_array', '/prompt', '[]'),
    prompt('prompt_null', null),
    prompt('prompt_empty_obj', {}),
    { ...prompt('prompt_textplain_ct', {}), headers: { 'content-type': 'text/plain' } },
    prompt('prompt_ui_format_new', { id: '2c13bba9', revision: 0, last_node_id: 1, ...uiGraph }),
    prompt('prompt_ui_format_old', { last_node_id: 1, last_link_id: 0, ...uiGraph }),
    prompt('prompt_nested_wrap', { prompt: empty(1) }),
    prompt('prompt_unknown_class', {
      '1': { class_type: 'NopeNode', inputs: {}, _meta: { title: 'My Nope' } },
    }),
    prompt('prompt_no_class', { '1': { inputs: {} } }),
    prompt('prompt_no_inputs', { '1': { class_type: 'SaveImage' } }),
    prompt('prompt_no_outputs', without(empty(1), '2')),
    prompt('prompt_missing_input', empty(1, { width: undefined })),
    prompt('prompt_bad_int', empty(1, { width: 'abc' })),
    prompt('prompt_too_small', empty(1, { width: 0 })),
    prompt('prompt_too_big', empty(1, { width: 99_999 })),
    prompt('prompt_not_in_list', scaled('foo')),
    prompt('prompt_missing_image', scaled('lanczos', 'missing.png')),
    prompt('prompt_image_traversal', scaled('lanczos', '../../etc/passwd')),
    prompt('prompt_link_missing_node', saving(['99', 0])),
    prompt('prompt_inner_link_missing_node', {
      '3': { class_type: 'ImageInvert', inputs: { image: ['99', 0] } },
      '4': { class_type: 'SaveImage', inputs: { images: ['3', 0], filename_prefix: 'e2e/scaled' } },
    }),
    prompt('prompt_bad_link', saving(['1', 0, 5])),
    prompt('prompt_type_mismatch', {
      '1': { class_type: 'LoadImage', inputs: { image: 'e2e_input.png' } },
      '4': { class_type: 'SaveImage', inputs: { images: ['1', 1], filename_prefix: 'e2e/scaled' } },
    }),
    prompt('prompt_slot_oob', saving(['1', 7])),
    prompt('prompt_cycle', {
      '1': { class_type: 'ImageInvert', inputs: { image: ['2', 0] } },
      '2': { class_type: 'ImageInvert', inputs: { image: ['1', 0] } },
      '3': { class_type: 'SaveImage', inputs: { images: ['2', 0], filename_prefix: 'e2e/cycle' } },
    }),
    prompt('prompt_partial_valid', {
      ...empty(77),
      '9': { class_type: 'SaveImage', inputs: { images: ['1', 0] } },
    }),
    prompt('prompt_bad_number', empty(78), { number: 'abc' }),
    prompt('prompt_number_float', empty(79), { number: 5 }),
    prompt('prompt_front', empty(80), { front: true }),
    prompt('prompt_id_bad', empty(81), { prompt_id: 'abc' }),
    prompt('prompt_id_upper', empty(81), { prompt_id: 'AE13DCD4-F45E-46DD-A0C5-83924DC793B7' }),
    prompt('prompt_id_int', empty(81), { prompt_id: 12 }),
    { ...prompt('prompt_id_ok', empty(82), { prompt_id: ownId }), waitForEnd: BOTH },
    { ...prompt('prompt_id_reuse_after_done', empty(83), { prompt_id: ownId }), waitForEnd: BOTH },
    got('history_reused', `/history/${ownId}`),
    { ...prompt('prompt_extra_data_null', empty(84), { extra_data: null }), breaks: '0.3.64' },
    prompt('prompt_extra_null_client', empty(84), { extra_data: null, client_id: 'x' }),
    // In 0.3.64 the worker has died two requests before.
    {
      ...prompt('prompt_partial_targets', empty(85), { partial_execution_targets: ['2'] }),
      waitForEnd: ['0.33.0'],
    },
    prompt('prompt_partial_targets_none', empty(86), { partial_execution_targets: [] }),
    posted('interrupt_empty', '/interrupt', ''),
    posted('interrupt_array', '/interrupt', '[]'),
    posted('interrupt_unknown', '/interrupt', JSON.stringify({ prompt_id: randomUUID() })),
    posted('free_empty', '/free', ''),
    posted('free_ok', '/free', '{"unload_models": true}'),
    posted('queue_post_empty', '/queue', ''),
    posted('queue_del_unknown', '/queue', '{"delete": ["nope"]}'),
    posted('history_post_empty', '/history', '{}'),
    got('history_unknown', '/history/nope'),
    got('history_max_bad', '/history?max_items=abc'),
    got('history_max0', '/history?max_items=0'),
    got('history_max2', '/history?max_items=2'),
    got('history_max2_off0', '/history?max_items=2&offset=0'),
    got('job_unknown', `/api/jobs/${randomUUID()}`),
    got('job_no_prefix', '/jobs'),
    got('job_double_prefix', '/api/api/jobs?limit=1&status=completed'),
    got('jobs_limit', '/api/jobs?limit=2&status=completed'),
    got('jobs_bad_status', '/api/jobs?status=foo'),
    got('jobs_bad_limit', '/api/jobs?limit=0'),
    got('jobs_sort_bad', '/api/jobs?sort_by=foo'),
    posted('job_cancel_unknown', `/api/jobs/${randomUUID()}/cancel`, ''),
    posted('jobs_cancel_bad', '/api/jobs/cancel', '{"job_ids": ["nope"]}'),
    posted('jobs_cancel_none', '/api/jobs/cancel', JSON.stringify({ job_ids: [randomUUID()] })),
    got('assets_disabled', '/api/assets'),
    got('ws_plain', '/ws'),
    got('unknown_route', '/nope'),
    posted('method_not_allowed', '/nope', ''),
    got('object_info_unknown', '/object_info/Nope'),
    got('models_unknown', '/models/nope'),
    got('userdata_nodir', '/userdata'),
    got('settings', '/settings'),
    got('users', '/users'),
    got('origin_mismatch', '/prompt', { origin: 'http://evil.example' }),
    got('origin_cross_site', '/prompt', { 'sec-fetch-site': 'cross-site' }),
    got('origin_ok', '/prompt'),
    { name: 'options', path: '/prompt', method: 'OPTIONS' },
  ];
}
