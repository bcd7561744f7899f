/** Evidence bundles as the service writes them, over a real log: what the verifier finds in them, and what the route refuses. */
import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { request as httpRequest } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pino } from 'pino';
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest';
import { fromHex } from '../src/chain/bytes.ts';
import { decodeCanonical, type JsonValue } from '../src/chain/canonical.ts';
import { fileMonthKeys } from '../src/keys/file-month-keys.ts';
import { Keyring } from '../src/keys/keyring.ts';
import { type BundleBounds, type BundleRequest, writeBundle } from '../src/proof/bundle-writer.ts';
import { makeSeed, SigningKeys } from '../src/signer/seeds.ts';
import { keyById } from '../src/store/data-keys.ts';
import { asTenant, type Database, openDatabase } from '../src/store/database.ts';
import { tenantId } from '../src/store/streams.ts';
import type { BundleReport } from '../src/verify/bundle/bundle-report.ts';
import { type BundleTrust, verifyBundle } from '../src/verify/bundle/verify-bundle.ts';
import { readCertificates } from '../src/verify/time-stamp.ts';
import { repack, unpack } from './support/bundles.ts';
import { generateEvents } from './support/events.ts';
import { startService, type TestService } from './support/service.ts';
import { startAuthority, withoutOpenssl } from './support/time-stamp-authority.ts';
import { startWitness } from './support/witness.ts';

const CATEGORY = 'user_authentication';
const LOG = `/v1/logs/acme/${CATEGORY}`;
const ENTRIES = 2000;

interface Receipt {
  readonly id: string;
  readonly seq: number;
  readonly recordedAt: string;
}

let service: TestService;
let database: Database;
let receipts: Receipt[];
let trust: BundleTrust;

beforeAll(async () => {
  service = await startService({ environment: { SEALOG_ANCHOR_SECONDS: '1' } });
  database = openDatabase({ connection: service.database.appConfig, readersMax: 2, log: pino({ level: 'silent' }) });
  receipts = [];
  const events = generateEvents({ seed: 7, count: ENTRIES, categories: [CATEGORY] });
  for (let at = 0; at < ENTRIES; at += 250)
    receipts.push(...(await service.post('/v1/events/batch', events.slice(at, at + 250))).body.items);
  await checkpointOf(ENTRIES);
  trust = { key: await keyOf(service), checkpoints: [], authorities: [], witnesses: [] };
}, 60_000);

afterAll(async () => {
  await service.checkLog();
  await database.close();
  await service.stop();
});

async function keyOf({ config }: TestService, generation = 1): Promise<string> {
  const seed = await readFile(join(config.signerDir!, `seed-000${generation}`), 'utf8');
  return new SigningKeys(fromHex(seed.trim())).signer('log.example').vkey;
}

async function until<T>(look: () => Promise<T | undefined>, what: string): Promise<T> {
  const end = performance.now() + 30_000;
  for (;;) {
    const found = await look();
    if (found !== undefined) return found;
    if (performance.now() > end) throw new Error(`not within 30 s: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

/** The note of a checkpoint of at least `size` entries. */
async function checkpointOf(size: number, of = service, path = LOG): Promise<string> {
  return until(async () => {
    const answer = await fetch(`${of.url}${path}/checkpoint`, { headers: await bearer(of) });
    const note = await answer.text();
    return answer.status === 200 && Number(note.split('\n')[1]) >= size ? note : undefined;
  }, `a checkpoint of ${size}`);
}

async function bearer(of = service, tenant = 'acme'): Promise<Record<string, string>> {
  return { authorization: `Bearer ${await of.token('auditor', tenant)}` };
}

async function bundle(query: Record<string, string> = {}, of = service): Promise<Uint8Array> {
  const search = new URLSearchParams({ category: CATEGORY, ...query });
  const answer = await fetch(`${of.url}/v1/bundle?${search}`, { headers: await bearer(of) });
  const bytes = new Uint8Array(await answer.arrayBuffer());
  expect(
    { status: answer.status, type: answer.headers.get('content-type') },
    Buffer.from(bytes).toString().slice(0, 300),
  ).toEqual({
    status: 200,
    type: 'application/x-tar',
  });
  expect(Number(answer.headers.get('content-length'))).toBe(bytes.length);
  return bytes;
}

function partsIn(bytes: Uint8Array): Map<number, Record<string, { value?: JsonValue; state?: string }>> {
  const lines = Buffer.from(unpack(bytes).get('0/openings.ndjson')!).toString().trimEnd().split('\n');
  const openings = lines.map((line) => decodeCanonical(Buffer.from(line)) as { seq: number; parts: never });
  return new Map(openings.map(({ seq, parts }) => [seq, parts]));
}

/** Temporary files that were not taken away again. */
async function leftovers(): Promise<string[]> {
  return (await readdir(tmpdir())).filter((name) => name.startsWith('sealog-bundle-'));
}

describe('a bundle of the service', () => {
  test('has the whole category, verifies, and is intact with the checkpoint that the auditor kept', async () => {
    const kept = await checkpointOf(ENTRIES);
    const bytes = await bundle();
    const report = await verifyBundle(bytes, { ...trust, checkpoints: [kept] });
    expect(report).toMatchObject({ verdict: 'intact', findings: [], unchecked: [] });
    expect(report.streams).toMatchObject([
      { first: 0, end: ENTRIES, entries: ENTRIES, complete: true, pinned: [{ size: ENTRIES }] },
    ]);
    expect((await verifyBundle(bytes, trust)).verdict).toBe('not_provable');
  });

  test('of any time has exactly the entries that were recorded in it, and their neighbours', async () => {
    const times = [...new Set(receipts.map(({ recordedAt }) => Date.parse(recordedAt)))];
    const around = times.flatMap((at) => [at - 1, at, at + 1]);
    const pick = (i: number): number => around[(i * 7919) % around.length]!;
    for (let i = 0; i < 40; i++) {
      const [from, to] = [pick(i), pick(i * i + 1)].sort((a, b) => a - b) as [number, number];
      const open = i % 5;
      const asked = (at: number): boolean => (open === 1 || at >= from) && (open === 2 || at < to);
      const bytes = await bundle({
        ...(open === 1 ? {} : { from: new Date(from).toISOString() }),
        ...(open === 2 ? {} : { to: new Date(to).toISOString() }),
      });
      const report = await verifyBundle(bytes, trust);
      const expected = receipts.filter(({ recordedAt }) => asked(Date.parse(recordedAt)));
      expect(report.findings).toEqual([]);
      const [{ asked: range, entries, complete, first, end }] = report.streams as [BundleReport['streams'][0]];
      expect({ entries, complete }).toEqual({ entries: expected.length, complete: true });
      if (expected.length > 0) expect(range).toEqual({ from: expected[0]!.seq, to: expected.at(-1)!.seq + 1 });
      expect(end - first).toBeLessThanOrEqual(entries + 2);
    }
  });

  test('takes times to the nanosecond and with offsets, and asks for whole milliseconds', async () => {
    const { recordedAt } = receipts[1000]!;
    const at = Date.parse(recordedAt);
    const shifted = new Date(at + 3_600_000).toISOString().replace('Z', '+01:00');
    const same = await bundle({ from: shifted });
    // Between the two there can be a tick: also that the first was asked for is in the log.
    const stream = (bytes: Uint8Array) =>
      new Map([...unpack(bytes)].filter(([name]) => name.startsWith('0/') && name !== '0/anchors.json'));
    const question = (bytes: Uint8Array) =>
      JSON.parse(Buffer.from(unpack(bytes).get('manifest.json')!).toString()).question;
    const utc = await bundle({ from: recordedAt });
    expect(stream(same).size).toBeGreaterThanOrEqual(4);
    expect(stream(same)).toEqual(stream(utc));
    expect(question(same)).toEqual(question(utc));
    const later = await bundle({ from: recordedAt.replace('Z', '000001Z') });
    expect(await verifyBundle(later, trust)).toMatchObject({
      findings: [],
      question: { from: new Date(at + 1).toISOString() },
    });
    const never = await verifyBundle(
      await bundle({ from: '0001-01-01T00:00:00Z', to: '9999-12-31T23:59:59.999999999Z' }),
      trust,
    );
    expect(never).toMatchObject({ findings: [], streams: [{ entries: ENTRIES }] });
  });

  test('shows what the log was at each size that the auditor has a checkpoint of', async () => {
    const sizes = [1, 2, 255, 256, 257, 1024, 1999, 2000, 3000];
    const bytes = await bundle({ from: receipts.at(-1)!.recordedAt, since: sizes.join(',') });
    const consistency = decodeCanonical(unpack(bytes).get('0/consistency.json')!) as { from: number }[];
    expect(consistency.map(({ from }) => from)).toEqual(expect.arrayContaining(sizes.filter((size) => size < ENTRIES)));
    expect((await verifyBundle(bytes, trust)).findings).toEqual([]);
  });

  test('leaves out the values of parts on request, and verifies all the same', async () => {
    const to = receipts[20]!.recordedAt;
    const open = await bundle({ to });
    const closed = await bundle({ to, withhold: 'actor,raw' });
    expect((await verifyBundle(closed, trust)).findings).toEqual([]);
    for (const [seq, parts] of partsIn(closed)) {
      expect(parts['actor']).toEqual({ commitment: expect.any(String), state: 'withheld' });
      expect(parts['raw']).toEqual({ commitment: expect.any(String), state: 'withheld' });
      expect(Object.keys(parts)).toEqual(Object.keys(partsIn(open).get(seq)!));
    }
  });

  test('has the events as they were sent', async () => {
    const [first] = generateEvents({ seed: 7, count: 1, categories: [CATEGORY] });
    const parts = partsIn(await bundle({ to: receipts[20]!.recordedAt })).get(0)!;
    const sent = first as unknown as Record<string, JsonValue>;
    for (const [name, part] of Object.entries(parts)) expect(part.value).toEqual(sent[name]);
    expect(parts['actor']?.value).toEqual(sent['actor']);
  });

  test('of a tenant shows no other', async () => {
    const answer = await fetch(`${service.url}/v1/bundle?category=${CATEGORY}`, {
      headers: await bearer(service, 'globex'),
    });
    expect(answer.status).toBe(404);
    await service.post('/v1/events', generateEvents({ seed: 8, count: 1, categories: [CATEGORY] })[0], {
      token: await service.token('service', 'globex'),
    });
    await until(async () => {
      const own = await fetch(`${service.url}/v1/bundle?category=${CATEGORY}`, {
        headers: await bearer(service, 'globex'),
      });
      if (own.status === 404) return undefined;
      const report = await verifyBundle(new Uint8Array(await own.arrayBuffer()), trust);
      expect(report).toMatchObject({ findings: [], question: { tenant: 'globex' }, streams: [{ size: 1 }] });
      return true;
    }, 'a bundle of the other tenant');
  });

  test('which somebody changed afterwards is found', async () => {
    const files = unpack(await bundle({ to: receipts[20]!.recordedAt }));
    const entries = Buffer.from(files.get('0/entries')!);
    entries.write('failure', entries.indexOf('"outcome":"success"') + 11);
    files.set('0/entries', entries);
    const report = await verifyBundle(repack(files), trust);
    expect(report.verdict).toBe('tampered');
    expect(report.findings.map(({ kind }) => kind)).toEqual(expect.arrayContaining(['checkpoint']));
  });
});

describe('the route', () => {
  test.each([
    ['no category', ''],
    ['a category that is none', 'category=logins'],
    ['a time that is none', `category=${CATEGORY}&from=yesterday`],
    ['a time that ends before it begins', `category=${CATEGORY}&from=2026-01-02T00:00:00Z&to=2026-01-01T00:00:00Z`],
    ['sizes that are none', `category=${CATEGORY}&since=1,x`],
    ['too many sizes', `category=${CATEGORY}&since=${Array(21).fill(1).join()}`],
    ['a part that is none', `category=${CATEGORY}&withhold=actor,author`],
    ['what it does not know', `category=${CATEGORY}&format=zip`],
  ])('refuses %s', async (_, query) => {
    const answer = await fetch(`${service.url}/v1/bundle?${query}`, { headers: await bearer() });
    expect({ status: answer.status, code: ((await answer.json()) as { code: string }).code }).toEqual({
      status: 400,
      code: 'invalid_request',
    });
  });

  test('is for auditors', async () => {
    const answer = await service.get(`/v1/bundle?category=${CATEGORY}`, { token: await service.token('service') });
    expect(answer.status).toBe(403);
    expect((await service.get(`/v1/bundle?category=${CATEGORY}`, { token: null })).status).toBe(401);
  });

  test('has nothing of a category without entries', async () => {
    expect((await service.get('/v1/bundle?category=configuration_change')).body).toMatchObject({
      status: 404,
      code: 'not_found',
    });
  });

  test('names the file, for people', async () => {
    const answer = await fetch(`${service.url}/v1/bundle?category=${CATEGORY}&from=2026-01-01T00:00:00Z`, {
      headers: await bearer(),
    });
    await answer.arrayBuffer();
    expect(answer.headers.get('content-disposition')).toBe(
      'attachment; filename="sealog_acme_user-authentication_2026-01-01.tar"',
    );
    expect(answer.headers.get('cache-control')).toBe('no-store');
  });

  test('makes a few at once, and none for those who went away', async () => {
    const headers = await bearer();
    const begin = () =>
      new Promise<{ status: number; gone: () => void }>((resolve, reject) => {
        // Paused: a client that does not read what it asked for.
        const asking = httpRequest(`${service.url}/v1/bundle?category=${CATEGORY}`, { headers }, (response) =>
          resolve({ status: response.statusCode!, gone: () => asking.destroy() }),
        );
        asking.on('error', reject);
        asking.end();
      });
    const answers = await Promise.all(Array.from({ length: 6 }, begin));
    // Making takes long enough that the others come while two are made.
    expect(answers.map(({ status }) => status).sort()).toEqual([200, 200, 503, 503, 503, 503]);
    for (const each of answers) each.gone();
    await until(async () => {
      const answer = await fetch(`${service.url}/v1/bundle?category=${CATEGORY}`, { headers });
      await answer.arrayBuffer();
      return answer.status === 200 ? true : undefined;
    }, 'a free place');
    expect(await leftovers()).toEqual([]);
  });
});

describe('the writer', () => {
  async function write(
    request: Partial<BundleRequest>,
    bounds: Partial<BundleBounds>,
    signal = new AbortController().signal,
  ) {
    const id = (await tenantId(database.writer, 'acme', false))!;
    const sources = {
      origin: 'log.example',
      ask: <T>(work: Parameters<typeof asTenant<T>>[2]) => asTenant(database.reader, id, work),
      verifier: database.verifier,
      keys: new Keyring(fileMonthKeys(service.config.monthKeysDir), {
        findOrStore: () => Promise.reject(new Error('a bundle makes no keys')),
        byId: (key) => keyById(database.verifier, key),
      }),
    };
    const asked: BundleRequest = {
      tenant: 'acme',
      category: CATEGORY,
      from: undefined,
      to: undefined,
      since: [],
      withhold: new Set(),
      ...request,
    };
    return writeBundle(sources, asked, { entriesMax: 10_000, bytesMax: 2 ** 30, ...bounds }, signal);
  }

  test('refuses more entries or bytes than its bounds, and says what to do', async () => {
    const problem = { status: 413, code: 'too_large', detail: expect.stringContaining('ask for a shorter time') };
    await expect(write({}, { entriesMax: ENTRIES - 1 })).rejects.toMatchObject(problem);
    await expect(write({}, { bytesMax: 100_000 })).rejects.toMatchObject(problem);
    const fits = await write({}, { entriesMax: ENTRIES });
    await fits.close();
    expect(await leftovers()).toEqual([]);
  });

  test('stops when nobody waits for it any more', async () => {
    const gone = new AbortController();
    const writing = write({}, {}, gone.signal);
    setTimeout(() => gone.abort(new Error('gone')), 5);
    await expect(writing).rejects.toThrow('gone');
    expect(await leftovers()).toEqual([]);
  });
});

test.skipIf(withoutOpenssl !== undefined && process.env['CI'] === undefined)(
  'with real anchors a bundle is intact, before and after a change of keys, for whoever trusts one of them',
  async () => {
    const folder = await mkdtemp(join(tmpdir(), 'sealog-test-anchors-'));
    onTestFinished(() => rm(folder, { recursive: true, force: true }));
    const authority = await startAuthority();
    onTestFinished(() => authority.stop());
    const witness = await startWitness({});
    onTestFinished(() => witness.close());
    await mkdir(join(folder, 'worm'));
    await writeFile(join(folder, 'ca.pem'), authority.caPem);
    const anchors = [
      { name: 'tsa', type: 'rfc3161', url: authority.url, trust: 'ca.pem', everySeconds: 1 },
      { name: 'witness', type: 'witness', url: witness.url, vkey: witness.vkey, everySeconds: 1 },
      { name: 'worm', type: 'folder', path: join(folder, 'worm'), everySeconds: 1 },
    ];
    await writeFile(join(folder, 'anchors.json'), JSON.stringify({ anchors }));
    const anchored = await startService({
      environment: {
        SEALOG_ANCHORS_FILE: join(folder, 'anchors.json'),
        SEALOG_ANCHOR_SECONDS: '1',
        SEALOG_ALLOW_ADDRESSES: '127.0.0.0/8',
      },
    });
    onTestFinished(() => anchored.stop());
    const seed = await readFile(join(anchored.config.signerDir!, 'seed-0001'), 'utf8');
    witness.know(new SigningKeys(fromHex(seed.trim())).signer('log.example/sealog/anchor').vkey);
    const events = generateEvents({ seed: 9, count: 30, categories: [CATEGORY] });
    for (const event of events.slice(0, 10)) expect((await anchored.post('/v1/events', event)).status).toBe(201);

    await checkpointOf(10, anchored);
    const authorities = readCertificates(authority.caPem);
    const key = await keyOf(anchored);
    const nobody = { key, checkpoints: [], authorities: [], witnesses: [] };
    const report = async (trusted: BundleTrust) => verifyBundle(await bundle({}, anchored), trusted);
    const untilIntact = (trusted: BundleTrust, what: string) =>
      until(async () => {
        const one = await report(trusted);
        expect(one.findings).toEqual([]);
        return one.verdict === 'intact' ? one : undefined;
      }, what);
    const stamped = await untilIntact({ ...nobody, authorities }, 'a time stamp');
    expect(stamped.streams[0]!.anchored.at(-1)!.by[0]).toMatchObject({ kind: 'rfc3161', anchor: 'tsa' });
    const seen = await untilIntact({ ...nobody, witnesses: [witness.vkey] }, 'a cosignature');
    expect(seen.streams[0]!.anchored.at(-1)!.by[0]).toMatchObject({ kind: 'witness', anchor: 'witness' });
    expect((await report(nobody)).verdict).toBe('not_provable');
    const files = (await readdir(join(folder, 'worm'), { recursive: true })).filter((name) =>
      name.endsWith('.checkpoint'),
    );
    const checkpoints = await Promise.all(files.map((name) => readFile(join(folder, 'worm', name), 'utf8')));
    expect((await report({ ...nobody, checkpoints })).verdict).toBe('intact');

    await makeSeed(anchored.config.signerDir!, 2);
    const second = await until(async () => {
      const keys = (await anchored.get('/v1/keys')).body.items as {
        generation: number;
        origin: string;
        vkey: string;
      }[];
      return keys.find(({ generation, origin }) => generation === 2 && origin.endsWith(CATEGORY));
    }, 'the second generation');
    expect(second.vkey).toBeDefined();
    for (const event of events.slice(10, 20)) expect((await anchored.post('/v1/events', event)).status).toBe(201);
    await checkpointOf(20, anchored);
    for (const trusted of [
      { ...nobody, authorities },
      { ...nobody, authorities, key: await keyOf(anchored, 2) },
    ]) {
      const both = await untilIntact(trusted, 'a time stamp of the second generation');
      expect(both.streams).toMatchObject([{ entries: 20, unanchored: [] }]);
    }
    await anchored.checkLog();
  },
  120_000,
);
