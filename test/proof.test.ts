/**
 * Proofs over a socket: every entry, any two sizes, and a whole stream read from its tiles alone; nothing of other tenants, and from
 * damaged rows no proof that is wrong.
 */
import { createHash } from 'node:crypto';
import { pino } from 'pino';
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest';
import { fromHex, toHex, utf8 } from '../src/chain/bytes.ts';
import { decodeCheckpoint } from '../src/chain/checkpoint.ts';
import { decodeKeyStatement } from '../src/chain/key-statement.ts';
import { checkConsistency, checkInclusion, EMPTY_ROOT, inclusionNodes, inclusionPath } from '../src/chain/merkle.ts';
import { noteVerifier, openNote, parseVkey } from '../src/chain/note.ts';
import { commitmentOf, partsHash } from '../src/chain/part.ts';
import { tilePath } from '../src/chain/tile.ts';
import { decodeTlogProof } from '../src/chain/tlog-proof.ts';
import { checkShape } from '../src/http/api-schema.ts';
import { proofJson } from '../src/proof/entry-proof.ts';
import { keyViews } from '../src/proof/keys.ts';
import { type Database, openDatabase } from '../src/store/database.ts';
import { treeNodes } from '../src/store/tree-hashes.ts';
import { canonicalText } from './reference/naive-json.ts';
import { root as naiveRoot } from './reference/naive-log.ts';
import { generateEvents } from './support/events.ts';
import { talk } from './support/http.ts';
import { startService, type TestService } from './support/service.ts';

// biome-ignore lint/suspicious/noExplicitAny: answers of every shape
type Json = any;

const HARD = process.env['SEALOG_TEST_HARD'] !== undefined;
const SIZE = 600;
const STREAM = 'acme/user_authentication';
const LOG = `/v1/logs/${STREAM}`;

let service: TestService;
let database: Database;
let ids: string[];
let leaves: Uint8Array[];
let vkeys: Map<string, string>;

beforeAll(async () => {
  service = await startService({ environment: { SEALOG_ANCHOR_SECONDS: '1' } });
  database = openDatabase({ connection: service.database.appConfig, readersMax: 1, log: pino({ level: 'silent' }) });
  const receipts = await append('acme', SIZE - 1, 1);
  receipts.push(await appendSigned('acme', 'the-last'));
  ids = receipts.map(({ id }) => id);
  leaves = receipts.map(({ hash }) => Buffer.from(hash, 'hex'));
  vkeys = new Map(
    (await json('/v1/keys')).items.map((key: { origin: string; vkey: string }) => [key.origin, key.vkey]),
  );
}, 60_000);

afterAll(async () => {
  await service.checkLog();
  await database?.close();
  await service?.stop();
});

describe('the proof of an event', () => {
  it('holds for every entry, from its record alone up to the signed root', async () => {
    for (const [seq, id] of ids.entries()) {
      // Those at the edges of tiles, and one of three.
      if (!HARD && seq % 3 !== 0 && (seq + 2) % 256 > 4) continue;
      const proof = await json(`/v1/events/${id}/proof`);
      expect(checkProof(proof)).toMatchObject({ id, stream: STREAM, seq });
      if (seq % 50 === 0) expect(checkShape('EntryProof', proof)).toEqual([]);
    }
  }, 60_000);

  it('gives each part with the salt that opens its commitment', async () => {
    const [event] = generateEvents({ seed: 1, count: 1, categories: ['user_authentication'] });
    const proof = await json(`/v1/events/${ids[0]}/proof`);
    expect(Object.keys(proof.parts).sort()).toEqual(['actor', 'details', 'raw']);
    expect(proof.parts.actor.value).toEqual(event!.actor);
    expect(proof.parts.details.value).toEqual(event!.details);
    expect(proof.parts.raw.value).toEqual(event!.raw);
  });

  it('is a C2SP tlog-proof to who wants text', async () => {
    for (const [accept, isText] of [
      ['text/plain', true],
      ['text/plain;q=0.5, application/json;q=0.4', true],
      ['TEXT/PLAIN , */*', true],
      ['text/*', true],
      ['application/json', false],
      ['text/plain;q=0.3, application/json;q=0.4', false],
      ['application/json, text/plain', false],
      ['text/plain;q=0', false],
      ['*/*', false],
      ['text/html', false],
    ] as const) {
      const answer = await fetched(`/v1/events/${ids[77]}/proof`, { accept });
      expect([answer.status, answer.headers.get('vary')]).toEqual([200, 'accept']);
      expect([accept, answer.headers.get('content-type')]).toEqual([
        accept,
        isText ? 'text/plain; charset=utf-8' : 'application/json; charset=utf-8',
      ]);
      if (!isText) continue;
      const { index, path, checkpoint } = decodeTlogProof(await answer.bytes());
      const { size, root } = opened(checkpoint, STREAM);
      checkInclusion(77, size, leaves[index]!, path, root);
    }
  });

  it('withholds what people did from those who may read proofs only', async () => {
    const proof = await json(`/v1/events/${ids[3]}/proof`);
    // No role has the one permission without the other yet, so the text is made as the route makes it.
    const entry = {
      record: JSON.parse(proof.record),
      bytes: utf8(proof.record),
      hash: proof.hash,
      parts: Object.entries(proof.parts).map(([name, part]) => openPart(name, part)),
    };
    const text = proofJson(
      {
        entry: entry as never,
        stream: { id: 0, name: STREAM, size: proof.size, root: new Uint8Array(32), note: proof.checkpoint },
        path: proof.path.map(fromHex),
        erasures: [],
      },
      false,
    );
    const withheld = JSON.parse(text);
    expect(Object.values(withheld.parts).map((part: Json) => part.state)).toEqual(
      Object.keys(proof.parts).map(() => 'withheld'),
    );
    expect(checkProof(withheld)).toMatchObject({ seq: 3 });
    expect(text).not.toContain(proof.parts.actor.value.id);
  });

  it('asks which category where several streams hold the id', async () => {
    const both = 'in-two-streams';
    await appendSigned('acme', both);
    await appendSigned('acme', both, 'system_operation');
    const refused = await service.get(`/v1/events/${both}/proof`);
    expect([refused.status, refused.body.code]).toEqual([400, 'category_required']);
    const proof = await json(`/v1/events/${both}/proof?category=system_operation`);
    expect(checkProof(proof)).toMatchObject({ stream: 'acme/system_operation', seq: 0 });
    expect(proof.path).toEqual([]);
  });

  it('is there from the first checkpoint on, and follows each later one', async () => {
    const all: string[] = [];
    for (let size = 1; size <= (HARD ? 20 : 8); size++) {
      const id = `grown-${size}`;
      await appendSigned('growing', id);
      all.push(id);
      const token = await service.token('auditor', 'growing');
      for (const [seq, one] of all.entries()) {
        const { body } = await service.get(`/v1/events/${one}/proof`, { token });
        expect(checkProof(body)).toMatchObject({ id: one, seq });
        expect(body.size).toBe(size);
      }
    }
  }, 30_000);

  it('of every entry at every size up to 600 leads to the root', async () => {
    const stream = await streamNamed(STREAM);
    for (let size = 1; size <= SIZE; size++) {
      // Each shape of a tree within a tile, and around a second and a third one; and one of nineteen.
      if (!HARD && size > 40 && size % 19 !== 0 && size !== SIZE && (size + 3) % 256 > 6) continue;
      const seqs = Array.from({ length: size }, (_, seq) => seq);
      const nodes = seqs.flatMap((seq) => inclusionNodes(seq, size));
      const getNode = await treeNodes(database.verifier, stream, size, nodes);
      const root = naiveRoot(leaves.slice(0, size));
      for (const seq of seqs) checkInclusion(seq, size, leaves[seq]!, inclusionPath(seq, size, getNode), root);
    }
  }, 60_000);

  it('is not there before a checkpoint covers the event, and says when to ask again', async () => {
    const quiet = await startService();
    onTestFinished(() => quiet.stop());
    await quiet.app.signer!.close();
    const event = generateEvents({ seed: 4, count: 1, categories: ['user_authentication'] })[0]!;
    expect((await quiet.post('/v1/events', { ...event, id: 'early' })).status).toBe(201);
    for (const path of ['/v1/events/early/proof', `${LOG}/checkpoint`, `${LOG}/tile/0/000.p/1`]) {
      const { status, body, headers } = await quiet.get(path);
      expect([status, body.code, headers['retry-after']]).toEqual([404, 'not_yet_checkpointed', '1']);
    }
    // The other stream has the entries about these questions.
    const { items } = (await quiet.get('/v1/streams')).body;
    expect(items).toMatchObject([
      { stream: 'acme/data_access', checkpoint: null },
      { stream: STREAM, size: 1, checkpoint: null },
    ]);
    expect(checkShape('StreamPage', (await quiet.get('/v1/streams')).body)).toEqual([]);
  });

  it('of what is not there is a 404', async () => {
    for (const path of ['/v1/events/nothing/proof', `/v1/events/${ids[0]}/proof/`, `/v1/events/${ids[0]}/Proof`])
      expect((await service.get(path)).status).toBe(404);
    expect((await service.get(`/v1/events/${ids[0]}/proof?x=1`)).status).toBe(400);
  });
});

describe('a stream as tiles', () => {
  it('is read by a client that knows C2SP tlog-tiles and the key, and nothing of Sealog', async () => {
    const { size, root, records } = await readWholeLog(LOG, STREAM);
    expect(size).toBeGreaterThanOrEqual(SIZE);
    expect(records.slice(0, SIZE).map((record) => toHex(H(Buffer.of(0), record)))).toEqual(leaves.map(toHex));
    expect(toHex(naiveRoot(records.map((record) => H(Buffer.of(0), record))))).toBe(toHex(root));
    expect(records.map((record) => JSON.parse(Buffer.from(record).toString()).seq)).toEqual(
      records.map((_, seq) => seq),
    );
  });

  it('has partial tiles and bundles of every width', async () => {
    const step = (width: number): number => (HARD || width < 20 || width >= 245 ? 1 : 9);
    const whole = await bytesOf(`${LOG}/tile/0/001`);
    const bundle = await bytesOf(`${LOG}/tile/entries/001`);
    expect(whole.length).toBe(8192);
    for (let width = 1; width < 256; width += step(width)) {
      expect(Buffer.compare(await bytesOf(`${LOG}/tile/0/001.p/${width}`), whole.subarray(0, 32 * width))).toBe(0);
      const part = await bytesOf(`${LOG}/tile/entries/001.p/${width}`);
      expect(Buffer.compare(part, bundle.subarray(0, part.length))).toBe(0);
      expect(bundleOf(part).length).toBe(width);
    }
    expect(toHex(await bytesOf(`${LOG}/tile/1/000.p/2`))).toBe(
      toHex(Buffer.concat([naiveRoot(leaves.slice(0, 256)), naiveRoot(leaves.slice(256, 512))])),
    );
    for (let width = 1; width <= SIZE - 512; width += step(width)) {
      const tile = await bytesOf(`${LOG}/tile/0/002.p/${width}`);
      expect(toHex(tile)).toBe(toHex(Buffer.concat(leaves.slice(512, 512 + width))));
    }
  }, 30_000);

  it('has nothing beyond the newest checkpoint', async () => {
    const { size } = opened(await textOf(`${LOG}/checkpoint`), STREAM);
    const rest = size % 256;
    expect(rest).toBeGreaterThan(0);
    for (const path of [
      'tile/0/002',
      `tile/0/002.p/${rest + 1}`,
      'tile/0/003.p/1',
      'tile/1/000',
      'tile/1/000.p/3',
      'tile/2/000.p/1',
      'tile/63/000',
      'tile/5/x999/x999/x999/x999/999',
      'tile/0/x009/x007/x199/x254/x740/991',
      'tile/entries/002',
      `tile/entries/002.p/${rest + 1}`,
      'tile/entries/x009/x007/x199/x254/x740/991.p/1',
    ])
      expect([path, (await fetched(`${LOG}/${path}`)).status]).toEqual([path, 404]);
    expect((await fetched(`${LOG}/tile/0/002.p/${rest}`)).status).toBe(200);
  });

  it('says what it is, and how long it stays so', async () => {
    const tile = await fetched(`${LOG}/tile/0/000`);
    expect(tile.headers.get('content-type')).toBe('application/octet-stream');
    expect(tile.headers.get('cache-control')).toBe('private, max-age=31536000, immutable');
    expect(tile.headers.get('vary')).toBe('authorization');
    const checkpoint = await fetched(`${LOG}/checkpoint`);
    expect(checkpoint.headers.get('content-type')).toBe('text/plain; charset=utf-8');
    expect(checkpoint.headers.get('cache-control')).toBe('no-store');
    expect((await fetched(`${LOG}/tile/0/009`)).headers.get('cache-control')).toBe('no-store');
    for (const [accept, coding] of [
      ['gzip', 'gzip'],
      ['br, gzip;q=0.5', 'gzip'],
      ['identity', null],
      ['gzip;q=0', null],
    ] as const) {
      const bundle = await fetched(`${LOG}/tile/entries/000`, { 'accept-encoding': accept });
      expect([accept, bundle.headers.get('content-encoding')]).toEqual([accept, coding]);
      expect(bundle.headers.get('vary')).toBe('authorization, accept-encoding');
      expect(bundleOf(await bundle.bytes()).length).toBe(256);
    }
    expect(
      (await fetched(`${LOG}/tile/0/000`, { 'accept-encoding': 'gzip' })).headers.get('content-encoding'),
    ).toBeNull();
  });

  it('has one address for each thing', async () => {
    const token = await service.token('auditor');
    const sound = '/v1/logs/acme/user_authentication/tile/0/000';
    expect((await raw('GET', sound, token)).status).toBe(200);
    for (const path of [
      `${sound}/`,
      `/${sound}`,
      '/v1/logs//acme/user_authentication/tile/0/000',
      '/v1/logs/acme/user_authentication//tile/0/000',
      '/v1/logs/acme/user_authentication/tile//0/000',
      '/v1/logs/acme/user_authentication/tile/0//000',
      '/v1/logs/acme/user_authentication/tile/./0/000',
      '/v1/logs/acme/user_authentication/tile/1/../0/000',
      '/v1/logs/other/../acme/user_authentication/tile/0/000',
      '/v1/logs/acme/user_authentication/tile/..',
      '/v1/logs/acme/user_authentication/tile/',
      '/v1/logs/acme/user_authentication/tile',
      '/v1/logs/acme/user_authentication/tile/0/0',
      '/v1/logs/acme/user_authentication/tile/0/0000',
      '/v1/logs/acme/user_authentication/tile/0/x000/000',
      '/v1/logs/acme/user_authentication/tile/00/000',
      '/v1/logs/acme/user_authentication/tile/0/000.p/256',
      '/v1/logs/acme/user_authentication/tile/0/000.p/0',
      '/v1/logs/acme/user_authentication/tile/0/000.p/01',
      '/v1/logs/acme/user_authentication/tile/-1/000',
      '/v1/logs/acme/user_authentication/tile/0%2F000',
      '/v1/logs/acme/user_authentication/tile/%30/000',
      '/v1/logs/acme/user_authentication/%74ile/0/000',
      '/v1/logs/acme%2Fuser_authentication/tile/0/000',
      '/v1/logs/acm%65/user_authentication/tile/0/000',
      '/v1/logs/acme/user_authentication/tile/0/000%00',
      '/v1/logs/acme/user_authentication%00/tile/0/000',
      '/v1/logs/ACME/user_authentication/tile/0/000',
      '/v1/logs/acme/Data_access/tile/0/000',
      '/v1/logs/acme/no_category/tile/0/000',
      '/v1/logs/acme/user_authentication/e1/tile/0/000',
      '/v1/logs/acme/user_authentication/e2/tile/0/000',
      '/v1/logs/acme/user_authentication/e02/checkpoint',
      '/v1/logs/acme/user_authentication/e1/checkpoint',
      '/v1/logs/acme/user_authentication/e/checkpoint',
      '/v1/logs/acme/user_authentication/consistency/checkpoint',
      '/v1/logs/acme/checkpoint',
      '/v1/logs/acme',
      `${sound};x`,
      `/v1/logs/acme/user_authentication/tile/0/${'x000/'.repeat(60)}000`,
    ]) {
      const answer = await raw('GET', path, token);
      expect([path, answer.status, answer.headers['content-type']]).toEqual([path, 404, 'application/problem+json']);
    }
    expect([400, 404]).toContain((await raw('GET', `${sound}%zz`, token)).status);
    expect((await raw('GET', `${sound}?x=1`, token)).status).toBe(400);
  });

  it('takes GET and nothing else', async () => {
    const token = await service.token('auditor');
    for (const path of [
      `${LOG}/checkpoint`,
      `${LOG}/tile/0/000`,
      `${LOG}/consistency`,
      '/v1/keys',
      '/v1/events/x/proof',
    ]) {
      for (const method of ['HEAD', 'POST', 'PUT', 'DELETE', 'OPTIONS']) {
        const answer = await raw(method, path, token);
        expect([method, path, answer.status, answer.headers['allow']]).toEqual([method, path, 405, 'GET']);
      }
    }
  });
});

describe('consistency', () => {
  it('holds between any two sizes', async () => {
    const pairs: [number, number][] = [
      [0, 0],
      [0, 1],
      [0, SIZE],
      [1, 1],
      [1, 2],
      [255, 256],
      [256, 256],
      [256, 512],
      [256, 600],
      [512, 600],
      [599, 600],
      [600, 600],
    ];
    for (let i = 0; i < (HARD ? 250 : 40); i++) {
      const to = (i * 7919) % (SIZE + 1);
      pairs.push([(i * 104_729) % (to + 1), to]);
    }
    for (const [from, to] of pairs) {
      const answer = await json(`${LOG}/consistency?from=${from}&to=${to}`);
      expect(checkShape('ConsistencyProof', answer)).toEqual([]);
      expect([answer.stream, answer.from, answer.to]).toEqual([STREAM, from, to]);
      const [fromRoot, toRoot] = [fromHex(answer.fromRoot), fromHex(answer.toRoot)];
      checkConsistency(from, to, fromRoot, toRoot, answer.path.map(fromHex));
      expect(answer.fromRoot).toBe(toHex(from === 0 ? EMPTY_ROOT : naiveRoot(leaves.slice(0, from))));
      expect(answer.toRoot).toBe(toHex(to === 0 ? EMPTY_ROOT : naiveRoot(leaves.slice(0, to))));
      opened(answer.checkpoint, STREAM);
    }
  }, 30_000);

  it.each([
    ['', ['from', 'to']],
    ['?from=1', ['to']],
    ['?from=2&to=1', ['from']],
    ['?from=0&to=99999', ['to']],
    ['?from=-1&to=1', ['from']],
    ['?from=01&to=1', ['from']],
    ['?from=1&to=1e2', ['to']],
    ['?from=1&to=2&to=3', ['to']],
    ['?from=1&to=2&x=3', ['x']],
    ['?from=a&to=', ['from', 'to']],
  ])('between %s is a 400 that names the field', async (query, fields) => {
    const { status, body } = await service.get(`${LOG}/consistency${query}`);
    expect([status, body.code]).toEqual([400, 'invalid_request']);
    expect(body.errors.map(({ field }: { field: string }) => field)).toEqual(fields);
  });
});

describe('the keys', () => {
  it('are the deployment’s, the anchor stream’s and those of the own streams, each stated by the deployment', async () => {
    await appendSigned('other', 'of-other');
    const { body } = await service.get('/v1/keys');
    expect(checkShape('KeyPage', body)).toEqual([]);
    const origins = body.items.map(({ origin }: { origin: string }) => origin);
    expect(origins).toContain('log.example');
    expect(origins).toContain(`log.example/${STREAM}`);
    expect(origins.filter((origin: string) => origin.includes('/other/'))).toEqual([]);
    const deployment = body.items.find(({ origin }: { origin: string }) => origin === 'log.example');
    expect(deployment).toMatchObject({ generation: 1, from: { stream: 'sealog/anchor', size: 0 }, to: null });
    for (const { origin, vkey, statement } of body.items) {
      const { text } = openNote(statement, [noteVerifier(parseVkey(deployment.vkey))]);
      expect(decodeKeyStatement(text)).toMatchObject({ origin: 'log.example', vkey });
      expect(parseVkey(vkey).name).toBe(origin);
    }
  });

  it('end where the next generation begins', async () => {
    const first = (await json('/v1/keys')).items.find(({ origin }: { origin: string }) => origin === 'log.example');
    const says = decodeKeyStatement(first.statement.split('\n\n')[0].concat('\n'));
    const next = `log.example\nsealog/key/v1\n2\nsealog/anchor 17\n${says.vkey}\n${says.vkey}\n\n— a b\n`;
    const views = keyViews('log.example', [first.statement, next]);
    expect(views.map(({ from, to }) => [from.size, to?.size])).toEqual([
      [0, 17],
      [17, undefined],
    ]);
  });

  it('are there for a tenant that has nothing yet', async () => {
    const { status, body } = await service.get('/v1/keys', { token: await service.token('auditor', 'nobody-yet') });
    expect(status).toBe(200);
    expect(body.items.map(({ origin }: { origin: string }) => origin)).toContain('log.example');
  });
});

describe('who may see what', () => {
  const OTHERS = [
    `/v1/logs/${STREAM}/checkpoint`,
    `/v1/logs/${STREAM}/tile/0/000`,
    `/v1/logs/${STREAM}/tile/entries/000`,
    `/v1/logs/${STREAM}/consistency?from=0&to=1`,
    '/v1/events/the-last/proof',
  ];

  it('another tenant finds nothing, whether it is there or not', async () => {
    const token = await service.token('auditor', 'other');
    for (const path of OTHERS) {
      const { status, body } = await service.get(path, { token });
      expect([path, status, body.code]).toEqual([path, 404, 'not_found']);
      expect((await service.get(path.replace('acme', 'nobody'), { token })).status).toBe(404);
    }
  });

  it('a caller without a token, or whose roles may not, gets nothing', async () => {
    for (const path of [...OTHERS, '/v1/keys']) {
      expect((await service.get(path, { token: null })).status).toBe(401);
      expect((await service.get(path, { token: await service.token('service') })).status).toBe(403);
    }
  });

  it('every auditor reads the anchor stream, and nothing else of the deployment’s own', async () => {
    await service.adminPool.query(
      `INSERT INTO sealog.stream (tenant, category, epoch, name)
       SELECT id, 'log_administration', 1, 'sealog/log_administration' FROM sealog.tenant WHERE name = 'sealog' ON CONFLICT DO NOTHING`,
    );
    await until(async () => (await fetched('/v1/logs/sealog/anchor/checkpoint')).status === 200);
    await appendSigned('acme', 'lists-keys-again');
    for (const tenant of ['acme', 'other']) {
      const token = await service.token('auditor', tenant);
      const { size } = await readWholeLog('/v1/logs/sealog/anchor', 'sealog/anchor', token);
      expect(size).toBeGreaterThan(0);
      const { body } = await service.get('/v1/logs/sealog/anchor/consistency?from=0&to=1', { token });
      expect(body.stream).toBe('sealog/anchor');
      expect((await service.get('/v1/logs/sealog/log_administration/checkpoint', { token })).body.code).toBe(
        'not_found',
      );
      expect((await service.get('/v1/logs/sealog/user_authentication/checkpoint', { token })).body.code).toBe(
        'not_found',
      );
    }
  }, 30_000);

  it('everybody reads all logs, and only these, where the operator made them public', async () => {
    const open = await startService({ beside: service, environment: { SEALOG_PUBLIC_LOGS: '1' } });
    onTestFinished(() => open.stop());
    for (const token of [null, 'nonsense', await service.token('service', 'other')]) {
      const tile = await open.get(`/v1/logs/${STREAM}/consistency?from=3&to=9`, { token });
      expect(tile.status).toBe(200);
      expect((await open.get('/v1/events/the-last/proof', { token })).status).not.toBe(200);
      expect((await open.get('/v1/keys', { token })).status).not.toBe(200);
    }
    const tile = await fetch(`${open.url}/v1/logs/${STREAM}/tile/0/000`);
    expect(tile.headers.get('cache-control')).toBe('public, max-age=31536000, immutable');
    expect(tile.headers.get('vary')).toBeNull();
    expect((await fetch(`${open.url}/v1/logs/sealog/log_administration/checkpoint`)).status).toBe(404);
    expect((await fetch(`${open.url}/v1/logs/nobody/user_authentication/checkpoint`)).status).toBe(404);
  });

  it('and nobody of them keeps the service busy: so many requests a second from one network', async () => {
    const open = await startService({ beside: service, environment: { SEALOG_PUBLIC_LOGS: '1' } });
    onTestFinished(() => open.stop());
    const ask = (remoteAddress: string, url = '/v1/logs/nobody/user_authentication/checkpoint') =>
      open.app.server.inject({ url, remoteAddress, headers: { host: 'x' } });
    let answer = await ask('203.0.113.9');
    for (let n = 0; n < 5000 && answer.statusCode === 404; n++) answer = await ask('203.0.113.9');
    expect([answer.statusCode, answer.json().code]).toEqual([429, 'quota']);
    expect(answer.headers).toMatchObject({ 'retry-after': '1', 'content-type': 'application/problem+json' });
    // Others, callers and probes go on.
    expect((await ask('203.0.113.10', `/v1/logs/${STREAM}/checkpoint`)).statusCode).toBe(200);
    expect((await ask('203.0.113.9', '/healthz')).statusCode).toBe(200);
    // Who needs a token is counted by his quota.
    const closed = service.app.server;
    const headers = { host: 'x', authorization: `Bearer ${await service.token('auditor')}` };
    for (let n = 0; n < 3; n++) {
      const url = `/v1/logs/${STREAM}/checkpoint`;
      expect((await closed.inject({ url, remoteAddress: '203.0.113.9', headers })).statusCode).toBe(200);
    }
  });
});

describe('streams', () => {
  it('show their newest checkpoint', async () => {
    const page = await json('/v1/streams');
    expect(checkShape('StreamPage', page)).toEqual([]);
    const stream = page.items.find((item: Json) => item.stream === STREAM);
    const { size, root } = opened(await textOf(`${LOG}/checkpoint`), STREAM);
    expect(stream.checkpoint).toMatchObject({ size, root: toHex(root) });
    expect(Math.abs(Date.parse(stream.checkpoint.signedAt) - Date.now())).toBeLessThan(120_000);
  });
});

describe('from rows that were changed', () => {
  const FLIP = (column: string, at: number) => `set_byte(${column}, ${at}, get_byte(${column}, ${at}) # 1)`;
  const TILE = 'stream = $1 AND level = 0 AND tile_index =';

  // It would sign again what it finds changed.
  beforeAll(() => service.app.signer!.close());

  it.each<[string, string]>([
    ['a hash of a tile', `UPDATE sealog.tile SET hashes = ${FLIP('hashes', 40)} WHERE ${TILE} 0`],
    ['another hash of a tile', `UPDATE sealog.tile SET hashes = ${FLIP('hashes', 8191)} WHERE ${TILE} 1`],
    ['the root of a tile', `UPDATE sealog.tile SET root = ${FLIP('root', 0)} WHERE ${TILE} 1`],
    ['a missing tile', `DELETE FROM sealog.tile WHERE ${TILE} 0`],
    ['a missing block', 'DELETE FROM sealog.block WHERE stream = $1 AND first_seq + entries > 520 AND first_seq < 540'],
    [
      'a root that was put in the checkpoint’s row',
      `UPDATE sealog.checkpoint SET root = ${FLIP('root', 0)} WHERE stream = $1`,
    ],
    ['a size that was put in the checkpoint’s row', 'UPDATE sealog.checkpoint SET size = size - 1 WHERE stream = $1'],
    [
      'another text in the note',
      `UPDATE sealog.checkpoint SET note = replace(note, 'log.example', 'log.exanple') WHERE stream = $1`,
    ],
    ['a note that is none', `UPDATE sealog.checkpoint SET note = 'nothing' WHERE stream = $1`],
    [
      'the note of another stream',
      `UPDATE sealog.checkpoint SET (size, root, note) = (SELECT size, root, note FROM sealog.checkpoint WHERE stream <> $1 ORDER BY stream LIMIT 1) WHERE stream = $1`,
    ],
    [
      'tiles that were swapped',
      `UPDATE sealog.tile AS t SET hashes = o.hashes, root = o.root FROM sealog.tile AS o WHERE t.stream = $1 AND t.level = 0 AND o.stream = t.stream AND o.level = 0 AND o.tile_index = 1 - t.tile_index`,
    ],
    ['the row of another tenant', `UPDATE sealog.tile SET tenant = 0 WHERE ${TILE} 0`],
    [
      'a signature that is wrong',
      `UPDATE sealog.checkpoint SET note = regexp_replace(note, E' [A-Za-z0-9+/=]+\\n$', E' AAAAAAAA\\n') WHERE stream = $1`,
    ],
  ])('nobody gets a proof that is wrong: %s', async (_, damage) => {
    const { id } = await streamNamed(STREAM);
    const tampered = await tamper(damage, id);
    try {
      let refused = 0;
      for (const path of [1, 300, 599].map((seq) => `/v1/events/${ids[seq]}/proof`))
        refused += await isRefused(path, checkProof);
      refused += await isRefused(`${LOG}/consistency?from=3&to=590`, (answer) => {
        expect(answer.fromRoot).toBe(toHex(naiveRoot(leaves.slice(0, 3))));
        expect(answer.toRoot).toBe(toHex(naiveRoot(leaves.slice(0, 590))));
        checkConsistency(3, 590, fromHex(answer.fromRoot), fromHex(answer.toRoot), answer.path.map(fromHex));
        opened(answer.checkpoint, STREAM);
      });
      expect(refused).toBeGreaterThan(0);
    } finally {
      await tampered.mend();
    }
  });

  /** Says whether a request is refused, or answered with what a client refuses. An answer that he takes MUST be right. */
  async function isRefused(path: string, check: (answer: Json) => unknown): Promise<number> {
    const { status, body } = await service.get(path);
    if (status !== 200) {
      expect([status, body.code]).toEqual([500, 'internal']);
      return 1;
    }
    try {
      check(body);
      return 0;
    } catch {
      return 1;
    }
  }

  /** Changes rows as the owner, for good; `mend` puts all of the stream's back. */
  async function tamper(damage: string, stream: number): Promise<{ mend(): Promise<void> }> {
    const tables = ['tile', 'block', 'checkpoint'];
    const keep = tables.map(
      (table) => `CREATE TABLE kept_${table} AS SELECT * FROM sealog.${table} WHERE stream = ${stream}`,
    );
    const back = tables.map(
      (table) =>
        `DELETE FROM sealog.${table} WHERE stream = ${stream}; INSERT INTO sealog.${table} SELECT * FROM kept_${table}`,
    );
    const asOwner = (statement: string) => `BEGIN; SET LOCAL ROLE sealog_owner; ${statement}; COMMIT`;
    await service.adminPool.query(keep.join(';'));
    await service.adminPool.query(
      `GRANT SELECT ON ${tables.map((table) => `kept_${table}`).join(',')} TO sealog_owner`,
    );
    await service.adminPool.query(asOwner(damage.replaceAll('$1', String(stream))));
    return {
      async mend() {
        await service.adminPool.query(asOwner(back.join(';')));
        await service.adminPool.query(tables.map((table) => `DROP TABLE kept_${table}`).join(';'));
      },
    };
  }
});

// ---- A client of C2SP tlog-tiles, which takes nothing from the code that it tests ----

function H(...parts: readonly Uint8Array[]): Buffer {
  return createHash('sha256').update(Buffer.concat(parts)).digest();
}

/** Splits a bundle: u16 big-endian, then so many bytes. */
function bundleOf(bytes: Uint8Array): Uint8Array[] {
  const view = Buffer.from(bytes);
  const records: Uint8Array[] = [];
  for (let at = 0; at < view.length; ) {
    const length = view.readUInt16BE(at);
    expect(at + 2 + length).toBeLessThanOrEqual(view.length);
    records.push(view.subarray(at + 2, at + 2 + length));
    at += 2 + length;
  }
  return records;
}

/** Fetches checkpoint, tiles of level 0 and above, and bundles; everything must fit to everything. */
async function readWholeLog(
  log: string,
  stream: string,
  token?: string,
): Promise<{ size: number; root: Uint8Array; records: Uint8Array[] }> {
  const note = Buffer.from(await bytesOf(`${log}/checkpoint`, token)).toString();
  const { size, root } = opened(note, stream);
  const pathOf = (index: number, width: number): string =>
    String(index).padStart(3, '0') + (width === 256 ? '' : `.p/${width}`);
  const records: Uint8Array[] = [];
  let hashes: Uint8Array[] = [];
  for (let index = 0; index * 256 < size; index++) {
    const width = Math.min(256, size - index * 256);
    const tile = await bytesOf(`${log}/tile/0/${pathOf(index, width)}`, token);
    const bundle = bundleOf(await bytesOf(`${log}/tile/entries/${pathOf(index, width)}`, token));
    expect([tile.length, bundle.length]).toEqual([32 * width, width]);
    for (const [i, record] of bundle.entries()) {
      expect(toHex(H(Buffer.of(0), record))).toBe(toHex(tile.subarray(32 * i, 32 * i + 32)));
      hashes.push(tile.subarray(32 * i, 32 * i + 32));
    }
    records.push(...bundle);
  }
  expect(toHex(naiveRoot(hashes))).toBe(toHex(root));
  for (let level = 1; hashes.length >= 256; level++) {
    hashes = Array.from({ length: Math.floor(hashes.length / 256) }, (_, i) =>
      naiveRoot(hashes.slice(256 * i, 256 * i + 256)),
    );
    for (let index = 0; index * 256 < hashes.length; index++) {
      const inside = hashes.slice(256 * index, 256 * index + 256);
      expect(tilePath(level, index, inside.length)).toBe(`tile/${level}/${pathOf(index, inside.length)}`);
      expect(toHex(await bytesOf(`${log}/tile/${level}/${pathOf(index, inside.length)}`, token))).toBe(
        toHex(Buffer.concat(inside)),
      );
    }
  }
  return { size, root, records };
}

/** Opens a checkpoint with the key that the deployment states for the stream. */
function opened(note: string, stream: string): { size: number; root: Uint8Array } {
  const vkey = vkeys.get(`log.example/${stream}`);
  if (vkey === undefined) throw new Error(`no key of ${stream} was listed`);
  const { text } = openNote(note, [noteVerifier(parseVkey(vkey))]);
  const { origin, size, root } = decodeCheckpoint(text);
  expect(origin).toBe(`log.example/${stream}`);
  return { size, root };
}

/** Checks a proof as docs/format.md section 21 says: stream, seq and parts from the record, size and root from the checkpoint. */
function checkProof(proof: Json): Json {
  const record = JSON.parse(proof.record);
  const { size, root } = opened(proof.checkpoint, record.stream);
  checkInclusion(record.seq, size, H(Buffer.of(0), Buffer.from(proof.record)), proof.path.map(fromHex), root);
  const commitments = Object.entries(proof.parts as Json)
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .map(([name, part]: [string, Json]) => ({
      name: name as never,
      commitment: 'salt' in part ? commitmentOf(openPart(name, part) as never) : fromHex(part.commitment),
    }));
  expect(toHex(partsHash(commitments))).toBe(record.parts);
  expect([proof.stream, proof.seq, proof.size]).toEqual([record.stream, record.seq, size]);
  expect(proof.hash).toBe(toHex(H(Buffer.of(0), Buffer.from(proof.record))));
  return record;
}

function openPart(name: string, { salt, value }: Json): { name: string; salt: Uint8Array; value: Uint8Array } {
  return { name, salt: fromHex(salt), value: utf8(canonicalText(value)) };
}

// ---- Asking ----

interface Receipt {
  readonly id: string;
  readonly hash: string;
}

async function append(tenant: string, count: number, seed: number): Promise<Receipt[]> {
  const events = generateEvents({ seed, count, categories: ['user_authentication'] });
  const token = await service.token('service', tenant);
  const receipts: Receipt[] = [];
  for (let at = 0, width = 1; at < events.length; at += width, width = ((width * 7) % 61) + 1) {
    const { status, body } = await service.post('/v1/events/batch', events.slice(at, at + width), { token });
    expect([status, body.errors]).toEqual([200, false]);
    receipts.push(...body.items);
  }
  return receipts;
}

/** Appends one event and waits until its stream's checkpoint covers it; its key is then listed, too. */
async function appendSigned(
  tenant: string,
  id: string,
  category: 'user_authentication' | 'system_operation' = 'user_authentication',
): Promise<Receipt> {
  const [event] = generateEvents({ seed: 2, count: 1, categories: [category] });
  const token = await service.token('service', tenant);
  const { status, body } = await service.post('/v1/events?wait=checkpoint', { ...event, id }, { token });
  expect([status, typeof body.checkpoint]).toEqual([201, 'string']);
  const keys = await service.get('/v1/keys', { token: await service.token('auditor', tenant) });
  vkeys ??= new Map();
  for (const { origin, vkey } of keys.body.items) vkeys.set(origin, vkey);
  return body;
}

async function json(path: string): Promise<Json> {
  const { status, body } = await service.get(path);
  expect([path, status]).toEqual([path, 200]);
  return body;
}

async function fetched(path: string, headers: Readonly<Record<string, string>> = {}, token?: string) {
  const authorization = `Bearer ${token ?? (await service.token('auditor'))}`;
  const answer = await fetch(`${service.url}${path}`, { headers: { authorization, ...headers } });
  return {
    status: answer.status,
    headers: answer.headers,
    bytes: async (): Promise<Uint8Array> => new Uint8Array(await answer.arrayBuffer()),
  };
}

async function bytesOf(path: string, token?: string): Promise<Uint8Array> {
  const answer = await fetched(path, {}, token);
  expect([path, answer.status]).toEqual([path, 200]);
  return answer.bytes();
}

async function textOf(path: string): Promise<string> {
  return Buffer.from(await bytesOf(path)).toString();
}

/** A path as it is, which no client tidies up. */
function raw(method: string, path: string, token: string) {
  return talk(
    service.port,
    `${method} ${path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer ${token}\r\nconnection: close\r\n\r\n`,
  );
}

async function streamNamed(name: string): Promise<{ id: number; name: string }> {
  const { rows } = await service.adminPool.query('SELECT id, name FROM sealog.stream WHERE name = $1', [name]);
  return rows[0];
}

async function until(check: () => Promise<boolean>): Promise<void> {
  const end = performance.now() + 15_000;
  while (!(await check())) {
    if (performance.now() > end) throw new Error('not within 15 s');
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}
