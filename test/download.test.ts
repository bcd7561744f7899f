/**
 * Downloads, from a running service over sockets: what arrives against what was sent, cut anywhere and continued, out of a log that was
 * tampered with, and by readers who stop reading.
 */
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { request as httpRequest, type IncomingMessage } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import pg from 'pg';
import pino from 'pino';
import { afterAll, beforeAll, describe, expect, it, onTestFinished, vi } from 'vitest';
import type { Role } from '../src/auth/roles.ts';
import { signToken } from '../src/auth/tokens.ts';
import { disarm } from './support/adversary.ts';
import { decodeCef } from './support/cef-decoder.ts';
import { TEST_DATA } from './support/corpus.ts';
import { readCsv } from './support/csv-reader.ts';
import { type EventInput, generateEvents } from './support/events.ts';
import { hostileString, seededRandom } from './support/hostile-strings.ts';
import { ocsfProblems, readOcsfSchema } from './support/ocsf-validator.ts';
import { startService, type TestService } from './support/service.ts';
import { someOf } from './support/short-form.ts';

// biome-ignore lint/suspicious/noExplicitAny: answers of every shape
type Json = any;
type Format = 'ndjson' | 'cef' | 'csv' | 'ocsf';

const FORMATS: readonly Format[] = ['ndjson', 'cef', 'csv', 'ocsf'];
/** All but data_access, which grows with each download. */
const STILL = 'configuration_change,data_modification,security_event,system_operation,user_authentication';
const SITES = ['plant-7', 'plant-8', undefined];

let service: TestService;
/** What the service said went wrong. */
const errors: Json[] = [];
const log = pino({ level: 'error' }, { write: (line: string) => void errors.push(JSON.parse(line)) });
/** Everything that acme sent, oldest first. */
const sent: EventInput[] = [];

beforeAll(async () => {
  service = await startService({ log });
  const random = seededRandom(11);
  const text = () => hostileString(random, 200);
  const hostile = generateEvents({ seed: 4, count: 40 }).map((event, i) => ({
    ...{ ...event, id: `hostile-${i}`, reason: text(), raw: text(), details: { [text()]: text(), n: [text()] } },
    actor: { ...event.actor, name: text(), sessionId: text() },
    source: { ...event.source, host: text() },
  }));
  const usual = generateEvents({ seed: 3, count: 300 }).map((event, i) => ofSite(event, SITES[i % 3]));
  const events = [...usual, ...hostile];
  for (let at = 0; at < events.length; at += 20) await send(events.slice(at, at + 20));
  sent.push(...events);
  await send(
    generateEvents({ seed: 5, count: 20 }).map((event) => ({ ...event, reason: 'CANARY' })),
    'other',
  );
}, 60_000);

afterAll(() => service.stop());

function ofSite(event: EventInput, site: string | undefined): EventInput {
  const { site: _, ...source } = event.source;
  return { ...event, source: site === undefined ? source : { ...source, site } };
}

async function send(events: readonly EventInput[], tenant = 'acme'): Promise<void> {
  const answer = await service.post('/v1/events/batch', events, { token: await service.token('service', tenant) });
  expect(answer.body.items?.filter(({ status }: Json) => status !== 201)).toEqual([]);
}

interface Got {
  readonly status: number;
  readonly headers: IncomingMessage['headers'];
  readonly text: string;
  /** Whether the body came to its end, as HTTP has it. */
  readonly isWhole: boolean;
}

type Query = Readonly<Record<string, string | number>>;

function pathOf(query: Query): string {
  const given = Object.entries(query).map(([name, value]): [string, string] => [name, String(value)]);
  return `/v1/export?${new URLSearchParams(given)}`;
}

async function ask(query: Query, token?: string, tenant = 'acme'): Promise<IncomingMessage> {
  const authorization = `Bearer ${token ?? (await service.token('auditor', tenant))}`;
  const asking = httpRequest({ port: service.port, path: pathOf(query), headers: { authorization }, agent: false });
  asking.end();
  const [answer] = (await once(asking, 'response')) as [IncomingMessage];
  return answer;
}

async function get(query: Query, token?: string, tenant = 'acme'): Promise<Got> {
  const answer = await ask(query, token, tenant);
  const chunks: Buffer[] = [];
  answer.on('data', (chunk: Buffer) => chunks.push(chunk));
  const isWhole = await new Promise<boolean>((resolve) => {
    answer.once('end', () => resolve(answer.complete));
    answer.once('error', () => resolve(false));
  });
  return {
    ...{ status: answer.statusCode!, headers: answer.headers, isWhole },
    text: Buffer.concat(chunks).toString(),
  };
}

/** The lines with their ends; a last one without is dropped, as a client must. */
function linesOf(text: string, format: Format): string[] {
  const end = format === 'csv' ? '\r\n' : '\n';
  return text
    .split(end)
    .slice(0, -1)
    .map((line) => line + end);
}

/** What the closing line says; undefined where the line is an entry or the names. */
function closingOf(line: string, format: Format): Json {
  switch (format) {
    case 'ndjson':
    case 'ocsf':
      return JSON.parse(line).export;
    case 'cef':
      return line.startsWith('# ') ? JSON.parse(line.slice(2)).export : undefined;
    case 'csv': {
      const [first, second, ...others] = readCsv(line);
      if (first !== '#end') return undefined;
      expect(others).toEqual(Array(31).fill(''));
      return JSON.parse(second!).export;
    }
  }
}

interface Place {
  readonly stream: string;
  readonly seq: number;
}

/** Where a line stands in the log, as a client finds it. */
function placeOf(line: string, format: Format): Place {
  switch (format) {
    case 'ndjson':
      return JSON.parse(line).log;
    case 'ocsf': {
      const { log_name: stream, sequence: seq } = JSON.parse(line).metadata;
      return { stream, seq };
    }
    case 'cef': {
      const { fields } = decodeCef(line.slice(0, -1));
      return { stream: fields.get('deviceExternalId')!, seq: Number(fields.get('cn1')) };
    }
    case 'csv': {
      const [stream, seq] = readCsv(line);
      return { stream: stream!, seq: Number(seq) };
    }
  }
}

interface Download {
  readonly entries: readonly string[];
  readonly closing: Json;
  readonly names: string | undefined;
  readonly text: string;
}

/** A download that came to its end. */
async function whole(query: Query & { format?: Format }, token?: string, tenant = 'acme'): Promise<Download> {
  const { status, text, isWhole } = await get(query, token, tenant);
  expect([status, isWhole]).toEqual([200, true]);
  const format = query.format ?? 'ndjson';
  const lines = linesOf(text, format);
  expect(lines.join('')).toBe(text);
  const closing = closingOf(lines.at(-1)!, format);
  expect(closing).toBeDefined();
  const hasNames = format === 'csv' && query['cursor'] === undefined;
  const entries = lines.slice(hasNames ? 1 : 0, -1);
  const places = entries.map((line) => placeOf(line, format));
  const streams = [...new Set(places.map(({ stream }) => stream))].map((stream) => {
    const seqs = places.filter((place) => place.stream === stream).map(({ seq }) => seq);
    expect(seqs).toEqual(seqs.toSorted((a, b) => a - b));
    return { stream, entries: seqs.length, firstSeq: seqs[0], lastSeq: seqs.at(-1) };
  });
  // The closing line tells the truth about the lines before it, which lie together by stream.
  expect(closing.entries).toBe(entries.length);
  expect(closing.streams.filter((one: Json) => one.entries > 0)).toEqual(streams);
  return { entries, closing, names: hasNames ? lines[0] : undefined, text };
}

async function items(query: Query, token?: string): Promise<Json[]> {
  return (await whole(query, token)).entries.map((line) => JSON.parse(line));
}

async function tokenOf(role: Role, sites?: readonly string[]): Promise<string> {
  const claims = { tenant: 'acme', roles: [role], subject: 'downloader', ttlSeconds: 600 };
  return signToken(service.tokens, sites === undefined ? claims : { ...claims, sites });
}

describe('a download', () => {
  it('has everything that was sent, stream by stream in the order of the log', async () => {
    const found = (await items({})).filter(({ source }) => source.service !== 'sealog');
    const expected = sent.toSorted((a, b) => (a.category < b.category ? -1 : a.category > b.category ? 1 : 0));
    expect(found.map(({ log: _, ...event }) => event)).toEqual(expected);
    const { closing } = await whole({ category: STILL });
    expect(closing).toMatchObject({ complete: true, cursor: null });
    for (const { stream, entries, firstSeq, lastSeq } of closing.streams) {
      const own = sent.filter(({ category }) => stream === `acme/${category}`).length;
      expect([entries, firstSeq, lastSeq]).toEqual([own, 0, own - 1]);
    }
  });

  it('says the same in each format, whatever the strings are', async () => {
    const expected = await items({ category: STILL });
    const { closing } = await whole({ category: STILL });
    const cef = await whole({ category: STILL, format: 'cef' });
    const csv = await whole({ category: STILL, format: 'csv' });
    const ocsf = await whole({ category: STILL, format: 'ocsf' });
    for (const one of [cef, csv, ocsf]) expect(one.closing).toEqual(closing);
    for (const [i, { log, ...event }] of expected.entries()) {
      const { fields, eventClass } = decodeCef(cef.entries[i]!.slice(0, -1));
      expect([eventClass, fields.get('cs1'), fields.get('cat')]).toEqual([event.action, log.hash, event.category]);
      expect(Object.fromEntries(fields)).toMatchObject({ outcome: event.outcome, flexString1: log.previous });
      if (!event.id.startsWith('hostile')) expect(fields.get('suid')).toBe(event.actor.id);
    }
    const names = readCsv(csv.names!);
    for (const [i, { log, ...event }] of expected.entries()) {
      const cells = readCsv(csv.entries[i]!);
      expect(cells).toHaveLength(names.length);
      const row = Object.fromEntries(names.map((name, at) => [name, cells[at]]));
      expect(row).toMatchObject({ id: event.id, action: event.action, 'log.hash': log.hash });
      for (const cell of cells) expect(cell).not.toMatch(/^\s*["\s]*[=+\-@]|^[\t\r\n]|[\u0000-\u001f]/);
      if (!event.id.startsWith('hostile')) expect(row['actor.id']).toBe(event.actor.id);
    }
    for (const [i, item] of expected.entries()) {
      const { unmapped, raw_data: raw, metadata } = JSON.parse(ocsf.entries[i]!);
      expect(raw === undefined ? unmapped : { ...unmapped, raw }).toEqual(item);
      expect(metadata.uid).toBe(item.log.hash);
    }
    if (TEST_DATA !== undefined) {
      const schema = readOcsfSchema(TEST_DATA);
      for (const line of ocsf.entries) expect(ocsfProblems(schema, JSON.parse(line))).toEqual([]);
    }
  });

  it('comes as a file of its format that nobody keeps', async () => {
    const types = {
      ndjson: ['application/x-ndjson', 'sealog_acme_security-event_2026-01-02.ndjson'],
      cef: ['text/plain; charset=utf-8', 'sealog_acme_security-event_2026-01-02.cef'],
      csv: ['text/csv; charset=utf-8', 'sealog_acme_security-event_2026-01-02.csv'],
      ocsf: ['application/x-ndjson', 'sealog_acme_security-event_2026-01-02.ocsf.ndjson'],
    };
    for (const format of FORMATS) {
      const { headers } = await get({ format, category: 'security_event', from: '2026-01-02T00:00:00Z' });
      const [type, name] = types[format];
      expect(headers).toMatchObject({
        'content-type': type,
        'content-disposition': `attachment; filename="${name}"`,
        'cache-control': 'no-store',
        'x-content-type-options': 'nosniff',
      });
    }
  });

  it('finds what a search finds', async () => {
    const token = await service.token('auditor');
    const [one, other] = [sent[3]!, sent.find(({ target }) => target !== undefined)!];
    const middle = (await items({ category: 'user_authentication' }))[20].log.recordedAt;
    const filters: Query[] = [
      { action: one.action },
      { outcome: 'failure', category: 'user_authentication' },
      { actor: one.actor.id },
      { target: other.target!.id },
      { site: 'plant-7', severityMin: 4 },
      { service: one.source.service },
      { occurredFrom: sent[100]!.occurredAt, occurredTo: sent[200]!.occurredAt },
      { from: middle, category: 'user_authentication' },
      { to: middle, category: 'user_authentication' },
      { action: 'nothing.of_this_kind' },
    ];
    for (const filter of filters) {
      const found = (await items(filter)).filter(({ source }) => source.service !== 'sealog');
      const searched: Json[] = [];
      for (let cursor: string | null = ''; cursor !== null; ) {
        const more = { ...filter, limit: '1000', ...(cursor === '' ? {} : { cursor }) } as Record<string, string>;
        const { body } = await service.get(`/v1/events?${new URLSearchParams(more)}`, { token });
        searched.push(...body.items.filter(({ source }: Json) => source.service !== 'sealog'));
        cursor = body.next;
      }
      const byId = (a: Json, b: Json) => (a.id < b.id ? -1 : 1);
      expect(found.toSorted(byId), JSON.stringify(filter)).toEqual(searched.toSorted(byId));
    }
  });

  it('keeps to seqs of one category, and refuses ranges that are none', async () => {
    const category = 'system_operation';
    const seqs = async (query: Query) => (await items({ category, ...query })).map(({ log }) => log.seq);
    expect(await seqs({ fromSeq: 3, toSeq: 7 })).toEqual([3, 4, 5, 6]);
    expect(await seqs({ fromSeq: 3, toSeq: 3 })).toEqual([]);
    expect((await seqs({ fromSeq: 50 }))[0]).toBe(50);
    expect((await seqs({ epoch: 1 })).length).toBe(sent.filter((one) => one.category === category).length);
    expect(await seqs({ epoch: 2 })).toEqual([]);
    expect(await seqs({ fromSeq: 1_000_000 })).toEqual([]);
    const refused: [Query, string][] = [
      [{ fromSeq: 1 }, 'fromSeq'],
      [{ toSeq: 1, category: 'data_access,system_operation' }, 'toSeq'],
      [{ category, fromSeq: 2, toSeq: 1 }, 'toSeq'],
      [{ from: '2026-01-02T00:00:00Z', to: '2026-01-01T00:00:00Z' }, 'to'],
      [{ category: 'nonsense' }, 'category'],
      [{ format: 'xml' }, 'format'],
      [{ limit: 0 }, 'limit'],
      [{ cursor: 'acme/data_access' }, 'cursor'],
      [{ cursor: 'acme/data_access:-1' }, 'cursor'],
      [{ cursor: 'other/data_access:1' }, 'cursor'],
      [{ cursor: 'acme/data_access:1', category }, 'cursor'],
    ];
    for (const [query, field] of refused) {
      const { status, text } = await get(query);
      expect([query, status, JSON.parse(text).errors?.[0]?.field]).toEqual([query, 400, field]);
    }
  });

  it('shows who is held to sites what is of them, and no other tenant anything', async () => {
    for (const [role, sites] of [
      ['plant_manager', ['plant-7']],
      ['auditor', ['plant-8', 'plant-7']],
      ['plant_manager', []],
    ] as const) {
      const isSeen = ({ source }: EventInput) =>
        source.site !== undefined && (sites as readonly string[]).includes(source.site);
      const found = await items({}, await tokenOf(role, sites));
      expect(found.map(({ id }) => id).toSorted()).toEqual(
        sent
          .filter(isSeen)
          .map(({ id }) => id!)
          .toSorted(),
      );
    }
    const held = await tokenOf('plant_manager', ['plant-7']);
    expect((await items({ site: 'plant-8' }, held)).length).toBe(0);
    const { text } = await get({}, undefined, 'other');
    expect([text.includes('CANARY'), text.includes('acme/')]).toEqual([true, false]);
    expect((await get({})).text).not.toContain('CANARY');
    expect((await get({}, await service.token('privacy_officer', 'other'))).status).toBe(403);
  });
});

describe('a part of a download', () => {
  it.each(someOf(FORMATS, 2))('is continued by the cursor of its closing line: %s', async (format) => {
    const query = { format, category: STILL };
    const all = await whole(query);
    for (const limit of [97, 13 + all.entries.length, all.entries.length]) {
      const parts: string[] = [];
      for (let cursor: string | null = ''; cursor !== null; ) {
        const part = await whole({ ...query, limit, ...(cursor === '' ? {} : { cursor }) });
        expect(part.entries.length).toBeLessThanOrEqual(limit);
        expect(part.closing.complete).toBe(part.closing.cursor === null);
        parts.push(...part.entries);
        cursor = part.closing.cursor;
      }
      expect(parts).toEqual(all.entries);
    }
  });

  it('does not follow itself for ever, though each leaves an entry', async () => {
    const size = (await items({ category: 'data_access', service: 'sealog' })).length;
    let parts = 0;
    for (let cursor: string | null = ''; cursor !== null; parts++) {
      const query = { category: 'data_access', service: 'sealog', limit: 1 };
      const part: Download = await whole(cursor === '' ? query : { ...query, cursor });
      cursor = part.closing.cursor;
      expect(parts).toBeLessThan(size + 20);
    }
    expect(parts).toBeGreaterThan(size);
  });

  it.each(someOf(FORMATS, 2))('goes on where it was cut, wherever that was: %s', async (format) => {
    const query = { format, category: STILL };
    const all = await whole(query);
    const bytes = Buffer.from(all.text);
    const random = seededRandom(format.length);
    const cuts = [0, 5, bytes.length - 1, ...Array.from({ length: 6 }, () => Math.floor(random() * bytes.length))];
    for (const cut of cuts) {
      // Half a character at the end is of the line that is dropped.
      const had = linesOf(bytes.subarray(0, cut).toString(), format);
      expect(had.some((line) => closingOf(line, format) !== undefined)).toBe(false);
      const entries = had.slice(format === 'csv' ? 1 : 0);
      if (entries.length === 0) continue;
      const { stream, seq } = placeOf(entries.at(-1)!, format);
      const rest = await whole({ ...query, cursor: `${stream}:${seq}` });
      expect([...entries, ...rest.entries]).toEqual(all.entries);
      expect(rest.closing.complete).toBe(true);
    }
  });
});

it.skipIf(spawnSync('jq', ['--version']).status !== 0)(
  'the example of docs/export.md goes on after a cut',
  async () => {
    const folder = await mkdtemp(join(tmpdir(), 'sealog-test-download-'));
    onTestFinished(() => rm(folder, { recursive: true }));
    const page = readFileSync(join(import.meta.dirname, '../docs/export.md'), 'utf8');
    const [, block] = /^## Downloads\n.*?```sh\n(.*?)```/ms.exec(page)!;
    const example = block!.replace(/^EXPORT=.*$/m, `EXPORT='${service.url}${pathOf({ category: STILL })}'`);
    const cutting = `curl() {
    command curl "$@"
    [ -e again ] || { touch again; head -c 200000 export.ndjson > half; mv half export.ndjson; return 18; }
  }`;
    const READ = `authorization: Bearer ${await service.token('auditor')}`;
    const shell = spawn('sh', ['-eu', '-c', `${cutting}\n${example}`], { cwd: folder, env: { ...process.env, READ } });
    expect(await once(shell, 'exit')).toEqual([0, null]);
    const lines = linesOf(await readFile(join(folder, 'export.ndjson'), 'utf8'), 'ndjson');
    expect(lines.slice(0, -1)).toEqual((await whole({ category: STILL })).entries);
  },
);

describe('many entries', () => {
  const COUNT = 20_000;
  const tenant = 'large';

  beforeAll(async () => {
    const details = { note: 'a line of the shift book that is as long as such lines are '.repeat(4) };
    const events = Array.from({ length: COUNT }, (_, i) => ({
      ...{
        id: `e-${i}`,
        category: 'system_operation' as const,
        action: 'service.restart',
        outcome: 'success' as const,
      },
      ...{ occurredAt: '2026-01-01T00:00:00Z', source: { service: 'mes' }, actor: { type: 'user', id: `u-${i}` } },
      details: { ...details, i },
    }));
    for (let at = 0; at < COUNT; at += 5000) await send(events.slice(at, at + 5000), tenant);
  }, 60_000);

  /** Reads nothing but the head. */
  async function stalled(of = tenant): Promise<IncomingMessage> {
    const answer = await ask({ format: 'ocsf', category: 'system_operation' }, undefined, of);
    expect(answer.statusCode).toBe(200);
    answer.pause();
    onTestFinished(() => void answer.destroy());
    return answer;
  }

  /** Of readers, which are open now. */
  async function transactions(): Promise<number> {
    const { rows } = await service.adminPool.query(
      `SELECT count(*)::int AS n FROM pg_stat_activity
       WHERE datname = current_database() AND application_name = 'sealog_reader' AND xact_start IS NOT NULL`,
    );
    return rows[0].n;
  }

  it('are made as they are read: a slow reader costs no memory, and holds no transaction', async () => {
    const reads = vi.spyOn(pg.Client.prototype, 'query');
    onTestFinished(() => reads.mockRestore());
    const made = () => reads.mock.calls.filter(([query]: Json) => /AS candidate/.test(query.text ?? query)).length;
    const before = process.memoryUsage().rss;
    const answer = await stalled();
    for (let last = -1; last !== made(); await delay(1500)) last = made();
    const ahead = made();
    expect(await transactions()).toBe(0);
    let peak = 0;
    let received = 0;
    let last = Buffer.alloc(0);
    for await (const chunk of answer as AsyncIterable<Buffer>) {
      received += chunk.length;
      last = Buffer.concat([last, chunk]).subarray(-2000);
      if (received % 7 === 0) await delay(1);
      peak = Math.max(peak, process.memoryUsage().rss);
    }
    expect(received).toBeGreaterThan(29 * 1024 * 1024);
    // What waited for him was in the buffers of the operating system, and a few blocks.
    expect(ahead).toBeLessThan(made() * 0.7);
    expect(peak - before).toBeLessThan(150 * 1024 * 1024);
    const closing = closingOf(`${last.toString().trimEnd().split('\n').at(-1)}\n`, 'ocsf');
    expect(closing).toMatchObject({ complete: true, entries: COUNT });
  });

  it('are two downloads of a tenant at most; whoever goes away makes place for another', async () => {
    const [one] = [await stalled(), await stalled()];
    const third = await get({}, undefined, tenant);
    expect([third.status, third.headers['retry-after'], JSON.parse(third.text).code]).toEqual([429, '10', 'quota']);
    expect((await whole({ limit: 1 })).closing.entries).toBe(1);
    one!.destroy();
    await vi.waitFor(async () => {
      expect((await get({ limit: 1 }, undefined, tenant)).status).toBe(200);
    }, 3000);
  });

  it('are made beside the main thread, which has its time for whoever sends', async () => {
    const cpu = performance.eventLoopUtilization();
    const { text } = await get({ format: 'ocsf', category: 'system_operation' }, undefined, tenant);
    const { utilization } = performance.eventLoopUtilization(cpu);
    expect(linesOf(text, 'ocsf').length).toBe(COUNT + 1);
    expect(utilization).toBeLessThan(0.8);
  });
});

describe('a log that can not be read to its end', () => {
  const category = 'system_operation';
  let sound: TestService;

  beforeAll(async () => {
    sound = service;
    // Signed rarely: the signer would notice what is done here, and stop the log.
    service = await startService({ log, environment: { SEALOG_CHECKPOINT_MS: '60000' } });
  });

  afterAll(async () => {
    await service.stop();
    service = sound;
  });

  /** A tenant with ten blocks in one category, and what the adversary does to one in the middle. */
  async function damaged(tenant: string, damage: string): Promise<void> {
    for (let i = 0; i < 10; i++)
      await send(generateEvents({ seed: 50 + i, count: 12, categories: [category] }), tenant);
    await disarm(service.adminPool);
    const { rows } = await service.adminPool.query(
      `${damage} WHERE first_seq = 60 AND stream = (SELECT id FROM sealog.stream WHERE name = $1) RETURNING first_seq`,
      [`${tenant}/${category}`],
    );
    expect(rows.length).toBe(1);
  }

  it.each([
    ['sealed parts that were changed', 'UPDATE sealog.block SET parts = set_byte(parts, 40, get_byte(parts, 40) # 1)'],
    ['records that were changed', "UPDATE sealog.block SET records = records || '\\x00'::bytea"],
    ['a block that says less than it has', 'UPDATE sealog.block SET entries = entries - 1'],
    ['a block that is gone', 'DELETE FROM sealog.block'],
  ])('is cut before %s, and never looks whole', async (what, damage) => {
    const tenant = `hurt-${what.replaceAll(/[^a-z]/g, '-')}`;
    await damaged(tenant, damage);
    errors.length = 0;
    for (const format of FORMATS) {
      const { status, text, isWhole } = await get({ format, category }, undefined, tenant);
      expect([format, status, isWhole]).toEqual([format, 200, false]);
      const lines = linesOf(text, format);
      expect(lines.some((line) => closingOf(line, format) !== undefined)).toBe(false);
      const entries = lines.slice(format === 'csv' ? 1 : 0);
      expect(entries.length).toBeLessThanOrEqual(60);
      for (const line of entries) expect(placeOf(line, format).stream).toBe(`${tenant}/${category}`);
    }
    expect(errors).toHaveLength(FORMATS.length);
    expect(errors[0]).toMatchObject({ tenant, isEvidence: true });
    // Nor is it passed over by who goes on behind it.
    const { status, isWhole } = await get({ category, cursor: `${tenant}/${category}:59` }, undefined, tenant);
    expect(status === 200 && isWhole).toBe(false);
    // Behind it all is as it was.
    const behind = await whole({ category, cursor: `${tenant}/${category}:71` }, undefined, tenant);
    expect([behind.entries.length, behind.closing.complete]).toEqual([48, true]);
  });

  it('has no end where its last block is gone', async () => {
    const tenant = 'hurt-at-the-end';
    for (let i = 0; i < 3; i++) await send(generateEvents({ seed: 70 + i, count: 12, categories: [category] }), tenant);
    await disarm(service.adminPool);
    await service.adminPool.query(
      'DELETE FROM sealog.block WHERE first_seq = 24 AND stream = (SELECT id FROM sealog.stream WHERE name = $1)',
      [`${tenant}/${category}`],
    );
    const { text, isWhole } = await get({ category }, undefined, tenant);
    expect([isWhole, linesOf(text, 'ndjson').length]).toEqual([false, 24]);
  });
});
