/** What the servers that play key services have in common: plain HTTP on loopback, JSON, and faults that a test asks for. */
import { once } from 'node:events';
import { createServer, type IncomingMessage } from 'node:http';
import type { AddressInfo, Socket } from 'node:net';

export interface KeyRequest {
  readonly method: string;
  readonly url: URL;
  readonly headers: IncomingMessage['headers'];
  readonly text: string;
}

export interface KeyAnswer {
  readonly status: number;
  readonly body?: unknown;
}

export interface KeyServer {
  readonly url: string;
  /** Requests that were answered, as `METHOD path`, with what the playing side calls them. */
  readonly requests: string[];
  /** All that was sent to it or by it, to look for what should not be there. */
  readonly seen: string[];
  /** Answers in place of the service; `hang`: not at all. */
  fault: ((request: KeyRequest) => KeyAnswer | 'hang' | undefined) | undefined;
  stop(): Promise<void>;
  /** Listens again on the same port. */
  again(): Promise<void>;
}

export async function startKeyServer(
  answer: (request: KeyRequest) => KeyAnswer,
  nameOf: (request: KeyRequest) => string = ({ method, url }) => `${method} ${url.pathname}`,
): Promise<KeyServer> {
  const sockets = new Set<Socket>();
  let port = 0;
  const open = () =>
    createServer(async (request, response) => {
      const chunks: Buffer[] = [];
      for await (const chunk of request) chunks.push(chunk as Buffer);
      const text = Buffer.concat(chunks).toString();
      const { method = '', headers } = request;
      const asked: KeyRequest = { method, headers, text, url: new URL(request.url!, server.url) };
      server.requests.push(nameOf(asked));
      const fault = server.fault?.(asked);
      if (fault === 'hang') return;
      const { status, body } = fault ?? answer(asked);
      const out = body === undefined ? '' : JSON.stringify(body);
      server.seen.push(text, out);
      response.writeHead(status, { 'content-type': 'application/json' }).end(out);
    });
  let listening = open();
  const server: KeyServer = {
    url: '',
    requests: [],
    seen: [],
    fault: undefined,
    async stop() {
      for (const socket of sockets) socket.destroy();
      listening.close();
      await once(listening, 'close').catch(() => {});
    },
    async again() {
      listening = open();
      await listen();
    },
  };
  const listen = async (): Promise<void> => {
    listening.on('connection', (socket) => {
      sockets.add(socket);
      socket.on('close', () => sockets.delete(socket));
    });
    listening.listen(port, '127.0.0.1');
    await once(listening, 'listening');
    port = (listening.address() as AddressInfo).port;
  };
  await listen();
  return Object.assign(server, { url: `http://127.0.0.1:${port}` });
}
