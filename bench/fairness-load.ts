/**
 * The load clients of `fairness.ts`, each in a process of its own (see client-process.ts): the tenants that are measured, and the one that
 * floods, which must not share an event loop with them.
 *
 * Senders at a rate send when it is time, whether earlier answers are there or not; where all of a sender's connections wait, so does the
 * request, and that counts. What is measured is the time from then to the answer; how late the client's own timer was is not.
 */
import { answerRequests } from './client-process.ts';
import { type EventSource, loadEvents, passMark } from './corpus.ts';
import { type Address, HttpConnection, type PreparedRequest, prepareRequests, unexpected } from './http-load.ts';

export interface FairnessRequest {
  readonly events: EventSource;
  readonly address: Address;
  /** One sender each. */
  readonly tokens: readonly string[];
  /** Events a request; 1 = `POST /v1/events`. */
  readonly batch: number;
  /** Requests a second of each sender; undefined = the next as soon as one is answered. */
  readonly rate?: number;
  /** Of each sender. */
  readonly connections: number;
  readonly seconds: number;
  /** Before these, not measured. */
  readonly warmup: number;
  /** Keeps the ids of two runs apart, see `passMark`. */
  readonly kind: string;
  readonly round: number;
  /** Whether 429 and 503 are answers like others. */
  readonly mayBeRefused: boolean;
}

export interface FairnessResult {
  /** Milliseconds, of stored requests, in no order. */
  readonly latencies: readonly number[];
  /** Requests in the measured time. */
  readonly sent: number;
  readonly stored: number;
  readonly refused: number;
}

interface Counts {
  readonly latencies: number[];
  sent: number;
  stored: number;
  refused: number;
}

/** Requests of a sender that wait for a connection; a flood goes on without those that find no place. */
const WAITING_MAX = 1000;
const TICK_MS = 1;

if (import.meta.main) answerRequests<FairnessRequest, FairnessResult>(run);

async function run(request: FairnessRequest): Promise<FairnessResult> {
  const { address, tokens, batch, connections, seconds, warmup } = request;
  const events = loadEvents(request.events);
  const senders = await Promise.all(
    tokens.map((token) => Sender.open(address, prepareRequests(events, batch, address, token), connections, request)),
  );
  const begin = performance.now();
  const opens = begin + warmup * 1000;
  const closes = opens + seconds * 1000;
  const counts: Counts = { latencies: [], sent: 0, stored: 0, refused: 0 };
  try {
    await Promise.all(
      senders.map((sender, i) =>
        request.rate === undefined
          ? sender.flood(opens, closes, counts)
          : sender.steady(request.rate, i / senders.length, begin, opens, closes, counts),
      ),
    );
  } finally {
    for (const sender of senders) sender.close();
  }
  return counts;
}

class Sender {
  readonly #address: Address;
  readonly #requests: readonly PreparedRequest[];
  readonly #connections: HttpConnection[];
  readonly #free: number[];
  readonly #waiting: (() => void)[] = [];
  readonly #options: FairnessRequest;
  #next = 0;

  private constructor(
    address: Address,
    requests: readonly PreparedRequest[],
    connections: HttpConnection[],
    options: FairnessRequest,
  ) {
    this.#address = address;
    this.#requests = requests;
    this.#connections = connections;
    this.#free = connections.map((_, i) => i);
    this.#options = options;
  }

  static async open(
    address: Address,
    requests: readonly PreparedRequest[],
    count: number,
    options: FairnessRequest,
  ): Promise<Sender> {
    const opening = Array.from({ length: count }, () => HttpConnection.open(address.host, address.port));
    return new Sender(address, requests, await Promise.all(opening), options);
  }

  /** One request in flight on each connection, without a pause. */
  async flood(opens: number, closes: number, counts: Counts): Promise<void> {
    await Promise.all(
      this.#connections.map(async (_, connection) => {
        for (let now = performance.now(); now < closes; now = performance.now())
          await this.#send(connection, now, opens, closes, counts);
      }),
    );
  }

  /** So many requests a second, evenly. */
  async steady(
    rate: number,
    phase: number,
    begin: number,
    opens: number,
    closes: number,
    counts: Counts,
  ): Promise<void> {
    const under_way = new Set<Promise<void>>();
    for (let n = 0; ; ) {
      const now = performance.now();
      if (now >= closes) break;
      for (; begin + ((n + phase) * 1000) / rate <= now; n++) {
        if (this.#waiting.length >= WAITING_MAX) continue;
        const sending = this.#whenFree(now, opens, closes, counts);
        under_way.add(sending);
        sending.then(() => under_way.delete(sending));
      }
      await new Promise((resolve) => setTimeout(resolve, TICK_MS));
    }
    await Promise.all(under_way);
  }

  async #whenFree(due: number, opens: number, closes: number, counts: Counts): Promise<void> {
    if (this.#free.length === 0) await new Promise<void>((resolve) => this.#waiting.push(resolve));
    const connection = this.#free.pop()!;
    try {
      await this.#send(connection, due, opens, closes, counts);
    } finally {
      this.#free.push(connection);
      this.#waiting.shift()?.();
    }
  }

  async #send(connection: number, due: number, opens: number, closes: number, counts: Counts): Promise<void> {
    const { kind, round, batch, mayBeRefused } = this.#options;
    const at = this.#next++;
    const { bytes, marks } = this.#requests[at % this.#requests.length]!;
    const mark = Buffer.from(passMark(kind, round, Math.floor(at / this.#requests.length)));
    for (const place of marks) mark.copy(bytes, place);
    const answer = await (await this.#open(connection)).send(bytes);
    const answered = performance.now();
    const stored = batch === 1 ? answer.status === 201 : answer.status === 200;
    const refused = answer.status === 429 || answer.status === 503;
    if (!stored && !(mayBeRefused && refused)) throw unexpected(answer);
    if (due < opens || due > closes) return;
    counts.sent += 1;
    if (stored) {
      counts.stored += 1;
      counts.latencies.push(answered - due);
    } else counts.refused += 1;
  }

  /** The service ends connections that say nothing for long. */
  async #open(connection: number): Promise<HttpConnection> {
    const open = this.#connections[connection]!;
    if (!open.closed) return open;
    const again = await HttpConnection.open(this.#address.host, this.#address.port);
    this.#connections[connection] = again;
    return again;
  }

  close(): void {
    for (const connection of this.#connections) connection.close();
  }
}
