/**
 * The worked examples of `docs/format.md`: what stands there is what the tool writes, and what a second implementation comes to.
 *
 * That implementation is this file: written from the document's words, naive, over node:crypto, zlib and JSON alone. It takes its inputs
 * from the document (events, salts, keys, clocks) and works out every other value in it.
 */
import { createCipheriv, createDecipheriv, createHash, hkdfSync } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { zstdDecompressSync } from 'node:zlib';
import pg from 'pg';
import { describe, expect, test } from 'vitest';
import { fileMonthKeys } from '../src/keys/file-month-keys.ts';
import { Keyring } from '../src/keys/keyring.ts';
import { keyById } from '../src/store/data-keys.ts';
import { openDatabase } from '../src/store/database.ts';
import { migrate } from '../src/store/migrate.ts';
import { listStreams } from '../src/store/streams.ts';
import { verifySource } from '../src/store/verify-source.ts';
import { type StreamReport, verifyStream } from '../src/verify/verify-stream.ts';
import { withExamples } from '../tools/format-examples.ts';
import { createDatabase } from './support/postgres.ts';

type Json = null | boolean | number | string | Json[] | { [name: string]: Json };
type Cells = readonly string[];
/** The value of a label: the text of its block, or the cells of its row that are code. */
type Values = Record<string, string | Cells>;

const DOCUMENT = readFileSync(new URL('../docs/format.md', import.meta.url), 'utf8');
const DOCUMENTED = valuesOf(DOCUMENT);
const STREAM = cell('stream');
const DATA_KEY = Buffer.from(cell('data-key'), 'hex');
const PARTS = ['actor', 'changes', 'details', 'raw', 'reason', 'target'] as const;
const NO_BYTES = Buffer.alloc(0);

test('the examples in docs/format.md are what tools/format-examples.ts writes', () => {
  expect(withExamples(DOCUMENT)).toBe(DOCUMENT);
});

describe('a second implementation, from the words of docs/format.md, comes to the same', () => {
  const groups: Record<string, () => Values> = {
    'canonical JSON': canonicalValues,
    'parts, records and hashes': entryValues,
    'blocks and sealing': blockValues,
    'an erased part': erasedValues,
    'tags, ids and rows': rowValues,
    'wrapped keys': wrapValues,
    'trees, proofs and tiles': treeValues,
    'the calendar': calendarValues,
  };
  /** What the document gives and nothing follows to. */
  const inputs =
    /^(stream|data-key|month-key|wrap\.nonce|entry\d\.(sent|clock)|entry\d\.[a-z]+\.salt|[a-z]+\d?\.seal\.salt)$/;

  test.each(Object.entries(groups))('%s', (_, work) => {
    const values = work();
    expect(values).toEqual(Object.fromEntries(Object.keys(values).map((label) => [label, DOCUMENTED.get(label)])));
  });

  test('no value of the document is left out', () => {
    const worked = Object.values(groups).flatMap((work) => Object.keys(work()));
    const given = [...DOCUMENTED.keys()].filter((label) => inputs.test(label));
    expect([...worked, ...given].sort()).toEqual([...DOCUMENTED.keys()].sort());
  });

  test('the values between the words hold too', () => {
    expect(DOCUMENT).toContain(`which is\n\`${h('sealog/parts/v1\0').toString('hex')}\``);
    expect(DOCUMENT).toContain(`root of no entries = H() = ${h().toString('hex')}\n`);
    const rows = [...DOCUMENT.matchAll(/^\| (\d{4}-\S+Z) \| (\d+) \| (\S+Z) \| (\d+) \|$/gm)];
    expect(rows).toHaveLength(5);
    for (const [, from = '', months = '', until, month] of rows) {
      expect([until, month]).toEqual([later(from, Number(months)), String(dropMonth(later(from, Number(months))))]);
    }
  });
});

describe('the example stream, its rows put into PostgreSQL', () => {
  test('is found intact by the project, down to its wrapped key', async () => {
    expect(await verifyExample({})).toMatchObject({ size: 3, verdict: 'intact', findings: [], unchecked: [] });
  });

  test('with the erased block is found to lack a part', async () => {
    const report = await verifyExample({ parts: bytes('erased.parts') });
    expect(report).toMatchObject({ verdict: 'tampered', findings: [{ seq: 0, kind: 'erasure' }] });
  });

  test('without its month key is found incomplete', async () => {
    expect(await verifyExample({ monthKey: '' })).toMatchObject({ verdict: 'incomplete', findings: [] });
  });
});

// Section 1: notation.

function h(...chunks: (Uint8Array | string)[]): Buffer {
  const hash = createHash('sha256');
  for (const chunk of chunks) hash.update(chunk);
  return hash.digest();
}

function u32(n: number): Buffer {
  const four = Buffer.alloc(4);
  four.writeUInt32BE(n);
  return four;
}

function lp(x: Uint8Array | string): Buffer {
  const chunk = Buffer.from(x);
  return Buffer.concat([u32(chunk.length), chunk]);
}

function hkdf(key: Buffer, salt: Buffer, info: string): Buffer {
  return Buffer.from(hkdfSync('sha256', key, salt, info, 32));
}

function gcm(key: Buffer, nonce: Buffer, plaintext: Buffer, associated: Buffer): Buffer {
  const cipher = createCipheriv('aes-256-gcm', key, nonce);
  cipher.setAAD(associated);
  return Buffer.concat([cipher.update(plaintext), cipher.final(), cipher.getAuthTag()]);
}

function openGcm(key: Buffer, nonce: Buffer, sealed: Buffer, associated: Buffer): Buffer {
  const decipher = createDecipheriv('aes-256-gcm', key, nonce);
  decipher.setAAD(associated);
  decipher.setAuthTag(sealed.subarray(-16));
  return Buffer.concat([decipher.update(sealed.subarray(0, -16)), decipher.final()]);
}

// Section 2: canonical JSON.

function jcs(value: Json): string {
  if (value === null || typeof value === 'boolean') return `${value}`;
  if (typeof value === 'number') return numberText(value);
  if (typeof value === 'string') return stringText(value);
  if (Array.isArray(value)) return `[${value.map(jcs).join(',')}]`;
  const names = Object.keys(value).sort((a, b) => compareUnits(a, b));
  return `{${names.map((name) => `${stringText(name)}:${jcs(value[name]!)}`).join(',')}}`;
}

function compareUnits(a: string, b: string): number {
  for (let i = 0; i < Math.min(a.length, b.length); i++) {
    if (a.charCodeAt(i) !== b.charCodeAt(i)) return a.charCodeAt(i) - b.charCodeAt(i);
  }
  return a.length - b.length;
}

function stringText(text: string): string {
  const short: Record<string, string> = {
    '"': '\\"',
    '\\': '\\\\',
    '\b': '\\b',
    '\t': '\\t',
    '\n': '\\n',
    '\f': '\\f',
    '\r': '\\r',
  };
  let out = '"';
  for (const unit of text.split('')) {
    const code = unit.charCodeAt(0);
    out += short[unit] ?? (code < 0x20 ? `\\u00${code.toString(16).padStart(2, '0')}` : unit);
  }
  return `${out}"`;
}

function numberText(x: number): string {
  if (x === 0) return '0';
  if (x < 0) return `-${numberText(-x)}`;
  const [mantissa = '', exponent = ''] = x.toExponential().split('e');
  const digits = mantissa.replace('.', '');
  const k = digits.length;
  const n = Number(exponent) + 1;
  if (k <= n && n <= 21) return digits + '0'.repeat(n - k);
  if (0 < n && n <= 21) return `${digits.slice(0, n)}.${digits.slice(n)}`;
  if (-6 < n && n <= 0) return `0.${'0'.repeat(-n)}${digits}`;
  return `${digits[0]}${k > 1 ? `.${digits.slice(1)}` : ''}e${n > 0 ? '+' : '-'}${Math.abs(n - 1)}`;
}

function canonicalValues(): Values {
  const labels = [...DOCUMENTED.keys()].filter((label) => label.startsWith('json.'));
  expect(labels.length).toBeGreaterThan(10);
  return Object.fromEntries(labels.map((label) => [label, [cell(label), jcs(JSON.parse(cell(label)) as Json)]]));
}

// Sections 5 to 7: parts, records, hashes.

interface Entry {
  readonly sent: { readonly [name: string]: Json };
  readonly parts: readonly { column: number; salt: Buffer; value: Buffer; commitment: Buffer }[];
  readonly partsHash: Buffer;
  readonly record: string;
  readonly hash: Buffer;
  readonly recordedAt: string;
  readonly retainUntil: string;
}

function entries(): Entry[] {
  const all: Entry[] = [];
  let previous = '00'.repeat(32);
  for (let seq = 0; seq < 3; seq++) {
    const sent = JSON.parse(text(`entry${seq}.sent`)) as { [name: string]: Json };
    const parts = PARTS.flatMap((name, column) => {
      const value = sent[name];
      if (value === undefined) return [];
      const salt = Buffer.from(cell(`entry${seq}.${name}.salt`), 'hex');
      const bytes = Buffer.from(jcs(value));
      return [{ column, salt, value: bytes, commitment: h('sealog/part/v1\0', salt, lp(name), lp(bytes)) }];
    });
    const partsHash = h(
      'sealog/parts/v1\0',
      ...parts.flatMap(({ column, commitment }) => [lp(PARTS[column]!), commitment]),
    );
    const recordedAt = cell(`entry${seq}.clock`);
    const retainUntil = later(recordedAt, 24);
    const record = jcs({
      v: 1,
      stream: STREAM,
      seq,
      previous,
      id: sent['id']!,
      action: sent['action']!,
      outcome: sent['outcome']!,
      ...(sent['severity'] === undefined ? {} : { severity: sent['severity'] }),
      occurredAt: sent['occurredAt']!,
      recordedAt,
      retainUntil,
      source: sent['source']!,
      // A configuration change without actor, target and changes.
      ...(seq === 1 ? { evidence: 'incomplete' } : {}),
      parts: partsHash.toString('hex'),
    });
    const hash = h('\0', record);
    previous = hash.toString('hex');
    all.push({ sent, parts, partsHash, record, hash, recordedAt, retainUntil });
  }
  return all;
}

function entryValues(): Values {
  const values: Values = {};
  for (const [seq, entry] of entries().entries()) {
    for (const { column, salt, value, commitment } of entry.parts) {
      const name = PARTS[column]!;
      const label = `entry${seq}.${name}`;
      values[`${label}.value`] = value.toString();
      values[`${label}.message`] = lines(Buffer.concat([Buffer.from('sealog/part/v1\0'), salt, lp(name), lp(value)]));
      values[`${label}.commitment`] = [commitment.toString('hex')];
    }
    values[`entry${seq}.parts.message`] = lines(
      Buffer.concat([
        Buffer.from('sealog/parts/v1\0'),
        ...entry.parts.flatMap(({ column, commitment }) => [lp(PARTS[column]!), commitment]),
      ]),
    );
    values[`entry${seq}.parts.hash`] = [entry.partsHash.toString('hex')];
    values[`entry${seq}.record`] = entry.record;
    values[`entry${seq}.hash`] = [entry.hash.toString('hex')];
  }
  return values;
}

// Sections 11 and 12: blocks and sealing.

function recordsPayload(own: readonly Entry[]): Buffer {
  return Buffer.concat(own.flatMap(({ record }) => [lp(record).subarray(2)]));
}

function partsPayload(own: readonly Entry[], isClosed: (entry: number, column: number) => boolean): Buffer {
  const bitmaps: number[] = [];
  for (const [i, { parts }] of own.entries()) {
    let [open, closed] = [0, 0];
    for (const { column } of parts) {
      if (isClosed(i, column)) closed += 2 ** column;
      else open += 2 ** column;
    }
    bitmaps.push(open, closed);
  }
  const inColumns = PARTS.flatMap((_, column) =>
    own.flatMap(({ parts }, i) => parts.filter((part) => part.column === column).map((part) => ({ i, ...part }))),
  );
  const open = inColumns.filter(({ i, column }) => !isClosed(i, column));
  const closed = inColumns.filter(({ i, column }) => isClosed(i, column));
  return Buffer.concat([
    Buffer.of(1),
    u32(own.length),
    Buffer.from(bitmaps),
    ...open.map(({ salt }) => salt),
    ...closed.map(({ commitment }) => commitment),
    ...open.map(({ value }) => lp(value)),
  ]);
}

/** What is packed under a label if it opens to the payload: compressed bytes are not compared. */
function packedLike(label: string, payload: Buffer): Buffer {
  const packed = bytes(label);
  const body = packed.subarray(1);
  const opened = packed[0] === 1 ? zstdDecompressSync(body) : body;
  return (packed[0] === 0 || packed[0] === 1) && opened.equals(payload) ? packed : NO_BYTES;
}

function sealed(label: string, own: readonly Entry[], plaintext: Buffer): Values {
  const salt = Buffer.from(cell(`${label}.seal.salt`), 'hex');
  const key = hkdf(DATA_KEY, salt, 'sealog/seal/v1\0');
  const associated = Buffer.concat([
    Buffer.from('sealog/seal/v1\0'),
    lp(STREAM),
    ...own.map(({ partsHash }) => partsHash),
  ]);
  return {
    [`${label}.seal.key`]: [key.toString('hex')],
    [`${label}.seal.aad`]: lines(associated),
    [`${label}.parts`]: lines(Buffer.concat([salt, gcm(key, Buffer.alloc(12), plaintext, associated)])),
  };
}

function blocks(): { first: number; own: Entry[] }[] {
  const [a, b, c] = entries();
  return [
    { first: 0, own: [a!, b!] },
    { first: 2, own: [c!] },
  ];
}

function blockValues(): Values {
  const values: Values = {};
  for (const { first, own } of blocks()) {
    const label = `block${first}`;
    const records = recordsPayload(own);
    const parts = partsPayload(own, () => false);
    const packed = packedLike(`${label}.parts.packed`, parts);
    Object.assign(values, {
      [`${label}.records.payload`]: lines(records),
      [`${label}.records`]: lines(packedLike(`${label}.records`, records)),
      [`${label}.parts.payload`]: lines(parts),
      [`${label}.parts.packed`]: lines(packed),
      ...sealed(label, own, packed),
    });
  }
  return values;
}

function erasedValues(): Values {
  const own = entries().slice(0, 2);
  const payload = partsPayload(own, (entry, column) => entry === 0 && PARTS[column] === 'actor');
  const packed = packedLike('erased.parts.packed', payload);
  return {
    'erased.parts.payload': lines(payload),
    'erased.parts.packed': lines(packed),
    ...sealed('erased', own, packed),
  };
}

// Sections 14, 15 and 17: tags, ids, rows.

function tagKey(): Buffer {
  return hkdf(DATA_KEY, NO_BYTES, 'sealog/tag-key/v1\0');
}

function tagMessage(kind: string, value: string): Buffer {
  const key = ['actor', 'ip', 'target'].includes(kind) ? tagKey() : NO_BYTES;
  return Buffer.concat([Buffer.from('sealog/tag/v1\0'), key, lp(kind), lp(value)]);
}

function tagCells(kind: string, value: string): [string, string] {
  const eight = h(tagMessage(kind, value)).subarray(0, 8);
  return [eight.toString('hex'), String(eight.readBigInt64BE())];
}

/** A tag, in hex, as it is stored in a block of this stream that begins there. */
function placedCells(hex: string, stream: number, firstSeq: number): [string, string] {
  const place = (BigInt(stream) * 10368889n + BigInt(firstSeq) / 8192n) % 2n ** 24n;
  const placed = `${place.toString(16).padStart(6, '0')}${hex.slice(6)}`;
  return [placed, String(Buffer.from(placed, 'hex').readBigInt64BE())];
}

function tagged(sent: { readonly [name: string]: Json }): [string, string][] {
  const [source, actor, target] = ['source', 'actor', 'target'].map(
    (name) => (sent[name] ?? {}) as { [name: string]: Json },
  );
  const found: [string, Json | undefined][] = [
    ['action', sent['action']],
    ['service', source!['service']],
    ['site', source!['site']],
    ['actor', actor!['id']],
    ['actor', actor!['name']],
    ['actor', typeof actor!['email'] === 'string' ? normalEmail(actor!['email']) : undefined],
    ['ip', typeof actor!['ip'] === 'string' ? normalIp(actor!['ip']) : undefined],
    ['target', target!['id']],
    ['target', target!['name']],
  ];
  return found.filter((one): one is [string, string] => typeof one[1] === 'string');
}

function trimmed(value: string): string {
  const space = '[\\u0009-\\u000d\\u0020\\u00a0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000\\ufeff]*';
  return value.replace(new RegExp(`^${space}`), '').replace(new RegExp(`${space}$`), '');
}

function normalEmail(value: string): string {
  return trimmed(value).normalize('NFC').toLowerCase();
}

function normalIp(value: string): string {
  const ip = trimmed(value);
  const [address = '', zone] = ip.includes('%') ? [ip.slice(0, ip.indexOf('%')), ip.slice(ip.indexOf('%') + 1)] : [ip];
  const groups = ipv6Groups(address);
  if (groups === undefined || (zone !== undefined && !/^[A-Za-z0-9.:-]+$/.test(zone))) return ip.toLowerCase();
  if (groups.slice(0, 5).every((group) => group === 0) && groups[5] === 0xffff) {
    return [groups[6]! >> 8, groups[6]! & 255, groups[7]! >> 8, groups[7]! & 255].join('.');
  }
  let [best, length] = [0, 1];
  for (let start = 0; start < 8; start++) {
    let end = start;
    while (end < 8 && groups[end] === 0) end++;
    if (end - start > length) [best, length] = [start, end - start];
  }
  const hex = groups.map((group) => group.toString(16));
  const normal = length < 2 ? hex.join(':') : `${hex.slice(0, best).join(':')}::${hex.slice(best + length).join(':')}`;
  return zone === undefined ? normal : `${normal}%${zone}`;
}

function ipv6Groups(address: string): number[] | undefined {
  const dotted = /^(.*:)(\d+)\.(\d+)\.(\d+)\.(\d+)$/.exec(address);
  if (dotted !== null) {
    const [, front, ...decimals] = dotted;
    const [a, b, c, d] = decimals.map(Number);
    if (decimals.some((one) => Number(one) > 255 || String(Number(one)) !== one)) return undefined;
    return ipv6Groups(`${front}${(a! * 256 + b!).toString(16)}:${(c! * 256 + d!).toString(16)}`);
  }
  const sides = address.split('::');
  if (sides.length > 2) return undefined;
  const [left = [], right = []] = sides.map((side) => (side === '' ? [] : side.split(':')));
  if (![...left, ...right].every((group) => /^[0-9A-Fa-f]{1,4}$/.test(group))) return undefined;
  const missing = 8 - left.length - right.length;
  if (sides.length === 1 ? missing !== 0 : missing < 1) return undefined;
  return [...left, ...Array.from({ length: missing }, () => '0'), ...right].map((group) => Number.parseInt(group, 16));
}

function idHash(id: string): string {
  return h('sealog/id/v1\0', id)
    .toString('hex')
    .replace(/^(.{8})(.{4})(.{4})(.{4})(.{12}).*$/, '$1-$2-$3-$4-$5');
}

function rowValues(): Values {
  const values: Values = {
    'tag-key': [tagKey().toString('hex')],
    'tag.0.0.message': lines(tagMessage('action', 'role.update')),
    'tag.0.3.message': lines(tagMessage('actor', 'u-17')),
  };
  for (const { first, own } of blocks()) {
    const distinct = new Map(own.flatMap(({ sent }) => tagged(sent)).map((one) => [one.join(' '), one]));
    for (const [i, [kind, value]] of [...distinct.values()].entries()) {
      const [hex, tag] = tagCells(kind, value);
      values[`tag.${first}.${i}`] = [String(first), kind, value, hex, tag, placedCells(hex, 1, first)[1]];
    }
    const occurred = own.map(({ sent }) => milliseconds(sent['occurredAt'] as string));
    const severities = own.flatMap(({ sent }) => (sent['severity'] === undefined ? [] : [sent['severity'] as number]));
    const outcomes = new Set(
      own.map(({ sent }) => ({ success: 1, failure: 2, unknown: 4 })[sent['outcome'] as 'success']),
    );
    const ids = own.map(({ sent }) => Buffer.from(idHash(sent['id'] as string).replaceAll('-', ''), 'hex'));
    const halves = (at: number) => `{${ids.map((id) => id.readBigInt64BE(at)).join(',')}}`;
    values[`row.ids${first}`] = [String(first), halves(0), halves(8)];
    values[`row.block${first}`] = [
      first,
      own.length,
      dropMonth(own[0]!.retainUntil),
      milliseconds(own[0]!.recordedAt),
      milliseconds(own.at(-1)!.recordedAt),
      Math.min(...occurred),
      Math.max(...occurred),
      Math.min(...severities),
      Math.max(...severities),
      [...outcomes].reduce((sum, bit) => sum + bit, 0),
    ].map(String);
  }
  const all = entries();
  for (const [seq, { sent }] of all.entries()) {
    values[`id.${seq}`] = [String(seq), sent['id'] as string, idHash(sent['id'] as string)];
  }
  const last = all.at(-1)!;
  const hashes = all.map(({ hash }) => hash);
  Object.assign(values, {
    'row.stream': [STREAM, '3', String(milliseconds(last.recordedAt)), String(milliseconds(last.retainUntil))],
    'row.stream.head': [last.hash.toString('hex')],
    'row.stream.frontier': lines(frontier(hashes)),
  });
  for (const label of [...DOCUMENTED.keys()].filter((one) => one.startsWith('more.'))) {
    const actor = JSON.parse(cell(label)) as Json;
    const [[kind, value] = ['', ''], ...others] = tagged({ actor });
    expect(others).toEqual([]);
    values[label] = [cell(label), kind, value, ...tagCells(kind, value)];
  }
  for (const label of [...DOCUMENTED.keys()].filter((one) => one.startsWith('place.'))) {
    const [stream = '', firstSeq = ''] = DOCUMENTED.get(label) as Cells;
    const [hex] = tagCells('action', 'role.update');
    values[label] = [stream, firstSeq, ...placedCells(hex, Number(stream), Number(firstSeq))];
  }
  return values;
}

// Section 13: keys.

function wrapValues(): Values {
  const monthKey = Buffer.from(cell('month-key'), 'hex');
  const nonce = Buffer.from(cell('wrap.nonce'), 'hex');
  const associated = Buffer.concat([Buffer.from('sealog/data-key/v1\0'), lp(STREAM), u32(202603)]);
  const wrapped = Buffer.concat([nonce, gcm(monthKey, nonce, DATA_KEY, associated)]);
  expect(openGcm(monthKey, nonce, wrapped.subarray(12), associated)).toEqual(DATA_KEY);
  return { 'wrap.aad': lines(associated), 'wrap.wrapped': lines(wrapped) };
}

// Sections 8 to 10: trees, tiles, proofs.

function root(leaves: readonly Buffer[]): Buffer {
  if (leaves.length === 0) return h();
  if (leaves.length === 1) return leaves[0]!;
  const k = split(leaves.length);
  return h('\x01', root(leaves.slice(0, k)), root(leaves.slice(k)));
}

/** The largest power of two smaller than n. */
function split(n: number): number {
  let k = 1;
  while (2 * k < n) k *= 2;
  return k;
}

function frontier(leaves: readonly Buffer[]): Buffer {
  const hashes: Buffer[] = [];
  let start = 0;
  for (let level = 20; level >= 0; level--) {
    if ((leaves.length & (2 ** level)) === 0) continue;
    hashes.push(root(leaves.slice(start, start + 2 ** level)));
    start += 2 ** level;
  }
  return Buffer.concat(hashes);
}

/** PATH of RFC 6962 section 2.1.1. */
function inclusion(seq: number, leaves: readonly Buffer[]): Buffer[] {
  if (leaves.length === 1) return [];
  const k = split(leaves.length);
  return seq < k
    ? [...inclusion(seq, leaves.slice(0, k)), root(leaves.slice(k))]
    : [...inclusion(seq - k, leaves.slice(k)), root(leaves.slice(0, k))];
}

/** SUBPROOF of RFC 6962 section 2.1.2. */
function subproof(m: number, leaves: readonly Buffer[], whole: boolean): Buffer[] {
  if (m === leaves.length) return whole ? [] : [root(leaves)];
  const k = split(leaves.length);
  return m <= k
    ? [...subproof(m, leaves.slice(0, k), whole), root(leaves.slice(k))]
    : [...subproof(m - k, leaves.slice(k), false), root(leaves.slice(0, k))];
}

/** Section 10's check of an inclusion path. */
function includes(seq: number, size: number, leaf: Buffer, path: readonly Buffer[], expected: Buffer): boolean {
  let [n, m, hash] = [seq, size - 1, leaf];
  if (seq >= size) return false;
  for (const p of path) {
    if (m === 0) return false;
    if (n % 2 === 1 || n === m) {
      hash = h('\x01', p, hash);
      while (n % 2 === 0 && n !== 0) [n, m] = [Math.floor(n / 2), Math.floor(m / 2)];
    } else {
      hash = h('\x01', hash, p);
    }
    [n, m] = [Math.floor(n / 2), Math.floor(m / 2)];
  }
  return m === 0 && hash.equals(expected);
}

/** Section 10's check of a consistency path. */
function consistent(a: number, rootA: Buffer, b: number, rootB: Buffer, given: readonly Buffer[]): boolean {
  if (a === 0) return rootA.equals(h()) && given.length === 0;
  if (a === b) return rootA.equals(rootB) && given.length === 0;
  const [first, ...others] = Number.isInteger(Math.log2(a)) ? [rootA, ...given] : given;
  if (given.length === 0 || first === undefined) return false;
  let [n, m] = [a - 1, b - 1];
  while (n % 2 === 1) [n, m] = [Math.floor(n / 2), Math.floor(m / 2)];
  let [f, g] = [first, first];
  for (const p of others) {
    if (m === 0) return false;
    if (n % 2 === 1 || n === m) {
      [f, g] = [h('\x01', p, f), h('\x01', p, g)];
      while (n % 2 === 0 && n !== 0) [n, m] = [Math.floor(n / 2), Math.floor(m / 2)];
    } else {
      g = h('\x01', g, p);
    }
    [n, m] = [Math.floor(n / 2), Math.floor(m / 2)];
  }
  return m === 0 && f.equals(rootA) && g.equals(rootB);
}

function treeValues(): Values {
  const values: Values = {};
  const leaves = entries().map(({ hash }) => hash);
  const joined = (path: readonly Buffer[]) =>
    path.length === 0 ? '(empty)' : path.map((one) => one.toString('hex')).join(' ');
  for (let size = 0; size <= 3; size++) {
    values[`tree.root.${size}`] = [root(leaves.slice(0, size)).toString('hex')];
    const path = size === 0 ? [] : subproof(size, leaves, true);
    expect(consistent(size, root(leaves.slice(0, size)), 3, root(leaves), path)).toBe(true);
    values[`path.consistency.${size}`] = [joined(path)];
  }
  for (const [seq, leaf] of leaves.entries()) {
    const path = inclusion(seq, leaves);
    expect(includes(seq, 3, leaf, path, root(leaves))).toBe(true);
    values[`path.inclusion.${seq}`] = [joined(path)];
  }
  values['checkpoint'] = `audit.example.com/${STREAM}\n3\n${root(leaves).toString('base64')}`;

  const small = Array.from({ length: 256 }, (_, i) => h('\0', Buffer.of(i)));
  for (const size of [1, 2, 4, 5, 6, 7, 8, 255])
    values[`bytes.root.${size}`] = [root(small.slice(0, size)).toString('hex')];
  values['bytes.tile.hash'] = [h(...small).toString('hex')];
  values['bytes.tile.root'] = [root(small).toString('hex')];
  values['bytes.frontier.7'] = lines(frontier(small.slice(0, 7)));
  return values;
}

// Sections 4 and 16: times.

function milliseconds(instant: string): number {
  const match = /^(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)(?:\.(\d+))?(?:Z|([+-])(\d\d):(\d\d))$/.exec(instant);
  const [, year, month, day, hour, minute, second, fraction = '', sign, offsetHour = '0', offsetMinute = '0'] = match!;
  const offset = (Number(offsetHour) * 60 + Number(offsetMinute)) * (sign === '-' ? -1 : 1);
  const thousandths = Number(fraction.padEnd(3, '0').slice(0, 3));
  return (
    Date.UTC(Number(year), Number(month) - 1, Number(day), Number(hour), Number(minute), Number(second), thousandths) -
    offset * 60_000
  );
}

function isLeap(year: number): boolean {
  return (year % 4 === 0 && year % 100 !== 0) || year % 400 === 0;
}

/** The instant so many calendar months later. */
function later(instant: string, months: number): string {
  const count = Number(instant.slice(0, 4)) * 12 + Number(instant.slice(5, 7)) - 1 + months;
  const [year, month] = [Math.floor(count / 12), (count % 12) + 1];
  const days = [31, isLeap(year) ? 29 : 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31][month - 1]!;
  const two = (n: number) => String(n).padStart(2, '0');
  return `${year}-${two(month)}-${two(Math.min(Number(instant.slice(8, 10)), days))}${instant.slice(10)}`;
}

function dropMonth(retainUntil: string): number {
  const [year, month] = [Number(retainUntil.slice(0, 4)), Number(retainUntil.slice(5, 7))];
  return month === 12 ? (year + 1) * 100 + 1 : year * 100 + month + 1;
}

function calendarValues(): Values {
  const labels = [...DOCUMENTED.keys()].filter((label) => label.startsWith('month.'));
  expect(labels.length).toBeGreaterThan(5);
  return Object.fromEntries(
    labels.map((label) => {
      const [from = '', months = ''] = DOCUMENTED.get(label) as Cells;
      const until = later(from, Number(months));
      return [label, [from, months, until, String(dropMonth(until))]];
    }),
  );
}

// The example stream as the project reads it.

/** Verifies the rows of the document, with other parts of the first block or another key file where given. */
async function verifyExample(other: { parts?: Buffer; monthKey?: string }): Promise<StreamReport> {
  const database = await createDatabase();
  const folder = await mkdtemp(join(tmpdir(), 'sealog-format-'));
  const log = { warn: () => undefined };
  try {
    await writeFile(join(folder, '202603.key'), other.monthKey ?? `${cell('month-key')}\n`);
    await migrate(database.adminConfig, database.appRole);
    await insertExample(database.adminConfig, other.parts);
    const opened = openDatabase({ connection: database.appConfig, readersMax: 1, log });
    try {
      const keyring = new Keyring(fileMonthKeys(folder), {
        findOrStore: () => Promise.reject(new Error('nothing is stored')),
        byId: (id) => keyById(opened.verifier, id),
      });
      const [stream] = await listStreams(opened.verifier);
      return await verifyStream(verifySource(opened.verifier, keyring, stream!));
    } finally {
      await opened.close();
    }
  } finally {
    await rm(folder, { recursive: true, force: true });
    await database.drop();
  }
}

async function insertExample(connection: pg.ClientConfig, parts: Buffer | undefined): Promise<void> {
  const client = new pg.Client(connection);
  await client.connect();
  const insert = async (table: string, row: Readonly<Record<string, unknown>>) => {
    const [columns, values] = [Object.keys(row), Object.values(row)];
    const places = values.map((_, i) => `$${i + 1}`);
    await client.query(`INSERT INTO sealog.${table} (${columns}) VALUES (${places})`, values);
  };
  const rows = (label: RegExp) => [...DOCUMENTED].filter(([one]) => label.test(one)).map(([, cells]) => cells as Cells);
  try {
    await client.query('SELECT sealog.ensure_drop_month(202603)');
    await insert('tenant', { name: 'acme' });
    const [, size, recorded_at, retain_until] = DOCUMENTED.get('row.stream') as Cells;
    await insert('stream', {
      ...{ tenant: 1, category: 'configuration_change', epoch: 1, name: STREAM, size, recorded_at, retain_until },
      head: Buffer.from(cell('row.stream.head'), 'hex'),
      frontier: bytes('row.stream.frontier'),
    });
    const common = { tenant: 1, stream: 1, drop_month: 202603 };
    await insert('data_key', { ...common, month_key: '202603', wrapped: bytes('wrap.wrapped') });
    const columns = /^\| label \| (first_seq \| entries \| .*) \|$/m.exec(DOCUMENT)![1]!.split(' | ');
    for (const cells of rows(/^row\.block\d$/)) {
      await insert('block', {
        ...{ ...common, key_id: 1 },
        ...Object.fromEntries(columns.map((column, i) => [column, cells[i]])),
        records: bytes(`block${cells[0]}.records`),
        parts: (cells[0] === '0' ? parts : undefined) ?? bytes(`block${cells[0]}.parts`),
        tags: rows(/^tag\.\d\.\d+$/).flatMap(([first, , , , , placed]) => (first === cells[0] ? [placed] : [])),
      });
    }
    for (const [first_seq, ids, ids_rest] of rows(/^row\.ids\d$/))
      await insert('entry_id', { ...common, first_seq, ids, ids_rest });
  } finally {
    await client.end();
  }
}

// The document.

/** Reads what stands under labels: "`label`: …" before a block of code, or a row whose first column is headed "label". */
function valuesOf(document: string): Map<string, string | Cells> {
  const values = new Map<string, string | Cells>();
  const add = (label: string, value: string | Cells) => {
    expect(values.has(label), `the label ${label} stands once`).toBe(false);
    values.set(label, value);
  };
  for (const [, label = '', value = ''] of document.matchAll(/^`([^`\n]+)`: [^\n]*\n\n```text\n([\s\S]*?)\n```$/gm)) {
    add(label, value);
  }
  for (const [table] of document.matchAll(/^\| label \|.*\n(\|.*\n)+/gm)) {
    for (const row of table.trimEnd().split('\n').slice(2)) {
      const [label, ...cells] = [...row.matchAll(/ `([^`]*)` (?=\|)/g)].map(([, code = '']) => code);
      add(label!, cells);
    }
  }
  return values;
}

function text(label: string): string {
  const value = DOCUMENTED.get(label);
  if (typeof value !== 'string') throw new Error(`the document has no block ${label}`);
  return value;
}

/** The first value of a row. */
function cell(label: string): string {
  const value = DOCUMENTED.get(label);
  if (!Array.isArray(value)) throw new Error(`the document has no row ${label}`);
  return value[0] as string;
}

function bytes(label: string): Buffer {
  return Buffer.from(text(label).replaceAll('\n', ''), 'hex');
}

/** Hex as the document prints it: 32 bytes a line. */
function lines(chunk: Buffer): string {
  return (chunk.toString('hex').match(/.{1,64}/g) ?? []).join('\n');
}
