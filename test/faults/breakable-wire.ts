/** A way to a TCP server that breaks as networks do: for the connections that it carries, and for those that are made meanwhile. */
import { once } from 'node:events';
import { connect, createServer, type Server, type Socket } from 'node:net';

/**
 * - `pass`: all that comes, the ends of both sides, and resets.
 * - `dead`: connections stay and are taken, nothing passes either way, and nobody is told. A connection that was once dead stays so: what is
 *   between the two has forgotten it. With `pass` the target finds out that the other one went.
 * - `stalled`: the same, but what was sent meanwhile, also that somebody went, arrives late: with `pass`.
 * - `reset`: what is open is reset, and so is whatever connects.
 * - `closed`: what is open is reset, and nobody listens.
 */
export type Way = 'pass' | 'dead' | 'stalled' | 'reset' | 'closed';

export interface BreakableWire {
  readonly port: number;
  /** That are carried now. */
  readonly connections: number;
  turn(way: Way): Promise<void>;
  /** Leads connections that are made from now on to another port. */
  aim(target: number): void;
  /** Resets what is open. */
  cut(): void;
  close(): Promise<void>;
}

/** Starts a wire on 127.0.0.1 to a port of 127.0.0.1, or to a Unix socket. */
export async function startBreakableWire(target: number | string): Promise<BreakableWire> {
  const carried = new Set<Carried>();
  let way: Way = 'pass';
  let port = 0;
  let server: Server | undefined;

  async function listen(): Promise<void> {
    server = createServer({ allowHalfOpen: true }, (client) => {
      if (way === 'reset') {
        client.on('error', () => {});
        client.resetAndDestroy();
        return;
      }
      const one = new Carried(client, target, way === 'dead', () => way === 'pass');
      if (way === 'stalled') one.stall(true);
      carried.add(one);
      client.once('close', () => carried.delete(one));
    });
    server.listen(port, '127.0.0.1');
    await once(server, 'listening');
    port = (server.address() as { port: number }).port;
  }

  async function stopListening(): Promise<void> {
    const closing = server;
    server = undefined;
    if (closing === undefined) return;
    const closed = once(closing, 'close');
    closing.close();
    cut();
    await closed;
  }

  function cut(): void {
    for (const one of carried) one.cut();
  }

  await listen();
  return {
    port,
    get connections() {
      return carried.size;
    },
    async turn(to) {
      way = to;
      for (const one of carried) one.stall(to === 'stalled');
      if (to === 'dead') for (const one of carried) one.isDead = true;
      if (to === 'pass') for (const one of carried) one.tell();
      if (to === 'reset') cut();
      if (to === 'closed') await stopListening();
      else if (server === undefined) await listen();
    },
    aim(to) {
      target = to;
    },
    cut,
    close: stopListening,
  };
}

class Carried {
  isDead: boolean;
  readonly #client: Socket;
  readonly #target: Socket | undefined;
  #isStalled = false;
  #isLeft = false;
  #isTold = false;

  constructor(client: Socket, to: number | string, isDead: boolean, isThere: () => boolean) {
    this.isDead = isDead;
    this.#client = client;
    client.on('error', () => {});
    if (isDead) {
      // Read to the end, so that its close is seen.
      client.resume();
      client.on('end', () => this.#left(isThere()));
      return;
    }
    const place = typeof to === 'string' ? { path: to } : { port: to, host: '127.0.0.1' };
    const target = connect({ ...place, allowHalfOpen: true });
    this.#target = target;
    for (const [one, other] of [
      [client, target],
      [target, client],
    ] as const) {
      one.setNoDelay(true);
      one.on('error', () => {});
      one.on('data', (chunk) => {
        if (this.isDead || other.write(chunk)) return;
        one.pause();
        other.once('drain', () => {
          if (!this.#isStalled) one.resume();
        });
      });
      one.on('end', () => {
        if (!this.isDead) other.end();
        else if (one === client) this.#left(isThere());
      });
      // Where both sides have ended there is nothing more to tell; else it was a reset, or nobody was there.
      one.on('close', () => {
        if (this.isDead && (one === target || this.#isTold)) return;
        if (one.readableEnded && one.writableFinished) return;
        reset(other);
      });
    }
  }

  /** Nobody reads: the system keeps what comes. */
  stall(isStalled: boolean): void {
    if (this.#isStalled === isStalled || this.#target === undefined) return;
    this.#isStalled = isStalled;
    for (const one of [this.#client, this.#target]) {
      if (isStalled) one.pause();
      else one.resume();
    }
  }

  /** Of a dead one whose client went: as the operating system finds out once it can ask. What the target has not read yet is its own. */
  tell(): void {
    if (!this.#isLeft) return;
    this.#isTold = true;
    // Not an end: that would say that all was read.
    reset(this.#client);
    this.#target?.once('end', () => this.#target?.destroy());
    this.#target?.end();
  }

  #left(isThere: boolean): void {
    this.#isLeft = true;
    if (isThere) this.tell();
  }

  cut(): void {
    reset(this.#client);
    if (this.#target !== undefined) reset(this.#target);
  }
}

/** A Unix socket has no resets. */
function reset(socket: Socket): void {
  if (socket.remoteFamily === undefined && !socket.connecting) socket.destroy();
  else socket.resetAndDestroy();
}
