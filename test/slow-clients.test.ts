/**
 * Clients that take their time: each way to be slow ends when it is said to, in the clear and over TLS, and nobody else waits for it.
 *
 * The times are those of the service, shortened. What counts is when the server lets go of the connection, not when the client hears of it.
 */
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { Agent, request as httpRequest } from 'node:http';
import { request as httpsRequest, Agent as TlsAgent } from 'node:https';
import { connect, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { connect as tlsConnect } from 'node:tls';
import type { FastifyInstance } from 'fastify';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { closeServer, createServer, DEFAULT_LIMITS, type ServerLimits } from '../src/http/server.ts';
import { ServerTls } from '../src/http/tls.ts';
import { selfSigned } from './support/certificates.ts';
import { listen } from './support/http.ts';
import { someOf } from './support/short-form.ts';
import { withoutOpenssl } from './support/time-stamp-authority.ts';

const LIMITS = {
  handshakeTimeoutMs: 600,
  headersTimeoutMs: 500,
  requestTimeoutMs: 1000,
  keepAliveTimeoutMs: 300,
  answerGraceMs: 700,
  // So that the grace is what is seen.
  answerBytesPerSecondMin: 1024 * 1024 * 1024,
  checkIntervalMs: 50,
} satisfies Partial<ServerLimits>;
/** Node's, on top of the announced time. */
const KEEP_ALIVE_BUFFER_MS = 1000;
/** What a machine that other tests share may add. */
const LATE_MS = 2000;

const BIG = Buffer.alloc(24 * 1024 * 1024, 'x');
const GET = 'GET /things HTTP/1.1\r\nhost: x\r\n\r\n';
const POST = 'POST /things HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n';

let folder: string;
let files: { cert: string; key: string };
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'sealog-test-slow-'));
  if (withoutOpenssl === undefined) files = await selfSigned(folder);
});
afterAll(() => rm(folder, { recursive: true, force: true }));

let app: FastifyInstance;
let port: number;
let tls: ServerTls | undefined;
/** Connections that the server has, and for how long each lived. */
let open: number;
let lives: number[];
let longest: number;
afterEach(async () => {
  tls?.stop();
  await closeServer(app, 100);
});

async function start(secured: boolean, limits: Partial<ServerLimits> = {}): Promise<void> {
  const log = { info() {}, warn() {}, error() {} };
  tls = secured ? await ServerTls.open({ files: { ...files, clientCa: undefined }, log }) : undefined;
  app = createServer({ log, tls, limits: { ...LIMITS, ...limits } });
  const config = { permission: 'public' as const };
  app.get('/things', { config }, async () => ({ things: [] }));
  app.post('/things', { config }, async () => ({ done: true }));
  app.get('/big', { config }, async (_request, reply) => reply.send(BIG));
  app.get('/late', { config }, async () => delay(2500).then(() => ({ late: true })));
  port = await listen(app);
  open = 0;
  lives = [];
  longest = 0;
  app.server.on('connection', (socket) => {
    const begin = performance.now();
    open += 1;
    socket.once('close', () => {
      open -= 1;
      const life = performance.now() - begin;
      lives.push(life);
      longest = Math.max(longest, life);
    });
  });
}

interface Line {
  /** What requests go over. */
  readonly line: Socket;
  /** What that goes over. */
  readonly raw: Socket;
}

async function dial(): Promise<Line> {
  const raw = connect(port, '127.0.0.1');
  raw.on('error', () => {});
  if (tls === undefined) {
    await once(raw, 'connect');
    return { line: raw, raw };
  }
  const line = tlsConnect({ socket: raw, rejectUnauthorized: false });
  line.on('error', () => {});
  await once(line, 'secureConnect');
  return { line, raw };
}

function drip(socket: Socket, text: string, everyMs = 60): void {
  const timer = setInterval(() => (socket.writable ? socket.write(text) : clearInterval(timer)), everyMs);
  socket.once('close', () => clearInterval(timer));
}

/** Takes nothing any more of what arrives: the window closes. */
function stopReading({ raw }: Line): void {
  (raw as unknown as { _handle: { readStop(): void } })._handle.readStop();
}

/** Takes a little now and then. */
function readSlowly(line: Line, everyMs = 120): void {
  const handle = (line.raw as unknown as { _handle: { readStart(): void } | null })._handle;
  const timer = setInterval(() => {
    if (line.raw.destroyed) return clearInterval(timer);
    handle?.readStart();
    setTimeout(() => !line.raw.destroyed && stopReading(line), 1);
  }, everyMs);
  stopReading(line);
  line.raw.once('close', () => clearInterval(timer));
}

/** Waits until the server has let go of every connection, and returns how long the longest lived. */
async function letGo(count = 1, maxMs = 20_000): Promise<number> {
  const begin = performance.now();
  while (lives.length < count && performance.now() - begin < maxMs) await delay(10);
  expect({ open, closed: lives.length }).toEqual({ open: 0, closed: count });
  return longest;
}

function expectBetween(ms: number, least: number, most: number): void {
  expect(ms).toBeGreaterThan(least);
  expect(ms).toBeLessThan(most + LATE_MS);
}

const { handshakeTimeoutMs, headersTimeoutMs, requestTimeoutMs, keepAliveTimeoutMs, answerGraceMs } = LIMITS;
const idleMs = keepAliveTimeoutMs + KEEP_ALIVE_BUFFER_MS;

/** Name, what it does once it is connected, and when it is cut: not before, and not after. */
const SLOW: readonly (readonly [name: string, act: (line: Line) => void, leastMs: number, mostMs: number])[] = [
  ['no byte at all', ({ line }) => void line.resume(), headersTimeoutMs - 100, headersTimeoutMs],
  [
    'headers that do not end',
    ({ line }) => {
      line.resume();
      line.write('GET /things HTTP/1.1\r\nhost: x\r\n');
      drip(line, 'x: y\r\n');
    },
    headersTimeoutMs - 100,
    headersTimeoutMs,
  ],
  [
    'a request line that does not end',
    ({ line }) => {
      line.resume();
      line.write('GET /');
      drip(line, 'x');
    },
    headersTimeoutMs - 100,
    headersTimeoutMs,
  ],
  [
    'a body that does not end',
    ({ line }) => {
      line.resume();
      line.write(`${POST}content-length: 10000\r\n\r\n`);
      drip(line, ' ');
    },
    requestTimeoutMs - 100,
    requestTimeoutMs,
  ],
  [
    'a body of which nothing comes',
    ({ line }) => {
      line.resume();
      line.write(`${POST}content-length: 10000\r\n\r\n`);
    },
    requestTimeoutMs - 100,
    requestTimeoutMs,
  ],
  [
    'a body in chunks that does not end',
    ({ line }) => {
      line.resume();
      line.write(`${POST}transfer-encoding: chunked\r\n\r\n`);
      drip(line, '1\r\nx\r\n');
    },
    requestTimeoutMs - 100,
    requestTimeoutMs,
  ],
  [
    'nothing behind an answer',
    ({ line }) => {
      line.resume();
      line.write(GET);
    },
    idleMs - 100,
    idleMs,
  ],
  [
    'a second request that does not end',
    ({ line }) => {
      line.resume();
      line.write(GET);
      line.once('data', () => {
        line.write('GET /');
        drip(line, 'x');
      });
    },
    headersTimeoutMs - 100,
    headersTimeoutMs + 100,
  ],
  [
    'line breaks behind an answer, which are no request',
    ({ line }) => {
      line.resume();
      line.write(GET);
      drip(line, '\r\n', 100);
    },
    idleMs,
    idleMs + headersTimeoutMs + 100,
  ],
  [
    'an answer that is not read',
    (line) => {
      line.line.write('GET /big HTTP/1.1\r\nhost: x\r\n\r\n');
      stopReading(line);
    },
    answerGraceMs - 100,
    answerGraceMs + 200,
  ],
  [
    'an answer that is read a little at a time',
    (line) => {
      line.line.resume();
      line.line.write('GET /big HTTP/1.1\r\nhost: x\r\n\r\n');
      readSlowly(line);
    },
    answerGraceMs - 100,
    answerGraceMs + 200,
  ],
  [
    'many requests whose answers are not read',
    (line) => {
      stopReading(line);
      line.line.write('GET /big HTTP/1.1\r\nhost: x\r\n\r\n'.repeat(50));
      drip(line.line, GET);
    },
    answerGraceMs - 100,
    answerGraceMs + 200,
  ],
  [
    'what is no HTTP, with the refusal not read',
    (line) => {
      stopReading(line);
      line.line.write('nonsense\r\n\r\n');
    },
    0,
    1000,
  ],
];

const CROWDED = someOf([false, true]);

for (const secured of [false, true]) {
  describe.skipIf(secured && withoutOpenssl !== undefined)(secured ? 'over TLS' : 'in the clear', () => {
    it.each(SLOW)('is cut: %s', async (_name, act, leastMs, mostMs) => {
      await start(secured);
      const line = await dial();
      act(line);
      const ms = await letGo();
      line.raw.destroy();
      expectBetween(ms, leastMs, mostMs);
      await honestWorks();
    });

    it('is not cut: who reads fast enough, however much it is', async () => {
      await start(secured, { answerGraceMs: 100, answerBytesPerSecondMin: 1024 * 1024 });
      const { line, raw } = await dial();
      let length = 0;
      line.on('data', (chunk: Buffer) => {
        const before = Math.floor(length / 2 ** 20);
        length += chunk.length;
        // Always behind, at 10 MiB a second and less.
        if (length < BIG.length && Math.floor(length / 2 ** 20) > before) {
          line.pause();
          setTimeout(() => line.resume(), 100);
        }
      });
      line.write('GET /big HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n');
      await once(line, 'close');
      expect(length).toBeGreaterThan(BIG.length);
      raw.destroy();
    });

    it('is not cut: who waits long for us', async () => {
      await start(secured);
      expect(await ask('/late')).toBe('{"late":true}');
    });

    it.runIf(CROWDED.includes(secured))(
      'all of 2,000 idle connections are cut in time, and honest clients are served meanwhile',
      async () => {
        // All of one process: what is measured is the time between two, and not who computes the handshakes.
        await start(secured, { handshakeTimeoutMs: 3000, headersTimeoutMs: 2500, requestTimeoutMs: 2600 });
        const count = 2000;
        const idle: Socket[] = [];
        const begin = performance.now();
        for (let i = 0; i < count; i += 1) {
          const socket = connect(port, '127.0.0.1');
          socket.on('error', () => {});
          socket.resume();
          // A third says nothing, a third begins something, a third drips.
          if (i % 3 === 1) socket.write(secured ? '\x16\x03\x01' : 'GET / HTTP/1.1\r\n');
          if (i % 3 === 2) drip(socket, secured ? '\x16' : 'x', 500);
          idle.push(socket);
          if (i % 100 === 99) await delay(1);
        }
        const agent = secured ? new TlsAgent({ keepAlive: true }) : new Agent({ keepAlive: true });
        const times: number[] = [];
        while (open > 1 || lives.length < count) {
          const asked = performance.now();
          expect(await ask('/things', agent)).toBe('{"things":[]}');
          times.push(performance.now() - asked);
          if (performance.now() - begin > 20_000) break;
          await delay(5);
        }
        agent.destroy();
        expect(lives.length).toBeGreaterThanOrEqual(count);
        // What is no TLS is cut at once; the rest in its time.
        expect(longest).toBeLessThan(3000 + LATE_MS + 1000);
        times.sort((a, b) => a - b);
        expect(times.length).toBeGreaterThan(20);
        expect(times[Math.floor(times.length * 0.95)]).toBeLessThan(500);
        for (const socket of idle) socket.destroy();
      },
    );
  });
}

describe.skipIf(withoutOpenssl !== undefined)('in the TLS handshake', () => {
  /** The beginning of a ClientHello of 512 bytes. */
  const HELLO = Buffer.from('1603010200010001fc0303', 'hex');

  it.each<[string, (socket: Socket) => void]>([
    ['no byte at all', () => {}],
    ['a beginning, and no more', (socket) => void socket.write(HELLO)],
    [
      'one byte after another',
      (socket) => {
        socket.write(HELLO);
        drip(socket, '\x01', 40);
      },
    ],
  ])('is cut: %s', async (_name, act) => {
    await start(true);
    const socket = connect(port, '127.0.0.1');
    socket.on('error', () => {});
    socket.resume();
    act(socket);
    expectBetween(await letGo(), handshakeTimeoutMs - 100, handshakeTimeoutMs);
    await honestWorks();
  });

  it('is cut at once: what is no TLS', async () => {
    await start(true);
    const socket = connect(port, '127.0.0.1');
    const heard: Buffer[] = [];
    socket.on('error', () => {});
    socket.on('data', (chunk) => heard.push(chunk));
    socket.write(GET);
    expect(await letGo()).toBeLessThan(LATE_MS);
    expect(Buffer.concat(heard).toString('latin1')).not.toContain('HTTP/');
  });

  it('does not keep the service from stopping', async () => {
    await start(true, { handshakeTimeoutMs: 20_000 });
    const sockets = [1, 2, 3].map(() => connect(port, '127.0.0.1'));
    for (const socket of sockets) socket.on('error', () => {});
    while (open < 3) await delay(5);
    const begin = performance.now();
    await closeServer(app, 5000);
    expect(performance.now() - begin).toBeLessThan(LATE_MS);
    for (const socket of sockets) socket.destroy();
  });
});

it('the times of the service fit each other', () => {
  const limits = DEFAULT_LIMITS;
  // Node swaps these two otherwise.
  expect(limits.headersTimeoutMs).toBeLessThan(limits.requestTimeoutMs);
  expect(limits.checkIntervalMs).toBeLessThanOrEqual(1000);
  expect(limits.handshakeTimeoutMs).toBeLessThanOrEqual(5000);
});

async function honestWorks(): Promise<void> {
  expect(await ask('/things')).toBe('{"things":[]}');
}

function ask(path: string, agent?: Agent | TlsAgent): Promise<string> {
  return new Promise((resolve, reject) => {
    const where = { port, host: '127.0.0.1', path, agent: agent ?? (false as const) };
    const request =
      tls === undefined
        ? httpRequest(where)
        : httpsRequest({ ...where, agent: (agent as TlsAgent | undefined) ?? false, rejectUnauthorized: false });
    request.once('error', reject);
    request.once('response', async (response) => {
      resolve(Buffer.concat(await response.toArray()).toString());
    });
    request.end();
  });
}
