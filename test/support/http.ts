/** Talking to a server as a stranger would: bytes on a socket. */

import { connect, type Socket } from 'node:net';
import { connect as tlsConnect } from 'node:tls';
import type { FastifyInstance } from 'fastify';

export interface RawAnswer {
  readonly status: number;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: string;
  /** Milliseconds from the first byte sent to the end of the connection. */
  readonly ms: number;
}

/** Starts listening on a free port of 127.0.0.1. */
export async function listen(app: FastifyInstance): Promise<number> {
  await app.listen({ host: '127.0.0.1', port: 0 });
  const address = app.server.address();
  if (address === null || typeof address === 'string') throw new Error('no port');
  return address.port;
}

/**
 * Sends bytes and collects what comes until the server ends the connection, or `untilMs` have passed. `send` writes more
 * later. Without an answer `status` is 0. With `tls` the certificate of the server is not looked at.
 */
export function talk(
  port: number,
  bytes: string | Buffer,
  { untilMs = 10_000, send, tls = false }: { untilMs?: number; send?: (socket: Socket) => void; tls?: boolean } = {},
): Promise<RawAnswer> {
  return new Promise((resolve) => {
    const begin = performance.now();
    const where = { port, host: '127.0.0.1' };
    const socket = tls ? tlsConnect({ ...where, rejectUnauthorized: false }) : connect(where);
    const chunks: Buffer[] = [];
    const timer = setTimeout(() => socket.destroy(), untilMs);
    socket.on('data', (chunk) => chunks.push(chunk));
    socket.on('error', () => {});
    socket.on('close', () => {
      clearTimeout(timer);
      resolve({ ...parse(Buffer.concat(chunks).toString()), ms: performance.now() - begin });
    });
    socket.on(tls ? 'secureConnect' : 'connect', () => {
      socket.write(bytes);
      send?.(socket);
    });
  });
}

/** Reads the last answer in the text, past `100 Continue`. */
function parse(text: string): Omit<RawAnswer, 'ms'> {
  const rest = text.replace(/^HTTP\/1\.1 100 Continue\r\n\r\n/, '');
  const [head = '', ...body] = rest.split('\r\n\r\n');
  const [line = '', ...lines] = head.split('\r\n');
  const headers = lines.map((header) => header.split(/:\s*/, 2) as [string, string]);
  return {
    status: Number(/^HTTP\/1\.1 (\d{3})/.exec(line)?.[1] ?? 0),
    headers: Object.fromEntries(headers.map(([name, value]) => [name.toLowerCase(), value])),
    body: body.join('\r\n\r\n'),
  };
}
