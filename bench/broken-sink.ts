/**
 * A broken sink: what whoever sends events notices of receivers that take nothing. Single events at a gentle rate, by turns without a sink that is
 * followed, and with three: one whose port nobody listens on, one that answers 503, and one that takes connections and reads nothing. All three have the whole log
 * of the tenant before them, so there is always a batch under way. What is measured is the time from request to answer, in the same run.
 */
import { once } from 'node:events';
import { createServer as createHttpServer } from 'node:http';
import { type AddressInfo, createServer, type Server, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { startClient } from './client-process.ts';
import type { EventSource } from './corpus.ts';
import type { FairnessRequest, FairnessResult } from './fairness-load.ts';
import { compare, median, type Row } from './report.ts';
import { quantile } from './round.ts';
import type { Service } from './service.ts';

const QUANTILES = { 'export.broken-sink.p50': 0.5, 'export.broken-sink.p99': 0.99 };

export const BROKEN_SINK: readonly string[] = Object.keys(QUANTILES);

const TENANT = 'broken';
const RATE = 100;
const SECONDS = 8;
const WARMUP_SECONDS = 1;
/** A sink that was paused or resumed is noticed. */
const NOTICED_AFTER_MS = 3000;
/** It has failed some times: what is of interest is a receiver that is broken for long. */
const BROKEN_FOR_MS = 8000;
/** Enough that no id is sent twice in a round. */
const EVENTS = 2000;

export async function measureBrokenSink(
  service: Service,
  isWanted: (name: string) => boolean,
  { events, rounds, smoke }: { readonly events: EventSource; readonly rounds: number; readonly smoke: boolean },
): Promise<Row[]> {
  if (!BROKEN_SINK.some(isWanted)) return [];
  const load = startClient<FairnessRequest, FairnessResult>(
    fileURLToPath(new URL('fairness-load.ts', import.meta.url)),
  );
  const receivers = await startReceivers();
  try {
    const api = sinksOf(service, await service.token('it_security_admin', TENANT));
    const request = {
      events: { ...events, limit: Math.min(events.limit ?? EVENTS, EVENTS) },
      address: service.address,
      tokens: [await service.token('service', TENANT)],
      ...{ batch: 1, connections: 8, rate: RATE, mayBeRefused: false, kind: 'b' },
      seconds: smoke ? 0.3 : SECONDS,
      warmup: smoke ? 0.2 : WARMUP_SECONDS,
    };
    let round = 0;
    const send = async (): Promise<readonly number[]> => {
      const { latencies } = await load.ask({ ...request, round: round++ });
      return latencies.toSorted((a, b) => a - b);
    };
    // What the sinks have before them.
    await send();
    const ids = await Promise.all(receivers.sinks.map((sink) => api.make(sink)));
    const without: (readonly number[])[] = [];
    const beside: (readonly number[])[] = [];
    const turn = async (action: 'pause' | 'resume', measured: (readonly number[])[]): Promise<void> => {
      for (const id of ids) await api.act(id, action);
      await sleep(NOTICED_AFTER_MS + (action === 'resume' && !smoke ? BROKEN_FOR_MS : 0));
      measured.push(await send());
      if (action === 'resume') await api.mustRetry(ids);
    };
    const turns = [() => turn('pause', without), () => turn('resume', beside)];
    for (let n = 0; n < rounds; n++) for (const one of n % 2 === 0 ? turns : turns.toReversed()) await one();
    for (const id of ids) await api.act(id, 'pause');

    const of = (results: readonly (readonly number[])[], share: number): number =>
      median(results.map((sorted) => quantile(sorted, share)));
    const line = (results: readonly (readonly number[])[]): string =>
      Object.values(QUANTILES)
        .map((share) => {
          const each = results.map((sorted) => quantile(sorted, share).toFixed(1));
          return `p${share * 100} ${of(results, share).toFixed(1)} ms (${each.join(' ')})`;
        })
        .join('  ');
    console.log(`\nexport.broken-sink: ${RATE} single events/s, from request to answer; median (and each round)`);
    console.log(`  without a sink            ${line(without)}`);
    console.log(`  beside three broken ones  ${line(beside)}`);
    return Object.entries(QUANTILES)
      .filter(([name]) => isWanted(name))
      .map(([name, share]) => compare(name, 'ms', of(beside, share), of(without, share)));
  } finally {
    load.stop();
    receivers.stop();
  }
}

interface Receivers {
  readonly sinks: readonly object[];
  stop(): void;
}

async function startReceivers(): Promise<Receivers> {
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

interface SinkApi {
  make(sink: object): Promise<string>;
  act(id: string, action: 'pause' | 'resume'): Promise<void>;
  /** Throws where a sink is not what the measurement takes it for. */
  mustRetry(ids: readonly string[]): Promise<void>;
}

function sinksOf({ address: { host, port } }: Service, token: string): SinkApi {
  const call = async (method: string, path: string, body?: object): Promise<{ id: string; state: string }> => {
    const answer = await fetch(`http://${host}:${port}/v1/sinks${path}`, {
      method,
      headers: { authorization: `Bearer ${token}`, 'content-type': 'application/json' },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    });
    const text = await answer.text();
    if (!answer.ok) throw new Error(`${method} /v1/sinks${path} answered ${answer.status}: ${text}`);
    return JSON.parse(text === '' ? '{}' : text);
  };
  return {
    make: async (sink) => (await call('POST', '', { ...sink, from: 'beginning' })).id,
    act: async (id, action) => void (await call('POST', `/${id}/${action}`, {})),
    async mustRetry(ids) {
      const states = await Promise.all(ids.map(async (id) => call('GET', `/${id}`)));
      // A call that nobody answers has not failed yet.
      if (!states.some(({ state }) => state === 'retrying')) throw new Error('the broken sinks do not fail');
    },
  };
}
