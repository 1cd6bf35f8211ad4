// What a rented machine shows to the outside while its container runs: the image's proxy on the mapped ports.
import { makeCertificate } from './certificate.ts';
import { watchHeartbeat } from './dead-man.ts';
import type { Edge } from './edge.ts';
import { openEdge } from './edge.ts';
import type { Installation } from './installation.ts';
import { installComfyUi } from './installation.ts';
import type { Rental } from './rental.ts';
import type { World } from './world.ts';

export interface Container {
  /** Whether it has opened all ports that it will ever open. */
  isBooted(): boolean;
  /** The machine answers nothing more. */
  freeze(): void;
  thaw(): void;
  /** Closes its ports and opens those that the rental has by now. */
  reopen(): Promise<void>;
  transferred(): { receivedBytes: number; sentBytes: number };
  /** Connections are reset and the ports refused; ComfyUI is the installation's. Rejects when a port could not be opened. */
  stop(): Promise<void>;
}

/** Starts what the rental's plan says, and opens its ports when the image has booted. */
export function startContainer(world: World, rental: Rental): Container {
  const { phases, edge: edgeKnobs } = world.knobs;
  const previousEnded = rental.containerEnded;
  let edges: Edge[] = [];
  const closed: Edge[] = [];
  let reopened: Promise<void> = Promise.resolve();
  let isBooted = false;
  let isStopped = false;
  let isReady = false;
  let isFrozen = rental.fate === 'black-holed-from-start';

  if (rental.plan.comfyUiArgs !== null) {
    rental.installation ??= installation(world, rental, rental.plan.comfyUiArgs);
    rental.installation.start();
  }
  const opened = Promise.withResolvers<void>();
  // A failure is reported by `stop`.
  opened.promise.catch(() => {});
  const boot = world.clock.schedule(phases.bootMs, () => opened.resolve(openEdges()));
  const deadMan = rental.plan.deadMan === null ? null : watchHeartbeat(world, rental, rental.plan.deadMan);
  const provisioning = world.clock.schedule(phases.bootMs + phases.provisioningMs, () => {
    isReady = rental.fate !== 'provisioning-forever';
    world.changed();
  });

  async function openEdges(): Promise<void> {
    await previousEnded;
    for (const site of rental.plan.sites) {
      const mapping = rental.ports.find((entry) => entry.containerPort === `${site.externalPort}/tcp`);
      if (mapping === undefined || isStopped) continue;
      rental.certificate ??= site.https ? makeCertificate() : null;
      const edge = await openEdge({
        host: world.host,
        port: mapping.held.port,
        site,
        certificate: edgeKnobs.httpsFailsOpen ? null : await rental.certificate,
        upstream: () => (site.servesComfyUi && isReady ? comfyUiUrl(rental) : null),
        refusalMs: () => edgeKnobs.refusalMs,
        placeholderAs200: () => edgeKnobs.placeholderAs200,
        onRefused: () => {
          world.counters.edgeRefusals += 1;
        },
      });
      edges.push(edge);
      if (isFrozen) edge.freeze();
    }
    isBooted = true;
    world.changed();
  }

  async function closeEdges(): Promise<void> {
    const open = edges;
    edges = [];
    closed.push(...open);
    await Promise.all(open.map((edge) => edge.close()));
  }

  return {
    isBooted: () => isBooted,
    freeze() {
      isFrozen = true;
      for (const edge of edges) edge.freeze();
    },
    thaw() {
      isFrozen = false;
      for (const edge of edges) edge.thaw();
    },
    transferred: () => totalTransfer([...closed, ...edges]),
    reopen() {
      // Before the boot it opens the right ones by itself.
      if (isBooted) reopened = reopened.then(closeEdges).then(openEdges);
      return reopened;
    },
    async stop() {
      isStopped = true;
      boot.cancel();
      provisioning.cancel();
      deadMan?.cancel();
      opened.resolve();
      await opened.promise;
      await reopened;
      await closeEdges();
    },
  };
}

function installation(world: World, rental: Rental, args: string[]): Installation {
  const { machine } = rental;
  const image = rental.request.image.replace('@vastai-automatic-tag', world.knobs.automaticTag);
  return installComfyUi(
    () =>
      world.startComfyUi({
        rentalId: rental.id,
        image,
        args,
        gpuName: machine.gpuName,
        vramMb: machine.vramMb,
        hasCudaMismatch: needsNewerDriver(image, machine.cudaVersion),
      }),
    world.changed,
  );
}

function comfyUiUrl(rental: Rental): URL | null {
  const url = rental.installation?.running()?.url;
  return url === undefined ? null : new URL(url);
}

/** An image built for CUDA 13 needs a driver for 13; one for 12.9 runs on every driver for 12. */
function needsNewerDriver(image: string, machineCuda: number): boolean {
  const wanted = /cuda-(\d+)\.\d+/.exec(image)?.[1];
  return wanted !== undefined && Number(wanted) > Math.trunc(machineCuda);
}

function totalTransfer(edges: Edge[]): { receivedBytes: number; sentBytes: number } {
  const total = { receivedBytes: 0, sentBytes: 0 };
  for (const edge of edges) {
    const { receivedBytes, sentBytes } = edge.transferred();
    total.receivedBytes += receivedBytes;
    total.sentBytes += sentBytes;
  }
  return total;
}
