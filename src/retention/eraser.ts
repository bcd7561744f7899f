/**
 * Carries out erasures that two persons agreed on. One replica does: the one that signs, since the ledger lies in the signer's folder.
 *
 *     approved → planned      what came under a hold since is left out, the rest given to certificates           (database)
 *     → certified             each certificate stands in the tenant's log_administration, and is signed          (log)
 *     → noted                 each in the ledger, flushed                                                        (signer's folder)
 *     → erased                block after block is sealed anew without the parts, its tags taken away            (database, a transaction each)
 *     → completed             the log says so, which is also what tells the sinks                                (log)
 *     → done                                                                                                     (database)
 *
 * Each step finds what was done of it before, so a process that is killed between any two loses nothing: whoever leads next begins again at the
 * first and comes through. Nothing is destroyed that no signed certificate names, and nothing is destroyed that a restored backup would
 * bring back. Certificates never say who was erased.
 */
import { setTimeout as delay } from 'node:timers/promises';
import type { StoredBlock } from '../chain/block.ts';
import type { JsonObject } from '../chain/canonical.ts';
import { ERASURE_CERTIFICATE, type Erasure, erasureDetails, streamParts } from '../chain/certificate.ts';
import { entryIdHash } from '../chain/entry.ts';
import { openBlock } from '../chain/open-block.ts';
import type { PartName } from '../chain/part.ts';
import type { ApprovedErasure, EntryToErase, Refusal, ResealedParts } from '../store/erasures.ts';
import { keysUnlessDestroyed, type RefusalsOf } from './erasure-search.ts';
import { resealWithout } from './reseal.ts';

export const ERASURE_COMPLETED = 'erasure.completed';

export type ErasureStep =
  | 'erasure-planned'
  | 'erasure-certified'
  | 'erasure-noted'
  | 'erasure-erased'
  | 'erasure-completed';

interface LedgerLine extends Erasure {
  readonly tenant: string;
  readonly certificate: string;
}

export interface EraserDeps {
  readonly isLeading: () => boolean;
  readonly store: {
    oldest(except: readonly string[]): Promise<ApprovedErasure | undefined>;
    entries(id: string, certificate: number | undefined): Promise<EntryToErase[]>;
    refuse(id: string, entry: EntryToErase, reason: Refusal): Promise<void>;
    lastHold(): Promise<number>;
    /** Undefined where there is a newer hold than that. */
    plan(id: string, holdsSeen: number): Promise<number | undefined>;
    isCertified(id: string, certificate: number): Promise<boolean>;
    block(streamId: number, seq: number): Promise<StoredBlock | undefined>;
    erase(
      id: string,
      block: Pick<StoredBlock, 'firstSeq' | 'dropMonth'> & { readonly streamId: number },
      parts: ResealedParts,
    ): Promise<boolean>;
    finish(id: string): Promise<void>;
    isInAdministration(tenant: string, idHash: string): Promise<boolean>;
  };
  readonly ledger: { note(line: LedgerLine): Promise<void>; lines(): Promise<readonly LedgerLine[]> };
  readonly keys: { keysById(id: string): Promise<{ readonly dataKey: Uint8Array; readonly tagKey: Uint8Array }> };
  readonly refusalsOf: RefusalsOf;
  /** Appends an entry to a tenant's `log_administration`, once, however often it is told under the same id. */
  readonly append: (tenant: string, event: { action: string; id: string; details: JsonObject }) => Promise<void>;
  readonly log: { info(facts: object, message: string): void; warn(facts: object, message: string): void };
  readonly everyMs: number;
  readonly onStep?: ((step: ErasureStep) => void) | undefined;
}

/** A checkpoint is signed each second. */
const SIGNED_MAX_MS = 15_000;
const SIGNED_LOOK_MS = 50;
/** What could not be done is seldom otherwise a second later: a key service is away, or a block is damaged. */
const RETRY_MS = 10_000;
/** Somebody else may seal the same block anew: another erasure, or what holds it. */
const ATTEMPTS_MAX = 5;

export class Eraser {
  readonly #deps: EraserDeps;
  readonly #stop = new AbortController();
  #woken = Promise.withResolvers<void>();
  #running: Promise<void> | undefined;
  #isLedgerChecked = false;

  constructor(deps: EraserDeps) {
    this.#deps = deps;
  }

  start(): void {
    this.#running ??= this.#run();
  }

  /** Looks at once. */
  wake(): void {
    this.#woken.resolve();
  }

  async close(): Promise<void> {
    this.#stop.abort();
    this.wake();
    await this.#running;
  }

  async #run(): Promise<void> {
    const { everyMs } = this.#deps;
    const { signal } = this.#stop;
    let said = '';
    while (!signal.aborted) {
      try {
        if (this.#deps.isLeading()) await this.#round();
        else this.#isLedgerChecked = false;
        said = '';
      } catch (error) {
        const reason = error instanceof Error ? error.message : String(error);
        if (reason !== said && !signal.aborted) this.#deps.log.warn({ reason }, 'an erasure could not be carried out');
        said = reason;
      }
      const over = new AbortController();
      await Promise.race([
        this.#woken.promise,
        delay(said === '' ? everyMs : Math.max(everyMs, RETRY_MS), undefined, {
          signal: over.signal,
          ref: false,
        }).catch(() => {}),
      ]);
      over.abort();
      this.#woken = Promise.withResolvers<void>();
    }
  }

  async #round(): Promise<void> {
    if (!this.#isLedgerChecked) await this.#certifyAgain();
    this.#isLedgerChecked = true;
    // One that fails does not keep the others from their turn.
    const failed: string[] = [];
    let failure: unknown;
    while (!this.#stop.signal.aborted) {
      const erasure = await this.#deps.store.oldest(failed);
      if (erasure === undefined) break;
      try {
        await this.#carryOut(erasure);
      } catch (error) {
        failed.push(erasure.id);
        failure = error;
      }
    }
    if (failure !== undefined) throw failure;
  }

  async #carryOut(erasure: ApprovedErasure): Promise<void> {
    const { store, ledger, append, log, onStep } = this.#deps;
    const { id, tenant } = erasure;
    const holdsSeen = await store.lastHold();
    if (erasure.certificates === null) await this.#leaveOutHeld(erasure);
    const count = await store.plan(id, holdsSeen);
    if (count === undefined) throw new Error('a hold was placed meanwhile');
    onStep?.('erasure-planned');
    const certificates: { readonly line: LedgerLine; readonly entries: readonly EntryToErase[] }[] = [];
    for (let number = 1; number <= count; number++) {
      const entries = await store.entries(id, number);
      const certificate = certificateId(id, number);
      const line = { tenant, certificate, erasure: id, entries: entries.map(namedEntry) };
      certificates.push({ line, entries });
      await append(tenant, { action: ERASURE_CERTIFICATE, id: certificate, details: erasureDetails(line) });
    }
    onStep?.('erasure-certified');
    for (let number = 1; number <= count; number++) await this.#untilSigned(id, number);
    for (const { line } of certificates) await ledger.note(line);
    onStep?.('erasure-noted');
    for (const [streamId, entries] of Map.groupBy(
      certificates.flatMap((one) => one.entries),
      (entry) => entry.streamId,
    ))
      await this.#erase(id, streamId, entries);
    for (const { line } of certificates) {
      const details = { ...erasureDetails(line), certificate: line.certificate };
      await append(tenant, { action: ERASURE_COMPLETED, id: `${line.certificate}.completed`, details });
    }
    onStep?.('erasure-completed');
    await store.finish(id);
    const entries = certificates.reduce((sum, one) => sum + one.entries.length, 0);
    log.info({ erasure: id, entries, certificates: count }, 'erased');
  }

  async #leaveOutHeld({ id, tenantId }: ApprovedErasure): Promise<void> {
    const { store, keys, refusalsOf } = this.#deps;
    const all = await store.entries(id, undefined);
    for (const [streamId, entries] of Map.groupBy(all, (entry) => entry.streamId)) {
      const { stream: name } = entries[0]!;
      const wanted = new Map(entries.map((entry) => [entry.seq, entry]));
      for (const [seq] of wanted) {
        this.#stop.signal.throwIfAborted();
        const block = await store.block(streamId, seq);
        if (block === undefined) continue;
        const opening = await keysUnlessDestroyed(keys, block.keyId);
        if (opening === undefined) continue;
        const opened = openBlock(block, name, opening.dataKey, new Set(wanted.keys()));
        const stream = { tenantId, ...streamParts(name)! };
        for (const [refused, reason] of await refusalsOf(stream, opened))
          await store.refuse(id, wanted.get(refused)!, reason);
        for (const { record } of opened) wanted.delete(record.seq);
      }
    }
  }

  async #untilSigned(id: string, number: number): Promise<void> {
    const { signal } = this.#stop;
    for (const until = performance.now() + SIGNED_MAX_MS; performance.now() < until; ) {
      if (await this.#deps.store.isCertified(id, number)) return;
      await delay(SIGNED_LOOK_MS, undefined, { signal });
    }
    throw new Error('the certificate of an erasure is not signed yet');
  }

  /** Entries of one stream, by seq. */
  async #erase(id: string, streamId: number, entries: readonly EntryToErase[]): Promise<void> {
    const { store, keys, onStep } = this.#deps;
    const chosen = new Map<number, readonly PartName[]>(entries.map(({ seq, parts }) => [seq, parts]));
    for (let next = entries[0]?.seq, attempts = 0; next !== undefined; ) {
      // What is left is done by whoever leads next.
      this.#stop.signal.throwIfAborted();
      const block = await store.block(streamId, next);
      const end = block === undefined ? next + 1 : block.firstSeq + block.entries;
      let isDone = true;
      // What was pruned, or can not be opened by anybody any more, is gone.
      const opened = block === undefined ? undefined : await keysUnlessDestroyed(keys, block.keyId);
      if (block !== undefined && opened !== undefined) {
        const resealed = resealWithout(block, entries[0]!.stream, opened, chosen);
        if (resealed !== undefined) isDone = await store.erase(id, { ...block, streamId }, resealed);
      }
      if (isDone) {
        attempts = 0;
        next = entries.find(({ seq }) => seq >= end)?.seq;
        onStep?.('erasure-erased');
      } else if (++attempts === ATTEMPTS_MAX) throw new Error('a block was changed by others all the time');
    }
  }

  /** A database that was restored may lack certificates of what was erased in it again: they are written again. */
  async #certifyAgain(): Promise<void> {
    const { store, ledger, append, log } = this.#deps;
    for (const line of await ledger.lines()) {
      const { tenant, certificate } = line;
      if (await store.isInAdministration(tenant, entryIdHash(certificate))) continue;
      await append(tenant, { action: ERASURE_CERTIFICATE, id: certificate, details: erasureDetails(line) });
      log.info({ certificate }, 'an erasure that the database had lost is certified again');
    }
  }
}

export function certificateId(erasure: string, number: number): string {
  return `erasure.${erasure}.${number}`;
}

function namedEntry({ stream, seq, parts }: EntryToErase): Erasure['entries'][number] {
  return { stream, seq, parts };
}
