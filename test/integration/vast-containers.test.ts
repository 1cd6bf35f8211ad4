// The main job on a rented machine whose ComfyUI is a container of its own, from the rental to its end.
import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { fileTypeFromBuffer } from 'file-type';
import { afterEach, describe, expect, it } from 'vitest';
import { containerComfyUi } from '../doubles/vast/container-comfyui.ts';
import { instantPhases, startVastDouble } from '../doubles/vast/index.ts';
import { buildImage, hasEngine } from '../support/docker.ts';
import { startTestService } from '../support/service.ts';
import { makeVideo } from '../support/video-job.ts';

const IMAGE = 'comfyui-double:test';
const inContainer = await hasEngine('no rental is played by a container');

describe.skipIf(!inContainer)('a rental that is a container', () => {
  let started = new AsyncDisposableStack();
  afterEach(async () => {
    await started.disposeAsync();
    started = new AsyncDisposableStack();
  });

  it(
    'runs a job, keeps its files over a reboot, and leaves nothing behind',
    { timeout: 600_000 },
    async () => {
      await buildImage(IMAGE, 'test/doubles/comfyui/Dockerfile');
      const vast = await startVastDouble({
        knobs: { phases: instantPhases },
        startComfyUi: containerComfyUi(IMAGE),
      });
      started.defer(() => vast.stop());
      const service = await startTestService({ vast });
      started.defer(() => service.stop());

      const { body: requested } = await service.call<{ id: string }>('/instances', {
        method: 'POST',
        json: {},
      });
      const path = `/instances/${requested.id}`;
      const ready = await service.until<{ rentals: { providerInstanceId: string }[] }>(
        path,
        (instance) => 'status' in instance && instance.status === 'ready',
        60_000,
      );
      const rentalId = Number(ready.rentals[0]?.providerInstanceId);
      const [container = ''] = await containersOf(rentalId);
      expect(await fileTypeFromBuffer(await makeVideo(service.url))).toMatchObject({ mime: 'video/mp4' });
      const outputs = await filesIn(container);
      expect(outputs).not.toEqual([]);

      const rebooted = await fetch(`${vast.url}/api/v0/instances/reboot/${rentalId}/`, {
        method: 'PUT',
        headers: { authorization: `Bearer ${vast.apiKey}` },
      });
      expect(rebooted.status).toBe(200);
      await service.until<{ status: string }>(path, ({ status }) => status === 'ready', 60_000);
      expect(await fileTypeFromBuffer(await makeVideo(service.url))).toMatchObject({ mime: 'video/mp4' });
      expect(await filesIn(container)).toEqual(expect.arrayContaining(outputs));

      await service.call(path, { method: 'DELETE' });
      await service.until<{ status: string }>(path, ({ status }) => status === 'terminated', 60_000);
      await expect.poll(() => containersOf(rentalId), { timeout: 30_000 }).toEqual([]);
    },
  );
});

async function containersOf(rentalId: number): Promise<string[]> {
  return docker('ps', '--all', '--quiet', '--filter', `label=comfyfleet.rental=${rentalId}`);
}

async function filesIn(container: string): Promise<string[]> {
  return docker('exec', container, 'find', '/tmp/comfyui/output', '-type', 'f');
}

/** The lines that the command prints. */
async function docker(...args: string[]): Promise<string[]> {
  const { stdout } = await promisify(execFile)('docker', args);
  return stdout.split('\n').filter((line) => line !== '');
}
