/**
 * Datadog's log intake (v2): an array of logs, 202 when it has them.
 *
 * The event stands as an object in `sealog` (in `ocsf` where it is OCSF), a line of CEF in `message`. At the top it would be taken apart:
 * Datadog reads `severity` of 0 to 7 as syslog's, which falls where ours rises. For the same reason a log has no `timestamp`: Datadog takes none
 * that is older than 18 hours, and says 202 all the same, so an entry that waited for a weekend would be lost without a word. A log stands there
 * at the time of its arrival; `sealog.occurredAt` and `sealog.log.recordedAt` say the rest.
 *
 * A log of more than 1 MB would be cut, and said to be taken: so parts of it are left out here, and `log.omitted` names them.
 */

import { cefText } from '../cef.ts';
import {
  flag,
  headerText,
  type MembersOf,
  oneOf,
  optional,
  secret,
  TLS_MEMBERS,
  token,
  under,
  url,
  withDefault,
} from '../config-members.ts';
import { ENTRY_FORMATS, type EntryFormat, writeAround, writerOf } from '../entry-format.ts';
import { type ExportedEntry, severityOf, textOf, titleOf } from '../exported-entry.ts';
import { judgeOnly } from '../http-answers.ts';
import { HttpCalls, type HttpSinkDeps } from '../http-calls.ts';
import { HttpTransport } from '../http-transport.ts';
import type { Transport } from '../transport.ts';
import { safeJson } from '../unsafe-characters.ts';

export const DATADOG_MEMBERS = {
  /** `https://http-intake.logs.<site>`. */
  url: url({ isBase: true, httpsOnly: true }),
  apiKey: secret(token(128)),
  format: withDefault(oneOf(...ENTRY_FORMATS), 'json'),
  service: withDefault(headerText(100), 'sealog'),
  /** `name:value,name:value`, for all logs. */
  tags: optional(headerText()),
  gzip: withDefault(flag(), true),
  ...TLS_MEMBERS,
} as const;

export type DatadogConfig = MembersOf<typeof DATADOG_MEMBERS>;

/** Of 5 MB before compression; other shippers stay this far below. */
const REQUEST_BYTES_MAX = 4_250_000;
const REQUEST_MESSAGES_MAX = 1000;
const LOG_BYTES_MAX = 1_000_000;
const ANSWER_BYTES_MAX = 64 * 1024;

export function datadogTransport(config: DatadogConfig, deps: HttpSinkDeps): Transport {
  const calls = new HttpCalls(deps, config);
  const where = new URL(config.url).origin;
  return new HttpTransport(
    {
      url: under(config.url, '/api/v2/logs', /\/api\/v2\/logs$/),
      gzip: config.gzip,
      framing: { before: '[', between: ',', after: ']' },
      requestMessagesMax: REQUEST_MESSAGES_MAX,
      requestBytesMax: REQUEST_BYTES_MAX,
      requestsABatch: 1,
      answerBytesMax: ANSWER_BYTES_MAX,
      encode: (exported) => encode(exported, config),
      headers: () => ({ 'content-type': 'application/json', 'dd-api-key': config.apiKey }),
      judge: (answer) => judgeOnly(202, answer, where, calls.wallClock()),
    },
    calls,
  );
}

const MEMBERS: Readonly<Record<Exclude<EntryFormat, 'cef'>, string>> = { json: 'sealog', ocsf: 'ocsf' };

function encode(exported: ExportedEntry, { format, service, tags }: DatadogConfig): Uint8Array {
  const { entry, stream } = exported;
  const { record } = entry;
  const own = [`tenant:${stream.tenant}`, `category:${stream.category}`];
  const log = JSON.stringify({
    ddsource: 'sealog',
    ddtags: [...(tags === undefined ? [] : [tags]), ...own].join(),
    hostname: textOf(record.source, 'host'),
    service,
    status: STATUSES[severityOf(exported)],
    message:
      format === 'cef'
        ? cefText(exported)
        : `${titleOf(record.action)}: ${record.outcome} (${stream.name} ${record.seq})`,
  });
  const before = safeJson(log).slice(0, -1);
  if (format === 'cef') return Buffer.from(`${before}}`);
  return writeAround(exported, writerOf(format), LOG_BYTES_MAX, `${before},"${MEMBERS[format]}":`, '}');
}

/** CEF's low, medium, high and very high. */
const STATUSES: readonly string[] = [
  ...Array<string>(4).fill('info'),
  ...Array<string>(3).fill('warning'),
  ...Array<string>(2).fill('error'),
  ...Array<string>(2).fill('critical'),
];
