/**
 * A steady load of single events, a process of its own (see client-process.ts): from `begin` to `end` some a second, whatever the answers take.
 * Of each is known when it was due, and how long after that its answer came: where a connection still waits, so does the next event, and that counts.
 */
import assert from 'node:assert/strict';
import { setTimeout as sleep } from 'node:timers/promises';
import { answerRequests } from './client-process.ts';
import { type EventSource, loadEvents, passMark } from './corpus.ts';
import { type Address, HttpConnection, type PreparedRequest, prepareRequests, unexpected } from './http-load.ts';

export type SteadyRequest =
  | {
      readonly do: 'begin';
      readonly events: EventSource;
      readonly address: Address;
      readonly token: string;
      readonly perSecond: number;
      readonly connections: number;
      /** Keeps the ids of two loads apart, see `passMark`. */
      readonly kind: string;
    }
  | { readonly do: 'end' };

export interface Answered {
  /** When it was due, milliseconds since 1970. */
  readonly at: number;
  readonly ms: number;
}

interface Load {
  /** What was due by then is still sent. */
  endsAt: number;
  readonly done: Promise<Answered[]>;
}

let load: Load | undefined;

answerRequests<SteadyRequest, readonly Answered[]>(async (request) => {
  if (request.do === 'end') {
    assert(load !== undefined, 'nothing has begun');
    load.endsAt = performance.now();
    return load.done.finally(() => {
      load = undefined;
    });
  }
  assert(load === undefined, 'one load at a time');
  const { address, token, connections } = request;
  const requests = prepareRequests(loadEvents(request.events), 1, address, token);
  const open = await Promise.all(
    Array.from({ length: connections }, () => HttpConnection.open(address.host, address.port)),
  );
  const state = { endsAt: Number.POSITIVE_INFINITY };
  const done = run(request, requests, open, state);
  // Whoever ends the load hears of it.
  done.catch(() => {});
  load = Object.assign(state, { done });
  return [];
});

async function run(
  { address, perSecond, kind }: Extract<SteadyRequest, { do: 'begin' }>,
  requests: readonly PreparedRequest[],
  open: HttpConnection[],
  state: { endsAt: number },
): Promise<Answered[]> {
  const answered: Answered[] = [];
  const begin = performance.now();
  try {
    await Promise.all(
      open.map(async (_, index) => {
        // Each connection has every so manieth event.
        for (let n = index; ; n += open.length) {
          const due = begin + (n * 1000) / perSecond;
          const early = due - performance.now();
          if (early > 0) await sleep(early);
          if (due > state.endsAt) return;
          if (open[index]!.closed) open[index] = await HttpConnection.open(address.host, address.port);
          const { bytes, marks } = requests[n % requests.length]!;
          const mark = Buffer.from(passMark(kind, 0, Math.floor(n / requests.length)));
          for (const at of marks) mark.copy(bytes, at);
          const answer = await open[index]!.send(bytes);
          if (answer.status !== 201) throw unexpected(answer);
          answered.push({ at: performance.timeOrigin + due, ms: performance.now() - due });
        }
      }),
    );
  } finally {
    state.endsAt = 0;
    for (const connection of open) connection.close();
  }
  return answered;
}
