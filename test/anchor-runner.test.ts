/** The runner of anchors: tries until it is done, one at a time, each on its own, and ends when it is told to. */
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { describe, expect, onTestFinished, test } from 'vitest';
import { AnchorError } from '../src/anchor/anchor-error.ts';
import {
  type AnchorCheckpoint,
  type AnchorPerformers,
  type AnchorRecord,
  type AnchorRunner,
  type AnchorRunnerOptions,
  anchorRunner,
  type LastAnchored,
} from '../src/anchor/anchor-runner.ts';
import type { Anchor, FolderAnchor, Rfc3161Anchor, WitnessAnchor } from '../src/anchor/anchors-file.ts';
import { witness } from '../src/anchor/witness.ts';
import { newestCheckpoint, writeOnceFolder } from '../src/anchor/write-once-folder.ts';
import { fromUtf8, toHex, utf8 } from '../src/chain/bytes.ts';
import { checkCosignature } from '../src/chain/cosignature.ts';
import { sha256 } from '../src/chain/sha256.ts';
import { outgoing } from '../src/http/outgoing.ts';
import { anchorLog } from './support/anchor-log.ts';
import { startWitness } from './support/witness.ts';

const LOG = anchorLog();
const STREAM = 'sealog/anchor';

/** What the runner asks of the rest of the service, in memory. */
interface World {
  newest: AnchorCheckpoint | undefined;
  readonly records: AnchorRecord[];
  readonly lasts: Map<string, LastAnchored>;
  /** Fails the next so many calls to the store. */
  storeFailures: number;
  readonly told: { level: string; message: string; [fact: string]: unknown }[];
}

function start(
  anchors: readonly Anchor[],
  performers: Partial<AnchorPerformers>,
  more: Partial<AnchorRunnerOptions> = {},
  lasts: [string, LastAnchored][] = [],
): World & { runner: AnchorRunner } {
  const world: World = { newest: undefined, records: [], lasts: new Map(lasts), storeFailures: 0, told: [] };
  const tell = (level: string) => (facts: object, message: string) =>
    void world.told.push({ level, message, ...facts });
  const missing = (): never => {
    throw new Error('no such anchor');
  };
  const runner = anchorRunner({
    anchors,
    performers: { rfc3161: missing, folder: missing, witness: missing, ...performers },
    newestCheckpoint: async () => world.newest,
    async record(record) {
      if (world.storeFailures > 0) {
        world.storeFailures -= 1;
        throw new Error('the database is away');
      }
      world.records.push(record);
      world.lasts.set(record.name, { stream: record.stream, size: record.size, at: Date.now() });
    },
    last: async (name) => world.lasts.get(name),
    wallClock: Date.now,
    log: { info: tell('info'), warn: tell('warn'), error: tell('error') },
    lookEveryMs: 5,
    pauseMinMs: 10,
    pauseMaxMs: 40,
    ...more,
  });
  onTestFinished(() => runner.close());
  runner.start();
  return Object.assign(world, { runner });
}

/** Anchors that are due again after so many seconds. */
const tsa = (everySeconds: number, name = 'tsa'): Rfc3161Anchor => {
  return { name, type: 'rfc3161', everySeconds, url: 'http://x', trusted: [], policy: undefined, tlsCaPem: undefined };
};
const folderAnchor = (everySeconds: number, path = '/nowhere', name = 'worm'): FolderAnchor => {
  return { name, type: 'folder', everySeconds, path };
};

/** A time-stamp authority that does as it is told, and remembers what it was asked. */
function authority(work: (call: number, signal: AbortSignal) => Promise<void> | void = () => {}) {
  const asked: string[] = [];
  const state = { asked, atOnce: 0, atOnceMax: 0 };
  const performer: AnchorPerformers['rfc3161'] = () => ({
    async stamp({ imprint, signal }) {
      asked.push(toHex(imprint));
      state.atOnce += 1;
      state.atOnceMax = Math.max(state.atOnceMax, state.atOnce);
      try {
        await work(asked.length, signal);
      } finally {
        state.atOnce -= 1;
      }
      const token = utf8(`token ${asked.length}`);
      return {
        token,
        certificates: [utf8('c')],
        crls: [utf8('r')],
        time: 1000 * asked.length,
        certificateEnds: 7,
        authority: 'CN=a',
        warnings: [],
      };
    },
  });
  return Object.assign(state, { performer });
}

const imprintOf = (size: number) => toHex(sha256(LOG.at(size).text));
/** As long as a busy machine may need. */
const eventually = <T>(look: () => T) => expect.poll(look, { timeout: 10_000 });
const sizes = (world: World, name?: string) =>
  world.records.filter((record) => name === undefined || record.name === name).map(({ size }) => size);

describe('a new checkpoint', () => {
  test('is anchored and recorded with all that was had', async () => {
    const one = authority();
    const world = start([tsa(60)], { rfc3161: one.performer });
    await delay(50);
    expect(one.asked).toEqual([]);
    world.newest = LOG.at(3);
    await eventually(() => world.records).toEqual([
      {
        name: 'tsa',
        kind: 'rfc3161',
        stream: STREAM,
        size: 3,
        note: LOG.at(3).note,
        evidence: utf8('token 1'),
        certificates: [utf8('c')],
        crls: [utf8('r')],
        evidenceTime: 1000,
        ends: 7,
      },
    ]);
    expect(one.asked).toEqual([imprintOf(3)]);
    await eventually(() => world.runner.state()).toMatchObject([
      {
        name: 'tsa',
        last: { stream: STREAM, size: 3 },
        error: undefined,
        failures: 0,
        lagSize: 0,
        lagSeconds: 0,
        certificateEnds: 7,
      },
    ]);
  });

  test('is anchored once, and the next no sooner than the anchor’s time', async () => {
    const one = authority();
    const world = start([tsa(1)], { rfc3161: one.performer });
    world.newest = LOG.at(1);
    await eventually(() => sizes(world)).toEqual([1]);
    const begin = performance.now();
    world.newest = LOG.at(2);
    await delay(50);
    world.newest = LOG.at(9);
    expect(world.runner.state()).toMatchObject([{ last: { size: 1 } }]);
    await eventually(() => world.runner.state()[0]?.lagSize).toBe(8);
    await eventually(() => sizes(world)).toEqual([1, 9]);
    expect(performance.now() - begin).toBeGreaterThan(900);
    await delay(1200);
    expect(sizes(world)).toEqual([1, 9]);
  });

  test('waits out what a run before has left of the anchor’s time, but never longer than that time', async () => {
    const one = authority();
    const at = Date.now();
    const lasts: [string, LastAnchored][] = [
      ['long-ago', { stream: STREAM, size: 3, at: at - 60_000 }],
      ['just-now', { stream: STREAM, size: 3, at }],
      ['in-future', { stream: STREAM, size: 3, at: at + 86_400_000 }],
      ['has-it', { stream: STREAM, size: 5, at: at - 60_000 }],
    ];
    const world = start(
      lasts.map(([name]) => tsa(1.5, name)),
      { rfc3161: one.performer },
      {},
      lasts,
    );
    world.newest = LOG.at(5);
    await delay(200);
    expect(world.records.map(({ name }) => name)).toEqual(['long-ago']);
    await eventually(() => world.records.map(({ name }) => name).sort()).toEqual(['in-future', 'just-now', 'long-ago']);
    expect(one.asked).toHaveLength(3);
  });

  test('of a new epoch is one, though it is smaller', async () => {
    const one = authority();
    const world = start([tsa(0.01)], { rfc3161: one.performer });
    world.newest = LOG.at(9);
    await eventually(() => sizes(world)).toEqual([9]);
    world.newest = anchorLog({ origin: 'log.example/sealog/anchor/e2' }).at(2);
    await eventually(() => world.records.map(({ stream, size }) => [stream, size])).toEqual([
      [STREAM, 9],
      ['sealog/anchor/e2', 2],
    ]);
  });

  test('that somebody else has anchored meanwhile is not anchored again', async () => {
    const one = authority();
    const world = start([tsa(60)], { rfc3161: one.performer });
    world.lasts.set('tsa', { stream: STREAM, size: 4, at: Date.now() });
    world.newest = LOG.at(4);
    await eventually(() => world.runner.state()[0]?.last?.size).toBe(4);
    await delay(50);
    expect(one.asked).toEqual([]);
  });
});

describe('what fails', () => {
  test('is tried again until it is done, later each time, and always with the newest checkpoint', async () => {
    const times: number[] = [];
    const one = authority((call) => {
      times.push(performance.now());
      world.newest = LOG.at(call + 1);
      if (call < 6) throw new AnchorError('no paper left');
    });
    const world = start([tsa(60)], { rfc3161: one.performer }, { pauseMinMs: 20, pauseMaxMs: 80 });
    world.newest = LOG.at(1);
    await eventually(() => world.runner.state()[0]?.error?.message).toBe('no paper left');
    await eventually(() => sizes(world)).toHaveLength(1);
    expect(one.asked.at(-1)).toBe(imprintOf(sizes(world)[0]!));
    expect(sizes(world)[0]).toBeGreaterThanOrEqual(5);
    const pauses = times.slice(1).map((time, i) => time - times[i]!);
    expect(pauses).toHaveLength(5);
    for (const [i, least] of [10, 20, 40, 40, 40].entries()) expect(pauses[i]).toBeGreaterThanOrEqual(least - 2);
    expect(world.runner.state()).toMatchObject([{ error: undefined, failures: 0 }]);
    // Said once for a reason, not six times.
    expect(world.told.filter(({ level }) => level === 'warn')).toHaveLength(1);
  });

  test('as an alarm is told as one', async () => {
    const one = authority(() => {
      throw new AnchorError('two checkpoints of one size', { alarm: true });
    });
    const world = start([tsa(60)], { rfc3161: one.performer });
    world.newest = LOG.at(1);
    await eventually(() => world.runner.state()[0]?.error).toMatchObject({ alarm: true });
    expect(world.told.some(({ level, anchor }) => level === 'error' && anchor === 'tsa')).toBe(true);
  });

  test('is told in words of one line', async () => {
    const one = authority(() => {
      throw new Error(`a\nb\u001b[2J${'x'.repeat(10_000)}`);
    });
    const world = start([tsa(60)], { rfc3161: one.performer });
    world.newest = LOG.at(1);
    await eventually(() => world.runner.state()[0]?.error?.message).toMatch(/^a b \[2Jx+$/);
    expect(world.runner.state()[0]!.error!.message).toHaveLength(500);
  });

  test('to be recorded is recorded later, and not asked for again', async () => {
    const one = authority();
    const world = start([tsa(60)], { rfc3161: one.performer });
    world.storeFailures = 4;
    world.newest = LOG.at(1);
    await eventually(() => world.runner.state()[0]?.failures).toBeGreaterThan(1);
    expect(world.runner.state()).toMatchObject([
      { last: undefined, lagSize: 1, error: { message: 'the database is away' } },
    ]);
    await eventually(() => sizes(world)).toEqual([1]);
    expect(one.asked).toHaveLength(1);
  });

  test('of the look for checkpoints is told once, and looked again', async () => {
    const one = authority();
    const failing = { still: true };
    const world: World = start(
      [tsa(60)],
      { rfc3161: one.performer },
      {
        newestCheckpoint: async () => {
          if (failing.still) throw new Error('no database');
          return LOG.at(1);
        },
      },
    );
    await delay(50);
    failing.still = false;
    await eventually(() => sizes(world)).toEqual([1]);
    expect(world.told.filter(({ level }) => level === 'error')).toMatchObject([{ reason: 'no database' }]);
  });
});

describe('anchors', () => {
  test('do not wait for each other, and each has one attempt at a time', async () => {
    const stuck = authority(() => new Promise(() => {}));
    const slow = authority(() => delay(30));
    const broken = authority(() => {
      throw new AnchorError('no');
    });
    const quick = authority();
    const all: Record<string, ReturnType<typeof authority>> = { stuck, slow, broken, quick };
    const world = start(
      Object.keys(all).map((name) => tsa(0.01, name)),
      {
        rfc3161: (anchor) => all[anchor.name]!.performer(anchor),
      },
    );
    for (let size = 1; size <= 20; size++) {
      world.newest = LOG.at(size);
      await delay(10);
    }
    await eventually(() => sizes(world, 'quick').at(-1)).toBe(20);
    await eventually(() => sizes(world, 'slow').at(-1)).toBe(20);
    expect(sizes(world, 'quick').length).toBeGreaterThan(5);
    expect(sizes(world, 'stuck')).toEqual([]);
    expect(stuck.asked).toHaveLength(1);
    expect(broken.asked.length).toBeGreaterThan(2);
    expect([stuck, slow, broken, quick].map(({ atOnceMax }) => atOnceMax)).toEqual([1, 1, 1, 1]);
    const state = Object.fromEntries(world.runner.state().map((one) => [one.name, one]));
    expect(state['stuck']).toMatchObject({ lagSize: 20, last: undefined });
    expect(state['quick']).toMatchObject({ lagSize: 0 });
    expect(state['broken']).toMatchObject({ lagSize: 20, error: { message: 'no' } });
  });

  test('that are none make no work', async () => {
    let looked = 0;
    const newestCheckpoint = async () => {
      looked += 1;
      return undefined;
    };
    start([], {}, { newestCheckpoint });
    await delay(30);
    expect(looked).toBe(0);
  });
});

describe('closing', () => {
  test('ends an attempt, and nothing is begun or said after it', async () => {
    const one = authority((_, signal) => delay(60_000, undefined, { signal }));
    const world = start([tsa(0.01)], { rfc3161: one.performer });
    world.newest = LOG.at(1);
    await eventually(() => one.atOnce).toBe(1);
    const begin = performance.now();
    await world.runner.close();
    expect(performance.now() - begin).toBeLessThan(500);
    expect(one.atOnce).toBe(0);
    world.newest = LOG.at(2);
    await delay(50);
    expect(one.asked).toHaveLength(1);
    expect(world.told).toEqual([]);
  });

  test('waits for no longer than a second, also for what does not end', async () => {
    const one = authority(() => new Promise(() => {}));
    const world = start([tsa(0.01)], { rfc3161: one.performer });
    world.newest = LOG.at(1);
    await eventually(() => one.atOnce).toBe(1);
    const begin = performance.now();
    await world.runner.close();
    expect(performance.now() - begin).toBeLessThan(1500);
  });

  test('lets what was had be recorded', async () => {
    const recorded: number[] = [];
    const begun = { record: false };
    const world = start(
      [tsa(0.01)],
      { rfc3161: authority().performer },
      {
        async record({ size }) {
          begun.record = true;
          await delay(200);
          recorded.push(size);
        },
      },
    );
    world.newest = LOG.at(1);
    await eventually(() => begun.record).toBe(true);
    await world.runner.close();
    expect(recorded).toEqual([1]);
  });

  test('before anything began is nothing', async () => {
    const runner = anchorRunner({
      anchors: [tsa(60)],
      performers: { rfc3161: authority().performer, folder: () => never(), witness: () => never() },
      newestCheckpoint: () => never(),
      record: () => never(),
      last: () => never(),
      wallClock: Date.now,
      log: { info: () => {}, warn: () => {}, error: () => {} },
    });
    await runner.close();
    function never(): never {
      throw new Error('never called');
    }
  });
});

test('a real witness and a real folder, with trouble on the way, end at the newest checkpoint', async () => {
  const server = await startWitness({ logs: [LOG.signer.vkey] });
  onTestFinished(() => server.close());
  const path = mkdtempSync(join(tmpdir(), 'sealog-runner-'));
  onTestFinished(() => rmSync(path, { recursive: true, force: true }));
  const calls = outgoing({ allowAddresses: ['127.0.0.0/8'], log: { debug: () => {}, warn: () => {} } });
  onTestFinished(() => calls.close());
  const witnessAnchor: WitnessAnchor = {
    name: 'w',
    type: 'witness',
    everySeconds: 0.02,
    ...server,
    tlsCaPem: undefined,
  };

  const performers: Partial<AnchorPerformers> = {
    folder: (anchor) => writeOnceFolder(anchor.path),
    witness: ({ url, vkey, tlsCaPem }) =>
      witness({ url, vkey, tlsCaPem, post: calls.post, consistencyPath: LOG.path, wallClock: Date.now }),
  };
  const first = start([witnessAnchor, folderAnchor(0.02, path)], performers);
  server.behaviour = 503;
  server.loseAnswers = 2;
  for (let size = 1; size <= 12; size++) {
    first.newest = LOG.at(size);
    if (size === 4) server.behaviour = 'honest';
    await delay(30);
  }
  await eventually(() => [sizes(first, 'w').at(-1), sizes(first, 'worm').at(-1)]).toEqual([12, 12]);
  await first.runner.close();

  // A new run goes on from the record.
  const second = start([witnessAnchor, folderAnchor(0.02, path)], performers, {}, [...first.lasts]);
  second.newest = LOG.at(20);
  await eventually(() => [sizes(second, 'w'), sizes(second, 'worm')]).toEqual([[20], [20]]);
  expect(server.sizeOf(LOG.signer.name)).toBe(20);
  expect(server.calls.at(-1)).toMatchObject({ old: 12, size: 20, status: 200 });

  for (const record of [...first.records, ...second.records]) {
    expect(record.note).toBe(LOG.at(record.size).note);
    if (record.kind === 'folder') expect(fromUtf8(record.evidence)).toBe(record.note);
    else {
      const { time } = checkCosignature(fromUtf8(record.evidence), LOG.at(record.size).text, server.vkey);
      expect(record.evidenceTime).toBe(time * 1000);
    }
  }
  expect((await newestCheckpoint(path, LOG.signer.name)).newest?.size).toBe(20);
  expect(readdirSync(join(path, 'log.example+sealog+anchor', '00000000000'))).toHaveLength(
    sizes(first, 'worm').length + 1,
  );
});
