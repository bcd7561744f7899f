/**
 * A webhook of whoever takes POST requests: 2xx is delivered (http-answers.ts has the rest).
 *
 * Bodies, by `body`: `json-array` (the default), `ndjson`, `concatenated-json`, `json-object` (a request for each entry), and of CEF
 * `text-lines`. With signing secrets each request is signed (standard-webhooks.ts); the libraries for receivers read only bodies that are one JSON text.
 */

import type { FieldError } from '../errors.ts';
import {
  flag,
  headers,
  integer,
  listOf,
  type Member,
  type MembersOf,
  oneOf,
  openHeaders,
  optional,
  secret,
  TLS_MEMBERS,
  text,
  tlsErrors,
  token,
  url,
  withDefault,
} from './config-members.ts';
import { ENTRY_FORMATS, writeAround, writerOf } from './entry-format.ts';
import { judgeStatus } from './http-answers.ts';
import { HttpCalls, type HttpSinkDeps } from './http-calls.ts';
import { type Framing, HttpTransport } from './http-transport.ts';
import { SIGNING_SECRETS_MAX, webhookHeaders, webhookId, webhookKey } from './standard-webhooks.ts';
import type { Transport } from './transport.ts';

const BODIES = ['json-array', 'ndjson', 'concatenated-json', 'json-object', 'text-lines'] as const;

type Body = (typeof BODIES)[number];

const FRAMINGS: Readonly<Record<Body, Framing & { readonly type: string }>> = {
  'json-array': { before: '[', between: ',\n', after: ']', type: 'application/json' },
  ndjson: { before: '', between: '\n', after: '\n', type: 'application/x-ndjson' },
  'concatenated-json': { before: '', between: '', after: '', type: 'application/json' },
  'json-object': { before: '', between: '', after: '', type: 'application/json' },
  'text-lines': { before: '', between: '\n', after: '\n', type: 'text/plain; charset=utf-8' },
};

export const WEBHOOK_MEMBERS = {
  url: url({ isBase: false }),
  format: withDefault(oneOf(...ENTRY_FORMATS), 'json'),
  /** Undefined = `text-lines` of CEF, else `json-array`. */
  body: optional(oneOf(...BODIES)),
  gzip: withDefault(flag(), false),
  headers: optional(openHeaders()),
  secretHeaders: secret(optional(headers())),
  bearerToken: secret(optional(token())),
  basicUser: optional(text(/^[^\p{Cc}:]{1,256}$/u, '1 to 256 characters without a colon')),
  basicPassword: secret(optional(text(/^\P{Cc}{1,1024}$/u, '1 to 1024 characters'))),
  /** The first is the newest. */
  signingSecrets: secret(optional(listOf(signingSecret(), SIGNING_SECRETS_MAX))),
  messagesMax: withDefault(integer(1, 10_000), 1000),
  bytesMax: withDefault(integer(100_000, 16_000_000), 1_000_000),
  ...TLS_MEMBERS,
} as const;

export type WebhookConfig = MembersOf<typeof WEBHOOK_MEMBERS>;

/** One entry a request would make small batches of many requests: so many are handed over at once. */
const OBJECTS_A_BATCH = 100;
/** Of what is not read. */
const ANSWER_BYTES_MAX = 256 * 1024;

/** Says what members do not go together. */
export function webhookErrors(config: WebhookConfig): FieldError[] {
  const errors = tlsErrors(config);
  const { format, body, basicUser, basicPassword, bearerToken, secretHeaders } = config;
  if (body !== undefined && (body === 'text-lines') !== (format === 'cef'))
    errors.push({ field: 'body', message: 'must be text-lines of cef, and something else of json and ocsf' });
  if ((basicUser === undefined) !== (basicPassword === undefined))
    errors.push({ field: 'basicUser', message: 'and basicPassword go together' });
  const ways = [basicUser, bearerToken, secretHeaders?.['authorization']].filter((way) => way !== undefined);
  if (ways.length > 1)
    errors.push({ field: 'bearerToken', message: 'basicUser and an authorization header are three ways: choose one' });
  return errors;
}

export function webhookTransport(config: WebhookConfig, deps: HttpSinkDeps): Transport {
  const body = config.body ?? (config.format === 'cef' ? 'text-lines' : 'json-array');
  const { type, ...framing } = FRAMINGS[body];
  const calls = new HttpCalls(deps, config);
  const keys = (config.signingSecrets ?? []).map((one) => webhookKey(one)!);
  const fixed = { ...config.headers, ...config.secretHeaders, ...authorizationOf(config), 'content-type': type };
  const write = writerOf(config.format);
  const entryBytesMax = config.bytesMax - framing.before.length - framing.after.length;
  return new HttpTransport(
    {
      url: config.url,
      gzip: config.gzip,
      framing,
      requestMessagesMax: body === 'json-object' ? 1 : config.messagesMax,
      requestBytesMax: config.bytesMax,
      requestsABatch: body === 'json-object' ? OBJECTS_A_BATCH : 1,
      answerBytesMax: ANSWER_BYTES_MAX,
      encode: (exported) => writeAround(exported, write, entryBytesMax, '', ''),
      headers: (messages, bytes) =>
        keys.length === 0
          ? fixed
          : { ...fixed, ...webhookHeaders(keys, webhookId(messages), calls.wallClock(), bytes) },
      judge: (answer) => judgeStatus(answer, new URL(config.url).origin, calls.wallClock()),
    },
    calls,
  );
}

function authorizationOf({ bearerToken, basicUser, basicPassword }: WebhookConfig): Record<string, string> {
  if (bearerToken !== undefined) return { authorization: `Bearer ${bearerToken}` };
  if (basicUser === undefined) return {};
  return { authorization: `Basic ${Buffer.from(`${basicUser}:${basicPassword}`).toString('base64')}` };
}

function signingSecret(): Member<string> {
  return {
    isSecret: true,
    read: (value) =>
      typeof value === 'string' && webhookKey(value) !== undefined
        ? { value }
        : { problem: 'must be whsec_ and the base64 of 24 to 64 bytes' },
  };
}
