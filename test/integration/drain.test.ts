import { expect, test } from 'vitest';
import { openEvents } from '../support/job-events.ts';
import { startTestService } from '../support/service.ts';
import { emptyImage } from '../support/workflows.ts';

test('a service that stops first lets a balancer know and goes on answering, then sends listeners elsewhere', async () => {
  const running = await startTestService({ env: { DRAIN_SECONDS: '1' } });
  const { url } = running;
  const { body } = await running.call<{ id: string }>('/jobs', {
    method: 'POST',
    json: { workflow: emptyImage },
  });
  const stream = await openEvents(`${url}/jobs/${body.id}/events`);
  await stream.next();
  expect((await running.call('/health/ready')).status).toBe(200);
  const begun = performance.now();
  const stopping = running.service.stop();
  expect(await running.call('/health/ready')).toMatchObject({
    status: 503,
    body: { detail: 'The service is stopping.' },
  });
  expect((await running.call(`/jobs/${body.id}`)).status).toBe(200);
  const late = await openEvents(`${url}/jobs/${body.id}/events`);
  expect(await late.next()).toMatchObject({ data: { status: 'queued' } });
  await Promise.all([stream.rest(), late.rest()]);
  expect(performance.now() - begun).toBeGreaterThan(990);
  expect([stream.retryMs, late.retryMs].every((ms) => ms !== null && ms <= 1000)).toBe(true);
  await stopping;
  await expect(fetch(`${url}/health/live`)).rejects.toThrow('fetch failed');
  await running.stop();
});
