/**
 * What a client of the log writes down of each event that it sent, and how that is held to what the log holds afterwards.
 *
 * The checker is a function of two lists, and has planted defects of its own to catch (test/faults/ledger.test.ts).
 */
import { canonicalText, type JsonObject } from '../../src/chain/canonical.ts';

export interface Receipt {
  readonly stream: string;
  readonly seq: number;
  readonly hash: string;
}

/** One event, however often it was sent. */
export interface Line {
  readonly tenant: string;
  /** As it was sent, with its id. Another event under an id that has a receipt is a line of its own. */
  readonly event: JsonObject & { readonly id: string };
  /** Of `performance.now()`: when it was sent first, and when it had its first receipt. */
  readonly sentAt: number;
  acknowledgedAt?: number;
  /** Each that came. */
  readonly receipts: Receipt[];
  /** An answer that left it open whether it is stored: 504, or none. */
  isOpen: boolean;
  /** An answer that said it is not stored: 4xx or 503. */
  isRefused: boolean;
}

/** An entry as the log gives it out afterwards. */
export interface StoredEntry extends Receipt {
  readonly tenant: string;
  readonly previous: string;
  /** Without what the log added. */
  readonly event: JsonObject & { readonly id: string };
}

export interface Judgement {
  /** `void`: nothing had a receipt, so nothing was tried. */
  readonly verdict: 'kept' | 'broken' | 'void';
  /** Each begins with the kind of the breach. */
  readonly problems: readonly string[];
  readonly acknowledged: number;
  readonly refused: number;
  /** Lines that nobody knows of, and how many of them are stored. */
  readonly open: number;
  readonly openStored: number;
}

/** `entries` are those of whole streams, in any order, without those that the log wrote itself. `own` are the places of the latter. */
export function checkLedger(
  lines: readonly Line[],
  entries: readonly StoredEntry[],
  own: readonly (Receipt & { readonly previous: string })[] = [],
): Judgement {
  const problems: string[] = [];
  const stored = new Map<string, StoredEntry>();
  for (const entry of entries) {
    const key = keyOf(entry.tenant, entry);
    if (stored.has(key)) problems.push(`doubled: ${key} is ${placeOf(stored.get(key)!)} and ${placeOf(entry)}`);
    stored.set(key, entry);
  }
  const known = new Map<string, Line[]>();
  for (const line of lines) known.set(keyOf(line.tenant, line), [...(known.get(keyOf(line.tenant, line)) ?? []), line]);

  let acknowledged = 0;
  let refused = 0;
  let open = 0;
  let openStored = 0;
  for (const line of lines) {
    const key = keyOf(line.tenant, line);
    const entry = stored.get(key);
    const isThere = entry !== undefined && isSame(line.event, entry.event);
    const [first, ...more] = line.receipts;
    if (first === undefined) {
      if (line.isOpen || !line.isRefused) {
        open += 1;
        if (isThere) openStored += 1;
        continue;
      }
      refused += 1;
      if (isThere) problems.push(`refused, and stored: ${key}`);
      continue;
    }
    acknowledged += 1;
    const other = more.find((receipt) => !isSamePlace(receipt, first));
    if (other !== undefined) problems.push(`two receipts: ${key} has ${placeOf(first)} and ${placeOf(other)}`);
    if (entry === undefined) problems.push(`lost: ${key} of ${placeOf(first)}`);
    else if (!isSamePlace(entry, first)) problems.push(`moved: ${key} of ${placeOf(first)} is ${placeOf(entry)}`);
    else if (!isThere) problems.push(`changed: ${key} of ${placeOf(first)}`);
  }
  for (const [key, entry] of stored) {
    const sent = known.get(key);
    if (sent === undefined) problems.push(`from nowhere: ${key} is ${placeOf(entry)}`);
    else if (!sent.some(({ event }) => isSame(event, entry.event)))
      problems.push(`changed: ${key}, which nobody sent so`);
  }
  problems.push(...brokenStreams([...entries, ...own]), ...brokenOrder(lines));
  const verdict = acknowledged === 0 ? 'void' : problems.length > 0 ? 'broken' : 'kept';
  return { verdict, problems, acknowledged, refused, open, openStored };
}

/** Each stream is dense from 0, and each entry has the hash of the one before. */
function* brokenStreams(places: readonly (Receipt & { readonly previous: string })[]): Generator<string> {
  const streams = Map.groupBy(places, ({ stream }) => stream);
  for (const [stream, all] of streams) {
    const sorted = all.toSorted((a, b) => a.seq - b.seq);
    for (const [index, { seq, previous }] of sorted.entries()) {
      if (seq !== index) {
        yield `${seq < index ? 'fork' : 'gap'}: ${stream} has ${seq} where ${index} is due`;
        break;
      }
      if (index > 0 && previous !== sorted[index - 1]!.hash) yield `chain: ${stream} ${seq} does not follow ${seq - 1}`;
    }
  }
}

/** Of a stream, what was sent after another had its receipt stands behind it. */
function* brokenOrder(lines: readonly Line[]): Generator<string> {
  const receipted = lines.filter(({ receipts }) => receipts.length > 0);
  for (const [stream, own] of Map.groupBy(receipted, ({ receipts }) => receipts[0]!.stream)) {
    const bySent = own.toSorted((a, b) => a.sentAt - b.sentAt);
    const byAcknowledged = own.toSorted((a, b) => a.acknowledgedAt! - b.acknowledgedAt!);
    let highest = -1;
    let next = 0;
    for (const { sentAt, receipts, event } of bySent) {
      for (; next < byAcknowledged.length && byAcknowledged[next]!.acknowledgedAt! < sentAt; next += 1)
        highest = Math.max(highest, byAcknowledged[next]!.receipts[0]!.seq);
      if (receipts[0]!.seq <= highest)
        yield `order: ${stream} ${receipts[0]!.seq} (${event.id}) was sent when ${highest} had its receipt`;
    }
  }
}

/** Ids are a tenant's within a category. */
function keyOf(tenant: string, { event }: Pick<Line, 'event'>): string {
  return `${tenant}/${event['category']} ${event.id}`;
}

function isSame(one: JsonObject, other: JsonObject): boolean {
  return canonicalText(one) === canonicalText(other);
}

function isSamePlace(one: Receipt, other: Receipt): boolean {
  return one.stream === other.stream && one.seq === other.seq && one.hash === other.hash;
}

function placeOf({ stream, seq, hash }: Receipt): string {
  return `${stream} ${seq} ${hash.slice(0, 8)}`;
}
