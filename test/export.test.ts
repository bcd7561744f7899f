/** Sinks, followed: what is appended arrives, in order and whole, whatever happens to receivers and replicas. */
import { createServer as createHttpServer, type Server as HttpServer } from 'node:http';
import { type AddressInfo, createServer, type Server, type Socket } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';
import { expect, onTestFinished, test } from 'vitest';
import { decodeCheckpoint } from '../src/chain/checkpoint.ts';
import { noteVerifier, openNote, parseVkey } from '../src/chain/note.ts';
import { disarm } from './support/adversary.ts';
import { type ServiceOptions, startService, type TestService } from './support/service.ts';

const EXPORTING = {
  timing: { beatMs: 100, silentMs: 1000 },
  followerTiming: { lookMs: 500, retryMinMs: 50, retryMaxMs: 200 },
};

interface Receiver {
  readonly url: string;
  /** What arrived, in order. */
  readonly events: {
    readonly id: string;
    readonly log: { readonly stream: string; readonly seq: number; readonly hash: string };
  }[];
  /** The status of the next answers. */
  answer: number;
}

/** A webhook's receiver, of JSON arrays. */
async function webhook(): Promise<Receiver> {
  const server: HttpServer = createHttpServer((request, response) => {
    const chunks: Buffer[] = [];
    request.on('data', (chunk: Buffer) => chunks.push(chunk));
    request.on('end', () => {
      if (receiver.answer === 200) receiver.events.push(...JSON.parse(Buffer.concat(chunks).toString()));
      response.writeHead(receiver.answer).end();
    });
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  onTestFinished(() => {
    server.closeAllConnections();
    server.close();
  });
  const receiver: Receiver = {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/in`,
    events: [],
    answer: 200,
  };
  return receiver;
}

interface SyslogReceiver extends Omit<Receiver, 'answer'> {
  /** Cuts whoever is connected after so many bytes; undefined = nobody. */
  cutAfter: number | undefined;
}

/** A syslog receiver over TCP: octet counting, JSON behind the structured data. Ends its side when it has read everything. */
async function syslog(): Promise<SyslogReceiver> {
  const server: Server = createServer({ allowHalfOpen: true }, (socket: Socket) => {
    let read = Buffer.alloc(0);
    let bytes = 0;
    socket.on('error', () => {});
    socket.on('data', (chunk: Buffer) => {
      bytes += chunk.length;
      if (receiver.cutAfter !== undefined && bytes > receiver.cutAfter) return socket.resetAndDestroy();
      read = Buffer.concat([read, chunk]);
      for (;;) {
        const blank = read.indexOf(0x20);
        if (blank === -1) return;
        const length = Number(read.subarray(0, blank).toString());
        if (read.length < blank + 1 + length) return;
        const message = read.subarray(blank + 1, blank + 1 + length).toString();
        receiver.events.push(JSON.parse(message.slice(message.indexOf('{'))));
        read = read.subarray(blank + 1 + length);
      }
    });
    socket.on('end', () => socket.end());
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  onTestFinished(() => void server.close());
  const receiver: SyslogReceiver = {
    url: `tcp://127.0.0.1:${(server.address() as AddressInfo).port}`,
    events: [],
    cutAfter: undefined,
  };
  return receiver;
}

async function started(options: ServiceOptions = {}): Promise<TestService> {
  const service = await startService({
    exporting: EXPORTING,
    ...options,
    environment: { SEALOG_ALLOW_ADDRESSES: '127.0.0.1/32', ...options.environment },
  });
  onTestFinished(() => service.stop());
  return service;
}

async function makeSink(service: TestService, sink: object): Promise<string> {
  const token = await service.token('it_security_admin');
  const { status, body } = await service.post('/v1/sinks', sink, { token });
  expect(status, JSON.stringify(body)).toBe(201);
  return body.id;
}

async function act(service: TestService, path: string, body: object = {}): Promise<void> {
  const answer = await service.post(path, body, { token: await service.token('it_security_admin') });
  expect(answer.status, answer.text).toBeLessThan(300);
}

let sent = 0;
async function send(service: TestService, count: number, category = 'system_operation', action = 'thing.act') {
  const events = Array.from({ length: count }, () => ({
    id: `e-${sent++}`,
    category,
    action,
    outcome: 'success',
    ...(category === 'security_event' ? { severity: 5 } : {}),
    occurredAt: '2026-01-01T00:00:00Z',
    source: { service: 'mes' },
    details: { text: 'x'.repeat(200) },
  }));
  const { status, body } = await service.post('/v1/events/batch', events);
  expect([status, body.errors], JSON.stringify(body).slice(0, 300)).toEqual([200, false]);
  return events.map(({ id }) => id);
}

async function until(condition: () => boolean | Promise<boolean>, what: string, ms = 15_000): Promise<void> {
  const end = performance.now() + ms;
  while (!(await condition())) {
    if (performance.now() > end) throw new Error(`not within ${ms} ms: ${what}`);
    await delay(25);
  }
}

const ids = ({ events }: Pick<Receiver, 'events'>) => events.map(({ id }) => id);
const has = (receiver: Pick<Receiver, 'events'>, wanted: readonly string[]) => () => {
  const arrived = new Set(ids(receiver));
  return wanted.every((id) => arrived.has(id));
};

/** Nothing missing, first arrivals in order of the log, and whatever came again came as it was. */
function checkArrived(receiver: Pick<Receiver, 'events'>, wanted: readonly string[]): void {
  const first = new Map<string, number>();
  const hashes = new Map<string, string>();
  for (const { id, log } of receiver.events) {
    if (first.has(id)) expect([log.seq, log.hash]).toEqual([first.get(id), hashes.get(id)]);
    else first.set(id, log.seq);
    hashes.set(id, log.hash);
  }
  const mine = [...first.keys()].filter((id) => wanted.includes(id));
  expect(mine).toEqual(wanted);
}

/** What `/metrics` says, by name and labels. */
async function metrics(service: TestService): Promise<Record<string, number>> {
  const text = await (await fetch(`${service.url}/metrics`)).text();
  const lines = text.split('\n').filter((line) => line !== '' && !line.startsWith('#'));
  return Object.fromEntries(
    lines.map((line) => {
      const at = line.lastIndexOf(' ');
      return [line.slice(0, at), Number(line.slice(at + 1))];
    }),
  );
}

const FILTER = { filter: { categories: ['system_operation'] } };

test('what was there and what comes arrives once, in order', async () => {
  const service = await started();
  const receiver = await webhook();
  const before = await send(service, 700);
  await makeSink(service, {
    name: 'siem',
    type: 'webhook',
    url: receiver.url,
    format: 'json',
    from: 'beginning',
    ...FILTER,
  });
  await until(has(receiver, before), 'what was there');
  const after = await send(service, 50);
  await until(has(receiver, after), 'what came');
  expect(ids(receiver)).toEqual([...before, ...after]);
});

test('from now on means from now on', async () => {
  const service = await started();
  const receiver = await webhook();
  await send(service, 20);
  await makeSink(service, { name: 'siem', type: 'webhook', url: receiver.url, format: 'json', from: 'now', ...FILTER });
  const after = await send(service, 5);
  await until(has(receiver, after), 'what came');
  expect(ids(receiver)).toEqual(after);
});

test('a receiver that fails gets everything when it is back, and the sink says what is wrong meanwhile', async () => {
  const service = await started();
  const receiver = await webhook();
  receiver.answer = 503;
  const id = await makeSink(service, {
    name: 'siem',
    type: 'webhook',
    url: receiver.url,
    format: 'json',
    from: 'beginning',
    ...FILTER,
  });
  const events = await send(service, 100);
  const view = async () => (await service.get(`/v1/sinks/${id}`)).body;
  await until(async () => (await view()).state === 'retrying', 'retrying');
  expect(receiver.events).toEqual([]);
  expect(await metrics(service)).toMatchObject({
    'sealog_sinks{state="retrying"}': 1,
    'sealog_sinks{state="running"}': 0,
    sealog_sink_lag_entries: 100,
    sealog_sink_streams_parked: 0,
  });
  receiver.answer = 200;
  await until(has(receiver, events), 'everything');
  expect(ids(receiver)).toEqual(events);
  await until(async () => (await view()).state === 'running', 'running');
  await until(async () => (await metrics(service))['sealog_sink_entries_delivered_total'] === 100, 'counted');
  const counted = await metrics(service);
  expect(counted).toMatchObject({
    'sealog_sinks{state="retrying"}': 0,
    'sealog_sinks{state="running"}': 1,
    sealog_sink_lag_entries: 0,
    sealog_sink_lag_seconds: 0,
    sealog_sinks_followed: 1,
  });
  expect(counted['sealog_sink_failures_total']).toBeGreaterThan(0);
});

test('a syslog receiver that cuts connections misses nothing', async () => {
  const service = await started();
  const receiver = await syslog();
  await makeSink(service, {
    name: 'siem',
    type: 'syslog',
    url: receiver.url,
    format: 'json',
    from: 'beginning',
    ...FILTER,
  });
  const events = await send(service, 300);
  receiver.cutAfter = 20_000;
  events.push(...(await send(service, 300)));
  await delay(500);
  receiver.cutAfter = undefined;
  await until(has(receiver, events), 'everything');
  checkArrived(receiver, events);
});

test('a paused sink waits, and goes on where it stood', async () => {
  const service = await started();
  const receiver = await webhook();
  const id = await makeSink(service, {
    name: 'siem',
    type: 'webhook',
    url: receiver.url,
    format: 'json',
    from: 'beginning',
    ...FILTER,
  });
  const first = await send(service, 10);
  await until(has(receiver, first), 'the first');
  await act(service, `/v1/sinks/${id}/pause`);
  await delay(400);
  const second = await send(service, 10);
  await delay(400);
  expect(new Set(ids(receiver))).toEqual(new Set(first));
  await act(service, `/v1/sinks/${id}/resume`);
  await until(has(receiver, second), 'the second');
  checkArrived(receiver, [...first, ...second]);
});

test('a replica that goes hands its sinks to another, and nothing is missing', async () => {
  const service = await started();
  const receiver = await webhook();
  await makeSink(service, {
    name: 'siem',
    type: 'webhook',
    url: receiver.url,
    format: 'json',
    from: 'beginning',
    ...FILTER,
  });
  const events = await send(service, 50);
  await until(has(receiver, events), 'the first');
  const second = await started({ beside: service });
  await service.app.close();
  events.push(...(await send(second, 50)));
  await until(has(receiver, events), 'the second');
  checkArrived(receiver, events);
});

test('a dead receiver does not keep another sink, or ingest, waiting', async () => {
  const service = await started();
  const dead = await webhook();
  dead.answer = 500;
  const live = await webhook();
  await makeSink(service, {
    name: 'dead',
    type: 'webhook',
    url: dead.url,
    format: 'json',
    from: 'beginning',
    ...FILTER,
  });
  await makeSink(service, {
    name: 'live',
    type: 'webhook',
    url: live.url,
    format: 'json',
    from: 'beginning',
    ...FILTER,
  });
  const events = await send(service, 200);
  await until(has(live, events), 'the live one');
  expect(dead.events).toEqual([]);
});

test('a sink that is an anchor gets signed checkpoints, whatever its filter says', async () => {
  const service = await started({ environment: { SEALOG_ANCHOR_SECONDS: '1' } });
  const receiver = await webhook();
  await makeSink(service, {
    name: 'siem',
    type: 'webhook',
    url: receiver.url,
    format: 'json',
    anchor: true,
    ...FILTER,
  });
  type Tick = (typeof receiver.events)[number] & { readonly details: { readonly checkpoint: string } };
  const ticks = () => receiver.events.filter(({ log }) => log.stream === 'sealog/anchor') as Tick[];
  await until(() => ticks().length > 0, 'a tick');
  await send(service, 1);
  await until(() => ticks().length > 1, 'another');
  const { items } = (await service.get('/v1/keys')).body;
  const key = items.find(({ origin }: { origin: string }) => origin.endsWith('sealog/anchor'));
  for (const { log, details } of ticks()) {
    const { text } = openNote(details.checkpoint, [noteVerifier(parseVkey(key.vkey))]);
    const { origin, size } = decodeCheckpoint(text);
    expect(origin).toBe(key.origin);
    expect(size).toBeGreaterThan(log.seq);
  }
});

/** A log whose tables are not what they were; its signer, which would stop it for that, sleeps. */
async function startedWithAdversary(followerTiming: object): Promise<TestService> {
  const service = await started({
    exporting: { ...EXPORTING, followerTiming: { ...EXPORTING.followerTiming, ...followerTiming } },
    environment: { SEALOG_CHECKPOINT_MS: '60000' },
  });
  await disarm(service.adminPool);
  return service;
}

test('entries that are not stored any more are not passed over in silence', async () => {
  const service = await startedWithAdversary({});
  const receiver = await webhook();
  const [before, lost, behind] = [await send(service, 10), await send(service, 10), await send(service, 10)];
  const { rowCount } = await service.adminPool.query(
    `DELETE FROM sealog.block WHERE first_seq = 10 AND stream = (SELECT id FROM sealog.stream WHERE name = 'acme/system_operation')`,
  );
  expect(rowCount).toBe(1);
  const id = await makeSink(service, {
    ...{ name: 'siem', type: 'webhook', url: receiver.url, format: 'json', from: 'beginning' },
    filter: { categories: ['security_event', 'system_operation'] },
  });
  const view = async () => (await service.get(`/v1/sinks/${id}`)).body;
  await until(async () => (await view()).state === 'parked', 'parked');
  expect((await view()).parked).toMatchObject([
    { stream: 'acme/system_operation', seq: 10, reason: 'entries 10 to 19 of acme/system_operation are not stored' },
  ]);
  // Nothing else waits.
  const others = await send(service, 1, 'security_event');
  await until(has(receiver, others), 'what is in another stream');
  expect(ids(receiver)).toEqual([...before, ...others]);
  await act(service, `/v1/sinks/${id}/skip`, { stream: 'acme/system_operation', seq: 10, reason: 'INC-7' });
  await until(has(receiver, behind), 'what is behind them');
  // The cursor may not have moved behind them when the stream was passed on: they come again then.
  expect([...new Set(ids(receiver))]).toEqual([...before, ...others, ...behind]);
  expect(lost.some((one) => ids(receiver).includes(one))).toBe(false);
});

test('a stream that can not be read does not keep the others waiting', async () => {
  const service = await startedWithAdversary({ retryMinMs: 4000, retryMaxMs: 4000 });
  const receiver = await webhook();
  const old = await send(service, 1);
  const ofKey = `FROM sealog.stream AS s WHERE s.id = k.stream AND s.name = 'acme/system_operation'`;
  await service.adminPool.query(
    `UPDATE sealog.data_key AS k SET wrapped = set_byte(wrapped, 20, get_byte(wrapped, 20) # 1) ${ofKey}`,
  );
  const id = await makeSink(service, {
    ...{ name: 'siem', type: 'webhook', url: receiver.url, format: 'json', from: 'beginning' },
    filter: { categories: ['security_event', 'system_operation'] },
  });
  const view = async () => (await service.get(`/v1/sinks/${id}`)).body;
  await until(async () => (await view()).state === 'retrying', 'retrying');
  for (let i = 0; i < 3; i++) {
    const others = await send(service, 1, 'security_event');
    await until(has(receiver, others), 'what is in another stream', 1500);
  }
  // What arrives meanwhile does not hide it.
  expect(await view()).toMatchObject({
    state: 'retrying',
    lastError: expect.stringContaining('acme/system_operation'),
  });
  await service.adminPool.query(
    `UPDATE sealog.data_key AS k SET wrapped = set_byte(wrapped, 20, get_byte(wrapped, 20) # 1) ${ofKey}`,
  );
  await until(has(receiver, old), 'what can be read again', 15_000);
  await until(async () => (await view()).state === 'running', 'running');
});

test('what a sink does not want does not make it forget that its receiver fails', async () => {
  const service = await started({
    exporting: { ...EXPORTING, followerTiming: { lookMs: 20, retryMinMs: 20, retryMaxMs: 60_000 } },
  });
  const receiver = await webhook();
  receiver.answer = 503;
  await send(service, 1, 'system_operation');
  const id = await makeSink(service, {
    ...{ name: 'siem', type: 'webhook', url: receiver.url, format: 'json', from: 'beginning' },
    filter: { categories: ['security_event', 'system_operation'], actions: ['thing.act'] },
  });
  const view = async () => (await service.get(`/v1/sinks/${id}`)).body;
  await until(async () => (await view()).failures > 0, 'a failure');
  // Each stands before what is not taken, and is passed over.
  for (let i = 0; i < 20; i++) {
    await send(service, 1, 'security_event', 'thing.look');
    await delay(50);
  }
  expect((await view()).failures).toBeGreaterThan(3);
});

test('a log that could not be read for a moment is no failure that stays', async () => {
  const service = await started();
  const receiver = await webhook();
  const id = await makeSink(service, { name: 'siem', type: 'webhook', url: receiver.url, format: 'json', ...FILTER });
  await until(has(receiver, await send(service, 1)), 'the first');
  // Not asked of the service: who reads leaves an entry, and it can store none.
  const trouble = async () => {
    const { rows } = await service.adminPool.query('SELECT failures, error FROM sealog.sink WHERE id = $1', [id]);
    return rows[0];
  };
  await service.adminPool.query('REVOKE SELECT ON sealog.stream FROM sealog_writer');
  await until(async () => (await trouble()).failures > 0, 'a failure');
  // What the database said is for its operator.
  expect((await trouble()).error).toBe('the log can not be read now');
  await service.adminPool.query('GRANT SELECT ON sealog.stream TO sealog_writer');
  // Though there is nothing to deliver.
  await until(async () => (await trouble()).failures === 0, 'no failure');
});
