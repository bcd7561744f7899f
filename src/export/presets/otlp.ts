/**
 * OpenTelemetry: log records by OTLP over HTTP, as JSON (lowerCamelCase, 64-bit integers as texts).
 *
 *     POST <url>/v1/logs      {"resourceLogs":[{"resource":{…},"scopeLogs":[{"scope":{…},"logRecords":[ … ]}]}]}
 *
 * `log.record.uid` is the entry's hash: receivers may drop what comes twice by it.
 *
 * **Partial success.** An answer of 200 can say that so many records were rejected, and never says which. The protocol means that for telemetry,
 * where they are counted and forgotten. Here an entry that the receiver does not take has to park its stream, and none may be passed over in silence. So:
 *
 * - One record sent, one rejected: that entry is refused, and not sent again.
 * - Several sent, some rejected: the request goes again in halves until the first that is rejected is found (http-transport.ts). Records beside it
 *   arrive more than once; their `log.record.uid` says so. It is not the same request, which the protocol forbids to repeat, and it ends.
 * - None rejected, a message: a warning.
 */
import { isIP } from 'node:net';
import { partValue } from '../../chain/entry-view.ts';
import type { FieldError } from '../../errors.ts';
import { isJsonObject, parseJsonObject } from '../../http/json-object.ts';
import type { OutgoingAnswer } from '../../http/outgoing.ts';
import {
  flag,
  headers,
  type MembersOf,
  oneOf,
  openHeaders,
  optional,
  secret,
  TLS_MEMBERS,
  tlsErrors,
  token,
  under,
  url,
  withDefault,
} from '../config-members.ts';
import { ENTRY_FORMATS, eventTimeMs, writeAround, writerOf } from '../entry-format.ts';
import { asObject, type ExportedEntry, severityOf, textOf, type WriteEntry } from '../exported-entry.ts';
import { judgeOnly, notUnderstood, type Verdict } from '../http-answers.ts';
import { HttpCalls, type HttpSinkDeps } from '../http-calls.ts';
import { HttpTransport } from '../http-transport.ts';
import { TooLongError } from '../too-long-error.ts';
import type { Message, Transport } from '../transport.ts';
import { safeJson } from '../unsafe-characters.ts';

export const OTLP_MEMBERS = {
  /** The collector's; `/v1/logs` is put behind it. */
  url: url({ isBase: true }),
  format: withDefault(oneOf(...ENTRY_FORMATS), 'json'),
  headers: optional(openHeaders()),
  secretHeaders: secret(optional(headers())),
  bearerToken: secret(optional(token())),
  gzip: withDefault(flag(), true),
  ...TLS_MEMBERS,
} as const;

export type OtlpConfig = MembersOf<typeof OTLP_MEMBERS>;

/** Receivers take some megabytes; gateways in front of them often one. */
const REQUEST_BYTES_MAX = 1_000_000;
const REQUEST_MESSAGES_MAX = 1000;
const ANSWER_BYTES_MAX = 64 * 1024;

const RESOURCE = JSON.stringify({ attributes: [attribute('service.name', 'sealog')] });
const FRAMING = {
  before: `{"resourceLogs":[{"resource":${RESOURCE},"scopeLogs":[{"scope":{"name":"sealog","version":"1"},"logRecords":[`,
  between: ',',
  after: ']}]}]}',
};
const RECORD_BYTES_MAX = REQUEST_BYTES_MAX - FRAMING.before.length - FRAMING.after.length;

export function otlpErrors(config: OtlpConfig): FieldError[] {
  const errors = tlsErrors(config);
  if (config.bearerToken !== undefined && config.secretHeaders?.['authorization'] !== undefined)
    errors.push({ field: 'bearerToken', message: 'and an authorization header are two ways: choose one' });
  return errors;
}

export function otlpTransport(config: OtlpConfig, deps: HttpSinkDeps): Transport {
  const calls = new HttpCalls(deps, config);
  const where = new URL(config.url).origin;
  const fixed = {
    ...config.headers,
    ...config.secretHeaders,
    ...(config.bearerToken === undefined ? {} : { authorization: `Bearer ${config.bearerToken}` }),
    'content-type': 'application/json',
  };
  const write = bodyOf(writerOf(config.format));
  return new HttpTransport(
    {
      url: under(config.url, '/v1/logs', /\/v1\/logs$/),
      gzip: config.gzip,
      framing: FRAMING,
      requestMessagesMax: REQUEST_MESSAGES_MAX,
      requestBytesMax: REQUEST_BYTES_MAX,
      requestsABatch: 1,
      answerBytesMax: ANSWER_BYTES_MAX,
      encode: (exported) => encode(exported, write),
      headers: () => fixed,
      judge: (answer, messages) =>
        answer.status === 200
          ? judgePartial(answer, messages, where, calls)
          : judgeOnly(200, answer, where, calls.wallClock()),
    },
    calls,
  );
}

function judgePartial(
  { body }: OutgoingAnswer,
  messages: readonly Message[],
  where: string,
  calls: HttpCalls,
): Verdict {
  // Nothing at all is the empty message.
  const reply = body.length === 0 ? {} : parseJsonObject(body);
  if (reply === undefined) throw notUnderstood(where, 'answered 200 with something else than the JSON of OTLP');
  const partial = reply['partialSuccess'] ?? {};
  if (!isJsonObject(partial)) throw notUnderstood(where, 'answered 200 with a partialSuccess that is none');
  const rejected = countOf(partial['rejectedLogRecords'] ?? 0);
  if (rejected === undefined || rejected > messages.length)
    throw notUnderstood(where, 'answered 200 with a number of rejected records that can not be');
  if (rejected > 0) return { kind: 'content', reason: `${where}: rejected this entry alone (partialSuccess)` };
  const hasWarning = typeof partial['errorMessage'] === 'string' && partial['errorMessage'] !== '';
  if (hasWarning) calls.warn({ to: where }, 'the OTLP receiver took the entries with a warning');
  return { kind: 'taken' };
}

/** A 64-bit integer is a text in JSON, and of lenient peers a number. */
function countOf(value: unknown): number | undefined {
  if (typeof value === 'string') return /^\d{1,15}$/.test(value) ? Number(value) : undefined;
  return Number.isSafeInteger(value) && (value as number) >= 0 ? (value as number) : undefined;
}

function encode(exported: ExportedEntry, write: WriteEntry): Uint8Array {
  const { entry, stream } = exported;
  const { record } = entry;
  const severity = severityOf(exported);
  const actor = asObject(partValue(entry, 'actor'));
  const ip = textOf(actor, 'ip');
  const head = JSON.stringify({
    timeUnixNano: nanoseconds(eventTimeMs(exported)),
    observedTimeUnixNano: nanoseconds(Date.parse(record.recordedAt)),
    severityNumber: SEVERITIES[severity]![0],
    severityText: SEVERITIES[severity]![1],
    eventName: record.action,
    attributes: [
      attribute('log.record.uid', entry.hash),
      attribute('sealog.id', record.id),
      attribute('sealog.stream', stream.name),
      { key: 'sealog.seq', value: { intValue: String(record.seq) } },
      attribute('sealog.tenant', stream.tenant),
      attribute('sealog.category', stream.category),
      attribute('sealog.action', record.action),
      attribute('sealog.outcome', record.outcome),
      ...some('user.id', textOf(actor, 'id')),
      ...some('user.name', textOf(actor, 'name')),
      ...some('client.address', ip !== undefined && isIP(ip) !== 0 ? ip : undefined),
    ],
  });
  return writeAround(exported, write, RECORD_BYTES_MAX, `${safeJson(head).slice(0, -1)},"body":{"stringValue":`, '}}');
}

/** Returns what writes an entry as a text in JSON, which takes at most twice its length: it has no control characters. */
function bodyOf(write: WriteEntry): WriteEntry {
  return (exported, maxBytes = Number.POSITIVE_INFINITY) => {
    const whole = JSON.stringify(write(exported));
    if (Buffer.byteLength(whole) <= maxBytes) return whole;
    const shorter = JSON.stringify(write(exported, Math.floor(maxBytes / 2) - 2));
    if (Buffer.byteLength(shorter) > maxBytes) throw new TooLongError(Buffer.byteLength(shorter), maxBytes);
    return shorter;
  };
}

function nanoseconds(ms: number): string {
  return `${ms}000000`;
}

function attribute(key: string, value: string): object {
  return { key, value: { stringValue: value } };
}

function some(key: string, value: string | undefined): object[] {
  return value === undefined ? [] : [attribute(key, value)];
}

/** CEF's low, medium, high and very high, as INFO, WARN, ERROR and FATAL. */
const SEVERITIES: readonly (readonly [number, string])[] = [
  ...Array<[number, string]>(4).fill([9, 'INFO']),
  ...Array<[number, string]>(3).fill([13, 'WARN']),
  ...Array<[number, string]>(2).fill([17, 'ERROR']),
  ...Array<[number, string]>(2).fill([21, 'FATAL']),
];
