/**
 * The fast implementation against a second one: `reference/naive-*.ts` is written from docs/format.md alone, shares no code
 * with `src/`, and is as plain and slow as can be. Hundreds of random histories, others in each run, go through the real sequencer; then the
 * reference works out every stored byte again, from the events and from what is stored. It also writes logs itself, for the
 * fast verifier to read, and damages them: both verifiers must come to the same verdict.
 *
 * `npm run test:hard` runs many times more.
 */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { zstdCompressSync } from 'node:zlib';
import fc from 'fast-check';
import { describe, expect, onTestFinished, test } from 'vitest';
import { decodeParts, encodeParts, packPayload, unpackPayload } from '../src/chain/block.ts';
import { fromHex } from '../src/chain/bytes.ts';
import { canonicalText, decodeCanonical, type JsonValue } from '../src/chain/canonical.ts';
import { entryIdHash, pendingEntry } from '../src/chain/entry.ts';
import { appendLeaves, decodeFrontier, encodeFrontier, frontierRoot } from '../src/chain/merkle.ts';
import { encodePruningCertificate } from '../src/chain/pruning-certificate.ts';
import { decodeRecord } from '../src/chain/record.ts';
import { addMonths, dropMonthOf, parseInstant } from '../src/chain/retain-until.ts';
import { normalizeEmail, normalizeIp, placedTag } from '../src/chain/tag.ts';
import { fullTilesBetween, tileRoot } from '../src/chain/tile.ts';
import { isTimestamp } from '../src/chain/timestamp.ts';
import { EvidenceError, KeyUnavailableError } from '../src/errors.ts';
import { fileMonthKeys } from '../src/keys/file-month-keys.ts';
import { Keyring, type KeyStore } from '../src/keys/keyring.ts';
import type { MonthKeys } from '../src/keys/month-keys.ts';
import { CertificateBook } from '../src/verify/certificates.ts';
import type { LogSource } from '../src/verify/log-source.ts';
import { verifyStream } from '../src/verify/verify-stream.ts';
import { checkHistory, headOf } from './reference/check-history.ts';
import { damageRow, forge, openStream, recut } from './reference/damage.ts';
import { type Plan, type PlannedEvent, plans, play } from './reference/history.ts';
import { keyById, MemoryMonthKeys, memorySource } from './reference/memory-log.ts';
import { type Json, jcs, canonicalText as naiveText, readCanonical } from './reference/naive-json.ts';
import * as naive from './reference/naive-log.ts';
import { type CertificateEntry, pruneOldest } from './reference/naive-pruning.ts';
import { normalEmail, normalIp, placed } from './reference/naive-tags.ts';
import { clientInstant, dropMonth, addMonths as naiveAddMonths, ownInstant, timeText } from './reference/naive-time.ts';
import { type Rows, type StatedRoot, type StreamRow, verify } from './reference/naive-verify.ts';
import type { WrittenEntry } from './reference/naive-writer.ts';
import { email, ip, json, Random, randomEvent } from './reference/random-events.ts';

/** How often each property is tried, and for how long a test may take. */
const HARD = process.env['SEALOG_TEST_HARD'] === '1';
const TIMES = HARD ? 20 : 1;
const LIMIT_MS = 60_000 * TIMES;

const monthKeys = new MemoryMonthKeys();

describe('random histories', () => {
  const small = plans({ steps: 5, submissions: 2, events: 4, burst: 0 });
  const large = plans({ steps: 6, submissions: 3, events: 4, burst: 400 });

  test('short ones are stored as the reference has it', { timeout: LIMIT_MS }, async () => {
    await fc.assert(fc.asyncProperty(small, checkPlan), { numRuns: HARD ? 20_000 : 80 });
  });

  test('long ones too, across the ends of blocks and tiles', { timeout: LIMIT_MS }, async () => {
    await fc.assert(fc.asyncProperty(large, checkPlan), { numRuns: HARD ? 240 : 2 });
  });

  test('are the same log in other blocks, written by the reference', { timeout: LIMIT_MS }, async () => {
    await fc.assert(
      fc.asyncProperty(small, fc.nat(), async (plan, seed) => {
        const { log } = await play(plan, monthKeys);
        for (const stream of log.streams) {
          const entries = openStream(log, stream, monthKeys.byName);
          const rows = await recut(log, stream, entries, new Random(seed), monthKeys);
          expect(await verdicts(rows, stream)).toEqual(['intact', 'intact']);
        }
      }),
      { numRuns: HARD ? 4000 : 30 },
    );
  });

  test('once damaged get one verdict from both verifiers', { timeout: LIMIT_MS }, async () => {
    const seen = new Set<string>();
    const seeds = fc.array(fc.nat(), { minLength: 1, maxLength: 8 });
    await fc.assert(
      fc.asyncProperty(small, seeds, (plan, each) => checkDamage(plan, each, seen)),
      { numRuns: HARD ? 6000 : 50 },
    );
    // With tiles to damage.
    const filled = plans({ steps: 2, submissions: 1, events: 2, burst: 300 });
    await fc.assert(
      fc.asyncProperty(filled, seeds, (plan, each) => checkDamage(plan, each, seen)),
      { numRuns: HARD ? 200 : 4 },
    );
    expect([...seen].sort()).toEqual(['incomplete', 'intact', 'tampered']);
  });

  test('that were pruned on the way go on, and get one verdict from both verifiers, sound and damaged', {
    timeout: LIMIT_MS,
  }, async () => {
    const seen = new Map<string, number>();
    const seeds = fc.tuple(fc.nat(), fc.array(fc.nat(), { minLength: 1, maxLength: 5 }));
    const count = (what: string): void => void seen.set(what, (seen.get(what) ?? 0) + 1);
    await fc.assert(
      fc.asyncProperty(small, seeds, (plan, [seed, damages]) => checkPruned(plan, seed, damages, count)),
      { numRuns: HARD ? 6000 : 30 },
    );
    // With tiles that are full, and such as were not when what is in them went.
    const filled = plans({ steps: 4, submissions: 1, events: 2, burst: 300 });
    await fc.assert(
      fc.asyncProperty(filled, seeds, (plan, [seed, damages]) => checkPruned(plan, seed, damages, count)),
      { numRuns: HARD ? 400 : 6 },
    );
    for (const what of ['pruned', 'intact', 'tampered']) expect(seen.get(what) ?? 0, what).toBeGreaterThan(1);
  });

  test('with an entry that occurred at no instant are found by both', async () => {
    const event: PlannedEvent = { stream: 0, seed: 1, size: 'tiny', id: 'new' };
    const submission = { kind: 'open', atomic: false, replica: 0, events: [event], burst: 0, monthsOff: 0 } as const;
    const step = {
      later: 0,
      wallOff: 0,
      databaseOff: 0,
      fault: 'none',
      restarts: -1,
      submissions: [submission],
    } as const;
    const months = [12, 12] as const;
    const { log } = await play(
      { start: Date.parse('2026-01-01'), months: [months, months, months], steps: [step] },
      monthKeys,
    );
    const stream = log.streams[0]!;
    const entry = openStream(log, stream, monthKeys.byName)[0]!;
    for (const occurredAt of ['2024-02-30T12:00:00Z', '2024-01-01T24:00:00Z', '2024-01-01', '2024-01-01t00:00:00z']) {
      const bytes = naive.writeRecord({ ...entry.record, occurredAt });
      // Its block says of it what a lenient reader would.
      const record = { ...entry.record, occurredAt: timeText(Date.parse(occurredAt)) };
      const rows = await recut(log, stream, [{ ...entry, bytes, record }], new Random(1), monthKeys);
      expect(await verdicts(rows, rows.streams[0]!), occurredAt).toEqual(['tampered', 'tampered']);
    }
  });
});

describe('formats', () => {
  const seeds = fc.nat();

  test('canonical JSON is written and read alike', () => {
    const values = fc.oneof(
      fc.jsonValue({ maxDepth: 4, stringUnit: 'binary' }) as fc.Arbitrary<Json>,
      seeds.map((seed) => json(new Random(seed), 5) as Json),
    );
    fc.assert(
      fc.property(values, seeds, (value, seed) => {
        const bytes = jcs(value);
        expect(canonicalText(value as JsonValue)).toBe(naiveText(value));
        expect(canonicalText(decodeCanonical(bytes))).toBe(naiveText(value));
        const other = bent(bytes, new Random(seed));
        expect(fast(() => decodeCanonical(other))).toEqual(slow(() => readCanonical(other)));
      }),
      { numRuns: 4000 * TIMES },
    );
  });

  test('records are read alike, sound and bent', () => {
    fc.assert(
      fc.property(seeds, (seed) => {
        const random = new Random(seed);
        const bytes = naive.writeRecord({
          ...headOf(randomEvent(seed, 'usual', 'id')),
          parts: naive.H('parts').toString('hex'),
          previous: naive.H('previous').toString('hex'),
          recordedAt: random.u32() * 500,
          retainUntil: random.chance(70) ? random.u32() * 900 : null,
          seq: random.u32() * random.below(1000),
          stream: 'acme/data_access',
        });
        for (const each of [bytes, ...random.list(5, () => bent(bytes, random))]) {
          const text = slow(() => naive.writeRecord(naive.readRecord(each)).toString('utf8'));
          expect(fast(() => Buffer.from(each) && decodeRecord(each) && each.toString('utf8'))).toEqual(text);
        }
      }),
      { numRuns: 2000 * TIMES },
    );
  });

  test('times are read and months added alike', () => {
    fc.assert(
      fc.property(seeds, fc.integer({ min: 0, max: 250_000_000_000_000 }), fc.nat(120), (seed, instant, months) => {
        const random = new Random(seed);
        const { occurredAt } = randomEvent(seed, 'usual', 'id');
        expect(pendingEntry(STREAM, randomEvent(seed, 'usual', 'id'), true).occurredAt).toBe(clientInstant(occurredAt));
        const odd = bent(Buffer.from(occurredAt), random).toString('latin1');
        expect(isTimestamp(odd), odd).toBe(slow(() => clientInstant(odd)) !== undefined);
        expect(addMonths(instant, months)).toBe(naiveAddMonths(instant, months));
        expect(dropMonthOf(instant)).toBe(dropMonth(instant));
        const text = bent(Buffer.from(timeText(instant)), random).toString('latin1');
        expect(parseInstant(text)).toBe(slow(() => ownInstant(text)));
      }),
      { numRuns: 4000 * TIMES },
    );
  });

  test('addresses have one normal form', () => {
    fc.assert(
      fc.property(seeds, (seed) => {
        const random = new Random(seed);
        const [someIp, someEmail] = [ip(random), email(random)];
        expect(normalizeIp(someIp), JSON.stringify(someIp)).toBe(normalIp(someIp));
        expect(normalizeEmail(someEmail), JSON.stringify(someEmail)).toBe(normalEmail(someEmail));
      }),
      { numRuns: 20_000 * TIMES },
    );
  });

  test('tags are placed alike', () => {
    const anyTag = fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n });
    const anySeq = fc.oneof(
      fc.maxSafeNat(),
      fc.nat(40_000),
      fc
        .nat(1000)
        .map((i) => i * 8192 - (i % 2))
        .filter((seq) => seq >= 0),
    );
    fc.assert(
      fc.property(anyTag, fc.integer({ min: 1 }), anySeq, (tag, stream, firstSeq) => {
        expect(placedTag(tag, stream, firstSeq)).toBe(placed(tag, stream, firstSeq));
      }),
      { numRuns: 4000 * TIMES },
    );
  });

  test('the places of a stream follow each other, and begin anew after 2^24', () => {
    const places = [0, 8191, 8192, 16_383, 16_384, 8192 * (2 ** 24 - 1), 8192 * 2 ** 24].map(
      (firstSeq) => BigInt.asUintN(64, placedTag(-1n, 1, firstSeq)) >> 40n,
    );
    const first = 10_368_889n;
    expect(places).toEqual([first, first, first + 1n, first + 1n, first + 2n, first - 1n, first]);
    expect(placedTag(-1n, 1, 0) & 0xff_ffff_ffffn).toBe(0xff_ffff_ffffn);
  });

  test('ids are hashed alike', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'grapheme-ascii' }), (id) => void expect(entryIdHash(id)).toBe(naive.idHash(id))),
    );
  });

  test('payloads are packed and read alike, sound and bent', () => {
    fc.assert(
      fc.property(fc.array(seeds, { maxLength: 12 }), seeds, (events, seed) => {
        const random = new Random(seed);
        const entries = events.map((each) =>
          pendingEntry(STREAM, randomEvent(each, 'usual', 'id'), true).parts.map(
            (part): naive.Part => (random.chance(80) ? part : { name: part.name, closed: naive.commitment(part) }),
          ),
        );
        const payload = naive.writeParts(entries);
        const fastEntries = entries.map((parts) =>
          parts.map((part) => ('closed' in part ? { name: part.name, commitment: part.closed } : part)),
        );
        expect(Buffer.from(encodeParts(fastEntries))).toEqual(payload);
        for (const each of [payload, ...random.list(4, () => bent(payload, random))]) {
          const again = slow(() => naive.writeParts(naive.readParts(each)).toString('hex'));
          expect(fast(() => Buffer.from(encodeParts(decodeParts(each))).toString('hex'))).toEqual(again);
        }
        const packed = Buffer.from(packPayload(payload));
        const frame = naive.join(Buffer.of(1), zstdCompressSync(payload));
        for (const each of [
          packed,
          frame,
          bent(packed, random),
          bent(frame, random),
          naive.join(frame, frame.subarray(1)),
        ]) {
          const hex = slow(() => naive.unpack(each).toString('hex'));
          expect(fast(() => Buffer.from(unpackPayload(each)).toString('hex'))).toEqual(hex);
        }
      }),
      { numRuns: 800 * TIMES },
    );
  });

  test('a payload is exactly one frame of zstd, and no longer than 16 MiB', () => {
    const skippable = Buffer.from('502a4d180400000001020304', 'hex');
    const frame = zstdCompressSync(Buffer.from('payload'));
    const bytes = Buffer.alloc(16 * 1024 * 1024 + 1);
    const wrong = [[], [skippable], [skippable, frame], [frame, skippable], [zstdCompressSync(bytes)]];
    const packed = [...wrong.map((frames) => naive.join(Buffer.of(1), ...frames)), naive.join(Buffer.of(0), bytes)];
    for (const each of [...packed, Buffer.of(), Buffer.of(2)]) {
      expect(() => naive.unpack(each)).toThrow();
      expect(() => unpackPayload(each)).toThrow(EvidenceError);
    }
    const longest = naive.join(Buffer.of(0), bytes.subarray(1));
    expect(unpackPayload(longest).length).toBe(naive.unpack(longest).length);
  });
});

test('data keys are wrapped alike', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'sealog-reference-'));
  onTestFinished(() => rm(folder, { recursive: true, force: true }));
  const files = fileMonthKeys(folder);
  for (const [name, dropMonth] of [
    ['202603', 202603],
    ['for-ever', 0],
    ['1000001', 1000001],
  ] as const) {
    const [dataKey, context] = [naive.H(name), { stream: 'acme/data_access', dropMonth }];
    const { monthKey, wrapped } = await files.wrap(dataKey, context);
    expect(monthKey).toBe(name);
    const text = readFileSync(join(folder, `${name}.key`), 'latin1');
    const key = Buffer.from(/^([0-9a-f]{64})\n$/.exec(text)![1]!, 'hex');
    expect(naive.unwrap(key, context.stream, dropMonth, wrapped)).toEqual(dataKey);
    const again = naive.wrap(key, naive.H('nonce').subarray(0, 12), context.stream, dropMonth, dataKey);
    expect(Buffer.from(await files.unwrap(name, again, context))).toEqual(dataKey);
    await expect(files.unwrap(name, again, { ...context, stream: 'acme/data' })).rejects.toThrow(KeyUnavailableError);
    expect(() => naive.unwrap(key, 'acme/data', dropMonth, wrapped)).toThrow();
  }
});

describe('trees', () => {
  /** Grows a tree by these numbers of leaves and compares it after each. */
  function checkGrowth(steps: readonly number[]): void {
    const leaves = Array.from({ length: steps.reduce((sum, step) => sum + step, 0) }, (_, i) => naive.H(`${i}`));
    let [size, nodes] = [0, decodeFrontier(0, new Uint8Array(0))];
    let tiles: readonly naive.Tile[] = [];
    for (const step of steps) {
      const own = leaves.slice(0, size + step);
      const before = new Set(tiles.map(placeOf));
      tiles = naive.fullTiles(own);
      const grown = tiles.filter((tile) => !before.has(placeOf(tile)));
      expect(fullTilesBetween(size, size + step).map(placeOf)).toEqual(grown.map(placeOf));
      for (const tile of grown) expect(Buffer.from(tileRoot(tile.hashes))).toEqual(tile.root);

      nodes = appendLeaves(size, nodes, leaves.slice(size, size + step));
      size += step;
      const root = Buffer.from(naive.root(own));
      expect(Buffer.from(encodeFrontier(nodes))).toEqual(naive.frontier(own));
      expect(Buffer.from(frontierRoot(size, nodes))).toEqual(root);
      expect(Buffer.from(naive.rootFromFrontier(encodeFrontier(nodes)))).toEqual(root);
    }
  }

  const placeOf = ({ level, index }: { level: number; index: number }): string => `${level} ${index}`;

  test('grow alike by any steps', () => {
    fc.assert(fc.property(fc.array(fc.oneof(fc.nat(5), fc.nat(300)), { maxLength: 8 }), checkGrowth), {
      numRuns: 150 * TIMES,
    });
  });

  test('grow alike past 65,536 leaves, where a tile of level 1 is full', { timeout: LIMIT_MS }, () => {
    checkGrowth([65_535, 1, 300]);
  });
});

const STREAM = { id: 7, tenantId: 3, name: 'acme/data_access', retentionMonths: 12 };

/** Plays a plan and holds everything that was stored to everything that was sent. */
async function checkPlan(plan: Plan): Promise<void> {
  const history = await play(plan, monthKeys);
  await checkHistory(history, { byName: monthKeys.byName, dataKeys: keysOf(history.log) });
}

/** Damages the log of a plan, once for each seed, and compares the verdicts. */
async function checkDamage(plan: Plan, seeds: readonly number[], seen: Set<string>): Promise<void> {
  const { log } = await play(plan, monthKeys);
  for (const seed of seeds) {
    const random = new Random(seed);
    const stream = random.pick(log.streams);
    const entries = openStream(log, stream, monthKeys.byName);
    const { what, rows } =
      entries.length === 0 || random.chance(50)
        ? damageRow(log, stream, random)
        : await forge(log, stream, entries, random, monthKeys);
    const hidden = random.chance(10) ? random.pick([...monthKeys.byName.keys()]) : undefined;
    const roots = statedRoots(entries, random);
    const [verdict, expected] = await verdicts(rows, rows.streams.find(({ id }) => id === stream.id)!, hidden, roots);
    expect(verdict, `${what}${hidden === undefined ? '' : `, without the key ${hidden}`}`).toBe(expected);
    seen.add(expected);
  }
}

/** Plays a plan, with what is oldest pruned here and there, and compares the verdicts: on what is left, without a certificate, and damaged. */
async function checkPruned(
  plan: Plan,
  seed: number,
  damages: readonly number[],
  count: (what: string) => void,
): Promise<void> {
  const random = new Random(seed);
  const certificates = new Map<number, CertificateEntry[]>();
  let prunings = 0;
  // A month and more between two steps: something has expired at each.
  const aged = { ...plan, steps: plan.steps.map((step) => ({ ...step, later: step.later + 35 * 86_400_000 })) };
  const { log } = await play(aged, monthKeys, (before) => {
    for (const stream of before.streams) {
      const own = certificates.get(stream.id) ?? [];
      prunings += 1;
      const rest = {
        run: `6f2c5d1e-0f0b-4a2c-9d3e-${String(prunings).padStart(12, '0')}`,
        months: random.pick([12, 24, null]),
      };
      const pruned = random.chance(60) ? pruneOldest(before, stream, rest) : undefined;
      if (pruned === undefined) continue;
      isAsWeWriteIt(pruned.certificate.details);
      certificates.set(stream.id, [...own, pruned.certificate]);
      before.leave(pruned.rows);
    }
  });
  for (const stream of log.streams) {
    const own = certificates.get(stream.id);
    if (own === undefined) continue;
    count('pruned');
    expect(await verdicts(log, stream, undefined, [], own)).toEqual(['intact', 'intact']);
    expect(await verdicts(log, stream, undefined, [], own.slice(1))).toEqual(['tampered', 'tampered']);
    for (const each of damages) {
      const other = new Random(each);
      const bentOnes = other.chance(40)
        ? own.with(other.below(own.length), bentCertificate(other.pick(own), other))
        : own;
      const { what, rows } = bentOnes === own ? damageRow(log, stream, other) : { what: 'a certificate', rows: log };
      const damaged = rows.streams.find(({ id }) => id === stream.id)!;
      const [verdict, expected] = await verdicts(rows, damaged, undefined, [], bentOnes);
      expect(verdict, `${what}, ${bentOnes.map(({ details }) => Buffer.from(details).toString())}`).toBe(expected);
      count(expected);
    }
  }
}

/** What the reference writes of a pruning is what the service would. */
function isAsWeWriteIt(details: Uint8Array): void {
  const { run, policy, path, root, ...says } = JSON.parse(Buffer.from(details).toString('utf8'));
  const ours = encodePruningCertificate({
    ...says,
    ...{ run, months: policy.months ?? undefined, opening: undefined },
    ...{ path: path.map(fromHex), root: fromHex(root) },
  });
  expect(canonicalText(ours)).toBe(Buffer.from(details).toString('utf8'));
}

/** A certificate with another value, or of another time. */
function bentCertificate({ recordedAt, details }: CertificateEntry, random: Random): CertificateEntry {
  if (random.chance(15)) return { recordedAt: recordedAt - 1, details };
  if (random.chance(10)) return { recordedAt, details, abandoned: true };
  if (random.chance(25)) return { recordedAt, details: bent(details, random) };
  const says = JSON.parse(Buffer.from(details).toString('utf8'));
  const hash = naive.H(says.root).toString('hex');
  const [name, value] = random.pick<readonly [string, Json]>([
    ...(['first', 'end', 'size', 'dropMonth'] as const).map((one) => [one, says[one] + random.pick([-1, 1])] as const),
    ...([
      ['root', hash],
      ['path', [...says.path, hash]],
      ['path', says.path.slice(1)],
      ['path', says.path.toReversed()],
    ] as const),
    ...([
      ['held', [[says.first, says.first + 1]]],
      ['held', [[says.end - 1, says.end]]],
      ['held', [[says.first + 1, says.first + 1]]],
      ['held', [{ from: 0, to: 1 }]],
      ['held', null],
      ['policy', null],
      ['run', ''],
      ['more', 1],
    ] as const),
    ...([
      ['stream', 'acme/security_event'],
      ['retainUntil', '2020-01-01T00:00:00.000Z'],
    ] as const),
    ['lastRecord', says.lastRecord.replace('"outcome":"', '"outcome":"un')],
  ]);
  return { recordedAt, details: jcs({ ...says, [name]: value }) };
}

/** What was stated of the log before the damage: its roots at some sizes, seldom a wrong one or one beyond its end. */
function statedRoots(entries: readonly WrittenEntry[], random: Random): readonly StatedRoot[] {
  const hashes = entries.map(({ bytes }) => naive.entryHash(bytes));
  const sizes = new Set(random.list(random.below(4), () => random.below(entries.length + 1)));
  const roots = [...sizes].sort((a, b) => a - b).map((size) => ({ size, root: naive.root(hashes.slice(0, size)) }));
  const beyond = { size: entries.length + 1 + random.below(300), root: naive.H('later') };
  if (random.chance(5)) return [...roots, beyond];
  if (random.chance(5) && entries.length > 0) return [{ size: 1, root: naive.H('wrong') }];
  return roots;
}

/** The verdicts of the fast verifier and of the reference; `hidden` is a month key that can not be had. */
async function verdicts(
  rows: Rows,
  stream: StreamRow,
  hidden?: string,
  stated: readonly StatedRoot[] = [],
  certificates: readonly CertificateEntry[] = [],
): Promise<readonly [string, string]> {
  const known = hidden === undefined ? monthKeys : monthKeys.without(hidden);
  const roots = stated.map((one) => ({ ...one, kind: 'given', name: 'somebody' }) as const);
  const book = new CertificateBook();
  const place = { stream: `${stream.name.split('/')[0]}/log_administration`, isSigned: true };
  for (const [seq, { recordedAt, details, abandoned }] of certificates.entries()) {
    book.add({ action: 'retention.pruned', entry: { ...place, seq, id: `${seq}`, recordedAt }, details });
    if (abandoned !== true) continue;
    const { run } = JSON.parse(Buffer.from(details).toString('utf8')) as { run: string };
    const entry = { ...place, seq: certificates.length + seq, id: `retention.abandoned:${run}`, recordedAt };
    book.add({ action: 'retention.abandoned', entry, details: jcs({ run }) });
  }
  const source = memorySource(rows, stream.id, keysOf(rows, known));
  const { verdict } = await verifyStream(source, { roots, certificates: async () => book });
  return [verdict, verify(rows, stream.id, known.byName, stated, certificates).verdict];
}

/** Opens the data keys of the rows as the service does. */
function keysOf(rows: Rows, known: MonthKeys = monthKeys): LogSource['keys'] {
  const store: KeyStore = {
    byId: async (id) => keyById(rows, id),
    findOrStore: () => assert.fail('reading makes no key'),
  };
  const keyring = new Keyring(known, store);
  return (keyId) => keyring.keysById(keyId);
}

/** The bytes with something wrong in them, or not. */
function bent(bytes: Uint8Array, random: Random): Buffer {
  const copy = Buffer.from(bytes);
  const at = random.below(Math.max(1, copy.length));
  if (copy.length > 0)
    copy[at] = random.pick([copy[at]! ^ (1 << random.below(8)), 0x20, 0x30, 0x22, 0x5c, 0x2c, 0xff, 0]);
  const kind = random.below(6);
  if (kind === 0) return copy.subarray(0, at);
  if (kind === 1) return naive.join(bytes, random.pick([' ', '\0', '}', '0']));
  if (kind === 2)
    return naive.join(bytes.subarray(0, at), random.pick([' ', '0', '"', '\\', '\ufeff']), bytes.subarray(at));
  return copy;
}

/** What the fast implementation reads; undefined where it refuses that as wrong evidence. It throws nothing else. */
function fast<T>(read: () => T): T | undefined {
  try {
    return read();
  } catch (error) {
    if (error instanceof EvidenceError) return undefined;
    throw error;
  }
}

/** What the reference reads; undefined where it refuses that, however. */
function slow<T>(read: () => T): T | undefined {
  try {
    return read();
  } catch {
    return undefined;
  }
}
