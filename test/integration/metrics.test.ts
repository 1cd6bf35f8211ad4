// What ops see at /metrics of the whole service.
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { startComfyDouble, type ComfyDouble } from '../doubles/comfyui/index.ts';
import { startTestService, type TestService } from '../support/service.ts';

let comfy: ComfyDouble;
let service: TestService;

beforeAll(async () => {
  comfy = await startComfyDouble();
  service = await startTestService({ comfyUrls: [comfy.url] });
});
afterAll(async () => {
  await service.stop();
  await comfy.stop();
});

describe('the metrics', () => {
  it('count instances and jobs by status, with a 0 where there are none', async () => {
    await service.until<{ items: { status: string }[] }>(
      '/instances',
      ({ items }) => items[0]?.status === 'ready',
    );
    const text = await (await fetch(`${service.url}/metrics`)).text();
    expect(text).toContain('comfyfleet_instances{status="ready"} 1');
    expect(text).toContain('comfyfleet_instances{status="draining"} 0');
    expect(text).toContain('comfyfleet_jobs{status="queued"} 0');
    expect(text).toContain('comfyfleet_queue_messages{queue="');
  });
});
