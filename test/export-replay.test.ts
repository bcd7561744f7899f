/**
 * Replays, and what else a sink's entries wait for: somebody who is waiting for what is new must not notice that a million older entries go to somebody
 * else. The long form (SEALOG_TEST_HARD=1) has that million; the short one 20,000, on a machine that other tests share.
 */
import { createServer as createHttpServer, type IncomingMessage, type RequestListener } from 'node:http';
import { type AddressInfo, createServer, type Socket } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';
import { expect, onTestFinished, test } from 'vitest';
import { encodeEntries } from '../src/export/encoded-entries.ts';
import { SinkFollower } from '../src/export/sink-follower.ts';
import { entries, openSink } from './support/http-sink.ts';
import { startService, type TestService } from './support/service.ts';

const HARD = process.env['SEALOG_TEST_HARD'] !== undefined;
const OLDER = HARD ? 1_000_000 : 20_000;
const WITHIN_MS = HARD ? 1000 : 5000;

async function started(followerTiming = {}): Promise<TestService> {
  const service = await startService({
    exporting: { timing: { beatMs: 100, silentMs: 1000 }, followerTiming },
    environment: { SEALOG_ALLOW_ADDRESSES: '127.0.0.1/32' },
  });
  onTestFinished(() => service.stop());
  return service;
}

/** A webhook's receiver; returns its URL. */
async function webhook(listener: RequestListener): Promise<string> {
  const server = createHttpServer(listener);
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  onTestFinished(() => {
    server.closeAllConnections();
    server.close();
  });
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}/in`;
}

async function bodyOf(request: IncomingMessage): Promise<string> {
  const chunks: Buffer[] = [];
  for await (const chunk of request) chunks.push(chunk);
  return Buffer.concat(chunks).toString();
}

async function act(service: TestService, path: string, body: object): Promise<string> {
  const answer = await service.post(path, body, { token: await service.token('it_security_admin') });
  expect(answer.status, answer.text).toBeLessThan(300);
  return answer.body.id;
}

let made = 0;
const event = (category: string) => ({
  id: `e-${made++}`,
  category,
  action: 'thing.act',
  outcome: 'success',
  ...(category === 'security_event' ? { severity: 8 } : {}),
  occurredAt: '2026-01-01T00:00:00Z',
  source: { service: 'mes' },
  details: { text: 'x'.repeat(200) },
});

async function send(service: TestService, events: readonly object[]): Promise<void> {
  const { status, body } = await service.post('/v1/events/batch', events);
  expect([status, body.errors]).toEqual([200, false]);
}

async function until(condition: () => boolean, what: string, ms = 15_000): Promise<void> {
  const end = performance.now() + ms;
  while (!condition()) {
    if (performance.now() > end) throw new Error(`not within ${ms} ms: ${what}`);
    await delay(10);
  }
}

test('security events arrive at once while everything older is replayed to another sink', {
  timeout: HARD ? 900_000 : 60_000,
}, async () => {
  const service = await started();
  for (let sent = 0; sent < OLDER; sent += 5000)
    await send(
      service,
      Array.from({ length: 5000 }, () => event('system_operation')),
    );

  const arrived = new Map<string, number>();
  const soc = await webhook(async (request, response) => {
    for (const { id } of JSON.parse(await bodyOf(request))) arrived.set(id, performance.now());
    response.writeHead(200).end();
  });
  let replayed = 0;
  const archive = await webhook(async (request, response) => {
    // An array, an entry a line.
    replayed += (await bodyOf(request)).split('\n').length;
    response.writeHead(200).end();
  });
  const sink = { type: 'webhook', format: 'json', from: 'now' };
  await act(service, '/v1/sinks', { ...sink, name: 'soc', url: soc, filter: { categories: ['security_event'] } });
  const id = await act(service, '/v1/sinks', {
    ...{ ...sink, name: 'archive', url: archive },
    filter: { categories: ['system_operation'] },
  });
  await delay(1500);
  await act(service, `/v1/sinks/${id}/replay`, { from: 'beginning' });
  await until(() => replayed > 0, 'the replay begins');
  const began = performance.now();

  const sent = new Map<string, number>();
  while (replayed < OLDER) {
    const one = event('security_event');
    expect((await service.post('/v1/events', one)).status).toBe(201);
    // From its receipt on: the entry is committed.
    sent.set(one.id, performance.now());
    await delay(20);
    expect(performance.now() - began).toBeLessThan(HARD ? 600_000 : 30_000);
  }
  const seconds = (performance.now() - began) / 1000;
  await until(() => sent.keys().every((one) => arrived.has(one)), 'all security events');

  // It may be there before we have the receipt.
  const took = [...sent].map(([one, at]) => Math.max(0, arrived.get(one)! - at)).sort((a, b) => a - b);
  const of = (share: number) => took[Math.floor(share * (took.length - 1))]!.toFixed(0);
  process.stderr.write(
    `${took.length} security events beside a replay of ${replayed} entries (${(replayed / seconds).toFixed(0)}/s): ` +
      `ms from receipt to webhook p50 ${of(0.5)} p99 ${of(0.99)} max ${of(1)}\n`,
  );
  expect(took.length).toBeGreaterThan(3);
  // All but those that met with a machine that did something else.
  expect(took[Math.floor(0.99 * (took.length - 1))]).toBeLessThan(WITHIN_MS);
  expect(took.at(-1)).toBeLessThan(5000);
});

test('the next batch is made ready while one is delivered, and not sent before that is taken', async () => {
  const service = await started({ retryMinMs: 20, retryMaxMs: 50 });
  const seqs: number[] = [];
  let underWay = 0;
  let requests = 0;
  const url = await webhook(async (request, response) => {
    underWay += 1;
    expect(underWay).toBe(1);
    const body = JSON.parse(await bodyOf(request)) as { log: { seq: number } }[];
    await delay(10);
    underWay -= 1;
    requests += 1;
    const isTaken = requests % 3 !== 0;
    if (isTaken) seqs.push(...body.map(({ log }) => log.seq));
    response.writeHead(isTaken ? 200 : 503).end();
  });
  const events = Array.from({ length: 1000 }, () => event('system_operation'));
  await send(service, events);
  await act(service, '/v1/sinks', {
    ...{ name: 'siem', type: 'webhook', format: 'json', url, from: 'beginning', messagesMax: 50 },
    filter: { categories: ['system_operation'] },
  });
  await until(() => seqs.length >= events.length, 'everything');
  // Each once, in order: nothing behind what was not taken was sent before it.
  expect(seqs).toEqual(events.map((_, seq) => seq));
});

test('what is new in several streams goes over one connection of syslog', async () => {
  const service = await started();
  const connections: string[] = [];
  const server = createServer({ allowHalfOpen: true }, (socket: Socket) => {
    let read = '';
    socket.on('error', () => {});
    socket.on('data', (chunk: Buffer) => {
      read += chunk.toString();
    });
    socket.on('end', () => {
      socket.end();
      if (read !== '') connections.push(read);
    });
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  onTestFinished(() => void server.close());
  const categories = ['data_access', 'security_event', 'system_operation', 'user_authentication'];
  const actor = { type: 'user', id: 'u-1' };
  const target = { type: 'report', id: 'r-1' };
  const events = categories.map((category) => ({ ...event(category), actor, target }));
  await send(service, events);
  await act(service, '/v1/sinks', {
    ...{
      name: 'siem',
      type: 'syslog',
      format: 'cef',
      url: `tcp://127.0.0.1:${(server.address() as AddressInfo).port}`,
    },
    ...{ from: 'beginning', filter: { categories } },
  });
  await until(() => connections.length > 0, 'a connection');
  for (const { id } of events) expect(connections[0]).toContain(`externalId=${id} `);
});

test('a sink that was deleted while it was followed keeps no other waiting', async () => {
  const service = await started();
  const ids: string[] = [];
  const url = await webhook(async (request, response) => {
    for (const { id } of JSON.parse(await bodyOf(request))) ids.push(id);
    response.writeHead(200).end();
  });
  const sink = {
    type: 'webhook',
    format: 'json',
    url,
    from: 'beginning',
    filter: { categories: ['system_operation'] },
  };
  const first = event('system_operation');
  await send(service, [first]);
  const id = await act(service, '/v1/sinks', { ...sink, name: 'first' });
  await until(() => ids.length === 1, 'the first sink');
  const token = await service.token('it_security_admin');
  const { status } = await fetch(`${service.url}/v1/sinks/${id}`, {
    method: 'DELETE',
    headers: { authorization: `Bearer ${token}` },
  });
  expect(status).toBeLessThan(300);
  await act(service, '/v1/sinks', { ...sink, name: 'second' });
  await until(() => ids.length === 2, 'the second sink');
  expect(ids).toEqual([first.id, first.id]);
});

test('a batch holds what the memory of all leaves it, and no more', async () => {
  const bodies: number[] = [];
  const url = await webhook(async (request, response) => {
    bodies.push((await bodyOf(request)).length);
    response.writeHead(200).end();
  });
  const log = entries(
    Array.from({ length: 50 }, (_, seq) => `e${seq}`),
    { details: { text: 'x'.repeat(1000) } },
  );
  const { name, category } = log[0]!.stream;
  let nextSeq = 0;
  const transport = openSink(undefined, { url, bytesMax: 1_000_000 });
  const follower = new SinkFollower({
    transport,
    streams: async () => [{ id: 1, name, category, size: log.length, nextSeq, isParked: false, pruned: 0 }],
    async *read(_, fromSeq) {
      yield encodeEntries({ transport, wants: () => true }, log.slice(fromSeq));
    },
    advance: async (_, next) => {
      nextSeq = next;
      return true;
    },
    park: async () => false,
    fail: async () => false,
    recover: async () => true,
    batchBytesMax: () => 10_000,
    failures: 0,
    log: { warn: () => {}, info: () => {} },
  });
  await until(() => nextSeq === log.length, 'everything');
  await follower.close();
  expect(Math.max(...bodies)).toBeLessThan(11_000);
});

test('for a peer that fails little is read, nothing is kept while it is left alone, and all goes on with the first delivery', async () => {
  const bodies: number[] = [];
  const failing = 3;
  const url = await webhook(async (request, response) => {
    bodies.push((await bodyOf(request)).length);
    response.writeHead(bodies.length <= failing ? 503 : 200).end();
  });
  const log = entries(
    Array.from({ length: 4000 }, (_, seq) => `e${seq}`),
    { details: { text: 'x'.repeat(1000) } },
  );
  const { name, category } = log[0]!.stream;
  const transport = openSink(undefined, { url, bytesMax: 1_000_000 });
  /** Of each time that the log was read: whether ahead, in the beginning and in the end. */
  const aheads: [boolean, boolean][] = [];
  const keptInPauses: number[] = [];
  let [nextSeq, reading] = [0, 0];
  const follower = new SinkFollower({
    transport,
    streams: async () => [{ id: 1, name, category, size: log.length, nextSeq, isParked: false, pruned: 0 }],
    async *read(_, fromSeq, isAhead) {
      const wasAhead = isAhead();
      reading += 1;
      try {
        for (let seq = fromSeq; seq < log.length; seq += 100)
          yield encodeEntries({ transport, wants: () => true }, log.slice(seq, seq + 100));
      } finally {
        aheads.push([wasAhead, isAhead()]);
        reading -= 1;
      }
    },
    advance: async (_, next) => {
      nextSeq = next;
      return true;
    },
    park: async () => false,
    fail: async () => {
      keptInPauses.push(reading);
      return true;
    },
    recover: async () => true,
    failures: 0,
    log: { warn: () => {}, info: () => {} },
    timing: { retryMinMs: 10, retryMaxMs: 20 },
  });
  await until(() => nextSeq === log.length, 'everything');
  await follower.close();
  expect(keptInPauses).toEqual([0, 0, 0]);
  // From the first delivery on, and not only from the next read.
  expect(aheads.slice(0, failing)).toEqual(Array(failing).fill([false, false]));
  expect(aheads[failing]).toEqual([false, true]);
  expect(Math.max(...bodies.slice(0, failing + 1))).toBeLessThan(300 * 1024);
  expect(Math.max(...bodies)).toBeGreaterThan(800_000);
});

test('a sink is woken by what its own tenant logs, and not by what others do', async () => {
  const service = await started({ lookMs: 60_000 });
  const ids: string[] = [];
  const url = await webhook(async (request, response) => {
    for (const { id } of JSON.parse(await bodyOf(request))) ids.push(id);
    response.writeHead(200).end();
  });
  await send(service, [event('system_operation')]);
  for (let i = 0; i < 20; i++)
    await act(service, '/v1/sinks', {
      ...{ name: `siem-${i}`, type: 'webhook', format: 'json', url },
      filter: { categories: ['system_operation'] },
    });
  const own = event('system_operation');
  const arrived = () => ids.filter((id) => id === own.id).length === 20;
  // Followers have begun, and nothing but a wake makes them look again.
  await delay(500);
  await send(service, [own]);
  await until(arrived, 'what its own tenant logs', 5000);
  const committed = async (): Promise<number> => {
    // What a connection counts is seen when it has been idle for a second.
    await delay(1200);
    const { rows } = await service.adminPool.query(
      'SELECT xact_commit::int AS n FROM pg_stat_database WHERE datname = current_database()',
    );
    return rows[0].n;
  };
  const before = await committed();
  for (let i = 0; i < 12; i++) {
    const token = await service.token('service', 'busy');
    expect((await service.post('/v1/events', event('system_operation'), { token })).status).toBe(201);
    await delay(60);
  }
  // Of 12 looks of each sink there would be 240 more.
  expect((await committed()) - before).toBeLessThan(300);
});
