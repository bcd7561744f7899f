/**
 * Splunk's HTTP Event Collector (HEC), its event endpoint.
 *
 *     POST <url>/services/collector/event     {"time":1755865200.123,"host":…,"event":{…},"fields":{…}}{"time":…}…
 *     Authorization: Splunk <token>
 *
 * Entries are JSON objects one behind the other: no array, no commas. Each carries its stream, seq and hash as indexed fields, by which
 * what came twice is told (`dedup sealog_hash`).
 *
 * An answer has a code besides its status, and the code counts: 24 and 25 are warnings and taken, 17 is the answer of another endpoint. HEC
 * names the first event that it can not read (`invalid-event-number`); Splunk does not say whether those before it were indexed, and not
 * everybody who speaks HEC counts from 0, so that event is sent again alone before it is called refused.
 *
 * With `acknowledge`, an entry is delivered when Splunk says that it is indexed: without, when Splunk has it in memory. Requests go in a
 * channel of this transport, and several are under way before the acknowledgements are asked for.
 */
import { randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { isJsonObject, type JsonMembers, parseJsonObject } from '../../http/json-object.ts';
import type { OutgoingAnswer } from '../../http/outgoing.ts';
import { cefText } from '../cef.ts';
import {
  flag,
  headerText,
  type MembersOf,
  oneOf,
  optional,
  secret,
  TLS_MEMBERS,
  text,
  token,
  under,
  url,
  withDefault,
} from '../config-members.ts';
import { ENTRY_FORMATS, type EntryFormat, eventTimeMs, writeAround, writerOf } from '../entry-format.ts';
import { type ExportedEntry, textOf, type WriteEntry } from '../exported-entry.ts';
import { judgeStatus, notUnderstood, statusError, type Verdict } from '../http-answers.ts';
import { HttpCalls, type HttpSinkDeps } from '../http-calls.ts';
import { type Dialect, HttpTransport } from '../http-transport.ts';
import { type Transport, TransportError } from '../transport.ts';
import { safeJson } from '../unsafe-characters.ts';

export const SPLUNK_HEC_MEMBERS = {
  /** `https://splunk.example:8088`, or on Splunk Cloud `https://http-inputs-<host>.splunkcloud.com`. */
  url: url({ isBase: true }),
  token: secret(token(256)),
  format: withDefault(oneOf(...ENTRY_FORMATS), 'json'),
  /** Undefined = the token's. */
  index: optional(text(/^[a-z0-9_][a-z0-9_-]{0,79}$/, 'the name of an index: a-z, 0-9, _ and -')),
  /** Undefined = `_json`, of CEF `cef`. */
  sourcetype: optional(headerText(128)),
  /** Undefined = the host that the event names, else its service. */
  host: optional(headerText(255)),
  source: withDefault(headerText(255), 'sealog'),
  acknowledge: withDefault(flag(), false),
  gzip: withDefault(flag(), true),
  ...TLS_MEMBERS,
} as const;

export type SplunkHecConfig = MembersOf<typeof SPLUNK_HEC_MEMBERS>;

/** Splunk's own limit is larger; other shippers send up to this. */
const REQUEST_BYTES_MAX = 1_000_000;
const REQUEST_MESSAGES_MAX = 1000;
/** With acknowledgements a delivery waits for seconds: it should be worth it. */
const ACKNOWLEDGED_REQUESTS = 16;
const ANSWER_BYTES_MAX = 64 * 1024;

/** What a code says, of those that HEC documents, and whose matter it is. */
interface Code {
  readonly words: string;
  readonly means: 'taken' | 'warning' | 'credential' | 'setting' | 'content' | 'busy' | 'other';
}

export const HEC_CODES: Readonly<Record<number, Code>> = {
  0: { words: 'success', means: 'taken' },
  1: { words: 'the token is disabled', means: 'credential' },
  2: { words: 'a token is required', means: 'credential' },
  3: { words: 'the authorization is not valid', means: 'credential' },
  4: { words: 'the token is not known', means: 'credential' },
  5: { words: 'no data', means: 'content' },
  6: { words: 'the data format is not valid', means: 'content' },
  7: { words: 'the token may not write to this index', means: 'setting' },
  8: { words: 'internal server error', means: 'busy' },
  9: { words: 'the server is busy', means: 'busy' },
  10: { words: 'the channel is missing', means: 'setting' },
  11: { words: 'the channel is not valid', means: 'setting' },
  12: { words: 'an event is required', means: 'content' },
  13: { words: 'the event is blank', means: 'content' },
  14: { words: 'acknowledgement is disabled for the token', means: 'setting' },
  15: { words: 'the indexed fields are not taken', means: 'content' },
  16: { words: 'authorization in the query is not enabled', means: 'setting' },
  17: { words: 'the collector is healthy', means: 'other' },
  18: { words: 'the queues are full', means: 'busy' },
  19: { words: 'the acknowledgement service is not available', means: 'busy' },
  20: { words: 'the queues are full, and the acknowledgement service is not available', means: 'busy' },
  21: { words: 'the token is not valid', means: 'credential' },
  22: { words: 'the token is disabled', means: 'credential' },
  23: { words: 'the server is shutting down', means: 'busy' },
  24: { words: 'the queue is nearly full', means: 'warning' },
  25: { words: 'the acknowledgement channel is nearly full', means: 'warning' },
  26: { words: 'the queue is full', means: 'busy' },
  27: { words: 'the acknowledgement channel is full', means: 'busy' },
};

export function splunkHecTransport(config: SplunkHecConfig, deps: HttpSinkDeps): Transport {
  const calls = new HttpCalls(deps, config);
  return new HttpTransport(new SplunkHec(config, calls), calls);
}

class SplunkHec implements Dialect {
  readonly url: string;
  readonly gzip: boolean;
  readonly framing = { before: '', between: '', after: '' };
  readonly requestMessagesMax = REQUEST_MESSAGES_MAX;
  readonly requestBytesMax = REQUEST_BYTES_MAX;
  readonly requestsABatch: number;
  readonly answerBytesMax = ANSWER_BYTES_MAX;
  readonly #config: SplunkHecConfig;
  readonly #calls: HttpCalls;
  readonly #where: string;
  readonly #channel = randomUUID();
  readonly #write: WriteEntry;

  constructor(config: SplunkHecConfig, calls: HttpCalls) {
    this.url = endpoint(config, '/event');
    this.gzip = config.gzip;
    this.requestsABatch = config.acknowledge ? ACKNOWLEDGED_REQUESTS : 1;
    this.#config = config;
    this.#calls = calls;
    this.#where = new URL(this.url).origin;
    this.#write = config.format === 'cef' ? cefAsJson : writerOf(config.format);
  }

  encode(exported: ExportedEntry): Uint8Array {
    const { entry, stream } = exported;
    const { source } = entry.record;
    const { index, sourcetype, host, source: from, format } = this.#config;
    const meta = JSON.stringify({
      host: host ?? textOf(source, 'host') ?? textOf(source, 'service') ?? 'sealog',
      source: from,
      sourcetype: sourcetype ?? SOURCETYPES[format],
      index,
      fields: {
        sealog_id: entry.record.id,
        sealog_stream: stream.name,
        sealog_seq: String(entry.record.seq),
        sealog_hash: entry.hash,
      },
    });
    const time = (eventTimeMs(exported) / 1000).toFixed(3);
    const before = `{"time":${time},${safeJson(meta).slice(1, -1)},"event":`;
    return writeAround(exported, this.#write, REQUEST_BYTES_MAX, before, '}');
  }

  headers(): Record<string, string> {
    return {
      'content-type': 'application/json',
      authorization: `Splunk ${this.#config.token}`,
      ...(this.#config.acknowledge ? { 'x-splunk-request-channel': this.#channel } : {}),
    };
  }

  judge(answer: OutgoingAnswer): Verdict {
    const reply = parseJsonObject(answer.body);
    const code = integerOf(reply, 'code');
    const known = code === undefined ? undefined : HEC_CODES[code];
    if (answer.status >= 200 && answer.status < 300) return this.#taken(reply, code, known);
    if (known === undefined) return judgeStatus(answer, this.#where, this.#calls.wallClock());
    const words = `code ${code}: ${known.words}`;
    if (known.means === 'content' && answer.status === 400) {
      const named = integerOf(reply, 'invalid-event-number');
      return { kind: 'content', reason: `${this.#where}: answered 400 to this entry alone, ${words}`, named };
    }
    const error = statusError(answer, this.#where, this.#calls.wallClock(), words);
    // HEC says so of a token with 400 too.
    if (known.means === 'credential') throw new TransportError('unauthorized', error.message, error.retryAfterMs);
    throw error;
  }

  #taken(reply: JsonMembers | undefined, code: number | undefined, known: Code | undefined): Verdict {
    if (known?.means !== 'taken' && known?.means !== 'warning') {
      const said = known === undefined ? 'no code of HEC' : `code ${code}: ${known.words}`;
      throw notUnderstood(this.#where, `answered success with ${said}`);
    }
    if (known.means === 'warning') this.#calls.warn({ to: this.#where, code }, `Splunk warns: ${known.words}`);
    const words = `code ${code}: ${known.words}`;
    if (!this.#config.acknowledge) return { kind: 'taken', words };
    const receipt = integerOf(reply, 'ackId');
    if (receipt === undefined)
      throw new TransportError(
        'protocol',
        `${this.#where}: took the entries without an ackId: is acknowledgement enabled for the token?`,
      );
    return { kind: 'taken', receipt, words };
  }

  /** Asks until all are there or the time is over. A question that fails is asked again, unless the token is refused. */
  async confirm(receipts: readonly number[], signal: AbortSignal): Promise<ReadonlySet<number>> {
    const { confirmMs, confirmEveryMs } = this.#calls.timing;
    const until = performance.now() + confirmMs;
    const confirmed = new Set<number>();
    while (performance.now() < until) {
      try {
        for (const receipt of await this.#acknowledged(
          receipts.filter((one) => !confirmed.has(one)),
          signal,
        ))
          confirmed.add(receipt);
      } catch (error) {
        if (!(error instanceof TransportError) || error.reason === 'stopped' || error.reason === 'unauthorized')
          throw error;
      }
      if (confirmed.size === receipts.length) break;
      await sleep(confirmEveryMs, undefined, { signal }).catch(() => {
        throw new TransportError('stopped', `${this.#where}: the delivery was stopped`);
      });
    }
    return confirmed;
  }

  async #acknowledged(receipts: readonly number[], signal: AbortSignal): Promise<number[]> {
    const answer = await this.#calls.post(
      `${endpoint(this.#config, '/ack')}?channel=${this.#channel}`,
      {
        headers: this.headers(),
        body: Buffer.from(JSON.stringify({ acks: receipts })),
        answerBytesMax: ANSWER_BYTES_MAX,
      },
      signal,
    );
    if (answer.status !== 200) throw statusError(answer, this.#where, this.#calls.wallClock());
    const acks = parseJsonObject(answer.body)?.['acks'];
    return isJsonObject(acks) ? receipts.filter((receipt) => acks[String(receipt)] === true) : [];
  }
}

const SOURCETYPES: Readonly<Record<EntryFormat, string>> = { json: '_json', ocsf: '_json', cef: 'cef' };

function endpoint({ url }: SplunkHecConfig, path: '/event' | '/ack'): string {
  return under(url, `/services/collector${path}`, /\/services\/collector(?:\/(?:event|raw))?(?:\/1\.0)?$/);
}

/** CEF is a text in JSON here; its own maxima keep it far below any request's. */
function cefAsJson(exported: ExportedEntry): string {
  return safeJson(JSON.stringify(cefText(exported)));
}

function integerOf(reply: JsonMembers | undefined, name: string): number | undefined {
  const value = reply?.[name];
  return Number.isSafeInteger(value) && (value as number) >= 0 ? (value as number) : undefined;
}
