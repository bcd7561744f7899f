/**
 * Finishes what was left undone of holds: one that counts and that the log does not tell of, a release that was approved and not carried out. Who
 * began with it ended, or was kept waiting for too long; each step can be taken twice, so every replica looks.
 */
import { setTimeout as delay } from 'node:timers/promises';
import type { JsonObject } from '../chain/canonical.ts';
import type { ApprovedRelease, StoredHold } from '../store/holds.ts';
import { placedDetails, placedId, releasedId } from './hold-routes.ts';

export interface HoldKeeperDeps {
  readonly store: {
    untold(silentMs: number): Promise<readonly StoredHold[]>;
    activate(id: string): Promise<void>;
    approved(silentMs: number): Promise<readonly ApprovedRelease[]>;
    release(proposal: string): Promise<void>;
  };
  /** Appends an entry to a tenant's `log_administration`, once, however often it is told under the same id. */
  readonly append: (
    tenant: string,
    event: {
      readonly id: string;
      readonly action: string;
      readonly actor?: JsonObject;
      readonly target: JsonObject;
      readonly reason?: string;
      readonly details: JsonObject;
    },
  ) => Promise<void>;
  readonly log: { info(facts: object, message: string): void; warn(facts: object, message: string): void };
  readonly timing: { readonly everyMs: number; readonly silentMs: number };
}

export class HoldKeeper {
  readonly #deps: HoldKeeperDeps;
  readonly #stop = new AbortController();
  #running: Promise<void> | undefined;

  constructor(deps: HoldKeeperDeps) {
    this.#deps = deps;
  }

  start(): void {
    this.#running ??= this.#run();
  }

  async close(): Promise<void> {
    this.#stop.abort();
    await this.#running;
  }

  async #run(): Promise<void> {
    const { signal } = this.#stop;
    let said = '';
    while (!signal.aborted) {
      try {
        await this.#look();
        said = '';
      } catch (error) {
        const reason = error instanceof Error ? error.message : String(error);
        if (reason !== said && !signal.aborted) this.#deps.log.warn({ reason }, 'holds could not be looked after');
        said = reason;
      }
      await delay(this.#deps.timing.everyMs, undefined, { signal, ref: false }).catch(() => {});
    }
  }

  async #look(): Promise<void> {
    const { store, append, log, timing } = this.#deps;
    for (const hold of await store.untold(timing.silentMs)) {
      const { id, tenant, reason, placedBy } = hold;
      const event = { id: placedId(id), action: 'hold.placed', actor: { type: 'user', id: placedBy }, reason };
      await append(tenant, { ...event, target: { type: 'hold', id }, details: placedDetails(hold) });
      await store.activate(id);
      log.info({ hold: id }, 'a hold that was not told of is told');
    }
    for (const { id, hold, tenant } of await store.approved(timing.silentMs)) {
      const event = { id: releasedId(id), action: 'hold.released', target: { type: 'hold', id: hold } };
      await append(tenant, { ...event, details: { release: id } });
      await store.release(id);
      log.info({ hold }, 'a release that was approved is carried out');
    }
  }
}
