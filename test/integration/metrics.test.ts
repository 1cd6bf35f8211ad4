// What ops see at /metrics of the whole service.
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { startComfyDouble, type ComfyDouble } from '../doubles/comfyui/index.ts';
import { heldBytes } from '../support/held-bytes.ts';
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

  it('hold no service that has stopped', async () => {
    const stopped = await startAndStop();
    await expect
      .poll(
        () => {
          heldBytes();
          return stopped.deref() === undefined;
        },
        // Each look at a large heap takes its time.
        { interval: 500 },
      )
      .toBe(true);
  });
});

/** In a function of its own, whose variables are gone with it. */
async function startAndStop(): Promise<WeakRef<object>> {
  const other = await startTestService({});
  // A connection that is kept alive would keep the service for seconds.
  const answer = await fetch(`${other.url}/metrics`, { headers: { connection: 'close' } });
  expect(await answer.text()).toContain('nodejs_gc_duration_seconds');
  await other.stop();
  return new WeakRef(other.service.database);
}
