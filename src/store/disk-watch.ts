/**
 * How full the file systems are that the service writes to: in embedded mode that of the database, and always those of the signer's folder and of
 * month keys that are files. (The disk of a PostgreSQL elsewhere is watched there: a server does not tell it.)
 *
 * A full disk loses nothing and stops everything, so somebody has to hear of it before: at 75 % there is time, at 90 % there is none. Each level is
 * told once, and again only after it was left by some margin.
 */
import { stat, statfs } from 'node:fs/promises';

/** Percent from which on it is told; 0 = below all of them. */
export const DISK_LEVELS = [75, 90] as const;
export type DiskLevel = 0 | (typeof DISK_LEVELS)[number];

export interface DiskState {
  /** What of ours is on it: `data`, `signer`, `keys`; where several are, the first of them. */
  readonly disk: string;
  /** 0 to 1, of what an ordinary user may use. */
  readonly used: number;
  readonly freeBytes: number;
  readonly level: DiskLevel;
}

export interface DiskWatchOptions {
  readonly folders: readonly { readonly disk: string; readonly path: string }[];
  /** Called when a disk comes to a higher level. */
  readonly onFuller: (state: DiskState) => void;
  readonly lookEveryMs?: number;
}

/** At 200 MB a second, the fastest that logs grow here, the last tenth of a 100 GB disk takes 50 s. */
const LOOK_EVERY_MS = 10_000;
/** A disk that goes up and down around a level is told of once. */
const MARGIN_PERCENT = 2;

export class DiskWatch {
  readonly #options: DiskWatchOptions;
  #states: readonly DiskState[] = [];
  #timer: NodeJS.Timeout | undefined;

  constructor(options: DiskWatchOptions) {
    this.#options = options;
  }

  get states(): readonly DiskState[] {
    return this.#states;
  }

  /** Looks now, and from now on. */
  async start(): Promise<void> {
    await this.look();
    const { lookEveryMs = LOOK_EVERY_MS } = this.#options;
    this.#timer = setInterval(() => void this.look(), lookEveryMs);
    this.#timer.unref();
  }

  stop(): void {
    clearInterval(this.#timer);
  }

  /** Does not reject: a folder that is not there, or not any more, is somebody else's alarm. */
  async look(): Promise<void> {
    const before = new Map(this.#states.map((state) => [state.disk, state.level]));
    const states = new Map<number, DiskState>();
    for (const { disk, path } of this.#options.folders) {
      try {
        const { dev } = await stat(path);
        if (states.has(dev)) continue;
        const { blocks, bfree, bavail, bsize } = await statfs(path);
        // As `df` has it: what only root may use counts as neither used nor free.
        const used = blocks === 0 ? 0 : (blocks - bfree) / (blocks - bfree + bavail);
        states.set(dev, { disk, used, freeBytes: bavail * bsize, level: levelOf(100 * used, before.get(disk) ?? 0) });
      } catch {
        // Told where it is written to.
      }
    }
    this.#states = [...states.values()];
    for (const state of this.#states) if (state.level > (before.get(state.disk) ?? 0)) this.#options.onFuller(state);
  }
}

function levelOf(percent: number, before: DiskLevel): DiskLevel {
  const reached = DISK_LEVELS.findLast((level) => percent >= level) ?? 0;
  const kept = DISK_LEVELS.findLast((level) => level <= before && percent >= level - MARGIN_PERCENT) ?? 0;
  return reached > kept ? reached : kept;
}
