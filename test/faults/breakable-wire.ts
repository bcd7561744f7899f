/** A way to a TCP server that breaks as networks do: for the connections that it carries, and for those that are made meanwhile. */
import { once } from 'node:events';
import { connect, createServer, type Server, type Socket } from 'node:net';

/**
 * - `pass`: all that comes, the ends of both sides, and resets.
 * - `dead`: connections stay and are taken, nothing passes either way, and nobody is told. A connection that was once dead stays so.
 * - `reset`: what is open is reset, and so is whatever connects.
 * - `closed`: what is open is reset, and nobody listens.
 */
export type Way = 'pass' | 'dead' | 'reset' | 'closed';

export interface BreakableWire {
  readonly port: number;
  turn(way: Way): Promise<void>;
  /** Resets what is open. */
  cut(): void;
  close(): Promise<void>;
}

/** Starts a wire on 127.0.0.1 to a port of 127.0.0.1. */
export async function startBreakableWire(target: number): Promise<BreakableWire> {
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
      const one = new Carried(client, target, way === 'dead');
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
    async turn(to) {
      way = to;
      if (to === 'dead') for (const one of carried) one.isDead = true;
      if (to === 'reset') cut();
      if (to === 'closed') await stopListening();
      else if (server === undefined) await listen();
    },
    cut,
    close: stopListening,
  };
}

class Carried {
  isDead: boolean;
  readonly #client: Socket;
  readonly #target: Socket | undefined;

  constructor(client: Socket, port: number, isDead: boolean) {
    this.isDead = isDead;
    this.#client = client;
    client.on('error', () => {});
    if (isDead) {
      // Read to the end, so that its close is seen.
      client.resume();
      return;
    }
    const target = connect({ port, host: '127.0.0.1', allowHalfOpen: true });
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
        other.once('drain', () => one.resume());
      });
      one.on('end', () => {
        if (!this.isDead) other.end();
      });
      // Where both sides have ended there is nothing more to tell; else it was a reset, or nobody was there.
      one.on('close', () => {
        if (this.isDead && one === target) return;
        if (one.readableEnded && one.writableFinished) return;
        other.resetAndDestroy();
      });
    }
  }

  cut(): void {
    this.#client.resetAndDestroy();
    this.#target?.resetAndDestroy();
  }
}
