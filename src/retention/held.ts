/**
 * What holds keep of a month that is pruned: decided entry by entry from what is in the entries, never by the index; and moved block by block to
 * the month after the present one, where the next pruning finds it again.
 */
import { setImmediate } from 'node:timers/promises';
import type { Kysely } from 'kysely';
import type pg from 'pg';
import type { StoredBlock } from '../chain/block.ts';
import { type JsonObject, parseSafely } from '../chain/canonical.ts';
import type { StreamRef } from '../chain/entry.ts';
import { isAbout, keeperOf } from '../chain/hold.ts';
import { type Entry, openBlock, openRecords } from '../chain/open-block.ts';
import { PART_NAMES } from '../chain/part.ts';
import {
  decodePruningCertificate,
  HELD_RANGES_MAX,
  type HeldRange,
  heldAt,
  heldBehind,
} from '../chain/pruning-certificate.ts';
import type { StreamKeys } from '../chain/sealed-run.ts';
import { HASH_SIZE } from '../chain/sha256.ts';
import { KeyUnavailableError } from '../errors.ts';
import { monthOfHeld, moveHeld, placesIn, type StoredHold, standingElsewhere } from '../store/holds.ts';
import { scanBlocks } from '../store/log-reader.ts';
import type { ExpiredRange, Pruning, StoredCertificate } from '../store/prunings.ts';
import type { Tables } from '../store/tables.ts';
import { cutBlock } from './cut-block.ts';
import { NotYet } from './not-yet.ts';

export interface HeldDeps {
  readonly writer: pg.Pool;
  /** Sees all tenants. */
  readonly database: Kysely<Tables>;
  readonly keys: {
    keysById(id: string): Promise<StreamKeys>;
    keysFor(stream: StreamRef, dropMonth: number): Promise<StreamKeys>;
  };
  readonly signal: AbortSignal;
  readonly onMoved: () => void;
}

/** Runs of entries that become held in one month of one stream: for some years of them a certificate has room. */
const RUNS_A_MONTH_MAX = 2000;
/** Of 256 KiB each at most. */
const BLOCKS_A_READ = 16;
/** Somebody else may seal the same block anew: an erasure. */
const ATTEMPTS_MAX = 5;

/** Returns what of a range stays: what holds keep of the month, and what was kept before and stands elsewhere. */
export async function heldOf(
  deps: HeldDeps,
  { dropMonth }: Pick<Pruning, 'dropMonth'>,
  range: ExpiredRange,
  holds: readonly StoredHold[],
): Promise<HeldRange[]> {
  const { streamId, tenantId, name } = range;
  const keepers = holds.filter((hold) => hold.tenantId === tenantId && isAbout(hold, range)).map(keeperOf);
  const before: HeldRange[] = [];
  let fresh: KeptRun[] = [];
  let end = -1;
  let isJoined = false;
  if (keepers.length > 0)
    for await (const block of blocksOf(deps, { streamId, dropMonth })) {
      // What lies between two runs can be kept with them only as long as all of it is here.
      isJoined &&= block.firstSeq === end;
      end = block.firstSeq + block.entries;
      const keys = await keysOf(deps, block.keyId, name);
      const entries = keys === undefined ? closedEntries(block) : openBlock(block, name, keys.dataKey);
      for (const entry of entries) {
        const { seq } = entry.record;
        if (!keepers.some((keeps) => keeps(entry))) continue;
        // What nobody opens can not be sealed anew: a person decides.
        if (keys === undefined)
          throw new NotYet(`the keys of what holds keep of ${name} are destroyed: release these holds`, 'later');
        if (seq < (range.fresh ?? Infinity)) addTo(before, { from: seq, to: seq + 1 });
        else if (fresh.at(-1)?.to === seq) fresh.at(-1)!.to = seq + 1;
        else fresh.push({ from: seq, to: seq + 1, isJoined: isJoined && fresh.length > 0 });
        isJoined = true;
      }
      if (fresh.length > 8 * RUNS_A_MONTH_MAX) fresh = withFewer(fresh, 4 * RUNS_A_MONTH_MAX);
    }
  const elsewhere = await standingElsewhere(deps.database, streamId, dropMonth, range);
  const merged = merge([...before, ...withFewer(fresh, RUNS_A_MONTH_MAX), ...elsewhere]);
  if (merged.length > HELD_RANGES_MAX)
    throw new NotYet(`what is held of ${name} stands in more than ${HELD_RANGES_MAX} places`, 'later');
  return merged;
}

export interface KeptRun {
  readonly from: number;
  to: number;
  /** All that lies between it and the run before stands in the month. */
  readonly isJoined: boolean;
}

/** Keeps what lies in the smallest gaps, until there are no more runs than `max`. One entry too many can be mended. */
export function withFewer(runs: readonly KeptRun[], max: number): KeptRun[] {
  const gaps = runs.flatMap(({ from, isJoined }, i) => (isJoined ? [{ i, size: from - runs[i - 1]!.to }] : []));
  const smallest = gaps.sort((a, b) => a.size - b.size).slice(0, Math.max(0, runs.length - max));
  const closed = new Set(smallest.map(({ i }) => i));
  const left: KeptRun[] = [];
  for (const [i, run] of runs.entries()) {
    if (closed.has(i)) left.at(-1)!.to = run.to;
    else left.push({ ...run });
  }
  return left;
}

/** The entries of a block that nobody can open any more: of each any part may have been there. */
function closedEntries(block: StoredBlock): Pick<Entry, 'record' | 'parts'>[] {
  const parts = PART_NAMES.map((name) => ({ name, commitment: new Uint8Array(HASH_SIZE) }));
  return openRecords(block).map(({ record }) => ({ record, parts }));
}

/** Moves what a certificate says is held out of the run's month. May be called again. */
export async function moveHeldOf(deps: HeldDeps, run: Pruning, certificate: StoredCertificate): Promise<void> {
  const { streamId, tenantId, stream: name } = certificate;
  const { held } = decodePruningCertificate(parseSafely(certificate.certificate) as JsonObject);
  if (held.length === 0) return;
  const ref: StreamRef = { id: streamId, tenantId, name, retentionMonths: undefined };
  const lane = { dropMonth: run.dropMonth, filter: { tags: [] } };
  const read = async (seq: number): Promise<StoredBlock | undefined> => {
    const { blocks } = await scanBlocks(deps.database, streamId, [lane], 'asc', seq, 1);
    return blocks.find(({ firstSeq }) => firstSeq === seq);
  };
  for await (const { firstSeq, entries } of placesIn(deps.database, streamId, run.dropMonth)) {
    if (!isTouched(held, firstSeq, entries)) continue;
    for (let attempt = 1; ; attempt++) {
      if (attempt > ATTEMPTS_MAX) throw new NotYet(`a block of ${name} was changed by others all the time`, 'soon');
      deps.signal.throwIfAborted();
      const block = await read(firstSeq);
      if (block === undefined) break;
      const dropMonth = await monthOfHeld(deps.writer);
      const own = await keysOf(deps, block.keyId, name);
      if (own === undefined) throw new NotYet(`the keys of what holds keep of ${name} are destroyed`, 'later');
      const cut = cutBlock(block, name, held, own, { ...(await laterKeys(deps, ref, dropMonth)), dropMonth });
      if (cut === undefined || (await move(deps, run, { streamId, firstSeq }, cut))) break;
    }
    deps.onMoved();
  }
}

async function move(
  { writer }: HeldDeps,
  run: Pruning,
  place: { readonly streamId: number; readonly firstSeq: number },
  cut: NonNullable<ReturnType<typeof cutBlock>>,
): Promise<boolean> {
  try {
    return await moveHeld(writer, run.id, place, cut);
  } catch (error) {
    const { code, message } = error as { code?: string; message: string };
    if (code === '55P03') throw new NotYet('a backup is under way: what is held is moved behind it', 'soon');
    // The month turned, or the certificate is not signed any more as far as can be seen: looked at again.
    if (code !== '55000') throw error;
    throw new NotYet(message, 'soon');
  }
}

/** The blocks of a stream in a drop month, in order. */
async function* blocksOf(
  { database, signal }: HeldDeps,
  { streamId, dropMonth }: { readonly streamId: number; readonly dropMonth: number },
): AsyncGenerator<StoredBlock> {
  for (let seq = 0; ; ) {
    signal.throwIfAborted();
    const scan = await scanBlocks(database, streamId, [{ dropMonth, filter: { tags: [] } }], 'asc', seq, BLOCKS_A_READ);
    for (const block of scan.blocks) {
      yield block;
      await setImmediate();
    }
    if (scan.lastFirstSeq === undefined || scan.isLast) return;
    seq = scan.lastFirstSeq + 1;
  }
}

/** Undefined where the month key is destroyed, in a database that was restored from before that. */
async function keysOf({ keys }: HeldDeps, id: string, stream: string): Promise<StreamKeys | undefined> {
  try {
    return await keys.keysById(id);
  } catch (error) {
    if (!(error instanceof KeyUnavailableError)) throw error;
    if (error.problem === 'destroyed') return undefined;
    throw new NotYet(`what holds keep of ${stream} can not be told without its keys: ${error.message}`, 'later');
  }
}

async function laterKeys({ keys }: HeldDeps, ref: StreamRef, dropMonth: number): Promise<StreamKeys> {
  try {
    return await keys.keysFor(ref, dropMonth);
  } catch (error) {
    throw new NotYet(
      `what is held of ${ref.name} can not be sealed: ${error instanceof Error ? error.message : error}`,
      'later',
    );
  }
}

function isTouched(held: readonly HeldRange[], firstSeq: number, entries: number): boolean {
  if (heldAt(held, firstSeq) !== undefined) return true;
  return (heldBehind(held, firstSeq)?.from ?? Infinity) < firstSeq + entries;
}

/** Puts a range behind others, or makes the last of them longer. */
function addTo(held: HeldRange[], range: HeldRange): void {
  const last = held.at(-1);
  if (last?.to === range.from) held[held.length - 1] = { from: last.from, to: range.to };
  else held.push(range);
}

function merge(ranges: readonly HeldRange[]): HeldRange[] {
  const merged: HeldRange[] = [];
  for (const range of ranges.toSorted((a, b) => a.from - b.from)) addTo(merged, range);
  return merged;
}
