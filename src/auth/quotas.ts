/**
 * Quotas: how much a tenant may ask for in a second, and of that one credential of it. In the memory of a replica, so each replica grants
 * the whole.
 *
 * Each limit is a bucket that fills at its rate up to its burst. A request is let in while there is at least one in it, before its body is
 * read, and pays at once for what it declares (admission.ts). What it turns out to hold beyond that is charged once it is known (`charge`). Both may
 * leave a debt; until that is paid, requests are refused with the seconds that it takes. So over time nobody gets more than his rate, and a
 * batch need not fit the burst. What was let in counts, whatever became of it; what was refused does not.
 *
 * While several credentials of a tenant are in use, each gets half of the tenant's rate and burst at most: one that floods leaves the others theirs.
 * Alone a credential gets all of it.
 *
 * A bucket that is full is one that was never used, so it is let go.
 */
import { Problem } from '../errors.ts';
import type { Caller } from '../http/caller.ts';

/** 0 = no limit. */
export interface Quota {
  readonly eventsPerSecond: number;
  /** Events that may come at once, at least 1; of no meaning without a rate. */
  readonly burstEvents: number;
  readonly bytesPerSecond: number;
  readonly readsPerSecond: number;
}

/** Whose quota it is that a request counts against. */
export type Asker = Pick<Caller, 'tenant' | 'credential' | 'subject'>;

/** Seconds of its rate that a limit lets through at once, where nothing else is said. Also for so long a credential counts as in use. */
export const BURST_SECONDS = 10;
/** Of the tenant's, while others of it are in use. */
const CREDENTIAL_SHARE = 0.5;
/** Buckets of credentials, about 200 bytes each; the oldest go first. */
const CREDENTIALS_MAX = 50_000;
const SWEEP_MS = 60_000;
/** After waiting for just as long as it was told to, nobody is refused for the last digit of a fraction. */
const ROUNDING = 1e-6;

interface Limit {
  /** Of what, for the words of a refusal. */
  readonly unit: 'events' | 'bytes' | 'requests';
  /** A second. */
  readonly rate: number;
  readonly burst: number;
}

/** The limits of one kind of request: of a tenant, and of a credential while others of the tenant are in use. */
interface Limits {
  readonly whole: readonly Limit[];
  readonly share: readonly Limit[];
}

export class Quotas {
  readonly #now: () => number;
  readonly #credentialsMax: number;
  /** By tenant; the least recently begun first. */
  readonly #ingest = new Map<string, Meter>();
  readonly #reads = new Map<string, Meter>();
  readonly #held = { credentials: 0 };
  #sweptAt: number;

  /** `now` is a monotonic clock in milliseconds. */
  constructor(now: () => number = () => performance.now(), credentialsMax = CREDENTIALS_MAX) {
    this.#now = now;
    this.#credentialsMax = credentialsMax;
    this.#sweptAt = now();
  }

  /** How many are remembered. */
  get held(): { tenants: number; credentials: number } {
    return { tenants: new Set([...this.#ingest.keys(), ...this.#reads.keys()]).size, ...this.#held };
  }

  /** Lets in a request that brings so many events and bytes, as far as is known. Throws a Problem `quota`. */
  takeEvents(asker: Asker, quota: Quota, events: number, bytes: number): void {
    const { ingest } = limitsOf(quota);
    if (ingest !== undefined) this.#take(this.#ingest, asker, ingest, [events, bytes]);
  }

  /** Lets in a request that reads. Throws a Problem `quota`. */
  takeRead(asker: Asker, quota: Quota): void {
    const { reads } = limitsOf(quota);
    if (reads !== undefined) this.#take(this.#reads, asker, reads, [1]);
  }

  /** Counts what a request that was let in turned out to bring besides; gives back where it was less. */
  charge(asker: Asker, quota: Quota, events: number, bytes: number): void {
    const { ingest } = limitsOf(quota);
    if (ingest !== undefined)
      this.#meter(this.#ingest, asker, ingest).pay(credentialOf(asker), [events, bytes], this.#now());
  }

  #take(meters: Map<string, Meter>, asker: Asker, limits: Limits, amounts: readonly number[]): void {
    const now = this.#now();
    if (now - this.#sweptAt > SWEEP_MS || this.#held.credentials > this.#credentialsMax) this.#sweep(now);
    const meter = this.#meter(meters, asker, limits);
    const credential = credentialOf(asker);
    const refusal = meter.refusal(credential, now);
    if (refusal !== undefined) throw new Problem('quota', refusal);
    meter.pay(credential, amounts, now);
  }

  /** Other limits than before begin anew, full. */
  #meter(meters: Map<string, Meter>, { tenant }: Asker, limits: Limits): Meter {
    const known = meters.get(tenant);
    if (known?.hasLimits(limits)) return known;
    known?.forget();
    const meter = new Meter(limits, this.#held);
    meters.set(tenant, meter);
    return meter;
  }

  /** Lets go what is full; where that is not enough, what is oldest, down to three quarters, so that this is not done again soon. */
  #sweep(now: number): void {
    this.#sweptAt = now;
    const all = [this.#ingest, this.#reads];
    const isTooMuch = this.#held.credentials > this.#credentialsMax;
    for (const meters of all) {
      for (const [tenant, meter] of meters) if (meter.sweep(now)) meters.delete(tenant);
    }
    for (const meters of isTooMuch ? all : []) {
      for (const [tenant, meter] of meters) {
        if (this.#held.credentials <= this.#credentialsMax * 0.75) return;
        meter.forget();
        meters.delete(tenant);
      }
    }
  }
}

/** What a tenant and its credentials used up of some limits. */
class Meter {
  readonly #limits: Limits;
  readonly #held: { credentials: number };
  readonly #all: readonly Bucket[];
  readonly #of = new Map<string, readonly Bucket[]>();
  /** The two credentials that asked last, and when: whether others than one are in use needs no more. */
  #last = { credential: '', at: Number.NEGATIVE_INFINITY };
  #lastOther = { credential: '', at: Number.NEGATIVE_INFINITY };

  constructor(limits: Limits, held: { credentials: number }) {
    this.#limits = limits;
    this.#held = held;
    this.#all = limits.whole.map(({ burst }) => new Bucket(burst));
  }

  hasLimits(limits: Limits): boolean {
    if (limits === this.#limits) return true;
    const own = this.#limits.whole;
    return limits.whole.every(({ rate, burst }, i) => rate === own[i]!.rate && burst === own[i]!.burst);
  }

  /** Says why a request is not let in, or nothing. The longest wait counts. */
  refusal(credential: string, now: number): { detail: string; retryAfter: number } | undefined {
    if (this.#last.credential !== credential) {
      this.#lastOther = this.#last;
      this.#last = { credential, at: now };
    }
    this.#last.at = now;
    let [longest, unit, whose] = [0, '', ''];
    for (const [limits, buckets, of] of this.#both(credential, now)) {
      for (const [i, limit] of limits.entries()) {
        const ms = buckets[i]!.waitMs(limit, now);
        if (ms > longest) [longest, unit, whose] = [ms, limit.unit, of];
      }
    }
    if (longest === 0) return undefined;
    const retryAfter = Math.max(1, Math.ceil(longest / 1000 - ROUNDING));
    return { detail: `more ${unit} than the quota of this ${whose} allows`, retryAfter };
  }

  pay(credential: string, amounts: readonly number[], now: number): void {
    for (const [limits, buckets] of this.#both(credential, now)) {
      for (const [i, limit] of limits.entries()) buckets[i]!.pay(limit, amounts[i]!, now);
    }
  }

  /** Lets go what is full; returns whether that is everything. */
  sweep(now: number): boolean {
    for (const [credential, buckets] of this.#of) {
      const limits = this.#limitsOf(credential, now);
      if (!buckets.every((bucket, i) => bucket.isFull(limits[i]!, now))) continue;
      this.#of.delete(credential);
      this.#held.credentials -= 1;
    }
    return this.#of.size === 0 && this.#all.every((bucket, i) => bucket.isFull(this.#limits.whole[i]!, now));
  }

  forget(): void {
    this.#held.credentials -= this.#of.size;
    this.#of.clear();
  }

  #both(credential: string, now: number): [readonly Limit[], readonly Bucket[], 'tenant' | 'credential'][] {
    const limits = this.#limitsOf(credential, now);
    let own = this.#of.get(credential);
    if (own === undefined) {
      own = limits.map(({ burst }) => new Bucket(burst));
      this.#of.set(credential, own);
      this.#held.credentials += 1;
    }
    return [
      [this.#limits.whole, this.#all, 'tenant'],
      [limits, own, 'credential'],
    ];
  }

  #limitsOf(credential: string, now: number): readonly Limit[] {
    const other = this.#last.credential === credential ? this.#lastOther : this.#last;
    return now - other.at > BURST_SECONDS * 1000 ? this.#limits.whole : this.#limits.share;
  }
}

/** Fills at a rate up to a burst. The level may be below zero: a debt. */
class Bucket {
  #level: number;
  #at: number | undefined;

  constructor(burst: number) {
    this.#level = burst;
  }

  isFull(limit: Limit, now: number): boolean {
    this.#fill(limit, now);
    return limit.rate === 0 || this.#level >= limit.burst;
  }

  /** Milliseconds until a request is let in; 0 = now. */
  waitMs(limit: Limit, now: number): number {
    this.#fill(limit, now);
    if (limit.rate === 0 || this.#level >= 1 - ROUNDING) return 0;
    return ((1 - this.#level) / limit.rate) * 1000;
  }

  pay(limit: Limit, amount: number, now: number): void {
    this.#fill(limit, now);
    if (limit.rate !== 0) this.#level -= amount;
  }

  #fill({ rate, burst }: Limit, now: number): void {
    const seconds = Math.max(0, now - (this.#at ?? now)) / 1000;
    this.#level = Math.min(burst, this.#level + seconds * rate);
    this.#at = now;
  }
}

/** A tenant's quota is one object for as long as it holds. */
const known = new WeakMap<Quota, { readonly ingest: Limits | undefined; readonly reads: Limits | undefined }>();

function limitsOf(quota: Quota): { readonly ingest: Limits | undefined; readonly reads: Limits | undefined } {
  const found = known.get(quota);
  if (found !== undefined) return found;
  const { eventsPerSecond, burstEvents, bytesPerSecond, readsPerSecond } = quota;
  const made = {
    ingest: shared([
      { unit: 'events', rate: eventsPerSecond, burst: burstEvents },
      { unit: 'bytes', rate: bytesPerSecond, burst: burstOf(bytesPerSecond) },
    ]),
    reads: shared([{ unit: 'requests', rate: readsPerSecond, burst: burstOf(readsPerSecond) }]),
  };
  known.set(quota, made);
  return made;
}

/** Undefined where nothing is limited. */
function shared(whole: readonly Limit[]): Limits | undefined {
  if (whole.every(({ rate }) => rate === 0)) return undefined;
  const share = whole.map(({ unit, rate, burst }) => {
    return { unit, rate: rate * CREDENTIAL_SHARE, burst: Math.max(1, burst * CREDENTIAL_SHARE) };
  });
  return { whole, share };
}

/** Returns what a rate lets through at once where nothing else is said. */
export function burstOf(rate: number): number {
  return Math.max(1, rate * BURST_SECONDS);
}

/** The subject of a token may have the same text as the id of a key. */
function credentialOf({ credential, subject }: Asker): string {
  return `${credential} ${subject}`;
}
