/**
 * Deliveries over HTTP: entries become requests, and answers become fates. What a destination's requests look like and what its answers
 * mean, its dialect says; what follows from that is here, alike for all.
 *
 * - Requests go one after the other, in the order of the entries. Where one is not taken, nothing behind it is sent.
 * - No answer, half an answer, and an answer that says nothing of the entries leave all of them undelivered: they go again.
 * - An entry is refused only when the destination refused it alone (or named it in an answer that has a line for each). So where a
 *   request of several is not taken for what is in it, it goes again in halves, the first half first, until one entry is left: log₂ n
 *   requests, some entries more than once, and none is passed over.
 * - What is too large at once goes in smaller requests from then on.
 */
import assert from 'node:assert/strict';
import type { OutgoingAnswer } from '../http/outgoing.ts';
import type { ExportedEntry } from './exported-entry.ts';
import type { Verdict } from './http-answers.ts';
import type { HttpCalls } from './http-calls.ts';
import { testEntry } from './test-entry.ts';
import { type Fate, type Message, messageOf, type Transport, TransportError } from './transport.ts';

export interface Dialect {
  readonly url: string;
  readonly gzip: boolean;
  readonly framing: Framing;
  /** Of a request, its body before compression. */
  readonly requestMessagesMax: number;
  readonly requestBytesMax: number;
  /** That are handed over at once. */
  readonly requestsABatch: number;
  readonly answerBytesMax: number;
  /** Throws a TooLongError. */
  encode(exported: ExportedEntry): Uint8Array;
  /** All but those of `authorization`. */
  headers(messages: readonly Message[], body: Uint8Array): Readonly<Record<string, string>>;
  /** Of those credentials that are made for a while. */
  readonly authorization?: Authorization;
  /** Throws a TransportError where the answer says nothing of the entries. */
  judge(answer: OutgoingAnswer, messages: readonly Message[]): Verdict;
  /** Returns those of the receipts that the peer has confirmed, after some time. Rejects with a TransportError. */
  confirm?(receipts: readonly number[], signal: AbortSignal): Promise<ReadonlySet<number>>;
}

/** What stands around the payloads of a body. */
export interface Framing {
  readonly before: string;
  readonly between: string;
  readonly after: string;
}

export interface Authorization {
  /** Returns the value of the header. Rejects with a TransportError. */
  get(signal: AbortSignal): Promise<string>;
  /** This one was not taken. */
  forget(value: string): void;
}

/** A run of the batch's messages. */
interface Piece {
  readonly from: number;
  readonly to: number;
  /** It holds what was not taken: to send it as a whole would tell nothing new. */
  readonly isSuspect?: boolean;
  /** Beside one that the peer named: it is not asked to name another, since that may have no end. */
  readonly isBesideNamed?: boolean;
}

interface Sent {
  readonly verdict: Verdict;
  readonly status: number;
}

const DELIVERED: Fate = { kind: 'delivered' };

/** Of a batch of several requests: it is held in memory. */
const BATCH_BYTES_MAX = 16_000_000;

export class HttpTransport implements Transport {
  readonly batchMessagesMax: number;
  readonly batchBytesMax: number;
  readonly #dialect: Dialect;
  readonly #calls: HttpCalls;
  readonly #where: string;
  readonly #frame: { readonly before: Buffer; readonly between: Buffer; readonly after: Buffer };
  /** Of a body: less than the dialect's after the peer said that it was too much. */
  #bytesMax: number;

  constructor(dialect: Dialect, calls: HttpCalls) {
    const { framing, requestMessagesMax, requestBytesMax, requestsABatch } = dialect;
    this.#dialect = dialect;
    this.#calls = calls;
    this.#where = new URL(dialect.url).origin;
    this.#frame = {
      before: Buffer.from(framing.before),
      between: Buffer.from(framing.between),
      after: Buffer.from(framing.after),
    };
    this.#bytesMax = requestBytesMax;
    const payloadBytesMax = requestBytesMax - frameBytes(framing, requestMessagesMax);
    assert(payloadBytesMax > 0, 'a request has room for payloads');
    this.batchMessagesMax = requestMessagesMax * requestsABatch;
    this.batchBytesMax = Math.max(payloadBytesMax, Math.min(payloadBytesMax * requestsABatch, BATCH_BYTES_MAX));
  }

  encode(exported: ExportedEntry): Uint8Array {
    return this.#dialect.encode(exported);
  }

  async deliver(batch: readonly Message[], signal: AbortSignal): Promise<readonly Fate[]> {
    const until = performance.now() + this.#calls.timing.deliveryMs;
    const fates = new Array<Fate | undefined>(batch.length).fill(undefined);
    const receipts = new Map<number, Piece[]>();
    /** Of all that have none behind the place where it stopped. */
    let rest: Fate | undefined;
    /** Those of a request that was not taken as a whole, the first on top. */
    const pieces: Piece[] = [];
    let next = 0;
    while (rest === undefined) {
      const piece = pieces.pop() ?? this.#nextPiece(batch, next);
      if (piece === undefined) break;
      next = Math.max(next, piece.to);
      if (piece.isSuspect === true && piece.to - piece.from > 1) {
        pieces.push(...halvesOf(piece));
        continue;
      }
      if (piece.from > 0 && performance.now() > until) {
        rest = again(`${this.#where}: takes entries too slowly for a whole batch`);
        break;
      }
      let sent: Sent;
      try {
        sent = await this.#send(batch.slice(piece.from, piece.to), signal);
      } catch (error) {
        if (!(error instanceof TransportError) || isUntouched(fates, receipts)) throw error;
        rest = againAfter(error);
        break;
      }
      const { verdict } = sent;
      switch (verdict.kind) {
        case 'taken':
          if (verdict.receipt === undefined) fates.fill(DELIVERED, piece.from, piece.to);
          else receipts.set(verdict.receipt, [...(receipts.get(verdict.receipt) ?? []), piece]);
          break;
        case 'fates':
          assert(verdict.fates.length === piece.to - piece.from, 'a fate for each message');
          for (const [index, fate] of verdict.fates.entries()) fates[piece.from + index] = fate;
          rest = behind(verdict.fates);
          break;
        case 'content':
          if (piece.to - piece.from > 1) {
            pieces.push(
              ...(verdict.named === undefined || piece.isBesideNamed ? halvesOf(piece) : around(piece, verdict.named)),
            );
          } else {
            fates[piece.from] = { kind: 'refused', reason: verdict.reason };
            rest = BEHIND_REFUSED;
          }
          break;
        case 'too_large':
          if (piece.to - piece.from > 1) {
            this.#bytesMax = Math.floor(payloadBytes(batch, piece) / 2);
            pieces.length = 0;
            next = piece.from;
          } else {
            fates[piece.from] = { kind: 'refused', reason: verdict.reason };
            rest = BEHIND_REFUSED;
          }
          break;
        default: {
          const never: never = verdict;
          throw never;
        }
      }
    }
    await this.#confirm(receipts, fates, signal);
    return fates.map((own) => {
      const fate = own ?? rest;
      assert(fate !== undefined, 'an entry would be taken for delivered that nobody spoke of');
      return fate;
    });
  }

  async test(signal: AbortSignal): Promise<string> {
    const begin = performance.now();
    const exported = testEntry(this.#calls.wallClock());
    const { verdict, status } = await this.#send([messageOf(exported, this.encode(exported))], signal);
    if (verdict.kind === 'content' || verdict.kind === 'too_large') throw new TransportError('refused', verdict.reason);
    if (verdict.kind === 'fates') {
      const fate = verdict.fates[0]!;
      if (fate.kind !== 'delivered') throw new TransportError('refused', fate.reason);
    }
    let words = verdict.words;
    if (verdict.kind === 'taken' && verdict.receipt !== undefined) {
      const confirmed = await this.#dialect.confirm!([verdict.receipt], signal);
      if (!confirmed.has(verdict.receipt)) throw unconfirmed(this.#where, this.#calls.timing.confirmMs);
      words = words === undefined ? 'acknowledged' : `${words}, acknowledged`;
    }
    const said = words === undefined ? '' : `, ${words}`;
    return `${this.#where}: took the test message (HTTP ${status}${said}, ${Math.round(performance.now() - begin)} ms)`;
  }

  close(): void {
    this.#calls.close();
  }

  /** Returns the messages from a place on that one request takes: one at least. */
  #nextPiece(batch: readonly Message[], from: number): Piece | undefined {
    if (from >= batch.length) return undefined;
    const { before, between, after } = this.#frame;
    let bytes = before.length + after.length;
    let to = from;
    while (to < batch.length && to - from < this.#dialect.requestMessagesMax) {
      bytes += batch[to]!.payload.length + (to === from ? 0 : between.length);
      if (to > from && bytes > this.#bytesMax) break;
      to += 1;
    }
    return { from, to };
  }

  async #send(messages: readonly Message[], signal: AbortSignal): Promise<Sent> {
    const { url, gzip, answerBytesMax, authorization } = this.#dialect;
    const body = this.#bodyOf(messages);
    const headers = this.#dialect.headers(messages, body);
    const post = (more: Readonly<Record<string, string>>): Promise<OutgoingAnswer> =>
      this.#calls.post(url, { headers: { ...headers, ...more }, body, gzip, answerBytesMax }, signal);
    let answer: OutgoingAnswer;
    if (authorization === undefined) {
      answer = await post({});
    } else {
      const first = await authorization.get(signal);
      answer = await post({ authorization: first });
      if (answer.status === 401) {
        // It may have been taken back before its time: a new one tells.
        authorization.forget(first);
        answer = await post({ authorization: await authorization.get(signal) });
      }
    }
    return { verdict: this.#dialect.judge(answer, messages), status: answer.status };
  }

  #bodyOf(messages: readonly Message[]): Uint8Array {
    const { before, between, after } = this.#frame;
    const chunks: Uint8Array[] = [before];
    for (const [index, { payload }] of messages.entries()) {
      if (index > 0) chunks.push(between);
      chunks.push(payload);
    }
    chunks.push(after);
    return Buffer.concat(chunks);
  }

  /** Gives a fate to what the peer has, but did not call safe yet. */
  async #confirm(
    receipts: ReadonlyMap<number, readonly Piece[]>,
    fates: (Fate | undefined)[],
    signal: AbortSignal,
  ): Promise<void> {
    if (receipts.size === 0) return;
    let confirmed: ReadonlySet<number> = new Set();
    let other = againAfter(unconfirmed(this.#where, this.#calls.timing.confirmMs));
    try {
      confirmed = await this.#dialect.confirm!([...receipts.keys()], signal);
    } catch (error) {
      if (!(error instanceof TransportError)) throw error;
      other = againAfter(error);
    }
    for (const [receipt, pieces] of receipts) {
      // A receipt that was given twice says of neither request that it is safe.
      const fate = pieces.length === 1 && confirmed.has(receipt) ? DELIVERED : other;
      for (const { from, to } of pieces) fates.fill(fate, from, to);
    }
  }
}

/** Returns the halves of a piece that was not taken, the second one first. */
function halvesOf({ from, to, isBesideNamed = false }: Piece): [Piece, Piece] {
  const middle = from + Math.ceil((to - from) / 2);
  // The second half is looked at only when the first was taken: then what was not is in it.
  return [
    { from: middle, to, isBesideNamed, isSuspect: true },
    { from, to: middle, isBesideNamed },
  ];
}

/** Returns what is behind the named message, it alone, and what is before it. Where the peer counts from one, it names the one behind. */
function around({ from, to }: Piece, named: number): Piece[] {
  const at = Math.min(from + named, to - 1);
  const pieces: Piece[] = [
    { from: at + 1, to, isBesideNamed: true },
    { from: at, to: at + 1 },
    { from, to: at, isBesideNamed: true },
  ];
  return pieces.filter((piece) => piece.from < piece.to);
}

const BEHIND_REFUSED = again('behind an entry that is refused');

function behind(fates: readonly Fate[]): Fate | undefined {
  const stopper = fates.find(({ kind }) => kind !== 'delivered');
  return stopper?.kind === 'refused' ? BEHIND_REFUSED : stopper;
}

function again(reason: string, afterMs?: number): Fate {
  return { kind: 'again', reason, afterMs };
}

function againAfter({ message, retryAfterMs }: TransportError): Fate {
  return again(message, retryAfterMs);
}

function unconfirmed(where: string, ms: number): TransportError {
  return new TransportError('timeout', `${where}: took the entries, and did not acknowledge them within ${ms} ms`);
}

function isUntouched(fates: readonly (Fate | undefined)[], receipts: ReadonlyMap<number, unknown>): boolean {
  return receipts.size === 0 && fates.every((fate) => fate === undefined);
}

function payloadBytes(batch: readonly Message[], { from, to }: Piece): number {
  return batch.slice(from, to).reduce((sum, { payload }) => sum + payload.length, 0);
}

function frameBytes({ before, between, after }: Framing, messages: number): number {
  return Buffer.byteLength(before) + Buffer.byteLength(after) + Buffer.byteLength(between) * (messages - 1);
}
