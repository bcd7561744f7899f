/**
 * Damage to a stored log, at random: a value of a row changed, a row lost or put there twice, or an entry forged and
 * everything after it worked out anew. What comes out may also be intact: both verifiers are only to agree.
 */
import { randomBytes } from 'node:crypto';
import type { MemoryMonthKeys } from './memory-log.ts';
import { type Json, jcs } from './naive-json.ts';
import * as log from './naive-log.ts';
import { dropMonth, timeText } from './naive-time.ts';
import { type BlockRow, type DataKeyRow, dataKeyOf, type IdRow, type Rows, type StreamRow } from './naive-verify.ts';
import { rewriteStream, type WrittenEntry } from './naive-writer.ts';
import type { Random } from './random-events.ts';

export interface Damaged {
  readonly what: string;
  readonly rows: Rows;
}

/** The entries of an intact stream, opened. */
export function openStream(rows: Rows, stream: StreamRow, monthKeys: ReadonlyMap<string, Uint8Array>): WrittenEntry[] {
  const blocks = rows.blocks.filter((block) => block.stream === stream.id).sort((a, b) => a.firstSeq - b.firstSeq);
  return blocks.flatMap((block) => {
    const dataKey = dataKeyOf(rows.dataKeys.find((row) => row.id === block.keyId)!, stream, monthKeys)!;
    const own = log.readBundle(log.unpack(block.records)).map((bytes) => ({ bytes, record: log.readRecord(bytes) }));
    const partsHashes = own.map(({ record }) => Buffer.from(record.parts, 'hex'));
    const parts = log.readParts(log.unpack(log.open(dataKey, stream.name, partsHashes, block.parts)));
    return own.map((entry, i) => ({ ...entry, parts: parts[i]! }));
  });
}

/** The same entries, written by the book in other blocks: the same log. */
export async function recut(
  rows: Rows,
  stream: StreamRow,
  entries: readonly WrittenEntry[],
  random: Random,
  monthKeys: MemoryMonthKeys,
): Promise<Rows> {
  const made = new Map<number, { row: DataKeyRow; dataKey: Uint8Array }>();
  for (const month of new Set(entries.map(({ record }) => dropMonth(record.retainUntil)))) {
    const row = rows.dataKeys.find((key) => key.stream === stream.id && key.dropMonth === month);
    const dataKey = row === undefined ? randomBytes(32) : dataKeyOf(row, stream, monthKeys.byName)!;
    const wrapped = await monthKeys.wrap(dataKey, { stream: stream.name, dropMonth: month });
    const place = { id: 10_000 + month, stream: stream.id, tenant: stream.tenant, dropMonth: month };
    made.set(month, { row: row ?? { ...place, ...wrapped }, dataKey });
  }
  const odd = 1 + random.below(30);
  return rewriteStream(rows, stream, entries, {
    keyOf: (month) => made.get(month)!,
    cutsBefore: (seq) => (seq * 7919) % odd === 0,
    compresses: (seq) => seq % 2 === 0,
  });
}

/** A change to a row of the stream, or to the row of its tenant or of one of its keys. */
export function damageRow(rows: Rows, stream: StreamRow, random: Random): Damaged {
  if (random.chance(12)) return damageTags(rows, stream, random);
  const tables = ['blocks', 'blocks', 'ids', 'tiles', 'streams', 'dataKeys', 'tenants'] as const;
  const hasEdge = rows.edges.some((edge) => edge.stream === stream.id);
  const table = hasEdge && random.chance(30) ? 'edges' : random.pick(tables);
  const all: readonly object[] = rows[table];
  const isOwn = (row: object): boolean =>
    (row as { stream?: number }).stream === stream.id ||
    (table === 'streams' && row === stream) ||
    (table === 'tenants' && (row as { id: number }).id === stream.tenant);
  const own = all.filter(isOwn);
  if (own.length === 0) return { what: 'nothing', rows };
  const row = random.pick(own);
  const others = all.filter((each) => each !== row);
  const canBeLost = table !== 'streams' && table !== 'tenants';
  if (canBeLost && random.chance(15)) return { what: `a row of ${table} is lost`, rows: { ...rows, [table]: others } };
  if (table === 'ids' && random.chance(10))
    return { what: 'ids has a row twice', rows: { ...rows, ids: [...rows.ids, row as IdRow] } };

  // That a row of it is as wide as it says, the table itself holds.
  const keep =
    table === 'edges'
      ? ['index', 'width', 'stream']
      : table === 'streams'
        ? ['id', 'name']
        : table === 'tenants' || table === 'dataKeys'
          ? ['id']
          : [];
  const columns = Object.keys(row).filter((column) => !keep.includes(column) && column !== 'tags');
  const column = random.pick(columns);
  const from = random.pick(own) as { readonly [column: string]: unknown };
  const value = changed((row as { readonly [column: string]: unknown })[column], from[column], random);
  const changedRow = { ...row, [column]: value };
  const isAdded = canBeLost && table !== 'dataKeys' && table !== 'edges' && random.chance(20);
  const next = isAdded ? [...all, changedRow] : all.map((each) => (each === row ? changedRow : each));
  const what = `${column} of ${isAdded ? 'a row more in' : 'a row of'} ${table} is ${String(value).slice(0, 80)}`;
  const damaged = { ...rows, [table]: next } as Rows;
  return breaksConstraint(damaged) ? { what: 'nothing', rows } : { what, rows: damaged };
}

/** A change to the tags of a block. */
function damageTags(rows: Rows, stream: StreamRow, random: Random): Damaged {
  const own = rows.blocks.filter((block) => block.stream === stream.id);
  if (own.length === 0) return { what: 'nothing', rows };
  const [block, other] = [random.pick(own), random.pick(own)];
  const { tags } = block;
  const at = random.below(tags.length);
  const [tag, foreign] = [tags[at]!, random.pick(other.tags)];
  const plain = BigInt.asIntN(64, tag ^ (1n << BigInt(random.below(64))));
  const [what, changedTags] = random.pick<readonly [string, BlockRow['tags']]>([
    ['has a tag less', tags.toSpliced(at, 1)],
    ['has no tag', []],
    ['has a tag more', [...tags, plain]],
    ['has a tag of another block, or one twice', [...tags, foreign]],
    ['has another tag', tags.with(at, plain)],
    ['has a tag twice', [...tags, tag]],
    ['has a tag twice in the place of another', tags.with(at, tags.at(at - 1)!)],
    ['has NULL for a tag', tags.with(at, null)],
    ['has NULL as a tag more', [...tags, null]],
    ['has far too many tags', Array.from({ length: 9217 }, (_, i) => tags[i] ?? BigInt(i))],
    ['has its tags in another order', tags.toReversed()],
    ['has those of another', other.tags],
  ]);
  const isSwap = random.chance(15);
  const swapped = new Map([[block, other.tags] as const, [other, tags] as const]);
  const next = isSwap ? swapped : new Map([[block, changedTags]]);
  const blocks = rows.blocks.map((row) => ({ ...row, tags: next.get(row) ?? row.tags }));
  const swap = `swaps tags with that at ${other.firstSeq}`;
  return { what: `the block at ${block.firstSeq} ${isSwap ? swap : what}`, rows: { ...rows, blocks } };
}

/** An entry changed, lost or put in twice; `links` and all that follows from the records may be worked out anew. */
export async function forge(
  rows: Rows,
  stream: StreamRow,
  entries: readonly WrittenEntry[],
  random: Random,
  monthKeys: MemoryMonthKeys,
): Promise<Damaged> {
  const at = random.below(entries.length);
  const entry = entries[at]!;
  const [what, forged] = random.chance(30) ? forgedParts(entry, random) : forgedRecord(entry, random);
  const kind = random.below(10);
  const next =
    kind === 0
      ? entries.toSpliced(at, 1)
      : kind === 1
        ? entries.toSpliced(at, 0, entry)
        : entries.toSpliced(at, 1, forged);
  const isLinked = random.chance(60);
  const written = isLinked ? linked(next, random.chance(50)) : next;
  const words = [`entry ${at}:`, kind === 0 ? 'lost' : kind === 1 ? 'twice' : what, isLinked ? 'and linked' : 'only'];
  return { what: words.join(' '), rows: await recut(rows, stream, written, random, monthKeys) };
}

/** Like the value, but another one, or that of another row. */
function changed(value: unknown, other: unknown, random: Random): unknown {
  if (random.chance(20)) return other;
  if (typeof value === 'number') return Math.max(0, value + random.pick([1, -1, 2, -256, 256, 89, 1000, 2 ** 33]));
  if (typeof value === 'bigint') return BigInt.asIntN(64, value + random.pick([1n, -1n, 1n << 40n, 1n << 63n]));
  if (typeof value === 'string')
    return random.pick(['x', 'acme', 'data_access', '209912', 'for-ever', log.idHash('x')]);
  if (!(value instanceof Uint8Array)) return random.pick([null, 0, 1, 4_000_000_000_000]);
  const bytes = Buffer.from(value);
  if (bytes.length > 0) bytes[random.below(bytes.length)]! ^= 1 << random.below(8);
  return random.pick([
    bytes,
    bytes,
    bytes,
    bytes,
    value.subarray(1),
    log.join(value, Buffer.of(0)),
    bytes.subarray(32),
  ]);
}

/** What PostgreSQL would not have stored. */
function breaksConstraint(rows: Rows): boolean {
  const isUnique = (names: readonly string[]): boolean => new Set(names).size === names.length;
  return !(
    isUnique(rows.blocks.map((row) => `${row.stream} ${row.firstSeq} ${row.dropMonth}`)) &&
    isUnique(rows.tiles.map((row) => `${row.stream} ${row.level} ${row.index}`)) &&
    isUnique(rows.dataKeys.map((row) => `${row.stream} ${row.dropMonth}`)) &&
    isUnique(rows.tenants.map((row) => row.name)) &&
    rows.blocks.every((row) => row.entries > 0) &&
    rows.ids.every((row) => /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/.test(row.id)) &&
    rows.streams.every((row) => row.epoch >= 1 && row.head.length === 32) &&
    rows.edges.every((row) => row.hashes.length === 32 * row.width)
  );
}

function forgedRecord({ record, parts, bytes }: WrittenEntry, random: Random): [string, WrittenEntry] {
  const says = JSON.parse(Buffer.from(bytes).toString('utf8')) as { [name: string]: Json };
  if (random.chance(20)) {
    const text = Buffer.from(bytes).toString('utf8');
    const texts = [
      `${text} `,
      `\ufeff${text}`,
      text.slice(0, -1),
      text.replace(',', ', '),
      text.replace('"v":1', '"v":1.0'),
    ];
    texts.push('', '{}', 'null', text.replace('"v":1', '"v":1,"v":1'), text.replace(/"seq":(\d+)/, '"seq":$1e0'));
    const forged = log.join(random.pick(texts));
    return [`its bytes are ${forged.toString('utf8').slice(0, 60)}`, { record, parts, bytes: forged }];
  }
  const { seq, stream, recordedAt, retainUntil } = record;
  const time = (base: number): string => timeText(Math.max(0, base + random.pick([1, -1, 86_400_000, -86_400_000])));
  const [name, value] = random.pick<readonly [string, Json | undefined]>([
    ['outcome', random.pick(['success', 'failure', 'unknown', 'Success', 1])],
    ['severity', random.pick<Json | undefined>([0, 10, 11, -1, 1.5, '1', null, undefined])],
    ['action', random.pick<Json>(['x.y', '', 1])],
    ['id', random.pick<Json>(['other', '', null])],
    ['occurredAt', random.pick(['2026-01-01T00:00:00Z', '2026-01-01T00:00:00.0009Z', '0001-01-01T00:00:00-23:59'])],
    ['recordedAt', random.pick([time(recordedAt), time(0), '2024-02-30T00:00:00.000Z', '2024-01-01T00:00:00Z'])],
    ['retainUntil', random.pick([time(retainUntil ?? 0), time(recordedAt), undefined, null])],
    ['seq', random.pick<Json>([seq + 1, seq - 1, 2 ** 53, String(seq)])],
    ['stream', random.pick<Json>([stream, `${stream}/e2`, 'umbrella-0/data_access', 1])],
    ['previous', random.pick(['0'.repeat(64), 'A'.repeat(64), 'a'.repeat(64), ''])],
    ['parts', random.pick(['0'.repeat(64), ''])],
    ['source', random.pick<Json>([{}, [], null, 's', { service: 's', site: 1 }, { '"': 1, '\\': 2 }])],
    ['evidence', random.pick<Json | undefined>(['incomplete', 'complete', undefined])],
    ['v', random.pick<Json>([2, '1'])],
    ['more', 1],
  ]);
  const { [name]: _, ...others } = says;
  const forged = jcs(value === undefined ? others : { ...others, [name]: value });
  return [`its ${name} is ${JSON.stringify(value)}`, { ...readOr(record, forged), parts }];
}

function forgedParts({ record, parts, bytes }: WrittenEntry, random: Random): [string, WrittenEntry] {
  const [first, ...rest] = parts;
  const [name, salt] = [first?.name ?? 'reason', randomBytes(16)];
  const closed = first === undefined ? [] : [{ name, closed: log.commitment(first) }, ...rest];
  const another = { name, salt, value: jcs(random.pick<Json>(['other', 1, { id: 'u' }])) };
  const texts = [
    '{"a": 1}',
    '1.0',
    '',
    'x',
    '"\\u0041"',
    '1 ',
    '\ufeff1',
    '{"b":1,"a":1}',
    '{"a":1,"a":1}',
    '-0',
    '"\\ud800"',
  ];
  const odd = { name, salt, value: log.join(random.pick([...texts, Buffer.of(0xff)])) };
  const others = parts.filter((part) => part.name !== 'raw');
  const [what, forged, tagged] = random.pick<readonly [string, readonly log.Part[], (readonly log.Part[])?]>([
    ['a part is closed', closed],
    ['a part is lost', rest],
    [`a part is ${odd.value.toString()}`, [odd, ...rest], rest],
    ['a part is another', [another, ...rest]],
    ['a part is more', [...others, { name: 'raw', salt, value: jcs('more') }]],
  ]);
  const tags = tagged === undefined ? {} : { tagged };
  if (random.chance(50)) return [`${what}, said by nobody`, { record, bytes, parts: forged, ...tags }];
  const says = { ...record, parts: log.partsHash(forged).toString('hex') };
  return [what, { record: says, bytes: log.writeRecord(says), parts: forged, ...tags }];
}

/** Names the hash of the one before, and where `places` is set stands at its place; what is no record stays. */
function linked(entries: readonly WrittenEntry[], places: boolean): WrittenEntry[] {
  const out: WrittenEntry[] = [];
  for (const [i, entry] of entries.entries()) {
    const before = out.at(-1)?.bytes;
    const previous = before === undefined ? '0'.repeat(64) : log.entryHash(before).toString('hex');
    const place = { previous, seq: places ? i : entry.record.seq };
    out.push({ ...entry, ...moved(entry, place) });
  }
  return out;
}

/** The record at another place; what is none stays as it is. */
function moved({ record, bytes }: WrittenEntry, place: { previous: string; seq: number }): Partial<WrittenEntry> {
  try {
    return { record: { ...record, ...place }, bytes: log.writeRecord({ ...log.readRecord(bytes), ...place }) };
  } catch {
    return {};
  }
}

/** What the bytes say; where they are no record, the rows around them are made of what stood there before. */
function readOr(record: log.NaiveRecord, bytes: Uint8Array): Pick<WrittenEntry, 'bytes' | 'record'> {
  try {
    return { bytes, record: log.readRecord(bytes) };
  } catch {
    return { bytes, record };
  }
}
