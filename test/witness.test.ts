/** The client of a witness against one that keeps all rules of C2SP tlog-witness, and against ones that keep none. */
import { describe, expect, onTestFinished, test } from 'vitest';
import { AnchorError } from '../src/anchor/anchor-error.ts';
import { type Witness, witness } from '../src/anchor/witness.ts';
import { checkCosignature } from '../src/chain/cosignature.ts';
import { OutgoingError, outgoing, type Post } from '../src/http/outgoing.ts';
import { type AnchorLog, anchorLog } from './support/anchor-log.ts';
import { type Behaviour, startWitness, type TestWitness } from './support/witness.ts';

const LOG = anchorLog();
const ORIGIN = LOG.signer.name;

async function start(logs: readonly AnchorLog[] = [LOG]): Promise<TestWitness> {
  const server = await startWitness({ logs: logs.map(({ signer }) => signer.vkey) });
  onTestFinished(() => server.close());
  return server;
}

function network(): Post {
  const calls = outgoing({ allowAddresses: ['127.0.0.0/8'], log: { debug: () => {}, warn: () => {} } });
  onTestFinished(() => calls.close());
  return calls.post;
}

function clientOf(
  server: { readonly url: string; readonly vkey: string },
  { log = LOG, wallClock = Date.now }: { log?: AnchorLog; wallClock?: () => number } = {},
): Witness & { ask: (size: number, knownSize?: number) => ReturnType<Witness['cosign']> } {
  const client = witness({
    url: server.url,
    vkey: server.vkey,
    tlsCaPem: undefined,
    post: network(),
    consistencyPath: log.path,
    wallClock,
  });
  const signal = new AbortController().signal;
  return { ...client, ask: (size, knownSize = 0) => client.cosign({ ...log.at(size), knownSize, signal }) };
}

async function failure(work: Promise<unknown>): Promise<AnchorError> {
  const error = await work.then(
    () => undefined,
    (reason: unknown) => reason,
  );
  expect(error).toBeInstanceOf(AnchorError);
  return error as AnchorError;
}

const statuses = (server: TestWitness) => server.calls.map(({ old, size, status }) => `${old}→${size}: ${status}`);

describe('a witness', () => {
  test('cosigns a log that it sees for the first time, and one that has grown', async () => {
    const server = await start();
    const { ask } = clientOf(server);
    let known = 0;
    for (const size of [1, 2, 3, 7, 8, 100, 257]) {
      const { line, time } = await ask(size, known);
      expect(checkCosignature(line, LOG.at(size).text, server.vkey)).toEqual({ name: 'witness.example/w1', time });
      expect(Math.abs(time * 1000 - Date.now())).toBeLessThan(5000);
      known = size;
    }
    expect(statuses(server)).toEqual([
      '0→1: 200',
      '1→2: 200',
      '2→3: 200',
      '3→7: 200',
      '7→8: 200',
      '8→100: 200',
      '100→257: 200',
    ]);
    expect(server.sizeOf(ORIGIN)).toBe(257);
  });

  test('is asked again from the size that it knows, where we know another', async () => {
    const server = await start();
    const { ask } = clientOf(server);
    await ask(20);
    // We know less, as after a lost answer, or more, as after the witness was put back.
    for (const known of [0, 7, 19, 25, 30]) await ask(30, known).then(() => ask(30, 30));
    expect(statuses(server)).toEqual([
      '0→20: 200',
      '0→30: 409',
      '20→30: 200',
      '30→30: 200',
      ...['7→30: 409', '30→30: 200', '30→30: 200'],
      ...['19→30: 409', '30→30: 200', '30→30: 200'],
      ...['25→30: 409', '30→30: 200', '30→30: 200'],
      ...['30→30: 200', '30→30: 200'],
    ]);
  });

  test('that lost its state is asked from the beginning', async () => {
    const server = await start();
    const { ask } = clientOf(server);
    await ask(30, 25);
    expect(statuses(server)).toEqual(['25→30: 409', '0→30: 200']);
  });

  test('whose answer was lost gives it again', async () => {
    const server = await start();
    const { ask } = clientOf(server);
    server.loseAnswers = 1;
    await expect(ask(5)).rejects.toThrow(OutgoingError);
    expect(server.sizeOf(ORIGIN)).toBe(5);
    await ask(5);
    expect(statuses(server)).toEqual(['0→5: 200', '0→5: 409', '5→5: 200']);
  });

  test('may add lines of keys that we do not know', async () => {
    const server = await start();
    server.behaviour = 'other_lines_too';
    const { line } = await clientOf(server).ask(5);
    expect(checkCosignature(line, LOG.at(5).text, server.vkey).name).toBe('witness.example/w1');
  });

  test('is asked by many at once, and cosigns one past', async () => {
    const server = await start();
    const { ask } = clientOf(server);
    const answers = await Promise.allSettled([5, 9, 7, 12, 3].map((size) => ask(size)));
    const good = answers.flatMap((answer) => (answer.status === 'fulfilled' ? [answer.value.line] : []));
    expect(good.length).toBeGreaterThan(0);
    expect(server.sizeOf(ORIGIN)).toBe(12);
  });
});

describe('the operator is told what to do where a witness', () => {
  test('does not know the log', async () => {
    const error = await failure(clientOf(await start([])).ask(5));
    expect(error.message).toMatch(/does not know this log \(404\).*register the origin/);
    expect(error.alarm).toBe(false);
  });

  test('does not know its key, and knows it later', async () => {
    const server = await start([anchorLog({ seed: 'older' })]);
    const { ask } = clientOf(server);
    expect((await failure(ask(5))).message).toMatch(/\(403\).*present vkey/);
    server.know(LOG.signer.vkey);
    await ask(5);
  });

  test.each<[Behaviour, RegExp]>([
    [400, /\(400\).*URL/],
    [429, /can not answer now \(429\)/],
    [500, /can not answer now \(500\)/],
    [503, /can not answer now \(503\)/],
    [301, /another address \(301\)/],
    [201, /answered 201/],
    [204, /answered 204/],
    [401, /answered 401/],
    [409, /without the size that it knows/],
    ['untyped_conflict', /without the size that it knows/],
  ])('answers %s', async (behaviour, words) => {
    const server = await start();
    server.behaviour = behaviour;
    const error = await failure(clientOf(server).ask(5));
    expect(error.message).toMatch(words);
    expect(error.alarm).toBe(false);
    expect(server.calls).toHaveLength(1);
  });
});

describe('an alarm is raised where a witness', () => {
  test('has cosigned another past', async () => {
    const server = await start();
    await clientOf(server, { log: anchorLog({ past: 'rewritten', since: 3 }) }).ask(10);
    const { ask } = clientOf(server);
    expect(await failure(ask(20, 10))).toMatchObject({ alarm: true, message: expect.stringContaining('(422)') });
    expect(await failure(ask(10, 10))).toMatchObject({
      alarm: true,
      message: expect.stringContaining('two checkpoints'),
    });
    expect(await failure(ask(10, 0))).toMatchObject({
      alarm: true,
      message: expect.stringContaining('two checkpoints'),
    });
    expect(server.sizeOf(ORIGIN)).toBe(10);
  });

  test('has seen more than there is', async () => {
    const server = await start();
    const { ask } = clientOf(server);
    await ask(10);
    expect(await failure(ask(7, 7))).toMatchObject({ alarm: true, message: expect.stringContaining('was put back') });
    expect(server.calls).toHaveLength(2);
  });
});

describe('no cosignature is taken', () => {
  test.each<[Behaviour, RegExp]>([
    ['wrong_signature', /the cosignature of witness.example\/w1\+\w+ is wrong/],
    ['other_checkpoint', /the cosignature of witness.example\/w1\+\w+ is wrong/],
    ['other_key', /none of its lines is by witness.example\/w1\+/],
    ['no_lines', /not 1 to 100 signature lines/],
    ['no_newline', /not 1 to 100 signature lines/],
    ['garbage', /a signature line is/],
  ])('from an answer with %s', async (behaviour, words) => {
    const server = await start();
    server.behaviour = behaviour;
    expect((await failure(clientOf(server).ask(5))).message).toMatch(words);
  });

  test('by a key other than that in the file of anchors', async () => {
    const server = await start();
    const other = await startWitness({ name: 'witness.example/w2' });
    onTestFinished(() => other.close());
    expect((await failure(clientOf({ url: server.url, vkey: other.vkey }).ask(5))).message).toContain(
      'none of its lines',
    );
  });

  test.each([
    [-301, false],
    [-295, true],
    [295, true],
    [310, false],
    [-86_400, false],
  ])('of a time %i s from our own: %s', async (ahead, taken) => {
    const server = await start();
    server.clockAheadS = ahead;
    const answer = clientOf(server).ask(5);
    if (taken) await answer;
    else expect((await failure(answer)).message).toMatch(/clock is \d+ s (behind|ahead of) ours/);
  });

  test.each<[Behaviour, number]>([
    ['lying_conflict', 3],
    ['stubborn_conflict', 1],
  ])('from one that never stops to conflict: %s', async (behaviour, calls) => {
    const server = await start();
    server.behaviour = behaviour;
    expect((await failure(clientOf(server).ask(50, 20))).message).toContain('contradicts itself');
    expect(server.calls).toHaveLength(calls);
  });

  test.each<Behaviour>(['oversized', 'cut'])('from an answer that is %s', async (behaviour) => {
    const server = await start();
    server.behaviour = behaviour;
    await expect(clientOf(server).ask(5)).rejects.toThrow(OutgoingError);
  });

  test('from one that hangs, and the caller need not wait for it', async () => {
    const server = await start();
    server.behaviour = 'hang';
    const stop = new AbortController();
    const asked = clientOf(server).cosign({ ...LOG.at(5), knownSize: 0, signal: stop.signal });
    setTimeout(() => stop.abort(), 50);
    await expect(asked).rejects.toMatchObject({ reason: 'stopped' });
  });
});

test.each([
  ['a size with a zero before it', '05\n'],
  ['a size without a newline', '5'],
  ['a negative size', '-5\n'],
  ['a size beyond 2^53', '99999999999999999\n'],
  ['two sizes', '5\n6\n'],
  ['no size', ''],
  ['a word', 'five\n'],
])('a conflict with %s is not followed', async (_, body) => {
  const calls: string[] = [];
  const client = witness({
    url: 'http://witness.example',
    vkey: (await start()).vkey,
    tlsCaPem: undefined,
    post: async (url) => {
      calls.push(url);
      return { status: 409, headers: { 'content-type': 'text/x.tlog.size' }, body: Buffer.from(body) };
    },
    consistencyPath: LOG.path,
    wallClock: Date.now,
  });
  await failure(client.cosign({ ...LOG.at(9), knownSize: 0, signal: new AbortController().signal }));
  expect(calls).toEqual(['http://witness.example/add-checkpoint']);
});

describe('the witness of these tests', () => {
  const post = async (server: TestWitness, body: string) => {
    const answer = await network()(`${server.url}/add-checkpoint`, {
      body: Buffer.from(body),
      timeoutMs: 1000,
      answerBytesMax: 10_000,
    });
    return { status: answer.status, body: Buffer.from(answer.body).toString(), type: answer.headers['content-type'] };
  };

  test('answers as the specification says', async () => {
    const server = await start();
    const { note } = LOG.at(5);
    expect(await post(server, `old 6\n\n${note}`)).toMatchObject({ status: 400 });
    expect(await post(server, `old 3\n\n${note}`)).toEqual({ status: 409, body: '0\n', type: 'text/x.tlog.size' });
    expect(await post(server, `old 00\n\n${note}`)).toMatchObject({ status: 400 });
    expect(await post(server, `old 0\nAAAA\n\n${note}`)).toMatchObject({ status: 400 });
    expect(await post(server, `old 0\n${`${Buffer.alloc(32).toString('base64')}\n`}\n${note}`)).toMatchObject({
      status: 422,
    });
    expect(await post(server, `old 0\n\n${note.replace('\n5\n', '\n6\n')}`)).toMatchObject({ status: 403 });
    const stranger = anchorLog({ origin: 'other.example/sealog/anchor' });
    expect(await post(server, `old 0\n\n${stranger.at(5).note}`)).toMatchObject({ status: 404 });
    expect(server.sizeOf(ORIGIN)).toBe(0);
    expect(await post(server, `old 0\n\n${note}`)).toMatchObject({ status: 200 });
    expect(await post(server, `old 5\n\n${LOG.at(8).note}`)).toMatchObject({ status: 422 });
    expect(server.sizeOf(ORIGIN)).toBe(5);
  });
});
