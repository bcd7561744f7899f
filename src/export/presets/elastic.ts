/**
 * Elasticsearch's bulk endpoint, into a data stream (or an index).
 *
 *     POST <url>/<data stream>/_bulk      {"create":{"_id":"<the entry's hash>"}}
 *                                         {"@timestamp":…,"event":{…},"sealog":{…}}
 *                                         …                                            (and a line end behind the last)
 *
 * A data stream takes `create` alone. The id is the entry's hash, which stands for its stream, its seq and all that it says: what comes
 * twice meets itself, and its 409 is a delivery. (Once a data stream has rolled over, its older index is not looked at: then there can be two, alike.)
 *
 * The answer is 200 whatever became of the documents: each has its own status, and each is looked at.
 */

import type { FieldError } from '../../errors.ts';
import { isJsonObject, parseJsonObject } from '../../http/json-object.ts';
import type { OutgoingAnswer } from '../../http/outgoing.ts';
import {
  flag,
  type MembersOf,
  oneOf,
  optional,
  secret,
  TLS_MEMBERS,
  text,
  tlsErrors,
  token,
  under,
  url,
  withDefault,
} from '../config-members.ts';
import { ecsText } from '../ecs.ts';
import { writeAround } from '../entry-format.ts';
import { judgeOnly, notUnderstood, type Verdict } from '../http-answers.ts';
import { HttpCalls, type HttpSinkDeps } from '../http-calls.ts';
import { HttpTransport } from '../http-transport.ts';
import type { Fate, Message, Transport } from '../transport.ts';

export const ELASTIC_MEMBERS = {
  url: url({ isBase: true }),
  /** `json`: documents of the Elastic Common Schema. */
  format: withDefault(oneOf('json'), 'json'),
  /** As Elasticsearch shows it: encoded, ready for the header. */
  apiKey: secret(optional(token(1024))),
  basicUser: optional(text(/^[^\p{Cc}:]{1,256}$/u, '1 to 256 characters without a colon')),
  basicPassword: secret(optional(text(/^\P{Cc}{1,1024}$/u, '1 to 1024 characters'))),
  dataStream: withDefault(
    text(/^[a-z0-9][a-z0-9_.-]{0,199}$/, 'the name of a data stream or index: a-z, 0-9, _, - and dots'),
    'logs-sealog.audit-default',
  ),
  pipeline: optional(text(/^[A-Za-z0-9_.-]{1,200}$/, 'the name of an ingest pipeline: A-Z, a-z, 0-9, _, - and dots')),
  gzip: withDefault(flag(), true),
  ...TLS_MEMBERS,
} as const;

export type ElasticConfig = MembersOf<typeof ELASTIC_MEMBERS>;

/** Of 100 MB. Elastic advises a few megabytes. */
const REQUEST_BYTES_MAX = 5_000_000;
const REQUEST_MESSAGES_MAX = 2000;
/** A line of an answer has some 150 bytes with what is asked for, and a word more where something is wrong. */
const ANSWER_BYTES_MAX = 4_000_000;

export function elasticErrors(config: ElasticConfig): FieldError[] {
  const { apiKey, basicUser, basicPassword } = config;
  const errors = tlsErrors(config);
  if ((basicUser === undefined) !== (basicPassword === undefined))
    errors.push({ field: 'basicUser', message: 'and basicPassword go together' });
  if ((apiKey === undefined) === (basicUser === undefined))
    errors.push({ field: 'apiKey', message: 'or basicUser and basicPassword: one of the two is needed' });
  return errors;
}

export function elasticTransport(config: ElasticConfig, deps: HttpSinkDeps): Transport {
  const calls = new HttpCalls(deps, config);
  const where = new URL(config.url).origin;
  const { apiKey, basicUser, basicPassword, dataStream, pipeline } = config;
  const authorization =
    apiKey === undefined
      ? `Basic ${Buffer.from(`${basicUser}:${basicPassword}`).toString('base64')}`
      : `ApiKey ${apiKey}`;
  const wanted = 'filter_path=errors,items.*._id,items.*.status,items.*.error.type';
  const query = pipeline === undefined ? wanted : `${wanted}&pipeline=${pipeline}`;
  return new HttpTransport(
    {
      url: `${under(config.url, `/${dataStream}/_bulk`, /\/_bulk$/)}?${query}`,
      gzip: config.gzip,
      framing: { before: '', between: '', after: '' },
      requestMessagesMax: REQUEST_MESSAGES_MAX,
      requestBytesMax: REQUEST_BYTES_MAX,
      requestsABatch: 1,
      answerBytesMax: ANSWER_BYTES_MAX,
      encode: (exported) => {
        const action = `{"create":{"_id":"${exported.entry.hash}"}}\n`;
        return writeAround(exported, ecsText, REQUEST_BYTES_MAX, action, '\n');
      },
      headers: () => ({ 'content-type': 'application/x-ndjson', authorization }),
      judge: (answer, messages) =>
        answer.status === 200 ? judgeItems(answer, messages, where) : judgeOnly(200, answer, where, calls.wallClock()),
    },
    calls,
  );
}

function judgeItems(answer: OutgoingAnswer, messages: readonly Message[], where: string): Verdict {
  const items = parseJsonObject(answer.body)?.['items'];
  if (!Array.isArray(items) || items.length !== messages.length)
    throw notUnderstood(where, `answered 200 without a line for each of ${messages.length} documents`);
  return { kind: 'fates', fates: items.map((item: unknown, index) => fateOf(item, messages[index]!, where)) };
}

function fateOf(item: unknown, { hash }: Message, where: string): Fate {
  const result = isJsonObject(item) ? item['create'] : undefined;
  if (!isJsonObject(result) || !Number.isSafeInteger(result['status']))
    throw notUnderstood(where, 'answered 200 with a line that is no result of create');
  if (result['_id'] !== undefined && result['_id'] !== hash)
    throw notUnderstood(where, 'answered 200 with a line for another document');
  const status = result['status'] as number;
  // 409: its id is there already, and the id is its hash.
  if ((status >= 200 && status < 300) || status === 409) return { kind: 'delivered' };
  const error = isJsonObject(result['error']) ? result['error']['type'] : undefined;
  // Only the name of the error: its reason quotes the document.
  const named = typeof error === 'string' && /^[a-z_]{1,80}$/.test(error) ? ` (${error})` : '';
  const reason = `${where}: answered ${status} to the document${named}`;
  return status === 400 ? { kind: 'refused', reason } : { kind: 'again', reason };
}
