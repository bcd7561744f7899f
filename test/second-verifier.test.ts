/**
 * The second verifier, docs/verifiers/verify_bundle.py, says what ours says.
 *
 * It was written from docs/format.md by somebody who had not seen our code. Where the two differ, one of them is wrong or the page is
 * unclear; either way an auditor could be misled. Held together are the verdicts, and of tampered bundles the kinds of findings: each that
 * ours finds the second finds too. (It may find more, which follow from the first: it reads each file for itself.)
 */
import { spawn, spawnSync } from 'node:child_process';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { toBase64 } from '../src/chain/bytes.ts';
import type { BundleKey } from '../src/verify/bundle/bundle-report.ts';
import { verifyBundle } from '../src/verify/bundle/verify-bundle.ts';
import { type BundleCase, damagedBundles, goodBundles, repack, unpack } from './support/bundles.ts';
import { type Authority, startAuthority } from './support/time-stamp-authority.ts';

const REPOSITORY = join(import.meta.dirname, '..');
const VERIFIER = join(REPOSITORY, 'docs/verifiers/verify_bundle.py');
const RUNNER = join(REPOSITORY, 'test/support/second-verifier.py');
const HARD = process.env['SEALOG_TEST_HARD'] !== undefined;
const PROCESSES = 2;

const DAMAGES = HARD ? 20_000 : 150;

const SEED = Number(process.env['SEALOG_TEST_SEED'] ?? Date.now() % 2 ** 31);

/** What the second verifier prints with --json. */
interface SecondReport {
  readonly verdict: string;
  readonly key: BundleKey | null;
  readonly findings: readonly { readonly kind: string; readonly detail: string }[];
  readonly unchecked: readonly string[];
}

type Question = Pick<BundleCase, 'name' | 'bytes' | 'trust'>;

const missing = ['python3', 'openssl'].filter((name) => spawnSync(name, ['--version']).error !== undefined);
const isSkipped = missing.length > 0 && process.env['CI'] === undefined;

describe.skipIf(isSkipped)(`the second verifier${isSkipped ? ` (without ${missing.join(' and ')})` : ''}`, () => {
  let authority: Authority;
  let folder: string;
  let cases: BundleCase[];

  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'sealog-test-second-'));
    authority = await startAuthority({ intermediate: true });
    cases = [...(await goodBundles(authority)), ...(await damagedBundles(authority))];
  });
  afterAll(async () => {
    await authority?.stop();
    await rm(folder, { recursive: true, force: true });
  });

  test('agrees with the worked examples of the page that it was written from', () => {
    const { status, stdout } = spawnSync('python3', [VERIFIER, '--self-test', join(REPOSITORY, 'docs/format.md')]);
    expect(stdout.toString()).toMatch(/^\d{2,} checked, 0 failed\n$/);
    expect(status).toBe(0);
  });

  test(`agrees with ours about bundles, sound and damaged (SEALOG_TEST_SEED=${SEED})`, async () => {
    expect(await disagreements(cases)).toEqual([]);
  }, 600_000);

  test(`agrees with ours about random damage (SEALOG_TEST_SEED=${SEED})`, async () => {
    const random = generator(SEED);
    const sound = cases.filter(({ name, bytes }) => name.startsWith('good-') && bytes.length < 100_000);
    const damaged = Array.from({ length: DAMAGES }, (_, i) => damage(sound[random(sound.length)]!, i, random));
    expect(await disagreements(damaged)).toEqual([]);
  }, 1_200_000);

  test('has the exit codes and words that its page says', async () => {
    const run = (name: string, ...more: string[]) => {
      const { trust } = cases.find((one) => one.name === name)!;
      const args = [VERIFIER, join(folder, `${name}.tar`), '--key', trust.key];
      return spawnSync('python3', [...args, ...trust.witnesses.flatMap((vkey) => ['--witness', vkey]), ...more]);
    };
    for (const [name, code, words] of [
      ['good-beginning', 0, 'INTACT'],
      ['damaged-nothing', 1, 'TAMPERED'],
      ['good-nothing-trusted', 2, 'NOT PROVABLE'],
      ['good-kept-of-another-stream', 2, 'INCOMPLETE'],
    ] as const) {
      const { bytes, trust } = cases.find((one) => one.name === name)!;
      await writeFile(join(folder, `${name}.tar`), bytes);
      const kept = join(folder, 'kept');
      await writeFile(kept, trust.checkpoints[0] ?? '');
      const { status, stdout } = run(name, ...(trust.checkpoints.length > 0 ? ['--checkpoint', kept] : []));
      expect({ name, status, words: stdout.toString().slice(0, words.length) }).toEqual({ name, status: code, words });
    }
    expect(run('good-beginning', '--key', 'no vkey').status).toBe(64);
    await writeFile(join(folder, 'ca.pem'), authority.caPem);
    const stamped = cases.find((one) => one.name === 'good-time-stamp')!;
    await writeFile(join(folder, 'good-time-stamp.tar'), stamped.bytes);
    expect(run('good-time-stamp', '--tsa', join(folder, 'ca.pem')).status).toBe(0);
  });

  /** Returns what the two say differently. */
  async function disagreements(questions: readonly Question[]): Promise<unknown[]> {
    const parts = Array.from({ length: PROCESSES }, (_, part) => questions.filter((_, i) => i % PROCESSES === part));
    const different = parts.map(async (part, index) => {
      const answers = await second(part, index);
      const found: unknown[] = [];
      for (const [i, { name, bytes, trust }] of part.entries()) {
        const ours = await verifyBundle(bytes, trust);
        const theirs = answers[i];
        const [kinds, theirKinds] = [ours.findings, theirs?.findings ?? []].map((all) =>
          [...new Set(all.map(({ kind }) => kind))].sort(),
        );
        const isSame =
          theirs?.verdict === ours.verdict &&
          kinds!.every((kind) => theirKinds!.includes(kind)) &&
          (ours.verdict === 'tampered' || JSON.stringify(sorted(theirs.key)) === JSON.stringify(sorted(ours.key)));
        if (!isSame) found.push({ name, ours: pick(ours), theirs: theirs && pick(theirs) });
      }
      return found;
    });
    return (await Promise.all(different)).flat();
  }

  async function second(questions: readonly Question[], index: number): Promise<SecondReport[]> {
    const child = spawn('python3', [RUNNER, VERIFIER], { stdio: ['pipe', 'pipe', 'inherit'] });
    const out = text(child.stdout);
    for (const [i, { bytes, trust }] of questions.entries()) {
      const bundle = join(folder, `${index}-${i}.tar`);
      await writeFile(bundle, bytes);
      const authorities = trust.authorities.map(toBase64);
      child.stdin.write(`${JSON.stringify({ ...trust, bundle, authorities })}\n`);
    }
    child.stdin.end();
    const lines = (await out).split('\n').slice(0, -1);
    return lines.map((line) => JSON.parse(line) as SecondReport);
  }
});

function sorted(key: BundleKey | null | undefined): unknown {
  return key ? [key.vkey, key.generation] : null;
}

function pick({
  verdict,
  findings,
  unchecked,
}: {
  verdict: string;
  findings: readonly { kind: string; detail: string }[];
  unchecked: readonly unknown[];
}) {
  return { verdict, findings: findings.slice(0, 5).map(({ kind, detail }) => `${kind}: ${detail}`), unchecked };
}

/** Turns a bit, sets a byte, drops or doubles some, somewhere in the tar or in one of its files. */
function damage({ name, bytes, trust }: BundleCase, index: number, random: (below: number) => number): Question {
  const files = unpack(bytes);
  const names = [...files.keys()];
  const file = random(4) === 0 ? undefined : names[random(names.length)]!;
  const content = file === undefined ? bytes : files.get(file)!;
  const at = random(Math.max(1, content.length));
  const head = content.subarray(0, at);
  const [byte, rest] = [content[at] ?? 0, content.subarray(at + 1)];
  const kind = random(10);
  const middle = kind < 6 ? [byte ^ (1 << random(8))] : kind < 8 ? [random(256)] : kind === 8 ? [] : [byte, byte];
  const damaged = new Uint8Array(Buffer.concat([head, Uint8Array.from(middle), rest]));
  const what = `${name} with damage ${index} in ${file ?? 'the tar'} at ${at}: ${byte} became ${middle.join(' ')}`;
  if (file === undefined) return { name: what, bytes: damaged, trust };
  files.set(file, damaged);
  try {
    return { name: what, bytes: repack(files), trust };
  } catch {
    // The manifest itself can not be read any more.
    return { name: what, bytes: damaged, trust };
  }
}

/** The same numbers from the same seed (mulberry32). */
function generator(seed: number): (below: number) => number {
  let state = seed >>> 0;
  return (below) => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) % below;
  };
}
