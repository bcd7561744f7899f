/**
 * Syslog to real receivers, rsyslog and syslog-ng: what arrives is what was sent, and whatever happens to a receiver or the way there,
 * nothing is called delivered that did not arrive.
 */
import { createSocket } from 'node:dgram';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { type AddressInfo, createServer, type LookupFunction, type Server, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { createServer as createTlsServer, type TlsOptions } from 'node:tls';
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest';
import type { EntryFormat } from '../src/export/entry-format.ts';
import type { ExportedEntry } from '../src/export/exported-entry.ts';
import { severityOf } from '../src/export/exported-entry.ts';
import type { SyslogTiming, SyslogTls } from '../src/export/syslog-connection.ts';
import { messageId, syslogSeverity } from '../src/export/syslog-message.ts';
import { readSyslogSink } from '../src/export/syslog-sink.ts';
import { SYSLOG_MAX_BYTES, type SyslogTransportOptions, syslogTransport } from '../src/export/syslog-transport.ts';
import { TooLongError } from '../src/export/too-long-error.ts';
import { type Message, type Transport, TransportError } from '../src/export/transport.ts';
import { addressGuard } from '../src/http/address-guard.ts';
import { guardedLookup } from '../src/http/outgoing.ts';
import { decodeCef } from './support/cef-decoder.ts';
import { startTlsAuthority, type TlsAuthority, type TlsFiles } from './support/certificates.ts';
import { corpusEvents, TEST_DATA } from './support/corpus.ts';
import { generateEvents } from './support/events.ts';
import { type EntryMessage, entryMessage, exportedEntry, exportedStream } from './support/exported.ts';
import { hostileEvent } from './support/hostile-events.ts';
import { seededRandom } from './support/hostile-strings.ts';
import { HARD, someOf } from './support/short-form.ts';
import {
  DOORS,
  type Door,
  RECEIVERS,
  type ReceivedMessage,
  type Receiver,
  type ReceiverOptions,
  startReceiver,
  withoutReceivers,
} from './support/syslog-receivers.ts';
import { startWire } from './support/tcp-wire.ts';

const NEVER = new AbortController().signal;
/** Short, for faults. */
const TIMING: Partial<SyslogTiming> = { connectMs: 2000, stallMs: 1000, confirmMs: 1500, paceMs: 0 };

if (withoutReceivers !== undefined)
  process.stderr.write(`syslog-transport.test.ts is without real receivers: ${withoutReceivers}\n`);

let authority: TlsAuthority;
let receiverTls: { cert: string; key: string; ca: string };
/** Ours, for receivers that want one. */
let client: SyslogTls & { certPem: string; keyPem: string };
let caPem: string;

beforeAll(async () => {
  authority = await startTlsAuthority();
  const own = await authority.issue({ name: 'receiver', names: 'DNS:localhost,IP:127.0.0.1', purpose: 'server' });
  const ours = await authority.issue({ name: 'sealog', names: 'DNS:sealog', purpose: 'client' });
  receiverTls = { ...own, ca: authority.root };
  client = { certPem: text(ours.cert), keyPem: text(ours.key) };
  caPem = text(authority.root);
});
afterAll(() => authority?.stop());

function text(path: string): string {
  return readFileSync(path, 'utf8');
}

type Options = Partial<Omit<SyslogTransportOptions, 'target'>>;

function transport(url: string, options: Options = {}): Transport {
  const [, protocol, host, port] = /^(udp|tcp|tls):\/\/(.*):(\d+)$/.exec(url)!;
  const guard = addressGuard(['127.0.0.0/8', '::1/128']);
  const made = syslogTransport({
    target: { protocol: protocol as 'tcp', host: host!.replace(/^\[|\]$/g, ''), port: Number(port) },
    format: 'json',
    hostname: 'log.example.com',
    procId: '4711',
    lookup: guardedLookup(guard),
    allows: guard.allows,
    tls: { caPem },
    ...options,
  });
  onTestFinished(() => made.close());
  return made;
}

function transportTo(receiver: Receiver, door: Door, options: Options = {}): Transport {
  const port = receiver.ports[door];
  if (door === 'udp') return transport(`udp://127.0.0.1:${port}`, options);
  if (door === 'octets') return transport(`tcp://127.0.0.1:${port}`, options);
  if (door === 'lf') return transport(`tcp://127.0.0.1:${port}`, { framing: 'lf', ...options });
  return transport(`tls://127.0.0.1:${port}`, { tls: { caPem, ...(door === 'mutual' ? client : {}) }, ...options });
}

function messagesFor(made: Transport, entries: readonly ExportedEntry[]): EntryMessage[] {
  return entries.map((exported) => entryMessage(exported, made.encode(exported)));
}

/** Entries of one stream. */
function entriesOf(count: number): ExportedEntry[] {
  return [
    ...exportedStream(
      generateEvents({ seed: 1, count }).map((event) => ({ ...event, category: 'system_operation' }) as never),
    ),
  ];
}

/** Made once: an entry takes longer to make than to send. */
const MOST = entriesOf(HARD ? 20_000 : 12_000);

async function failure(work: Promise<unknown>): Promise<TransportError> {
  const error = await work.then(
    (value) => value,
    (reason: unknown) => reason,
  );
  expect(error).toBeInstanceOf(TransportError);
  return error as TransportError;
}

/** Delivers as a follower does: in batches as large as the transport takes, each again until it is delivered. Returns the tries that failed. */
async function deliverAll(made: Transport, messages: readonly Message[], tries = 1): Promise<TransportError[]> {
  const failures: TransportError[] = [];
  let next = 0;
  while (next < messages.length) {
    const batch: Message[] = [];
    let bytes = 0;
    while (next + batch.length < messages.length) {
      const message = messages[next + batch.length]!;
      bytes += message.payload.length;
      if (batch.length > 0 && (bytes > made.batchBytesMax || batch.length === made.batchMessagesMax)) break;
      batch.push(message);
    }
    try {
      const fates = await made.deliver(batch, NEVER);
      expect(fates).toHaveLength(batch.length);
      expect(fates.every(({ kind }) => kind === 'delivered')).toBe(true);
      next += batch.length;
    } catch (error) {
      expect(error).toBeInstanceOf(TransportError);
      failures.push(error as TransportError);
      if (failures.length >= tries) throw error;
      await sleep(100);
    }
  }
  return failures;
}

// ---- What arrives ----

/** The parameters of the only element, by the grammar of RFC 5424 section 6.3. */
function parametersOf(structuredData: string): { id: string; parameters: Record<string, string> } {
  const [, id, rest] = /^\[([^ =\]"]{1,32})((?: [^ =\]"]{1,32}="(?:[^"\\\]]|\\["\\\]])*")*)\]$/s.exec(structuredData)!;
  const found = [...rest!.matchAll(/ ([^ =\]"]+)="((?:[^"\\\]]|\\["\\\]])*)"/gs)];
  return {
    id: id!,
    parameters: Object.fromEntries(found.map(([, name, value]) => [name!, value!.replace(/\\(["\\\]])/g, '$1')])),
  };
}

/** The fields that tell whether a payload is this entry, read by a decoder that is not the writer. */
function payloadOf(format: EntryFormat, payload: string): { id: unknown; seq: unknown; hash: unknown } {
  if (format === 'cef') {
    const { fields } = decodeCef(payload);
    return {
      id: fields.get('cs6') ?? fields.get('externalId'),
      seq: Number(fields.get('cn1')),
      hash: fields.get('cs1'),
    };
  }
  const parsed = JSON.parse(payload);
  const { id, log } = format === 'json' ? parsed : parsed.unmapped;
  return { id, seq: log.seq, hash: log.hash };
}

/** Holds what arrived to what was sent, message by message and field by field. `isDecoded`: the same payloads were, before. */
function expectSame(
  received: readonly ReceivedMessage[],
  sent: readonly EntryMessage[],
  format: EntryFormat,
  isDecoded = false,
): void {
  expect(received).toHaveLength(sent.length);
  for (const [index, { exported, payload }] of sent.entries()) {
    const { entry, stream } = exported;
    const one = received[index]!;
    const { record, hash } = entry;
    const { id, parameters } = parametersOf(one.structuredData);
    const { hostname, appName, procId, msgId, priority } = one;
    const header = { priority, time: Date.parse(one.time), hostname, appName, procId, msgId, sdId: id, ...parameters };
    const wanted = {
      priority: 13 * 8 + syslogSeverity(severityOf(exported)),
      time: Date.parse(record.recordedAt),
      hostname: 'log.example.com',
      appName: 'sealog',
      procId: '4711',
      msgId: messageId(record.action),
      sdId: 'sealog@32473',
      tenant: stream.tenant,
      stream: stream.name,
      seq: String(record.seq),
      hash,
      id: record.id,
    };
    if (JSON.stringify(header) !== JSON.stringify(wanted)) expect(header).toEqual(wanted);
    const message = Buffer.from(payload).toString();
    const behindHeader = message.slice(message.indexOf('[sealog@')).replace(/\n$/, '');
    const behindTheirs = `${one.structuredData} ${one.text}`;
    if (behindTheirs !== behindHeader) expect(behindTheirs).toBe(behindHeader);
    if (isDecoded) continue;
    const read = payloadOf(format, one.text);
    if (read.id !== record.id || read.seq !== record.seq || read.hash !== hash)
      expect(read).toEqual({ id: record.id, seq: record.seq, hash });
  }
}

const withReceivers = describe.skipIf(withoutReceivers !== undefined);
/** Each door with a format of its own; all with all in the hard run. `oneOf`: how many of the entries. */
const WAYS: readonly { readonly door: Door; readonly format: EntryFormat; readonly oneOf: number }[] = HARD
  ? DOORS.flatMap((door) => (['json', 'cef', 'ocsf'] as const).map((format) => ({ door, format, oneOf: 1 })))
  : [
      { door: 'octets', format: 'json', oneOf: 1 },
      { door: 'tls', format: 'cef', oneOf: 1 },
      { door: 'lf', format: 'cef', oneOf: 1 },
      { door: 'mutual', format: 'ocsf', oneOf: 1 },
      { door: 'udp', format: 'json', oneOf: 10 },
    ];

async function arrives(
  receivers: readonly Receiver[],
  { door, format }: { readonly door: Door; readonly format: EntryFormat },
  entries: readonly ExportedEntry[],
  options: Options = {},
): Promise<void> {
  const transports = receivers.map((receiver) =>
    transportTo(receiver, door, { format, ...options, ...(door === 'udp' ? { timing: { quietMs: 10 } } : {}) }),
  );
  const messages = messagesFor(transports[0]!, entries);
  // A receiver's buffer is small, and UDP drops the rest: so datagrams are sent as fast as they are read.
  const step = door === 'udp' ? 25 : entries.length;
  for (let from = 0; from < messages.length; from += step) {
    const some = messages.slice(from, from + step);
    await Promise.all(
      receivers.map(async (receiver, index) => {
        receiver.forget(door);
        await deliverAll(transports[index]!, some);
        expectSame(await receiver.received(door, some.length), some, format, index > 0);
      }),
    );
  }
}

withReceivers('both receivers', () => {
  const receivers: Receiver[] = [];
  beforeAll(async () => {
    for (const kind of RECEIVERS) receivers.push(await startReceiver(kind, { tls: receiverTls }));
  });
  afterAll(async () => {
    for (const receiver of receivers) await receiver.stop();
  });

  test.skipIf(TEST_DATA === undefined)(
    'take all real events at each door, and give them back field by field',
    { timeout: HARD ? 1_800_000 : 600_000 },
    async () => {
      let count = 0;
      const pass = async (entries: readonly ExportedEntry[]): Promise<void> => {
        for (const way of WAYS)
          await arrives(
            receivers,
            way,
            entries.filter((_, index) => index % way.oneOf === 0),
          );
        count += entries.length;
      };
      let entries: ExportedEntry[] = [];
      let seen = 0;
      for (const exported of exportedStream(corpusEvents())) {
        seen += 1;
        if (HARD || seen % 8 === 0) entries.push(exported);
        if (entries.length < 15_000) continue;
        await pass(entries);
        entries = [];
      }
      await pass(entries);
      expect(count).toBeGreaterThan(HARD ? 80_000 : 1000);
    },
  );

  test.each(WAYS)('take hostile strings in every field as $format: $door', { timeout: 120_000 }, async (way) => {
    const isUdp = way.door === 'udp';
    const random = seededRandom(55 + DOORS.indexOf(way.door));
    const entries = [
      ...exportedStream(Array.from({ length: isUdp ? 400 : HARD ? 2400 : 300 }, () => hostileEvent(random))),
    ];
    await arrives(receivers, way, entries, isUdp ? { maxBytes: 8192 } : {});
    if (!isUdp) await arrives(receivers, way, entries, { maxBytes: 120_000 });
  });
});

withReceivers.each(RECEIVERS)('%s', (kind) => {
  let receiver: Receiver;
  beforeAll(async () => {
    receiver = await startReceiver(kind, { tls: receiverTls });
  });
  afterAll(() => receiver?.stop());

  test.each(DOORS)('answers a test with two messages that say they are one: %s', async (door) => {
    receiver.forget(door);
    const said = await transportTo(receiver, door).test(NEVER);
    expect(said).toMatch(
      door === 'udp'
        ? /nobody refused them, and UDP tells no more/
        : /read a message that says it is a test.*and ended the connection/,
    );
    const [short, long] = await receiver.received(door, 2);
    for (const one of [short!, long!]) {
      expect(one.msgId).toBe('sink.test');
      expect(JSON.parse(one.text)).toMatchObject({
        action: 'sink.test',
        reason: 'A test of this sink: no entry of the log',
      });
    }
    expect(long!.text.length).toBeGreaterThan(short!.text.length + 500);
  });

  test.each([
    ['octets', HARD ? 20_000 : 8000],
    ['tls', HARD ? 20_000 : 3000],
  ] as const)('takes thousands of messages as one batch: %s, %i', { timeout: 120_000 }, async (door, count) => {
    const made = transportTo(receiver, door, { format: 'cef' });
    const entries = MOST.slice(0, count);
    receiver.forget(door);
    const began = performance.now();
    const fates = await made.deliver(messagesFor(made, entries), NEVER);
    const ms = performance.now() - began;
    expect(fates).toHaveLength(count);
    const received = await receiver.received(door, count);
    expect(received.map(({ structuredData }) => Number(parametersOf(structuredData).parameters['seq']))).toEqual(
      entries.map(({ entry }) => entry.record.seq),
    );
    process.stderr.write(`${kind}, ${door}: ${count} messages in ${Math.round(ms)} ms\n`);
  });
});

// ---- What is not called delivered ----

/** A server that is no syslog receiver but does one thing; it counts connections and bytes. */
async function fake(
  handle: (socket: Socket, server: Server) => void,
  tls?: TlsOptions,
): Promise<{ readonly url: string; readonly port: number; connections: number; bytes: number }> {
  const state = { url: '', port: 0, connections: 0, bytes: 0 };
  const sockets = new Set<Socket>();
  const taken = (socket: Socket): void => {
    state.connections += 1;
    sockets.add(socket);
    socket.on('error', () => {});
    socket.on('close', () => sockets.delete(socket));
    socket.on('data', (chunk) => {
      state.bytes += chunk.length;
    });
    socket.pause();
    handle(socket, server);
  };
  const options = { allowHalfOpen: true, ...tls };
  const server: Server = tls === undefined ? createServer(options, taken) : createTlsServer(options, taken);
  server.on('tlsClientError', () => {});
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  state.port = (server.address() as AddressInfo).port;
  state.url = `${tls === undefined ? 'tcp' : 'tls'}://127.0.0.1:${state.port}`;
  onTestFinished(() => {
    server.close();
    for (const socket of sockets) socket.destroy();
  });
  return state;
}

/** Reads all, and ends when the sender ends: how receivers are. */
function readAll(socket: Socket): void {
  socket.resume();
  socket.on('end', () => socket.end());
}

const FEW = MOST.slice(0, 20);
/** More than the buffers of both systems take. */
const MANY = MOST.slice(0, HARD ? 15_000 : 12_000);

function tries(url: string, options: Options = {}, entries = FEW): Promise<unknown> {
  const made = transport(url, { timing: TIMING, ...options });
  return made.deliver(messagesFor(made, entries), NEVER);
}

describe('a receiver that', () => {
  test('reads all and ends has got them', async () => {
    const peer = await fake(readAll);
    const made = transport(peer.url);
    const messages = messagesFor(made, FEW);
    expect(await made.deliver(messages, NEVER)).toEqual(FEW.map(() => ({ kind: 'delivered' })));
    expect(peer.bytes).toBe(messages.reduce((sum, { payload }) => sum + payload.length, 0));
  });

  test('gets little by little has some connections a second, and what waits as soon as it is much', async () => {
    const peer = await fake(readAll);
    const made = transport(peer.url);
    const [one] = messagesFor(made, FEW);
    const times: number[] = [];
    for (const count of [1, 1, 1, 200]) {
      const began = performance.now();
      await made.deliver(new Array(count).fill(one), NEVER);
      times.push(performance.now() - began);
    }
    expect(times.map((ms) => ms > 300)).toEqual([false, true, true, false]);
    setTimeout(() => made.close(), 20);
    expect(await failure(made.deliver([one!], NEVER))).toMatchObject({ reason: 'stopped' });
  });

  test('does not listen is unreachable, by test and delivery', async () => {
    const peer = await fake(readAll);
    const port = peer.port === 1 ? 2 : 1;
    expect(await failure(tries(`tcp://127.0.0.1:${port}`))).toMatchObject({
      reason: 'unreachable',
      message: `tcp://127.0.0.1:${port}: nobody listens there (ECONNREFUSED)`,
    });
    expect(await failure(transport(`tls://127.0.0.1:${port}`).test(NEVER))).toMatchObject({ reason: 'unreachable' });
  });

  test.each([
    ['at once', 0],
    ['after some bytes', 3000],
  ])('resets %s has got nothing', async (_, bytes) => {
    const peer = await fake((socket) => {
      let read = 0;
      socket.on('data', (chunk) => {
        read += chunk.length;
        if (read >= bytes) socket.resetAndDestroy();
      });
      socket.resume();
      if (bytes === 0) socket.resetAndDestroy();
    });
    expect(await failure(tries(peer.url))).toMatchObject({ reason: 'unreachable' });
    expect(await failure(tries(peer.url, {}, MANY))).toMatchObject({ reason: 'unreachable' });
  });

  test.each([
    ['at once', 0],
    ['after some bytes', 3000],
    ['a moment after it has read all', Number.POSITIVE_INFINITY],
  ])('ends %s has got nothing', async (_, bytes) => {
    const peer = await fake((socket) => {
      let read = 0;
      socket.resume();
      socket.on('data', (chunk) => {
        read += chunk.length;
        if (read >= bytes) socket.end();
      });
      if (bytes === 0) socket.end();
      if (bytes === Number.POSITIVE_INFINITY) socket.once('data', () => setTimeout(() => socket.end(), 20));
    });
    // The longer, the less it matters that this process, which is the receiver too, may be late.
    expect(await failure(tries(peer.url, { timing: { ...TIMING, quietMs: 400 } }))).toMatchObject({
      reason: 'unreachable',
      message: `${peer.url}: ended the connection before we did`,
    });
  });

  test('ends in the middle of a batch, orderly, and does not read the rest, has got nothing', async () => {
    // Its end is on its way when ours is written: what tells is that it does not listen any more either, as one that is stopped.
    const peer = await fake((socket, server) => {
      socket.once('end', () => {});
      setTimeout(() => {
        server.close();
        socket.end(() => socket.destroy());
      }, 300);
    });
    expect(await failure(tries(peer.url, { timing: { ...TIMING, quietMs: 50 } }))).toMatchObject({
      reason: 'unreachable',
      message: `${peer.url}: stopped listening when it ended the connection, and may not have read all of our messages`,
    });
    expect(peer.bytes).toBe(0);
  });

  test.each([
    ['few', FEW, 'did not end the connection after our last message'],
    ['many', MANY, 'takes no more messages'],
  ])('takes the connection and never reads has got nothing: %s', async (_, entries, message) => {
    const peer = await fake(() => {});
    const made = transport(peer.url, { timing: TIMING });
    const some = messagesFor(made, entries);
    const messages = entries === MANY ? [some, some, some, some].flat() : some;
    const before = process.memoryUsage().external;
    const began = performance.now();
    const failed = failure(made.deliver(messages, NEVER));
    await sleep(700);
    // What the system took, which may not have been collected yet, and not the batch once more.
    expect(process.memoryUsage().external - before).toBeLessThan(16 * 1024 * 1024);
    expect((await failed).message).toContain(message);
    expect((await failed).reason).toBe('timeout');
    expect(performance.now() - began).toBeLessThan(6000);
  });

  test('reads all and never ends has got nothing, unless the sink asks for no more than a write', async () => {
    const peer = await fake((socket) => void socket.resume());
    expect(await failure(tries(peer.url))).toMatchObject({
      reason: 'timeout',
      message: `${peer.url}: did not end the connection after our last message (if it never does, set confirm to "write", which promises less) within 1500 ms`,
    });
    peer.bytes = 0;
    const made = transport(peer.url, { confirm: 'write', timing: TIMING });
    const messages = messagesFor(made, FEW);
    await made.deliver(messages, NEVER);
    await expect.poll(() => peer.bytes).toBe(messages.reduce((sum, { payload }) => sum + payload.length, 0));
    expect(await made.test(NEVER)).toContain('confirm is "write", so that is all it tells');
  });

  test('gets no more than a write, and resets, has got nothing', async () => {
    const peer = await fake((socket) => {
      socket.once('data', () => socket.resetAndDestroy());
      socket.resume();
    });
    expect(await failure(tries(peer.url, { confirm: 'write' }))).toMatchObject({ reason: 'unreachable' });
  });

  test('talks all the time is not believed, and costs no memory', async () => {
    const peer = await fake((socket) => {
      const talk = (): void => {
        while (!socket.destroyed && socket.write(Buffer.alloc(65_536))) {}
      };
      socket.on('drain', talk);
      talk();
    });
    expect(await failure(tries(peer.url))).toMatchObject({ reason: 'timeout' });
  });

  test('goes on where it was left when a delivery is stopped, or the sink closed', async () => {
    const peer = await fake(() => {});
    const stop = new AbortController();
    const made = transport(peer.url, { timing: TIMING });
    const messages = messagesFor(made, FEW);
    setTimeout(() => stop.abort(), 100);
    expect(await failure(made.deliver(messages, stop.signal))).toMatchObject({ reason: 'stopped' });
    expect(await failure(made.deliver(messages, stop.signal))).toMatchObject({ reason: 'stopped' });
    setTimeout(() => made.close(), 100);
    expect(await failure(made.deliver(messages, NEVER))).toMatchObject({ reason: 'stopped' });
    expect(await failure(made.test(NEVER))).toMatchObject({ reason: 'stopped' });
    expect(peer.connections).toBe(2);
  });

  test('is slow gets smaller batches, until they arrive in the time that there is', async () => {
    const peer = await fake(readAll);
    const wire = await startWire(peer.port);
    onTestFinished(() => wire.close());
    const made = transport(`tcp://127.0.0.1:${wire.port}`, { timing: { ...TIMING, stallMs: 300, confirmMs: 300 } });
    const first = made.batchBytesMax;
    wire.state = 'dead';
    const [message] = messagesFor(made, FEW);
    for (let i = 0; i < 4; i++) await failure(made.deliver([message!], NEVER));
    expect([first, made.batchBytesMax]).toEqual([1024 * 1024, 64 * 1024]);
    wire.state = 'slow';
    await deliverAll(made, messagesFor(made, MANY.slice(0, 600)), 3);
    wire.state = 'pass';
    for (let i = 0; i < 9; i++) await made.deliver([message!], NEVER);
    expect(made.batchBytesMax).toBe(16 * 1024 * 1024);
  });
});

describe('a way that', () => {
  test.each([
    ['is dead from the start', 0],
    ['goes dead in the middle', 200_000],
  ])('%s delivers nothing', async (_, bytes) => {
    const peer = await fake(readAll);
    const wire = await startWire(peer.port);
    onTestFinished(() => wire.close());
    wire.onBytes = (sum) => {
      if (sum > bytes) wire.state = 'dead';
      return undefined;
    };
    if (bytes === 0) wire.state = 'dead';
    const url = `tcp://127.0.0.1:${wire.port}`;
    expect(await failure(tries(url, {}, MANY.slice(0, 1000)))).toMatchObject({ reason: 'timeout' });
    wire.state = 'pass';
    wire.onBytes = () => undefined;
    await tries(url, {}, MANY.slice(0, 1000));
  });

  test('is cut delivers nothing', async () => {
    const peer = await fake(readAll);
    const wire = await startWire(peer.port);
    onTestFinished(() => wire.close());
    wire.onBytes = (sum) => (sum > 200_000 ? 'cut' : undefined);
    expect(await failure(tries(`tcp://127.0.0.1:${wire.port}`, {}, MANY.slice(0, 1000)))).toMatchObject({
      reason: 'unreachable',
    });
  });
});

describe('addresses', () => {
  const REFUSED: LookupFunction = guardedLookup(addressGuard([]), async () => [{ address: '127.0.0.1' }]);

  test.each(['tcp', 'tls', 'udp'])('that are not allowed get no packet: %s', async (protocol) => {
    const peer = await fake(readAll);
    const udp = createSocket('udp4').bind(peer.port, '127.0.0.1');
    await once(udp, 'listening');
    onTestFinished(() => void udp.close());
    let datagrams = 0;
    udp.on('message', () => {
      datagrams += 1;
    });
    const none = { lookup: REFUSED, allows: addressGuard([]).allows };
    for (const host of ['127.0.0.1', 'siem.example', '127.1']) {
      const made = transport(`${protocol}://${host}:${peer.port}`, none);
      const said = { reason: 'address_not_allowed', message: expect.stringContaining('SEALOG_ALLOW_ADDRESSES') };
      expect(await failure(made.deliver(messagesFor(made, FEW), NEVER))).toMatchObject(said);
      expect(await failure(made.test(NEVER))).toMatchObject(said);
    }
    await sleep(50);
    expect([peer.connections, datagrams]).toEqual([0, 0]);
  });

  test('of a name that are allowed are used, and of several the one that answers', async () => {
    const peer = await fake(readAll);
    const guard = addressGuard(['127.0.0.0/8']);
    const lookup = guardedLookup(guard, async () =>
      ['10.1.2.3', '127.9.9.9', '127.0.0.1'].map((address) => ({ address })),
    );
    await tries(`tcp://siem.example:${peer.port}`, { lookup });
    // The delivery, and whether it still listens.
    expect(peer.connections).toBe(2);
  });

  test('that are not found within the time are a failure', async () => {
    const lookup = guardedLookup(addressGuard([]), () => new Promise(() => {}));
    for (const protocol of ['tcp', 'tls', 'udp'])
      expect(
        await failure(tries(`${protocol}://siem.example:514`, { lookup, timing: { connectMs: 200 } })),
      ).toMatchObject({
        reason: 'timeout',
      });
  });

  test('may be of IPv6', async () => {
    const server = createServer({ allowHalfOpen: true }, readAll).listen(0, '::1');
    await once(server, 'listening');
    onTestFinished(() => void server.close());
    await tries(`tcp://[::1]:${(server.address() as AddressInfo).port}`);
  });
});

describe('UDP', () => {
  test('to a port where nobody listens is a failure, as far as that machine says so', async () => {
    const socket = createSocket('udp4').bind(0, '127.0.0.1');
    await once(socket, 'listening');
    const { port } = socket.address();
    await once(socket.close(), 'close');
    expect(await failure(tries(`udp://127.0.0.1:${port}`))).toMatchObject({
      reason: 'unreachable',
      message: `udp://127.0.0.1:${port}: nobody listens there (ECONNREFUSED)`,
    });
    expect(await failure(tries(`udp://127.0.0.1:${port}`, {}, FEW.slice(0, 1)))).toMatchObject({
      reason: 'unreachable',
    });
    expect(await failure(transport(`udp://127.0.0.1:${port}`).test(NEVER))).toMatchObject({ reason: 'unreachable' });
  });

  test('refuses what no datagram takes, and sends the rest', async () => {
    const socket = createSocket('udp4').bind(0, '127.0.0.1');
    await once(socket, 'listening');
    onTestFinished(() => void socket.close());
    const got: number[] = [];
    socket.on('message', (message) => got.push(message.length));
    const made = transport(`udp://127.0.0.1:${socket.address().port}`);
    const [one] = messagesFor(made, FEW);
    const fates = await made.deliver([one!, { ...one!, payload: new Uint8Array(65_508) }, one!], NEVER);
    expect(fates).toEqual([
      { kind: 'delivered' },
      { kind: 'refused', reason: 'the way there does not take a datagram of 65508 bytes' },
      { kind: 'delivered' },
    ]);
    await expect.poll(() => got).toEqual([one!.payload.length, one!.payload.length]);
  });

  test('is stopped in the middle', async () => {
    const socket = createSocket('udp4').bind(0, '127.0.0.1');
    await once(socket, 'listening');
    onTestFinished(() => void socket.close());
    const made = transport(`udp://127.0.0.1:${socket.address().port}`);
    setTimeout(() => made.close(), 50);
    expect(await failure(made.deliver(messagesFor(made, MANY.slice(0, 5000)), NEVER))).toMatchObject({
      reason: 'stopped',
    });
  });
});

describe('sizes', () => {
  const long = (bytes: number): ExportedEntry =>
    exportedEntry({
      ...(generateEvents({ seed: 9, count: 1 })[0] as object),
      details: { long: 'é'.repeat(bytes / 2) },
    } as never);

  test('are kept to what the sink says, and what was left out is named', () => {
    for (const url of ['udp://127.0.0.1:514', 'tcp://127.0.0.1:514']) {
      const made = transport(url);
      const max = SYSLOG_MAX_BYTES[url.slice(0, 3) as 'udp'];
      const message = Buffer.from(made.encode(long(50_000))).toString();
      expect(Buffer.byteLength(message)).toBeLessThanOrEqual(max + '8096 '.length);
      expect(JSON.parse(message.slice(message.indexOf('] ') + 2)).log.omitted).toContain('details');
    }
    const whole = transport('tcp://127.0.0.1:514', { maxBytes: 120_000 }).encode(long(50_000));
    expect(whole.length).toBeGreaterThan(50_000);
  });

  test('that no form of an entry keeps to are an error of that entry', () => {
    const made = transport('tcp://127.0.0.1:514', { maxBytes: 480 });
    expect(() => made.encode(long(5000))).toThrow(TooLongError);
  });
});

// ---- Receivers that are hurt ----

/** Seq by seq, the hashes with which it arrived, in the order of arrival; also from lines that a kill tore. */
function arrivedOf(
  receiver: Receiver,
  door: Door,
): { readonly order: readonly number[]; readonly hashes: Map<number, string> } {
  const order: number[] = [];
  const hashes = new Map<number, string>();
  for (const [, seq, hash] of receiver.text(door).matchAll(/stream="[^"]*" seq="(\d+)" hash="([0-9a-f]{64})"/g)) {
    const number = Number(seq);
    // Duplicates are the same entry.
    if (!hashes.has(number)) order.push(number);
    else if (hashes.get(number) !== hash) expect(hash).toBe(hashes.get(number));
    hashes.set(number, hash!);
  }
  return { order, hashes };
}

interface Ordeal {
  readonly failures: readonly TransportError[];
  readonly deliveredAt: Map<number, number>;
}

/** Delivers all entries in batches of `batchSize`, each until it is delivered, while `disturb` does its worst. */
async function underFire(
  made: Transport,
  entries: readonly ExportedEntry[],
  batchSize: number,
  disturb: (isOver: () => boolean) => Promise<void>,
): Promise<Ordeal> {
  const failures: TransportError[] = [];
  const deliveredAt = new Map<number, number>();
  let isOver = false;
  const disturbed = disturb(() => isOver);
  const messages = messagesFor(made, entries);
  for (let from = 0; from < messages.length; ) {
    const batch = messages.slice(from, from + batchSize);
    try {
      await made.deliver(batch, NEVER);
      for (const { seq } of batch) deliveredAt.set(seq, performance.now());
      from += batch.length;
    } catch (error) {
      expect(error).toBeInstanceOf(TransportError);
      failures.push(error as TransportError);
      await sleep(50);
    }
  }
  isOver = true;
  await disturbed;
  return { failures, deliveredAt };
}

/** Holds that all arrived, the first time in order, with the hashes that they have. */
function expectAll(
  receiver: Receiver,
  door: Door,
  entries: readonly ExportedEntry[],
  lost: ReadonlySet<number> = new Set(),
) {
  const { order, hashes } = arrivedOf(receiver, door);
  const wanted = entries.map(({ entry }) => entry.record.seq).filter((seq) => !lost.has(seq));
  expect(order.filter((seq) => !lost.has(seq))).toEqual(wanted);
  for (const { entry } of entries) {
    const hash = hashes.get(entry.record.seq);
    if (!lost.has(entry.record.seq) && hash !== entry.hash) expect(hash).toBe(entry.hash);
  }
}

withReceivers.each(someOf(RECEIVERS))('%s, hurt:', (kind) => {
  const doors = HARD ? (['octets', 'tls'] as const) : (['octets'] as const);
  const entries = MOST.slice(0, 12_000);
  /** For what takes long. */
  const some = entries.slice(0, HARD ? 12_000 : 5000);
  const times = HARD ? 10 : 3;
  const options: Options = { format: 'cef', timing: TIMING };

  async function started(more: ReceiverOptions = {}): Promise<Receiver> {
    const receiver = await startReceiver(kind, { tls: receiverTls, ...more });
    onTestFinished(() => receiver.stop());
    return receiver;
  }

  test.each(doors)(
    'stopped and started again, over and over, nothing is missing: %s',
    { timeout: 180_000 },
    async (door) => {
      const receiver = await started(kind === 'rsyslog' ? { driver: 'ossl' } : {});
      const made = transportTo(receiver, door, options);
      let stops = 0;
      const { failures } = await underFire(made, some, 1500, async (isOver) => {
        const random = seededRandom(door.length);
        while (!isOver() && stops < times) {
          await sleep(random() * 150);
          // Full buffers, so that it has much to read when it is told to end.
          receiver.signal('SIGSTOP');
          await sleep(100);
          await receiver.end('SIGTERM');
          stops += 1;
          await receiver.again();
        }
      });
      expect(stops).toBeGreaterThan(1);
      expect(failures.length).toBeGreaterThan(0);
      await sleep(300);
      expectAll(receiver, door, some);
    },
  );

  test.each(doors)(
    'killed over and over, nothing is missing but what it had read: %s',
    { timeout: 180_000 },
    async (door) => {
      const receiver = await started();
      const made = transportTo(receiver, door, options);
      const kills: number[] = [];
      const { failures, deliveredAt } = await underFire(made, some, 500, async (isOver) => {
        const random = seededRandom(door.length + 7);
        while (!isOver() && kills.length < times) {
          await sleep(50 + random() * 300);
          await receiver.end('SIGKILL');
          kills.push(performance.now());
          await receiver.again();
        }
      });
      expect(failures.length).toBeGreaterThan(0);
      await sleep(300);
      const { hashes } = arrivedOf(receiver, door);
      const lost = new Set([...deliveredAt.keys()].filter((seq) => !hashes.has(seq)));
      process.stderr.write(
        `${kind}, ${door}: killed ${kills.length} times, ${lost.size} of ${some.length} lost in it\n`,
      );
      // It had them in its memory: the end of the connection came, and the kill before it wrote them.
      for (const seq of lost) {
        const when = deliveredAt.get(seq)!;
        expect(kills.some((kill) => kill > when - 2000 && kill < when + 1000)).toBe(true);
      }
      expectAll(receiver, door, some, lost);
    },
  );

  test.each(doors)(
    'told to stop with a batch in its buffers, has not got what it did not read: %s',
    { timeout: 60_000 },
    async (door) => {
      const receiver = await started(kind === 'rsyslog' ? { driver: 'ossl' } : {});
      const made = transportTo(receiver, door);
      // Short, so that more of them wait in the buffers than it reads at once.
      const messages = entries.map((exported) => {
        const { record, hash } = exported.entry;
        const text = `<110>1 ${record.recordedAt} a sealog - - [sealog@32473 stream="s" seq="${record.seq}" hash="${hash}"] -`;
        return entryMessage(exported, Buffer.from(`${text.length} ${text}`));
      });
      let incomplete = 0;
      for (const count of [6000, 8000, 10_000, 12_000]) {
        receiver.forget(door);
        // From when the first message is about to be written, which is the second time that it is looked at, it can not read.
        let looks = 0;
        const first = {
          ...messages[0]!,
          get payload() {
            looks += 1;
            if (looks === 2) receiver.signal('SIGSTOP');
            return messages[0]!.payload;
          },
        };
        const fate = made.deliver([first, ...messages.slice(1, count)], NEVER).then(
          () => 'delivered',
          (error: TransportError) => error.reason,
        );
        await sleep(400);
        await receiver.end('SIGTERM');
        const arrived = arrivedOf(receiver, door).order.length;
        if (arrived < count) incomplete += 1;
        expect([await fate, arrived]).toEqual([arrived < count ? 'unreachable' : expect.any(String), arrived]);
        await receiver.again();
      }
      // syslog-ng reads on for a while when it is told to stop, now and then all of this.
      if (kind === 'rsyslog') expect(incomplete).toBeGreaterThan(0);
    },
  );

  test.each(doors)('frozen for longer than all waits, nothing is missing: %s', { timeout: 60_000 }, async (door) => {
    const receiver = await started();
    const made = transportTo(receiver, door, options);
    const { failures } = await underFire(made, entries.slice(0, 4000), 1000, async () => {
      await sleep(20);
      receiver.signal('SIGSTOP');
      await sleep(4000);
      receiver.signal('SIGCONT');
    });
    expect(failures.map(({ reason }) => reason)).toContain('timeout');
    await sleep(500);
    expectAll(receiver, door, entries.slice(0, 4000));
  });

  test.each(doors)('cut off again and again, nothing is missing: %s', { timeout: 60_000 }, async (door) => {
    const receiver = await started();
    const wire = await startWire(receiver.ports[door]);
    onTestFinished(() => wire.close());
    const made = transport(`${door === 'tls' ? 'tls' : 'tcp'}://127.0.0.1:${wire.port}`, options);
    const random = seededRandom(11);
    let cuts = 0;
    let at = 1_000_000;
    wire.onBytes = (bytes) => {
      if (cuts >= 2 * times || bytes < at) return undefined;
      cuts += 1;
      at = random() * 1_500_000;
      if (cuts % 3 !== 0) return 'cut';
      wire.state = 'dead';
      setTimeout(() => {
        wire.cut();
        wire.state = 'pass';
      }, 2000);
      return undefined;
    };
    const { failures } = await underFire(made, some, 2000, async () => {});
    expect(failures.length).toBeGreaterThanOrEqual(2 * times);
    await sleep(300);
    expectAll(receiver, door, some);
  });

  test('that takes less than the sink sends is found by a test', { timeout: 60_000 }, async () => {
    const receiver = await started({ maxBytes: 65_536 });
    const made = transportTo(receiver, 'octets', { ...options, maxBytes: 100_000 });
    if (kind === 'rsyslog') {
      // It cuts, and says nothing: what it was told to take must be no less than what the sink sends.
      await made.test(NEVER);
      expect((await receiver.received('octets', 2))[1]!.text.length).toBeLessThan(66_000);
      return;
    }
    expect(await failure(made.test(NEVER))).toMatchObject({
      reason: 'unreachable',
      message: expect.stringContaining('ended the connection before we did'),
    });
  });

  test('as it is installed takes what a sink sends unless it is told otherwise', async () => {
    const receiver = await started({ maxBytes: null });
    for (const door of ['udp', 'octets', 'lf', 'tls'] as const) {
      await transportTo(receiver, door, { timing: { ...TIMING, quietMs: 50 } }).test(NEVER);
      const [short, long, ...more] = await receiver.received(door, 2);
      expect(more).toEqual([]);
      expect(long!.structuredData).toBe(short!.structuredData);
      expect(long!.text.trimEnd()).toBe(short!.text);
      const header = SYSLOG_MAX_BYTES[door === 'udp' ? 'udp' : 'tcp'] - long!.text.length;
      expect(header).toBeLessThan(400);
    }
  });

  test('that is spoken to in the other framing', async () => {
    const receiver = await started();
    const wrong = transportTo(receiver, 'octets', { ...options, framing: 'lf' });
    // rsyslog reads both; syslog-ng ends the connection.
    if (kind === 'rsyslog') await wrong.test(NEVER);
    else expect((await failure(wrong.test(NEVER))).message).toContain('ended the connection before we did');
    if (kind === 'syslog-ng')
      expect((await failure(tries(`tcp://127.0.0.1:${receiver.ports.octets}`, { framing: 'lf' }))).reason).toBe(
        'unreachable',
      );
  });
});

describe('TLS', () => {
  async function files(
    name: string,
    request: Partial<Parameters<TlsAuthority['issue']>[0]> = {},
  ): Promise<{ cert: string; key: string }> {
    const made: TlsFiles = await authority.issue({
      name,
      names: 'DNS:localhost,IP:127.0.0.1',
      purpose: 'server',
      ...request,
    });
    return { cert: text(made.cert), key: text(made.key) };
  }
  const LOCAL: LookupFunction = guardedLookup(addressGuard(['127.0.0.0/8']), async () => [{ address: '127.0.0.1' }]);

  test.each([
    ['of another name', { names: 'DNS:other.example' }, 'ERR_TLS_CERT_ALTNAME_INVALID'],
    ['that has expired', { valid: [-20, -10] as [number, number] }, 'CERT_HAS_EXPIRED'],
    ['that is for clients', { purpose: 'client' as const }, 'INVALID_PURPOSE'],
  ])('refuses a certificate %s', async (_, request, code) => {
    const peer = await fake(readAll, await files(`bad-${code}`.toLowerCase(), request));
    const error = await failure(tries(peer.url));
    expect(error).toMatchObject({ reason: 'unauthorized', message: expect.stringContaining(code) });
    expect(peer.bytes).toBe(0);
  });

  test('refuses a certificate of an authority that the sink does not name', async () => {
    const peer = await fake(readAll, await files('good-1'));
    expect(await failure(tries(peer.url, { tls: {} }))).toMatchObject({ reason: 'unauthorized' });
    expect(await failure(transport(peer.url, { tls: {} }).test(NEVER))).toMatchObject({ reason: 'unauthorized' });
    expect(peer.bytes).toBe(0);
  });

  test('holds the certificate to the name of the host, or to the one that the sink says', async () => {
    const peer = await fake(readAll, await files('good-2', { names: 'DNS:siem.example' }));
    await tries(`tls://siem.example:${peer.port}`, { lookup: LOCAL });
    await tries(peer.url, { tls: { caPem, serverName: 'siem.example' } });
    for (const [url, tls] of [
      [`tls://siem2.example:${peer.port}`, { caPem }],
      [`tls://siem.example:${peer.port}`, { caPem, serverName: 'other.example' }],
      [peer.url, { caPem }],
    ] as const)
      expect(await failure(tries(url, { tls, lookup: LOCAL }))).toMatchObject({ reason: 'unauthorized' });
  });

  test('does not speak a version before 1.2', async () => {
    const old = {
      ...(await files('good-3')),
      minVersion: 'TLSv1' as const,
      maxVersion: 'TLSv1.1' as const,
      ciphers: 'DEFAULT@SECLEVEL=0',
    };
    const peer = await fake(readAll, old);
    expect(await failure(tries(peer.url))).toMatchObject({ reason: 'unauthorized' });
    const fit = await fake(readAll, { ...(await files('good-4')), maxVersion: 'TLSv1.2' });
    expect(await transport(fit.url).test(NEVER)).toContain('over TLSv1.2');
  });

  test.each([
    ['tls', 'tcp', /ended the connection|reset|wants TLS/],
    ['tcp', 'tls', /does not speak TLS|ended the connection|reset|no connection with TLS/],
  ] as const)('a receiver that speaks %s is not spoken to in %s', async (theirs, ours, said) => {
    const peer = await fake(readAll, theirs === 'tls' ? await files('good-5') : undefined);
    const url = `${ours}://127.0.0.1:${peer.port}`;
    expect((await failure(tries(url))).message).toMatch(said);
  });

  test('does not believe a signed end that comes in the middle of a batch', async () => {
    const peer = await fake(
      (socket) => {
        setTimeout(() => socket.end(() => socket.destroy()), 400);
      },
      await files('good-7'),
    );
    const error = await failure(tries(peer.url, { timing: { ...TIMING, quietMs: 50 } }, MANY.slice(0, 1500)));
    expect(error.reason).toBe('unreachable');
    expect(error.message).toContain('may not have read all of our messages');
  });

  test('asks for a signed end where the sink says so', async () => {
    const signs = await fake(readAll, await files('good-6'));
    await tries(signs.url, { confirm: 'close-notify' });
    expect(await transport(signs.url, { confirm: 'close-notify' }).test(NEVER)).toContain('with close_notify');
  });

  withReceivers('of real receivers', () => {
    let receivers: Receiver[] = [];
    beforeAll(async () => {
      receivers = [
        await startReceiver('rsyslog', { tls: receiverTls, driver: 'gtls' }),
        await startReceiver('rsyslog', { tls: receiverTls, driver: 'ossl' }),
        await startReceiver('syslog-ng', { tls: receiverTls }),
      ];
    });
    afterAll(async () => {
      for (const receiver of receivers) await receiver.stop();
    });

    test('refuses us without a certificate, or with one of somebody else, and then nothing is delivered', async () => {
      const other = await startTlsAuthority();
      onTestFinished(() => other.stop());
      const stranger = await other.issue({ name: 'stranger', names: 'DNS:sealog', purpose: 'client' });
      for (const receiver of receivers) {
        const url = `tls://127.0.0.1:${receiver.ports.mutual}`;
        const wrong = { caPem, certPem: text(stranger.cert), keyPem: text(stranger.key) };
        for (const tls of [{ caPem }, wrong])
          for (const entries of [FEW.slice(0, 1), FEW, MANY.slice(0, 5000)]) {
            for (const confirm of ['close', 'write'] as const) {
              const error = await failure(tries(url, { tls, confirm }, entries));
              expect(['unauthorized', 'unreachable']).toContain(error.reason);
            }
          }
        expect((await failure(transport(url, { tls: { caPem } }).test(NEVER))).reason).toMatch(
          /unauthorized|unreachable/,
        );
        expect(await receiver.received('mutual')).toEqual([]);
        await tries(url, { tls: { caPem, ...client } });
        expect(await receiver.received('mutual', FEW.length)).toHaveLength(FEW.length);
      }
    });

    test('says who signs his end: rsyslog with GnuTLS does not', async () => {
      const [gnutls, openssl, syslogNg] = receivers;
      for (const receiver of [openssl!, syslogNg!])
        expect(await transportTo(receiver, 'tls', { confirm: 'close-notify' }).test(NEVER)).toContain(
          'with close_notify',
        );
      expect(await transportTo(gnutls!, 'tls').test(NEVER)).toContain('without close_notify');
      expect(await failure(transportTo(gnutls!, 'tls', { confirm: 'close-notify' }).test(NEVER))).toMatchObject({
        reason: 'unauthorized',
        message: expect.stringContaining('use OpenSSL there, or set confirm to "close"'),
      });
    });

    test('and plain TCP are not taken for each other', async () => {
      for (const receiver of receivers) {
        const { octets, tls } = receiver.ports;
        await failure(tries(`tcp://127.0.0.1:${tls}`));
        await failure(tries(`tls://127.0.0.1:${octets}`, { timing: { ...TIMING, connectMs: 500 } }));
        expect(await receiver.received('tls')).toEqual(
          expect.not.arrayContaining([expect.objectContaining({ msgId: FEW[0]!.entry.record.action })]),
        );
      }
    });
  });
});

describe("a sink's configuration", () => {
  const good = { url: 'tls://siem.example.com:6514' };

  test('is read with all its members', () => {
    const read = readSyslogSink({
      ...good,
      format: 'cef',
      framing: 'lf',
      confirm: 'close-notify',
      facility: 10,
      enterprise: 4711,
      hostname: 'log.example.com',
      maxBytes: 65_536,
      tlsServerName: 'siem',
      tlsCa: caPem,
      tlsCert: client.certPem,
      tlsKey: client.keyPem,
    });
    expect(read).toHaveProperty('config');
    const guard = addressGuard([]);
    const deps = { hostname: 'other', lookup: guardedLookup(guard), allows: guard.allows };
    const made = (read as { config: { open(given: typeof deps): Transport } }).config.open(deps);
    expect(Buffer.from(made.encode(FEW[0]!)).toString()).toMatch(
      /^<8\d>1 \S+ log\.example\.com sealog - \S+ \[sealog@4711 .* CEF:0\|.*\n$/s,
    );
  });

  test.each([
    ['udp://10.0.0.7:514', undefined],
    ['tcp://[2001:db8::7]:601', undefined],
    ['tls://siem.example.com.:6514', undefined],
    ['tls://siem.example.com', 'url'],
    ['tls://siem.example.com:0', 'url'],
    ['tls://siem.example.com:65536', 'url'],
    ['tls://siem.example.com:6514/x', 'url'],
    ['tls://user:word@siem.example.com:6514', 'url'],
    ['tls://siem.example.com:6514?x', 'url'],
    ['tls://[10.0.0.7]:6514', 'url'],
    ['tls://[::1%eth0]:6514', 'url'],
    ['tls://a b:6514', 'url'],
    ['tls://a\n:6514', 'url'],
    ['https://siem.example.com:6514', 'url'],
    ['', 'url'],
    [undefined, 'url'],
    [7, 'url'],
  ])('%s', (url, field) => {
    const read = readSyslogSink({ url });
    expect('errors' in read ? read.errors.map((error) => error.field) : undefined).toEqual(
      field === undefined ? undefined : [field],
    );
  });

  test.each([
    [{ url: 'udp://a:514', framing: 'lf', confirm: 'close', maxBytes: 70_000 }, ['framing', 'confirm', 'maxBytes']],
    [{ url: 'tcp://a:514', confirm: 'close-notify', tlsServerName: 'b' }, ['tlsServerName', 'confirm']],
    [{ ...good, tlsKey: 'x' }, ['tlsKey']],
    [
      { ...good, facility: 24, enterprise: 0, maxBytes: 479, format: 'csv', framing: 'crlf', more: 1 },
      ['more', 'format', 'framing', 'facility', 'enterprise', 'maxBytes'],
    ],
  ])('tells all that is wrong: %j', (given, fields) => {
    const read = readSyslogSink(given);
    expect('errors' in read ? read.errors.map(({ field }) => field) : []).toEqual(fields);
  });
});
