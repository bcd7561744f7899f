/** Outgoing calls: where they go and where never, how they end, and that they tell nothing they should not. */
import { execFileSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { createServer, type RequestListener, type Server } from 'node:http';
import { createServer as createTlsServer } from 'node:https';
import { type AddressInfo, createServer as createTcpServer, type Socket, type Server as TcpServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { TLSSocket } from 'node:tls';
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest';
import { addressGuard, cidrProblem } from '../src/http/address-guard.ts';
import {
  type Calls,
  type KeepOptions,
  type Outgoing,
  OutgoingError,
  type OutgoingOptions,
  outgoing,
  urlProblem,
} from '../src/http/outgoing.ts';

const LOOPBACK = ['127.0.0.0/8', '::1/128'];
const LIMITS = { timeoutMs: 5000, answerBytesMax: 10_000 };
const BODY = Buffer.from('question');

function client(allowAddresses: readonly string[] = LOOPBACK, more: Partial<OutgoingOptions> = {}): Outgoing {
  const one = outgoing({ allowAddresses, log: { debug: () => {}, warn: () => {} }, ...more });
  onTestFinished(() => one.close());
  return one;
}

/** Listens on a free port, and counts the connections. */
async function listen<S extends Server | TcpServer>(
  server: S,
  host = '127.0.0.1',
): Promise<{ port: number; connections: number }> {
  const state = { port: 0, connections: 0 };
  const sockets = new Set<Socket>();
  server.on('connection', (socket: Socket) => {
    state.connections += 1;
    sockets.add(socket);
    socket.on('close', () => sockets.delete(socket));
    socket.on('error', () => {});
  });
  server.listen(0, host);
  await once(server, 'listening');
  state.port = (server.address() as AddressInfo).port;
  onTestFinished(async () => {
    for (const socket of sockets) socket.destroy();
    server.close();
    await once(server, 'close');
  });
  return state;
}

const serve = (listener: RequestListener, host?: string) => listen(createServer(listener), host);

/** A server that answers every connection with these bytes, and leaves it open unless `end`. */
function raw(bytes: string, end = false) {
  return listen(
    createTcpServer((socket) => {
      socket.once('data', () => (end ? socket.end(bytes) : socket.write(bytes)));
    }),
  );
}

async function failure(work: Promise<unknown>): Promise<OutgoingError> {
  const error = await work.then(
    () => undefined,
    (reason: unknown) => reason,
  );
  expect(error).toBeInstanceOf(OutgoingError);
  return error as OutgoingError;
}

describe('a call', () => {
  test('posts bytes and gives back status, headers and bytes as they came', async () => {
    const { port } = await serve((request, response) => {
      const chunks: Buffer[] = [];
      request.on('data', (chunk: Buffer) => chunks.push(chunk));
      request.on('end', () => {
        response.writeHead(418, { 'Content-Type': 'x/y', 'X-Twice': ['a', 'b'] });
        response.end(JSON.stringify([request.method, request.url, request.headers, Buffer.concat(chunks).toString()]));
      });
    });
    const answer = await client().post(`http://127.0.0.1:${port}/a/b?c=d#e`, {
      ...LIMITS,
      headers: { 'content-type': 'application/timestamp-query' },
      body: BODY,
    });
    expect(answer.status).toBe(418);
    expect(answer.headers).toMatchObject({ 'content-type': 'x/y', 'x-twice': 'a, b' });
    const [method, url, headers, body] = JSON.parse(Buffer.from(answer.body).toString());
    expect([method, url, body]).toEqual(['POST', '/a/b?c=d', 'question']);
    expect(headers).toMatchObject({
      host: `127.0.0.1:${port}`,
      'content-length': '8',
      'content-type': 'application/timestamp-query',
      connection: 'close',
    });
  });

  test('gets', async () => {
    const { port } = await serve((request, response) => response.end(request.method));
    const { status, body } = await client().get(`http://localhost:${port}/`, LIMITS);
    expect([status, Buffer.from(body).toString()]).toEqual([200, 'GET']);
  });

  test.each([301, 302, 303, 307, 308])('does not follow a redirect: %i is an answer', async (status) => {
    const target = await serve((_, response) => response.end('secret'));
    const { port } = await serve((_, response) => {
      response.writeHead(status, { location: `http://127.0.0.1:${target.port}/` }).end();
    });
    const answer = await client().get(`http://127.0.0.1:${port}/`, LIMITS);
    expect(answer.status).toBe(status);
    expect(target.connections).toBe(0);
  });

  test('keeps no connection and leaves none behind', async () => {
    const server = createServer((_, response) => response.end('x'));
    const state = await listen(server);
    const { get } = client();
    for (let i = 0; i < 3; i++) await get(`http://127.0.0.1:${state.port}/`, LIMITS);
    expect(state.connections).toBe(3);
    await expect.poll(() => new Promise((done) => server.getConnections((_, count) => done(count)))).toBe(0);
  });

  test('can be made many at a time', async () => {
    const { port } = await serve((request, response) => response.end(request.url));
    const { get } = client();
    const answers = await Promise.all(
      Array.from({ length: 50 }, (_, i) => get(`http://127.0.0.1:${port}/${i}`, LIMITS)),
    );
    expect(answers.map(({ body }) => Buffer.from(body).toString())).toEqual(answers.map((_, i) => `/${i}`));
  });
});

describe('a call ends', () => {
  test.each([
    ['with no answer at all', ''],
    ['after half a header', 'HTTP/1.1 200 OK\r\nContent-Le'],
    ['after half a body', 'HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345'],
    ['after one chunk', 'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n'],
    ['after 100 Continue', 'HTTP/1.1 100 Continue\r\n\r\n'],
  ])('in time when a server hangs %s', async (_, bytes) => {
    const { port } = await raw(bytes);
    const begin = performance.now();
    const error = await failure(client().post(`http://127.0.0.1:${port}/`, { ...LIMITS, timeoutMs: 150, body: BODY }));
    expect(error.reason).toBe('timeout');
    expect(performance.now() - begin).toBeLessThan(1500);
  });

  test('in time when bytes drip for ever', async () => {
    const { port } = await serve((_, response) => {
      const timer = setInterval(() => response.write('.'), 20);
      response.on('close', () => clearInterval(timer));
    });
    expect((await failure(client().get(`http://127.0.0.1:${port}/`, { ...LIMITS, timeoutMs: 200 }))).reason).toBe(
      'timeout',
    );
  });

  test('in time when the name service hangs', async () => {
    const { get } = client(LOOPBACK, { resolve: () => new Promise(() => {}) });
    expect((await failure(get('http://log.example/', { ...LIMITS, timeoutMs: 100 }))).reason).toBe('timeout');
  });

  test.each([
    ['a length that says so', `HTTP/1.1 200 OK\r\nContent-Length: 10001\r\n\r\n`],
    ['no length', `HTTP/1.1 200 OK\r\n\r\n${'x'.repeat(10_001)}`],
    ['chunks', `HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2711\r\n${'x'.repeat(10_001)}\r\n`],
  ])('when the answer is too large, with %s', async (_, bytes) => {
    const { port } = await raw(bytes);
    expect((await failure(client().get(`http://127.0.0.1:${port}/`, LIMITS))).reason).toBe('answer_too_large');
  });

  test('well when the answer is just as large as it may be', async () => {
    const { port } = await raw(`HTTP/1.1 200 OK\r\nContent-Length: 10000\r\n\r\n${'x'.repeat(10_000)}`);
    expect((await client().get(`http://127.0.0.1:${port}/`, LIMITS)).body).toHaveLength(10_000);
  });

  test.each([
    ['nothing', ''],
    ['half a body', 'HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345'],
    ['a chunk without an end', 'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n'],
    ['what is not HTTP', 'SSH-2.0-OpenSSH\r\n'],
    ['too many headers', `HTTP/1.1 200 OK\r\nx: ${'x'.repeat(20_000)}\r\n\r\n`],
    ['two lengths', 'HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx'],
    ['a length and chunks', 'HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n'],
    ['another protocol', 'HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n'],
  ])('without an answer when a server sends %s and goes', async (_, bytes) => {
    const { port } = await raw(bytes, true);
    expect((await failure(client().get(`http://127.0.0.1:${port}/`, LIMITS))).reason).toBe('unreachable');
  });

  test('when its caller ends it, and when all are closed', async () => {
    const { port } = await raw('');
    const url = `http://127.0.0.1:${port}/`;
    const stop = new AbortController();
    const one = client();
    const first = failure(one.get(url, { ...LIMITS, signal: stop.signal }));
    const second = failure(one.get(url, LIMITS));
    stop.abort();
    expect((await first).reason).toBe('stopped');
    one.close();
    expect((await second).reason).toBe('stopped');
    expect((await failure(one.get(url, LIMITS))).reason).toBe('stopped');
    expect((await failure(client().get(url, { ...LIMITS, signal: stop.signal }))).reason).toBe('stopped');
  });

  test('when nobody listens', async () => {
    const server = createTcpServer();
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    const { port } = server.address() as AddressInfo;
    server.close();
    await once(server, 'close');
    const error = await failure(client().get(`http://127.0.0.1:${port}/`, LIMITS));
    expect(error).toMatchObject({ reason: 'unreachable', message: expect.stringContaining('ECONNREFUSED') });
  });
});

describe('connections that are kept', () => {
  const keep = (options: Partial<KeepOptions> = {}, one = client()): Calls => {
    const calls = one.keep({ connectionsMax: 2, ...options });
    onTestFinished(() => calls.close());
    return calls;
  };
  const post = (calls: Calls, port: number, more: object = {}) =>
    calls.post(`http://127.0.0.1:${port}/`, { ...LIMITS, body: BODY, ...more });

  test('serve many calls, and are no more than they may be', async () => {
    const state = await serve((_, response) => void setTimeout(() => response.end('x'), 5));
    const calls = keep();
    for (let i = 0; i < 5; i++) await post(calls, state.port);
    expect(state.connections).toBe(1);
    const answers = await Promise.all(Array.from({ length: 12 }, () => post(calls, state.port)));
    expect(answers.every(({ status }) => status === 200)).toBe(true);
    expect(state.connections).toBe(2);
  });

  test.each(['the keeper', 'everything'])('end with %s, and so do the calls on them', async (what) => {
    let answered = 0;
    const server = createServer((_, response) => void (answered++ === 0 && response.end('x')));
    const state = await listen(server);
    const one = client();
    const calls = keep({}, one);
    await post(calls, state.port);
    const pending = failure(post(calls, state.port));
    await expect.poll(() => answered).toBe(2);
    (what === 'the keeper' ? calls : one).close();
    expect((await pending).reason).toBe('stopped');
    expect((await failure(post(calls, state.port))).reason).toBe('stopped');
    await expect.poll(() => new Promise((done) => server.getConnections((_, count) => done(count)))).toBe(0);
    if (what === 'the keeper')
      await expect(one.get(`http://127.0.0.1:${state.port}/`, { ...LIMITS, timeoutMs: 50 })).rejects.toMatchObject({
        reason: 'timeout',
      });
  });

  test('end when nobody uses them, and when they are old', async () => {
    const server = createServer((_, response) => response.end('x'));
    const state = await listen(server);
    await post(keep({ idleMs: 30 }), state.port);
    await expect.poll(() => new Promise((done) => server.getConnections((_, count) => done(count)))).toBe(0);
    const calls = keep({ ageMs: 0 });
    for (let i = 0; i < 3; i++) await post(calls, state.port);
    expect(state.connections).toBe(4);
  });

  test('go to addresses that are looked up and allowed each time that one is made', async () => {
    const state = await serve((_, response) => response.end('x'));
    let asked = 0;
    const resolve = async () => [{ address: asked++ === 0 ? '127.0.0.1' : '127.0.0.2' }];
    const one = client(['127.0.0.1/32'], { resolve });
    const calls = keep({ ageMs: 0 }, one);
    const get = () => calls.get(`http://log.example:${state.port}/`, LIMITS);
    expect((await get()).status).toBe(200);
    expect((await failure(get())).reason).toBe('address_not_allowed');
    expect([asked, state.connections]).toEqual([2, 1]);
  });

  /** A server that answers the first request of each connection, and does something to the next. */
  const onNext = (then: (socket: Socket) => void) =>
    listen(
      createTcpServer((socket) => {
        socket.once('data', () => {
          socket.write('HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx');
          socket.once('data', () => then(socket));
        });
      }),
    );

  test.each([
    ['ended', (socket: Socket) => socket.end()],
    ['cut', (socket: Socket) => socket.resetAndDestroy()],
  ] as const)('that were %s before any of an answer came are replaced by a new one, once', async (_, then) => {
    const state = await onNext(then);
    const calls = keep();
    for (const connections of [1, 2]) {
      expect((await post(calls, state.port)).status).toBe(200);
      expect(state.connections).toBe(connections);
    }
    // One that is new and broken is not: a server that can not answer is not asked twice.
    const broken = await listen(createTcpServer((socket) => void socket.once('data', () => socket.destroy())));
    expect((await failure(post(calls, broken.port))).reason).toBe('unreachable');
    expect(broken.connections).toBe(1);
  });

  test('that end within an answer are a failure', async () => {
    const state = await onNext((socket) => socket.end('HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n123'));
    const calls = keep();
    await post(calls, state.port);
    expect((await failure(post(calls, state.port))).reason).toBe('unreachable');
    expect(state.connections).toBe(1);
  });

  test('that are silent are not replaced: there is one time limit', async () => {
    const state = await onNext(() => {});
    const calls = keep();
    await post(calls, state.port);
    expect((await failure(post(calls, state.port, { timeoutMs: 80 }))).reason).toBe('timeout');
    expect(state.connections).toBe(1);
  });

  test('are not used again after an answer that came before the whole request was read', async () => {
    let connections = 0;
    const state = await listen(
      createTcpServer((socket) => {
        const isFirst = connections++ === 0;
        socket.once('data', () => {
          if (isFirst) socket.pause();
          socket.write(`HTTP/1.1 ${isFirst ? 413 : 200} x\r\nContent-Length: 1\r\n\r\nx`);
        });
      }),
    );
    const calls = keep({ connectionsMax: 1 });
    const large = await post(calls, state.port, { body: Buffer.alloc(50_000_000) });
    expect(large.status).toBe(413);
    expect((await post(calls, state.port)).status).toBe(200);
    expect(state.connections).toBe(2);
  });

  test('take of an answer that is too large what fits, where that is asked for', async () => {
    const { port } = await serve((_, response) => response.end('x'.repeat(1_000_000)));
    const calls = keep();
    const { status, body } = await post(calls, port, { cutsAnswer: true });
    expect([status, body.length]).toEqual([200, LIMITS.answerBytesMax]);
    expect((await failure(post(calls, port))).reason).toBe('answer_too_large');
  });
});

describe('an address that is not allowed', () => {
  test.each([
    '127.0.0.1',
    '127.1',
    '2130706433',
    '0x7f000001',
    '0x7f.1',
    '0177.0.0.1',
    '127.0.0.1.',
    '①②⑦.0.0.1',
    '%31%32%37.0.0.1',
    'localhost',
    'LOCALHOST',
    '[::ffff:127.0.0.1]',
    '[::ffff:7f00:1]',
    '[0:0:0:0:0:ffff:127.0.0.1]',
    '0.0.0.0',
    '0',
  ])('is never connected to, however it is written: %s', async (host) => {
    const target = await serve((_, response) => response.end('secret'));
    for (const allowed of [[], ['10.0.0.0/8'], ['::1/128']]) {
      const error = await failure(client(allowed).get(`http://${host}:${target.port}/`, LIMITS));
      expect(error.reason).toBe('address_not_allowed');
      expect(error.message).toContain('SEALOG_ALLOW_ADDRESSES');
    }
    expect(target.connections).toBe(0);
  });

  test('is reached when the operator allows it, also by its IPv6 spelling', async () => {
    const target = await serve((_, response) => response.end('x'));
    for (const host of ['127.0.0.1', '2130706433', 'localhost', '[::ffff:127.0.0.1]']) {
      expect((await client(['127.0.0.1/32']).get(`http://${host}:${target.port}/`, LIMITS)).status).toBe(200);
    }
    expect(target.connections).toBe(4);
  });

  test('is passed over where a name has others too', async () => {
    const wrong = await serve((_, response) => response.end('wrong'));
    const right = createServer((_, response) => response.end('right'));
    right.listen(wrong.port, '127.0.0.2');
    await once(right, 'listening');
    onTestFinished(() => void right.close());
    const resolve = async () => [{ address: '127.0.0.1' }, { address: '127.0.0.2' }];
    const { body } = await client(['127.0.0.2/32'], { resolve }).get(`http://log.example:${wrong.port}/`, LIMITS);
    expect(Buffer.from(body).toString()).toBe('right');
    expect(wrong.connections).toBe(0);
  });

  test('is not reached by a name whose address changes between look and connection: it is looked up once', async () => {
    const inside = await serve((_, response) => response.end('secret'));
    let asked = 0;
    const resolve = async () => [{ address: asked++ === 0 ? '127.0.0.2' : '127.0.0.1' }];
    const { get } = client(['127.0.0.2/32'], { resolve });
    expect((await failure(get(`http://log.example:${inside.port}/`, LIMITS))).reason).toBe('unreachable');
    expect(asked).toBe(1);
    expect((await failure(get(`http://log.example:${inside.port}/`, LIMITS))).reason).toBe('address_not_allowed');
    expect(inside.connections).toBe(0);
  });

  test('is not what a name service may invent', async () => {
    for (const found of [[], [{ address: 'localhost' }], [{ address: '' }]]) {
      const { get } = client(LOOPBACK, { resolve: async () => found });
      expect((await failure(get('http://log.example/', LIMITS))).reason).toBe('unreachable');
    }
    const broken = client(LOOPBACK, {
      resolve: async () => Promise.reject(Object.assign(new Error('no'), { code: 'EAI_AGAIN' })),
    });
    expect((await failure(broken.get('http://log.example/', LIMITS))).message).toContain('EAI_AGAIN');
  });

  test('is told to the operator’s log', async () => {
    const told: object[] = [];
    const log = { debug: () => {}, warn: (facts: object, message: string) => told.push({ ...facts, message }) };
    await failure(client([], { log }).get('http://127.0.0.1:1/path?query', LIMITS));
    expect(told).toEqual([{ method: 'GET', to: 'http://127.0.0.1:1', message: expect.stringContaining('127.0.0.1') }]);
  });
});

test.each([
  'ftp://127.0.0.1/',
  'file:///etc/passwd',
  'data:,x',
  'unix:/run/x',
  'http:/127.0.0.1/',
  'http:127.0.0.1',
  '//127.0.0.1/',
  '127.0.0.1',
  'http://',
  'http://[::1',
  'http://a b/',
  'http://user@127.0.0.1/',
  'http://:word@127.0.0.1/',
  '',
])('no call is made to %s', async (url) => {
  expect(urlProblem(url)).toBeDefined();
  expect((await failure(client().get(url, LIMITS))).reason).toBe('invalid_url');
});

test('no error shows credentials, paths or queries', async () => {
  const { port } = await raw('not HTTP: hidden-answer\r\n', true);
  for (const url of [
    `http://user:hidden-word@127.0.0.1:${port}/`,
    `http://127.0.0.1:${port}/hidden-path?hidden-query`,
    'http://10.0.0.1/hidden-path?hidden-query',
    'http://log.example/hidden-path?hidden-query',
    'gopher://user:hidden-word@x/hidden-path',
    'http://user:hidden-word@/',
  ]) {
    const one = client(LOOPBACK, { resolve: async () => [{ address: '10.0.0.1' }] });
    const error = await failure(one.get(url, { ...LIMITS, headers: { authorization: 'hidden-token' } }));
    const everything = `${error.message} ${error.stack} ${JSON.stringify(error)} ${error.cause}`;
    expect(everything).not.toContain('hidden');
  }
});

describe('TLS', () => {
  let folder: string;
  let key: Buffer;
  let certificate: Buffer;
  beforeAll(() => {
    folder = mkdtempSync(join(tmpdir(), 'sealog-outgoing-'));
    const args = ['-nodes', '-days', '2', '-subj', '/CN=log.example', '-addext', 'subjectAltName=DNS:log.example'];
    execFileSync(
      'openssl',
      [
        'req',
        '-x509',
        '-newkey',
        'ec',
        '-pkeyopt',
        'ec_paramgen_curve:P-256',
        ...args,
        '-keyout',
        'key',
        '-out',
        'cert',
      ],
      { cwd: folder, stdio: 'pipe' },
    );
    key = readFileSync(join(folder, 'key'));
    certificate = readFileSync(join(folder, 'cert'));
  });
  afterAll(() => rmSync(folder, { recursive: true, force: true }));

  const resolve = async () => [{ address: '127.0.0.1' }];
  const secure = (options: object = {}) =>
    listen(createTlsServer({ key, cert: certificate, ...options }, (_, response) => response.end('x')));

  test('is verified: by the authority that the call names, and for the name that was called', async () => {
    const { port } = await secure();
    const { get } = client(LOOPBACK, { resolve });
    const caPem = certificate.toString();
    expect((await get(`https://log.example:${port}/`, { ...LIMITS, caPem })).status).toBe(200);
    const untrusted = await failure(get(`https://log.example:${port}/`, LIMITS));
    expect(untrusted.message).toContain('DEPTH_ZERO_SELF_SIGNED_CERT');
    const otherName = await failure(get(`https://other.example:${port}/`, { ...LIMITS, caPem }));
    expect(otherName.message).toContain('ERR_TLS_CERT_ALTNAME_INVALID');
    const byAddress = await failure(get(`https://127.0.0.1:${port}/`, { ...LIMITS, caPem }));
    expect(byAddress.message).toContain('ERR_TLS_CERT_ALTNAME_INVALID');
  });

  test('is verified again after a good call, and whatever the environment says', async () => {
    const { port } = await secure();
    const { get } = client(LOOPBACK, { resolve });
    await get(`https://log.example:${port}/`, { ...LIMITS, caPem: certificate.toString() });
    process.env.NODE_TLS_REJECT_UNAUTHORIZED = '0';
    onTestFinished(() => void delete process.env.NODE_TLS_REJECT_UNAUTHORIZED);
    expect((await failure(get(`https://log.example:${port}/`, LIMITS))).reason).toBe('unreachable');
  });

  test('of kept connections is verified anew for each, and they are not shared by who trusts or shows something else', async () => {
    const resumed = new Map<TLSSocket, boolean>();
    const server = createTlsServer({ key, cert: certificate }, (request, response) => {
      const socket = request.socket as TLSSocket;
      resumed.set(socket, socket.isSessionReused());
      response.end('x');
    });
    const { port } = await listen(server);
    const calls = client(LOOPBACK, { resolve }).keep({ connectionsMax: 2, ageMs: 0 });
    onTestFinished(() => calls.close());
    const trusting = { ...LIMITS, caPem: certificate.toString() };
    for (let i = 0; i < 3; i++) await calls.get(`https://log.example:${port}/`, trusting);
    expect([...resumed.values()]).toEqual([false, false, false]);
    const kept = client(LOOPBACK, { resolve }).keep({ connectionsMax: 2 });
    onTestFinished(() => kept.close());
    await kept.get(`https://log.example:${port}/`, trusting);
    expect((await failure(kept.get(`https://log.example:${port}/`, LIMITS))).message).toContain('SELF_SIGNED');
    const showing = { ...trusting, certPem: certificate.toString(), keyPem: key.toString() };
    await kept.get(`https://log.example:${port}/`, showing);
    await kept.get(`https://log.example:${port}/`, showing);
    expect(resumed.size).toBe(5);
  });

  test('shows a certificate where the server wants one', async () => {
    const state = await secure({ ca: certificate, requestCert: true });
    const { get } = client(LOOPBACK, { resolve });
    const trusting = { ...LIMITS, caPem: certificate.toString() };
    const showing = { ...trusting, certPem: certificate.toString(), keyPem: key.toString() };
    expect((await get(`https://log.example:${state.port}/`, showing)).status).toBe(200);
    expect((await failure(get(`https://log.example:${state.port}/`, trusting))).reason).toBe('unreachable');
  });

  test('older than 1.2 is refused', async () => {
    const { port } = await secure({ minVersion: 'TLSv1', maxVersion: 'TLSv1.1', ciphers: 'DEFAULT@SECLEVEL=0' });
    const { get } = client(LOOPBACK, { resolve });
    const caPem = certificate.toString();
    expect((await failure(get(`https://log.example:${port}/`, { ...LIMITS, caPem }))).reason).toBe('unreachable');
  });

  test('is not what a plain server speaks, nor the other way round', async () => {
    const plain = await serve((_, response) => response.end('x'));
    expect((await failure(client().get(`https://127.0.0.1:${plain.port}/`, LIMITS))).reason).toBe('unreachable');
    const { port } = await secure();
    expect((await failure(client().get(`http://127.0.0.1:${port}/`, LIMITS))).reason).toBe('unreachable');
  });

  test('goes to no address that is not allowed either', async () => {
    const state = await secure();
    const error = await failure(client([], { resolve }).get(`https://log.example:${state.port}/`, LIMITS));
    expect([error.reason, state.connections]).toEqual(['address_not_allowed', 0]);
  });
});

describe('the address guard', () => {
  test.each([
    ['8.8.8.8', '1.1.1.1', '100.63.255.255', '100.128.0.0', '172.15.255.255', '172.32.0.0', '192.0.1.0', '198.20.0.0'],
    [
      '9.255.255.255',
      '11.0.0.0',
      '126.255.255.255',
      '128.0.0.0',
      '169.253.255.255',
      '192.167.255.255',
      '223.255.255.255',
    ],
    ['2606:4700::1111', '2a00::1', '2001:200::1', '2001:db7::1', '2003::1', '3ffe:ffff::1', '64:ff9b::808:808'],
    ['::ffff:8.8.8.8', '64:ff9b::8.8.8.8'],
  ])('allows what is public: %s and others', (...addresses) => {
    const guard = addressGuard([]);
    expect(addresses.filter((address) => !guard.allows(address))).toEqual([]);
  });

  test.each([
    ['0.0.0.0', '0.255.255.255', '10.0.0.0', '10.255.255.255', '100.64.0.0', '100.127.255.255'],
    ['127.0.0.1', '127.255.255.255', '169.254.169.254', '172.16.0.0', '172.31.255.255', '192.168.0.1'],
    ['192.0.0.8', '192.0.2.1', '192.88.99.1', '198.18.0.1', '198.19.255.255', '198.51.100.1', '203.0.113.9'],
    ['224.0.0.1', '239.255.255.255', '240.0.0.1', '255.255.255.255'],
    ['::', '::1', '::2', '::7f00:1', '::127.0.0.1', '::ffff:127.0.0.1', '::ffff:a00:1', '::ffff:0.0.0.0'],
    ['64:ff9b::7f00:1', '64:ff9b::10.0.0.1', '64:ff9b::a9fe:a9fe', '64:ff9b:1::808:808', '::fffe:8.8.8.8'],
    ['fc00::1', 'fdff::1', 'fe80::1', 'fe80::1%eth0', 'febf::1', 'fec0::1', 'ff02::1', 'ff0e::1', '100::1'],
    ['2001::1', '2001:0:7f00:1::', '2001:db8::1', '2002:7f00:1::1', '3fff::1', '1fff::1', '4000::1', '5f00::1'],
    ['', 'localhost', '127.1', '0x7f.0.0.1', '[::1]', '::1]', '1.2.3.4.5', '8.8.8.8 ', '8.8.8.8/32', '8.8.8.8\0'],
  ])('refuses what is not: %s and others', (...addresses) => {
    const guard = addressGuard([]);
    expect(addresses.filter((address) => guard.allows(address))).toEqual([]);
  });

  test('allows besides exactly what the CIDRs hold', () => {
    const guard = addressGuard(['10.1.0.0/16', '192.168.7.9/32', 'fd00:1::/64', '::1/128', '0.0.0.0/32']);
    const inside = [
      '10.1.0.0',
      '10.1.255.255',
      '192.168.7.9',
      'fd00:1::',
      'fd00:1::ffff:ffff:ffff:ffff',
      '::1',
      '0.0.0.0',
    ];
    const outside = [
      '10.0.255.255',
      '10.2.0.0',
      '192.168.7.8',
      '192.168.7.10',
      'fd00:1:0:1::',
      'fd00::1',
      '::2',
      '0.0.0.1',
    ];
    expect(inside.filter((address) => !guard.allows(address))).toEqual([]);
    expect(outside.filter((address) => guard.allows(address))).toEqual([]);
    expect(guard.allows('::ffff:10.1.2.3')).toBe(true);
    expect(guard.allows('64:ff9b::10.1.2.3')).toBe(true);
    expect(guard.allows('::ffff:10.2.2.3')).toBe(false);
    for (const address of ['127.0.0.1', '10.0.0.1']) expect(addressGuard(['0.0.0.0/0']).allows(address)).toBe(true);
    expect(addressGuard(['0.0.0.0/0']).allows('fd00::1')).toBe(false);
    expect(addressGuard(['::/0']).allows('fd00::1')).toBe(true);
    expect(addressGuard(['::/0']).allows('10.0.0.1')).toBe(false);
  });

  test.each([
    '10.0.0.0/8',
    '0.0.0.0/0',
    '1.2.3.4/32',
    '::/0',
    '::1/128',
    'fd00:1::/64',
    'FD00::/8',
    '::ffff:7f00:0/104',
  ])('takes the CIDR %s', (cidr) => {
    expect(cidrProblem(cidr)).toBeUndefined();
  });

  test.each([
    ...['', '/', '10.0.0.0', '10.0.0.0/', '10.0.0.0/33', '10.0.0.0/08', '10.0.0.0/-1', '10.0.0.0/8/8', '10.0.0/8'],
    ...['010.0.0.0/8', '10.0.0.0/8 ', ' 10.0.0.0/8', '10.0.0.0 /8', 'localhost/8', '::1', '::/129', 'fe80::%1/10'],
    ...['10.0.0.0/255.0.0.0', '10.0.0.1/8', '11.0.0.0/7', '::1/127', 'fd00:1::1/64', '0x0a.0.0.0/8', '[::]/0'],
  ])('refuses %j as a CIDR', (cidr) => {
    expect(cidrProblem(cidr)).toBeDefined();
    expect(() => addressGuard([cidr])).toThrow();
  });
});
