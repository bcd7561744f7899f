/**
 * The export thread: follows sinks beside the main thread, over database connections and with keys of its own, so that no SIEM, however slow,
 * and no replay, however long, is felt by who sends events.
 *
 * It takes sinks that nobody follows, says each second that it lives, and lets go of all when it ends: another replica goes on at once then, and
 * within `silentMs` when it was killed. It is woken by notices, and looks by itself each second.
 */
import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { parentPort, workerData } from 'node:worker_threads';
import { anchorEpoch } from '../chain/key-statement.ts';
import { Keyring } from '../keys/keyring.ts';
import { openThreadKeys } from '../keys/thread-keys.ts';
import { keyById } from '../store/data-keys.ts';
import { asTenant, openDatabase } from '../store/database.ts';
import { listenForEntries } from '../store/entry-notices.ts';
import {
  advance,
  beat,
  type FollowedSink,
  fail,
  type Hold,
  heldSinks,
  park,
  recover,
  releaseSinks,
  streamsOfSink,
  takeSinks,
} from '../store/sink-followers.ts';
import { streamsOf } from '../store/streams.ts';
import { EncodeThreads } from './encode-threads.ts';
import { type EncodedEntry, encodedFrom, encodeEntries, type SealedEntries } from './encoded-entries.ts';
import { blocksToOpen, ticksFrom } from './entry-source.ts';
import type { ExportTask, FromThread, ToThread } from './export-task.ts';
import type { ExportedEntry } from './exported-entry.ts';
import { SinkFollower, type StreamPosition } from './sink-follower.ts';
import { type OpenedSink, openSink } from './transport-of-sink.ts';

assert(parentPort !== null, 'runs as a worker thread');
const main = parentPort;
const task = workerData as ExportTask;

const SINKS_MAX = 200;
/** In all: each sink has a batch under way and the next, and a receiver that says nothing keeps both for as long as it may. */
const BATCHES_BYTES_MAX = 256 * 1024 * 1024;
const READERS_MAX = 4;

const log = Object.fromEntries(
  (['debug', 'info', 'warn', 'error'] as const).map((level) => [
    level,
    (facts: object, message: string) => level !== 'debug' && tell({ kind: 'log', level, facts, message }),
  ]),
) as unknown as Record<'debug' | 'info' | 'warn' | 'error', (facts: object, message: string) => void>;

const database = openDatabase({ connection: task.connection, logins: task.logins, readersMax: READERS_MAX, log });
const monthKeys = await openThreadKeys(task.keys, log);
const keyring = new Keyring(
  monthKeys,
  {
    findOrStore: () => Promise.reject(new Error('an export makes no keys')),
    byId: (id) => keyById(database.verifier, id),
  },
  { cacheMs: task.keys.cacheMs },
);

interface Following {
  readonly tenantId: number;
  readonly revision: number;
  readonly follower: SinkFollower;
}

class ExportThread {
  readonly #owner = randomUUID();
  readonly #followers = new Map<string, Following>();
  /** Sinks that could not be opened: they stay ours for a while, so that nobody tries at once again. */
  readonly #unopened = new Set<string>();
  #closed = false;
  #timer: NodeJS.Timeout | undefined;
  readonly #notices = listenForEntries(task.logins.verifier ?? task.connection, (tenantIds) => this.#wake(tenantIds));
  readonly #encoders = new EncodeThreads();
  #looking: Promise<void> | undefined;
  #delivered = 0;
  #failures = 0;

  start(): void {
    clearTimeout(this.#timer);
    this.#looking ??= this.#look().finally(() => {
      this.#looking = undefined;
      if (!this.#closed) this.#timer = setTimeout(() => this.start(), task.timing.beatMs);
    });
  }

  async close(): Promise<void> {
    this.#closed = true;
    clearTimeout(this.#timer);
    this.#notices.close();
    await Promise.all([...this.#followers.values()].map(({ follower }) => follower.close()));
    await this.#looking;
    await this.#encoders.close();
    await releaseSinks(database.writer, this.#owner).catch(() => {});
    monthKeys.close();
    await database.close();
  }

  /** The anchor stream is another tenant's; its ticks wait for their checkpoints anyway. */
  #wake(tenantIds: ReadonlySet<number> | undefined): void {
    for (const { tenantId, follower } of this.#followers.values())
      if (tenantIds === undefined || tenantIds.has(tenantId)) follower.wake();
  }

  /** Says that we live, ends followers of sinks that are not ours any more or were changed, and takes what is free. */
  async #look(): Promise<void> {
    try {
      const ours = await beat(database.writer, this.#owner);
      for (const [id, { revision, follower }] of this.#followers) {
        if (ours.get(id) === revision) continue;
        await follower.close();
      }
      // Changed, paused, or ended by itself: whoever is free takes it as it is now.
      for (const id of await heldSinks(database.writer, this.#owner)) {
        if (!this.#followers.has(id) && !this.#unopened.has(id)) await releaseSinks(database.writer, this.#owner, id);
      }
      const room = SINKS_MAX - this.#followers.size;
      if (this.#closed) return;
      const taken = room <= 0 ? [] : await takeSinks(database.writer, this.#owner, task.timing.silentMs, room);
      for (const sink of taken) await this.#follow(sink);
      tell({
        kind: 'deliveries',
        following: this.#followers.size,
        delivered: this.#delivered,
        failures: this.#failures,
      });
    } catch (error) {
      log.warn({ reason: words(error) }, 'sinks can not be looked for');
    }
  }

  async #follow(sink: FollowedSink): Promise<void> {
    const hold: Hold = { sink: sink.id, owner: this.#owner, revision: sink.revision };
    const tenantId = sink.tenant.id;
    let opened: OpenedSink;
    try {
      opened = await openSink(sink, keyring, { ...task, log });
    } catch (error) {
      const retryInMs = task.timing.silentMs;
      await fail(database.writer, hold, { failures: sink.failures + 1, error: words(error), retryInMs });
      log.warn({ sink: sink.id, reason: words(error) }, 'a sink can not be opened');
      this.#unopened.add(sink.id);
      setTimeout(() => this.#unopened.delete(sink.id), retryInMs).unref();
      return;
    }
    const streams = new Map<number, number>();
    const source = (stream: StreamPosition) => {
      const owner = streams.get(stream.id)!;
      return {
        id: stream.id,
        size: stream.size,
        stream: { name: stream.name, category: stream.category, tenant: stream.name.split('/', 1)[0]! },
        ask: <T>(work: Parameters<typeof asTenant<T>>[2]) => asTenant<T>(database.reader, owner, work),
      };
    };
    const { hostname } = task;
    const encoded = { key: `${sink.id} ${sink.revision}`, config: sink.config, secret: opened.secret, hostname };
    const elsewhere = (sealed: SealedEntries) => this.#encoders.encode(encoded, sealed);
    const follower = new SinkFollower({
      transport: opened.transport,
      streams: async () => {
        // Each time: the anchor stream may have had no tick yet, and a recovery begins another epoch.
        const others = opened.anchor ? await this.#anchorStreams() : [];
        const found = await streamsOfSink(database.writer, { id: sink.id, tenantId }, opened.categories, others);
        for (const stream of found) streams.set(stream.id, stream.tenantId);
        return found;
      },
      read: (stream, fromSeq, isAhead) => {
        const from = source(stream);
        if (anchorEpoch(stream.name) !== undefined) return encodedTicks(opened, ticksFrom(keyring, from, fromSeq));
        const ahead = () => (isAhead() ? this.#encoders.ahead : 0);
        const blocks = blocksToOpen(keyring, from, fromSeq, isAhead);
        return encodedFrom({ encoder: opened, elsewhere, ahead }, blocks, from.stream, fromSeq);
      },
      advance: (stream, nextSeq, delivered, isWell) => {
        this.#delivered += delivered;
        return advance(database.writer, hold, { tenantId, streamId: stream.id, nextSeq, delivered, isWell });
      },
      park: (stream, seq, reason) => park(database.writer, hold, { tenantId, streamId: stream.id, seq, reason }),
      fail: (failures, error, retryInMs) => {
        this.#failures += 1;
        return fail(database.writer, hold, { failures, error, retryInMs });
      },
      recover: () => recover(database.writer, hold),
      batchBytesMax: () => BATCHES_BYTES_MAX / (2 * this.#followers.size),
      failures: sink.failures,
      log: {
        info: (facts, message) => log.info({ sink: sink.id, ...facts }, message),
        warn: (facts, message) => log.warn({ sink: sink.id, ...facts }, message),
      },
      timing: task.followerTiming,
    });
    const following = { tenantId, revision: sink.revision, follower };
    this.#followers.set(sink.id, following);
    void follower.ended
      .catch((error: unknown) => log.error({ sink: sink.id, reason: words(error) }, 'the follower of a sink failed'))
      .finally(() => {
        if (this.#followers.get(sink.id) === following) this.#followers.delete(sink.id);
      });
  }

  /** The epochs of the anchor stream, by name: there are as many as there were recoveries. */
  async #anchorStreams(): Promise<string[]> {
    return (await streamsOf(database.verifier, 'anchor')).map(({ name }) => name);
  }
}

async function* encodedTicks(
  sink: OpenedSink,
  ticks: AsyncIterable<readonly ExportedEntry[]>,
): AsyncGenerator<EncodedEntry[]> {
  for await (const some of ticks) yield encodeEntries(sink, some);
}

function tell(message: FromThread): void {
  main.postMessage(message);
}

function words(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

const thread = new ExportThread();
main.on('message', (message: ToThread) => {
  switch (message.kind) {
    case 'look':
      thread.start();
      return;
    case 'close':
      void thread.close().finally(() => {
        tell({ kind: 'closed' });
        main.close();
      });
      return;
    default: {
      const never: never = message.kind;
      throw new Error(`unknown message ${String(never)}`);
    }
  }
});
thread.start();
