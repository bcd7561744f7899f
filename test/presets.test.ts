/**
 * Webhooks with a preset: what each API is sent, and which entries go again after each of the faults that its documentation knows. The facts
 * are those of shared/reference/siem-wire-facts.md, sections 3 and 5.
 */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, test } from 'vitest';
import type { JsonObject } from '../src/chain/canonical.ts';
import { partValue } from '../src/chain/entry-view.ts';
import { ecsKind } from '../src/export/ecs.ts';
import type { ExportedEntry } from '../src/export/exported-entry.ts';
import { asObject } from '../src/export/exported-entry.ts';
import { httpSinkMembers, PRESET_NAMES, type PresetName, readHttpSink } from '../src/export/http-sinks.ts';
import { SENTINEL_COLUMNS } from '../src/export/presets/sentinel.ts';
import { HEC_CODES } from '../src/export/presets/splunk-hec.ts';
import type { Transport } from '../src/export/transport.ts';
import { decodeCef } from './support/cef-decoder.ts';
import { corpusEvents, TEST_DATA } from './support/corpus.ts';
import { generateEvents } from './support/events.ts';
import { exportedEntry, exportedStream } from './support/exported.ts';
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
  answersHtml,
  concatenated,
  cuts,
  Datadog,
  Elastic,
  type Fault,
  Hec,
  type HecEvent,
  hangs,
  Otlp,
  otlpAttribute,
  type Play,
  Sentinel,
  type SiemServer,
  Sumo,
} from './support/siem-server.ts';

type Members = Readonly<Record<string, unknown>>;

/** A destination that is played, and what it has. */
interface Played {
  readonly server: SiemServer;
  readonly members: Members;
  /** Ids of entries in the order of their arrival, twice where they came twice. */
  readonly has: () => string[];
  readonly open: (more?: Members, options?: SinkOptions) => Transport;
}

let tls: Tls;
beforeAll(async () => {
  tls = await siemCertificate();
});

async function played(
  preset: PresetName,
  play: Play,
  has: () => string[],
  membersAt: (url: string) => Members,
  isSecure = false,
): Promise<Played> {
  const server = await siem(play, isSecure ? tls : undefined);
  const members = { ...membersAt(server.url), ...(isSecure ? { tlsCa: tls.cert } : {}) };
  return { server, members, has, open: (more, options) => openSink(preset, { ...members, ...more }, options) };
}

async function splunk(): Promise<Played & { readonly hec: Hec }> {
  const hec = new Hec('hidden-token');
  const membersAt = (url: string): Members => ({ url, token: hec.token });
  return { hec, ...(await played('splunk-hec', hec.play, () => hec.indexed, membersAt)) };
}

async function elastic(): Promise<Played & { readonly api: Elastic }> {
  const api = new Elastic('ApiKey hidden==');
  return {
    api,
    ...(await played(
      'elastic',
      api.play,
      () => api.seen.flat(),
      (url) => ({ url, apiKey: 'hidden==' }),
    )),
  };
}

async function sumo(): Promise<Played & { readonly api: Sumo }> {
  const api = new Sumo('/receiver/v1/http/hidden==');
  const has = (): string[] => api.lines.map((line) => JSON.parse(line).id as string);
  return { api, ...(await played('sumo-logic', api.play, has, (url) => ({ url: url + api.path }), true)) };
}

const SENTINEL = {
  tenantId: '3d8a2c6e-1111-4222-8333-944455556666',
  clientId: '0e1f2a3b-1111-4222-8333-944455556666',
  clientSecret: 'hidden~secret',
  ruleId: `dcr-${'0123456789abcdef'.repeat(2)}`,
  streamName: 'Custom-Sealog_CL',
};

async function sentinel(): Promise<Played & { readonly api: Sentinel }> {
  const api = new Sentinel(SENTINEL);
  const has = (): string[] => api.rows.map((row) => row['EventId'] as string);
  return { api, ...(await played('sentinel', api.play, has, (url) => ({ url, authority: url, ...SENTINEL }), true)) };
}

async function datadog(): Promise<Played & { readonly api: Datadog }> {
  const api = new Datadog('hidden-key');
  const has = (): string[] => api.logs.map((log) => (log['sealog'] as { id: string }).id);
  return { api, ...(await played('datadog', api.play, has, (url) => ({ url, apiKey: 'hidden-key' }), true)) };
}

async function otlp(): Promise<Played & { readonly api: Otlp }> {
  const api = new Otlp();
  const has = (): string[] => api.records.map((record) => otlpAttribute(record, 'sealog.id')!);
  return { api, ...(await played('otlp', api.play, has, (url) => ({ url, bearerToken: 'hidden-token' }))) };
}

const PLAYERS: Readonly<Record<PresetName, () => Promise<Played>>> = {
  'splunk-hec': splunk,
  elastic,
  'sumo-logic': sumo,
  sentinel,
  datadog,
  otlp,
};

const QUICK = { timing: { callMs: 400, confirmMs: 400, confirmEveryMs: 5 } };

describe.each(PRESET_NAMES)('%s', (preset) => {
  test('takes each entry once, in order, over a connection that is kept', async () => {
    const { server, has, open } = await PLAYERS[preset]();
    const transport = open();
    const messages = batch(transport, entries(names(50)));
    for (const part of [messages.slice(0, 20), messages.slice(20)])
      expect(byFate(part, await transport.deliver(part, NEVER)).delivered).toHaveLength(part.length);
    expect(has()).toEqual(names(50));
    expect(server.connections()).toBe(1);
    expect(server.requests.at(-1)!.headers['content-encoding']).toBe('gzip');
  });

  test('is tested by an entry that says so', async () => {
    const { server, has, open } = await PLAYERS[preset]();
    expect(await open().test(NEVER)).toMatch(new RegExp(`^${server.url}: took the test message \\(HTTP 20[024]`));
    expect(has()).toEqual([expect.stringMatching(/^test-/)]);
    expect(server.requests.at(-1)!.text).toContain('no entry of the log');
  });

  test.each([
    ['429 with a pause', answers(429, { 'retry-after': '5' }), 'refused', 5000, false],
    ['503', answers(503), 'refused', undefined, false],
    ['500', answers(500, {}, 'hidden'), 'refused', undefined, false],
    ['504', answers(504), 'refused', undefined, false],
    ['408', answers(408), 'refused', undefined, false],
    ['403', answers(403), 'unauthorized', undefined, false],
    ['404', answers(404, {}, '<html>hidden</html>'), 'refused', undefined, false],
    ['a redirect', answers(307, { location: 'http://127.0.0.1:1/hidden' }), 'refused', undefined, false],
    ['a page that says 200', answersHtml, 'protocol', undefined, false],
    ['another yes than its own', answers(203), 'protocol', undefined, false],
    ['silence', hangs, 'timeout', undefined, false],
    ['a cut connection', cuts, 'unreachable', undefined, true],
    ['half an answer', answersHalf, 'unreachable', undefined, true],
  ] as const)('after %s gets exactly the same entries again', async (_, fault, reason, afterMs, isTaken) => {
    const { server, has, open } = await PLAYERS[preset]();
    const transport = open({}, QUICK);
    // A first delivery, so that a token is there and the next request is one with entries.
    await transport.deliver(batch(transport, entries(['first'])), NEVER);
    const messages = batch(transport, entries(names(10)));
    const before = server.requests.length;
    // Where a kept connection ends before any of an answer, it is tried again at once.
    const isTwice = fault === cuts || (fault === answersHalf && preset === 'sentinel');
    server.faults.push(fault, ...(isTwice ? [fault] : []));
    const error = await failure(transport.deliver(messages, NEVER));
    expect(error).toMatchObject({ reason, retryAfterMs: afterMs });
    expect(`${error.stack} ${JSON.stringify(error)}`).not.toContain('hidden');
    const times = 1 + Number(isTaken) + Number(isTwice);
    expect(await deliverAll(transport, messages)).toEqual([]);
    expect(has()).toEqual(['first', ...Array.from({ length: times }, () => names(10)).flat()]);
    const payloads = server.requests.slice(before).map(({ text }) => text);
    expect(new Set(payloads).size).toBe(1);
  });

  test('that refuses the credential leaves all entries to go again', async () => {
    const { server, has, open } = await PLAYERS[preset]();
    const transport = open();
    server.faults.push(answers(401), answers(401), answers(401));
    const messages = batch(transport, entries(names(4)));
    const error = await failure(transport.deliver(messages, NEVER));
    expect(error.reason).toBe('unauthorized');
    server.faults.length = 0;
    expect(await deliverAll(transport, messages)).toEqual([]);
    expect(has()).toEqual(names(4));
  });

  test('finds an entry that is refused with 400', async () => {
    const { server, open } = await PLAYERS[preset]();
    const transport = open({}, QUICK);
    const messages = batch(transport, entries(names(16)));
    await transport.deliver(messages.slice(0, 1), NEVER);
    const before = server.requests.length;
    const poison: Fault = (response, { text }, play) => {
      const { status, body, headers } = text.includes('r-e9')
        ? { status: 400 }
        : { headers: {}, body: undefined, ...play() };
      answers(status, headers, body)(response, server.requests[0]!, play);
    };
    server.faults.push(...Array<Fault>(20).fill(poison));
    const { delivered, refused, again } = byFate(messages, await transport.deliver(messages, NEVER));
    expect([delivered, refused, again]).toEqual([names(9), ['e9'], names(16).slice(10)]);
    expect(server.requests.length - before).toBeLessThanOrEqual(6);
  });

  test('takes whatever was logged', async () => {
    const random = seededRandom(11);
    const { has, open } = await PLAYERS[preset]();
    const transport = open();
    const exported = Array.from({ length: 200 }, (_, seq) => exportedEntry(hostileEvent(random), { seq }));
    for (let i = 0; i < exported.length; i += 100) {
      const messages = batch(transport, exported.slice(i, i + 100));
      expect(byFate(messages, await transport.deliver(messages, NEVER)).delivered).toHaveLength(100);
    }
    expect(has()).toEqual(exported.map(({ entry }) => entry.record.id));
  });

  test('has no entry larger than it takes: parts go, and it is said which', async () => {
    const { has, open } = await PLAYERS[preset]();
    const transport = open();
    const long = { details: { text: '\u0001"\\é'.repeat(500_000) }, raw: '\u0002"'.repeat(600_000), reason: 'because' };
    const messages = batch(transport, entries(['long'], long));
    expect(messages[0]!.payload.length).toBeLessThanOrEqual(transport.batchBytesMax);
    expect(Buffer.from(messages[0]!.payload).toString()).toMatch(/omitted|shortened/);
    expect(await deliverAll(transport, messages)).toEqual([]);
    expect(has()).toEqual(['long']);
  });

  test('goes to no address that is not allowed, named or looked up', async () => {
    const { server, members } = await PLAYERS[preset]();
    for (const host of ['127.0.0.1', 'siem.example']) {
      const url = String(members['url']).replace(/127\.0\.0\.1|siem\.example/, host);
      const own = { ...members, url, ...(preset === 'sentinel' ? { authority: url } : {}) };
      const transport = openSink(preset, own, { allowAddresses: [] });
      const messages = batch(transport, entries(['a']));
      expect((await failure(transport.deliver(messages, NEVER))).reason).toBe('address_not_allowed');
    }
    expect(server.connections()).toBe(0);
  });

  test('has a configuration that is read strictly', async () => {
    const { members } = await PLAYERS[preset]();
    const errorsOf = (more: Members) => {
      const read = readHttpSink(preset, { ...members, ...more });
      return 'errors' in read ? read.errors.map(({ field }) => field) : [];
    };
    expect(errorsOf({})).toEqual([]);
    expect(errorsOf({ colour: 'red' })).toEqual(['colour']);
    expect(errorsOf({ url: 'ftp://siem.example' })).toEqual(['url']);
    expect(errorsOf({ url: 'https://user:word@siem.example' })).toEqual(['url']);
    expect(errorsOf({ format: 'xml' })).toEqual(['format']);
    for (const secret of httpSinkMembers(preset).secrets.filter(
      (name) => Object.hasOwn(members, name) && name !== 'url',
    )) {
      expect(errorsOf({ [secret]: 'two words' })).toEqual([secret]);
      expect(errorsOf({ [secret]: 'a\r\nb' })).toEqual([secret]);
      expect(errorsOf({ [secret]: '' })).toEqual([secret]);
    }
    if (['sumo-logic', 'sentinel', 'datadog'].includes(preset))
      expect(errorsOf({ url: 'http://siem.example' })).toEqual(['url']);
  });
});

describe('Splunk HEC', () => {
  test('gets time in seconds with three decimals, the event as it is, and what tells it apart as fields', async () => {
    const { server, open } = await splunk();
    const transport = open({ index: 'audit', url: `${server.url}/services/collector/event/`, gzip: false });
    const [exported] = entries(['a']);
    await transport.deliver(batch(transport, [exported!]), NEVER);
    const [request] = server.requests;
    expect(request!.headers.authorization).toBe('Splunk hidden-token');
    expect(request!.text).toMatch(/^\{"time":1795377845\.123,/);
    expect(concatenated(request!.text)).toEqual([
      {
        time: 1_795_377_845.123,
        host: 'mes-1',
        source: 'sealog',
        sourcetype: '_json',
        index: 'audit',
        fields: {
          sealog_id: 'a',
          sealog_stream: 'acme/data_access',
          sealog_seq: '0',
          sealog_hash: exported!.entry.hash,
        },
        event: expect.objectContaining({ id: 'a', log: expect.objectContaining({ hash: exported!.entry.hash }) }),
      },
    ]);
  });

  test('gets CEF as a text', async () => {
    const { server, open } = await splunk();
    const transport = open({ format: 'cef', sourcetype: 'sealog:cef' });
    await transport.deliver(batch(transport, entries(['a'], { reason: 'a|b=c\\d"e' })), NEVER);
    const [event] = concatenated(server.requests[0]!.text) as HecEvent[];
    expect(event!.sourcetype).toBe('sealog:cef');
    expect(decodeCef(event!.event as string).fields.get('reason')).toBe('a|b=c\\d"e');
  });

  test.each([
    ['0001-01-01T00:00:00Z', '1795377845.310'],
    ['9999-12-31T23:59:59.999999999Z', '1795377845.310'],
    ['1969-12-31T23:59:59.5-00:00', '1795377845.310'],
    ['2026-11-23T20:04:05Z', '1795464245.000'],
    ['2026-11-22T20:04:05.0009Z', '1795377845.000'],
  ])('gets a time that it can take, whatever a sender says: %s', async (occurredAt, time) => {
    const { open } = await splunk();
    const text = Buffer.from(open().encode(entries(['a'], { occurredAt })[0]!)).toString();
    expect(text).toMatch(new RegExp(`^\\{"time":${time.replace('.', '\\.')},`));
    expect(JSON.parse(text).event.occurredAt).toBe(occurredAt);
  });

  test.skipIf(TEST_DATA === undefined || !existsSync(join(TEST_DATA, 'reference/data/hec_reply_codes.csv')))(
    'is understood in all its codes',
    () => {
      const lines = readFileSync(join(TEST_DATA!, 'reference/data/hec_reply_codes.csv'), 'utf8')
        .trim()
        .split('\n')
        .slice(1);
      expect(lines.map((line) => Number(line.split(',')[0]))).toEqual(Object.keys(HEC_CODES).map(Number));
      for (const line of lines) {
        const [code, status] = line.split(',').map(Number);
        const { means } = HEC_CODES[code!]!;
        if (status === 200) expect(['taken', 'warning', 'other']).toContain(means);
        else if (status! >= 429) expect(means).toBe('busy');
        else expect(['credential', 'setting', 'content']).toContain(means);
      }
    },
  );

  test.each([
    [400, 5, 'refused entry'],
    [400, 6, 'refused entry'],
    [400, 12, 'refused entry'],
    [400, 13, 'refused entry'],
    [400, 15, 'refused entry'],
    [403, 1, 'unauthorized'],
    [401, 2, 'unauthorized'],
    [401, 3, 'unauthorized'],
    [403, 4, 'unauthorized'],
    [400, 21, 'unauthorized'],
    [400, 22, 'unauthorized'],
    [400, 7, 'refused'],
    [400, 10, 'refused'],
    [400, 11, 'refused'],
    [400, 14, 'refused'],
    [400, 16, 'refused'],
    [500, 8, 'refused'],
    [503, 9, 'refused'],
    [503, 18, 'refused'],
    [503, 23, 'refused'],
    [429, 26, 'refused'],
    [429, 27, 'refused'],
    [200, 17, 'protocol'],
    [200, 99, 'protocol'],
    [200, 9, 'protocol'],
    [200, '0', 'protocol'],
    [400, 99, 'refused entry'],
    [503, 99, 'refused'],
  ])('that answers %i with code %s means: %s', async (status, code, meaning) => {
    const { server, open } = await splunk();
    server.faults.push(answers(status, {}, { text: 'hidden', code }));
    const transport = open();
    const messages = batch(transport, entries(['a']));
    if (meaning === 'refused entry') {
      const [fate] = await transport.deliver(messages, NEVER);
      expect(fate).toMatchObject({ kind: 'refused', reason: expect.stringContaining('to this entry alone') });
      expect(JSON.stringify(fate)).not.toContain('hidden');
      return;
    }
    const error = await failure(transport.deliver(messages, NEVER));
    expect(error.reason).toBe(meaning);
    expect(error.message).not.toContain('hidden');
    if (code !== 99 && code !== '0')
      expect(error.message).toContain(`code ${code}: ${HEC_CODES[code as number]!.words}`);
  });

  test.each([24, 25])('that warns (code %i) has taken the entries', async (code) => {
    const { server, open } = await splunk();
    server.faults.push(answers(200, {}, { text: 'warning', code }));
    const warnings: string[] = [];
    const transport = open({}, { warnings });
    const messages = batch(transport, entries(names(3)));
    expect(byFate(messages, await transport.deliver(messages, NEVER)).delivered).toEqual(names(3));
    expect(warnings).toEqual([expect.stringMatching(/^Splunk warns: .* nearly full$/)]);
    expect(server.requests).toHaveLength(1);
  });

  test.each([
    [0, false],
    [0, true],
    [1, false],
    [1, true],
    [undefined, false],
  ] as const)(
    'names an entry that it can not read, from %s, those before it indexed: %s',
    async (countsFrom, keepsBefore) => {
      for (const at of [0, 1, 7, 18, 19]) {
        const { hec, server, has, open } = await splunk();
        Object.assign(hec, { countsFrom, keepsBefore });
        hec.poison.add(`e${at}`);
        const transport = open();
        const messages = batch(transport, entries(names(20)));
        const fates = byFate(messages, await transport.deliver(messages, NEVER));
        expect(fates).toEqual({ delivered: names(at), refused: [`e${at}`], again: names(20).slice(at + 1) });
        expect(server.requests.length).toBeLessThanOrEqual(countsFrom === 0 ? 3 : 8);
        // None is missing before it; those that were indexed by an answer of 400 came twice.
        expect([...new Set(has())]).toEqual(names(at));
        // When somebody decided to leave it out, the rest goes.
        hec.poison.clear();
        const rest = messages.slice(at + 1);
        if (rest.length > 0)
          expect(byFate(rest, await transport.deliver(rest, NEVER)).delivered).toEqual(names(20).slice(at + 1));
      }
    },
  );

  test('that always names another does not keep us for ever', async () => {
    let asked = 0;
    const { server, members } = await splunk();
    server.faults.push(
      ...Array.from(
        { length: 300 },
        (): Fault =>
          (response, { text }, play) => {
            const count = concatenated(text).length;
            asked += 1;
            answers(400, {}, { code: 6, 'invalid-event-number': count - 1 })(response, server.requests[0]!, play);
          },
      ),
    );
    const transport = openSink('splunk-hec', members);
    const messages = batch(transport, entries(names(200)));
    const fates = byFate(messages, await transport.deliver(messages, NEVER));
    expect(fates.refused).toEqual(['e0']);
    expect(asked).toBeLessThan(12);
  });

  describe('with acknowledgements', () => {
    test('has delivered what is acknowledged, on a channel of its own', async () => {
      const { hec, server, has, open } = await splunk();
      hec.acknowledges = true;
      const transport = open({ acknowledge: true }, QUICK);
      expect(transport.batchMessagesMax).toBe(16_000);
      const messages = batch(transport, entries(names(2500)));
      expect(byFate(messages, await transport.deliver(messages, NEVER)).delivered).toEqual(names(2500));
      expect(has()).toEqual(names(2500));
      const channels = new Set(server.requests.map(({ headers }) => headers['x-splunk-request-channel']));
      expect([...channels]).toEqual([expect.stringMatching(/^[0-9a-f]{8}-[0-9a-f]{4}-4/)]);
      // Three with events, and then two questions for all at once.
      expect(server.requests.map(({ url }) => url.split('?')[0])).toEqual([
        ...Array(3).fill('/services/collector/event'),
        ...Array(2).fill('/services/collector/ack'),
      ]);
      expect(await open({ acknowledge: true }, QUICK).test(NEVER)).toContain('acknowledged');
    });

    test('sends again what is not acknowledged in time, and only that', async () => {
      const { hec, has, open } = await splunk();
      hec.acknowledges = true;
      hec.neverAcknowledged.add(1);
      const transport = open({ acknowledge: true }, QUICK);
      const messages = batch(transport, entries(names(2500)));
      const fates = await transport.deliver(messages, NEVER);
      const { delivered, again } = byFate(messages, fates);
      expect(again).toEqual(names(2500).slice(1000, 2000));
      expect(delivered).toEqual([...names(2500).slice(0, 1000), ...names(2500).slice(2000)]);
      expect(fates[1000]).toMatchObject({ reason: expect.stringContaining('did not acknowledge') });
      hec.neverAcknowledged.clear();
      const left = messages.slice(1000, 2000);
      expect(await deliverAll(transport, left)).toEqual([]);
      expect(has()).toEqual([...names(2500), ...names(2500).slice(1000, 2000)]);
    });

    test.each([
      ['a question that fails', answers(503), names(3)],
      ['one that is not answered', hangs, names(3)],
      ['one that is answered with nonsense', answers(200, {}, { acks: [true, true] }), names(3)],
    ] as const)('asks again after %s', async (_, fault, delivered) => {
      const { hec, server, open } = await splunk();
      hec.acknowledges = true;
      const transport = open({ acknowledge: true }, { timing: { callMs: 200, confirmMs: 5000, confirmEveryMs: 5 } });
      const messages = batch(transport, entries(names(3)));
      server.faults.push((response, _request, play) => {
        const { status, body } = play();
        answers(status, {}, body)(response, server.requests[0]!, play);
      }, fault);
      expect(byFate(messages, await transport.deliver(messages, NEVER)).delivered).toEqual(delivered);
    });

    test('counts no answer twice: two requests with one ackId are safe neither', async () => {
      const { server, open } = await splunk();
      const taken = answers(200, {}, { code: 0, ackId: 7 });
      server.faults.push(taken, taken, ...Array<Fault>(200).fill(answers(200, {}, { acks: { 7: true } })));
      const transport = open({ acknowledge: true }, QUICK);
      const messages = batch(transport, entries(names(1500)));
      expect(byFate(messages, await transport.deliver(messages, NEVER)).again).toEqual(names(1500));
    });

    test('says so where the token has none', async () => {
      const { open } = await splunk();
      const transport = open({ acknowledge: true }, QUICK);
      const error = await failure(transport.deliver(batch(transport, entries(names(3))), NEVER));
      expect(error.message).toContain('is acknowledgement enabled for the token?');
    });

    test('ends when the sink does', async () => {
      const { hec, server, open } = await splunk();
      hec.acknowledges = true;
      hec.neverAcknowledged.add(0);
      const transport = open({ acknowledge: true }, { timing: { confirmMs: 60_000, confirmEveryMs: 20 } });
      const messages = batch(transport, entries(names(3)));
      const stop = new AbortController();
      const delivery = transport.deliver(messages, stop.signal);
      await expect.poll(() => server.requests.length).toBeGreaterThan(3);
      stop.abort();
      expect(byFate(messages, await delivery).again).toEqual(names(3));
    });
  });
});

describe('Elastic', () => {
  test('gets a create and a document of ECS for each, by its hash, and a line end behind the last', async () => {
    const { server, open } = await elastic();
    const transport = open({ dataStream: 'logs-audit-plant7', pipeline: 'sealog-v1' });
    const all = entries(['a', 'b'], { action: 'recipe.export', outcome: 'failure', severity: 7 });
    await transport.deliver(batch(transport, all), NEVER);
    const { url, text } = server.requests[0]!;
    expect(url).toMatch(/^\/logs-audit-plant7\/_bulk\?filter_path=[^&]+&pipeline=sealog-v1$/);
    const lines = text.split('\n');
    expect(lines).toHaveLength(5);
    expect(lines[4]).toBe('');
    expect(JSON.parse(lines[0]!)).toEqual({ create: { _id: all[0]!.entry.hash } });
    const document = JSON.parse(lines[1]!);
    expect(document).toMatchObject({
      '@timestamp': '2026-11-22T20:04:05.123Z',
      event: {
        kind: 'event',
        category: ['database'],
        type: ['access'],
        action: 'recipe.export',
        outcome: 'failure',
        severity: 7,
        id: 'a',
        sequence: 0,
        hash: all[0]!.entry.hash,
        created: '2026-11-22T20:04:05.310Z',
      },
      user: { id: 'u-4711', name: 'M. Kern' },
      source: { ip: '192.0.2.17' },
      host: { name: 'mes-1' },
      service: { name: 'mes' },
      organization: { id: 'acme' },
      sealog: { stream: 'acme/data_access' },
    });
    expect(JSON.parse(document.sealog.event)).toMatchObject({ id: 'a', log: { hash: all[0]!.entry.hash } });
  });

  test('has no field whose name or type a sender makes up', async () => {
    const { open } = await elastic();
    const transport = open();
    const random = seededRandom(3);
    const fields = new Map<string, string>();
    for (let i = 0; i < 500; i++) {
      const [, document] = Buffer.from(transport.encode(exportedEntry(hostileEvent(random))))
        .toString()
        .split('\n');
      const walk = (value: unknown, path: string): void => {
        if (typeof value === 'object' && value !== null && !Array.isArray(value))
          for (const [name, member] of Object.entries(value)) walk(member, `${path}.${name}`);
        else {
          const items = Array.isArray(value) ? value : [value];
          for (const item of items) {
            expect(fields.get(path) ?? typeof item).toBe(typeof item);
            fields.set(path, typeof item);
          }
        }
      };
      walk(JSON.parse(document!), '');
    }
    expect(fields.size).toBeLessThan(40);
  });

  test('answers for each document: exactly those that were refused for now go again', async () => {
    const { api, has, open } = await elastic();
    for (const [id, status] of [
      ['e2', 429],
      ['e5', 503],
      ['e6', 403],
      ['e7', 404],
    ] as const)
      api.statuses.set(id, status);
    const transport = open();
    const messages = batch(transport, entries(names(10)));
    const fates = await transport.deliver(messages, NEVER);
    expect(byFate(messages, fates).again).toEqual(['e2', 'e5', 'e6', 'e7']);
    expect(fates[2]).toMatchObject({
      reason: expect.stringMatching(/answered 429 to the document \(es_rejected_execution_exception\)$/),
    });
    expect(
      await deliverAll(
        transport,
        messages.filter((_, index) => fates[index]!.kind === 'again'),
      ),
    ).toEqual([]);
    expect(has()).toEqual([...names(10), 'e2', 'e5', 'e6', 'e7']);
    expect([...api.documents.values()].map((one) => (one['event'] as JsonObject)['id']).sort()).toEqual(names(10));
  });

  test('refuses a document for its mapping: that one alone, and its words are not told', async () => {
    const { api, open } = await elastic();
    api.statuses.set('e3', 400);
    const transport = open();
    const messages = batch(transport, entries(names(6)));
    const fates = await transport.deliver(messages, NEVER);
    expect(byFate(messages, fates)).toEqual({
      delivered: ['e0', 'e1', 'e2', 'e4', 'e5'],
      refused: ['e3'],
      again: [],
    });
    expect(fates[3]).toMatchObject({
      reason: expect.stringMatching(/answered 400 to the document \(document_parsing_exception\)$/),
    });
    expect(JSON.stringify(fates)).not.toContain('hidden');
    expect(api.seen).toHaveLength(1);
  });

  test('has what comes twice once: a conflict is a delivery', async () => {
    const { api, server, open } = await elastic();
    const transport = open();
    const messages = batch(transport, entries(names(5)));
    server.faults.push(cuts);
    expect((await failure(transport.deliver(messages, NEVER))).reason).toBe('unreachable');
    expect(byFate(messages, await transport.deliver(messages, NEVER)).delivered).toEqual(names(5));
    expect(api.documents.size).toBe(5);
  });

  test.each([
    ['fewer lines than documents', { errors: false, items: [{ create: { status: 201 } }] }],
    ['lines of another kind', { items: Array(2).fill({ index: { status: 201 } }) }],
    ['lines without a status', { items: Array(2).fill({ create: {} }) }],
    ['lines for other documents', { items: Array(2).fill({ create: { status: 201, _id: 'x' } }) }],
    ['no lines', { errors: false }],
    ['no object', []],
    ['no JSON', '{"errors":false,"items":['],
    ['nothing', ''],
  ])('that answers 200 with %s has said nothing', async (_, body) => {
    const { server, open } = await elastic();
    server.faults.push(answers(200, {}, body));
    const transport = open();
    expect((await failure(transport.deliver(batch(transport, entries(names(2))), NEVER))).reason).toBe('protocol');
  });

  test('takes a user and a password as well, and one of the two', async () => {
    const { server, members } = await elastic();
    const api = new Elastic(`Basic ${Buffer.from('sealog:wörd').toString('base64')}`);
    const own = await siem(api.play);
    const { apiKey, ...rest } = members;
    const transport = openSink('elastic', { ...rest, url: own.url, basicUser: 'sealog', basicPassword: 'wörd' });
    expect(await deliverAll(transport, batch(transport, entries(['a'])))).toEqual([]);
    for (const wrong of [rest, { ...rest, apiKey, basicUser: 'a', basicPassword: 'b' }])
      expect(readHttpSink('elastic', { ...wrong, url: server.url })).toMatchObject({ errors: [{ field: 'apiKey' }] });
  });

  const ALLOWED: Readonly<Record<string, string>> = {
    authentication: 'start end info',
    configuration: 'access change creation deletion info',
    database: 'access change info error',
    file: 'access change creation deletion info',
    host: 'access change end info start',
    iam: 'admin change creation deletion group info user',
    intrusion_detection: 'allowed denied info',
    process: 'access change end info start',
  };

  /** Facts 5.2. */
  test('gets only those pairs of category and type that ECS allows', () => {
    const random = seededRandom(5);
    const events = [
      ...generateEvents({ seed: 5, count: 500 }),
      ...Array.from({ length: 500 }, () => hostileEvent(random)),
      ...(TEST_DATA === undefined ? [] : sample(corpusEvents(), 20)),
    ] as unknown as JsonObject[];
    const seen = new Set<string>();
    for (const event of events) {
      const exported = exportedEntry({ id: 'a', ...event });
      const { category, type } = ecsKind(exported, asObject(partValue(exported.entry, 'target')));
      for (const one of category)
        for (const two of type) {
          expect(ALLOWED[one]?.split(' '), `${one} ${two} of ${event['action']}`).toContain(two);
          seen.add(`${one} ${two}`);
        }
    }
    expect(seen.size).toBeGreaterThan(8);
  });

  test.each([
    ['user_authentication', 'user.login', {}, 'authentication', ['start']],
    ['user_authentication', 'user.logout', {}, 'authentication', ['end']],
    ['user_authentication', 'mfa.enroll', {}, 'authentication', ['info']],
    ['data_access', 'recipe.read', {}, 'database', ['access']],
    ['data_access', 'file.download', { type: 'file' }, 'file', ['access']],
    ['data_modification', 'batch.delete', {}, 'database', ['change']],
    ['data_modification', 'file.delete', { type: 'file' }, 'file', ['deletion']],
    ['configuration_change', 'role.create', {}, 'configuration', ['creation']],
    ['configuration_change', 'alarm.update', {}, 'configuration', ['change']],
    ['security_event', 'role.delete', {}, 'iam', ['group', 'deletion']],
    ['security_event', 'account.lock', { type: 'user' }, 'iam', ['user', 'change']],
    ['security_event', 'port.scan', {}, 'intrusion_detection', ['info']],
    ['system_operation', 'service.start', {}, 'process', ['start']],
    ['system_operation', 'service.stop', {}, 'process', ['end']],
    ['system_operation', 'backup.run', {}, 'host', ['change']],
    ['log_administration', 'log.export', {}, 'configuration', ['access']],
    ['anchor', 'anchor.tick', {}, 'configuration', ['info']],
  ])('%s %s is of a category and type', (category, action, target, ecs, type) => {
    expect(ecsKind(entries(['a'], { category, action })[0]!, target)).toEqual({ category: [ecs], type });
  });
});

describe('Sumo Logic', () => {
  test('gets lines, and what it files them under as headers', async () => {
    const { api, server, open } = await sumo();
    const own = { sourceName: 'n', sourceHost: 'h', sourceCategory: 'plant/7', fields: 'site=plant-7,zone=L3' };
    const transport = open({ ...own, format: 'cef' });
    await transport.deliver(batch(transport, entries(names(3))), NEVER);
    expect(server.requests[0]!.headers).toMatchObject({
      'x-sumo-name': 'n',
      'x-sumo-host': 'h',
      'x-sumo-category': 'plant/7',
      'x-sumo-fields': 'site=plant-7,zone=L3',
    });
    expect(api.lines.map((line) => decodeCef(line).fields.get('externalId'))).toEqual(names(3));
  });

  test.each(['site', 'site=', '=x', 'a=b,', 'a=b=c', 'a=b,,c=d', 'a=b\r\nX: y'])(
    'has no fields such as %j',
    async (fields) => {
      const { members } = await sumo();
      expect(readHttpSink('sumo-logic', { ...members, fields })).toMatchObject({ errors: [{ field: 'fields' }] });
    },
  );

  test('is never named by its URL', async () => {
    const { server, open } = await sumo();
    const transport = open({}, QUICK);
    const messages = batch(transport, entries(['a']));
    for (const fault of [answers(401), answers(404), answers(400), answers(500), hangs, answersHtml]) {
      server.faults.push(fault, fault);
      const told = await transport.deliver(messages, NEVER).then(JSON.stringify, (error) => String(error.stack));
      server.faults.length = 0;
      expect(told).toContain(server.url);
      expect(told).not.toContain('hidden');
      expect(told).not.toContain('receiver');
    }
  });
});

describe('Microsoft Sentinel', () => {
  test('gets the columns of its rule', async () => {
    const { api, open } = await sentinel();
    const transport = open();
    const [exported] = entries(['a'], {
      category: 'configuration_change',
      action: 'alarm.update',
      changes: { before: { limit: 1 }, after: { limit: 2 } },
      actor: { type: 'user', id: 'u-1', ip: '::1', sessionId: 's-1', roles: ['a', 'b'], name: 'M. Kern' },
      reason: 'because',
      raw: 'a line\n',
      details: { x: 1 },
    });
    await transport.deliver(batch(transport, [exported!]), NEVER);
    expect(api.rows).toEqual([
      {
        TimeGenerated: '2026-11-22T20:04:05.123Z',
        OccurredAt: '2026-11-22T21:04:05.123+01:00',
        RecordedAt: '2026-11-22T20:04:05.310Z',
        EventId: 'a',
        Tenant: 'acme',
        Category: 'configuration_change',
        Action: 'alarm.update',
        Outcome: 'success',
        Severity: 3,
        Stream: 'acme/configuration_change',
        Seq: 0,
        Hash: exported!.entry.hash,
        Previous: '0'.repeat(64),
        Service: 'mes',
        SourceHost: 'mes-1',
        ActorType: 'user',
        ActorId: 'u-1',
        ActorName: 'M. Kern',
        ActorIp: '::1',
        ActorRoles: '["a","b"]',
        TargetType: 'recipe',
        TargetId: 'r-a',
        Reason: 'because',
        RawText: 'a line\n',
        Changes: '{"after":{"limit":2},"before":{"limit":1}}',
        Diff: '[{"op":"replace","path":"/limit","value":2}]',
        Details: '{"x":1}',
        More: '{"actor":{"sessionId":"s-1"}}',
        Notes: 'severity:default',
      },
    ]);
  });

  test('gets no column that is not declared, none of another type, and none that Azure would cut', async () => {
    const { open } = await sentinel();
    const transport = open();
    const random = seededRandom(9);
    for (let i = 0; i < 300; i++) {
      const row = JSON.parse(Buffer.from(transport.encode(exportedEntry(hostileEvent(random)))).toString());
      for (const [name, value] of Object.entries(row)) {
        const type = SENTINEL_COLUMNS[name as keyof typeof SENTINEL_COLUMNS];
        expect(typeof value).toBe(type === 'int' || type === 'long' ? 'number' : 'string');
        if (type === 'datetime') expect(new Date(value as string).toISOString()).toBe(value);
        expect(Buffer.byteLength(String(value))).toBeLessThanOrEqual(65_536);
      }
    }
  });

  test('gets a long text cut between characters and a long JSON not at all, and both are said', async () => {
    const { open } = await sentinel();
    const long = { raw: '𝟙é'.repeat(20_000), details: { text: 'x'.repeat(70_000) }, reason: 'because' };
    const row = JSON.parse(Buffer.from(open().encode(entries(['a'], long)[0]!)).toString());
    expect(row.RawText.isWellFormed()).toBe(true);
    expect(long.raw.startsWith(row.RawText)).toBe(true);
    expect(Buffer.byteLength(row.RawText)).toBeGreaterThan(63_990);
    expect(row).not.toHaveProperty('Details');
    expect(row.Notes).toBe('severity:default shortened:Details,RawText');
  });

  test('asks for a token once, whoever needs one', async () => {
    const { api, open } = await sentinel();
    const transport = open();
    const messages = batch(transport, entries(names(4)));
    await Promise.all(messages.map((message) => transport.deliver([message], NEVER)));
    await transport.deliver(messages, NEVER);
    expect(api.tokens).toBe(1);
  });

  test.each([
    [3599, 1],
    ['3599', 1],
    [600, 1],
    [1, 1],
    [0.001, 2],
  ])('takes a new token before the end of one that lives for %s s', async (expiresIn, tokens) => {
    const { api, open } = await sentinel();
    api.expiresIn = expiresIn;
    const transport = open();
    const messages = batch(transport, entries(['a']));
    await transport.deliver(messages, NEVER);
    await new Promise((resolve) => setTimeout(resolve, 20));
    await transport.deliver(messages, NEVER);
    expect(api.tokens).toBe(tokens);
  });

  test('takes a new token when one is not taken any more, and the entries arrive once', async () => {
    const { api, server, has, open } = await sentinel();
    const transport = open();
    const messages = batch(transport, entries(names(3)));
    await transport.deliver(messages, NEVER);
    api.revoke();
    expect(byFate(messages, await transport.deliver(messages, NEVER)).delivered).toEqual(names(3));
    expect(has()).toEqual([...names(3), ...names(3)]);
    expect(server.requests.map(({ url }) => (url.startsWith('/data') ? 'entries' : 'token'))).toEqual([
      'token',
      'entries',
      'entries',
      'token',
      'entries',
    ]);
  });

  test('whose new token is not taken either is unauthorized, after two tries', async () => {
    const { server, open } = await sentinel();
    const transport = open();
    const messages = batch(transport, entries(['a']));
    const plays: Fault = (response, request, play) => {
      const { status, body } = play();
      answers(status, {}, body)(response, request, play);
    };
    server.faults.push(plays, answers(401), plays, answers(401));
    const error = await failure(transport.deliver(messages, NEVER));
    expect([error.reason, server.requests.length]).toEqual(['unauthorized', 4]);
  });

  test('without the role on its rule (403) is unauthorized, and a token is not asked for again', async () => {
    const { api, server, open } = await sentinel();
    const transport = open();
    const messages = batch(transport, entries(['a']));
    await transport.deliver(messages, NEVER);
    server.faults.push(answers(403, {}, { error: { code: 'OperationFailed', message: 'hidden' } }));
    expect((await failure(transport.deliver(messages, NEVER))).reason).toBe('unauthorized');
    await transport.deliver(messages, NEVER);
    expect(api.tokens).toBe(1);
  });

  test('with a wrong secret is told Entra’s codes, and nothing else of its words', async () => {
    const { server, open } = await sentinel();
    const transport = open({ clientSecret: 'hidden-wrong' });
    const error = await failure(transport.deliver(batch(transport, entries(['a'])), NEVER));
    expect(error.reason).toBe('unauthorized');
    expect(error.message).toBe(`${server.url}: gave no token, answered 401 (invalid_client, AADSTS7000215)`);
  });

  test.each([
    ['429', answers(429, { 'retry-after': '9' }), 'refused', 9000],
    ['a page', answersHtml, 'protocol', undefined],
    [
      'another kind of token',
      answers(200, {}, { token_type: 'mac', access_token: 'x', expires_in: 9 }),
      'protocol',
      undefined,
    ],
    [
      'a token that is none',
      answers(200, {}, { token_type: 'Bearer', access_token: 'a\r\nb: hidden', expires_in: 9 }),
      'protocol',
      undefined,
    ],
    [
      'a token without a life',
      answers(200, {}, { token_type: 'Bearer', access_token: 'hidden' }),
      'protocol',
      undefined,
    ],
    ['silence', hangs, 'timeout', undefined],
    ['a redirect', answers(302, { location: 'http://127.0.0.1:1/' }), 'refused', undefined],
  ] as const)(
    'sends nothing where the token’s place answers with %s, and all later',
    async (_, fault, reason, afterMs) => {
      const { server, has, open } = await sentinel();
      const transport = open({}, QUICK);
      const messages = batch(transport, entries(names(2)));
      server.faults.push(fault);
      const error = await failure(transport.deliver(messages, NEVER));
      expect(error).toMatchObject({ reason, retryAfterMs: afterMs });
      expect(`${error.stack}`).not.toContain('hidden');
      expect(server.requests).toHaveLength(1);
      expect(await deliverAll(transport, messages)).toEqual([]);
      expect(has()).toEqual(names(2));
    },
  );

  test('sends at most 1 MB a call', async () => {
    const { server, has, open } = await sentinel();
    const transport = open();
    const messages = batch(transport, entries(names(60), { raw: 'x'.repeat(50_000) }));
    expect(byFate(messages, await transport.deliver(messages, NEVER)).delivered).toEqual(names(60));
    expect(has()).toEqual(names(60));
    const sizes = server.requests.map(({ text }) => text.length);
    expect(Math.max(...sizes)).toBeLessThanOrEqual(1_000_000);
    expect(sizes.length).toBe(5);
  });

  test('asks for its token at no address that is not allowed', async () => {
    const { server, members } = await sentinel();
    const resolve = async (host: string) => [{ address: host === 'login.example' ? '10.0.0.1' : '127.0.0.1' }];
    const transport = openSink('sentinel', { ...members, authority: 'https://login.example' }, { resolve });
    const error = await failure(transport.deliver(batch(transport, entries(['a'])), NEVER));
    expect([error.reason, server.connections()]).toEqual(['address_not_allowed', 0]);
  });
});

describe('Datadog', () => {
  test('gets a log with the event inside, a status for its severity, and no time that it would refuse', async () => {
    const { api, open } = await datadog();
    const transport = open({ tags: 'env:prod,team:ot' });
    await transport.deliver(
      batch(transport, entries(['a'], { severity: 9, occurredAt: '2026-11-01T00:00:00Z' })),
      NEVER,
    );
    expect(api.logs).toEqual([
      {
        ddsource: 'sealog',
        ddtags: 'env:prod,team:ot,tenant:acme,category:data_access',
        hostname: 'mes-1',
        service: 'sealog',
        status: 'critical',
        message: 'Recipe read: success (acme/data_access 0)',
        sealog: expect.objectContaining({ id: 'a', severity: 9, occurredAt: '2026-11-01T00:00:00Z' }),
      },
    ]);
  });

  test('gets OCSF in a member of its own, and CEF as the message', async () => {
    const { api, open } = await datadog();
    for (const format of ['ocsf', 'cef']) {
      const transport = open({ format });
      await transport.deliver(batch(transport, entries(['a'])), NEVER);
    }
    expect(api.logs[0]!['ocsf']).toMatchObject({ class_uid: 6003 });
    expect(decodeCef(api.logs[1]!['message'] as string).fields.get('externalId')).toBe('a');
  });

  test('gets at most 1000 logs and 5 MB a request', async () => {
    const { api, server, open } = await datadog();
    const transport = open();
    const messages = batch(transport, entries(names(1500), { raw: 'x'.repeat(9000) }));
    expect(byFate(messages, await transport.deliver(messages, NEVER)).delivered).toEqual(names(1500));
    expect(api.logs).toHaveLength(1500);
    expect(server.requests.every(({ text }) => text.length <= 4_250_000)).toBe(true);
  });
});

describe('OTLP', () => {
  test('gets records with 64-bit integers as texts', async () => {
    const { api, open } = await otlp();
    const transport = open();
    const [exported] = entries(['a'], { severity: 8 });
    await transport.deliver(batch(transport, [exported!]), NEVER);
    const [record] = api.records;
    expect(record).toMatchObject({
      timeUnixNano: '1795377845123000000',
      observedTimeUnixNano: '1795377845310000000',
      severityNumber: 17,
      severityText: 'ERROR',
      eventName: 'recipe.read',
    });
    expect(record!.attributes).toContainEqual({ key: 'sealog.seq', value: { intValue: '0' } });
    expect(otlpAttribute(record!, 'log.record.uid')).toBe(exported!.entry.hash);
    expect(JSON.parse(record!.body.stringValue)).toMatchObject({ id: 'a', log: { hash: exported!.entry.hash } });
  });

  test('says how many it rejected, never which: the first is found, and none is passed over', async () => {
    const { api, server, open } = await otlp();
    api.rejected.add('e5').add('e12');
    const transport = open();
    const messages = batch(transport, entries(names(16)));
    const fates = await transport.deliver(messages, NEVER);
    expect(byFate(messages, fates)).toEqual({ delivered: names(5), refused: ['e5'], again: names(16).slice(6) });
    expect(JSON.stringify(fates)).not.toContain('hidden');
    const sent = server.requests.map(
      ({ text }) => JSON.parse(text).resourceLogs[0].scopeLogs[0].logRecords.length as number,
    );
    // All, a half, a quarter (taken), of the other quarter a half, and one.
    expect(sent).toEqual([16, 8, 4, 2, 1, 1]);
    // Alone it is refused at once, and not sent again.
    const before = server.requests.length;
    expect(byFate([messages[5]!], await transport.deliver([messages[5]!], NEVER)).refused).toEqual(['e5']);
    expect(server.requests.length - before).toBe(1);
  });

  test.each([
    ['nothing', ''],
    ['an empty message', {}],
    ['an empty partialSuccess', { partialSuccess: {} }],
    ['none rejected, as a text', { partialSuccess: { rejectedLogRecords: '0' } }],
    ['none rejected, as a number', { partialSuccess: { rejectedLogRecords: 0 } }],
    ['a member that is new', { partialSuccess: {}, later: 1 }],
  ])('that answers 200 with %s has taken all', async (_, body) => {
    const { server, open } = await otlp();
    server.faults.push(answers(200, {}, body));
    const transport = open();
    const messages = batch(transport, entries(names(3)));
    expect(byFate(messages, await transport.deliver(messages, NEVER)).delivered).toEqual(names(3));
  });

  test('that warns has taken all', async () => {
    const { server, open } = await otlp();
    server.faults.push(answers(200, {}, { partialSuccess: { errorMessage: 'hidden' } }));
    const warnings: string[] = [];
    const transport = open({}, { warnings });
    const messages = batch(transport, entries(names(3)));
    expect(byFate(messages, await transport.deliver(messages, NEVER)).delivered).toEqual(names(3));
    expect(warnings).toEqual(['the OTLP receiver took the entries with a warning']);
  });

  test.each([-1, 4, 1.5, 'many', '1e0x', { n: 1 }, true, []])(
    'that says %j of three were rejected has said nothing',
    async (rejected) => {
      const { server, open } = await otlp();
      server.faults.push(answers(200, {}, { partialSuccess: { rejectedLogRecords: rejected } }));
      const transport = open();
      expect((await failure(transport.deliver(batch(transport, entries(names(3))), NEVER))).reason).toBe('protocol');
    },
  );
});

describe('docs/export.md', () => {
  const page = readFileSync(join(import.meta.dirname, '../docs/export.md'), 'utf8');

  test.each([undefined, ...PRESET_NAMES])('names all members of %s, and says which are secret', (preset) => {
    const heading = preset === undefined ? '### Members' : `: \`${preset}\`\n`;
    const section = page.slice(page.indexOf(heading, page.indexOf('## Webhooks'))).split('\n### ')[0]!;
    const { members, secrets } = httpSinkMembers(preset);
    const common = ['tlsCa', 'tlsCert', 'tlsKey', 'gzip'];
    for (const name of preset === undefined ? members : members.filter((one) => !common.includes(one))) {
      expect(section, name).toContain(`\`${name}\``);
      expect(section.includes(`\`${name}\` *secret*`), name).toBe(secrets.includes(name));
    }
  });

  test('has the columns of Sentinel', () => {
    const [, json] = /<!-- sentinel-columns -->\n```json\n([^`]*)```/.exec(page)!;
    expect(JSON.parse(json!)).toEqual(Object.entries(SENTINEL_COLUMNS).map(([name, type]) => ({ name, type })));
  });
});

/** Corpus, with each preset's own reader on the other side. */
test.skipIf(TEST_DATA === undefined).each(PRESET_NAMES)('%s takes all of the corpus', async (preset) => {
  const { has, open } = await PLAYERS[preset]();
  const transport = open();
  const exported: ExportedEntry[] = [...exportedStream(sample(corpusEvents(), 40))];
  let from = 0;
  while (from < exported.length) {
    const messages = batch(transport, exported.slice(from, from + Math.min(transport.batchMessagesMax, 500)));
    expect(byFate(messages, await transport.deliver(messages, NEVER)).delivered).toHaveLength(messages.length);
    from += messages.length;
  }
  expect(has()).toEqual(exported.map(({ entry }) => entry.record.id));
});

function* sample<T>(all: Iterable<T>, every: number): Generator<T> {
  let index = 0;
  for (const one of all) if (index++ % every === 0) yield one;
}
