/**
 * Sumo Logic's HTTP source: entries as lines, to a URL that is itself the credential. So the URL is kept and told as a secret is:
 * errors name its host alone.
 */
import {
  flag,
  headerText,
  type Member,
  type MembersOf,
  oneOf,
  optional,
  secret,
  TLS_MEMBERS,
  url,
  withDefault,
} from '../config-members.ts';
import { ENTRY_FORMATS, writeAround, writerOf } from '../entry-format.ts';
import { judgeOnly } from '../http-answers.ts';
import { HttpCalls, type HttpSinkDeps } from '../http-calls.ts';
import { HttpTransport } from '../http-transport.ts';
import type { Transport } from '../transport.ts';

export const SUMO_LOGIC_MEMBERS = {
  url: secret(url({ isBase: false, httpsOnly: true })),
  format: withDefault(oneOf(...ENTRY_FORMATS), 'json'),
  /** What Sumo files the lines under. */
  sourceName: withDefault(headerText(), 'sealog'),
  sourceHost: optional(headerText()),
  sourceCategory: optional(headerText()),
  /** `name=value,name=value`. */
  fields: optional(fieldsText()),
  gzip: withDefault(flag(), true),
  ...TLS_MEMBERS,
} as const;

export type SumoLogicConfig = MembersOf<typeof SUMO_LOGIC_MEMBERS>;

/** Sumo asks for 100 KB to 1 MB before compression. */
const REQUEST_BYTES_MAX = 1_000_000;
const REQUEST_MESSAGES_MAX = 5000;
const ANSWER_BYTES_MAX = 64 * 1024;
const FRAMING = { before: '', between: '\n', after: '\n' };

export function sumoLogicTransport(config: SumoLogicConfig, deps: HttpSinkDeps): Transport {
  const calls = new HttpCalls(deps, config);
  const where = new URL(config.url).origin;
  const write = writerOf(config.format);
  const headers = {
    'content-type': config.format === 'cef' ? 'text/plain; charset=utf-8' : 'application/json',
    'x-sumo-name': config.sourceName,
    ...(config.sourceHost === undefined ? {} : { 'x-sumo-host': config.sourceHost }),
    ...(config.sourceCategory === undefined ? {} : { 'x-sumo-category': config.sourceCategory }),
    ...(config.fields === undefined ? {} : { 'x-sumo-fields': config.fields }),
  };
  return new HttpTransport(
    {
      url: config.url,
      gzip: config.gzip,
      framing: FRAMING,
      requestMessagesMax: REQUEST_MESSAGES_MAX,
      requestBytesMax: REQUEST_BYTES_MAX,
      requestsABatch: 1,
      answerBytesMax: ANSWER_BYTES_MAX,
      encode: (exported) => writeAround(exported, write, REQUEST_BYTES_MAX - FRAMING.after.length, '', ''),
      headers: () => headers,
      judge: (answer) => judgeOnly(200, answer, where, calls.wallClock()),
    },
    calls,
  );
}

function fieldsText(): Member<string> {
  const line = headerText();
  const pairs = /^[\w.-]+=[^=,]+(?:,[\w.-]+=[^=,]+)*$/;
  return {
    isSecret: false,
    read: (value) => {
      const read = line.read(value);
      return 'value' in read && !pairs.test(read.value) ? { problem: 'must be name=value,name=value' } : read;
    },
  };
}
