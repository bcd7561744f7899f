/**
 * Cuts the connections that Node's own times leave open, so that each way to be slow has an end:
 *
 * - An answer that is not read. Node's time begins anew with each byte that is taken, and runs twice where none is. Here an answer may wait for
 *   its reader, in all, `answerGraceMs` and the time that its bytes take at `answerBytesPerSecondMin`. Only what waits for the
 *   reader counts: while we are the slow ones nobody is cut.
 * - Line breaks before a request. They are no beginning of one, so that Node's time for headers does not run, and each of them starts the
 *   time for idle connections again. A connection that got no answer for as long as an idle one and its next headers may take is cut.
 *
 * And who has too many: of `networkConnectionsMax` from one network (an address of IPv4, a /64 of IPv6) the next is closed when it comes, so that
 * one sender can not take the places of all others. Proxies that are trusted speak for many, and may have all.
 *
 * Everything is looked at once in `checkIntervalMs`, and requests pay nothing for it (10,000 connections: 1 ms a look).
 */
import type { Server } from 'node:http';
import type { Socket } from 'node:net';
import { type TLSSocket, Server as TlsServer } from 'node:tls';
import { NO_ADDRESS, networkOf, normalAddress } from './client-address.ts';

export interface WatchLimits {
  readonly answerGraceMs: number;
  readonly answerBytesPerSecondMin: number;
  readonly headersTimeoutMs: number;
  readonly keepAliveTimeoutMs: number;
  readonly checkIntervalMs: number;
  readonly networkConnectionsMax: number;
}

interface Watched {
  /** Handed to the connection in all, at the last look. */
  written: number;
  /** For how long it has got nothing, and has nothing to get. */
  idleMs: number;
  /** For how long answers have waited for their reader since the connection last had none, and what had been handed to it then. */
  waitedMs: number;
  base: number;
}

/** Node waits so much longer than it announces, for a request that is on its way. */
const KEEP_ALIVE_BUFFER_MS = 1000;

export class ConnectionWatch {
  readonly #limits: WatchLimits;
  readonly #isProxy: (address: string) => boolean;
  /** How many each network has; in the handshake, too. */
  readonly #networks = new Map<string, number>();
  /** Those that requests come over: with TLS, behind the handshake. */
  readonly #connections = new Map<Socket, Watched>();
  /** Below TLS, until the handshake is done. */
  readonly #handshaking = new Set<Socket>();
  #isClosing = false;
  #refused = 0;

  constructor(server: Server, limits: WatchLimits, isProxy: (address: string) => boolean = () => false) {
    this.#limits = limits;
    this.#isProxy = isProxy;
    // (With TLS this event is of what is below it.)
    const isTls = server instanceof TlsServer;
    server.on('connection', (socket: Socket) => {
      if (!this.#hasPlace(socket)) socket.destroy();
      else if (isTls) this.#greet(socket);
      else this.#watch(socket);
    });
    server.on('secureConnection', (socket: TLSSocket) => {
      // What TLS runs over, in Node's own field.
      this.#handshaking.delete((socket as { _parent?: Socket })._parent!);
      this.#watch(socket);
    });
    const timer = setInterval(() => this.#look(), limits.checkIntervalMs).unref();
    server.once('close', () => clearInterval(timer));
  }

  /** Connections that were closed as they came, since their network had too many. */
  get refused(): number {
    return this.#refused;
  }

  /** Cuts who is still in the handshake, now and from now on: Node's ways to close know nothing of them. */
  endHandshakes(): void {
    this.#isClosing = true;
    for (const socket of this.#handshaking) socket.destroy();
  }

  /** Takes a place of the connection's network, until it is closed; says whether there was one. */
  #hasPlace(socket: Socket): boolean {
    const address = normalAddress(socket.remoteAddress);
    if (address === NO_ADDRESS || this.#isProxy(address.replace(/%.*$/s, ''))) return true;
    const network = networkOf(address);
    const held = this.#networks.get(network) ?? 0;
    if (held >= this.#limits.networkConnectionsMax) {
      this.#refused += 1;
      return false;
    }
    this.#networks.set(network, held + 1);
    socket.once('close', () => {
      const left = this.#networks.get(network)! - 1;
      if (left === 0) this.#networks.delete(network);
      else this.#networks.set(network, left);
    });
    return true;
  }

  #greet(socket: Socket): void {
    if (this.#isClosing) {
      socket.destroy();
      return;
    }
    this.#handshaking.add(socket);
    socket.once('close', () => this.#handshaking.delete(socket));
  }

  #watch(socket: Socket): void {
    this.#connections.set(socket, { written: 0, idleMs: 0, waitedMs: 0, base: 0 });
    socket.once('close', () => this.#connections.delete(socket));
  }

  #look(): void {
    const { answerGraceMs, answerBytesPerSecondMin, headersTimeoutMs, keepAliveTimeoutMs, checkIntervalMs } =
      this.#limits;
    const idleMaxMs = keepAliveTimeoutMs + KEEP_ALIVE_BUFFER_MS + headersTimeoutMs;
    for (const [socket, watched] of this.#connections) {
      const { bytesWritten } = socket;
      const isIdle = !isAnswering(socket) && bytesWritten === watched.written;
      watched.written = bytesWritten;
      if (!isAnswering(socket)) {
        watched.waitedMs = 0;
        watched.base = bytesWritten;
      } else if (socket.writableLength > 0) {
        watched.waitedMs += checkIntervalMs;
      }
      watched.idleMs = isIdle ? watched.idleMs + checkIntervalMs : 0;
      const waitMaxMs = answerGraceMs + ((bytesWritten - watched.base) / answerBytesPerSecondMin) * 1000;
      if (watched.idleMs >= idleMaxMs || watched.waitedMs >= waitMaxMs) socket.destroy();
    }
  }
}

/** Says whether a request that came over the connection has its answer still to get, or to get whole: Node's own field. */
export function isAnswering(socket: Socket): boolean {
  return (socket as { _httpMessage?: unknown })._httpMessage != null;
}
