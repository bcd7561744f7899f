/**
 * What is set of tenants, remembered: asked for at every request, so the hot path waits for nothing.
 *
 * What is used was asked of the database at most 5 s ago; so a change holds at once on the replica that made it (`put`), and within 5 s on every
 * other. Where the database does not answer, what was known of a tenant goes on for 60 s, after which its requests get 503: by then they
 * could not be answered anyway. One query is under way at a time, for all tenants that need one.
 */
import { Problem } from '../errors.ts';
import { burstOf, type Quota } from './quotas.ts';

/** As it is stored; of the quota null = the default, 0 = no limit. */
export interface StoredSetting {
  /** Higher = newer. */
  readonly number: number;
  readonly state: 'open' | 'closed';
  readonly quota: { readonly [limit in keyof Quota]: number | null };
}

export interface TenantSettingsOptions {
  /** Returns the settings of those of the tenants that there are; rejects where the database does not answer. */
  readonly find: (names: readonly string[]) => Promise<ReadonlyMap<string, StoredSetting>>;
  readonly defaults: Omit<Quota, 'burstEvents'>;
  /** Milliseconds since whenever. */
  readonly monotonic?: () => number;
}

export interface KnownTenant {
  /** False where there is none of that name. */
  readonly exists: boolean;
  readonly isClosed: boolean;
  readonly quota: Quota;
}

interface Remembered extends KnownTenant {
  readonly number: number;
  readonly askedAt: number;
}

/** What is remembered holds so long; where the database is away, so much longer in all. */
const FRESH_MS = 5000;
const AWAY_MAX_MS = 60_000;
/** From this age on it is asked for again while it still holds, so that a tenant in use never waits. */
const AHEAD_MS = 2000;
/** After a query that failed none is tried for so long: what would wait for it is answered at once. */
const RETRY_MS = 1000;
/** About 300 bytes each; the least recently asked for goes first. */
const REMEMBERED_MAX = 10_000;

export class TenantSettings {
  readonly #options: Required<TenantSettingsOptions>;
  readonly #known = new Map<string, Remembered>();
  readonly #wanted = new Set<string>();
  /** The query that is under way; never rejects. */
  #running: Promise<unknown> = Promise.resolve();
  /** The one after it, which asks for all that is wanted by then. */
  #next: Promise<void> | undefined;
  #failedAt = Number.NEGATIVE_INFINITY;

  constructor(options: TenantSettingsOptions) {
    this.#options = { monotonic: () => performance.now(), ...options };
  }

  /** Returns what is set of a tenant, at once where that is known. Rejects with, or throws, a Problem `not_ready`. */
  of(name: string): KnownTenant | Promise<KnownTenant> {
    const now = this.#options.monotonic();
    const known = this.#known.get(name);
    const age = known === undefined ? Number.POSITIVE_INFINITY : now - known.askedAt;
    const isAway = now - this.#failedAt < RETRY_MS;
    if (age > AHEAD_MS && !isAway) {
      const asked = this.#ask(name);
      if (age > FRESH_MS)
        return asked.then(
          () => this.#known.get(name) ?? this.#lastKnown(name),
          (cause) => this.#lastKnown(name, cause),
        );
    }
    return age <= FRESH_MS ? known! : this.#lastKnown(name);
  }

  /** Returns the quota that a request of the tenant was let in under, if it is still known. */
  quotaOf(name: string): Quota | undefined {
    return this.#known.get(name)?.quota;
  }

  /** Notes a setting that was made here. */
  put(name: string, setting: StoredSetting): void {
    this.#remember(name, setting, this.#options.monotonic());
  }

  #lastKnown(name: string, cause?: unknown): KnownTenant {
    const known = this.#known.get(name);
    if (known !== undefined && this.#options.monotonic() - known.askedAt <= AWAY_MAX_MS) return known;
    throw new Problem('not_ready', { detail: 'the database does not answer', cause });
  }

  #ask(name: string): Promise<void> {
    this.#wanted.add(name);
    if (this.#next === undefined) {
      this.#next = this.#running.then(() => this.#query());
      // Whoever asks ahead of time does not wait for it.
      this.#running = this.#next.catch(() => {});
    }
    return this.#next;
  }

  async #query(): Promise<void> {
    const names = [...this.#wanted];
    this.#wanted.clear();
    this.#next = undefined;
    const { find, monotonic } = this.#options;
    const askedAt = monotonic();
    try {
      const found = await find(names);
      for (const name of names) this.#remember(name, found.get(name), askedAt);
      this.#failedAt = Number.NEGATIVE_INFINITY;
    } catch (error) {
      this.#failedAt = monotonic();
      throw error;
    }
  }

  #remember(name: string, setting: StoredSetting | undefined, askedAt: number): void {
    const before = this.#known.get(name);
    const number = setting?.number ?? 0;
    // It was changed here while the database was asked.
    if (before !== undefined && before.number > number) return;
    const quota = before?.number === number ? before.quota : this.#quotaOf(setting);
    this.#known.delete(name);
    this.#known.set(name, {
      exists: setting !== undefined,
      isClosed: setting?.state === 'closed',
      quota,
      number,
      askedAt,
    });
    if (this.#known.size > REMEMBERED_MAX) this.#known.delete(this.#known.keys().next().value ?? name);
  }

  #quotaOf(setting: StoredSetting | undefined): Quota {
    const { defaults } = this.#options;
    const own = setting?.quota;
    const eventsPerSecond = own?.eventsPerSecond ?? defaults.eventsPerSecond;
    return {
      eventsPerSecond,
      burstEvents: own?.burstEvents ?? burstOf(eventsPerSecond),
      bytesPerSecond: own?.bytesPerSecond ?? defaults.bytesPerSecond,
      readsPerSecond: own?.readsPerSecond ?? defaults.readsPerSecond,
    };
  }
}
