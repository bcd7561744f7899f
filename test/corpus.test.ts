/**
 * Real audit events: in over HTTP, back unchanged, verified. They lie outside of the repository, where SEALOG_TEST_DATA says. All of them
 * with SEALOG_TEST_HARD; else a tenth of each file, another one in each run, and all of the vendors' samples.
 */
import { randomInt } from 'node:crypto';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { gunzipSync, gzipSync } from 'node:zlib';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { toHex } from '../src/chain/bytes.ts';
import { canonicalText, type JsonObject } from '../src/chain/canonical.ts';
import { CLIENT_CATEGORIES } from '../src/chain/category.ts';
import { sha256 } from '../src/chain/sha256.ts';
import { type Answer, startService, type TestService, withoutTrail } from './support/service.ts';

const DATA = process.env['SEALOG_TEST_DATA'];
const HARD = process.env['SEALOG_TEST_HARD'] !== undefined;
const TENTH = randomInt(10);
const BATCH = 500;
/** How a batch is sent, one after the other. */
const FORMS = ['lines', 'array', 'lines, compressed', 'array, compressed', 'array, all or nothing'] as const;

/** An event of the corpus: what must come back is kept as its hash. */
interface Sent {
  readonly category: string;
  readonly id: string;
  readonly canonical: string;
  receipt?: { readonly seq: number; readonly hash: string };
}

if (DATA === undefined)
  process.stderr.write('corpus.test.ts is skipped: SEALOG_TEST_DATA names no folder with real events\n');

describe.skipIf(DATA === undefined)('the real corpus', () => {
  let service: TestService;
  const sent: Sent[] = [];
  const byId = new Map<string, Sent>();
  let bytes = 0;
  let empty: Map<string, number>;

  beforeAll(async () => {
    service = await startService();
    empty = await sizes();
  });
  afterAll(() => service?.stop());

  it('goes in over HTTP', { timeout: 120_000 }, async () => {
    let batches = 0;
    for (const lines of corpusFiles(DATA!)) {
      for (let from = 0; from < lines.length; from += BATCH) {
        const batch = lines.slice(from, from + BATCH);
        const answer = await send(batch, FORMS[batches++ % FORMS.length]!);
        expect(answer.body.errors, answer.text.slice(0, 500)).toBe(false);
        expect(answer.body.items.length).toBe(batch.length);
        for (const [i, line] of batch.entries()) {
          const event = JSON.parse(line) as JsonObject & { category: string; id: string };
          const { status, id, stream, ...receipt } = answer.body.items[i];
          // An assertion for each event would cost more than the event.
          if (status !== 201 || id !== event.id || stream !== `acme/${event.category}`)
            expect([status, id, stream]).toEqual([201, event.id, `acme/${event.category}`]);
          const one: Sent = { category: event.category, id: event.id, canonical: digest(event), receipt };
          sent.push(one);
          byId.set(`${one.category} ${one.id}`, one);
          bytes += Buffer.byteLength(line);
        }
      }
    }
    expect(sent.length).toBeGreaterThan(HARD ? 80_000 : 8000);
    expect(byId.size).toBe(sent.length);
  });

  it.each(CLIENT_CATEGORIES)(
    'comes back equal: %s, oldest and newest first',
    { timeout: 120_000 },
    async (category) => {
      const expected = sent.filter((one) => one.category === category);
      const oldestFirst: string[] = [];
      for await (const item of search(`category=${category}&order=asc`)) {
        const { log, ...event } = item;
        const one = byId.get(`${category} ${event['id']}`)!;
        const wanted = [one.canonical, `acme/${category}`, oldestFirst.length, one.receipt!.seq, one.receipt!.hash];
        const found = [digest(event), log.stream, log.seq, log.seq, log.hash];
        if (found.some((value, i) => value !== wanted[i])) expect(found).toEqual(wanted);
        if (oldestFirst.length % 1000 === 0) expect(log).toMatchObject({ ...one.receipt });
        oldestFirst.push(one.id);
      }
      expect(oldestFirst).toEqual(expected.map(({ id }) => id));
      const newestFirst: string[] = [];
      for await (const { log, ...event } of search(`category=${category}`)) {
        if (log.seq !== expected.length - 1 - newestFirst.length)
          expect(log.seq).toBe(expected.length - 1 - newestFirst.length);
        newestFirst.push(event['id'] as string);
      }
      expect(newestFirst).toEqual(oldestFirst.toReversed());
    },
  );

  it('comes back one by one', async () => {
    for (let i = 0; i < sent.length; i += 500) {
      const { category, id, canonical, receipt } = sent[i]!;
      const { status, body } = await service.get(`/v1/events/${encodeURIComponent(id)}?category=${category}`);
      expect(status).toBe(200);
      const { log, ...event } = body;
      expect([digest(event), log.hash, log.seq]).toEqual([canonical, receipt!.hash, receipt!.seq]);
    }
  });

  it('sent again, finds its first receipts', async () => {
    const [lines] = corpusFiles(DATA!);
    const { body } = await send(lines!.slice(0, BATCH), 'lines');
    expect(body.errors).toBe(false);
    for (const [i, item] of body.items.entries()) expect(item).toMatchObject({ status: 200, ...sent[i]!.receipt });
  });

  it('verifies', { timeout: 120_000 }, async () => {
    const reports = await service.checkLog();
    for (const category of CLIENT_CATEGORIES) {
      const size = reports.find(({ stream }) => stream === `acme/${category}`)!.size;
      const { length } = sent.filter((one) => one.category === category);
      // Here is also what reading left.
      if (category === 'data_access') expect(size).toBeGreaterThan(length);
      else expect(size).toBe(length);
    }
  });

  it('takes less room than half its text', async () => {
    const perEvent = (total: number): number => Math.round(total / sent.length);
    const now = await sizes();
    // The tables are there without an entry too, with their months.
    const grown = (name: string): number => perEvent(now.get(name)! - (empty.get(name) ?? 0));
    const all = [...now.keys()].reduce((sum, name) => sum + grown(name), 0);
    const parts = ['block', 'entry_id', 'tile'].map((name) => `${name} ${grown(name)}`).join(', ');
    process.stderr.write(
      `the corpus: ${sent.length} events of ${perEvent(bytes)} bytes each; on disk ${all} bytes each (${parts})\n`,
    );
    expect(all).toBeLessThan(perEvent(bytes) / 2);
  });

  /** Bytes on disk by table, with all that belongs to it. */
  async function sizes(): Promise<Map<string, number>> {
    const { rows } = await service.adminPool.query<{ name: string; bytes: string }>(
      `SELECT coalesce(p.relname, c.relname)::text AS name, sum(pg_total_relation_size(c.oid)) AS bytes
       FROM pg_class AS c LEFT JOIN pg_inherits AS i ON i.inhrelid = c.oid LEFT JOIN pg_class AS p ON p.oid = i.inhparent
       WHERE c.relnamespace = 'sealog'::regnamespace AND c.relkind = 'r' GROUP BY 1`,
    );
    return new Map(rows.map((row) => [row.name, Number(row.bytes)]));
  }

  function send(lines: readonly string[], form: (typeof FORMS)[number]): Promise<Answer> {
    const isLines = form.startsWith('lines');
    const text = isLines ? `${lines.join('\n')}\n` : `[${lines.join(',')}]`;
    const isCompressed = form.endsWith('compressed');
    return service.post(
      form.endsWith('nothing') ? '/v1/events/batch?atomic=true' : '/v1/events/batch',
      isCompressed ? gzipSync(text) : text,
      {
        headers: {
          'content-type': isLines ? 'application/x-ndjson' : 'application/json',
          ...(isCompressed ? { 'content-encoding': 'gzip' } : {}),
        },
      },
    );
  }

  async function* search(
    query: string,
  ): AsyncIterable<JsonObject & { log: { seq: number; hash: string; stream: string } }> {
    let next: string | null = '';
    while (next !== null) {
      const { status, body }: Answer = await service.get(
        `/v1/events?limit=1000&${query}${next === '' ? '' : `&cursor=${next}`}`,
      );
      expect(status).toBe(200);
      expect(body.items.length).toBeLessThanOrEqual(1000);
      yield* withoutTrail(body.items);
      next = body.next;
    }
  }
});

/** Returns the lines of each file that this run is about. */
function* corpusFiles(data: string): Iterable<string[]> {
  for (const folder of ['corpus', 'corpus/fixtures']) {
    const files = readdirSync(join(data, folder)).filter((name) => name.endsWith('.ndjson.gz'));
    for (const file of files.sort())
      yield gunzipSync(readFileSync(join(data, folder, file)))
        .toString()
        .trimEnd()
        .split('\n')
        .filter((_, i) => HARD || folder !== 'corpus' || i % 10 === TENTH);
  }
}

/** Byte for byte, in canonical form: as a hash, so that 150 MB of text need not be kept. */
function digest(event: object): string {
  return toHex(sha256(canonicalText(event as JsonObject)));
}
