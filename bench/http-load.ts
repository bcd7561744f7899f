/**
 * The load client of the service, a process of its own (see client-process.ts).
 *
 * It shares two cores with the service and the database, so it does next to nothing: the requests are built whole before the clock runs,
 * written to raw sockets, one in flight per connection, and of an answer it reads the status and the length. It does look at every answer:
 * 201 for one event, 200 and `"errors":false` for a batch. Any other ends the bench, with that answer in the message.
 */
import assert from 'node:assert/strict';
import { connect, type Socket } from 'node:net';
import { answerRequests } from './client-process.ts';
import { type BenchEvent, type EventSource, loadEvents, passMark } from './corpus.ts';
import { type RoundPlan, type RoundResult, runRound } from './round.ts';

export type HttpRequest =
  | {
      readonly do: 'prepare';
      readonly events: EventSource;
      readonly address: Address;
      /** Several are used in turn, a request each, and MUST be of one length. */
      readonly tokens: readonly string[];
    }
  | ({ readonly do: 'round'; readonly batch: number; readonly kind: string; readonly round: number } & RoundPlan);

export interface Address {
  readonly host: string;
  readonly port: number;
}

/** `prepare` gives the number of events that were loaded and their bytes. */
export type HttpResult = RoundResult | { readonly events: number; readonly bytes: number };

/** A whole HTTP request, and where in it the token and the marks of its events stand. */
export interface PreparedRequest {
  readonly bytes: Buffer;
  readonly tokenAt: number;
  readonly marks: readonly number[];
}

export interface Answer {
  readonly status: number;
  readonly body: Buffer;
}

const FULLY_CHECKED_ANSWERS = 2;

if (import.meta.main) serve();

function serve(): void {
  let events: BenchEvent[] = [];
  let address: Address = { host: '', port: 0 };
  let tokens: readonly string[] = [];
  const requests = new Map<number, PreparedRequest[]>();

  answerRequests<HttpRequest, HttpResult>(async (request) => {
    if (request.do === 'prepare') {
      events = loadEvents(request.events);
      ({ address, tokens } = request);
      assert(new Set(tokens.map((token) => token.length)).size === 1, 'the tokens are not of one length');
      requests.clear();
      return { events: events.length, bytes: events.reduce((sum, event) => sum + Buffer.byteLength(event.text), 0) };
    }
    let prepared = requests.get(request.batch);
    if (prepared === undefined) {
      prepared = prepareRequests(events, request.batch, address, tokens[0]!);
      requests.set(request.batch, prepared);
    }
    return loadRound(request, prepared, address, tokens);
  });
}

async function loadRound(
  plan: Extract<HttpRequest, { do: 'round' }>,
  requests: readonly PreparedRequest[],
  address: Address,
  tokens: readonly string[],
): Promise<RoundResult> {
  const ofTenants = tokens.map((token) => Buffer.from(token));
  const connections = await Promise.all(
    Array.from({ length: plan.connections }, () => HttpConnection.open(address.host, address.port)),
  );
  const checked = connections.map(() => 0);
  let next = 0;
  let sent = 0;
  let turn = 0;
  let pass = 0;
  let mark = Buffer.from(passMark(plan.kind, plan.round, pass));
  try {
    return await runRound(plan, async (index) => {
      if (sent >= (plan.events ?? Number.POSITIVE_INFINITY)) return 0;
      if (next === requests.length) {
        if (plan.seconds === undefined && plan.events === undefined) return 0;
        next = 0;
        pass += 1;
        mark = Buffer.from(passMark(plan.kind, plan.round, pass));
      }
      const { bytes, tokenAt, marks } = requests[next++]!;
      sent += marks.length;
      for (const at of marks) mark.copy(bytes, at);
      if (ofTenants.length > 1) ofTenants[turn++ % ofTenants.length]!.copy(bytes, tokenAt);
      const connection = connections[index]!;
      const answer = await connection.send(bytes);
      // Each connection's first answers are parsed whole; later ones can not differ in shape while they say that nothing failed.
      if (plan.batch === 1) checkReceipt(answer);
      else checkBatch(answer, checked[index]!++ < FULLY_CHECKED_ANSWERS ? marks.length : undefined);
      if (connection.closed) connections[index] = await HttpConnection.open(address.host, address.port);
      return marks.length;
    });
  } finally {
    for (const connection of connections) connection.close();
  }
}

export function prepareRequests(
  events: readonly BenchEvent[],
  batch: number,
  { host, port }: Address,
  token: string,
): PreparedRequest[] {
  const requests: PreparedRequest[] = [];
  for (let from = 0; from < events.length; from += batch) {
    const parts = events.slice(from, from + batch);
    const body = Buffer.from(batch === 1 ? parts[0]!.text : `[${parts.map((event) => event.text).join(',')}]`);
    const head = Buffer.from(
      `POST ${batch === 1 ? '/v1/events' : '/v1/events/batch'} HTTP/1.1\r\nHost: ${host}:${port}\r\n` +
        `Authorization: Bearer ${token}\r\nContent-Type: application/json\r\nContent-Length: ${body.length}\r\n\r\n`,
    );
    const marks: number[] = [];
    let at = head.length + (batch === 1 ? 0 : 1);
    for (const event of parts) {
      marks.push(at + event.markInText);
      at += Buffer.byteLength(event.text) + 1;
    }
    requests.push({ bytes: Buffer.concat([head, body]), tokenAt: head.indexOf(token), marks });
  }
  return requests;
}

function checkReceipt(answer: Answer): void {
  if (answer.status !== 201) throw unexpected(answer);
}

function checkBatch(answer: Answer, items: number | undefined): void {
  if (answer.status !== 200 || !answer.body.includes('"errors":false')) throw unexpected(answer);
  if (items === undefined) return;
  const parsed: { items?: { status?: unknown }[] } = JSON.parse(answer.body.toString('utf8'));
  if (parsed.items?.length !== items || parsed.items.some((item) => item.status !== 201)) throw unexpected(answer);
}

/** An answer that is not what a stored event gets. Of a long one the first refused item matters, not its receipts. */
export function unexpected({ status, body }: Answer): Error {
  const text = body.toString('utf8');
  const refused = text.search(/"status":(?!20)\d/);
  return new Error(`the service answered ${status}: ${text.slice(Math.max(0, refused - 20)).slice(0, 2000)}`);
}

/** A keep-alive connection with one request in flight. It knows only answers with a Content-Length. */
export class HttpConnection {
  /** The server has said that it closes, or has closed: open another for the next request. */
  closed = false;
  readonly #socket: Socket;
  #resolve: ((answer: Answer) => void) | undefined;
  #reject: ((error: Error) => void) | undefined;
  #chunks: Buffer[] = [];
  #received = 0;
  #expected: number | undefined;
  #status = 0;
  #bodyAt = 0;

  private constructor(socket: Socket) {
    this.#socket = socket;
    socket.setNoDelay(true);
    socket.on('data', (chunk: Buffer) => this.#onData(chunk));
    socket.on('error', (error) => this.#fail(error));
    socket.on('close', () => this.#fail(new Error('the service closed the connection without an answer')));
  }

  static open(host: string, port: number): Promise<HttpConnection> {
    return new Promise((resolve, reject) => {
      const socket = connect({ host, port }, () => {
        socket.off('error', reject);
        resolve(new HttpConnection(socket));
      });
      socket.once('error', reject);
    });
  }

  send(bytes: Buffer): Promise<Answer> {
    assert(this.#resolve === undefined, 'one request at a time');
    return new Promise((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
      this.#socket.write(bytes);
    });
  }

  close(): void {
    this.#socket.destroy();
  }

  #onData(chunk: Buffer): void {
    this.#chunks.push(chunk);
    this.#received += chunk.length;
    if (this.#expected === undefined && !this.#readHead()) return;
    if (this.#received < this.#expected!) return;
    const whole = this.#chunks.length === 1 ? this.#chunks[0]! : Buffer.concat(this.#chunks);
    const answer = { status: this.#status, body: whole.subarray(this.#bodyAt, this.#expected) };
    const resolve = this.#resolve;
    this.#chunks = [];
    this.#received = 0;
    this.#expected = undefined;
    this.#resolve = this.#reject = undefined;
    resolve?.(answer);
  }

  /** Whether the head has arrived. */
  #readHead(): boolean {
    if (this.#chunks.length > 1) this.#chunks = [Buffer.concat(this.#chunks)];
    const bytes = this.#chunks[0]!;
    const end = bytes.indexOf('\r\n\r\n');
    if (end === -1) return false;
    const head = bytes.toString('latin1', 0, end).toLowerCase();
    const length = /\r\ncontent-length: *(\d+)/.exec(head);
    if (length === null) {
      this.#fail(new Error(`an answer without a content-length: ${head}`));
      this.#socket.destroy();
      return false;
    }
    this.#status = Number(head.slice(9, 12));
    this.#bodyAt = end + 4;
    this.#expected = this.#bodyAt + Number(length[1]);
    if (head.includes('\r\nconnection: close')) this.closed = true;
    return true;
  }

  #fail(error: Error): void {
    this.closed = true;
    const reject = this.#reject;
    this.#resolve = this.#reject = undefined;
    reject?.(error);
  }
}
