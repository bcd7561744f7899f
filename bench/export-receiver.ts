/**
 * A receiver of exported entries in a process of its own (see client-process.ts): syslog over TCP with octet counting, or a webhook. It does next to
 * nothing, since it shares the processors with what is measured: of each entry it sees that it is there, or when the log took it.
 */
import { createServer as createHttpServer } from 'node:http';
import { type AddressInfo, createServer, type Server, type Socket } from 'node:net';
import { answerRequests } from './client-process.ts';

export type ReceiverRequest =
  | { readonly do: 'listen'; readonly kind: ReceiverKind }
  /** Forgets what arrived. `reads`: when the log took each entry is of interest. */
  | { readonly do: 'begin'; readonly reads: boolean }
  /** Answers when so many entries have arrived since then. */
  | { readonly do: 'wait'; readonly entries: number };

export type ReceiverKind = 'syslog' | 'webhook';

export interface ReceiverResult {
  readonly port: number;
  readonly deliveries: readonly Delivery[];
  readonly latencies: readonly Latency[];
}

/** A connection of syslog that ended, or a request that was answered. */
export interface Delivery {
  /** Milliseconds of this process. */
  readonly at: number;
  readonly entries: number;
}

export interface Latency {
  /** When the log took the entry, milliseconds since 1970. */
  readonly recordedAt: number;
  /** Until it was here. */
  readonly ms: number;
}

const WAIT_MAX_MS = 300_000;
const LF = 0x0a;

let port = 0;
let reads = false;
let deliveries: Delivery[] = [];
let latencies: Latency[] = [];
let arrived = 0;
let wanted = Number.POSITIVE_INFINITY;
let enough = Promise.withResolvers<void>();

answerRequests<ReceiverRequest, ReceiverResult>(async (request) => {
  if (request.do === 'listen') {
    const server = request.kind === 'syslog' ? syslog() : webhook();
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    port = (server.address() as AddressInfo).port;
  } else if (request.do === 'begin') {
    [reads, deliveries, latencies, arrived, wanted] = [request.reads, [], [], 0, Number.POSITIVE_INFINITY];
    enough = Promise.withResolvers<void>();
  } else {
    wanted = request.entries;
    look();
    await Promise.race([enough.promise, late()]);
  }
  return { port, deliveries, latencies };
});

/** As rsyslog and syslog-ng do: reads all, and ends its side when the other has ended. */
function syslog(): Server {
  return createServer({ allowHalfOpen: true }, (socket: Socket) => {
    const frames = new Frames();
    socket.on('error', () => {});
    socket.on('data', (chunk: Buffer) => frames.read(chunk));
    socket.on('end', () => {
      socket.end();
      // To see whether it still listens, a sender connects and says nothing.
      if (frames.count > 0) delivered(frames.count);
    });
  });
}

/** Counts frames (`LEN SP MSG`, RFC 6587 section 3.4.1) without holding them. */
class Frames {
  count = 0;
  /** Bytes of the message that are still to come. */
  #left = 0;
  /** Of a frame whose beginning is cut. */
  #begun: Buffer = EMPTY;

  read(chunk: Buffer): void {
    let at = 0;
    while (at < chunk.length) {
      if (this.#left > 0) {
        const step = Math.min(this.#left, chunk.length - at);
        this.#left -= step;
        at += step;
        if (this.#left === 0) this.count += 1;
        continue;
      }
      const rest = this.#begun.length === 0 ? chunk.subarray(at) : Buffer.concat([this.#begun, chunk.subarray(at)]);
      const blank = rest.indexOf(0x20);
      if (blank === -1 || rest.length < blank + 1 + HEADER_BYTES) {
        this.#begun = rest;
        return;
      }
      if (reads) took(Date.parse(rest.toString('latin1', blank + 1, blank + 1 + HEADER_BYTES).split(' ', 2)[1]!));
      this.#left = Number(rest.toString('latin1', 0, blank));
      at += blank + 1 - this.#begun.length;
      this.#begun = EMPTY;
    }
  }
}

const EMPTY = Buffer.alloc(0);
/** `<PRI>1 TIMESTAMP`, at most. */
const HEADER_BYTES = 32;

function webhook(): Server {
  return createHttpServer((request, response) => {
    const chunks: Buffer[] = [];
    request.on('data', (chunk: Buffer) => chunks.push(chunk));
    request.on('end', () => {
      response.writeHead(200).end();
      if (reads) {
        const body = JSON.parse(Buffer.concat(chunks).toString()) as { log: { recordedAt: string } }[];
        for (const { log } of body) took(Date.parse(log.recordedAt));
        delivered(body.length);
      } else {
        // An array, an entry a line.
        delivered(chunks.reduce((sum, chunk) => sum + count(chunk, LF), 1));
      }
    });
  });
}

function count(bytes: Buffer, wantedByte: number): number {
  let found = 0;
  for (let at = bytes.indexOf(wantedByte); at !== -1; at = bytes.indexOf(wantedByte, at + 1)) found += 1;
  return found;
}

function took(recordedAt: number): void {
  latencies.push({ recordedAt, ms: Date.now() - recordedAt });
}

function delivered(entries: number): void {
  deliveries.push({ at: performance.now(), entries });
  arrived += entries;
  look();
}

function look(): void {
  if (arrived >= wanted) enough.resolve();
}

function late(): Promise<never> {
  return new Promise((_, reject) => {
    setTimeout(
      () => reject(new Error(`${arrived} of ${wanted} entries arrived within ${WAIT_MAX_MS} ms`)),
      WAIT_MAX_MS,
    ).unref();
  });
}
