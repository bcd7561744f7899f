/**
 * The keys of the identity provider: fetched from its JWKS address, kept, and looked at again in the background.
 *
 * - What was last good stays in use while the provider is down or answers nonsense, for a day. After that, and before there ever was a set,
 *   nobody can say whether a token is good: `current()` is undefined, and callers are told to come again.
 * - A key that the provider takes away is gone with the answer that lacks it. Who remembers something by these keys compares what
 *   `current()` returns: a set that changed in any way is another Map.
 * - A token with a key that is not in the set may be the first after a rotation: the set is fetched for it, by one call for all who ask, and not
 *   again within 30 s whoever asks; a name that was then not there is not asked for again for five minutes.
 * - The address is the operator's, and the calls go through the guard of addresses (http/outgoing.ts). `file:` is for plants without a way to
 *   the provider: somebody brings the file.
 *
 * Ages are measured by the monotonic clock: setting the time neither ages nor renews a key.
 */
import { constants } from 'node:fs';
import { open } from 'node:fs/promises';
import { isIPv4 } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { type Outgoing, OutgoingError, outgoing } from '../http/outgoing.ts';
import { type KeySetContents, KeySetError, type PassedOver, parseKeySet, type TokenKeys } from './json-web-keys.ts';

export interface KeySetOptions {
  /** `https:`, `http:` of a loopback host, or `file:`; see `keySetUrlProblem`. */
  readonly url: string;
  /** CIDRs of addresses that may be called though they are not public. */
  readonly allowAddresses: readonly string[];
  readonly log: KeySetLog;
  readonly timing?: Partial<KeySetTiming>;
  /** Milliseconds of a clock that nobody sets. For tests. */
  readonly monotonic?: () => number;
}

export interface KeySetLog {
  debug(facts: object, message: string): void;
  info(facts: object, message: string): void;
  warn(facts: object, message: string): void;
}

export interface KeySetTiming {
  /** Between two looks at the provider. */
  readonly refreshMs: number;
  /** Between two looks at a file, which cost nothing. */
  readonly fileRefreshMs: number;
  /** After a failure. */
  readonly retryMs: number;
  /** After a failure, as long as there never was a set: what starts together is soon there. */
  readonly firstMs: number;
  /** Between two fetches for the sake of unknown keys. */
  readonly unknownMs: number;
  /** A name that the provider did not know is not asked for again so long. */
  readonly absentMs: number;
  /** A set that could not be renewed for longer is not used. */
  readonly ageMaxMs: number;
  /** For a whole fetch. */
  readonly timeoutMs: number;
}

export interface KeySetStatus {
  /** Since the provider last confirmed the set; undefined = never. */
  readonly ageSeconds: number | undefined;
  readonly keys: number;
  readonly passedOver: number;
  /** Fetches that failed, ever. */
  readonly failures: number;
}

export const KEY_SET_TIMING: KeySetTiming = {
  refreshMs: 5 * 60_000,
  fileRefreshMs: 10_000,
  retryMs: 10_000,
  firstMs: 2000,
  unknownMs: 30_000,
  absentMs: 5 * 60_000,
  ageMaxMs: 24 * 3_600_000,
  timeoutMs: 5000,
};
/** A set of 100 keys with their certificates has half of it. */
const ANSWER_BYTES_MAX = 512 * 1024;
/** Names of keys that were not there; strangers choose them. */
const ABSENT_MAX = 1000;
/** While it goes on, a failure is told again after so many. */
const TELL_EVERY = 60;

export class KeySet {
  readonly #options: KeySetOptions;
  readonly #timing: KeySetTiming;
  readonly #now: () => number;
  readonly #read: () => Promise<Uint8Array>;
  readonly #outgoing: Outgoing;
  /** Where it comes from, as the log may name it: without path and query, which may carry secrets. */
  readonly #from: string;
  #keys: TokenKeys = new Map();
  #passedOver: ReadonlyMap<PassedOver, number> = new Map();
  /** When the set was last confirmed. */
  #confirmedAt: number | undefined;
  #fetching: Promise<void> | undefined;
  #lookedForUnknownAt = Number.NEGATIVE_INFINITY;
  /** Name → until when it is not asked for; the oldest first. */
  readonly #absent = new Map<string, number>();
  #failures = 0;
  #failuresInARow = 0;
  #timer: NodeJS.Timeout | undefined;
  #closed = false;

  constructor(options: KeySetOptions) {
    const { url, allowAddresses, log, monotonic = () => performance.now() } = options;
    this.#options = options;
    this.#timing = { ...KEY_SET_TIMING, ...options.timing };
    this.#now = monotonic;
    const { protocol, origin } = new URL(url);
    // Without TLS the answer must come from this machine, whatever a name service says of `localhost`.
    const pinned = protocol === 'http:' ? { resolve: async () => LOOPBACK } : {};
    this.#outgoing = outgoing({ allowAddresses, log, ...pinned });
    this.#from = protocol === 'file:' ? url : origin;
    this.#read = protocol === 'file:' ? () => this.#inTime(readFile(fileURLToPath(url))) : () => this.#get(url);
  }

  /** Looks for the set once, then again and again until `close`. Resolves after the first time, whatever came of it: at most `timeoutMs`. */
  async start(): Promise<void> {
    await this.refresh();
    this.#schedule();
  }

  /** Fetches the set, or waits for the fetch that is under way. Does not reject: what went wrong is in the log and in `status`. */
  refresh(): Promise<void> {
    this.#fetching ??= this.#fetch().finally(() => {
      this.#fetching = undefined;
    });
    return this.#fetching;
  }

  /** Returns the keys, the same Map as long as nothing changed; undefined when none can be trusted now. */
  current(): TokenKeys | undefined {
    if (this.#keys.size === 0 || this.#confirmedAt === undefined) return undefined;
    return this.#now() - this.#confirmedAt <= this.#timing.ageMaxMs ? this.#keys : undefined;
  }

  /** Fetches the set for the sake of a key that is not in it. Returns undefined when that is not to be done now. */
  lookFor(kid: string): Promise<void> | undefined {
    const { unknownMs, absentMs } = this.#timing;
    const now = this.#now();
    if (now < (this.#absent.get(kid) ?? 0)) return undefined;
    // It began before the key was asked for, so that it proves nothing about it: the next may fetch again.
    if (this.#fetching !== undefined) return this.#fetching;
    if (now < this.#lookedForUnknownAt + unknownMs) return undefined;
    this.#lookedForUnknownAt = now;
    const failures = this.#failures;
    return this.refresh().then(() => {
      if (this.#failures > failures || this.#keys.has(kid)) return;
      this.#absent.delete(kid);
      this.#absent.set(kid, this.#now() + absentMs);
      if (this.#absent.size > ABSENT_MAX) this.#absent.delete(this.#absent.keys().next().value ?? '');
    });
  }

  get status(): KeySetStatus {
    return {
      ageSeconds: this.#confirmedAt === undefined ? undefined : (this.#now() - this.#confirmedAt) / 1000,
      keys: this.#keys.size,
      passedOver: count(this.#passedOver),
      failures: this.#failures,
    };
  }

  async close(): Promise<void> {
    this.#closed = true;
    clearTimeout(this.#timer);
    this.#outgoing.close();
    await this.#fetching;
  }

  #schedule(): void {
    if (this.#closed) return;
    const { refreshMs, fileRefreshMs, retryMs, firstMs } = this.#timing;
    const usual = this.#from.startsWith('file:') ? fileRefreshMs : refreshMs;
    const retry = this.#confirmedAt === undefined ? firstMs : retryMs;
    const wait = this.#failuresInARow === 0 ? usual : Math.min(usual, retry);
    // The process need not live for it.
    this.#timer = setTimeout(() => void this.refresh().then(() => this.#schedule()), wait).unref();
  }

  async #fetch(): Promise<void> {
    const { log } = this.#options;
    try {
      const contents = parseKeySet(await this.#read());
      const isNew = this.#confirmedAt === undefined || !this.#isKnown(contents);
      this.#confirmedAt = this.#now();
      if (this.#failuresInARow > 0) log.info({ from: this.#from }, 'the keys of the identity provider are here again');
      this.#failuresInARow = 0;
      if (isNew) this.#take(contents);
    } catch (error) {
      if (this.#closed) return;
      this.#failures += 1;
      if (this.#failuresInARow % TELL_EVERY === 0) {
        const facts = { from: this.#from, why: reasonOf(error), ageSeconds: this.status.ageSeconds };
        log.warn(facts, 'the keys of the identity provider can not be had');
      }
      this.#failuresInARow += 1;
    }
  }

  #isKnown({ keys, passedOver }: KeySetContents): boolean {
    return areAlike(keys, this.#keys) && areAlike(passedOver, this.#passedOver);
  }

  #take({ keys, passedOver }: KeySetContents): void {
    const { log } = this.#options;
    const from = this.#from;
    if (!areAlike(keys, this.#keys)) {
      this.#keys = keys;
      this.#absent.clear();
    }
    this.#passedOver = passedOver;
    log.info({ from, keys: keys.size }, 'the keys of the identity provider are new');
    if (passedOver.size > 0)
      log.warn({ from, keys: Object.fromEntries(passedOver) }, 'keys of the identity provider are passed over');
    if (keys.size === 0) log.warn({ from }, 'the identity provider has no key that tokens could be checked with');
  }

  async #get(url: string): Promise<Uint8Array> {
    const { status, body } = await this.#outgoing.get(url, {
      headers: { accept: 'application/jwk-set+json, application/json' },
      timeoutMs: this.#timing.timeoutMs,
      answerBytesMax: ANSWER_BYTES_MAX,
    });
    if (status !== 200) throw new KeySetError(`the answer is ${status}`);
    return body;
  }

  /** A mount whose server is away answers never. */
  async #inTime<T>(work: Promise<T>): Promise<T> {
    const over = new AbortController();
    const late = delay(this.#timing.timeoutMs, undefined, { signal: over.signal }).then(() => {
      throw new KeySetError('it could not be read in time');
    });
    try {
      return await Promise.race([work, late]);
    } finally {
      over.abort();
      late.catch(() => {});
    }
  }
}

async function readFile(path: string): Promise<Uint8Array> {
  // What is no plain file, such as a pipe, would be waited for.
  const file = await open(path, constants.O_RDONLY | constants.O_NONBLOCK);
  try {
    if (!(await file.stat()).isFile()) throw new KeySetError('it is no file');
    const bytes = Buffer.alloc(ANSWER_BYTES_MAX + 1);
    let length = 0;
    for (;;) {
      const { bytesRead } = await file.read(bytes, length, bytes.length - length);
      length += bytesRead;
      if (length > ANSWER_BYTES_MAX) throw new KeySetError(`it is larger than ${ANSWER_BYTES_MAX} bytes`);
      if (bytesRead === 0) return bytes.subarray(0, length);
    }
  } finally {
    await file.close();
  }
}

/** Says what is wrong with an address of keys, or returns undefined. */
export function keySetUrlProblem(text: string): string | undefined {
  const url = URL.parse(text);
  if (url === null || !/^(https?|file):\/\//i.test(text)) return 'must be a URL: https://… or file:///…';
  if (url.username !== '' || url.password !== '') return 'must not hold credentials';
  if (url.protocol === 'file:') return isFilePath(url) ? undefined : 'must name a file of this machine: file:///path';
  if (url.protocol === 'http:' && !isLoopback(url.hostname))
    return 'must begin with https://: http:// is for a loopback host only';
  return undefined;
}

const LOOPBACK = [{ address: '127.0.0.1' }, { address: '::1' }];

/** `URL` has turned the odd spellings of addresses into the usual one. */
function isLoopback(hostname: string): boolean {
  return hostname === 'localhost' || hostname === '[::1]' || (isIPv4(hostname) && hostname.startsWith('127.'));
}

function isFilePath(url: URL): boolean {
  try {
    return url.host === '' && url.search === '' && url.hash === '' && fileURLToPath(url).length > 1;
  } catch {
    return false;
  }
}

/** Says whether two maps hold the same, whatever the order: providers change it from answer to answer. */
function areAlike<V>(a: ReadonlyMap<string, V>, b: ReadonlyMap<string, V>): boolean {
  const same = (one: V | undefined, other: V): boolean => JSON.stringify(one) === JSON.stringify(other);
  return a.size === b.size && [...a].every(([name, value]) => same(b.get(name), value));
}

function count(passedOver: ReadonlyMap<PassedOver, number>): number {
  return [...passedOver.values()].reduce((sum, one) => sum + one, 0);
}

/** Without what was received. */
function reasonOf(error: unknown): string {
  if (error instanceof KeySetError || error instanceof OutgoingError) return error.message;
  const { code, name } = error as NodeJS.ErrnoException;
  return code ?? name;
}
