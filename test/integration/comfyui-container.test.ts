import { fileTypeFromBuffer } from 'file-type';
import { GenericContainer, Wait } from 'testcontainers';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { startComfyDouble } from '../doubles/comfyui/index.ts';
import { buildImage, hasEngine } from '../support/docker.ts';
import { startTestService, type TestService } from '../support/service.ts';
import { makeVideo } from '../support/video-job.ts';

const inContainer = await hasEngine('ComfyUI is played within the process of the test');

describe(`the service with a ComfyUI in ${inContainer ? 'a container' : 'the same process'}`, () => {
  const started = new AsyncDisposableStack();
  let service: TestService;

  beforeAll(async () => {
    const url = inContainer ? await startInContainer() : await startInProcess();
    service = await startTestService({ comfyUrls: [url] });
    started.defer(() => service.stop());
  }, 600_000);
  afterAll(() => started.disposeAsync());

  async function startInContainer(): Promise<string> {
    await buildImage('comfyui-double:test', 'test/doubles/comfyui/Dockerfile');
    const container = await new GenericContainer('comfyui-double:test')
      .withExposedPorts(8188)
      .withWaitStrategy(Wait.forHttp('/system_stats', 8188))
      .start();
    started.defer(async () => void (await container.stop()));
    return `http://${container.getHost()}:${container.getMappedPort(8188)}`;
  }

  async function startInProcess(): Promise<string> {
    const double = await startComfyDouble();
    started.defer(() => double.stop());
    return double.url;
  }

  it('makes a video of a picture', async () => {
    const made = await makeVideo(service.url);
    expect(await fileTypeFromBuffer(made)).toMatchObject({ mime: 'video/mp4' });
  });
});
