/** Webhooks: what a receiver gets, what its answers mean for each entry, and what never leaves. */
import { Webhook } from 'standardwebhooks';
import { beforeAll, describe, expect, test } from 'vitest';
import { retryAfterMs } from '../src/export/http-answers.ts';
import { httpSinkMembers, PRESET_NAMES, readHttpSink } from '../src/export/http-sinks.ts';
import { jsonText } from '../src/export/json.ts';
import { webhookHeaders, webhookKey } from '../src/export/standard-webhooks.ts';
import { TooLongError } from '../src/export/too-long-error.ts';
import { decodeCef } from './support/cef-decoder.ts';
import { exportedEntry } from './support/exported.ts';
import { hostileEvent } from './support/hostile-events.ts';
import { seededRandom } from './support/hostile-strings.ts';
import {
  batch,
  byFate,
  deliverAll,
  entries,
  failure,
  NEVER,
  names,
  openSink,
  type SinkOptions,
  siem,
  siemCertificate,
  type Tls,
} from './support/http-sink.ts';
import {
  answers,
  answersHalf,
  answersHuge,
  cuts,
  drips,
  hangs,
  idsIn,
  type SiemServer,
  webhook,
} from './support/siem-server.ts';

const open = (server: SiemServer, members: Readonly<Record<string, unknown>> = {}, options?: SinkOptions) =>
  openSink(undefined, { url: `${server.url}/hook`, ...members }, options);

const sentIds = (server: SiemServer): string[][] => server.requests.map(({ text }) => idsIn(text));

let tls: Tls;
beforeAll(async () => {
  tls = await siemCertificate();
});

describe('a body', () => {
  const five = entries(names(5));
  const jsons = five.map((one) => jsonText(one));

  test.each([
    ['json-array', `[${jsons.join(',\n')}]`, 'application/json'],
    ['ndjson', `${jsons.join('\n')}\n`, 'application/x-ndjson'],
    ['concatenated-json', jsons.join(''), 'application/json'],
  ])('is %s', async (body, text, type) => {
    const server = await siem(webhook());
    const transport = open(server, { body });
    await transport.deliver(batch(transport, five), NEVER);
    const [request] = server.requests;
    expect(request).toMatchObject({ method: 'POST', url: '/hook', text });
    expect(request!.headers).toMatchObject({ 'content-type': type, 'content-length': String(Buffer.byteLength(text)) });
    expect(request!.headers).not.toHaveProperty('webhook-signature');
    expect(idsIn(text)).toEqual(names(5));
  });

  test('is json-object: a request for each entry, in order, on one connection', async () => {
    const server = await siem(webhook());
    const transport = open(server, { body: 'json-object' });
    expect(transport.batchMessagesMax).toBe(100);
    await transport.deliver(batch(transport, five), NEVER);
    expect(server.requests.map(({ text }) => text)).toEqual(jsons);
    expect(server.connections()).toBe(1);
  });

  test('is text-lines, of CEF alone', async () => {
    const server = await siem(webhook());
    const transport = open(server, { format: 'cef' });
    await transport.deliver(batch(transport, five), NEVER);
    const lines = server.requests[0]!.text.split('\n');
    expect(lines.pop()).toBe('');
    expect(lines.map((line) => decodeCef(line).fields.get('externalId'))).toEqual(names(5));
    expect(server.requests[0]!.headers['content-type']).toBe('text/plain; charset=utf-8');
    for (const wrong of [{ format: 'cef', body: 'ndjson' }, { body: 'text-lines' }])
      expect(readHttpSink(undefined, { url: 'https://siem.example', ...wrong })).toMatchObject({
        errors: [{ field: 'body' }],
      });
  });

  test('is OCSF where that is asked for', async () => {
    const server = await siem(webhook());
    const transport = open(server, { format: 'ocsf' });
    await transport.deliver(batch(transport, five), NEVER);
    expect(JSON.parse(server.requests[0]!.text)[4]).toMatchObject({ class_uid: 6003, unmapped: { id: 'e4' } });
  });

  test('is compressed where that is asked for', async () => {
    const server = await siem(webhook());
    const plain = open(server);
    await plain.deliver(batch(plain, five), NEVER);
    const transport = open(server, { gzip: true });
    await transport.deliver(batch(transport, five), NEVER);
    const [first, second] = server.requests;
    expect(second!.headers['content-encoding']).toBe('gzip');
    expect(second!.text).toBe(first!.text);
    expect(second!.bytesSent).toBeLessThan(first!.bytesSent / 2);
  });

  test.each(['json-array', 'ndjson', 'concatenated-json', 'text-lines'])(
    'as %s carries whatever was logged, and no entry can look like two',
    async (body) => {
      const server = await siem(webhook());
      const random = seededRandom(7);
      const exported = Array.from({ length: 200 }, (_, seq) => exportedEntry(hostileEvent(random), { seq }));
      const transport = open(server, { body, format: body === 'text-lines' ? 'cef' : 'json', bytesMax: 16_000_000 });
      await transport.deliver(batch(transport, exported), NEVER);
      const { text } = server.requests[0]!;
      if (body === 'text-lines') {
        const lines = text.split('\n').slice(0, -1);
        expect(lines.map((line) => decodeCef(line).fields.get('cn1'))).toEqual(exported.map((_, seq) => String(seq)));
        return;
      }
      if (body === 'ndjson') expect(text.split(/\r\n|[\n\r\u0085\u2028\u2029]/)).toHaveLength(201);
      expect(idsIn(text)).toEqual(exported.map(({ entry }) => entry.record.id));
    },
  );

  test('is never larger than it may be: an entry that is longer is written shorter, or not at all', async () => {
    const server = await siem(webhook());
    const transport = open(server, { bytesMax: 100_000 });
    const long = entries(['a'], { details: { text: 'x'.repeat(200_000) }, reason: 'because' })[0]!;
    const text = Buffer.from(transport.encode(long)).toString();
    expect(text.length).toBeLessThan(100_000);
    expect(JSON.parse(text)).toMatchObject({ reason: 'because', log: { omitted: ['details'] } });
    const longest = entries(['a'.repeat(100_000)])[0]!;
    expect(() => transport.encode(longest)).toThrow(TooLongError);
  });

  test('is one of several where a batch is larger than a request may be', async () => {
    const server = await siem(webhook());
    const transport = open(server, { bytesMax: 100_000, messagesMax: 100 });
    const messages = batch(transport, entries(names(250), { reason: 'x'.repeat(2000) }));
    const fates = await transport.deliver(messages, NEVER);
    expect(byFate(messages, fates).delivered).toEqual(names(250));
    expect(sentIds(server).flat()).toEqual(names(250));
    expect(Math.max(...server.requests.map(({ bytesSent }) => bytesSent))).toBeLessThanOrEqual(100_000);
    expect(Math.max(...sentIds(server).map((ids) => ids.length))).toBeLessThanOrEqual(100);
  });
});

describe('a signature', () => {
  const SECRET = `whsec_${Buffer.alloc(32, 7).toString('base64')}`;
  const OLDER = `whsec_${Buffer.alloc(24, 9).toString('base64')}`;

  test('is that of the specification’s vector', () => {
    const headers = webhookHeaders(
      [webhookKey('whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw')!],
      'msg_p5jXN8AQM9LWM0D4loKWxJek',
      1_614_265_330_999,
      Buffer.from('{"test": 2432232314}'),
    );
    expect(headers).toEqual({
      'webhook-id': 'msg_p5jXN8AQM9LWM0D4loKWxJek',
      'webhook-timestamp': '1614265330',
      'webhook-signature': 'v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=',
    });
  });

  test.each([
    ['json-array', false],
    ['json-array', true],
    ['json-object', false],
    ['ndjson', true],
  ])('of %s (gzip: %s) is verified by the receivers’ library, with each secret of a rotation', async (body, gzip) => {
    const server = await siem(webhook());
    const transport = open(server, { body, gzip, signingSecrets: [SECRET, OLDER] });
    await transport.deliver(
      batch(
        transport,
        entries(
          ['é', '‮'].map((c) => `a${c.length}`),
          { reason: 'é‮' },
        ),
      ),
      NEVER,
    );
    for (const { text, headers } of server.requests) {
      for (const secret of [SECRET, OLDER]) {
        const own = headers as Record<string, string>;
        expect(() => new Webhook(secret).verify(text, own, { jsonParse: body !== 'ndjson' })).not.toThrow();
        expect(() => new Webhook(secret).verify(`${text} `, own)).toThrow();
      }
      const other = `whsec_${Buffer.alloc(32, 8).toString('base64')}`;
      expect(() => new Webhook(other).verify(text, headers as Record<string, string>)).toThrow();
    }
  });

  test('keeps its id when the same entries go again, at another time, from another process; other entries have another', async () => {
    const server = await siem(webhook());
    let now = 1_800_000_000_000;
    const members = { signingSecrets: [SECRET] };
    const transport = open(server, members, { wallClock: () => now });
    const messages = batch(transport, entries(names(3)));
    server.faults.push(answers(503));
    await failure(transport.deliver(messages, NEVER));
    now += 60_000;
    await transport.deliver(messages, NEVER);
    const restarted = open(server, members, { wallClock: () => now });
    await restarted.deliver(messages, NEVER);
    await restarted.deliver(messages.slice(0, 2), NEVER);
    const ids = server.requests.map(({ headers }) => headers['webhook-id']);
    expect(ids[0]).toMatch(/^msg_[0-9a-f]{40}$/);
    expect(ids.slice(0, 3)).toEqual([ids[0], ids[0], ids[0]]);
    expect(ids[3]).not.toBe(ids[0]);
    expect(server.requests.map(({ headers }) => headers['webhook-timestamp'])).toEqual(
      [1_800_000_000, 1_800_000_060, 1_800_000_060, 1_800_000_060].map(String),
    );
    expect(server.requests[0]!.headers['webhook-signature']).not.toBe(server.requests[1]!.headers['webhook-signature']);
  });

  test.each([
    'MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw',
    'whsec_',
    `whsec_${Buffer.alloc(23).toString('base64')}`,
    `whsec_${Buffer.alloc(65).toString('base64')}`,
    `whsec_${Buffer.alloc(32, 255).toString('base64url')}`,
    `whsec_${Buffer.alloc(32).toString('base64')} `,
    `whsec_${Buffer.alloc(32).toString('base64').replace('=', '')}`,
    `whsk_${Buffer.alloc(32).toString('base64')}`,
  ])('needs a secret, which %s is not', (secret) => {
    expect(webhookKey(secret)).toBeUndefined();
    const read = readHttpSink(undefined, { url: 'https://siem.example', signingSecrets: [SECRET, secret] });
    expect(read).toEqual({
      errors: [{ field: 'signingSecrets', message: expect.stringMatching(/^\[1\] must be whsec_/) }],
    });
  });
});

describe('credentials', () => {
  test.each([
    [{ bearerToken: 't-1' }, { authorization: 'Bearer t-1' }],
    [
      { basicUser: 'sealog', basicPassword: 'pässword:1' },
      { authorization: `Basic ${Buffer.from('sealog:pässword:1').toString('base64')}` },
    ],
    [
      { secretHeaders: { 'X-Api-Key': 'k-1' }, headers: { 'X-Plant': '7' } },
      { 'x-api-key': 'k-1', 'x-plant': '7' },
    ],
  ])('are sent: %j', async (members, headers) => {
    const server = await siem(webhook());
    const transport = open(server, members);
    await transport.deliver(batch(transport, entries(['a'])), NEVER);
    expect(server.requests[0]!.headers).toMatchObject(headers);
  });

  test('are also a certificate, to a server of an authority of its own', async () => {
    const { startSiem } = await import('./support/siem-server.ts');
    const server = await startSiem(webhook(), { ...tls, ca: tls.cert, requestCert: true, rejectUnauthorized: true });
    try {
      const members = { tlsCa: tls.cert };
      const transport = open(server, { ...members, tlsCert: tls.cert, tlsKey: tls.key });
      const fates = await transport.deliver(batch(transport, entries(['a'])), NEVER);
      expect(fates).toEqual([{ kind: 'delivered' }]);
      const without = open(server, members);
      expect((await failure(without.deliver(batch(without, entries(['a'])), NEVER))).reason).toBe('unreachable');
      const untrusting = open(server);
      const error = await failure(untrusting.deliver(batch(untrusting, entries(['a'])), NEVER));
      expect(error.message).toContain('DEPTH_ZERO_SELF_SIGNED_CERT');
    } finally {
      await server.stop();
    }
  });
});

describe('an answer', () => {
  test.each([200, 201, 202, 204, 299])('of %i delivers all', async (status) => {
    const server = await siem(() => ({ status }));
    const transport = open(server);
    const messages = batch(transport, entries(names(3)));
    expect(byFate(messages, await transport.deliver(messages, NEVER)).delivered).toEqual(names(3));
  });

  test.each([
    [301, 'refused'],
    [302, 'refused'],
    [307, 'refused'],
    [308, 'refused'],
    [401, 'unauthorized'],
    [403, 'unauthorized'],
    [404, 'refused'],
    [405, 'refused'],
    [407, 'unauthorized'],
    [408, 'refused'],
    [410, 'refused'],
    [411, 'refused'],
    [415, 'refused'],
    [425, 'refused'],
    [429, 'refused'],
    [451, 'refused'],
    [500, 'refused'],
    [501, 'refused'],
    [502, 'refused'],
    [503, 'refused'],
    [504, 'refused'],
    [599, 'refused'],
  ])('of %i says nothing of the entries: all go again, and all arrive', async (status, reason) => {
    const server = await siem(webhook());
    server.faults.push(answers(status, { location: `${server.url}/elsewhere` }, 'hidden'));
    const transport = open(server);
    const messages = batch(transport, entries(names(3)));
    const error = await failure(transport.deliver(messages, NEVER));
    expect(error).toMatchObject({ reason, retryAfterMs: undefined });
    expect(error.message).toMatch(new RegExp(`^${server.url}: answered ${status}(, [ a-zA-Z,:]+)?$`));
    expect(await deliverAll(transport, messages)).toEqual([]);
    // Once to no avail, once well; and nobody went where the redirect led.
    expect(sentIds(server)).toEqual([names(3), names(3)]);
    expect(server.requests.every(({ url }) => url === '/hook')).toBe(true);
  });

  test.each([
    ['429', '7', 7000],
    ['503', '0', 0],
    ['503', 'Sun, 22 Nov 2026 21:05:05 GMT', 60_000],
    ['429', 'Sunday, 22-Nov-26 21:05:05 GMT', 60_000],
    ['503', 'Sun, 22 Nov 2026 20:05:05 GMT', 0],
    ['429', '99999999', 3_600_000],
    ['503', '-1', undefined],
    ['503', '1.5', undefined],
    ['503', '5, 10', undefined],
    ['503', '2026-11-22T21:05:05Z', undefined],
    ['503', 'Sun, 99 Nov 2026 20:05:05 GMT', undefined],
    ['503', 'soon', undefined],
    ['503', '', undefined],
  ])('of %s with Retry-After %j asks for a pause', async (status, retryAfter, ms) => {
    const server = await siem(webhook());
    server.faults.push(answers(Number(status), { 'retry-after': retryAfter }));
    const transport = open(server, {}, { wallClock: () => Date.UTC(2026, 10, 22, 21, 4, 5) });
    const error = await failure(transport.deliver(batch(transport, entries(['a'])), NEVER));
    expect(error.retryAfterMs).toBe(ms);
    expect(retryAfterMs(retryAfter, Date.UTC(2026, 10, 22, 21, 4, 5))).toBe(ms);
  });

  test.each([
    ['that does not come', hangs, 'timeout'],
    ['that comes a byte at a time', drips, 'timeout'],
    ['that is a cut connection', cuts, 'unreachable'],
    ['that is cut', answersHalf, 'unreachable'],
  ] as const)('%s leaves all of them to go again', async (_, fault, reason) => {
    const server = await siem(webhook());
    const transport = open(server, {}, { timing: { callMs: 300 } });
    const messages = batch(transport, entries(names(3)));
    // A connection that is kept does not matter.
    await transport.deliver(batch(transport, entries(['before'])), NEVER);
    server.faults.push(fault, fault);
    expect((await failure(transport.deliver(messages, NEVER))).reason).toBe(reason);
    server.faults.length = 0;
    expect(await deliverAll(transport, messages)).toEqual([]);
    expect(new Set(sentIds(server).slice(1).map(String))).toEqual(new Set([String(names(3))]));
  });

  test('that is huge counts by its status', async () => {
    const server = await siem(webhook());
    server.faults.push(answersHuge, answers(503, {}, 'x'.repeat(3_000_000)));
    const transport = open(server);
    const messages = batch(transport, entries(names(3)));
    expect(byFate(messages, await transport.deliver(messages, NEVER)).delivered).toEqual(names(3));
    expect((await failure(transport.deliver(messages, NEVER))).message).toBe(`${server.url}: answered 503`);
    // Nobody reads on, so the connection is of no more use.
    expect(server.connections()).toBe(2);
  });

  test('that does not come ends with the sink', async () => {
    const server = await siem(webhook());
    server.faults.push(hangs, hangs);
    const transport = open(server);
    const messages = batch(transport, entries(['a']));
    const stop = new AbortController();
    const first = failure(transport.deliver(messages, stop.signal));
    const second = failure(transport.deliver(messages, NEVER));
    await expect.poll(() => server.requests.length).toBe(2);
    stop.abort();
    expect((await first).reason).toBe('stopped');
    transport.close();
    expect((await second).reason).toBe('stopped');
  });

  test('is whole before the next request goes: what is behind a failure is not sent', async () => {
    const server = await siem(webhook());
    const transport = open(server, { messagesMax: 2 });
    const messages = batch(transport, entries(names(6)));
    server.faults.push(answers(200), answers(503, { 'retry-after': '3' }));
    const fates = await transport.deliver(messages, NEVER);
    expect(byFate(messages, fates)).toEqual({ delivered: ['e0', 'e1'], again: ['e2', 'e3', 'e4', 'e5'], refused: [] });
    expect(fates[5]).toMatchObject({ kind: 'again', afterMs: 3000 });
    expect(sentIds(server)).toEqual([
      ['e0', 'e1'],
      ['e2', 'e3'],
    ]);
  });

  test('that is slow ends a delivery after a while, with what was delivered', async () => {
    const server = await siem(webhook());
    const slow: typeof hangs = (response) => void setTimeout(() => response.end(), 60);
    server.faults.push(slow, slow, slow, slow, slow);
    const transport = open(server, { body: 'json-object' }, { timing: { deliveryMs: 100 } });
    const messages = batch(transport, entries(names(5)));
    const { delivered, again, refused } = byFate(messages, await transport.deliver(messages, NEVER));
    expect(delivered).toEqual(names(delivered.length));
    expect(delivered.length).toBeGreaterThan(0);
    expect(again.length).toBeGreaterThan(0);
    expect(refused).toEqual([]);
  });
});

describe('an entry that a receiver will not take', () => {
  test.each([400, 422])('(%i) is found in a batch by halves, and the rest waits behind it', async (status) => {
    for (const [count, at] of [
      [1, 0],
      [2, 0],
      [2, 1],
      [7, 3],
      [64, 0],
      [64, 37],
      [64, 63],
      [1000, 998],
    ] as const) {
      const server = await siem(webhook(new Set([`"id":"e${at}"`]), status));
      const transport = open(server, { messagesMax: 1000 });
      const messages = batch(transport, entries(names(count)));
      const fates = await transport.deliver(messages, NEVER);
      const all = names(count);
      expect(byFate(messages, fates)).toEqual({
        delivered: all.slice(0, at),
        refused: [`e${at}`],
        again: all.slice(at + 1),
      });
      expect(fates[at]).toEqual({ kind: 'refused', reason: `${server.url}: answered ${status} to this entry alone` });
      // The whole, a half of what is left each time, and last the entry alone.
      expect(server.requests.length).toBeLessThanOrEqual(Math.ceil(Math.log2(count)) + 2);
      expect(sentIds(server).at(-1)).toEqual([`e${at}`]);
    }
  });

  test('is refused alone, and never by an answer to several', async () => {
    // This one takes any entry, but no two.
    const server = await siem(({ text }) => ({ status: idsIn(text).length > 1 ? 400 : 200 }));
    const transport = open(server);
    const messages = batch(transport, entries(names(5)));
    const fates = await transport.deliver(messages, NEVER);
    expect(byFate(messages, fates).delivered).toEqual(names(5));
  });

  test('is the first of several: the next is found when it is its turn', async () => {
    const server = await siem(webhook(new Set(['"id":"e3"', '"id":"e9"'])));
    const transport = open(server);
    const messages = batch(transport, entries(names(12)));
    const first = byFate(messages, await transport.deliver(messages, NEVER));
    expect(first.refused).toEqual(['e3']);
    const left = messages.slice(4);
    expect(byFate(left, await transport.deliver(left, NEVER)).refused).toEqual(['e9']);
  });

  test('is not one because the receiver fails on the way to it', async () => {
    const server = await siem(webhook(new Set(['"id":"e6"'])));
    server.faults.push(answers(400), answers(200), answers(503));
    const transport = open(server);
    const messages = batch(transport, entries(names(8)));
    expect(byFate(messages, await transport.deliver(messages, NEVER))).toEqual({
      delivered: names(4),
      again: ['e4', 'e5', 'e6', 'e7'],
      refused: [],
    });
    expect(sentIds(server)).toEqual([names(8), names(4), ['e4', 'e5']]);
  });

  test('(413) is not one as long as it goes with others: requests become smaller, and stay so', async () => {
    const limit = 40_000;
    const server = await siem(({ bytesSent }) => ({ status: bytesSent > limit ? 413 : 200 }));
    const transport = open(server);
    const messages = batch(transport, entries(names(300)));
    expect(byFate(messages, await transport.deliver(messages, NEVER)).delivered).toEqual(names(300));
    const tooLarge = server.requests.filter(({ bytesSent }) => bytesSent > limit);
    expect(tooLarge.length).toBeGreaterThan(0);
    expect(tooLarge.length).toBeLessThanOrEqual(4);
    const before = server.requests.length;
    await transport.deliver(messages, NEVER);
    expect(server.requests.slice(before).every(({ bytesSent }) => bytesSent <= limit)).toBe(true);
  });

  test('(413) is one alone', async () => {
    const server = await siem(({ bytesSent }) => ({ status: bytesSent > 5000 ? 413 : 200 }));
    const transport = open(server);
    const all = entries(names(8));
    all[5] = entries([...names(5), 'long'], { reason: 'x'.repeat(6000) })[5]!;
    const messages = batch(transport, all);
    const { delivered, refused, again } = byFate(messages, await transport.deliver(messages, NEVER));
    expect([delivered, refused, again]).toEqual([names(5), ['long'], ['e6', 'e7']]);
  });
});

describe('connections', () => {
  test('are kept, and one that the receiver gave up is replaced without a word', async () => {
    const server = await siem(webhook());
    const transport = open(server);
    for (const id of names(3)) await transport.deliver(batch(transport, entries([id])), NEVER);
    expect(server.connections()).toBe(1);
    // Cut at the moment of the next request, before a byte of an answer.
    server.faults.push((response) => response.socket!.destroy());
    const messages = batch(transport, entries(['e3']));
    expect(byFate(messages, await transport.deliver(messages, NEVER)).delivered).toEqual(['e3']);
    expect(server.connections()).toBe(2);
    expect(sentIds(server).flat()).toEqual(['e0', 'e1', 'e2', 'e3', 'e3']);
  });

  test.each(['http', 'https'])('over %s go to no address that is not allowed, named or looked up', async (scheme) => {
    const server = await siem(webhook(), scheme === 'https' ? tls : undefined);
    const url = (host: string): string => `${scheme}://${host}:${server.port}/hidden`;
    for (const [host, found] of [
      ['127.0.0.1', '127.0.0.1'],
      ['2130706433', '127.0.0.1'],
      ['[::ffff:127.0.0.1]', '127.0.0.1'],
      ['siem.example', '127.0.0.1'],
      ['siem.example', '169.254.169.254'],
      ['siem.example', '10.0.0.1'],
    ] as const) {
      const resolve = async () => [{ address: found }];
      const transport = openSink(
        undefined,
        { url: url(host), tlsCa: tls.cert },
        { allowAddresses: ['192.168.7.0/24'], resolve },
      );
      const messages = batch(transport, entries(['a']));
      const error = await failure(transport.deliver(messages, NEVER));
      expect(error.reason).toBe('address_not_allowed');
      expect(error.message).not.toContain('hidden');
      expect((await failure(transport.test(NEVER))).reason).toBe('address_not_allowed');
    }
    expect(server.connections()).toBe(0);
  });
});

describe('a test', () => {
  test('is an entry that says so, and tells what the receiver said', async () => {
    const server = await siem(() => ({ status: 202 }));
    const transport = open(server);
    expect(await transport.test(NEVER)).toMatch(
      new RegExp(`^${server.url}: took the test message \\(HTTP 202, \\d+ ms\\)$`),
    );
    expect(JSON.parse(server.requests[0]!.text)).toMatchObject([
      { action: 'sink.test', reason: 'A test of this sink: no entry of the log', log: { stream: 'sealog/test' } },
    ]);
  });

  test.each([
    [answers(400), 'refused'],
    [answers(413), 'refused'],
    [answers(401), 'unauthorized'],
    [answers(503), 'refused'],
    [hangs, 'timeout'],
    [cuts, 'unreachable'],
  ] as const)('fails as a delivery does', async (fault, reason) => {
    const server = await siem(webhook());
    server.faults.push(fault);
    const transport = open(server, {}, { timing: { callMs: 200 } });
    expect((await failure(transport.test(NEVER))).reason).toBe(reason);
  });
});

test('no error holds a secret, a path, a query or a payload', async () => {
  const canary = 'hidden';
  const members = {
    bearerToken: 'hidden-token',
    headers: { 'x-plant': 'hidden-plant' },
    secretHeaders: { 'x-more': 'hidden-header' },
    signingSecrets: [`whsec_${Buffer.from('hidden'.repeat(6)).toString('base64')}`],
  };
  const server = await siem(webhook());
  const transport = openSink(
    undefined,
    { url: `${server.url}/hidden-path?hidden=1`, ...members },
    { timing: { callMs: 200 } },
  );
  const messages = batch(transport, entries(['hidden-id'], { reason: 'hidden' }));
  const faults = [
    ...[301, 400, 401, 404, 413, 422, 429, 500].map((status) =>
      answers(status, { 'x-hidden': 'hidden', location: 'https://hidden.example/hidden' }, 'hidden'),
    ),
    hangs,
    cuts,
    answersHalf,
    answers(500, {}, 'hidden'.repeat(1_000_000)),
  ];
  for (const fault of faults) {
    server.faults.push(fault, fault);
    const told = await transport
      .deliver(messages, NEVER)
      .then(JSON.stringify, (error) => `${error.stack} ${JSON.stringify(error)} ${error.cause}`);
    server.faults.length = 0;
    expect(told).not.toContain(canary);
    server.faults.push(fault, fault);
    const tested = await failure(transport.test(NEVER));
    server.faults.length = 0;
    expect(`${tested.stack} ${JSON.stringify(tested)} ${tested.cause}`).not.toContain(canary);
  }
  for (const preset of [undefined, ...PRESET_NAMES]) {
    const { members: all } = httpSinkMembers(preset);
    const read = readHttpSink(
      preset,
      Object.fromEntries(all.map((name) => [name, { 'hidden header': ['hidden value\n'] }])),
    );
    expect('errors' in read).toBe(true);
    expect(JSON.stringify(read).replaceAll('hidden header', '')).not.toContain(canary);
  }
});

describe('a configuration', () => {
  const errorsOf = (members: unknown) => {
    const read = readHttpSink(undefined, members);
    return 'errors' in read ? read.errors.map(({ field }) => field) : [];
  };
  const URL_ = 'https://siem.example/hook';

  test('tells all its mistakes at once', () => {
    expect(
      errorsOf({ url: 'ftp://x', gzip: 1, body: 'xml', colour: 'red', messagesMax: 0, ['x'.repeat(100)]: 1 }),
    ).toEqual(['colour', 'x'.repeat(40), 'url', 'body', 'gzip', 'messagesMax']);
    for (const nothing of [undefined, null, [], 'x', 1]) expect(errorsOf(nothing)).toEqual(['']);
    expect(errorsOf({})).toEqual(['url']);
  });

  test.each([
    'siem.example',
    'https://user:word@siem.example/',
    'https://siem.example/#part',
    'https://siem.example/ a',
    'https://siem.example/\n',
    '\thttps://siem.example/',
    'https://siem.éxample/',
    'file:///etc/passwd',
    `https://siem.example/${'x'.repeat(2048)}`,
    17,
  ])('has no URL such as %j', (url) => {
    expect(errorsOf({ url })).toEqual(['url']);
  });

  test.each([
    { 'x y': '1' },
    { 'x:': '1' },
    { '': '1' },
    { x: 'a\r\nb: c' },
    { x: 'a\nb' },
    { x: 'é' },
    { x: ' a' },
    { x: '' },
    { x: 1 },
    { x: 'a', X: 'b' },
    { Host: 'x' },
    { 'Content-Length': '1' },
    { 'content-type': 'text/html' },
    { 'Content-Encoding': 'gzip' },
    { 'Transfer-Encoding': 'chunked' },
    { Connection: 'close' },
    { 'Webhook-Id': 'x' },
    { 'proxy-authorization': 'x' },
    { 'x-forwarded-for': '10.0.0.1' },
    { Cookie: 'a=b' },
    { authorization: 'x' },
    { 'X-Api-Key': 'x' },
    { 'x-secret': 'x' },
    Object.fromEntries(Array.from({ length: 17 }, (_, i) => [`x${i}`, '1'])),
    [],
    'x: y',
  ])('has no headers such as %j', (headers) => {
    expect(errorsOf({ url: URL_, headers })).toEqual(['headers']);
  });

  test('has what belongs together', () => {
    expect(errorsOf({ url: URL_, basicUser: 'a' })).toEqual(['basicUser']);
    expect(errorsOf({ url: URL_, basicPassword: 'a' })).toEqual(['basicUser']);
    expect(errorsOf({ url: URL_, basicUser: 'a:b', basicPassword: 'c' })).toEqual(['basicUser']);
    expect(errorsOf({ url: URL_, basicUser: 'a', basicPassword: 'b', bearerToken: 'c' })).toEqual(['bearerToken']);
    expect(errorsOf({ url: URL_, bearerToken: 'c', secretHeaders: { Authorization: 'd' } })).toEqual(['bearerToken']);
    expect(errorsOf({ url: URL_, tlsCert: tls.cert })).toEqual(['tlsKey']);
    expect(errorsOf({ url: URL_, tlsKey: tls.key })).toEqual(['tlsCert']);
    expect(errorsOf({ url: URL_, tlsCa: 'x', tlsKey: 'y' })).toEqual(['tlsCa', 'tlsKey']);
    expect(errorsOf({ url: URL_, tlsCert: tls.cert, tlsKey: tls.key, tlsCa: tls.cert })).toEqual([]);
  });

  test('has its key to its certificate', async () => {
    const other = await siemCertificate();
    expect(errorsOf({ url: URL_, tlsCert: tls.cert, tlsKey: other.key })).toEqual(['tlsKey']);
  });

  test('says which of its members are secret', () => {
    expect(httpSinkMembers(undefined).secrets).toEqual([
      'secretHeaders',
      'bearerToken',
      'basicPassword',
      'signingSecrets',
      'tlsKey',
    ]);
    const secrets = PRESET_NAMES.map((preset) => [preset, httpSinkMembers(preset).secrets]);
    expect(Object.fromEntries(secrets)).toEqual({
      'splunk-hec': ['token', 'tlsKey'],
      elastic: ['apiKey', 'basicPassword', 'tlsKey'],
      'sumo-logic': ['url', 'tlsKey'],
      sentinel: ['clientSecret', 'tlsKey'],
      datadog: ['apiKey', 'tlsKey'],
      otlp: ['secretHeaders', 'bearerToken', 'tlsKey'],
    });
  });
});
