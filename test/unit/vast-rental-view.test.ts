// How an instance of vast.ai reads: phase by phase, and where its port is.
import { describe, expect, it } from 'vitest';
import type { ProviderCondition } from '../../src/instances/provider.ts';
import { rentalView } from '../../src/vast/rental-view.ts';
import { instanceRowSchema } from '../../src/vast/schemas.ts';

const secret = 'Xk3-9_aBcDeFgHiJkLmNoPqRsTuVwXyZ0123456789a';
const rules = { port: 8188, scheme: 'https' } as const;

const running = {
  id: 36_717_044,
  machine_id: 33_307,
  label: 'cfy-prod-7f3a',
  actual_status: 'running',
  intended_status: 'running',
  cur_state: 'running',
  next_state: 'running',
  status_msg: 'success, running vastai/comfy_v0.35.0-cuda-12.9-py312/ssh\n',
  extra_env: [
    ['-p 8188:8188', '1'],
    ['WEB_PASSWORD', secret],
  ],
  jupyter_token: '9f0c'.repeat(16),
  public_ipaddr: '203.0.113.20',
  ports: {
    '22/tcp': [{ HostIp: '0.0.0.0', HostPort: '37044' }],
    '8188/tcp': [
      { HostIp: '0.0.0.0', HostPort: '37708' },
      { HostIp: '::', HostPort: '37709' },
    ],
  },
  ssh_port: 37_044,
  dph_total: 0.3518,
  is_bid: false,
};

function view(changed: object) {
  return rentalView(instanceRowSchema.parse({ ...running, ...changed }), rules);
}

const address = { scheme: 'https', host: '203.0.113.20', port: 37_708 };
const loading: ProviderCondition = { kind: 'loading' };
const failed = (reason: string) => ({ kind: 'failed', reason });

describe('the condition of', () => {
  it.each<[string, object, object]>([
    [
      'an instance just created',
      { actual_status: null, cur_state: 'stopped', status_msg: null, ports: null },
      loading,
    ],
    ['a container being created', { actual_status: 'created', status_msg: null, ports: {} }, loading],
    [
      'an image being pulled',
      { actual_status: 'loading', status_msg: 'a1b2: Pull complete', ports: {} },
      loading,
    ],
    ['a status that is new to us', { actual_status: 'defrosting' }, loading],
    ['an instance that is up', {}, { kind: 'running', address }],
    [
      'an instance that is up and tells of an old error',
      { status_msg: 'Error response from daemon: manifest unknown' },
      { kind: 'running', address },
    ],
    [
      'a pull that failed a moment ago',
      { actual_status: 'loading', status_msg: 'Error response from daemon: manifest for x:y unknown' },
      failed('image_pull_failed'),
    ],
    [
      'a pull that failed minutes ago',
      {
        actual_status: 'loading',
        intended_status: 'stopped',
        cur_state: 'stopped',
        status_msg: 'pull access denied for x, repository does not exist\n',
      },
      failed('image_pull_failed'),
    ],
    [
      'a start that vast.ai gave up',
      { actual_status: 'loading', intended_status: 'stopped', status_msg: 'waiting' },
      failed('stopped_by_provider'),
    ],
    ['a container that died', { actual_status: 'exited', status_msg: 'bye' }, failed('exited')],
    ['a lost host', { actual_status: 'offline' }, failed('offline')],
    ['a lost agent', { actual_status: 'unknown' }, failed('unknown_to_provider')],
    [
      'a stopped instance whose text is old',
      { actual_status: 'exited', intended_status: 'stopped', cur_state: 'stopped', next_state: 'stopped' },
      failed('stopped_by_provider'),
    ],
    [
      'a bid that was outbid',
      {
        actual_status: 'stopped',
        intended_status: 'stopped',
        cur_state: 'stopped',
        next_state: 'stopped',
        is_bid: true,
        status_msg: '',
      },
      failed('outbid'),
    ],
    [
      'a start that waits for its GPU',
      { actual_status: 'exited', cur_state: 'stopped', status_msg: null },
      failed('exited'),
    ],
    ['a frozen instance', { actual_status: 'frozen' }, failed('stopped_by_provider')],
  ])('%s', (_, changed, condition) => {
    expect(view(changed).condition).toEqual(condition);
  });
});

describe('a failed start is told by its message', () => {
  it.each([
    ['loading', 'Error response from daemon: Get "https://registry": EOF', 'image_pull_failed'],
    ['created', 'Error response from daemon: no such device', 'container_failed'],
    ['loading', 'failed to pull image x', 'image_pull_failed'],
    ['loading', 'unauthorized: authentication required', 'image_pull_failed'],
    ['loading', 'failed to resolve reference "docker.io/x"', 'image_pull_failed'],
    ['loading', 'write /var/lib/docker: no space left on device', 'image_pull_failed'],
    ['loading', 'unexpected EOF', 'image_pull_failed'],
    ['loading', 'manifest for vastai/comfy:latest not found', 'image_pull_failed'],
    ['created', 'x: OCI runtime create failed: runc', 'container_failed'],
    ['created', 'Error response from daemon: OCI runtime create failed', 'container_failed'],
    [null, 'Error: GPU error, unable to start instance', 'container_failed'],
  ])('%s, "%s": %s', (actual_status, status_msg, reason) => {
    expect(view({ actual_status, status_msg, ports: {} }).condition).toEqual(failed(reason));
  });
});

describe('the address', () => {
  const portOf = (ports: unknown, ip: unknown = '203.0.113.20') => {
    const { condition } = view({ ports, public_ipaddr: ip });
    return condition.kind === 'running' ? condition.address : condition;
  };
  const entry = (HostIp: string, HostPort: unknown) => ({ HostIp, HostPort });

  it('takes the IPv4 entry wherever it stands', () => {
    const ports = { '8188/tcp': [entry('::', '1'), entry('0.0.0.0', '37708')] };
    expect(portOf(ports)).toEqual(address);
  });

  it('takes what there is when there is no IPv4 entry', () => {
    expect(portOf({ '8188/tcp': [entry('::', '37708')] })).toEqual(address);
  });

  it('does without the blanks around the IP', () => {
    expect(portOf(running.ports, ' 203.0.113.20 \n')).toEqual(address);
  });

  it.each([
    ['there are no ports', null],
    ['the map is empty', {}],
    ['the list of the port is empty', { '8188/tcp': [] }],
    ['only another port is mapped', { '22/tcp': [entry('0.0.0.0', '37044')] }],
    ['only UDP is mapped', { '8188/udp': [entry('0.0.0.0', '37708')] }],
    ['the port is no number', { '8188/tcp': [entry('0.0.0.0', '37708; rm')] }],
    ['the port is out of range', { '8188/tcp': [entry('0.0.0.0', '70000')] }],
    ['the port is 0', { '8188/tcp': [entry('0.0.0.0', '0')] }],
    ['the ports are numbers, as the OpenAPI says', [8188]],
  ])('is not there when %s', (_, ports) => {
    expect(portOf(ports)).toBeNull();
  });

  it.each([null, '', ' \n', 'evil.example.com'])('is not there when the IP is %j', (ip) => {
    expect(portOf(running.ports, ip)).toBeNull();
  });

  it('has the scheme of the settings', () => {
    const { condition } = rentalView(instanceRowSchema.parse(running), { port: 8188, scheme: 'http' });
    expect(condition).toEqual({ kind: 'running', address: { ...address, scheme: 'http' } });
  });
});

it('says who and where it is and what it costs', () => {
  expect(view({})).toMatchObject({
    providerInstanceId: '36717044',
    label: 'cfy-prod-7f3a',
    machineId: '33307',
    pricePerHourUsd: 0.3518,
    message: 'success, running vastai/comfy_v0.35.0-cuda-12.9-py312/ssh',
  });
});

it.each([0, -0.2])('takes a price of %d, which no machine has, for none', (dph_total) => {
  expect(view({ dph_total }).pricePerHourUsd).toBeNull();
});

it("keeps the machine's credentials out of the message", () => {
  const status_msg = `env ${running.jupyter_token} short-pass-1 ${secret}`;
  const extra_env = { WEB_PASSWORD: secret, MY_TOKEN: 'short-pass-1' };
  expect(view({ status_msg, extra_env }).message).toBe('env [removed] [removed] [removed]');
});
