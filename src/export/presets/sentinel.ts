/**
 * Microsoft Sentinel, by the Logs Ingestion API of Azure Monitor.
 *
 *     POST <endpoint>/dataCollectionRules/<rule>/streams/<stream>?api-version=2023-01-01      [{"TimeGenerated":…,"Seq":…,…},…]
 *     Authorization: Bearer <a token of Entra ID for https://monitor.azure.com/.default>
 *
 * What is sent are the columns below; the data collection rule's stream declares them (docs/export.md has them as JSON) and may transform
 * them. 204 says that Azure has them. It does not look for what comes twice: `Hash` tells.
 *
 * Azure cuts a field at 64 KB without a word. So a text that is longer is cut here, a JSON that is longer is left out, and `Notes` says so.
 */

import type { JsonObject, JsonValue } from '../../chain/canonical.ts';
import { computedDiff, partText, partValue } from '../../chain/entry-view.ts';
import { ClientCredentials } from '../client-credentials.ts';
import {
  flag,
  type MembersOf,
  oneOf,
  secret,
  TLS_MEMBERS,
  text,
  token,
  under,
  url,
  withDefault,
} from '../config-members.ts';
import { eventTimeMs } from '../entry-format.ts';
import { asObject, type ExportedEntry, notesOf, severityOf, textOf } from '../exported-entry.ts';
import { judgeOnly } from '../http-answers.ts';
import { HttpCalls, type HttpSinkDeps } from '../http-calls.ts';
import { HttpTransport } from '../http-transport.ts';
import { TooLongError } from '../too-long-error.ts';
import type { Transport } from '../transport.ts';
import { safeJson } from '../unsafe-characters.ts';

export const SENTINEL_MEMBERS = {
  /** The logs ingestion endpoint, of the data collection endpoint or the rule: `https://<name>.<region>.ingest.monitor.azure.com`. */
  url: url({ isBase: true, httpsOnly: true }),
  /** `json`: the columns below. */
  format: withDefault(oneOf('json'), 'json'),
  ruleId: text(/^dcr-[0-9a-f]{32}$/, 'the immutable id of a data collection rule: dcr- and 32 digits of hex'),
  streamName: withDefault(
    text(/^(?:Custom|Microsoft)-[A-Za-z0-9_]{1,100}$/, 'the name of a stream: Custom-… or Microsoft-…'),
    'Custom-Sealog_CL',
  ),
  tenantId: text(/^[A-Za-z0-9][A-Za-z0-9.-]{0,127}$/, 'the id or domain of an Entra tenant'),
  clientId: text(/^[0-9a-fA-F-]{36}$/, 'the application (client) id, a UUID'),
  clientSecret: secret(token(512)),
  /** Those of other clouds differ. */
  authority: withDefault(url({ isBase: true, httpsOnly: true }), 'https://login.microsoftonline.com'),
  scope: withDefault(
    text(/^https:\/\/[a-z0-9.-]{1,100}\/\/?\.default$/, 'a scope such as https://monitor.azure.com/.default'),
    'https://monitor.azure.com/.default',
  ),
  gzip: withDefault(flag(), true),
  ...TLS_MEMBERS,
} as const;

export type SentinelConfig = MembersOf<typeof SENTINEL_MEMBERS>;

/** 1 MB a call, before and after compression. */
const REQUEST_BYTES_MAX = 1_000_000;
const REQUEST_MESSAGES_MAX = 1000;
const ENTRY_BYTES_MAX = REQUEST_BYTES_MAX - 2;
/** 64 KB a field, of which nobody says how it counts them. */
const FIELD_BYTES_MAX = 64_000;
const ANSWER_BYTES_MAX = 64 * 1024;

export function sentinelTransport(config: SentinelConfig, deps: HttpSinkDeps): Transport {
  const calls = new HttpCalls(deps, config);
  const where = new URL(config.url).origin;
  const { ruleId, streamName, tenantId, clientId, clientSecret, authority, scope } = config;
  return new HttpTransport(
    {
      url: `${under(config.url, `/dataCollectionRules/${ruleId}/streams/${streamName}`)}?api-version=2023-01-01`,
      gzip: config.gzip,
      framing: { before: '[', between: ',', after: ']' },
      requestMessagesMax: REQUEST_MESSAGES_MAX,
      requestBytesMax: REQUEST_BYTES_MAX,
      requestsABatch: 1,
      answerBytesMax: ANSWER_BYTES_MAX,
      encode: (exported) => Buffer.from(columnsText(exported)),
      headers: () => ({ 'content-type': 'application/json' }),
      authorization: new ClientCredentials({
        tokenUrl: under(authority, `/${tenantId}/oauth2/v2.0/token`),
        clientId,
        clientSecret,
        scope,
        calls,
      }),
      judge: (answer) => judgeOnly(204, answer, where, calls.wallClock()),
    },
    calls,
  );
}

/** The columns and their types, as a data collection rule declares them. */
export const SENTINEL_COLUMNS = {
  TimeGenerated: 'datetime',
  OccurredAt: 'string',
  RecordedAt: 'datetime',
  RetainUntil: 'datetime',
  EventId: 'string',
  Tenant: 'string',
  Category: 'string',
  Action: 'string',
  Outcome: 'string',
  Severity: 'int',
  Stream: 'string',
  Seq: 'long',
  Hash: 'string',
  Previous: 'string',
  Service: 'string',
  SourceHost: 'string',
  Site: 'string',
  ActorType: 'string',
  ActorId: 'string',
  ActorName: 'string',
  ActorEmail: 'string',
  ActorIp: 'string',
  ActorRoles: 'string',
  ActorUserAgent: 'string',
  TargetType: 'string',
  TargetId: 'string',
  TargetName: 'string',
  Reason: 'string',
  RawText: 'string',
  Changes: 'string',
  Diff: 'string',
  Details: 'string',
  More: 'string',
  Notes: 'string',
} as const;

type Columns = { -readonly [K in keyof typeof SENTINEL_COLUMNS]?: string | number | undefined };

/** The columns that go first where a record is too long, and that are JSON, which is of no use when it is cut. */
const JSON_COLUMNS = ['Changes', 'Details', 'Diff', 'More', 'ActorRoles'] as const;
const LONG_COLUMNS = ['RawText', ...JSON_COLUMNS] as const;

function columnsText(exported: ExportedEntry): string {
  const columns = columnsOf(exported);
  const shortened: string[] = [];
  for (const name of Object.keys(columns) as (keyof Columns)[]) {
    const value = columns[name];
    // No text has more bytes than three times its UTF-16 units.
    if (typeof value !== 'string' || value.length * 3 <= FIELD_BYTES_MAX || Buffer.byteLength(value) <= FIELD_BYTES_MAX)
      continue;
    columns[name] = (JSON_COLUMNS as readonly string[]).includes(name) ? undefined : cut(value, FIELD_BYTES_MAX);
    shortened.push(name);
  }
  // Escapes can make the record longer than its fields: then whole columns go, the longest first.
  const left = LONG_COLUMNS.filter((name) => columns[name] !== undefined).sort(
    (a, b) => String(columns[b]).length - String(columns[a]).length,
  );
  for (;;) {
    const notes = notesOf(exported);
    if (shortened.length > 0) notes.push(`shortened:${shortened.toSorted().join()}`);
    const json = safeJson(JSON.stringify({ ...columns, Notes: notes.length === 0 ? undefined : notes.join(' ') }));
    const bytes = Buffer.byteLength(json);
    if (bytes <= ENTRY_BYTES_MAX) return json;
    const name = left.shift();
    if (name === undefined) throw new TooLongError(bytes, ENTRY_BYTES_MAX);
    columns[name] = undefined;
    if (!shortened.includes(name)) shortened.push(name);
  }
}

function columnsOf(exported: ExportedEntry): Columns {
  const { entry, stream } = exported;
  const { record } = entry;
  const actorPart = partValue(entry, 'actor');
  const targetPart = partValue(entry, 'target');
  const actor = asObject(actorPart);
  const target = asObject(targetPart);
  const raw = partValue(entry, 'raw');
  const reason = partValue(entry, 'reason');
  const diff = computedDiff(entry, stream.category);
  return {
    TimeGenerated: new Date(eventTimeMs(exported)).toISOString(),
    OccurredAt: record.occurredAt,
    RecordedAt: record.recordedAt,
    RetainUntil: record.retainUntil,
    EventId: record.id,
    Tenant: stream.tenant,
    Category: stream.category,
    Action: record.action,
    Outcome: record.outcome,
    Severity: severityOf(exported),
    Stream: stream.name,
    Seq: record.seq,
    Hash: entry.hash,
    Previous: record.previous,
    Service: textOf(record.source, 'service'),
    SourceHost: textOf(record.source, 'host'),
    Site: textOf(record.source, 'site'),
    ActorType: textOf(actor, 'type'),
    ActorId: textOf(actor, 'id'),
    ActorName: textOf(actor, 'name'),
    ActorEmail: textOf(actor, 'email'),
    ActorIp: textOf(actor, 'ip'),
    ActorRoles: actor?.['roles'] === undefined ? undefined : JSON.stringify(actor['roles']),
    ActorUserAgent: textOf(actor, 'userAgent'),
    TargetType: textOf(target, 'type'),
    TargetId: textOf(target, 'id'),
    TargetName: textOf(target, 'name'),
    Reason: typeof reason === 'string' ? reason : partText(entry, 'reason'),
    RawText: typeof raw === 'string' ? raw : partText(entry, 'raw'),
    Changes: partText(entry, 'changes'),
    Diff: diff === undefined ? undefined : JSON.stringify(diff),
    Details: partText(entry, 'details'),
    More: moreOf({
      actor: restOf(actorPart, ['type', 'id', 'name', 'email', 'ip', 'userAgent'], ['roles']),
      target: restOf(targetPart, ['type', 'id', 'name']),
      source: restOf(record.source, ['service', 'host', 'site']),
    }),
  };
}

/** Returns what of a value has no column; undefined when nothing. `texts` have one where they are texts. */
function restOf(
  value: JsonValue | undefined,
  texts: readonly string[],
  others: readonly string[] = [],
): JsonValue | undefined {
  const object = asObject(value);
  if (object === undefined) return value;
  const rest = Object.entries(object).filter(
    ([name]) => !others.includes(name) && !(texts.includes(name) && textOf(object, name) !== undefined),
  );
  return rest.length === 0 ? undefined : (Object.fromEntries(rest) as JsonObject);
}

function moreOf(rests: Readonly<Record<string, JsonValue | undefined>>): string | undefined {
  const text = JSON.stringify(rests);
  return text === '{}' ? undefined : text;
}

/** Cuts between characters. */
function cut(value: string, maxBytes: number): string {
  const { read } = new TextEncoder().encodeInto(value, new Uint8Array(maxBytes));
  return value.slice(0, read);
}
