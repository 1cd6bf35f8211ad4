// What we ask vast.ai to run.
import { describe, expect, it } from 'vitest';
import { loadConfig } from '../../src/config.ts';
import type { LaunchRequest, Offer } from '../../src/instances/provider.ts';
import { createBody, mappedPorts, minCudaOf, pinnedComfyUi } from '../../src/vast/recipe.ts';

const secret = 'Xk3-9_aBcDeFgHiJkLmNoPqRsTuVwXyZ0123456789a';

const offer: Offer = {
  offerId: '31415926',
  machineId: '33307',
  gpuName: 'RTX 4090',
  gpuCount: 1,
  vramGb: 24,
  ramGb: 62.9,
  cpuCores: 16,
  diskGb: 80,
  region: 'US',
  reliability: 0.99,
  downloadMbps: 1699,
  uploadMbps: 812,
  cudaVersion: 12.8,
  verified: true,
  pricePerHourUsd: 0.35,
  storagePricePerHourUsd: 0.017,
  downloadPricePerGbUsd: 0.002,
  uploadPricePerGbUsd: 0.002,
  remainingSeconds: 2_591_999,
};

function bodyWith(env: Record<string, string> = {}, changed: Partial<Offer> = {}) {
  const request: LaunchRequest = {
    offer: { ...offer, ...changed },
    label: 'cfy.prod.0198',
    secret,
    diskGb: 80,
    deadMan: null,
  };
  return createBody(loadConfig(env), request);
}

describe("the recipe for vast.ai's image", () => {
  it('starts the image, opens one port behind its login, and gives it our secret', () => {
    expect(bodyWith()).toEqual({
      client_id: 'me',
      image: 'vastai/comfy:v0.35.0-cuda-12.9-py312',
      disk: 80,
      label: 'cfy.prod.0198',
      runtype: 'ssh_direct',
      onstart: 'entrypoint.sh',
      target_state: 'running',
      cancel_unavail: true,
      env: {
        '-p 8188:8188': '1',
        PORTAL_CONFIG: 'localhost:8188:18188:/:ComfyUI',
        WEB_USERNAME: 'comfyfleet',
        WEB_PASSWORD: secret,
        ENABLE_HTTPS: 'true',
        COMFYUI_ARGS: '--disable-auto-launch --port 18188 --enable-cors-header',
        COMFYUI_API_BASE: 'http://localhost:18188',
        DATA_DIRECTORY: '/workspace/',
      },
    });
  });

  it('keeps the port and the header whatever arguments are added', () => {
    const { env } = bodyWith({ VAST_COMFYUI_ARGS: '--port 9999 --lowvram' });
    expect(env.COMFYUI_ARGS).toBe(
      '--port 9999 --lowvram --disable-auto-launch --port 18188 --enable-cors-header',
    );
  });

  it('never overrides the entrypoint that the run type args keeps', () => {
    const body = bodyWith({ VAST_RUNTYPE: 'args' });
    expect(body.runtype).toBe('args');
    expect(body).not.toHaveProperty('onstart');
  });

  it.each([
    [12.8, 'cuda-12.9'],
    [13, 'cuda-12.9'],
    [13.2, 'cuda-13.2'],
    [null, 'cuda-12.9'],
  ])('takes the tag for a driver of CUDA %s', (cudaVersion, tag) => {
    expect(bodyWith({}, { cudaVersion }).image).toContain(tag);
  });

  it('passes the provisioning script on', () => {
    const script = 'https://example.com/models.sh';
    expect(bodyWith({ VAST_PROVISIONING_SCRIPT: script }).env.PROVISIONING_SCRIPT).toBe(script);
  });

  it('lists known services of extra ports in the portal, so that the login guards them', () => {
    const { env } = bodyWith({ VAST_EXTRA_PORTS: '1111,8288,9000' });
    expect(env).toMatchObject({ '-p 1111:1111': '1', '-p 8288:8288': '1', '-p 9000:9000': '1' });
    expect(env.PORTAL_CONFIG).toBe(
      'localhost:8188:18188:/:ComfyUI|localhost:1111:11111:/:Instance Portal|localhost:8288:18288:/docs:API Wrapper',
    );
  });

  it('never opens the port that nothing guards, even when asked to', () => {
    const config = loadConfig({ VAST_EXTRA_PORTS: '18188,8188' });
    expect(mappedPorts(config)).toEqual([8188]);
  });

  it('keeps every value within the 256 characters that vast.ai takes', () => {
    const { env } = bodyWith({
      VAST_EXTRA_PORTS: '1111,8288,8384',
      VAST_COMFYUI_ARGS: '--x '.repeat(37),
      VAST_PROVISIONING_SCRIPT: `https://example.com/${'a'.repeat(236)}`,
    });
    expect(Math.max(...Object.values(env).map((value) => value.length))).toBeLessThanOrEqual(256);
  });
});

describe("the recipe for ai-dock's image", () => {
  const body = bodyWith({
    VAST_IMAGE_KIND: 'ai-dock',
    VAST_IMAGE: 'ghcr.io/ai-dock/comfyui',
    VAST_IMAGE_TAG: 'v2-cuda-12.1.1-base-22.04',
  });

  it('starts it its own way, with its login left on and our secret as its token', () => {
    expect(body.image).toBe('ghcr.io/ai-dock/comfyui:v2-cuda-12.1.1-base-22.04');
    expect(body.onstart).toBe('init.sh');
    expect(body.env).toMatchObject({
      '-p 8188:8188': '1',
      WEB_ENABLE_AUTH: 'true',
      WEB_TOKEN: secret,
      WEB_PASSWORD: secret,
    });
  });
});

it.each([
  ['v0.35.0-cuda-{cuda}-py312', 12],
  ['v0.35.0-cuda-13.2-py312', 13],
  ['latest', 0],
])('the tag %s needs a driver of at least CUDA %i', (VAST_IMAGE_TAG, min) => {
  expect(minCudaOf({ VAST_IMAGE_TAG })).toBe(min);
});

it.each([
  ['vastai/comfy', 'v0.35.0-cuda-{cuda}-py312', '0.35.0'],
  ['vastai/comfy', 'v0.35.0.1-cuda-13.2', null],
  ['vastai/comfy', '@vastai-automatic-tag', null],
  ['somebody/comfy', 'v2.1.0', null],
])('of the image %s, the tag %s pins ComfyUI %s', (VAST_IMAGE, VAST_IMAGE_TAG, version) => {
  expect(pinnedComfyUi({ VAST_IMAGE, VAST_IMAGE_TAG })).toBe(version);
});

describe('the dead-man switch in the start script', () => {
  const deadMan = { limitSeconds: 1800, firstSeconds: 3000 };
  const start = (env: Record<string, string>) =>
    createBody(loadConfig(env), { offer, label: 'cfy.prod.0198', secret, diskGb: 80, deadMan }).onstart ?? '';

  it('runs before the image, reads the heartbeat on loopback and knows no secret of ours', () => {
    const script = start({ VAST_COMFYUI_INTERNAL_PORT: '18188', VASTAI_API_KEY: 'account-key' });
    expect(script).toMatch(/^# dead-man-switch limit=1800 first=3000 port=18188 heartbeat=/);
    expect(script).toMatch(/&\nentrypoint\.sh$/);
    expect(script).toContain('http://127.0.0.1:18188/view?');
    expect(script).not.toContain(secret);
    expect(script).not.toContain('account-key');
  });

  it('leaves more than half of the 4048 characters that vast.ai takes', () => {
    expect(start({}).length).toBeLessThan(2024);
  });

  it('is left out where it cannot run', () => {
    expect(start({ VAST_IMAGE_KIND: 'ai-dock' })).toBe('init.sh');
    expect(start({ VAST_RUNTYPE: 'args' })).toBe('');
  });
});
