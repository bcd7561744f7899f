/** Receivers that break: rsyslog itself, and syslog-ng and a webhook behind a way that breaks too. */
import { join } from 'node:path';
import { type ReceiverKind, startReceiver } from '../support/syslog-receivers.ts';
import type { Placed } from './arrivals.ts';
import { startBreakableWire } from './breakable-wire.ts';
import { startWebhookReceiver } from './webhook-receiver.ts';

/**
 * - `killed`: SIGKILL; started again at the end. `ended`: likewise, as an operator would.
 * - `stopped`: SIGSTOP, SIGCONT at the end.
 * - `half_open`: the way there is dead, and nobody says so; connections of that time never come back.
 * - `closed`, `reset`: nobody listens there; or whoever connects is reset.
 * - `unavailable`: 503.
 */
export type Fault = 'killed' | 'ended' | 'stopped' | 'half_open' | 'closed' | 'reset' | 'unavailable';

export interface FragileReceiver {
  readonly name: string;
  /** Of a sink that goes there. */
  readonly sink: object;
  /** Faults that it knows. */
  readonly faults: readonly Fault[];
  /** All until now, in the order in which they were noted. */
  arrivals(): readonly Placed[];
  break(fault: Fault): Promise<void>;
  /** Undoes the fault. */
  heal(fault: Fault): Promise<void>;
  stop(): Promise<void>;
}

/** Connections of a half-open time end with it, unless they are to be given up by who waits for them, which takes half a minute. */
export interface WireOptions {
  readonly leavesDead: boolean;
}

const WIRE_FAULTS = ['half_open', 'closed', 'reset'] as const;
type WireFault = (typeof WIRE_FAULTS)[number];
const WAYS = { half_open: 'dead', closed: 'closed', reset: 'reset' } as const;

export async function fragileSyslog(kind: ReceiverKind, wired: WireOptions | undefined): Promise<FragileReceiver> {
  const receiver = await startReceiver(kind);
  const wire = wired && (await startBreakableWire(receiver.ports.octets));
  return {
    name: kind,
    sink: { type: 'syslog', format: 'json', url: `tcp://127.0.0.1:${wire?.port ?? receiver.ports.octets}` },
    faults: ['killed', 'stopped', 'ended', ...(wire === undefined ? [] : WIRE_FAULTS)],
    arrivals: gathered(() => receiver.take('octets').split('\n').flatMap(readLine)),
    async break(fault) {
      if (fault === 'killed') await receiver.end('SIGKILL');
      else if (fault === 'ended') await receiver.end('SIGTERM');
      else if (fault === 'stopped') receiver.signal('SIGSTOP');
      else await wire!.turn(WAYS[fault as WireFault]);
    },
    async heal(fault) {
      if (fault === 'killed' || fault === 'ended') await receiver.again();
      else if (fault === 'stopped') receiver.signal('SIGCONT');
      else await wire!.turn('pass');
      if (fault === 'half_open' && !wired!.leavesDead) wire!.cut();
    },
    async stop() {
      await wire?.close();
      await receiver.stop();
    },
  };
}

export async function fragileWebhook(folder: string, wired: WireOptions): Promise<FragileReceiver> {
  const receiver = await startWebhookReceiver(join(folder, 'webhook'));
  const wire = await startBreakableWire(receiver.port);
  return {
    name: 'webhook',
    sink: { type: 'webhook', format: 'json', url: `http://127.0.0.1:${wire.port}/in` },
    faults: ['killed', 'stopped', 'unavailable', ...WIRE_FAULTS],
    arrivals: gathered(receiver.take),
    async break(fault) {
      if (fault === 'killed') await receiver.kill();
      else if (fault === 'stopped') receiver.signal('SIGSTOP');
      else if (fault === 'unavailable') await receiver.answer(503);
      else await wire.turn(WAYS[fault as WireFault]);
    },
    async heal(fault) {
      if (fault === 'killed') await receiver.again();
      else if (fault === 'stopped') receiver.signal('SIGCONT');
      else if (fault === 'unavailable') await receiver.answer(200);
      else await wire.turn('pass');
      if (fault === 'half_open' && !wired.leavesDead) wire.cut();
    },
    async stop() {
      await wire.close();
      await receiver.kill();
    },
  };
}

function gathered(take: () => Placed[]): () => readonly Placed[] {
  const all: Placed[] = [];
  return () => {
    for (const one of take()) all.push(one);
    return all;
  };
}

const ELEMENT = /^\[sealog@32473 ((?:[a-z]+="(?:[^"\\\]]|\\.)*" ?)+)\]\t(.+)$/;

/**
 * Reads what stands in a line of a syslog receiver's file. A line that a kill has torn has no end, and the next message stands behind what is
 * left of it. Where structured data and payload do not say the same, neither is worth anything.
 */
function readLine(line: string): Placed[] {
  const at = line.lastIndexOf('[sealog@');
  if (at === -1) return [];
  const found = ELEMENT.exec(line.slice(at));
  if (found === null) return [];
  const said = Object.fromEntries(
    [...found[1]!.matchAll(/([a-z]+)="([^"]*)"/g)].map(([, name, value]) => [name, value]),
  );
  let payload: { id: string; log: Omit<Placed, 'id'> };
  try {
    payload = JSON.parse(found[2]!.replace(/^\ufeff/, ''));
  } catch {
    return [];
  }
  const { stream, seq, hash } = payload.log;
  const placed = { id: payload.id, stream, seq, hash };
  const isSame =
    said['id'] === placed.id && said['stream'] === stream && said['seq'] === String(seq) && said['hash'] === hash;
  return [isSame ? placed : { ...placed, hash: `${hash}, but ${found[1]}` }];
}
