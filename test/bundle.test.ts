/** Evidence bundles: what the verifier makes of good ones and of every kind of damage. `bundle-writer.test.ts` has those that the service writes. */
import { randomInt } from 'node:crypto';
import { mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest';
import { rootFromSteps, tickRoot, tickSteps } from '../src/chain/anchor-tick.ts';
import { toHex, utf8 } from '../src/chain/bytes.ts';
import { canonicalBytes, decodeCanonical, type JsonObject, type JsonValue } from '../src/chain/canonical.ts';
import { sha256 } from '../src/chain/sha256.ts';
import { readTar, tarHeader } from '../src/chain/tar.ts';
import { EvidenceError } from '../src/errors.ts';
import type { BundleReport } from '../src/verify/bundle/bundle-report.ts';
import { type BundleTrust, verifyBundle } from '../src/verify/bundle/verify-bundle.ts';
import {
  type BundleCase,
  type BundleFiles,
  changed,
  damagedBundles,
  goodBundles,
  repack,
  STREAM,
  trusting,
  unpack,
  usualBundle,
  writeBundleCases,
} from './support/bundles.ts';
import { BEGIN, PaperLog, packTar, witnessEvidence } from './support/paper-log.ts';
import { type Authority, startAuthority, withoutOpenssl } from './support/time-stamp-authority.ts';

const HARD = process.env.SEALOG_TEST_HARD !== undefined;

let authority: Authority | undefined;
let cases: BundleCase[];

beforeAll(async () => {
  authority = withoutOpenssl === undefined ? await startAuthority({ intermediate: true }) : undefined;
  cases = [...(await goodBundles(authority)), ...(await damagedBundles(authority))];
});
afterAll(() => authority?.stop());

describe('bundles', () => {
  test('of every sound shape are what they are, and of every damage found with its kind', async () => {
    const wrong: unknown[] = [];
    for (const { name, bytes, trust, verdict, kinds } of cases) {
      const report = await verifyBundle(bytes, trust);
      const found = report.findings.map(({ kind }) => kind);
      if (report.verdict !== verdict || kinds.some((kind) => !found.includes(kind)))
        wrong.push({ name, verdict: report.verdict, findings: report.findings, unchecked: report.unchecked });
    }
    expect(wrong).toEqual([]);
    expect(cases.length).toBeGreaterThan(190);
    expect(new Set(cases.map(({ name }) => name)).size).toBe(cases.length);
  });

  test('are written as files for other verifiers', async () => {
    const folder = await mkdtemp(join(tmpdir(), 'sealog-test-bundles-'));
    onTestFinished(() => rm(folder, { recursive: true }));
    await writeBundleCases(folder, cases.slice(0, 3));
    expect((await readdir(folder)).length).toBe(6);
  });

  test('are anchored up to where the outside looked, and no further', async () => {
    const { log, trust } = usualBundle();
    const cosigned = (second: number) => witnessEvidence(log.witness(), BEGIN / 1000 + second);
    const bytes = log.bundle({
      anchors: [
        { tick: 0, size: 1, evidence: cosigned(90) },
        { tick: 1, evidence: cosigned(200) },
      ],
    });
    const { streams } = await verifyBundle(bytes, { ...trust, checkpoints: [log.checkpoint(STREAM)] });
    const by = (time: string) => ({ anchor: 'witness-1', kind: 'witness', time: `2026-01-01T00:${time}.000Z` });
    expect(streams).toEqual([
      {
        stream: STREAM,
        size: 16,
        first: 0,
        end: 16,
        asked: { from: 0, to: 16 },
        entries: 16,
        complete: true,
        anchored: [
          { from: 0, to: 7, by: [by('01:30'), by('03:20')] },
          { from: 7, to: 13, by: [by('03:20')] },
        ],
        unanchored: [{ from: 13, to: 16 }],
        pinned: [{ size: 16 }],
      },
    ]);
  });

  test('without anything wrong are still not proven where nobody outside vouches for them', async () => {
    const { log, bytes, trust } = usualBundle();
    expect(await verifyBundle(bytes, { ...trust, witnesses: [] })).toMatchObject({
      verdict: 'not_provable',
      findings: [],
    });
    expect(await verifyBundle(log.bundle({}), trust)).toMatchObject({ verdict: 'not_provable', findings: [] });
  });

  test('say which entry is wrong', async () => {
    const { bytes, trust } = usualBundle();
    const files = unpack(bytes);
    const lines = Buffer.from(files.get('0/openings.ndjson')!).toString().replace('Zoë', 'Zoe');
    files.set('0/openings.ndjson', utf8(lines));
    const { findings, streams } = await verifyBundle(repack(files), trust);
    expect(findings).toEqual([{ stream: STREAM, seq: 2, kind: 'part', detail: expect.any(String) }]);
    expect(streams[0]).toMatchObject({ complete: true, entries: 6 });
  });

  test('say which key they take for the one that signs now: what is not in them may have replaced it', async () => {
    const keyOf = async (name: string) => {
      const { bytes, trust } = cases.find((one) => one.name === name)!;
      const { key } = await verifyBundle(bytes, trust);
      return { generation: key?.generation, given: key?.vkey === trust.key };
    };
    expect(await keyOf('good-rotated-key-1')).toEqual({ generation: 3, given: false });
    expect(await keyOf('good-rotated-key-3')).toEqual({ generation: 3, given: true });
    expect(await keyOf('good-replaced-and-not-said')).toEqual({ generation: 2, given: true });
    expect(await keyOf('good-stream-key-alone')).toEqual({ generation: null, given: true });
    expect(await keyOf('damaged-of-another-key')).toEqual({ generation: undefined, given: false });
  });

  test('of a mistaken question are refused before the bundle is looked at', async () => {
    const { bytes, trust, log } = usualBundle();
    for (const key of ['', 'x', log.witness().vkey, `${log.key()}x`])
      await expect(verifyBundle(bytes, { ...trust, key })).rejects.toThrow(EvidenceError);
    await expect(verifyBundle(bytes, { ...trust, witnesses: [log.key()] })).rejects.toThrow(EvidenceError);
  });
});

describe('damage', () => {
  /** Small, so that every bit can be tried. */
  const small = (() => {
    const log = new PaperLog('small');
    log.append(STREAM, 3);
    log.tick([STREAM], 1);
    const anchors = [{ tick: 0, evidence: witnessEvidence(log.witness(), 1767225700) }];
    return { bytes: log.bundle({ from: BEGIN + 1000, to: BEGIN + 2000, anchors }), trust: trusting(log) };
  })();

  test('of any bit of the file is found', async () => {
    const { bytes, trust } = small;
    expect((await verifyBundle(bytes, trust)).verdict).toBe('intact');
    const step = HARD ? 1 : 101;
    const missed: number[] = [];
    for (let bit = randomInt(step); bit < bytes.length * 8; bit += step) {
      const report = await verifyBundle(flip(bytes, bit), trust);
      if (!report.findings.some(({ kind }) => kind === 'bundle')) missed.push(bit);
    }
    expect(missed).toEqual([]);
  }, 1_200_000);

  test('of any length is found', async () => {
    const { bytes, trust } = small;
    const step = HARD ? 1 : 151;
    for (let length = randomInt(step); length < bytes.length; length += step)
      expect((await verifyBundle(bytes.subarray(0, length), trust)).verdict).toBe('tampered');
    for (const more of [1, 2, 511, 512, 1024, 5000])
      expect(
        (
          await verifyBundle(
            changed(new Uint8Array(bytes.length + more), (all) => all.set(bytes)),
            trust,
          )
        ).verdict,
      ).toBe('tampered');
  }, 600_000);

  test('of any byte of any file is found although the manifest was made to fit', async () => {
    const { bytes, trust } = small;
    const missed: unknown[] = [];
    let tried = 0;
    for (const name of unpack(bytes).keys()) {
      if (name === 'manifest.json') continue;
      const length = unpack(bytes).get(name)!.length;
      for (let bit = 0; bit < length * 8; bit += HARD ? 1 : 53) {
        const files = unpack(bytes);
        const content = flip(files.get(name)!, bit);
        if (sameButForNames(name, files.get(name)!, content)) continue;
        files.set(name, content);
        const report = await verifyBundle(repack(files), trust);
        tried += 1;
        // A witness whose key id nobody knows says nothing, and nothing wrong.
        const isOtherWitness = name === '0/anchors.json' && report.verdict === 'not_provable';
        if (report.verdict !== 'tampered' && !isOtherWitness) missed.push({ name, bit, verdict: report.verdict });
      }
    }
    expect(missed).toEqual([]);
    expect(tried).toBeGreaterThan(500);
  }, 1_200_000);

  test('of any element of the JSON files is found: swapped, left out, doubled, another number, another hash', async () => {
    const { bytes, trust } = usualBundle();
    const missed: unknown[] = [];
    let tried = 0;
    for (const name of unpack(bytes).keys()) {
      if (!name.endsWith('.json')) continue;
      const value = decodeCanonical(unpack(bytes).get(name)!);
      for (const { what, to } of mutations(value)) {
        const files = unpack(bytes);
        files.set(name, canonicalBytes(to));
        const report = await verifyBundle(name === 'manifest.json' ? packTar(files) : repack(files), trust);
        tried += 1;
        if (report.verdict !== 'tampered' && !isHarmless(what, report))
          missed.push({ name, what, verdict: report.verdict });
      }
    }
    expect(missed).toEqual([]);
    expect(tried).toBeGreaterThan(300);
  }, 300_000);

  /** What may be said or left unsaid without making anything else look other than it is. */
  function isHarmless(what: string, { verdict }: BundleReport): boolean {
    // What the operator calls an anchor; a consistency path that nothing in the bundle needs.
    if (/evidence\/\d+\/name/.test(what) || what === '/0 left out') return verdict === 'intact';
    // Without evidence, entries are not anchored, and it is said.
    return /evidence\/\d+ left out/.test(what) && ['intact', 'not_provable'].includes(verdict);
  }

  test('of whatever kind never makes the verifier fail', async () => {
    const { bytes, trust } = usualBundle();
    const names = [...unpack(bytes).keys()];
    await fc.assert(
      fc.asyncProperty(
        fc.constantFrom(...names),
        fc.jsonValue({ maxDepth: 4 }),
        fc.boolean(),
        async (name, value, raw) => {
          const files = unpack(bytes);
          files.set(name, raw ? utf8(JSON.stringify(value).toWellFormed()) : canonical(value as JsonValue));
          const isReadable = name !== 'manifest.json';
          expect((await verifyBundle(isReadable ? repack(files) : packTar(files), trust)).verdict).toBe('tampered');
        },
      ),
      { numRuns: HARD ? 5000 : 120 },
    );
    await fc.assert(
      fc.asyncProperty(fc.uint8Array({ maxLength: 4096 }), async (noise) => {
        expect((await verifyBundle(noise, trust)).verdict).toBe('tampered');
      }),
    );
  });

  test('in parts of other sound bundles is found', async () => {
    const { log, bytes, trust } = usualBundle();
    const others = [
      log.files({ from: BEGIN + 4000, to: BEGIN + 9000, since: [4], anchors: [{ tick: 1 }] }),
      log.files({ from: BEGIN + 3000, to: BEGIN + 9000, since: [5, 6], withhold: ['actor'] }),
      otherFiles(),
    ];
    for (const other of others) {
      for (const [name, content] of other) {
        const files = unpack(bytes);
        if (name === 'manifest.json' || toHex(sha256(files.get(name)!)) === toHex(sha256(content))) continue;
        files.set(name, content);
        const report = await verifyBundle(repack(files), trust);
        const isTrue = name === '0/openings.ndjson' && other === others[1];
        expect({ name, tampered: report.verdict === 'tampered' }).toEqual({ name, tampered: !isTrue });
      }
    }
  });

  function otherFiles(): BundleFiles {
    const other = new PaperLog('other');
    other.append(STREAM, 16);
    return other.files({ from: BEGIN + 3000, to: BEGIN + 9000, since: [4] });
  }
});

describe('hostile sizes', () => {
  const { log, bytes, trust } = usualBundle();
  const withFile = (name: string, value: JsonValue): Uint8Array => {
    const files = unpack(bytes);
    files.set(name, canonicalBytes(value));
    return repack(files);
  };
  const MAX = Number.MAX_SAFE_INTEGER;

  test.each<readonly [string, Uint8Array]>([
    ['a range at the end of all numbers', withFile('0/range.json', { first: MAX - 1, end: MAX, left: [], right: [] })],
    ['a range of all numbers', withFile('0/range.json', { first: 0, end: MAX, left: [], right: [] })],
    [
      'a million hashes',
      withFile('0/range.json', { first: 0, end: 0, left: [], right: Array(1_000_000).fill('00'.repeat(32)) }),
    ],
    ['a million keys', withFile('keys.json', Array(1_000_000).fill('key'))],
    ['a million anchors', withFile('0/anchors.json', Array(1_000_000).fill(null))],
    ['nesting without end', withText('0/anchors.json', '['.repeat(1_000_000))],
    ['nesting with an end', withText('0/anchors.json', '['.repeat(1_000_000) + ']'.repeat(1_000_000))],
    ['a million empty lines', withText('0/openings.ndjson', '\n'.repeat(1_000_000))],
    ['a million empty records', withText('0/entries', '\0\0'.repeat(1_000_000))],
    ['a note of a million lines', withText('0/checkpoint', '\n'.repeat(1_000_000))],
    [
      'a note of a million signatures',
      withText('0/checkpoint', `${log.checkpoint(STREAM)}${'— x eHh4eHg=\n'.repeat(100_000)}`),
    ],
    ['ten thousand files', packTar(Array.from({ length: 10_000 }, (_, i) => [`${i}`, new Uint8Array(0)] as const))],
    [
      'a file that says that it is larger than all',
      changed(bytes, (all) => all.set(tarHeader('manifest.json', 8 ** 11 - 1))),
    ],
  ])('end in a finding: %s', async (_, hostile) => {
    const began = performance.now();
    expect((await verifyBundle(hostile, trust)).verdict).toBe('tampered');
    expect(performance.now() - began).toBeLessThan(10_000);
  });

  function withText(name: string, text: string): Uint8Array {
    const files = unpack(bytes);
    files.set(name, utf8(text));
    return repack(files);
  }

  test('ten times the entries take about ten times the time', async () => {
    const bundle = (entries: number): [Uint8Array, BundleTrust] => {
      const own = new PaperLog('time');
      own.append(STREAM, entries, { parts: () => ({ reason: 'x' }) });
      return [own.bundle({}), trusting(own, { checkpoints: [own.checkpoint(STREAM)] })];
    };
    const cost = async (entries: number): Promise<number> => {
      const [own, trusted] = bundle(entries);
      let least = Number.POSITIVE_INFINITY;
      for (let i = 0; i < 3; i++) {
        const began = process.cpuUsage();
        expect((await verifyBundle(own, trusted)).verdict).toBe('intact');
        const { user, system } = process.cpuUsage(began);
        least = Math.min(least, user + system);
      }
      return least;
    };
    await cost(100);
    const [few, many] = [await cost(400), await cost(4000)];
    expect(many / few).toBeLessThan(30);
  });
});

describe('tar files', () => {
  test('come back as they were written', () => {
    const content = fc.uint8Array({ maxLength: 2000 });
    const name = fc.stringMatching(/^[a-z0-9./-]{1,99}$/);
    fc.assert(
      fc.property(fc.array(fc.tuple(name, content), { maxLength: 8 }), (files) => {
        const read = readTar(packTar(files), 8);
        expect(read.map((file) => [file.name, toHex(file.bytes)])).toEqual(
          files.map(([one, bytes]) => [one, toHex(bytes)]),
        );
      }),
    );
  });

  test('throw nothing but their own errors, whatever the bytes', () => {
    const good = packTar([
      ['a', utf8('text')],
      ['b', new Uint8Array(600)],
    ]);
    for (let bit = 0; bit < good.length * 8; bit++) {
      try {
        // What can be another sound file is the content, the name, or where two files are swapped.
        const again = packTar(readTar(flip(good, bit), 8).map(({ name, bytes }) => [name, bytes] as const));
        expect(toHex(sha256(again))).toBe(toHex(sha256(flip(good, bit))));
      } catch (error) {
        expect(error).toBeInstanceOf(EvidenceError);
      }
    }
  });

  test('are what tar reads', async () => {
    const { execFileSync } = await import('node:child_process');
    const { bytes } = usualBundle();
    const listed = execFileSync('tar', ['-tf', '-'], { input: bytes }).toString().trim().split('\n');
    expect(listed).toEqual([...unpack(bytes).keys()]);
  });
});

test('the way from a leaf to its tick says its sides, for any number of leaves', () => {
  for (let count = 1; count <= 40; count++) {
    const leaves = Array.from({ length: count }, (_, i) => sha256(`leaf ${i}`));
    const root = toHex(tickRoot(leaves));
    for (const [i, leaf] of leaves.entries()) {
      const steps = tickSteps(leaves, i);
      expect(toHex(rootFromSteps(leaf, steps))).toBe(root);
      for (const [at, step] of steps.entries()) {
        const other = steps.with(at, { ...step, side: step.side === 'left' ? 'right' : 'left' });
        expect(toHex(rootFromSteps(leaf, other))).not.toBe(root);
      }
    }
  }
});

function flip(bytes: Uint8Array, bit: number): Uint8Array {
  return changed(bytes, (copy) => {
    copy[bit >> 3]! ^= 1 << (bit & 7);
  });
}

/** Whether only names of evidence are other: nothing vouches for what the operator calls an anchor. */
function sameButForNames(file: string, before: Uint8Array, after: Uint8Array): boolean {
  if (file !== '0/anchors.json') return false;
  const without = (bytes: Uint8Array): string | undefined => {
    try {
      const anchors = decodeCanonical(bytes) as { evidence: { name: unknown }[] }[];
      for (const { evidence } of anchors) for (const one of evidence) one.name = typeof one.name;
      return JSON.stringify(anchors);
    } catch {
      return undefined;
    }
  };
  return without(before) === without(after);
}

function canonical(value: JsonValue): Uint8Array {
  try {
    return canonicalBytes(value);
  } catch {
    return utf8('{}');
  }
}

/** Every value that is one small change away, with the path of the change. */
function* mutations(value: JsonValue, path = ''): Generator<{ what: string; to: JsonValue }> {
  if (typeof value === 'number') {
    for (const to of [value - 1, value + 1]) yield { what: `${path} is ${to}`, to };
  } else if (typeof value === 'string') {
    if (/^[0-9a-f]+$/.test(value))
      yield { what: `${path} is another hash`, to: value.replace(/.$/, (digit) => (digit === '0' ? '1' : '0')) };
    else yield { what: `${path} is longer`, to: `${value}x` };
    yield { what: `${path} is empty`, to: '' };
  } else if (Array.isArray(value)) {
    for (const [i, item] of value.entries()) {
      yield { what: `${path}/${i} left out`, to: value.toSpliced(i, 1) };
      yield { what: `${path}/${i} doubled`, to: value.toSpliced(i, 0, item) };
      if (i > 0) yield { what: `${path}/${i} swapped`, to: value.toSpliced(i - 1, 2, item, value[i - 1]!) };
      for (const { what, to } of mutations(item, `${path}/${i}`)) yield { what, to: value.with(i, to) };
    }
  } else if (value !== null && typeof value === 'object') {
    yield { what: `${path} has more`, to: { ...value, more: 1 } };
    for (const [name, item] of Object.entries(value)) {
      const { [name]: _, ...others } = value;
      yield { what: `${path}/${name} left out`, to: others as JsonObject };
      yield { what: `${path}/${name} renamed`, to: { ...others, [`${name}s`]: item } as JsonObject };
      yield { what: `${path}/${name} is null`, to: { ...value, [name]: null } };
      for (const { what, to } of mutations(item, `${path}/${name}`)) yield { what, to: { ...value, [name]: to } };
    }
  }
}
