// ComfyUI on the disk of a rental: its files outlive its process until the disk is lost.

/** A ComfyUI that listens on loopback, known only to the machine's proxy. */
export interface RentedComfyUi {
  /** Read for every request: it may be another one after a restart. */
  readonly url: string;
  /** The process ends; its files stay. */
  exit(): Promise<void>;
  /** A new process on the same files. */
  restart(): Promise<void>;
  /** Ends it with its files. */
  stop(): Promise<void>;
}

export interface ComfyUiOrder {
  rentalId: number;
  /** With the tag that the automatic one stands for. */
  image: string;
  /** The command line; its `--port` is the container's own and not to be listened on. */
  args: string[];
  gpuName: string;
  vramMb: number;
  /** The image needs a newer CUDA driver than the machine has: ComfyUI starts, and fails at its first kernel. */
  hasCudaMismatch: boolean;
}

export type StartComfyUi = (order: ComfyUiOrder) => Promise<RentedComfyUi>;

/** What is asked of it happens in that order, one after the other. */
export interface Installation {
  /** Undefined while it starts and when it is not to run. */
  running(): RentedComfyUi | undefined;
  start(): void;
  exit(): void;
  /** Everything asked for has happened and the files are gone. Rejects with the first failure. */
  discard(): Promise<void>;
}

export function installComfyUi(launch: () => Promise<RentedComfyUi>, onChange: () => void): Installation {
  const failures: unknown[] = [];
  let installed: RentedComfyUi | undefined;
  let isWanted = false;
  let isUp = false;
  let done: Promise<void> = Promise.resolve();
  // A failure is reported by `discard`, so that the double's end fails rather than the whole process now.
  const next = (step: () => Promise<void>) => {
    done = done
      .then(step)
      .catch((failure: unknown) => void failures.push(failure))
      .then(onChange);
  };
  return {
    running: () => (isWanted && isUp ? installed : undefined),
    start() {
      isWanted = true;
      next(async () => {
        if (installed === undefined) installed = await launch();
        else if (!isUp) await installed.restart();
        isUp = true;
      });
    },
    exit() {
      isWanted = false;
      next(async () => {
        if (!isUp) return;
        isUp = false;
        await installed?.exit();
      });
    },
    async discard() {
      isWanted = false;
      next(async () => {
        isUp = false;
        await installed?.stop();
        installed = undefined;
      });
      await done;
      if (failures.length > 0) throw new Error('ComfyUI behind a rental failed.', { cause: failures[0] });
    },
  };
}
