/**
 * Calls without a credential to logs that the operator made public (`SEALOG_PUBLIC_LOGS`): so many a second from one network, and so many in
 * all, on each replica. What one network gets is enough to keep up with, and to copy, a large log; what all get leaves the service to its callers.
 */
import { Problem } from '../errors.ts';
import { networkOf } from '../http/client-address.ts';
import { type Quota, Quotas } from './quotas.ts';

/** A log of 100 million entries is copied in an hour: 256 entries a tile. */
const OF_NETWORK = readsOf(100);
/** What a tenant gets by default. */
const OF_ALL = readsOf(1000);
/** Of which is remembered what they asked for: about 500 bytes each. */
const NETWORKS_MAX = 10_000;

export class Strangers {
  readonly #networks: Quotas;
  /** On its own, so that many networks that are new do not make it forget. */
  readonly #all: Quotas;

  /** `now` is a monotonic clock in milliseconds. */
  constructor(now?: () => number) {
    this.#networks = new Quotas(now, NETWORKS_MAX);
    this.#all = new Quotas(now);
  }

  /** How many networks are remembered. */
  get held(): number {
    return this.#networks.held.tenants;
  }

  /** Lets a request of an address (`normalAddress`) in, or throws a Problem `quota`. */
  admit(address: string): void {
    try {
      this.#networks.takeRead(asker(networkOf(address)), OF_NETWORK);
      this.#all.takeRead(asker('all'), OF_ALL);
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      // In other words: nobody has a quota here.
      throw new Problem('quota', { detail: 'too many calls without a credential', retryAfter: error.retryAfter ?? 1 });
    }
  }
}

/** Nobody's credential: who is counted takes the place of a tenant. */
function asker(tenant: string) {
  return { tenant, credential: 'token', subject: '' } as const;
}

function readsOf(readsPerSecond: number): Quota {
  return { eventsPerSecond: 0, burstEvents: 1, bytesPerSecond: 0, readsPerSecond };
}
