/** A wire to some TCP server that can go dead, be cut, or go slowly, whatever is spoken over it. */
import { once } from 'node:events';
import { connect, createServer, type Socket } from 'node:net';

/**
 * - `pass`: all that comes, and the ends of both sides.
 * - `dead`: nothing, either way, of what comes from now on; nobody is told. Also new connections are taken, and lead nowhere.
 * - `slow`: 16 KiB each 20 ms.
 */
export type WireState = 'pass' | 'dead' | 'slow';

export interface TcpWire {
  readonly port: number;
  /** Applies to open connections too. */
  state: WireState;
  /** Connections that were taken. */
  readonly taken: number;
  /** Bytes that came from the client. */
  readonly bytes: number;
  /** Called with all bytes that came on a connection so far; a `cut` ends it on both sides, without those of this call. */
  onBytes: (bytes: number) => 'cut' | undefined;
  /** Ends all connections with a reset. */
  cut(): void;
  close(): Promise<void>;
}

const SLOW_BYTES = 16 * 1024;
const SLOW_MS = 20;

export async function startWire(port: number, host = '127.0.0.1'): Promise<TcpWire> {
  const sockets = new Set<Socket>();
  const server = createServer({ allowHalfOpen: true }, (client) => {
    wire.taken += 1;
    const target = connect({ port, host, allowHalfOpen: true });
    let bytes = 0;
    for (const socket of [client, target]) {
      sockets.add(socket);
      socket.setNoDelay(true);
      socket.on('error', () => {});
      socket.on('close', () => sockets.delete(socket));
    }
    client.on('data', (chunk: Buffer) => {
      bytes += chunk.length;
      wire.bytes += chunk.length;
      if (wire.onBytes(bytes) === 'cut') {
        client.resetAndDestroy();
        target.resetAndDestroy();
        return;
      }
      if (wire.state === 'dead') return;
      if (wire.state === 'slow') {
        client.pause();
        setTimeout(() => client.resume(), (SLOW_MS * chunk.length) / SLOW_BYTES);
      }
      if (!target.write(chunk)) {
        client.pause();
        target.once('drain', () => client.resume());
      }
    });
    client.on('end', () => {
      if (wire.state !== 'dead') target.end();
    });
    target.on('data', (chunk) => {
      if (wire.state !== 'dead') client.write(chunk);
    });
    target.on('end', () => {
      if (wire.state !== 'dead') client.end();
    });
    client.on('close', () => target.destroy());
    target.on('close', () => {
      if (wire.state !== 'dead' && !client.writableEnded) client.resetAndDestroy();
    });
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const wire = {
    port: (server.address() as { port: number }).port,
    state: 'pass' as WireState,
    taken: 0,
    bytes: 0,
    onBytes: (_bytes: number): 'cut' | undefined => undefined,
    cut() {
      for (const socket of sockets) socket.resetAndDestroy();
    },
    async close() {
      const closed = once(server, 'close');
      server.close();
      for (const socket of sockets) socket.destroy();
      await closed;
    },
  };
  return wire;
}
