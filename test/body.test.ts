import { randomBytes } from 'node:crypto';
import { gzipSync } from 'node:zlib';
import type { FastifyInstance } from 'fastify';
import { afterEach, describe, expect, it } from 'vitest';
import { BodyBudget, BodyLease, bodyOf } from '../src/http/body.ts';
import { closeServer, createServer, type ServerLimits } from '../src/http/server.ts';
import { listen, talk } from './support/http.ts';

const KIB = 1024;
const MIB = 1024 * KIB;
const NDJSON = { types: ['application/json', 'application/x-ndjson'], limit: MIB } as const;

let app: FastifyInstance;
let port: number;
/** Handlers of /hold wait for this. */
let letGo: () => void;

/** `/event` and `/batch` answer with the length of what came and its last byte; `/hold` waits; `/fail` throws. */
async function start(limits: Partial<ServerLimits> = {}): Promise<void> {
  app = createServer({
    log: { warn: () => undefined, error: () => undefined },
    limits: { bodyBytesMax: 64 * KIB, ...limits },
  });
  const held = new Promise<void>((resolve) => {
    letGo = resolve;
  });
  const config = { permission: 'events:write' as const };
  app.post('/event', { config }, async (request) => {
    const body = bodyOf(request);
    return { length: body.length, last: body.at(-1) ?? null };
  });
  app.post('/batch', { config: { ...config, body: NDJSON } }, async (request) => ({ length: bodyOf(request).length }));
  app.post('/hold', { config: { ...config, body: NDJSON } }, async () => held.then(() => ({ held: true })));
  app.post('/fail', { config }, async () => {
    throw new Error('a bug');
  });
  port = await listen(app);
}

afterEach(async () => {
  letGo();
  await closeServer(app, 200);
});

async function post(path: string, body: Buffer | string, headers: Record<string, string> = {}) {
  const response = await fetch(`http://127.0.0.1:${port}${path}`, {
    method: 'POST',
    headers: { 'content-type': 'application/json', ...headers },
    body,
  });
  return { status: response.status, headers: response.headers, body: await response.json() };
}

const gzip = { 'content-encoding': 'gzip' };

describe('a body', () => {
  it('comes to the handler as it was sent', async () => {
    await start();
    expect(await post('/event', '{}')).toMatchObject({ status: 200, body: { length: 2, last: 125 } });
    expect(await post('/event', Buffer.alloc(64 * KIB, 1))).toMatchObject({
      status: 200,
      body: { length: 64 * KIB, last: 1 },
    });
    expect(await post('/event', '')).toMatchObject({ status: 200, body: { length: 0 } });
    expect(app.bodyBudget.used).toBe(0);
  });

  it('comes in pieces as well, with and without a declared length', async () => {
    await start();
    const bytes = randomBytes(50_000);
    const head = 'POST /event HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\n';
    const send = (parts: Buffer[]) => (socket: { write(bytes: Buffer): boolean }) => {
      for (const [index, part] of parts.entries()) setTimeout(() => socket.write(part), 20 * (index + 1));
    };
    const thirds = [bytes.subarray(0, 17_000), bytes.subarray(17_000, 17_001), bytes.subarray(17_001)];
    const declared = await talk(port, `${head}content-length: 50000\r\n\r\n`, { send: send(thirds) });
    expect(JSON.parse(declared.body)).toEqual({ length: 50_000, last: bytes.at(-1) });

    const framed = thirds.map((part) =>
      Buffer.concat([Buffer.from(`${part.length.toString(16)}\r\n`), part, Buffer.from('\r\n')]),
    );
    const chunked = await talk(port, `${head}transfer-encoding: chunked\r\n\r\n`, {
      send: send([...framed, Buffer.from('0\r\n\r\n')]),
    });
    expect(chunked.status).toBe(200);
    expect(chunked.body).toContain(`"length":50000,"last":${bytes.at(-1)}`);
    expect(app.bodyBudget.used).toBe(0);
  });

  it.each([
    'application/json',
    'Application/JSON',
    'application/json; charset=utf-8',
    'application/json;charset=UTF-8',
    'application/json; charset="utf-8"',
  ])('may have the content type %s', async (type) => {
    await start();
    expect(await post('/event', '{}', { 'content-type': type })).toMatchObject({ status: 200 });
  });

  it.each([
    'text/plain',
    'application/x-ndjson',
    'application/json; charset=utf-7',
    'application/json; charset=latin1',
    'application/json; charset=utf-8; charset=utf-7',
    'application/json; profile=x',
    'application/json, application/json',
    'application/jsonp',
    'application/x-www-form-urlencoded',
    'multipart/form-data; boundary=x',
    'json',
    '',
  ])('of the content type %j is refused', async (type) => {
    await start();
    expect(await post('/event', '{}', { 'content-type': type })).toMatchObject({
      status: 415,
      body: { code: 'unsupported_media_type' },
    });
    expect(app.bodyBudget.used).toBe(0);
  });

  it('without a content type, and no body at all, are refused', async () => {
    await start();
    const head = 'POST /event HTTP/1.1\r\nhost: x\r\nconnection: close\r\n';
    expect(await talk(port, `${head}content-length: 2\r\n\r\n{}`)).toMatchObject({ status: 415 });
    expect(await talk(port, `${head}\r\n`)).toMatchObject({ status: 415 });
    expect(await talk(port, `${head}content-length: 0\r\n\r\n`)).toMatchObject({ status: 415 });
  });

  it('with two content types is refused, whichever comes first', async () => {
    await start();
    const head = 'POST /event HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 2\r\n';
    const types = ['content-type: application/json\r\n', 'content-type: text/plain\r\n'];
    for (const both of [types, types.toReversed()]) {
      expect(await talk(port, `${head}${both.join('')}\r\n{}`)).toMatchObject({ status: 415 });
    }
  });

  it('of NDJSON is taken where the route says so', async () => {
    await start();
    expect(await post('/batch', '{}\n', { 'content-type': 'application/x-ndjson' })).toMatchObject({ status: 200 });
    expect(await post('/batch', '[]')).toMatchObject({ status: 200 });
  });

  it('is refused at its limit plus one, before it is read when its length is declared', async () => {
    await start();
    const tooLarge = { status: 413, body: { code: 'too_large' } };
    expect(await post('/event', Buffer.alloc(64 * KIB + 1))).toMatchObject(tooLarge);
    // Not a byte of the body is sent.
    const head = 'POST /event HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n';
    const early = await talk(port, `${head}content-length: 65537\r\n\r\n`, { untilMs: 500 });
    expect(early.status).toBe(413);
    // Chunked: at the byte too many.
    const framed = `10000\r\n${'x'.repeat(65_536)}\r\n1\r\nx\r\n`;
    const chunked = await talk(port, `${head}transfer-encoding: chunked\r\n\r\n${framed}`, { untilMs: 500 });
    expect(chunked.status).toBe(413);
    expect(app.bodyBudget.used).toBe(0);
  });

  it('that is far too large is answered all the same, and its sender cut', async () => {
    await start();
    expect(await post('/event', Buffer.alloc(20 * MIB))).toMatchObject({ status: 413 });
    const endless = await talk(
      port,
      'POST /event HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 900000000\r\n\r\n',
      {
        untilMs: 5000,
        send: (socket) => {
          const timer = setInterval(() => socket.write('x'), 50);
          socket.on('close', () => clearInterval(timer));
        },
      },
    );
    expect(endless.status).toBe(413);
    expect(endless.ms).toBeLessThan(2500);
  });

  it('that is sent on at full speed after its refusal is cut by what it brought', async () => {
    await start();
    let sent = 0;
    const piece = Buffer.alloc(MIB);
    const head =
      'POST /event HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 900000000\r\n\r\n';
    const answer = await talk(port, head, {
      untilMs: 5000,
      send: (socket) => {
        const more = (): void => {
          sent += piece.length;
          socket.write(piece, (error) => {
            if (error == null && sent < 400 * MIB) more();
          });
        };
        more();
      },
    });
    expect(answer.status).toBe(413);
    // 32 MiB and what the two sockets hold.
    expect(sent).toBeLessThan(64 * MIB);
  });

  it('is not asked for when it will be refused (Expect: 100-continue)', async () => {
    await start();
    const head =
      'POST /event HTTP/1.1\r\nhost: x\r\nconnection: close\r\nexpect: 100-continue\r\ncontent-type: application/json\r\n';
    const refused = await talk(port, `${head}content-length: 70000\r\n\r\n`, { untilMs: 3000 });
    expect(refused.status).toBe(413);

    let asked = '';
    const taken = await talk(port, `${head}content-length: 2\r\n\r\n`, {
      send: (socket) =>
        socket.once('data', (chunk) => {
          asked = chunk.toString();
          socket.write('{}');
        }),
    });
    expect(asked).toContain('100 Continue');
    expect(taken.status).toBe(200);

    const strange = head.replace('100-continue', '200-ok');
    expect(await talk(port, `${strange}content-length: 2\r\n\r\n{}`)).toMatchObject({ status: 200 });
  });

  it('that ends early reaches no handler and frees its memory', async () => {
    await start();
    for (const encoding of ['', 'content-encoding: gzip\r\n']) {
      const head = `POST /event HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n${encoding}content-length: 100\r\n\r\n{`;
      const answer = await talk(port, head, { send: (socket) => setTimeout(() => socket.end(), 50), untilMs: 2000 });
      expect(answer.status).not.toBe(200);
      await until(() => app.bodyBudget.used === 0);
    }
  });
});

describe('a gzip body', () => {
  it('comes decoded', async () => {
    await start();
    expect(await post('/event', gzipSync('{"a":1}'), gzip)).toMatchObject({
      status: 200,
      body: { length: 7, last: 125 },
    });
    expect(await post('/event', gzipSync('{}'), { 'content-encoding': 'X-GZIP' })).toMatchObject({ status: 200 });
    expect(await post('/event', '{}', { 'content-encoding': 'identity' })).toMatchObject({ status: 200 });
    // Random, so that it spans many chunks either way.
    expect(await post('/batch', gzipSync(randomBytes(900_000)), gzip)).toMatchObject({
      status: 200,
      body: { length: 900_000 },
    });
    // RFC 1952 section 2.2: several members are one file.
    const members = Buffer.concat([gzipSync('{"a":'), gzipSync('1}')]);
    expect(await post('/event', members, gzip)).toMatchObject({ status: 200, body: { length: 7 } });
    expect(app.bodyBudget.used).toBe(0);
  });

  it.each(['deflate', 'br', 'zstd', 'compress', 'gzip, gzip', 'gzip, identity', 'nonsense', '*'])(
    'is the only one: %s is refused',
    async (encoding) => {
      await start();
      const answer = await post('/event', gzipSync('{}'), { 'content-encoding': encoding });
      expect(answer).toMatchObject({ status: 415, body: { code: 'unsupported_media_type' } });
      expect(answer.headers.get('accept-encoding')).toBe('gzip');
    },
  );

  const sound = gzipSync('{"some":"event","that":"is long enough to be cut"}');
  const flipped = (index: number) => {
    const bytes = Buffer.from(sound);
    bytes[index] = (bytes[index] as number) ^ 1;
    return bytes;
  };
  it.each<[string, Buffer]>([
    ['nothing', Buffer.alloc(0)],
    ['no gzip at all', Buffer.from('{}')],
    ['cut in its header', sound.subarray(0, 5)],
    ['cut in its data', sound.subarray(0, 30)],
    ['cut in its checksum', sound.subarray(0, -5)],
    ['cut by one byte', sound.subarray(0, -1)],
    ['with another checksum', flipped(sound.length - 8)],
    ['with another length', flipped(sound.length - 4)],
    ['with another method', flipped(2)],
    ['followed by text', Buffer.concat([sound, Buffer.from('{}')])],
    ['followed by a zero', Buffer.concat([sound, Buffer.alloc(1)])],
    ['followed by zeros and text', Buffer.concat([sound, Buffer.alloc(512), Buffer.from('{}')])],
    ['followed by half a member', Buffer.concat([sound, sound.subarray(0, 20)])],
    ['followed by a damaged member', Buffer.concat([sound, flipped(sound.length - 8)])],
    ['followed by much', Buffer.concat([sound, Buffer.alloc(60_000)])],
  ])('that is %s is refused', async (_damage, bytes) => {
    await start();
    expect(await post('/event', bytes, gzip)).toMatchObject({ status: 400, body: { code: 'invalid_encoding' } });
    await until(() => app.bodyBudget.used === 0);
  });

  it('is held to its limit by what it decodes to', async () => {
    await start();
    const lines = (bytes: number) => gzipSync(randomBytes(bytes / 2).toString('hex'));
    expect(await post('/event', lines(64 * KIB), gzip)).toMatchObject({ status: 200 });
    expect(await post('/event', lines(64 * KIB + 2), gzip)).toMatchObject({ status: 413, body: { code: 'too_large' } });
    // And by what arrives.
    expect(await post('/event', gzipSync(randomBytes(70_000)), gzip)).toMatchObject({ status: 413 });
    expect(app.bodyBudget.used).toBe(0);
  });

  it('that goes on and on without saying anything is refused at its limit', async () => {
    await start();
    // Empty stored blocks (RFC 1951 section 3.2.4): they decode to nothing, so neither limit nor ratio is ever reached.
    const header = gzipSync('').subarray(0, 10);
    const nothing = Buffer.alloc(5 * 20_000, Buffer.from([0, 0, 0, 0xff, 0xff]));
    const piece = (bytes: Buffer) =>
      Buffer.concat([Buffer.from(`${bytes.length.toString(16)}\r\n`), bytes, Buffer.from('\r\n')]);
    const head =
      'POST /event HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-encoding: gzip\r\ntransfer-encoding: chunked\r\n\r\n';
    const answer = await talk(port, Buffer.concat([Buffer.from(head), piece(header), piece(nothing)]), {
      untilMs: 500,
    });
    expect(answer.status).toBe(413);
    await until(() => app.bodyBudget.used === 0);
  });

  it('that is a bomb is refused early, alone and nested, and costs no memory', async () => {
    await start();
    const bomb = gzipSync(Buffer.alloc(512 * MIB));
    expect(bomb.length).toBeLessThan(MIB);
    const before = process.memoryUsage.rss();
    for (let round = 0; round < 5; round += 1) {
      const answer = await post('/batch', bomb, gzip);
      expect(answer).toMatchObject({ status: 413, body: { code: 'too_large' } });
    }
    expect(process.memoryUsage.rss() - before).toBeLessThan(64 * MIB);
    expect(app.bodyBudget.used).toBe(0);
    // Decoded once only.
    expect(await post('/event', gzipSync(gzipSync(Buffer.alloc(32 * MIB))), gzip)).toMatchObject({ status: 200 });
  });

  it('may expand as much as logs do, but not without bound', async () => {
    await start();
    const nulls = Buffer.alloc(64 * KIB);
    // Below the free bytes the ratio does not count (here some 800).
    expect(await post('/batch', gzipSync(nulls), gzip)).toMatchObject({ status: 200 });
    const answer = await post('/batch', gzipSync(Buffer.alloc(200 * KIB)), gzip);
    expect(answer).toMatchObject({ status: 413, body: { detail: expect.stringContaining('200 times') } });
    const repeated = '{"category":"data_access","action":"report.view","n":123456}\n';
    const log = Array.from({ length: 10_000 }, (_, index) => repeated.replace('123456', String(index * 7919))).join('');
    expect(log.length / gzipSync(log).length).toBeGreaterThan(5);
    expect(await post('/batch', gzipSync(log), gzip)).toMatchObject({ status: 200 });
  });
});

describe('the memory of all bodies', () => {
  const busy = { status: 503, body: { code: 'busy' } };

  it('is reserved by declared length and held until the handler is done', async () => {
    await start({ bodyBudgetBytes: 250_000 });
    const first = post('/hold', Buffer.alloc(100_000));
    const second = post('/hold', Buffer.alloc(100_000));
    await until(() => app.bodyBudget.used === 200_000);
    const third = await post('/hold', Buffer.alloc(100_000));
    expect(third).toMatchObject(busy);
    expect(Number(third.headers.get('retry-after'))).toBeGreaterThan(0);
    // What fits still goes.
    expect(await post('/event', Buffer.alloc(40_000))).toMatchObject({ status: 200 });
    letGo();
    expect(await first).toMatchObject({ status: 200 });
    expect(await second).toMatchObject({ status: 200 });
    await until(() => app.bodyBudget.used === 0);
  });

  it('is counted as it arrives where no length is declared, and as it decodes', async () => {
    await start({ bodyBudgetBytes: 300_000 });
    const held = post('/hold', Buffer.alloc(100_000));
    await until(() => app.bodyBudget.used === 100_000);
    const framed = `${(250_000).toString(16)}\r\n${'x'.repeat(250_000)}\r\n0\r\n\r\n`;
    const head =
      'POST /batch HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n';
    expect(await talk(port, head + framed)).toMatchObject({ status: 503 });
    expect(await post('/batch', gzipSync(randomBytes(100_000).toString('hex')), gzip)).toMatchObject(busy);
    letGo();
    expect(await held).toMatchObject({ status: 200 });
    await until(() => app.bodyBudget.used === 0);
  });

  it('is not freed by a client that goes away while the handler holds the body', async () => {
    await start();
    const body = 'x'.repeat(1000);
    const head = 'POST /hold HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 1000\r\n\r\n';
    await talk(port, head + body, { untilMs: 100 });
    expect(app.bodyBudget.used).toBe(1000);
    letGo();
    await until(() => app.bodyBudget.used === 0);
  });

  it('is freed after a bug, and by a refusal', async () => {
    await start();
    expect(await post('/fail', '{}')).toMatchObject({ status: 500, body: { code: 'internal' } });
    expect(await post('/nothing', Buffer.alloc(100_000))).toMatchObject({ status: 404 });
    expect(app.bodyBudget.used).toBe(0);
  });

  it('is never given back twice', () => {
    const budget = new BodyBudget(10);
    const lease = new BodyLease(budget);
    lease.grow(6);
    lease.end();
    lease.end();
    lease.shrink(3);
    expect(budget.used).toBe(0);
    expect(() => lease.grow(1)).toThrow('Too many');
    expect(() => new BodyLease(budget).grow(11)).toThrow('Too many');
    expect(() => budget.give(1)).toThrow('more memory');
  });
});

async function until(condition: () => boolean): Promise<void> {
  for (let tries = 0; tries < 200 && !condition(); tries += 1) await new Promise((resolve) => setTimeout(resolve, 10));
  expect(condition()).toBe(true);
}
