/** What is there: verified as `sealog verify` does it, and counted from the tables up. */
import type { StoredBlock } from '../src/chain/block.ts';
import { openBlock } from '../src/chain/open-block.ts';
import { isOpen } from '../src/chain/part.ts';
import { dropMonthOf, parseInstant } from '../src/chain/retain-until.ts';
import { fileMonthKeys } from '../src/keys/file-month-keys.ts';
import { Keyring } from '../src/keys/keyring.ts';
import { BLOCK_COLUMNS, storedBlock } from '../src/store/block-row.ts';
import { keyById } from '../src/store/data-keys.ts';
import { logWideSource } from '../src/store/log-wide-source.ts';
import { witnessChecker } from '../src/verify/outside-evidence.ts';
import { type LogReport, verifyLog } from '../src/verify/verify-log.ts';
import { CATEGORIES } from './plan.ts';
import { ORIGIN, type SimulatedService } from './service.ts';

/** Of a tenant's category, what clients sent: own entries of the log are not counted. */
export interface Count {
  readonly at: string;
  readonly tenant: string;
  readonly category: string;
  /** Ever. */
  readonly stored: number;
  readonly pruned: number;
  /** Those that are there though their month has gone. */
  readonly held: number;
  /** Those that are there and lack a part. */
  readonly erased: number;
  /** Those that are there, by the month in which they were recorded. */
  readonly months: { readonly [month: string]: number };
}

/** What a block has, as long as its bytes are the same. */
interface KnownBlock {
  readonly parts: Uint8Array;
  readonly entries: readonly { readonly month: string; readonly isErased: boolean; readonly isHeld: boolean }[];
}

export class Counter {
  readonly #service: SimulatedService;
  readonly #known = new Map<string, KnownBlock>();

  constructor(service: SimulatedService) {
    this.#service = service;
  }

  /** Counts what is there. `stored` has for `tenant/category` how many receipts there were. */
  async count(at: string, tenants: readonly string[], stored: ReadonlyMap<string, number>): Promise<Count[]> {
    const keys = keysOf(this.#service);
    const blocks = await this.#service.app.database.verifier
      .selectFrom('sealog.block as b')
      .innerJoin('sealog.stream as s', 's.id', 'b.stream')
      .select(BLOCK_COLUMNS.map((column) => `b.${column}` as const))
      .select('s.name')
      .execute();
    const counts = new Map<string, Count>();
    for (const tenant of tenants)
      for (const category of Object.keys(CATEGORIES)) {
        const all = stored.get(`${tenant}/${category}`) ?? 0;
        const nothing = { stored: all, pruned: all, held: 0, erased: 0, months: {} };
        counts.set(`${tenant}/${category}`, { at, tenant, category, ...nothing });
      }
    for (const row of blocks) {
      const place = row.name.split('/').slice(0, 2).join('/');
      const count = counts.get(place);
      if (count === undefined) continue;
      const entries = await this.#entriesOf(row.name, storedBlock(row), keys);
      const months: Record<string, number> = { ...count.months };
      for (const { month } of entries) months[month] = (months[month] ?? 0) + 1;
      counts.set(place, {
        ...count,
        pruned: count.pruned - entries.length,
        held: count.held + entries.filter(({ isHeld }) => isHeld).length,
        erased: count.erased + entries.filter(({ isErased }) => isErased).length,
        months,
      });
    }
    return [...counts.values()];
  }

  async #entriesOf(stream: string, block: StoredBlock, keys: Keyring): Promise<KnownBlock['entries']> {
    const place = `${stream} ${block.firstSeq} ${block.dropMonth}`;
    const known = this.#known.get(place);
    if (known !== undefined && Buffer.compare(known.parts, block.parts) === 0) return known.entries;
    const { dataKey } = await keys.keysById(block.keyId);
    const entries = openBlock(block, stream, dataKey)
      .filter(({ record }) => (record.source as { readonly service?: unknown }).service !== 'sealog')
      .map(({ record, parts }) => ({
        month: record.recordedAt.slice(0, 7),
        isErased: parts.some((part) => !isOpen(part)),
        isHeld: record.retainUntil !== undefined && dropMonthOf(parseInstant(record.retainUntil)) < block.dropMonth,
      }));
    this.#known.set(place, { parts: block.parts, entries });
    return entries;
  }
}

/** Verifies everything, with what somebody kept who does not trust the database. */
export async function verifyState(
  service: SimulatedService,
  kept: { readonly vkey: string; readonly checkpoints: readonly { readonly name: string; readonly note: string }[] },
): Promise<LogReport> {
  const source = logWideSource(service.app.database.verifier, keysOf(service), ORIGIN);
  return verifyLog(source, {
    key: { vkey: kept.vkey, trusted: 'given' },
    checkpoints: kept.checkpoints,
    ...(service.witness === undefined ? {} : { evidence: witnessChecker([service.witness.vkey]) }),
  });
}

/** What is wrong, in words; empty where nothing is. */
export function wrongIn(report: LogReport, outside: boolean): string[] {
  const findings = [...report.findings, ...report.streams.flatMap((stream) => stream.findings)];
  const uncertified = report.streams.flatMap(({ stream, pruned }) =>
    outside ? pruned.filter(({ time }) => time === undefined).map(({ from, to }) => `${stream} ${from}-${to}`) : [],
  );
  return [
    ...findings.map(({ stream, seq, kind, detail }) => `${stream} ${kind}@${seq}: ${detail}`),
    ...uncertified.map((range) => `${range} is pruned, and no outside time certifies it`),
    ...report.unchecked.map((one) => `unchecked: ${JSON.stringify(one)}`),
    ...(['tampered', 'incomplete'].includes(report.verdict) ? [`the verdict is ${report.verdict}`] : []),
  ];
}

function keysOf(service: SimulatedService): Keyring {
  const { verifier } = service.app.database;
  return new Keyring(fileMonthKeys(service.config.monthKeysDir), {
    findOrStore: () => Promise.reject(new Error('whoever looks makes no keys')),
    byId: (id) => keyById(verifier, id),
  });
}
