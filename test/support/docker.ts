// Containers for tests: whether they can run here, and the images of this repository.
import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { getContainerRuntimeClient } from 'testcontainers';

/** The root of the repository, from which its images are built. */
export const repository = fileURLToPath(new URL('../..', import.meta.url));

const execute = promisify(execFile);

/** Whether a container engine answers. Where none does, standard error says what comes of it; in CI that is an error. */
export async function hasEngine(consequence: string): Promise<boolean> {
  // Its image would have to be fetched, and each test removes its own containers.
  process.env['TESTCONTAINERS_RYUK_DISABLED'] ??= 'true';
  const client = await getContainerRuntimeClient().catch(() => null);
  // The command builds the images, because it says why it could not.
  const answers = client !== null && (await succeeds('docker', 'version'));
  return answers || doWithout('no container engine answers', consequence);
}

/** Whether the engine has an image, or can fetch it; otherwise as `hasEngine`. */
export async function hasImage(name: string, consequence: string): Promise<boolean> {
  return (
    (await succeeds('docker', 'image', 'inspect', name)) ||
    (await succeeds('docker', 'pull', '--quiet', name)) ||
    doWithout(`the image ${name} cannot be had`, consequence)
  );
}

/** The command of Docker Compose, whichever version there is, or null; otherwise as `hasEngine`. */
export async function findCompose(consequence: string): Promise<string[] | null> {
  if (await succeeds('docker', 'compose', 'version')) return ['docker', 'compose'];
  if (await succeeds('docker-compose', 'version')) return ['docker-compose'];
  doWithout('there is no Docker Compose', consequence);
  return null;
}

/** Builds an image of the repository. It is kept, so that the next build does only what has changed. */
export async function buildImage(name: string, dockerfile: string): Promise<void> {
  await execute('docker', ['build', '--quiet', '--tag', name, '--file', dockerfile, '.'], {
    cwd: repository,
    maxBuffer: 100_000_000,
  });
}

async function succeeds(command: string, ...args: string[]): Promise<boolean> {
  return execute(command, args, { timeout: 300_000 }).then(
    () => true,
    () => false,
  );
}

function doWithout(what: string, consequence: string): false {
  if (process.env['CI'] === 'true') throw new Error(`In CI nothing is left out, but ${what}.`);
  process.stderr.write(`NOT IN A CONTAINER: ${what}, so ${consequence}.\n`);
  return false;
}
