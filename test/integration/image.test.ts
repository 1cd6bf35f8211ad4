import { execFile } from 'node:child_process';
import { cp, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { fileTypeFromBuffer } from 'file-type';
import { GenericContainer, getContainerRuntimeClient, Wait, type StartedTestContainer } from 'testcontainers';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { buildImage, findCompose, hasEngine, hasImage, repository } from '../support/docker.ts';
import { makeVideo } from '../support/video-job.ts';

const execute = promisify(execFile);
const key = 'a-key-for-tests-with-enough-characters';
const headers = { authorization: `Bearer ${key}` };
const buildLimitMs = 600_000;

const engine = await hasEngine('the image and the compose file are not tried');

describe.skipIf(!engine)('the image', () => {
  let container: StartedTestContainer;
  const url = () => `http://${container.getHost()}:${container.getMappedPort(8400)}`;

  beforeAll(async () => {
    await buildImage('comfyfleet:test', 'Dockerfile');
    container = await new GenericContainer('comfyfleet:test')
      .withEnvironment({ API_KEYS: `me=${key}`, COMFYUI_URLS: 'http://127.0.0.1:9' })
      .withExposedPorts(8400)
      .withWaitStrategy(Wait.forHealthCheck())
      .start();
  }, buildLimitMs);
  afterAll(() => container?.stop());

  it('runs as an ordinary user, with a database of its own', async () => {
    const user = await container.exec(['id', '--user', '--name']);
    expect(user.output.trim()).toBe('node');
    const answer = await fetch(`${url()}/health`);
    expect(answer.status).toBe(200);
    expect(await answer.json()).toMatchObject({ status: 'ok', parts: { database: { status: 'ok' } } });
    const owner = await container.exec(['stat', '--format=%U', '/data/postgres/PG_VERSION']);
    expect(owner.output.trim()).toBe('node');
  });

  it('shows its documentation to everybody, and answers calls only with the key', async () => {
    expect((await fetch(`${url()}/docs/`)).status).toBe(200);
    const refused = await fetch(`${url()}/instances`);
    expect(refused.status).toBe(401);
    expect(await refused.json()).toMatchObject({ code: 'unauthorized' });
    const answer = await fetch(`${url()}/instances`, { headers });
    expect(answer.status).toBe(200);
    expect(await answer.json()).toMatchObject({ items: [{ provider: 'static' }] });
  });

  it('lets keys be made inside', async () => {
    const made = await container.exec(['node', 'scripts/api-keys.js', 'create', 'visitor']);
    const visitor = { authorization: `Bearer ${made.stdout.trim()}` };
    // The running service looks for new keys every few seconds.
    await vi.waitFor(
      async () => expect((await fetch(`${url()}/jobs`, { headers: visitor })).status).toBe(200),
      15_000,
    );
  });

  it('holds no packages for development, and no file that its user could change', async () => {
    const found = await container.exec(['sh', '-c', 'ls node_modules && find . -writable ! -type l']);
    const lock: { packages: Record<string, { dev?: boolean }> } = JSON.parse(
      await readFile(join(repository, 'package-lock.json'), 'utf8'),
    );
    // Some packages are needed for development and by others that are not.
    const isForDevelopment = (name: string) => lock.packages[`node_modules/${name}`]?.dev === true;
    const names = found.stdout.trim().split('\n');
    expect(names).toContain('fastify');
    expect(names.filter((name) => isForDevelopment(name) || name.startsWith('.'))).toEqual([]);
  });

  it('stops in order when it is told to, and goes on where it was', async () => {
    const before = await instances();
    const client = await getContainerRuntimeClient();
    const raw = client.container.getById(container.getId());
    await raw.stop({ t: 30 });
    const { State } = await raw.inspect();
    expect(State.ExitCode).toBe(0);
    await container.restart();
    expect(await instances()).toEqual(before);
  });

  async function instances(): Promise<string[]> {
    const answer = await fetch(`${url()}/instances`, { headers });
    const { items } = (await answer.json()) as { items: { id: string }[] };
    return items.map(({ id }) => id);
  }
});

const compose = engine ? await findCompose('the compose file is not tried') : null;
const hasPostgres =
  compose !== null && (await hasImage('postgres:18-bookworm', 'the compose file is not tried'));

describe.skipIf(!hasPostgres)('docker compose up', () => {
  const project = `comfyfleet-test-${process.pid}`;
  const started = new AsyncDisposableStack();
  let url: string;

  beforeAll(async () => {
    const folder = await cloneWithSettings({
      POSTGRES_PASSWORD: 'a-password-for-tests',
      API_KEYS: `me=${key}`,
      COMFYUI_URLS: 'http://comfyui:8188',
      INSTANCE_POLL_SECONDS: '0.5',
      // Published on a free port of this machine.
      PORT: '0',
    });
    started.defer(() => rm(folder, { recursive: true, force: true }));
    const run = async (...args: string[]): Promise<string> => {
      const [command = 'docker', ...words] = [...(compose ?? []), '--project-name', project, ...args];
      const { stdout } = await execute(command, words, { cwd: folder, maxBuffer: 100_000_000 });
      return stdout.trim();
    };
    started.defer(async () => void (await run('down', '--volumes', '--rmi', 'local')));
    await run('up', '--build', '--detach');
    url = `http://${await run('port', 'comfyfleet', '8400')}`;
    await buildImage('comfyui-double:test', 'test/doubles/comfyui/Dockerfile');
    const comfyui = await new GenericContainer('comfyui-double:test')
      .withNetworkMode(`${project}_default`)
      .withNetworkAliases('comfyui')
      .withWaitStrategy(Wait.forLogMessage('http://'))
      .start();
    started.defer(async () => void (await comfyui.stop()));
    await vi.waitFor(async () => expect((await fetch(`${url}/health/ready`)).status).toBe(200), 60_000);
  }, buildLimitMs);
  afterAll(() => started.disposeAsync(), 120_000);

  it('brings up a service that uses the PostgreSQL beside it', async () => {
    const answer = await fetch(`${url}/health`);
    expect(await answer.json()).toMatchObject({ status: 'ok', parts: { database: { status: 'ok' } } });
    expect((await fetch(`${url}/jobs`)).status).toBe(401);
  });

  it('makes a video of a picture', async () => {
    expect(await fileTypeFromBuffer(await makeVideo(url, headers))).toMatchObject({ mime: 'video/mp4' });
  });
});

/** What of the repository is needed to build the image, in a folder of its own, with a .env. */
async function cloneWithSettings(settings: Record<string, string>): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'comfyfleet-compose-'));
  const names = ['.dockerignore', 'Dockerfile', 'docker-compose.yml', 'LICENSE', 'package.json'];
  const sources = ['package-lock.json', 'tsconfig.json', 'tsconfig.build.json', 'scripts', 'src'];
  for (const name of [...names, ...sources]) {
    await cp(join(repository, name), join(folder, name), { recursive: true });
  }
  const lines = Object.entries(settings).map(([name, value]) => `${name}=${value}\n`);
  await writeFile(join(folder, '.env'), lines.join(''));
  return folder;
}
