/** One tenant's flood: who waits behind it, and who can fill what all share. Exact, by what is taken in which order. */
import fc from 'fast-check';
import { afterEach, describe, expect, it } from 'vitest';
import { ClockGuard } from '../src/chain/clock-guard.ts';
import { type PendingEntry, pendingEntry, type StreamRef } from '../src/chain/entry.ts';
import { FairQueue } from '../src/chain/fair-queue.ts';
import { isWithinShare, SHARE_ALONE } from '../src/chain/fair-share.ts';
import { sealWith } from '../src/chain/sealed-run.ts';
import { type Outcome, Sequencer, type Submission } from '../src/chain/sequencer.ts';
import { BodyBudget, BodyLease } from '../src/http/body.ts';
import { BatchThreads } from '../src/ingest/batch-threads.ts';
import { ReaderTurns } from '../src/store/reader-turns.ts';
import { MemoryLog } from './reference/memory-log.ts';

describe('a queue of many owners', () => {
  /** Takes everything. */
  function drain<Item>(queue: FairQueue<Item>): Item[] {
    const items: Item[] = [];
    for (let item = queue.shift(); item !== undefined; item = queue.shift()) items.push(item);
    return items;
  }

  it('takes turns, a few items each, and whoever comes late has his turn at once', () => {
    const queue = new FairQueue<string>(2);
    for (let n = 0; n < 6; n++) queue.push('flood', `f${n}`, 1);
    queue.push('late', 'l0', 1);
    expect([queue.shift(), queue.shift(), queue.shift()]).toEqual(['f0', 'f1', 'l0']);
    queue.push('later', 'm0', 1);
    queue.push('later', 'm1', 1);
    queue.push('later', 'm2', 1);
    expect(drain(queue)).toEqual(['f2', 'f3', 'm0', 'm1', 'f4', 'f5', 'm2']);
    expect(queue.length).toBe(0);
    expect(queue.peek()).toBeUndefined();
  });

  it('lets a large item pass, and the next turns of its owner pay for it', () => {
    const queue = new FairQueue<string>(2);
    for (let n = 0; n < 3; n++) queue.push('batches', `B${n}`, 10);
    for (let n = 0; n < 22; n++) queue.push('singles', `${n}`, 1);
    const taken = drain(queue);
    expect(taken.filter((item) => item.startsWith('B'))).toEqual(['B0', 'B1', 'B2']);
    // Ten singles are worth as much as one batch; with what is left of a turn two more.
    expect(taken.indexOf('B0')).toBe(0);
    expect(taken.indexOf('B1') - taken.indexOf('B0') - 1).toBeLessThanOrEqual(12);
    expect(taken.indexOf('B1') - taken.indexOf('B0') - 1).toBeGreaterThanOrEqual(8);
    expect(taken.indexOf('B2') - taken.indexOf('B1') - 1).toBeGreaterThanOrEqual(8);
  });

  it('shows what it would give, and what did not fit is first the next time', () => {
    const queue = new FairQueue<string>(1);
    queue.push('a', 'a0', 5);
    queue.push('b', 'b0', 1);
    expect([queue.peek(), queue.peek(), queue.length]).toEqual(['a0', 'a0', 2]);
    queue.push('c', 'c0', 1);
    expect(queue.shift()).toBe('a0');
    expect(queue.peek()).toBe('b0');
  });

  it('an owner that is alone neither saves up nor owes', () => {
    const queue = new FairQueue<string>(4);
    for (let n = 0; n < 1000; n++) queue.push('alone', `a${n}`, 100);
    for (let n = 0; n < 900; n++) queue.shift();
    queue.push('other', 'o0', 1);
    queue.push('other', 'o1', 1);
    const next = Array.from({ length: 4 }, () => queue.shift());
    expect(next).toContain('o0');
    expect(next).toContain('o1');
    // What it took before is forgotten but for the last item: 100 ÷ 4 turns.
    for (let n = 0; n < 200; n++) queue.push('other', `p${n}`, 1);
    const taken = Array.from({ length: 220 }, () => queue.shift()!);
    expect(taken.filter((item) => item.startsWith('a')).length).toBeGreaterThanOrEqual(1);
  });

  it('keeps the order of each owner, loses nothing, and over any time gives two that wait the same', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 20 }),
        fc.array(
          fc.oneof(
            {
              weight: 3,
              arbitrary: fc.record({ owner: fc.integer({ min: 0, max: 4 }), worth: fc.integer({ min: 1, max: 30 }) }),
            },
            { weight: 2, arbitrary: fc.constant('take' as const) },
          ),
          { maxLength: 200 },
        ),
        (quantum, steps) => {
          const queue = new FairQueue<{ owner: number; n: number; worth: number }>(quantum);
          const waiting = new Map<number, number[]>();
          /** What each owner was given since all of those that wait now were waiting. */
          let given = new Map<number, number>();
          const take = (): void => {
            const shown = queue.peek();
            const item = queue.shift();
            expect(item).toBe(shown);
            if (item === undefined) return;
            expect(item.n).toBe(waiting.get(item.owner)!.shift());
            given.set(item.owner, (given.get(item.owner) ?? 0) + item.worth);
            if (waiting.get(item.owner)!.length === 0) {
              waiting.delete(item.owner);
              given = new Map();
            }
            const shares = [...waiting.keys()].map((owner) => given.get(owner) ?? 0);
            // One turn, and one item that went beyond it, either way.
            if (shares.length > 1)
              expect(Math.max(...shares) - Math.min(...shares)).toBeLessThanOrEqual(2 * (quantum + 30));
          };
          for (const [n, step] of steps.entries()) {
            if (step === 'take') {
              take();
              continue;
            }
            if (!waiting.has(step.owner)) {
              waiting.set(step.owner, []);
              given = new Map();
            }
            waiting.get(step.owner)!.push(n);
            queue.push(step.owner, { ...step, n }, step.worth);
          }
          while (queue.length > 0) take();
          expect(waiting.size).toBe(0);
        },
      ),
      { numRuns: 500 },
    );
  });

  it('costs no more for a long queue than for a short one', () => {
    const queue = new FairQueue<number>(64);
    const began = performance.now();
    for (let n = 0; n < 200_000; n++) queue.push(n % 3, n, 1);
    for (let n = 0; n < 200_000; n++) queue.shift();
    // About 30 ms; taking from the front of an array of this length each time would take minutes.
    expect(performance.now() - began).toBeLessThan(3000);
  });
});

describe('a share of a room', () => {
  /** Lets all take turns until nobody gets more. */
  function fill(owners: number, room: number): number[] {
    const held = Array.from({ length: owners }, () => 0);
    for (let changed = true; changed; ) {
      changed = false;
      for (const [owner, own] of held.entries()) {
        const all = held.reduce((sum, one) => sum + one, 0);
        if (!isWithinShare(own, all, 1, room)) continue;
        held[owner] = own + 1;
        changed = true;
      }
    }
    return held;
  }

  it('is four fifths alone, and always leaves some for who comes next', () => {
    expect(fill(1, 1000)).toEqual([800]);
    expect(SHARE_ALONE).toBe(0.8);
    for (const owners of [2, 3, 10]) {
      const held = fill(owners, 1000);
      const free = 1000 - held.reduce((sum, one) => sum + one, 0);
      expect(free).toBeGreaterThanOrEqual(Math.floor(1000 / (4 * owners + 1)) - 1);
      expect(Math.max(...held) - Math.min(...held)).toBeLessThanOrEqual(2);
    }
  });

  it('gets smaller when others come: who held it all gets nothing more until he is down to it', () => {
    expect(isWithinShare(800, 800, 1, 1000)).toBe(false);
    expect(isWithinShare(0, 800, 100, 1000)).toBe(true);
    expect(isWithinShare(650, 850, 1, 1000)).toBe(false);
    expect(isWithinShare(300, 400, 100, 1000)).toBe(true);
  });
});

const NOW = Date.parse('2026-11-22T12:00:00.000Z');
const TENANTS = ['flood', 'other', 'third'];
const keys = { id: '1', dataKey: new Uint8Array(32), tagKey: new Uint8Array(32) };
const seal = sealWith(async () => keys);

function streamOf(tenant: string): StreamRef {
  const id = TENANTS.indexOf(tenant) + 1;
  return { id, tenantId: 10 * id, name: `${tenant}/system_operation`, retentionMonths: 12 };
}

let made = 0;
function entryOf(tenant: string): PendingEntry {
  made += 1;
  const event = {
    id: `${tenant}-${made}`,
    action: 'a.b',
    outcome: 'success',
    occurredAt: '2026-01-01T00:00:00Z',
    source: { service: 's' },
    parts: {},
  } as const;
  return pendingEntry(streamOf(tenant), event, false);
}

describe('the sequencer under a flood', () => {
  /** A sequencer whose first group stays in its transaction, or its COMMIT, until `release`; what it stores, group by group, as ids. */
  function held(
    limits: { readonly entries?: number; readonly bytes?: number } = {},
    at: 'transaction' | 'commit' = 'transaction',
  ) {
    const log = new MemoryLog(
      TENANTS.map((name) => ({ id: streamOf(name).tenantId, name })),
      TENANTS.map((name) => ({
        ...{ id: streamOf(name).id, tenant: streamOf(name).tenantId, name: streamOf(name).name },
        ...{ category: 'system_operation', epoch: 1, size: 0, head: new Uint8Array(32), frontier: new Uint8Array(0) },
        ...{ recordedAt: 0, retainUntil: null },
      })),
    );
    log.now = NOW;
    const gate = Promise.withResolvers<void>();
    const groups: string[][] = [];
    const sequencer = new Sequencer({
      store: {
        transact: async (streamIds, queries, work, onWritten) => {
          if (at === 'transaction') await gate.promise;
          const result = await log.transact(streamIds, queries, work, onWritten);
          onWritten();
          await gate.promise;
          return result;
        },
      },
      seal: async (runs) => seal(runs),
      clock: new ClockGuard({ wall: () => NOW, monotonic: () => 0 }),
      wallClock: () => NOW,
      repeatDays: 30,
      queueEntriesMax: limits.entries ?? 30_000,
      queueBytesMax: limits.bytes ?? 64 * 1024 * 1024,
      log: {
        debug: (facts) => groups.push([(facts as { entries: number }).entries.toString()]),
        warn() {},
        error() {},
      },
    });
    const answered: string[] = [];
    const all: Promise<unknown>[] = [];
    const send = (tenant: string, entries = 1): Promise<readonly (Outcome | undefined)[]> => {
      const pending = Array.from({ length: entries }, () => entryOf(tenant));
      const sent = sequencer.append({ kind: 'open', atomic: false, entries: pending });
      all.push(
        sent.then(
          () => answered.push(...pending.map(({ id }) => id)),
          () => {},
        ),
      );
      return sent;
    };
    return { sequencer, log, groups, answered, send, release: () => gate.resolve(), done: () => Promise.all(all) };
  }

  const isBusy = { code: 'busy' };

  it("does not keep another tenant's event from the next group, which has turns for all", async () => {
    const { send, release, done, answered, groups } = held();
    for (let n = 0; n < 10_000; n++) send('flood').catch(() => {});
    await Promise.resolve();
    const own = send('other');
    const third = send('third');
    release();
    await Promise.all([own, third, done()]);
    const sizes = groups.map(([size]) => Number(size));
    // The first group was taken before they came.
    const [first, second] = sizes as [number, number];
    for (const tenant of ['other', 'third']) {
      const at = answered.findIndex((id) => id.startsWith(tenant));
      expect(at).toBeGreaterThanOrEqual(first);
      expect(at).toBeLessThan(first + second);
    }
    expect(sizes.reduce((sum, size) => sum + size, 0)).toBe(10_002);
  });

  it('nor behind batches, large or small', async () => {
    for (const size of [100, 6000]) {
      const { send, release, done, log, sequencer } = held();
      // It is alone at first, and fills its share.
      for (let n = 0; n < 30_000 / size; n++) send('flood', size).catch(() => {});
      await Promise.resolve();
      const events = Array.from({ length: 20 }, () => send('other'));
      release();
      await Promise.all([...events, done()]);
      const other = streamOf('other').id;
      const commits = log.commits.map(({ heads }) => heads.some(({ id }) => id === other));
      // The group that was open, one that a large batch fills, and then.
      expect(commits.indexOf(true)).toBeLessThanOrEqual(2);
      expect(commits.filter(Boolean)).toHaveLength(1);
      expect(commits.length).toBeGreaterThan(3);
      await sequencer.close();
    }
  });

  it('gives both the same, of batches against single events', async () => {
    const { send, release, done, log } = held({ entries: 50_000 });
    for (let n = 0; n < 30; n++) send('flood', 500).catch(() => {});
    for (let n = 0; n < 12_000; n++) send('other').catch(() => {});
    release();
    await done();
    // While both wait: each group but the first two, which find one or the other ahead.
    const sizes = log.commits.map(({ heads }) =>
      ['flood', 'other'].map((name) => {
        const head = heads.find(({ id }) => id === streamOf(name).id);
        return head === undefined ? 0 : head.size - head.sizeBefore;
      }),
    );
    const both = sizes.slice(2).filter(([, other]) => other! > 0);
    const sums = both.slice(0, -1).reduce((sum, [a, b]) => [sum[0]! + a!, sum[1]! + b!], [0, 0]);
    expect(sums[1]).toBeGreaterThan(2000);
    expect(sums[0]! / sums[1]!).toBeGreaterThan(0.8);
    expect(sums[0]! / sums[1]!).toBeLessThan(1.25);
  });

  it('shares out what comes at once among two groups, so that one is worked on while the other is stored', async () => {
    const { send, release, done, groups } = held();
    for (let n = 0; n < 64; n++) send('other').catch(() => {});
    release();
    await done();
    expect(groups.flat()).toEqual(['32', '32']);
  });

  it('does not let the first that comes go alone while a group is stored', async () => {
    const { send, release, done, groups } = held({}, 'commit');
    const turn = () => new Promise((resolve) => setImmediate(resolve));
    for (const events of [16, 1, 15]) {
      for (let n = 0; n < events; n++) send('other').catch(() => {});
      for (let n = 0; n < 5; n++) await turn();
    }
    release();
    await done();
    expect(groups.flat()).toEqual(['16', '16']);
  });

  it('nor wait for others behind it', async () => {
    const { send, release, done, groups } = held({}, 'commit');
    for (const events of [16, 1]) {
      for (let n = 0; n < events; n++) send('other').catch(() => {});
      await new Promise((resolve) => setImmediate(resolve));
    }
    release();
    await done();
    expect(groups.flat()).toEqual(['16', '1']);
  });

  it('keeps the order within a tenant', async () => {
    const { send, release, done, answered } = held();
    for (let n = 0; n < 3000; n++) {
      send('flood', 1 + (n % 7)).catch(() => {});
      if (n % 10 === 0) send('other').catch(() => {});
    }
    release();
    await done();
    for (const tenant of ['flood', 'other']) {
      const own = answered.filter((id) => id.startsWith(tenant)).map((id) => Number(id.split('-')[1]));
      expect(own.length).toBeGreaterThan(200);
      expect(own).toEqual(own.toSorted((a, b) => a - b));
    }
  });

  it('does not fill the queue: others find room, and then the flood gets none until it is down to its share', async () => {
    const { send, release, done, sequencer } = held({ entries: 1000 });
    const flood = Array.from({ length: 1200 }, () =>
      send('flood').then(
        () => 'stored',
        (error) => error.code,
      ),
    );
    await Promise.resolve();
    // The first group had taken all that was there before it was held.
    expect(sequencer.queued.entries).toBe(1000);
    const others = Array.from({ length: 150 }, () => send('other'));
    await Promise.resolve();
    expect(sequencer.queued.entries).toBe(1150);
    await expect(send('flood')).rejects.toMatchObject(isBusy);
    // Of what is left, too, some is kept for a third: a fifth of what the second could take in all.
    const more = Array.from({ length: 150 }, () =>
      send('other').then(
        () => true,
        () => false,
      ),
    );
    const third = Array.from({ length: 20 }, () => send('third'));
    await expect(send('flood')).rejects.toMatchObject(isBusy);
    release();
    const answers = await Promise.all(flood);
    expect(answers.filter((answer) => answer === 'stored')).toHaveLength(1000);
    expect(answers.filter((answer) => answer === 'busy')).toHaveLength(200);
    await Promise.all([...others, ...third, ...more, done()]);
    expect(sequencer.queued).toEqual({ entries: 0, bytes: 0 });
    await expect(send('flood')).resolves.toHaveLength(1);
  });

  it('counts bytes in the same way', async () => {
    const { send, release, done, sequencer } = held({ bytes: 100_000 });
    const flood = Array.from({ length: 1200 }, () =>
      send('flood').then(
        () => 'stored',
        () => 'busy',
      ),
    );
    await Promise.resolve();
    expect(sequencer.queued.bytes).toBeLessThanOrEqual(100_000);
    expect(sequencer.queued.bytes).toBeGreaterThan(99_000);
    const other = send('other');
    release();
    await other;
    expect(await Promise.all(flood)).toContain('busy');
    await done();
  });

  it("takes a tenant's first batch also where it is larger than what the flood has left, up to twice the queue", async () => {
    const { send, release, done } = held({ entries: 1000 });
    for (let n = 0; n < 1200; n++) send('flood').catch(() => {});
    await Promise.resolve();
    const other = send('other', 900);
    await expect(send('third', 900)).rejects.toMatchObject(isBusy);
    await expect(send('other')).rejects.toMatchObject(isBusy);
    const third = send('third', 90);
    release();
    expect(await other).toHaveLength(900);
    expect(await third).toHaveLength(90);
    await done();
  });
});

describe('the batch threads under a flood', () => {
  let threads: BatchThreads;
  afterEach(() => threads.close());

  function body(events: number): Buffer {
    const event = { category: 'system_operation', action: 'a.b', outcome: 'success', source: { service: 's' } };
    const one = JSON.stringify({ ...event, occurredAt: '2026-01-01T00:00:00Z', details: { pad: 'x'.repeat(200) } });
    return Buffer.from(`[${Array.from({ length: events }, () => one).join(',')}]`);
  }

  it.each([
    ['larger ones', 300, 20],
    ['ones of the same size', 60, 60],
    ['smaller ones', 20, 300],
  ])("another tenant's batch does not wait behind all of its: %s", async (_, events, own) => {
    const order: string[] = [];
    const counted: number[] = [];
    threads = new BatchThreads({
      threads: 1,
      limits: { eventBytesMax: 10_000, batchEventsMax: 10_000 },
      policies: { openStream: async (tenant) => streamOf(tenant), evidenceRule: async () => 'refuse' },
      keysFor: async () => keys,
      append: async ({ entries }: Submission) => {
        order.push(entries[0]!.stream.name.split('/')[0]!);
        return entries.map(({ id, stream }) => {
          const receipt = { id, stream: stream.name, seq: 0, hash: '', recordedAt: '' };
          return { kind: 'appended', receipt } as const;
        });
      },
      readEntries: async () => new Map(),
      log: { error() {} },
    });
    const answer = (tenant: string, size: number) =>
      threads.answer({ body: body(size), isLines: false, atomic: false, sender: { tenant }, now: NOW }, (n) =>
        counted.push(n),
      );
    const flood = Array.from({ length: 40 }, () => answer('flood', events));
    const other = answer('other', own);
    expect((await other).status).toBe(200);
    await Promise.all(flood);
    expect(order.filter((tenant) => tenant === 'flood')).toHaveLength(40);
    // Two are with the thread; then turns of 64 KiB: of small batches a few come before it. Two that a thread has at once may pass each other.
    expect(order.indexOf('other')).toBeLessThanOrEqual(4 + Math.ceil((64 * 1024) / body(events).length));
    expect(counted.toSorted((a, b) => a - b)).toEqual(
      [...Array<number>(40).fill(events), own].toSorted((a, b) => a - b),
    );
  });

  it('what waits for its place keeps no thread from the next batch', async () => {
    const places = Promise.withResolvers<void>();
    let waiting = 0;
    threads = new BatchThreads({
      threads: 1,
      limits: { eventBytesMax: 10_000, batchEventsMax: 10_000 },
      policies: { openStream: async (tenant) => streamOf(tenant), evidenceRule: async () => 'refuse' },
      keysFor: async () => keys,
      append: async ({ entries }: Submission) => {
        waiting += 1;
        if (waiting === 30) places.resolve();
        await places.promise;
        return entries.map(({ id, stream }) => {
          const receipt = { id, stream: stream.name, seq: 0, hash: '', recordedAt: '' };
          return { kind: 'appended', receipt } as const;
        });
      },
      readEntries: async () => new Map(),
      log: { error() {} },
    });
    const batch = { body: body(3), isLines: false, atomic: false, sender: { tenant: 'flood' }, now: NOW };
    const answers = await Promise.all(Array.from({ length: 30 }, () => threads.answer(batch, () => {})));
    expect(answers.every(({ status }) => status === 200)).toBe(true);
  });

  it('stopping answers what still waits', async () => {
    threads = new BatchThreads({
      threads: 1,
      limits: { eventBytesMax: 10_000, batchEventsMax: 10_000 },
      policies: { openStream: async (tenant) => streamOf(tenant), evidenceRule: async () => 'refuse' },
      keysFor: async () => keys,
      append: () => new Promise(() => {}),
      readEntries: async () => new Map(),
      log: { error() {} },
    });
    const batch = { body: body(3), isLines: false, atomic: false, sender: { tenant: 'flood' }, now: NOW };
    const codes = Array.from({ length: 10 }, () =>
      threads
        .answer(batch, () => {})
        .then(
          () => 'answered',
          (error) => error.code,
        ),
    );
    await threads.close();
    expect((await Promise.all(codes)).slice(2)).toEqual(Array(8).fill('not_ready'));
    await expect(threads.answer(batch, () => {})).rejects.toMatchObject({ code: 'not_ready' });
  });
});

describe('reading under a flood', () => {
  it("another tenant's read is next, whatever waits, and as many run at a time as may", async () => {
    const turns = new ReaderTurns(2, 10_000);
    const ends: (() => void)[] = [];
    const order: number[] = [];
    let running = 0;
    const read = (tenant: number): Promise<number> =>
      turns.run(tenant, async () => {
        order.push(tenant);
        running += 1;
        expect(running).toBeLessThanOrEqual(2);
        await new Promise<void>((resolve) => ends.push(resolve));
        running -= 1;
        return tenant;
      });
    const flood = Array.from({ length: 50 }, () => read(1));
    const other = [read(2), read(2)];
    const third = read(3);
    const all = Promise.all([...flood, ...other, third]);
    const settled = () => new Promise((resolve) => setImmediate(resolve));
    for (let n = 0; n < 53; n++) {
      await settled();
      ends.shift()!();
    }
    await all;
    // Two had begun; then each has a turn.
    expect(order.slice(0, 7)).toEqual([1, 1, 1, 2, 3, 1, 2]);
    expect(order).toHaveLength(53);
  });

  it('ends for who waited too long, and for nobody else; what fails makes way', async () => {
    const turns = new ReaderTurns(1, 50);
    const first = Promise.withResolvers<string>();
    const running = turns.run(1, () => first.promise);
    await expect(turns.run(1, async () => 'late')).rejects.toMatchObject({ code: 'busy', status: 503 });
    const waiting = turns.run(2, async () => 'in time');
    first.reject(new Error('a mistake'));
    await expect(running).rejects.toThrow('a mistake');
    expect(await waiting).toBe('in time');
    expect(await turns.run(1, async () => 'again')).toBe('again');
  });
});

describe('the memory of bodies under a flood', () => {
  it('one tenant holds four fifths at most, and others find the rest', () => {
    const budget = new BodyBudget(1000);
    const leases: BodyLease[] = [];
    const hold = (owner: string | undefined, bytes: number): boolean => {
      const lease = new BodyLease(budget, owner);
      try {
        lease.grow(bytes);
        leases.push(lease);
        return true;
      } catch {
        lease.end();
        return false;
      }
    };
    while (hold('flood', 50));
    expect(budget.used).toBe(800);
    expect(hold('other', 100)).toBe(true);
    expect(hold('flood', 1)).toBe(false);
    // A first body may be all that is left; a second has to be within its share.
    expect(hold('third', 60)).toBe(true);
    expect(hold('third', 30)).toBe(false);
    expect(hold('third', 5)).toBe(true);
    expect(hold('fourth', 35)).toBe(true);
    expect(budget.used).toBe(1000);
    expect(hold('fifth', 1)).toBe(false);
    for (const lease of leases) lease.end();
    expect(budget.used).toBe(0);
    expect(hold('flood', 1000)).toBe(true);
  });

  it('gives a tenant back what it gave, and never twice', () => {
    const budget = new BodyBudget(100);
    const lease = new BodyLease(budget, 'a');
    lease.grow(0);
    lease.grow(40);
    lease.shrink(20);
    lease.end();
    lease.end();
    expect(budget.used).toBe(0);
    expect(() => budget.give(0, 'a')).not.toThrow();
    budget.take(10, 'a');
    budget.take(10, 'b');
    expect(() => budget.give(11, 'a')).toThrow('its owner took');
  });
});
