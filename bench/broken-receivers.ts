/** Receivers that take nothing, and their sinks: one whose port nobody listens on, one that answers 503, and one that takes connections and reads nothing. */
import { once } from 'node:events';
import { createServer as createHttpServer } from 'node:http';
import { type AddressInfo, createServer, type Server, type Socket } from 'node:net';
import { ask } from './api.ts';
import type { Service } from './service.ts';

export interface BrokenReceivers {
  readonly sinks: readonly object[];
  stop(): void;
}

export async function startBrokenReceivers(): Promise<BrokenReceivers> {
  const sockets = new Set<Socket>();
  const silent = createServer((socket) => {
    sockets.add(socket);
    socket.on('error', () => {});
    socket.on('close', () => sockets.delete(socket));
    socket.pause();
  });
  const refusing = createHttpServer((request, response) => {
    request.resume().once('end', () => response.writeHead(503).end());
  });
  const absent = createServer();
  const [silentPort, refusingPort, absentPort] = [await listen(silent), await listen(refusing), await listen(absent)];
  absent.close();
  await once(absent, 'close');
  return {
    sinks: [
      { name: 'silent', type: 'syslog', format: 'cef', url: `tcp://127.0.0.1:${silentPort}` },
      { name: 'refusing', type: 'webhook', format: 'json', url: `http://127.0.0.1:${refusingPort}/in` },
      { name: 'absent', type: 'webhook', format: 'json', url: `http://127.0.0.1:${absentPort}/in` },
    ],
    stop() {
      for (const socket of sockets) socket.destroy();
      silent.close();
      refusing.closeAllConnections();
      refusing.close();
    },
  };
}

async function listen(server: Server): Promise<number> {
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return (server.address() as AddressInfo).port;
}

export interface SinkApi {
  make(sink: object): Promise<string>;
  act(id: string, action: 'pause' | 'resume'): Promise<void>;
  /** Throws where a sink is not what the measurement takes it for. */
  mustRetry(ids: readonly string[]): Promise<void>;
}

export function sinksOf({ address }: Service, token: string): SinkApi {
  const call = (method: 'GET' | 'POST', path: string, body?: object): Promise<{ id: string; state: string }> =>
    ask(address, token, method, `/v1/sinks${path}`, body);
  return {
    make: async (sink) => (await call('POST', '', { ...sink, from: 'beginning' })).id,
    act: async (id, action) => void (await call('POST', `/${id}/${action}`, {})),
    async mustRetry(ids) {
      const states = await Promise.all(ids.map((id) => call('GET', `/${id}`)));
      // A call that nobody answers has not failed yet.
      if (!states.some(({ state }) => state === 'retrying')) throw new Error('the broken sinks do not fail');
    },
  };
}
