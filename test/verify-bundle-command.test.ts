/** `sealog verify BUNDLE`, as an auditor calls it: with a file and a key, and nothing else of the service. */
import { spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join, relative } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { repack, STREAM, unpack, usualBundle } from './support/bundles.ts';
import { PaperLog } from './support/paper-log.ts';

const REPOSITORY = join(import.meta.dirname, '..');
const MAIN = join(REPOSITORY, 'src/cli/main.ts');
const { log, bytes, trust } = usualBundle();
const KEY = ['--key', trust.key];
const WITNESS = ['--witness', trust.witnesses[0]!];

let folder: string;
let good: string;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'sealog-test-verify-'));
  good = await file('good.tar', bytes);
});
afterAll(() => rm(folder, { recursive: true }));

async function file(name: string, content: Uint8Array | string): Promise<string> {
  const path = join(folder, name);
  await writeFile(path, content);
  return path;
}

/** Without any environment: no configuration, no database. */
function sealog(...args: string[]): Promise<{ code: number | null; out: string; err: string }> {
  return new Promise((resolve) => {
    const child = spawn(process.execPath, [MAIN, 'verify', ...args], { env: {}, cwd: folder });
    let [out, err] = ['', ''];
    child.stdout.on('data', (text) => {
      out += text;
    });
    child.stderr.on('data', (text) => {
      err += text;
    });
    child.once('close', (code) => resolve({ code, out, err }));
  });
}

describe('sealog verify BUNDLE', () => {
  test('says what was shown, by whom and for which entries: exit 0', async () => {
    const { code, out, err } = await sealog(good, ...KEY, ...WITNESS);
    expect({ code, err }).toEqual({ code: 0, err: '' });
    expect(out).toBe(`log log.example: configuration_change of acme
recorded from 2026-01-01T00:00:03.000Z until before 2026-01-01T00:00:09.000Z
the key of generation 1 is taken for the one that signs now: ${trust.key}
  whether it was replaced since can not be seen here: make sure that the key you gave is the newest
acme/configuration_change: 6 entries, seq 3 to 8; its checkpoint covers 16
  complete as of that checkpoint: no entry that was asked for is missing
  with neighbours: seq 2 to 9
  anchored: seq 2 to 6: witness-1 (witness, 2026-01-01T00:01:30.000Z), witness-1 (witness, 2026-01-01T00:03:20.000Z)
  anchored: seq 7 to 9: witness-1 (witness, 2026-01-01T00:03:20.000Z)
intact: Nothing was changed, and none of the entries that were asked for is missing, as of the checkpoint. For each of them, what you trust outside the log vouches.
`);
  });

  test('calls nothing proven that nobody outside vouches for: exit 2', async () => {
    const { code, out } = await sealog(good, ...KEY);
    expect(code).toBe(2);
    expect(out).toContain('not anchored: seq 2 to 9: not proven by anybody outside\n');
    expect(out).toContain('\nnot provable: ');
    expect(out.replaceAll('not proven', '')).not.toContain('proven');
  });

  test('says what is wrong and where: exit 1', async () => {
    const files = unpack(bytes);
    const openings = Buffer.from(files.get('0/openings.ndjson')!).toString().replace('Zoë', 'Zoe');
    files.set('0/openings.ndjson', Buffer.from(openings));
    const { code, out } = await sealog(await file('changed.tar', repack(files)), ...KEY, ...WITNESS);
    expect(code).toBe(1);
    expect(out).toContain(`WRONG: part: ${STREAM} entry 2: `);
    expect(out).toContain('\ntampered: ');
    expect((await sealog(await file('cut.tar', bytes.subarray(1)), ...KEY)).code).toBe(1);
    expect((await sealog(await file('empty.tar', ''), ...KEY)).code).toBe(1);
  });

  test('holds it to checkpoints that the auditor kept', async () => {
    const kept = await file('kept', log.checkpoint(STREAM, 16));
    const intact = await sealog(good, ...KEY, '--checkpoint', kept);
    expect(intact.code).toBe(0);
    expect(intact.out).toContain('agrees with your checkpoint of 16 entries');
    const other = new PaperLog();
    other.append(STREAM, 16, { parts: () => ({ reason: 'other' }) });
    const against = await sealog(
      good,
      ...KEY,
      '--checkpoint',
      kept,
      '--checkpoint',
      await file('other', other.checkpoint(STREAM)),
    );
    expect(against.code).toBe(1);
    expect(against.out).toContain('WRONG: inconsistent: ');
  });

  test('gives the report as JSON', async () => {
    const { code, out } = await sealog(good, ...KEY, ...WITNESS, '--json');
    expect(code).toBe(0);
    expect(JSON.parse(out)).toMatchObject({
      verdict: 'intact',
      origin: 'log.example',
      findings: [],
      streams: [{ entries: 6 }],
    });
  });

  test('does not take a missing file for a tampered one: exit 2', async () => {
    for (const args of [
      [join(folder, 'none.tar')],
      [good, '--checkpoint', 'none'],
      [good, '--tsa', 'none'],
      [folder],
    ]) {
      const { code, out, err } = await sealog(...args, ...KEY);
      expect({ code, out }).toEqual({ code: 2, out: '' });
      expect(err).toContain('sealog: the bundle could not be checked\n');
    }
  });

  test('is told how to call it: exit 64', async () => {
    const noPem = await file('no.pem', 'certificate');
    for (const args of [
      [],
      [good],
      [good, good, ...KEY],
      [good, '--database', ...KEY],
      [good, '--key', 'none'],
      [good, ...KEY, '--witness', trust.key],
      [good, ...KEY, '--tsa', noPem],
      [good, ...KEY, '--stream', STREAM],
      [good, ...KEY, '--more'],
    ]) {
      const { code, out } = await sealog(...args);
      expect({ args, code, out }).toEqual({ args, code: 64, out: '' });
    }
  });

  test('passes nothing of the bundle on that could deceive whoever reads it in a terminal', async () => {
    const files = unpack(bytes);
    const anchors = Buffer.from(files.get('0/anchors.json')!)
      .toString()
      .replaceAll('"name":"witness-1"', '"name":"\u202ewitness\u009b2J"');
    files.set('0/anchors.json', Buffer.from(anchors));
    const { code, out } = await sealog(await file('names.tar', repack(files)), ...KEY, ...WITNESS);
    expect(code).toBe(0);
    expect(out).not.toMatch(/[\u0080-\u009f\u202e]/);
  });
});

test('what checks a bundle knows nothing of databases, configuration or the network', () => {
  const seen = new Set<string>();
  const packages = new Set<string>();
  const walk = (path: string): void => {
    if (seen.has(path)) return;
    seen.add(path);
    const text = readFileSync(join(REPOSITORY, path), 'utf8');
    for (const [, type, to] of text.matchAll(/^(?:import|export)\s+(type\s)?[^;]*?from\s+'([^']+)'/gm)) {
      if (type !== undefined) continue;
      if (to!.startsWith('.')) walk(relative(REPOSITORY, join(REPOSITORY, dirname(path), to!)));
      else packages.add(to!);
    }
  };
  walk('src/cli/verify-bundle.ts');
  const stations = new Set([...seen].map((path) => path.split('/').slice(0, -1).join('/')));
  expect([...stations].sort()).toEqual(['src', 'src/chain', 'src/cli', 'src/verify', 'src/verify/bundle']);
  expect([...seen].filter((path) => path.startsWith('src/cli'))).toEqual([
    'src/cli/verify-bundle.ts',
    'src/cli/usage.ts',
  ]);
  expect([...packages].sort()).toEqual(['asn1js', 'node:assert/strict', 'node:crypto', 'node:fs/promises', 'pkijs']);
  // What needs Node has a stand-in in the browser's build.
  const needNode = [...seen].filter((path) => /from 'node:crypto'/.test(readFileSync(join(REPOSITORY, path), 'utf8')));
  expect(needNode.sort()).toEqual(['src/chain/ed25519.ts', 'src/chain/sha256.ts']);
});
