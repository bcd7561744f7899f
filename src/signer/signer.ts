/**
 * The signer: holds the lease, lets a database in or keeps it out, signs what grew, makes ticks, takes new keys into use, which the
 * operator made (`sealog keys rotate`) or two persons agreed on (docs/access.md), and opens new epochs where a policy was shortened
 * (docs/retention.md).
 *
 * Only a replica with the signer's folder has one, and one at a time signs: the folder is locked on its machine, the lease is a lock in the
 * database, and what is left (the same folder on two machines, before two databases) is caught by the mark (`mark.ts`).
 *
 * A server that was started, or that takes over, is kept from appending (`store/append.ts` asks) until every stream in it agrees with
 * the mark. Where one does not, nobody appends and nothing is signed, until it was recovered (`sealog recover`) or put right.
 */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { mkdir } from 'node:fs/promises';
import { setTimeout as delay } from 'node:timers/promises';
import { BLIND_BYTES, checkpointLeafHash, evidenceLeafHash, tickRoot } from '../chain/anchor-tick.ts';
import { compareBytes, toHex } from '../chain/bytes.ts';
import { CLIENT_CATEGORIES, type ClientCategory, streamName } from '../chain/category.ts';
import { encodeCheckpoint } from '../chain/checkpoint.ts';
import { Checkpointer, ContradictionError, type Step } from '../chain/checkpointer.ts';
import { encodeKeyStatement } from '../chain/key-statement.ts';
import { signNote } from '../chain/note.ts';
import { Problem, SettingsError } from '../errors.ts';
import type { NewLeaf } from '../store/anchors.ts';
import { type DataDirLock, tryLockFolder } from '../store/data-dir-lock.ts';
import type { ServerIdentity, SignedPlace, SignerLease } from '../store/signer.ts';
import { checkKeys, lookAt } from './acceptance.ts';
import { Mark, MarkLostError } from './mark.ts';
import { makeSeed, readSeeds, type SigningKeys, seedCount } from './seeds.ts';

export interface SignerOptions {
  /** The signer's folder: seeds and mark. */
  readonly folder: string;
  /** Of the deployment. */
  readonly origin: string;
  /** Takes the lease, or undefined when another signer has it. */
  readonly takeLease: () => Promise<SignerLease | undefined>;
  /** How often what grew is signed, and how often a tick is made at most. */
  readonly checkpointMs: number;
  readonly anchorMs: number;
  /** The tenant of the deployment's own streams. */
  readonly anchorTenant: () => Promise<number>;
  /** Appends an entry with this id, a tick's root in hex, to the anchor stream. */
  readonly appendTick: (root: string) => Promise<void>;
  /** Writes an entry about the log itself: once, however often it is told under the same id. */
  readonly tell: (action: string, id: string, details: { readonly [name: string]: string | number }) => Promise<void>;
  /** The least months that a category may be kept for. */
  readonly floor: (category: ClientCategory) => number;
  /** Appends the entry that opens an epoch, and tells of it: once, however often it is called. */
  readonly openEpoch: (turned: TurnedEpoch) => Promise<void>;
  /** Erases again what the ledger lists, in a database that may be older than that: before it is let in. Throws where it can not. */
  readonly eraseAgain?: ((lease: SignerLease) => Promise<void>) | undefined;
  readonly wallClock: () => number;
  readonly log: {
    info(facts: object, message: string): void;
    warn(facts: object, message: string): void;
    error(facts: object, message: string): void;
  };
  /** For tests that end the process between two steps. */
  readonly onStep?: ((step: Step | SignerStep) => void | Promise<void>) | undefined;
}

/** Of a tick, of a rotation that two persons agreed on, and of a shorter policy. */
export type SignerStep =
  | ('leaves' | 'ticked')
  | ('planned' | 'seeded' | 'begun' | 'resigned' | 'told')
  | ('turning' | 'closed' | 'closing signed' | 'opened');

/** An epoch that was closed at its last entry, for a shorter policy. */
export interface TurnedEpoch {
  readonly id: number;
  readonly stream: string;
  readonly size: number;
  /** Hex. */
  readonly root: string;
  readonly next: string;
  /** Months that the two epochs keep their entries. */
  readonly before: number;
  readonly after: number;
  /** The next one has its opening entry. */
  readonly isOpened: boolean;
}

export interface SignerStatus {
  /** This process holds the lease. */
  readonly isLeading: boolean;
  /** Why this process does not sign, or the database is kept out; undefined when all is well or another signer leads. */
  readonly trouble: string | undefined;
  readonly generation: number;
  /** Checkpoints signed since the start. */
  readonly signed: number;
  readonly ticks: number;
  /** Milliseconds since 1970 of the last round that ended well; 0 = never. */
  readonly lastRoundAt: number;
}

/** Streams that are signed together: one flush of the mark for all of them. */
const BATCH_STREAMS = 200;
/** Keys of streams that are stated in one way to the database: each is a commit, and the last must be answered in time. */
const STATED_AT_ONCE = 16;
/** Leaves of a tick at most; what is left comes with the next. */
const TICK_LEAVES_MAX = 10_000;
const TICK_EVIDENCE_MAX = 1000;
/** Streams that wait for a shorter policy, looked at together. */
const LONG_STREAMS = 100;
/** A database that was kept out is looked at again so often. */
const REFUSED_RETRY_MS = 5000;
/** Time stamps are put under a later one so long before their authority's certificate ends. */
const STAMP_AGAIN_BEFORE_MS = 60 * 86_400_000;
const CLOSE_MAX_MS = 2000;

interface Leading {
  readonly lease: SignerLease;
  readonly lock: DataDirLock;
  readonly mark: Mark;
  readonly checkpointer: Checkpointer;
  /** Names of streams whose key of this generation is stated. */
  readonly stated: Set<string>;
}

export class Signer {
  readonly #options: SignerOptions;
  readonly #closing = new AbortController();
  #keys: SigningKeys[] = [];
  #leading: Leading | undefined;
  #running: Promise<void> = Promise.resolve();
  #refusedUntil = 0;
  #lastTick = 0;
  /** Streams up to this one are in the last tick, which did not hold all. */
  #tickedUpTo = 0;
  #isStarted = false;
  #isDone = false;
  #trouble: string | undefined;
  /** What only the operator can put right. */
  #wrong: SettingsError | undefined;
  #signed = 0;
  #ticks = 0;
  #lastRoundAt = 0;
  /** Streams whose policy is below the floor, as the log was told. */
  readonly #belowFloor = new Set<number>();

  constructor(options: SignerOptions) {
    this.#options = options;
  }

  get status(): SignerStatus {
    return {
      isLeading: this.#leading !== undefined,
      trouble: this.#trouble,
      generation: this.#leading?.mark.generations.length ?? 0,
      signed: this.#signed,
      ticks: this.#ticks,
      lastRoundAt: this.#lastRoundAt,
    };
  }

  /** Looks at the database once, then goes on in the background. Throws a SettingsError where the folder can not be used. */
  async start(): Promise<void> {
    const { folder } = this.#options;
    try {
      await mkdir(folder, { recursive: true, mode: 0o700 });
      this.#keys = await readSeeds(folder);
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      if (code === undefined) throw error;
      throw new SettingsError([
        `SEALOG_SIGNER_DIR ${folder} can not be used (${code}): name a folder that the service may write to`,
      ]);
    }
    this.#isStarted = true;
    await this.#tryRound();
    if (this.#wrong !== undefined) throw this.#wrong;
    this.#running = this.#run();
  }

  /** Signs what is left, and lets go of lease and folder. */
  async close(): Promise<void> {
    if (this.#closing.signal.aborted) return;
    this.#closing.abort();
    if (!this.#isStarted) return;
    const last = this.#running.then(() => this.#tryRound());
    await Promise.race([last, delay(CLOSE_MAX_MS, undefined, { ref: false })]);
    // Whatever a round that still hangs comes to, it leads no more.
    this.#isDone = true;
    await this.#step(() => this.#letGo());
  }

  async #run(): Promise<void> {
    const { signal } = this.#closing;
    while (!signal.aborted) {
      await delay(this.#options.checkpointMs, undefined, { signal }).catch(() => {});
      if (signal.aborted) return;
      await this.#tryRound();
    }
  }

  async #tryRound(): Promise<void> {
    const { log } = this.#options;
    if (this.#isDone) return;
    try {
      if (await this.#round()) {
        this.#lastRoundAt = this.#options.wallClock();
        if (this.#trouble !== undefined) log.info({}, 'the signer signs again');
        this.#trouble = undefined;
      }
    } catch (error) {
      const words = error instanceof Error ? error.message : String(error);
      if (error instanceof ContradictionError) {
        if (this.#trouble !== words)
          log.error({ streams: error.streams.slice(0, 20) }, 'the database contradicts what was signed');
        this.#refusedUntil = performance.now() + REFUSED_RETRY_MS;
      } else if (error instanceof Problem) {
        // The log takes nothing just now, not even a tick: the lease stays.
        if (this.#trouble !== words) log.warn({ reason: words }, 'the signer could not append');
      } else {
        if (this.#trouble !== words) log.warn({ err: error }, 'the signer could not sign');
        // The lease may be gone, or the folder another's: begin anew.
        await this.#step(() => this.#letGo());
      }
      this.#trouble = words;
      if (error instanceof SettingsError) {
        this.#wrong = error;
        this.#refusedUntil = performance.now() + REFUSED_RETRY_MS;
      }
    }
  }

  /** Returns whether this process leads and everything that grew was signed. */
  async #round(): Promise<boolean> {
    if (performance.now() < this.#refusedUntil) return false;
    if (this.#leading?.lease.isLost === true) await this.#letGo();
    const isNew = this.#leading === undefined;
    this.#leading ??= await this.#lead();
    if (this.#isDone) await this.#letGo();
    const leading = this.#leading;
    if (leading === undefined) {
      // Another signs.
      this.#trouble = undefined;
      return false;
    }
    if (isNew || !(await leading.lease.isAccepted())) await this.#accept(leading);
    await this.#signGrown(leading);
    if (this.#closing.signal.aborted) return true;
    const isDue = performance.now() - this.#lastTick >= this.#options.anchorMs || this.#lastTick === 0;
    if (isDue) {
      this.#lastTick = performance.now();
      await this.#tick(leading);
    }
    // First, so that a seed which it made before a crash is known for its own.
    await this.#carryOut(leading);
    if (isDue) await this.#takeSeeds(leading);
    await this.#turnEpochs(leading);
    return true;
  }

  async #lead(): Promise<Leading | undefined> {
    const { folder, origin, takeLease, onStep } = this.#options;
    const lock = await tryLockFolder(folder);
    if (lock === undefined) return undefined;
    let lease: SignerLease | undefined;
    let mark: Mark | undefined;
    try {
      lease = await takeLease();
      if (lease === undefined) {
        await lock.release();
        return undefined;
      }
      mark = await Mark.open(folder);
      if (mark.origin === undefined && (await lease.statedKeys(origin)).length > 0)
        throw new SettingsError([`mark.log is missing in ${folder}, and this log was signed: restore it from a copy`]);
      if (mark.origin === undefined) await mark.append([{ kind: 'origin', origin }]);
      if (mark.origin !== origin)
        throw new SettingsError([`the signer folder ${folder} is that of ${mark.origin}, and this log is ${origin}`]);
      if (mark.generations.length === 0)
        await mark.append([{ kind: 'generation', generation: 1, from: { epoch: 1, size: 0 } }]);
      this.#keys = await readSeeds(folder);
      if (mark.generations.length > this.#keys.length)
        throw new SettingsError([`the signing seed of generation ${mark.generations.length} is missing in ${folder}`]);
      const opened = mark;
      const checkpointer = new Checkpointer({
        origin,
        store: lease.checkpoints(),
        mark: {
          head: (stream) => opened.head(stream),
          closedAt: (stream) => opened.closedAt(stream),
          raise: (heads) => opened.append(heads.map((head) => ({ kind: 'checkpoint', ...head }) as const)),
        },
        onStep,
      });
      return { lease, lock, mark, checkpointer, stated: new Set() };
    } catch (error) {
      await mark?.close();
      await lease?.release();
      await lock.release();
      throw error;
    }
  }

  async #letGo(): Promise<void> {
    const leading = this.#leading;
    this.#leading = undefined;
    if (leading === undefined) return;
    await leading.mark.close();
    await leading.lease.release();
    await leading.lock.release();
  }

  /** Lets the server in, when every stream in it continues what was signed; else keeps it out, and throws a ContradictionError. */
  async #accept(leading: Leading): Promise<void> {
    const { log } = this.#options;
    const { lease, mark, checkpointer } = leading;
    const identity = await lease.identity();
    checkpointer.forget();
    const signed = {
      lease,
      mark,
      checkpointer,
      keys: this.#keys,
      origin: this.#options.origin,
      folder: this.#options.folder,
    };
    await checkKeys(signed);
    const { against, learnt } = await lookAt(signed);
    if (against.length > 0) await this.#refuse(leading, new ContradictionError(against));
    await mark.append(learnt);
    for (let generation = 1; generation <= mark.generations.length; generation++)
      await this.#stateDeployment(lease, mark, generation);
    if (!isSame(mark.server, identity)) await mark.append([{ kind: 'server', ...identity }]);
    await lease.setFloors(CLIENT_CATEGORIES.map((category) => [category, this.#options.floor(category)]));
    if (!(await lease.isAccepted())) await this.#options.eraseAgain?.(lease);
    await lease.accept(identity, undefined);
    log.info({ ...identity }, 'the signer accepted the database');
  }

  /** Nobody appends any more. Which streams it is about is for the operator, not for whoever asks whether the service is ready. */
  async #refuse({ lease }: Leading, error: ContradictionError): Promise<never> {
    const { length } = error.streams;
    const streams = length === 1 ? 'a stream is' : `${length} streams are`;
    const reason = `the signer refuses this database: ${streams} not what was signed; it was put back or rewritten. See the log, then \`sealog recover\``;
    await lease.accept(await lease.identity(), reason);
    throw error;
  }

  /** Signs every stream that grew, each once; `what` leaves out all but the anchor stream. */
  async #signGrown(leading: Leading, what: 'all' | 'anchor' = 'all'): Promise<void> {
    const { lease, mark, checkpointer } = leading;
    const generation = mark.generations.length;
    const keys = this.#keys[generation - 1]!;
    let after: SignedPlace | undefined = { isAnchor: what === 'anchor', id: 0 };
    while (after !== undefined && !this.#isDone) {
      const streams = await lease.streamsToSign(generation, after, BATCH_STREAMS);
      for (let at = 0; at < streams.length; at += STATED_AT_ONCE)
        await Promise.all(
          streams.slice(at, at + STATED_AT_ONCE).map(({ name }) => this.#stateStream(leading, generation, name)),
        );
      try {
        this.#signed += (await checkpointer.sign(streams, generation, (name) => keys.signer(name))).length;
      } catch (error) {
        if (error instanceof ContradictionError) await this.#refuse(leading, error);
        throw error;
      }
      const last = streams.at(-1);
      after =
        streams.length < BATCH_STREAMS || last === undefined ? undefined : { isAnchor: last.isAnchor, id: last.id };
    }
  }

  /** One entry of the anchor stream over everything that was signed since the last. */
  async #tick(leading: Leading): Promise<void> {
    const { origin, anchorTenant, appendTick, onStep, wallClock, log } = this.#options;
    const { lease, mark } = leading;
    const found = await lease.checkpointsToAnchor(this.#tickedUpTo, TICK_LEAVES_MAX);
    // What stands in the database is anchored only where it is what was signed: a tick is for ever.
    const checkpoints = found.filter(({ name, size, root }) => {
      const isSigned = mark.history(name).some((head) => head.size === size && head.root === toHex(root));
      if (!isSigned)
        log.error({ stream: name, size }, 'a stored checkpoint is not what was signed: it is not anchored');
      return isSigned;
    });
    const evidence = await lease.evidenceToAnchor(TICK_EVIDENCE_MAX);
    // What an authority said must be under a later stamp before its own certificate ends, also in a log that rests.
    const isUrgent = evidence.some(({ ends }) => ends !== null && ends - wallClock() < STAMP_AGAIN_BEFORE_MS);
    if (checkpoints.length === 0 && !isUrgent) return;
    const leaves: NewLeaf[] = checkpoints.map(({ streamId, tenantId, name, size, root }) => {
      const blind = randomBytes(BLIND_BYTES);
      const hash = checkpointLeafHash(blind, encodeCheckpoint({ origin: `${origin}/${name}`, size, root }));
      return { hash, tenantId, of: { streamId, size, root, blind } };
    });
    const own = await anchorTenant();
    for (const { id, evidence: bytes } of evidence)
      leaves.push({ hash: evidenceLeafHash(bytes), tenantId: own, of: { evidenceId: id } });
    // Hashes over fresh random bytes are a random order: a place tells nothing of who has it.
    leaves.sort((a, b) => compareBytes(a.hash, b.hash));
    const root = tickRoot(leaves.map((leaf) => leaf.hash));
    await lease.saveLeaves(root, leaves);
    await onStep?.('leaves');
    await appendTick(toHex(root));
    await onStep?.('ticked');
    this.#ticks += 1;
    // More than one tick holds: the others come first in the next, which need not wait.
    this.#tickedUpTo = found.length < TICK_LEAVES_MAX ? 0 : found.at(-1)!.streamId;
    if (this.#tickedUpTo > 0) this.#lastTick = 0;
    await this.#signGrown(leading, 'anchor');
  }

  /** Has streams that keep their entries longer than their policy says by now go on in a new epoch, and finishes what was begun of it. */
  async #turnEpochs(leading: Leading): Promise<void> {
    const { floor, log, onStep } = this.#options;
    const { lease, mark } = leading;
    for (const { stream, next } of mark.turning()) await this.#turn(leading, stream, next);
    for (let after: number | undefined = 0; after !== undefined && !this.#isDone; ) {
      const streams = await lease.longStreams(after, LONG_STREAMS);
      for (const { id, name, tenant, category, epoch, months } of streams) {
        if (this.#isDone) return;
        if (months < floor(category)) {
          // Who asked for it was held to the floor: it is another here, or the row is not the service's.
          if (!this.#belowFloor.has(id))
            log.error({ stream: name, months }, 'a policy below the floor is not carried out');
          this.#belowFloor.add(id);
          continue;
        }
        const next = streamName(tenant, category, epoch + 1);
        // First, so that what a crash leaves half done is known for the signer's own.
        await mark.append([{ kind: 'turning', stream: name, next }]);
        await onStep?.('turning');
        await this.#turn(leading, name, next);
      }
      after = streams.length < LONG_STREAMS ? undefined : streams.at(-1)!.id;
    }
  }

  /** Each step may have been taken before. Between closing and opening nobody appends to either epoch. */
  async #turn(leading: Leading, stream: string, next: string): Promise<void> {
    const { openEpoch, onStep, log } = this.#options;
    const { lease, mark } = leading;
    await lease.turnEpoch(stream);
    await onStep?.('closed');
    // What the opening entry says of the closed epoch is signed before.
    await this.#signGrown(leading);
    await onStep?.('closing signed');
    const turned = await lease.turnedEpoch(stream, next);
    const head = mark.head(stream);
    assert(turned !== undefined && head?.size === turned.size, 'an epoch is signed up to where it was closed');
    await openEpoch({ ...turned, stream, next, root: head.root });
    await onStep?.('opened');
    await mark.append([{ kind: 'turned', stream, size: turned.size, next }]);
    log.info({ stream, next, before: turned.before, after: turned.after }, 'a shorter policy opened an epoch');
  }

  /** Takes seeds into use that the operator made (`sealog keys rotate`). */
  async #takeSeeds(leading: Leading): Promise<void> {
    while ((await seedCount(this.#options.folder)) > leading.mark.generations.length) {
      await this.#rotate(leading);
      await this.#tellRotated(leading.mark.generations.length);
    }
  }

  /**
   * Carries out the oldest rotation that two persons agreed on: one new generation, whatever happens in between. Which one it is, is noted
   * with the proposal before its seed is made; whoever comes to it after a crash makes what is still missing of that one and no other.
   */
  async #carryOut(leading: Leading): Promise<void> {
    const { folder, log, onStep } = this.#options;
    const { lease, mark } = leading;
    const approved = await lease.approvedRotation();
    if (approved === undefined) return;
    const { id, isPlanned } = approved;
    let { generation } = approved;
    if (!isPlanned) {
      // A seed that lies there is of another decision, and maybe older than this one: it gets a generation of its own first.
      await this.#takeSeeds(leading);
      generation = mark.generations.length + 1;
      if (!(await lease.planRotation(id, generation))) return;
      await onStep?.('planned');
    }
    if (generation === undefined || generation > mark.generations.length + 1) {
      log.error({ proposal: id, generation }, 'a rotation was planned that can not be: somebody changed the proposal');
      return lease.finishRotation(id, 'another generation than the next was planned');
    }
    if (generation > mark.generations.length) {
      try {
        await makeSeed(folder, generation);
      } catch (error) {
        if ((await seedCount(folder)) >= generation) throw error;
        // Everything else goes on with the keys that there are.
        log.error({ err: error, proposal: id }, 'a rotation failed: the signer folder takes no new seed');
        return lease.finishRotation(
          id,
          `the signer folder takes no new seed (${(error as NodeJS.ErrnoException).code})`,
        );
      }
      await onStep?.('seeded');
      await this.#rotate(leading);
      await onStep?.('resigned');
    }
    await this.#tellRotated(generation, id);
    await onStep?.('told');
    await lease.finishRotation(id);
    log.info({ proposal: id, generation }, 'a rotation that two persons agreed on is done');
  }

  /** Takes the next generation into use: from here on it signs, and everything is signed again by it. */
  async #rotate(leading: Leading): Promise<void> {
    const { folder, log, onStep } = this.#options;
    const { lease, mark } = leading;
    this.#keys = await readSeeds(folder);
    const generation = mark.generations.length + 1;
    const from = await lease.anchorPlace();
    await mark.append([{ kind: 'generation', generation, from }]);
    await onStep?.('begun');
    await this.#stateDeployment(lease, mark, generation);
    leading.stated.clear();
    await this.#signGrown(leading);
    log.info({ generation }, 'a new generation of keys signs');
  }

  async #tellRotated(generation: number, proposal?: string): Promise<void> {
    const { origin, tell } = this.#options;
    const { vkey } = this.#keys[generation - 1]!.signer(origin);
    const details = { generation, vkey, ...(proposal === undefined ? {} : { proposal }) };
    await tell('key.rotated', `key.rotated:${generation}`, details);
  }

  async #stateDeployment(lease: SignerLease, mark: Mark, generation: number): Promise<void> {
    const { origin } = this.#options;
    const own = this.#keys[generation - 1]!.signer(origin);
    const before = this.#keys[generation - 2]?.signer(origin);
    const { from } = mark.generations[generation - 1]!;
    const text = encodeKeyStatement({ origin, generation, from, vkey: own.vkey, previous: before?.vkey });
    const note = signNote(text, before === undefined ? [own] : [before, own]);
    await lease.saveKeyStatement({ name: origin, generation, vkey: own.vkey, note });
  }

  async #stateStream({ lease, mark, stated }: Leading, generation: number, stream: string): Promise<void> {
    if (stated.has(stream)) return;
    const { origin } = this.#options;
    const keys = this.#keys[generation - 1]!;
    const name = `${origin}/${stream}`;
    const { vkey } = keys.signer(name);
    const previous = this.#keys[generation - 2]?.signer(origin).vkey;
    const text = encodeKeyStatement({
      origin,
      generation,
      from: mark.generations[generation - 1]!.from,
      vkey,
      previous,
    });
    await lease.saveKeyStatement({ name, generation, vkey, note: signNote(text, [keys.signer(origin)]) });
    stated.add(stream);
  }

  /** For what must happen, and has nobody left to tell when it fails. */
  async #step(work: () => Promise<void>): Promise<void> {
    try {
      await work();
    } catch (error) {
      if (!(error instanceof MarkLostError)) this.#options.log.warn({ err: error }, 'the signer could not let go');
    }
  }
}

function isSame(known: { system: string; timeline: number } | undefined, now: ServerIdentity): boolean {
  return known?.system === now.system && known.timeline === now.timeline;
}
