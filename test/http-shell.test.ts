import { request as httpRequest } from 'node:http';
import { connect, type Socket } from 'node:net';
import fc from 'fast-check';
import type { FastifyInstance } from 'fastify';
import { afterEach, describe, expect, it } from 'vitest';
import { PROBLEMS, Problem, type ProblemCode } from '../src/errors.ts';
import { checkShape } from '../src/http/api-schema.ts';
import { bodyOf } from '../src/http/body.ts';
import { problemFields } from '../src/http/problem.ts';
import { closeServer, createServer, type ServerLimits, type ServerOptions } from '../src/http/server.ts';
import { listen, type RawAnswer, talk } from './support/http.ts';

/** Short times, so that the tests do not take the real ones. */
const SHORT: Partial<ServerLimits> = {
  headersTimeoutMs: 400,
  requestTimeoutMs: 800,
  keepAliveTimeoutMs: 300,
  checkIntervalMs: 50,
};
const HEAD = 'host: x\r\ncontent-type: application/json\r\n';
/** On every answer, whatever it is. */
const PROTECTING = {
  'cache-control': 'no-store',
  'x-content-type-options': 'nosniff',
  'content-security-policy': "default-src 'none'; frame-ancestors 'none'",
  'x-frame-options': 'DENY',
  'referrer-policy': 'no-referrer',
  'cross-origin-resource-policy': 'same-origin',
};

let app: FastifyInstance;
let port: number;
let logged: unknown[][];
let letGo: () => void;

async function start(limits: Partial<ServerLimits> = {}, options: Partial<ServerOptions> = {}): Promise<void> {
  logged = [];
  const log = {
    warn: (...line: unknown[]) => void logged.push(line),
    error: (...line: unknown[]) => void logged.push(line),
  };
  app = createServer({ log, limits, ...options });
  const held = new Promise<void>((resolve) => {
    letGo = resolve;
  });
  const open = { config: { permission: 'public' as const } };
  app.get('/things', open, async () => ({ things: [] }));
  app.post('/things', open, async (request) => ({ length: bodyOf(request).length }));
  app.get('/things/:id', open, async (request) => ({ id: (request.params as { id: string }).id }));
  app.get('/query', open, async (request) => ({ query: request.query }));
  app.get('/ip', open, async (request) => ({ ip: request.ip }));
  app.get('/self', open, async ({ host, hostname, protocol, url }) => ({ host, hostname, protocol, url }));
  app.get('/kept', open, async (_request, reply) => reply.header('cache-control', 'public, max-age=7').send('{}'));
  app.get('/hold', open, async () => held.then(() => ({ held: true })));
  app.post('/hold', open, async () => held.then(() => ({ held: true })));
  app.get('/problem/:code', open, async (request) => {
    throw new Problem((request.params as { code: ProblemCode }).code, { detail: 'why' });
  });
  app.get('/bug', open, async () => {
    throw new Error('SELECT secret FROM tenant at /srv/app/src/store/tables.ts');
  });
  app.get('/strange-bug', open, async () => {
    throw { statusCode: 418, message: 'secret' };
  });
  app.get('/circle', open, async () => {
    const circle: Record<string, unknown> = {};
    circle['circle'] = circle;
    return circle;
  });
  port = await listen(app);
}

afterEach(async () => {
  letGo();
  await closeServer(app, 100);
});

async function ask(path: string, init: RequestInit = {}) {
  const response = await fetch(`http://127.0.0.1:${port}${path}`, init);
  const text = await response.text();
  return { status: response.status, headers: response.headers, text, body: text === '' ? undefined : JSON.parse(text) };
}

function expectProblem(answer: RawAnswer, code: ProblemCode): void {
  expect(answer.status).toBe(PROBLEMS[code].status);
  expect(answer.headers['content-type']).toBe('application/problem+json');
  expect(answer.headers).toMatchObject(PROTECTING);
  const body = JSON.parse(answer.body);
  expect(checkShape('Problem', body)).toEqual([]);
  expect(body.code).toBe(code);
}

describe('an answer', () => {
  it('is stored nowhere and taken for nothing else', async () => {
    await start();
    for (const path of ['/things', '/nothing', '/bug', '/problem/busy', '/things/%zz', `/things/${'x'.repeat(600)}`]) {
      const { headers } = await ask(path);
      expect(Object.fromEntries(headers)).toMatchObject(PROTECTING);
      expect([...headers.keys()].join()).not.toMatch(/x-powered|server|request-id|transport-security|etag/);
    }
  });

  it('that is a problem has the shape of RFC 9457 and of openapi.yaml, for every code', async () => {
    await start();
    for (const code of Object.keys(PROBLEMS) as ProblemCode[]) {
      const { status, headers, body } = await ask(`/problem/${code}`);
      expect(status).toBe(PROBLEMS[code].status);
      expect(headers.get('content-type')).toBe('application/problem+json');
      const later = [429, 503].includes(status) || code === 'not_yet_checkpointed';
      expect(headers.get('retry-after')).toBe(later ? '1' : null);
      expect(headers.get('www-authenticate')).toBe(status === 401 ? 'Bearer' : null);
      expect(body).toEqual({
        type: `urn:sealog:problem:${code}`,
        title: PROBLEMS[code].title,
        status,
        code,
        detail: 'why',
      });
      expect(checkShape('Problem', body)).toEqual([]);
    }
  });

  it('of a handler that knows better is kept, with the other headers', async () => {
    await start();
    const { headers } = await ask('/kept');
    expect(Object.fromEntries(headers)).toMatchObject({ ...PROTECTING, 'cache-control': 'public, max-age=7' });
  });

  it('is for no page of another origin', async () => {
    await start();
    const asked = { origin: 'https://evil.example', 'access-control-request-method': 'POST' };
    for (const origin of [asked.origin, 'null', `http://127.0.0.1:${port}`]) {
      for (const [method, path, status] of [
        ['GET', '/things', 200],
        ['POST', '/things', 200],
        ['OPTIONS', '/things', 405],
        ['OPTIONS', '/nothing', 404],
        ['GET', '/nothing', 404],
        ['GET', '/bug', 500],
      ] as const) {
        const body = method === 'POST' ? { body: '{}' } : {};
        const headers = { ...asked, origin, 'content-type': 'application/json' };
        const answer = await ask(path, { method, headers, ...body });
        expect(answer.status).toBe(status);
        expect([...answer.headers.keys()].filter((name) => name.startsWith('access-control'))).toEqual([]);
      }
    }
    const all = await talk(port, 'OPTIONS * HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n');
    expect([400, 404, 405]).toContain(all.status);
    expect(Object.keys(all.headers).join()).not.toContain('access-control');
  });

  it('lists what is wrong, field by field', () => {
    const errors = [{ field: 'changes.before', message: 'is required' }];
    expect(problemFields(new Problem('invalid_event', { errors }))).toMatchObject({ code: 'invalid_event', errors });
    expect(problemFields(new Problem('busy', { retryAfter: 7 }))).not.toHaveProperty('errors');
  });

  it('to a bug says nothing of it; our log does', async () => {
    await start();
    for (const path of ['/bug', '/strange-bug', '/circle']) {
      const { status, text } = await ask(path);
      expect(status).toBe(500);
      expect(text).toBe(
        '{"type":"urn:sealog:problem:internal","title":"Something is wrong on our side","status":500,"code":"internal"}',
      );
    }
    expect(logged).toHaveLength(3);
    expect(logged[0]).toMatchObject([
      { err: { message: /SELECT secret/ }, method: 'GET', route: '/bug' },
      'request failed',
    ]);
  });

  it('to what the caller did wrong is not logged', async () => {
    await start();
    for (const path of ['/problem/invalid_event', '/nothing', '/things/%zz', '/problem/busy']) await ask(path);
    expect(logged).toEqual([]);
  });
});

describe('an address', () => {
  it('that is none is a 404', async () => {
    await start();
    for (const path of ['/', '/nothing', '/Things', '//things', '/things/a/b', '/things;a=b', '/.env']) {
      const answer = await ask(path);
      expect(answer).toMatchObject({ status: 404, body: { code: 'not_found' } });
      expect(answer.headers.get('allow')).toBeNull();
    }
    const post = await ask('/nothing', { method: 'POST', body: 'x', headers: { 'content-type': 'text/plain' } });
    expect(post.status).toBe(404);
  });

  it('with another method is a 405 that names the ones it takes', async () => {
    await start();
    for (const [method, path, allow] of [
      ['DELETE', '/things', 'GET, POST'],
      ['PUT', '/things?x=1', 'GET, POST'],
      ['POST', '/things/7', 'GET'],
      ['HEAD', '/things', 'GET, POST'],
      ['OPTIONS', '/things/7', 'GET'],
      ['PATCH', '/hold', 'GET, POST'],
    ] as const) {
      const body = method === 'HEAD' ? {} : { body: '{}', headers: { 'content-type': 'application/json' } };
      const answer = await ask(path, { method, ...body });
      expect(answer.status).toBe(405);
      expect(answer.headers.get('allow')).toBe(allow);
    }
    for (const method of ['TRACE', 'PROPFIND', 'QUERY', 'FOO']) {
      const answer = await talk(port, `${method} /things HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n`);
      expect([400, 404, 405]).toContain(answer.status);
      expect(answer.headers['content-type']).toBe('application/problem+json');
    }
  });

  it('that can not be decoded is a 400, one that is too long names nothing', async () => {
    await start();
    expect(await ask('/things/%zz')).toMatchObject({ status: 400, body: { code: 'invalid_request' } });
    expect(await ask('/things/%ff')).toMatchObject({ status: 400, body: { code: 'invalid_request' } });
    expect((await ask('/things/%zz')).text).not.toContain('%zz');
    expect(await ask(`/things/${'x'.repeat(513)}`)).toMatchObject({ status: 404, body: { code: 'not_found' } });
    expect(await ask(`/things/${'%3A'.repeat(128)}`)).toMatchObject({ status: 200 });
  });

  it('keeps its query string as it was sent', async () => {
    await start();
    expect((await ask('/query?a=1&a=%zz&b=+')).body).toEqual({ query: 'a=1&a=%zz&b=+' });
    expect((await ask('/query')).body).toEqual({ query: '' });
  });
});

describe('a route', () => {
  it('is listed, with its permission and bodies', async () => {
    await start();
    expect(app.registeredRoutes).toContainEqual({
      method: 'GET',
      path: '/things/:id',
      permission: 'public',
      bodyTypes: [],
    });
    expect(app.registeredRoutes).toContainEqual({
      method: 'POST',
      path: '/things',
      permission: 'public',
      bodyTypes: ['application/json'],
    });
  });
});

describe('what is no request', () => {
  const bodyless = 'POST /things HTTP/1.1\r\n';
  it.each<[string, string, number]>([
    ['not HTTP', 'nonsense\r\n\r\n', 400],
    ['a TLS handshake', '\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03', 400],
    ['HTTP/2', 'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n', 400],
    ['no host', 'GET /things HTTP/1.1\r\nconnection: close\r\n\r\n', 400],
    ['a length and chunks', `${bodyless}${HEAD}content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n`, 400],
    ['two lengths', `${bodyless}${HEAD}content-length: 2\r\ncontent-length: 3\r\n\r\n{}`, 400],
    ['a signed length', `${bodyless}${HEAD}content-length: +2\r\n\r\n{}`, 400],
    ['a hexadecimal length', `${bodyless}${HEAD}content-length: 0x2\r\n\r\n{}`, 400],
    ['a huge length', `${bodyless}${HEAD}content-length: 99999999999999999999\r\n\r\n{}`, 400],
    ['another transfer coding', `${bodyless}${HEAD}transfer-encoding: xchunked\r\n\r\n`, 400],
    ['chunks in the middle', `${bodyless}${HEAD}transfer-encoding: chunked, identity\r\n\r\n`, 400],
    ['a blank before the colon', `${bodyless}${HEAD}content-length : 2\r\n\r\n{}`, 400],
    ['a bare line feed', `POST /things HTTP/1.1\n${HEAD}content-length: 2\n\n{}`, 400],
    ['a folded header', `${bodyless}${HEAD}x: a\r\n b\r\ncontent-length: 2\r\n\r\n{}`, 400],
    ['U+0000 in a header', `${bodyless}${HEAD}x: a\0b\r\ncontent-length: 2\r\n\r\n{}`, 400],
    ['a chunk that is no number', `${bodyless}${HEAD}transfer-encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n`, 400],
    ['headers of 20 kB', `GET /things HTTP/1.1\r\nhost: x\r\nx: ${'a'.repeat(20_000)}\r\n\r\n`, 431],
    ['3,000 headers', `GET /things HTTP/1.1\r\nhost: x\r\n${'x: aaaaaaa\r\n'.repeat(3000)}\r\n`, 431],
    ['a long address', `GET /${'a'.repeat(20_000)} HTTP/1.1\r\nhost: x\r\n\r\n`, 431],
  ])('is refused: %s', async (_what, bytes, status) => {
    await start();
    const answer = await talk(port, Buffer.from(bytes, 'latin1'), { untilMs: 3000 });
    expect(answer.status).toBe(status);
    expect(answer.headers['connection']).toBe('close');
    expectProblem(answer, status === 431 ? 'headers_too_large' : 'invalid_request');
  });

  it('never makes a 5xx, and never stays', async () => {
    await start(SHORT);
    const piece = fc.constantFrom(
      'GET ',
      'POST ',
      '/things',
      '/things/%',
      ' HTTP/1.1\r\n',
      'host: x\r\n',
      'content-type: application/json\r\n',
      'content-encoding: gzip\r\n',
      'content-length: 3\r\n',
      'transfer-encoding: chunked\r\n',
      'expect: 100-continue\r\n',
      'upgrade: websocket\r\nconnection: upgrade\r\n',
      '\r\n',
      '{}\n',
      '3\r\nabc\r\n0\r\n\r\n',
      '\0',
      '\xff',
    );
    const bytes = fc
      .array(piece, { maxLength: 10 })
      .map((pieces) => Buffer.from(`${pieces.join('')}\r\n\r\n`, 'latin1'));
    const probes = fc.sample(bytes, { numRuns: 150, seed: 7 });
    const answers = await Promise.all(probes.map((probe) => talk(port, probe, { untilMs: 4000 })));
    for (const { status, ms } of answers) {
      expect(status).toBeLessThan(500);
      expect(ms).toBeLessThan(3900);
    }
    expect(logged).toEqual([]);
    expect((await ask('/things')).status).toBe(200);
  });

  it('behind a request that is worked on is not answered in its place', async () => {
    await start();
    const good = `POST /hold HTTP/1.1\r\n${HEAD}content-length: 2\r\n\r\n{}`;
    const answer = await talk(port, `${good}nonsense\r\n\r\n`, { untilMs: 1000 });
    expect(answer.status).toBe(0);
    expect(answer.ms).toBeLessThan(900);
  });
});

describe('a slow client', () => {
  it('is cut: headers that do not end', async () => {
    await start(SHORT);
    const answer = await talk(port, 'POST /things HTTP/1.1\r\nhost: x\r\n', { send: drip('x: y\r\n') });
    expectProblem(answer, 'request_timeout');
    expect(answer.ms).toBeGreaterThan(350);
    expect(answer.ms).toBeLessThan(2000);
  });

  it('is cut: a connection without a byte', async () => {
    await start(SHORT);
    const answer = await talk(port, '');
    expect(answer.ms).toBeLessThan(2000);
  });

  it('is cut: a body that does not end', async () => {
    await start(SHORT);
    const answer = await talk(port, `POST /things HTTP/1.1\r\n${HEAD}content-length: 1000\r\n\r\n`, {
      send: drip(' '),
    });
    expectProblem(answer, 'request_timeout');
    expect(answer.ms).toBeGreaterThan(700);
    expect(answer.ms).toBeLessThan(2500);
    await until(() => app.bodyBudget.used === 0);
  });

  it('is cut: a chunked body that does not end', async () => {
    await start(SHORT);
    const head = `POST /things HTTP/1.1\r\n${HEAD}transfer-encoding: chunked\r\n\r\n`;
    const answer = await talk(port, head, { send: drip('1\r\nx\r\n') });
    expectProblem(answer, 'request_timeout');
    expect(answer.ms).toBeLessThan(2500);
    await until(() => app.bodyBudget.used === 0);
  });

  it('is cut: nothing after a request', async () => {
    await start(SHORT);
    const answer = await talk(port, 'GET /things HTTP/1.1\r\nhost: x\r\n\r\n');
    expect(answer.status).toBe(200);
    // Node waits a second longer than it announces, for a request that is on its way.
    expect(answer.ms).toBeLessThan(3500);
  });

  it('does not keep others waiting', async () => {
    await start(SHORT);
    const slow = Array.from({ length: 200 }, () => talk(port, 'POST /things HTTP/1.1\r\n', { send: drip('x') }));
    const begin = performance.now();
    for (let count = 0; count < 20; count += 1) expect((await ask('/things')).status).toBe(200);
    expect(performance.now() - begin).toBeLessThan(2000);
    for (const { ms } of await Promise.all(slow)) expect(ms).toBeLessThan(4000);
  });

  it('is not who waits long for us', async () => {
    await start(SHORT);
    const waiting = ask('/hold', { method: 'POST', body: '{}', headers: { 'content-type': 'application/json' } });
    setTimeout(letGo, 1500);
    expect((await waiting).status).toBe(200);
  });
});

describe('connections', () => {
  it('beyond their number are closed', async () => {
    await start({ connectionsMax: 2 });
    const open = [connect(port, '127.0.0.1'), connect(port, '127.0.0.1')];
    await until(() => open.every((socket) => socket.readyState === 'open'));
    const answer = await talk(port, 'GET /things HTTP/1.1\r\nhost: x\r\n\r\n', { untilMs: 4000 });
    expect(answer.status).toBe(0);
    expect(answer.ms).toBeLessThan(3500);
    for (const socket of open) socket.destroy();
  });

  it('of one network beyond its number are closed, and others are served', async () => {
    const asked = (localAddress: string): Promise<number> =>
      new Promise((resolve) => {
        const headers = { connection: 'close' };
        httpRequest({ host: '127.0.0.1', port, path: '/things', localAddress, headers }, (answer) => {
          answer.resume();
          resolve(answer.statusCode ?? 0);
        })
          .on('error', () => resolve(0))
          .end();
      });
    const held: Socket[] = [];
    const hold = async (localAddress: string, count: number): Promise<void> => {
      const begun = Array.from({ length: count }, () => connect({ host: '127.0.0.1', port, localAddress }));
      held.push(...begun);
      await until(() => begun.every((socket) => socket.readyState === 'open'));
    };
    await start({ networkConnectionsMax: 3 });
    await hold('127.0.0.2', 3);
    expect([await asked('127.0.0.2'), await asked('127.0.0.3')]).toEqual([0, 200]);
    expect(app.connectionWatch.refused).toBe(1);
    // What is closed gives its place back.
    held.pop()!.destroy();
    let status = 0;
    for (const end = performance.now() + 4000; status !== 200 && performance.now() < end; )
      status = await asked('127.0.0.2');
    expect(status).toBe(200);
    for (const socket of held.splice(0)) socket.destroy();
    await closeServer(app, 100);

    // A trusted proxy speaks for many.
    await start({ networkConnectionsMax: 3 }, { trustProxy: ['127.0.0.2/32'] });
    await hold('127.0.0.2', 10);
    await hold('127.0.0.3', 3);
    expect([await asked('127.0.0.2'), await asked('127.0.0.3')]).toEqual([200, 0]);
    for (const socket of held) socket.destroy();
  });
});

describe('a proxy', () => {
  it('is believed only where it is trusted', async () => {
    const headers = { 'x-forwarded-for': '203.0.113.9', forwarded: 'for=198.51.100.1', 'x-real-ip': '198.51.100.2' };
    for (const trustProxy of [[], ['10.0.0.0/8'], ['::1/128'], ['128.0.0.0/1']]) {
      await start({}, { trustProxy });
      expect((await ask('/ip', { headers })).body).toEqual({ ip: '127.0.0.1' });
      await closeServer(app, 100);
    }
    await start({}, { trustProxy: ['127.0.0.0/8'] });
    expect((await ask('/ip', { headers })).body).toEqual({ ip: '203.0.113.9' });
    expect((await ask('/ip')).body).toEqual({ ip: '127.0.0.1' });
  });

  // What the client writes stands before what the proxy adds.
  it.each<[string, string]>([
    ['203.0.113.9', '203.0.113.9'],
    ['198.51.100.66, 203.0.113.9', '203.0.113.9'],
    ['198.51.100.66, 203.0.113.9, 10.1.2.3', '203.0.113.9'],
    ['10.9.9.9', '10.9.9.9'],
    ['evil, 203.0.113.9', '203.0.113.9'],
    ['203.0.113.9, evil', '127.0.0.1'],
    ['203.0.113.9, evil, 10.1.2.3', '10.1.2.3'],
    ['203.0.113.9,', '127.0.0.1'],
    ['unknown', '127.0.0.1'],
    ['<script>', '127.0.0.1'],
    ['127.0.0.1\t,', '127.0.0.1'],
    ['203.0.113.9:4711', '203.0.113.9'],
    ['[2001:db8::9]:4711', '2001:db8::9'],
    ['2001:db8::9', '2001:db8::9'],
    ['::ffff:203.0.113.9', '203.0.113.9'],
    ['[203.0.113.9]', '127.0.0.1'],
    ['fe80::1%eth0', 'fe80::1'],
    ['203.0.113.0x9', '127.0.0.1'],
    ['3405803785', '127.0.0.1'],
    [`${'10.1.1.1, '.repeat(1000)}203.0.113.9`, '203.0.113.9'],
    [`203.0.113.9${', 10.1.1.1'.repeat(1000)}`, '10.1.1.1'],
  ])('that says %s is understood as %s', async (said, ip) => {
    await start({}, { trustProxy: ['127.0.0.0/8', '10.0.0.0/8'] });
    expect((await ask('/ip', { headers: { 'x-forwarded-for': said } })).body).toEqual({ ip });
  });

  it('is read to its end where it sends several headers', async () => {
    await start({}, { trustProxy: ['127.0.0.0/8'] });
    const forwarded = 'x-forwarded-for: 198.51.100.66\r\nx-forwarded-for: 203.0.113.9\r\n';
    const { body } = await talk(port, `GET /ip HTTP/1.1\r\nhost: x\r\n${forwarded}connection: close\r\n\r\n`);
    expect(JSON.parse(body)).toEqual({ ip: '203.0.113.9' });
  });

  it('does not say what the service is called, and how it is reached', async () => {
    await start({}, { trustProxy: ['127.0.0.0/8'] });
    const plain = (await ask('/self')).body;
    const headers = {
      'x-forwarded-host': 'evil.example',
      'x-forwarded-proto': 'https',
      'x-forwarded-port': '444',
      'x-forwarded-prefix': '/evil',
      'x-original-url': '/bug',
      'x-rewrite-url': '/bug',
      'x-http-method-override': 'POST',
      forwarded: 'host=evil.example;proto=https',
    };
    const told = await ask('/self', { headers });
    expect(told.body).toEqual(plain);
    expect(told.headers.get('strict-transport-security')).toBeNull();
  });
});

describe('closing', () => {
  it('ends idle connections at once and lets requests under way finish', async () => {
    await start();
    const idle = connect(port, '127.0.0.1');
    const answered = new Promise((resolve) => idle.once('data', resolve));
    idle.write('GET /things HTTP/1.1\r\nhost: x\r\n\r\n');
    await answered;
    const ended = new Promise((resolve) => idle.once('close', resolve));
    const waiting = ask('/hold');
    await new Promise((resolve) => setTimeout(resolve, 50));

    const begin = performance.now();
    const closed = closeServer(app, 5000);
    await ended;
    expect(performance.now() - begin).toBeLessThan(1000);
    setTimeout(letGo, 300);
    expect((await waiting).body).toEqual({ held: true });
    await closed;
    // Not the keep-alive time of the connection that had to wait.
    expect(performance.now() - begin).toBeLessThan(4000);
  });

  it('answers requests that still come with 503', async () => {
    await start();
    const socket = connect(port, '127.0.0.1');
    let text = '';
    socket.on('data', (chunk) => {
      text += chunk;
    });
    // Two on one connection: the second comes while the first is worked on and the service stops.
    socket.write('GET /hold HTTP/1.1\r\nhost: x\r\n\r\n');
    await new Promise((resolve) => setTimeout(resolve, 50));
    const closed = closeServer(app, 5000);
    await new Promise((resolve) => setTimeout(resolve, 50));
    socket.write('GET /things HTTP/1.1\r\nhost: x\r\n\r\n');
    setTimeout(letGo, 100);
    await closed;
    await until(() => text.includes('not_ready'));
    expect(text).toMatch(/HTTP\/1\.1 200 OK[\s\S]+HTTP\/1\.1 503/);
    expect(text).toMatch(/retry-after: 1/i);
    await expect(fetch(`http://127.0.0.1:${port}/things`)).rejects.toThrow();
  });

  it('takes no longer than its grace', async () => {
    await start();
    const cut = new Promise((resolve) => {
      httpRequest({ port, host: '127.0.0.1', path: '/hold' }).on('error', resolve).end();
    });
    await new Promise((resolve) => setTimeout(resolve, 50));
    const begin = performance.now();
    await closeServer(app, 300);
    expect(performance.now() - begin).toBeLessThan(3000);
    await cut;
  });
});

/** Sends a little every 50 ms. */
function drip(text: string) {
  return (socket: { write(text: string): boolean; on(event: 'close', listener: () => void): unknown }): void => {
    const timer = setInterval(() => socket.write(text), 50);
    socket.on('close', () => clearInterval(timer));
  };
}

async function until(condition: () => boolean): Promise<void> {
  for (let tries = 0; tries < 200 && !condition(); tries += 1) await new Promise((resolve) => setTimeout(resolve, 10));
  expect(condition()).toBe(true);
}
