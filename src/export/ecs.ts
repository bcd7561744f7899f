/**
 * Entries in the words of the Elastic Common Schema: what its fields have a place for, and the event as readers get it, whole, as a text in
 * `sealog.event`.
 *
 * Members that a sender makes up (`details`, `changes`) are in that text alone. As fields they would grow the index's mapping without
 * end, and the first entry whose value is of another type than the one before would be refused, and stop the sink.
 */
import { isIP } from 'node:net';
import type { JsonObject } from '../chain/canonical.ts';
import { partValue } from '../chain/entry-view.ts';
import { eventTimeMs } from './entry-format.ts';
import { asObject, type ExportedEntry, isAccountType, severityOf, textOf, titleOf } from './exported-entry.ts';
import { jsonText } from './json.ts';
import { safeJson } from './unsafe-characters.ts';

const ECS_VERSION = '9.0.0';

export interface EcsKind {
  readonly category: readonly string[];
  readonly type: readonly string[];
}

/** Returns an entry as a document of at most `maxBytes`: what does not fit is left out of `sealog.event`, which says so. Throws a TooLongError. */
export function ecsText(exported: ExportedEntry, maxBytes = Number.POSITIVE_INFINITY): string {
  const fields = fieldsOf(exported);
  const whole = documentOf(fields, jsonText(exported));
  if (Buffer.byteLength(whole) <= maxBytes) return whole;
  // A text in JSON is at most twice as long as it is: it has no control characters.
  const least = Buffer.byteLength(documentOf(fields, ''));
  return documentOf(fields, jsonText(exported, Math.floor((maxBytes - least) / 2)));
}

function documentOf(fields: string, event: string): string {
  return `${fields},"event":${JSON.stringify(event)}}}`;
}

/** Returns the fields as JSON but for its last two braces: `sealog` is last, and open. */
function fieldsOf(exported: ExportedEntry): string {
  const { entry, stream } = exported;
  const { record } = entry;
  const actor = asObject(partValue(entry, 'actor'));
  const target = asObject(partValue(entry, 'target'));
  const reason = partValue(entry, 'reason');
  const ip = textOf(actor, 'ip');
  const host = textOf(record.source, 'host');
  const { category, type } = ecsKind(exported, target);
  return safeJson(
    JSON.stringify({
      '@timestamp': new Date(eventTimeMs(exported)).toISOString(),
      ecs: { version: ECS_VERSION },
      message: `${titleOf(record.action)}: ${record.outcome}`,
      event: {
        kind: 'event',
        category,
        type,
        action: record.action,
        outcome: record.outcome,
        severity: severityOf(exported),
        id: record.id,
        sequence: record.seq,
        hash: entry.hash,
        created: record.recordedAt,
        provider: 'sealog',
        dataset: `sealog.${stream.category}`,
        reason: typeof reason === 'string' ? reason : undefined,
      },
      organization: { id: stream.tenant },
      service: { name: textOf(record.source, 'service') },
      host: host === undefined ? undefined : { name: host },
      user: userOf(actor, isAccountType(textOf(target, 'type')) ? target : undefined),
      source: ip !== undefined && isIP(ip) !== 0 && !ip.includes('%') ? { ip } : undefined,
      user_agent: textOf(actor, 'userAgent') === undefined ? undefined : { original: textOf(actor, 'userAgent') },
      sealog: { stream: stream.name, previous: record.previous, target: targetOf(target) },
    }).slice(0, -2),
  );
}

function userOf(actor: JsonObject | undefined, account: JsonObject | undefined): object | undefined {
  if (actor === undefined && account === undefined) return undefined;
  const roles = actor?.['roles'];
  return {
    id: textOf(actor, 'id'),
    name: textOf(actor, 'name'),
    email: textOf(actor, 'email'),
    roles: Array.isArray(roles) ? roles.filter((role) => typeof role === 'string') : undefined,
    target: account === undefined ? undefined : { id: textOf(account, 'id'), name: textOf(account, 'name') },
  };
}

function targetOf(target: JsonObject | undefined): object | undefined {
  if (target === undefined) return undefined;
  return { type: textOf(target, 'type'), id: textOf(target, 'id'), name: textOf(target, 'name') };
}

// ---- event.category and event.type: only pairs that ECS allows ----

type Change = 'creation' | 'deletion' | 'change' | 'access';

/** Returns `event.category` and `event.type` of an entry. */
export function ecsKind(exported: ExportedEntry, target: JsonObject | undefined): EcsKind {
  const { action } = exported.entry.record;
  const change = changeOf(action);
  switch (exported.stream.category) {
    case 'user_authentication':
      return { category: ['authentication'], type: [startOrEnd(action) ?? 'info'] };
    case 'data_access':
      return { category: [isFile(target) ? 'file' : 'database'], type: ['access'] };
    case 'data_modification':
      // A database has no creation and no deletion in ECS.
      return isFile(target)
        ? { category: ['file'], type: [change === 'access' ? 'change' : change] }
        : { category: ['database'], type: ['change'] };
    case 'configuration_change':
      return { category: ['configuration'], type: [change === 'access' ? 'change' : change] };
    case 'security_event':
      return securityKind(action, change, target, exported.entry.record.outcome === 'failure');
    case 'system_operation':
      return startOrEnd(action) === undefined
        ? { category: ['host'], type: [change === 'access' ? 'info' : 'change'] }
        : { category: ['process'], type: [startOrEnd(action)!] };
    case 'log_administration':
      return { category: ['configuration'], type: [change] };
    case 'anchor':
      return { category: ['configuration'], type: ['info'] };
    default: {
      const never: never = exported.stream.category;
      return never;
    }
  }
}

function securityKind(action: string, change: Change, target: JsonObject | undefined, isFailure: boolean): EcsKind {
  const isGroup = /(?:^|[._])(?:role|group|permission|privilege)/.test(action);
  const isUser = isAccountType(textOf(target, 'type')) || /(?:^|[._])(?:user|account)/.test(action);
  if (!isGroup && !isUser) return { category: ['intrusion_detection'], type: [isFailure ? 'denied' : 'info'] };
  return { category: ['iam'], type: [isGroup ? 'group' : 'user', change === 'access' ? 'info' : change] };
}

function changeOf(action: string): Change {
  const verb = /[^.]*$/.exec(action)![0];
  if (/^(?:create|add|insert|register|issue)/.test(verb)) return 'creation';
  if (/^(?:delete|remove|erase|destroy)/.test(verb)) return 'deletion';
  if (/^(?:read|view|list|search|get|query|export|download)/.test(verb)) return 'access';
  return 'change';
}

function startOrEnd(action: string): 'start' | 'end' | undefined {
  const verb = /[^.]*$/.exec(action)![0];
  if (/^(?:login|logon|signin|sign_in|start)/.test(verb)) return 'start';
  if (/^(?:logout|logoff|signout|sign_out|stop|shutdown)/.test(verb)) return 'end';
  return undefined;
}

function isFile(target: JsonObject | undefined): boolean {
  return /(?:^|_)(?:file|document|attachment)$/i.test(textOf(target, 'type') ?? '');
}
