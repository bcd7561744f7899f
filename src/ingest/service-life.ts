/**
 * Start and stop, in the deployment's own log: `service.started` once the service listens, `service.stopped` before it goes. Who is killed
 * leaves no stop: the next start from the same host and port says so (`details.previous`).
 *
 * A service that may not append yet (its database was started, and the signer has not looked at it) is up all the same: its start is told
 * as soon as it can be.
 */
import type { JsonObject } from '../chain/canonical.ts';
import { formatInstant } from '../chain/retain-until.ts';
import { Problem } from '../errors.ts';
import type { OwnEvent } from './own-events.ts';
import type { Teller } from './teller.ts';

export const STARTED_ACTION = 'service.started';
export const STOPPED_ACTION = 'service.stopped';

export interface ServiceLifeOptions {
  /** Which of the replicas it is, as far as that outlives it: `host:port`, the port as configured. */
  readonly name: string;
  /** What else a start tells: versions. */
  readonly facts: JsonObject;
  readonly append: (event: OwnEvent) => Promise<unknown>;
  /** Returns the action of the newest entry about the replica of this name. */
  readonly lastAction: (name: string) => Promise<string | undefined>;
  readonly teller: Teller;
  readonly wallClock: () => number;
}

const STOP_MAX_MS = 1000;

export class ServiceLife {
  readonly #options: ServiceLifeOptions;
  #started: Promise<boolean> | undefined;

  constructor(options: ServiceLifeOptions) {
    this.#options = options;
  }

  /** Tells of the start, once. Resolves when that is stored, with false where it never will be. */
  start(): Promise<boolean> {
    const { facts, append, teller, wallClock } = this.#options;
    const startedAt = formatInstant(wallClock());
    this.#started ??= teller.tell(STARTED_ACTION, async () => {
      const details = { ...facts, startedAt, previous: await this.#previous() };
      await append({ action: STARTED_ACTION, outcome: 'success', target: this.#target, details });
    });
    return this.#started;
  }

  /** Tells of the stop, where the start was told; takes a second at most. Resolves with whether it was stored. */
  async stop(): Promise<boolean> {
    if (this.#started === undefined) return false;
    const told = async (): Promise<boolean> => {
      if (!(await this.#started)) return false;
      await this.#options.append({ action: STOPPED_ACTION, outcome: 'success', target: this.#target });
      return true;
    };
    const late = Promise.withResolvers<boolean>();
    const timer = setTimeout(() => late.resolve(false), STOP_MAX_MS);
    try {
      return await Promise.race([told().catch(() => false), late.promise]);
    } finally {
      clearTimeout(timer);
    }
  }

  get #target(): JsonObject {
    return { type: 'service', id: this.#options.name };
  }

  /** How this replica ended when it ran last. */
  async #previous(): Promise<'stopped' | 'not_stopped' | 'unknown'> {
    try {
      const last = await this.#options.lastAction(this.#options.name);
      if (last === undefined) return 'unknown';
      return last === STOPPED_ACTION ? 'stopped' : 'not_stopped';
    } catch (error) {
      // Later it may be known; where what is stored is wrong, it never is.
      if (error instanceof Problem) throw error;
      return 'unknown';
    }
  }
}
