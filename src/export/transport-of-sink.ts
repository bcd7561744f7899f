/** A stored sink, opened: its configuration and its secret together, with what the service has for all sinks. */
import type { JsonObject } from '../chain/canonical.ts';
import { addressGuard } from '../http/address-guard.ts';
import { guardedLookup, outgoing } from '../http/outgoing.ts';
import type { FollowedSink } from '../store/sink-followers.ts';
import type { EncodedSink } from './encode-threads.ts';
import type { EntryEncoder } from './encoded-entries.ts';
import type { ExportedEntry } from './exported-entry.ts';
import { followedBy, type Sink, type SinkCategory, storedSink, wantsOf } from './sink.ts';
import { openSinkSecret } from './sink-secret.ts';
import { type Transport, TransportError } from './transport.ts';

export interface SinkDeps {
  /** CIDRs of addresses that may be called though they are not public. */
  readonly allowAddresses: readonly string[];
  /** Of the machine: who sends, in syslog. */
  readonly hostname: string;
  readonly log: {
    debug(facts: object, message: string): void;
    warn(facts: object, message: string): void;
  };
}

export interface OpenedSink {
  /** Of its configuration. */
  readonly secret: JsonObject | undefined;
  readonly transport: Transport;
  readonly wants: (exported: ExportedEntry) => boolean;
  /** Those whose streams are read. */
  readonly categories: readonly SinkCategory[];
  /** It follows the anchor stream too. */
  readonly anchor: boolean;
}

interface Keys {
  keysById(id: string): Promise<{ readonly dataKey: Uint8Array }>;
}

/** What of a stored sink is needed to open it. */
export type StoredSink = Pick<FollowedSink, 'id' | 'config' | 'secret'>;

/** How long somebody who looks on waits for a peer's verdict; less than an answer of the API may take. */
const TEST_MAX_MS = 20_000;

/** Opens a sink; connections are made when it delivers. Throws where its secret can not be opened, or this version can not use its configuration. */
export async function openSink(stored: StoredSink, keys: Keys, deps: SinkDeps): Promise<OpenedSink> {
  const secret = await openSinkSecret(keys, stored.id, stored.secret);
  const sink = storedSink(stored.config, secret);
  const { anchor } = sink;
  return { secret, transport: transportOf(sink, deps), wants: wantsOf(sink), categories: followedBy(sink), anchor };
}

/** Returns what encodes for a sink and makes no connection: no address is allowed to it. */
export function encoderOf({ config, secret, hostname }: EncodedSink): EntryEncoder {
  const sink = storedSink(config, secret);
  const log = { debug: () => {}, warn: () => {} };
  return { transport: transportOf(sink, { allowAddresses: [], hostname, log }), wants: wantsOf(sink) };
}

export function transportOf(sink: Sink, { allowAddresses, hostname, log }: SinkDeps): Transport {
  if (sink.type === 'webhook') return sink.peer.open({ outgoing: outgoing({ allowAddresses, log }), log });
  const guard = addressGuard(allowAddresses);
  return sink.peer.open({ hostname, lookup: guardedLookup(guard), allows: (address) => guard.allows(address) });
}

/**
 * Sends a message that says it is a test, and returns what the peer made of it, in words without a secret. It goes the way of every delivery,
 * over a connection of its own, whether the sink is paused or not.
 */
export async function testSink(
  stored: StoredSink,
  keys: Keys,
  deps: SinkDeps,
): Promise<{ readonly ok: boolean; readonly detail: string }> {
  const { transport } = await openSink(stored, keys, deps);
  try {
    return { ok: true, detail: await transport.test(AbortSignal.timeout(TEST_MAX_MS)) };
  } catch (error) {
    if (!(error instanceof TransportError)) throw error;
    // Our own time limit ended it.
    const detail = error.reason === 'stopped' ? `no verdict within ${TEST_MAX_MS / 1000} s` : error.message;
    return { ok: false, detail };
  } finally {
    transport.close();
  }
}
