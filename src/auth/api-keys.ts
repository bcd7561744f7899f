/**
 * API keys: what services send that have no identity provider (docs/access.md).
 *
 * A key is `sealog_<id>_<secret>`: 16 hex digits that name it, and 32 random bytes in base64url, in their one canonical text. Of the
 * secret only the SHA-256 is stored. A slow, salted hash would be wrong here: it makes guessing dear where people choose secrets, and
 * nobody guesses 32 random bytes, while every request would pay for it.
 *
 * Keys that were presented are remembered, so that the hot path waits for nothing; what is remembered was asked of the database at most
 * 5 s ago. So a revocation holds at once on the replica that made it (`forget`), and within 5 s on every other. Where the database does
 * not answer, a key that it confirmed within the last 60 s goes on; every other gets 503. Expiry is looked at each time.
 *
 * A secret that is refused has been looked for first, since another replica may have made the key, or rotated it, a moment ago. So a
 * flood of made-up keys must be cheap: however many there are, one query is under way at a time, for all that wait, and there are at most
 * 100 a second; keys that are known go before strangers; and the same text again is refused from memory. Nobody is refused without
 * having been looked for. An unknown id takes the way of a wrong secret, step by step, so that the time tells neither from the other.
 */
import { hash as digest, randomBytes, timingSafeEqual } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import { Problem } from '../errors.ts';
import type { Caller } from '../http/caller.ts';
import { API_KEY_PREFIX, type Verify } from './access.ts';
import { permissionsOf } from './roles.ts';

/** A key as it is stored. */
export interface StoredApiKey {
  readonly id: string;
  readonly tenant: string;
  readonly hash: Uint8Array;
  /** Whether the secret of `hash` was ever used. */
  readonly hashUsed: boolean;
  /** The secret before the last rotation, and until when it holds. */
  readonly previousHash: Uint8Array | null;
  readonly previousUntil: Date | null;
  /** Null = all. */
  readonly categories: readonly string[] | null;
  readonly sites: readonly string[] | null;
  readonly expiresAt: Date;
  readonly revokedAt: Date | null;
  /** To the hour. */
  readonly lastUsedAt: Date | null;
}

export interface ApiKeysOptions {
  /** Returns those of the keys that there are; rejects where the database does not answer. */
  readonly find: (ids: readonly string[]) => Promise<readonly StoredApiKey[]>;
  /** Notes when keys were used, and with which secret. */
  readonly noteUses: (uses: readonly ApiKeyUse[]) => Promise<void>;
  /** Milliseconds since 1970. */
  readonly wallClock: () => number;
  /** Milliseconds since whenever. */
  readonly monotonic?: () => number;
}

export interface ApiKeyUse {
  readonly id: string;
  readonly hash: Uint8Array;
}

/** A new secret: its text is shown once, its hash is stored. */
export interface NewSecret {
  readonly text: string;
  readonly hash: Uint8Array;
}

/** What is remembered of a key holds so long; where the database is away, so much longer. */
const FRESH_MS = 5000;
const AWAY_MAX_MS = 60_000;
/** From this age on it is asked for again while it still holds, so that a key in use never waits. */
const AHEAD_MS = 2000;
/** After a query that failed none is tried for so long: what would wait for it is answered at once. */
const RETRY_MS = 1000;
/** Where uses could not be noted. */
const USES_RETRY_MS = 10_000;
/** A text that was refused is remembered so long. None of them becomes good: a key is told only when it is stored, and what has ended stays so. */
const REFUSED_MS = 60_000;
/** Between two queries: at most 100 a second. */
const PAUSE_MS = 10;
/** A key's row is at most 26 KB (100 sites), usually 300 bytes; the least recently asked for goes first. */
const KNOWN_MAX = 5000;
const REFUSED_MAX = 10_000;
/** Of a query. 500 rows by their primary key take about 2 ms. */
const BATCH_MAX = 500;
/** Ids that wait to be looked for: ten queries. */
const WAITING_MAX = 5000;
/** A change is remembered while queries that began before it may be under way: seconds. */
const CHANGED_MAX = 1000;
const HOUR_MS = 3_600_000;

const SECRET_BYTES = 32;
const ID_BYTES = 8;
const KEY = /^sealog_([0-9a-f]{16})_([A-Za-z0-9_-]{43})$/;
const NO_HASH = new Uint8Array(32);

/** Returns an id for a new key. */
export function newApiKeyId(): string {
  return randomBytes(ID_BYTES).toString('hex');
}

/** Returns a new secret for a key. */
export function newApiKeySecret(id: string): NewSecret {
  const secret = randomBytes(SECRET_BYTES);
  return { text: `${API_KEY_PREFIX}${id}_${secret.toString('base64url')}`, hash: sha256(secret) };
}

/** What somebody presents: the id, and the hash of the secret that came with it. */
interface Presented {
  readonly id: string;
  readonly hash: Uint8Array;
}

/** A key, with its caller. */
interface Known {
  readonly key: StoredApiKey;
  readonly caller: Caller;
  /** When it was asked for (monotonic), and behind how many changes. */
  readonly askedAt: number;
  readonly changes: number;
}

/** Those who wait for what the database says to an id; undefined: there is no such key. */
type Asked = PromiseWithResolvers<Known | undefined>;
type Waiting = Map<string, Asked>;
type Batch = ReadonlyMap<string, readonly Asked[]>;

export class ApiKeys {
  readonly #options: Required<ApiKeysOptions>;
  readonly #known = new Map<string, Known>();
  /** What was refused, and until when it is without another look. */
  readonly #refused = new Map<string, number>();
  /** Keys that were presented with the secret that is remembered, and all others. */
  readonly #urgent: Waiting = new Map();
  readonly #strangers: Waiting = new Map();
  /** Those whose query is under way. */
  readonly #asked = new Set<string>();
  /** How many changes were made here, and the last of each key: what was asked before it is out of date. */
  #changes = 0;
  readonly #changed = new Map<string, number>();
  readonly #uses = new Map<string, ApiKeyUse>();
  #usesFrom = Number.NEGATIVE_INFINITY;
  #awayUntil = Number.NEGATIVE_INFINITY;
  #working: Promise<void> | undefined;
  #closed = false;

  constructor(options: ApiKeysOptions) {
    this.#options = { monotonic: () => performance.now(), ...options };
  }

  /** Returns whose key it is. Throws, or rejects with, a Problem: `unauthenticated` whatever is wrong, or 503. */
  readonly verify: Verify<string> = (text) => {
    const presented = readKey(text);
    if (presented === undefined) throw new Problem('unauthenticated');
    const known = this.#known.get(presented.id);
    const age = this.#age(known);
    const isGood = this.#holds(known?.key ?? NO_KEY, presented.hash);
    if (known !== undefined && age < AWAY_MAX_MS && isGood) {
      if (age >= FRESH_MS && !this.#isAway()) return this.#verifyAgain(presented);
      if (age >= AHEAD_MS && !this.#isAway() && !this.#asked.has(presented.id))
        this.#lookFor(presented.id, this.#urgent);
      return this.#admit(known, presented.hash);
    }
    if (this.#wasRefused(presented)) throw new Problem('unauthenticated');
    if (this.#isAway()) throw notReady();
    if (this.#strangers.size >= WAITING_MAX) throw new Problem('busy');
    return this.#lookFor(presented.id, this.#strangers).then((found) => this.#judge(presented, found));
  };

  /** To be called when a key was changed, before that is told: nothing that was known before is taken for true from then on. */
  forget(id: string): void {
    this.#known.delete(id);
    this.#changes += 1;
    remember(this.#changed, id, this.#changes, CHANGED_MAX);
  }

  /** Ends what is under way. */
  async close(): Promise<void> {
    this.#closed = true;
    await this.#working;
  }

  /** The secret is the one that is remembered, but that is too old. */
  async #verifyAgain(presented: Presented): Promise<Caller> {
    let found: Known | undefined;
    try {
      found = await this.#lookFor(presented.id, this.#urgent);
    } catch (error) {
      const known = this.#known.get(presented.id);
      const isGood = this.#age(known) < AWAY_MAX_MS && this.#holds(known?.key ?? NO_KEY, presented.hash);
      if (known === undefined || !isGood) throw error;
      return this.#admit(known, presented.hash);
    }
    return this.#judge(presented, found);
  }

  #judge(presented: Presented, found: Known | undefined): Caller | Promise<Caller> {
    if (found !== undefined && this.#isOutOfDate(found)) {
      return this.#lookFor(presented.id, this.#urgent).then((again) => this.#judge(presented, again));
    }
    // For an unknown id the same is done as for a wrong secret.
    const isGood = this.#holds(found?.key ?? NO_KEY, presented.hash);
    if (found === undefined || !isGood) {
      remember(this.#refused, mark(presented), this.#options.monotonic() + REFUSED_MS, REFUSED_MAX);
      throw new Problem('unauthenticated');
    }
    // Unless somebody knows better.
    if (this.#age(this.#known.get(presented.id)) >= this.#age(found))
      remember(this.#known, presented.id, found, KNOWN_MAX);
    return this.#admit(found, presented.hash);
  }

  /** Says whether a secret opens a key now. */
  #holds(key: StoredApiKey, hash: Uint8Array): boolean {
    const now = this.#options.wallClock();
    const isCurrent = timingSafeEqual(hash, key.hash);
    const isPrevious = timingSafeEqual(hash, key.previousHash ?? NO_HASH);
    const opens = isCurrent || (isPrevious && key.previousUntil !== null && now < key.previousUntil.getTime());
    return opens && key.revokedAt === null && now < key.expiresAt.getTime();
  }

  #admit({ key, caller }: Known, hash: Uint8Array): Caller {
    const isNew = !key.hashUsed && timingSafeEqual(hash, key.hash);
    const isLongAgo = key.lastUsedAt === null || this.#options.wallClock() - key.lastUsedAt.getTime() > HOUR_MS;
    if ((isNew || isLongAgo) && !this.#uses.has(key.id) && this.#options.monotonic() >= this.#usesFrom) {
      this.#uses.set(key.id, { id: key.id, hash });
      this.#work();
    }
    return caller;
  }

  #wasRefused(presented: Presented): boolean {
    const until = this.#refused.get(mark(presented));
    return until !== undefined && this.#options.monotonic() < until;
  }

  #isAway(): boolean {
    return this.#options.monotonic() < this.#awayUntil;
  }

  #isOutOfDate({ key, changes }: Known): boolean {
    return (this.#changed.get(key.id) ?? 0) > changes;
  }

  #age(known: Known | undefined): number {
    return known === undefined ? Number.POSITIVE_INFINITY : this.#options.monotonic() - known.askedAt;
  }

  // Looking

  /** Resolves with what the database says to a query that begins from now on: one that is under way may have seen what was before. */
  #lookFor(id: string, waiting: Waiting): Promise<Known | undefined> {
    const there = waiting.get(id);
    if (there !== undefined) return there.promise;
    const asked: Asked = Promise.withResolvers();
    // Who asks ahead of time does not listen.
    asked.promise.catch(() => {});
    waiting.set(id, asked);
    this.#work();
    return asked.promise;
  }

  #work(): void {
    this.#working ??= this.#workOff().finally(() => {
      this.#working = undefined;
      if (this.#hasWork()) this.#work();
    });
  }

  #hasWork(): boolean {
    return this.#urgent.size + this.#strangers.size + this.#uses.size > 0;
  }

  async #workOff(): Promise<void> {
    // All that comes with the same turn goes with the same query.
    await Promise.resolve();
    while (this.#hasWork()) {
      await this.#ask(this.#nextBatch());
      await this.#tellUses();
      await delay(PAUSE_MS);
    }
  }

  #nextBatch(): Batch {
    const batch = new Map<string, Asked[]>();
    for (const waiting of [this.#urgent, this.#strangers]) {
      for (const [id, asked] of waiting) {
        if (batch.size >= BATCH_MAX && !batch.has(id)) break;
        batch.set(id, [...(batch.get(id) ?? []), asked]);
        waiting.delete(id);
      }
    }
    return batch;
  }

  async #ask(batch: Batch): Promise<void> {
    if (batch.size === 0) return;
    const [askedAt, changes] = [this.#options.monotonic(), this.#changes];
    for (const id of batch.keys()) this.#asked.add(id);
    try {
      if (this.#closed || this.#isAway()) throw notReady();
      const found = await this.#options.find([...batch.keys()]);
      const keys = new Map(found.map((key) => [key.id, { key, caller: callerOf(key), askedAt, changes }]));
      for (const [id, waiting] of batch) {
        const known = keys.get(id);
        // One that was changed meanwhile is not: it was forgotten.
        if (this.#known.has(id)) this.#renew(id, known);
        for (const asked of waiting) asked.resolve(known);
      }
    } catch (cause) {
      if (!this.#isAway()) this.#awayUntil = this.#options.monotonic() + RETRY_MS;
      const error = cause instanceof Problem && cause.status === 503 ? cause : notReady(cause);
      for (const asked of [...batch.values()].flat()) asked.reject(error);
    } finally {
      this.#asked.clear();
    }
  }

  /** Of a key that is remembered. */
  #renew(id: string, known: Known | undefined): void {
    if (known === undefined || known.key.revokedAt !== null) this.#known.delete(id);
    else remember(this.#known, id, known, KNOWN_MAX);
  }

  /** Nothing hangs on it: where it fails, a later use tells it. */
  async #tellUses(): Promise<void> {
    const uses = [...this.#uses.values()].slice(0, BATCH_MAX);
    if (uses.length === 0) return;
    const isTold = await this.#options.noteUses(uses).then(
      () => true,
      () => false,
    );
    if (!isTold) this.#usesFrom = this.#options.monotonic() + USES_RETRY_MS;
    const now = new Date(this.#options.wallClock());
    for (const { id, hash } of uses) {
      this.#uses.delete(id);
      const known = this.#known.get(id);
      if (!isTold || known === undefined) continue;
      const hashUsed = known.key.hashUsed || timingSafeEqual(hash, known.key.hash);
      this.#known.set(id, { ...known, key: { ...known.key, hashUsed, lastUsedAt: now } });
    }
  }
}

/** The key of an id that nobody has. */
const NO_KEY: StoredApiKey = {
  id: '',
  tenant: '',
  hash: NO_HASH,
  hashUsed: true,
  previousHash: null,
  previousUntil: null,
  categories: null,
  sites: null,
  expiresAt: new Date(0),
  revokedAt: null,
  lastUsedAt: null,
};

/** Reads a key's text; undefined where it is none, or not the one text of its bytes (the last digit of 43 has two bits to spare). */
function readKey(text: string): Presented | undefined {
  const match = KEY.exec(text);
  if (match === null) return undefined;
  const [, id, secret] = match as unknown as [string, string, string];
  const bytes = Buffer.from(secret, 'base64url');
  return bytes.toString('base64url') === secret ? { id, hash: sha256(bytes) } : undefined;
}

function sha256(bytes: Uint8Array): Uint8Array {
  return digest('sha256', bytes, 'buffer');
}

/** Names a key's text without holding it. */
function mark({ id, hash }: Presented): string {
  return `${id} ${Buffer.from(hash).toString('base64')}`;
}

function callerOf({ id, tenant, sites, categories }: StoredApiKey): Caller {
  const roles = ['service'];
  return {
    ...{ tenant, subject: id, credential: 'api_key', roles },
    permissions: permissionsOf(roles, tenant, sites ?? undefined),
    ...(sites === null ? {} : { sites }),
    ...(categories === null ? {} : { categories }),
  };
}

/** Puts it at the end of a map, and drops what is at its beginning. */
function remember<V>(map: Map<string, V>, name: string, value: V, max: number): void {
  map.delete(name);
  map.set(name, value);
  if (map.size > max) map.delete(map.keys().next().value ?? '');
}

function notReady(cause?: unknown): Problem {
  return new Problem('not_ready', { detail: 'the database does not answer', cause });
}
