/**
 * OCSF 1.8.0, as docs/ocsf.md explains it: a class by category and action; what the class has members for in these; and in `unmapped` the
 * event as readers get it, `log` included, so that nothing is lost. A text in `raw` stands in `raw_data` instead.
 *
 * Members whose types ask for a form (addresses, host names, e-mail addresses) are written where the sender's text has it. What a class
 * requires and the event does not have is not invented: it says `(erased)`, `(omitted)` or `(not given)`.
 */
import { isIP } from 'node:net';
import { decodeCanonical, type JsonObject, type JsonValue } from '../chain/canonical.ts';
import { entryText, erasedParts, type Omittable, partText, partValue } from '../chain/entry-view.ts';
import { isOpen, type PartName } from '../chain/part.ts';
import { asObject, type ExportedEntry, isAccountType, notesOf, severityOf, textOf, titleOf } from './exported-entry.ts';
import { writeWithin } from './room.ts';
import { safeJson } from './unsafe-characters.ts';

const SCHEMA_VERSION = '1.8.0';
/** The version of this mapping, as that of CEF. */
const PRODUCT = { name: 'Sealog', vendor_name: 'Sealog', version: '1' };

/** An activity of a class: `activity_id` and its caption. */
type Activity = readonly [id: number, name: string];

export interface OcsfClass {
  readonly uid: number;
  readonly name: string;
  /** Whose members it takes: `actor` and `device` of some classes are of the host profile. */
  readonly profile?: 'host';
  readonly members: (event: Event) => JsonMembers;
}

type JsonMembers = { readonly [name: string]: JsonValue | JsonMembers | readonly JsonMembers[] | undefined };

/** What the members take their values from. */
interface Event {
  readonly exported: ExportedEntry;
  readonly action: string;
  readonly omitted: readonly Omittable[];
  readonly occurredMs: number;
  readonly actor: JsonObject | undefined;
  readonly target: JsonObject | undefined;
  readonly reason: string | undefined;
  readonly source: JsonObject;
}

export const OCSF_CLASSES = {
  authentication: {
    uid: 3002,
    name: 'Authentication',
    members: (event) => ({
      ...ofUser(event),
      user: userOf(event.actor) ?? { name: whyMissing(event, 'actor') },
      service: { name: serviceOf(event) },
      session: sessionOf(event),
      dst_endpoint: destinationOf(event),
      is_mfa: /(?:^|[._])mfa(?:[._]|$)/.test(event.action) ? true : undefined,
    }),
  },
  accountChange: {
    uid: 3001,
    name: 'Account Change',
    members: (event) => ({
      ...ofUser(event),
      user: namedOf(event.target) ?? { name: whyMissing(event, 'target') },
    }),
  },
  entityManagement: {
    uid: 3004,
    name: 'Entity Management',
    members: (event) => ({
      ...ofUser(event),
      entity: namedOf(event.target) ?? { name: whyMissing(event, 'target') },
      comment: event.reason,
    }),
  },
  groupManagement: {
    uid: 3006,
    name: 'Group Management',
    members: (event) => ({ ...ofUser(event), group: namedOf(event.target) ?? { name: whyMissing(event, 'target') } }),
  },
  apiActivity: {
    uid: 6003,
    name: 'API Activity',
    members: (event) => ({
      ...ofUser(event),
      actor: actorOf(event) ?? { user: { name: whyMissing(event, 'actor') } },
      api: { operation: event.action, service: { name: serviceOf(event) } },
      resources: listOf(namedOf(event.target)),
      src_endpoint: endpointOf(event) ?? { svc_name: serviceOf(event) },
      dst_endpoint: destinationOf(event),
    }),
  },
  applicationLifecycle: {
    uid: 6002,
    name: 'Application Lifecycle',
    profile: 'host',
    members: (event) => ({
      actor: actorOf(event),
      app: (isApplication(event.target) ? applicationOf(event.target) : undefined) ?? { name: serviceOf(event) },
      device: deviceOf(event),
    }),
  },
  detectionFinding: {
    uid: 2004,
    name: 'Detection Finding',
    profile: 'host',
    members: (event) => ({
      actor: actorOf(event),
      device: deviceOf(event),
      finding_info: {
        uid: event.exported.entry.record.id,
        title: titleOf(event.action),
        types: [event.action],
        created_time: event.occurredMs,
        desc: event.reason,
      },
      evidences: listOf(evidenceOf(event)),
      resources: listOf(namedOf(event.target)),
    }),
  },
  eventLogActivity: {
    uid: 1008,
    name: 'Event Log Activity',
    members: (event) => ({
      actor: actorOf(event),
      src_endpoint: endpointOf(event),
      log_name: event.exported.stream.name,
      log_provider: PRODUCT.name,
    }),
  },
} as const satisfies Record<string, OcsfClass>;

type ClassName = keyof typeof OCSF_CLASSES;

export interface OcsfChoice {
  readonly class: ClassName;
  readonly activity: Activity;
}

/** Returns an entry as an OCSF event: JSON on one line, of at most `maxBytes` of UTF-8. Throws `TooLongError`. */
export function ocsfText(exported: ExportedEntry, maxBytes = Number.POSITIVE_INFINITY): string {
  return writeWithin(exported, maxBytes, (shown, omitted) => safeJson(write(shown, omitted)));
}

function write(exported: ExportedEntry, omitted: readonly Omittable[]): string {
  const { entry, stream } = exported;
  const { record } = entry;
  const value = (name: PartName) => (omitted.includes(name) ? undefined : partValue(entry, name));
  const reason = value('reason');
  const event: Event = {
    exported,
    action: record.action,
    omitted,
    occurredMs: Date.parse(record.occurredAt),
    actor: asObject(value('actor')),
    target: asObject(value('target')),
    reason: typeof reason === 'string' && reason !== '' ? reason : undefined,
    source: record.source,
  };
  const choice = choose(exported, event.target);
  const ocsfClass: OcsfClass = OCSF_CLASSES[choice.class];
  const [activityId, activityName] = choice.activity;
  const severity = severityOf(exported);
  const isFinding = choice.class === 'detectionFinding';
  const head = JSON.stringify({
    class_uid: ocsfClass.uid,
    class_name: ocsfClass.name,
    category_uid: Math.floor(ocsfClass.uid / 1000),
    activity_id: activityId,
    activity_name: activityName,
    type_uid: ocsfClass.uid * 100 + activityId,
    time: event.occurredMs,
    timezone_offset: offsetOf(record.occurredAt),
    severity_id: SEVERITIES[severity]![0],
    severity: SEVERITIES[severity]![1],
    // The status of a finding is how far somebody got with it.
    ...(isFinding ? {} : STATUSES[record.outcome]),
    message: titleOf(record.action),
    metadata: metadataOf(event, ocsfClass),
    ...ocsfClass.members(event),
  });
  const raw = omitted.includes('raw') ? undefined : partText(entry, 'raw');
  // An empty text is no raw data to a reader of OCSF: it stays where it can be seen.
  const isText = raw?.startsWith('"') === true && raw !== '""';
  const unmapped = entryText(entry, stream.category, { omitted, elsewhere: isText ? ['raw'] : [] });
  return `${head.slice(0, -1)}${isText ? `,"raw_data":${raw}` : ''},"unmapped":${unmapped}}`;
}

/** CEF's severities 0 to 10, as `severity_id` and its caption: CEF's low, medium, high and very high, with 0 and 1 as informational. */
const SEVERITIES: readonly (readonly [number, string])[] = [
  ...Array<[number, string]>(2).fill([1, 'Informational']),
  ...Array<[number, string]>(2).fill([2, 'Low']),
  ...Array<[number, string]>(3).fill([3, 'Medium']),
  ...Array<[number, string]>(2).fill([4, 'High']),
  ...Array<[number, string]>(2).fill([5, 'Critical']),
];

const STATUSES = {
  success: { status_id: 1, status: 'Success' },
  failure: { status_id: 2, status: 'Failure' },
  unknown: { status_id: 0, status: 'Unknown' },
} as const;

function metadataOf({ exported, action, omitted, source }: Event, { profile }: OcsfClass): JsonMembers {
  const { entry, stream } = exported;
  const { record } = entry;
  const labels = notesOf(exported);
  if (omitted.length > 0) labels.push(`omitted:${omitted.join()}`);
  return {
    version: SCHEMA_VERSION,
    product: PRODUCT,
    profiles: profile === undefined ? undefined : [profile],
    // One entry has one hash, sent once or twice; ids are unique in a stream and for as long as repeats are recognised.
    uid: entry.hash,
    original_event_uid: record.id,
    sequence: record.seq,
    tenant_uid: stream.tenant,
    log_name: stream.name,
    log_provider: textOf(source, 'service'),
    event_code: action,
    original_time: record.occurredAt,
    logged_time: Date.parse(record.recordedAt),
    labels: labels.length === 0 ? undefined : labels,
    is_truncated: omitted.length === 0 ? undefined : true,
  };
}

// ——— class and activity ———

const LOGON: Activity = [1, 'Logon'];
const LOGOFF: Activity = [2, 'Logoff'];
const LOGON_ACTION = /(?:^|[._])(?:login|logon|sign_?in|authenticate|session[._](?:open|start|create))(?:[._]|$)/;
const LOGOFF_ACTION =
  /(?:^|[._])(?:logout|logoff|sign_?(?:out|off)|disconnect|session[._](?:close|end|expired?|terminate))(?:[._]|$)/;
const AUTHENTICATION_ACTION = /(?:^|[._])(?:login|logon|sign_?in|authenticate|mfa)(?:[._]|$)/;
const DETECTION_ACTION =
  /(?:^|[._])(?:alert|detection|suspect|suspicious|malicious|anomalous|threat|brute_force)(?:[._]|$)/;

const ENTITY: Readonly<Record<string, Activity>> = {
  create: [1, 'Create'],
  update: [3, 'Update'],
  delete: [4, 'Delete'],
  move: [5, 'Move'],
  enroll: [6, 'Enroll'],
  unenroll: [7, 'Unenroll'],
  enable: [8, 'Enable'],
  disable: [9, 'Disable'],
  activate: [10, 'Activate'],
  deactivate: [11, 'Deactivate'],
  suspend: [12, 'Suspend'],
  resume: [13, 'Resume'],
};
const ACCOUNT: Readonly<Record<string, Activity>> = {
  create: [1, 'Create'],
  enable: [2, 'Enable'],
  disable: [5, 'Disable'],
  delete: [6, 'Delete'],
  lock: [9, 'Lock'],
  unlock: [12, 'Unlock'],
};
const API: Readonly<Record<string, Activity>> = {
  create: [1, 'Create'],
  update: [3, 'Update'],
  delete: [4, 'Delete'],
};
const LIFECYCLE: Readonly<Record<string, Activity>> = {
  install: [1, 'Install'],
  uninstall: [2, 'Remove'],
  start: [3, 'Start'],
  stop: [4, 'Stop'],
  restart: [5, 'Restart'],
  enable: [6, 'Enable'],
  disable: [7, 'Disable'],
  upgrade: [8, 'Update'],
};
const EVENT_LOG: Readonly<Record<string, Activity>> = {
  delete: [2, 'Delete'],
  export: [3, 'Export'],
  start: [6, 'Start'],
  stop: [7, 'Stop'],
  restart: [8, 'Restart'],
  enable: [9, 'Enable'],
  disable: [10, 'Disable'],
};

/** The words that say what was done; their past (`created`, `stopped`) is found too. */
const VERBS: ReadonlyMap<string, string> = new Map(
  Object.entries({
    create: ['add', 'insert', 'new', 'register', 'upload', 'import'],
    update: ['change', 'modify', 'set', 'edit', 'write', 'put', 'rename', 'replace', 'transform', 'apply', 'rotate'],
    delete: ['remove', 'drop', 'destroy', 'unregister', 'purge', 'prune', 'erase'],
    move: [],
    enroll: [],
    unenroll: [],
    enable: [],
    disable: [],
    activate: [],
    deactivate: [],
    suspend: [],
    resume: [],
    lock: [],
    unlock: [],
    install: [],
    uninstall: [],
    start: ['boot'],
    stop: ['shutdown'],
    restart: ['reboot'],
    upgrade: [],
    export: [],
  }).flatMap(([verb, others]) =>
    [verb, ...others].flatMap((word) => [word, ...pastOf(word)].map((form): [string, string] => [form, verb])),
  ),
);

function pastOf(word: string): string[] {
  return [`${word}ed`, `${word}d`, `${word}${word.at(-1)}ed`, word.replace(/y$/, 'ied')];
}

/** Returns the class and the activity. What is of no known activity is 99, Other, whose name is the action. */
export function choose(exported: ExportedEntry, target: JsonObject | undefined): OcsfChoice {
  const { entry, stream } = exported;
  const { action } = entry.record;
  const other: Activity = [99, action];
  switch (stream.category) {
    case 'user_authentication':
      return { class: 'authentication', activity: authenticationOf(action) ?? other };
    case 'data_access':
      return { class: 'apiActivity', activity: [2, 'Read'] };
    case 'data_modification':
      return { class: 'apiActivity', activity: API[actOf(exported) ?? ''] ?? other };
    case 'configuration_change':
      return managementOf(exported, target) ?? { class: 'entityManagement', activity: other };
    case 'security_event': {
      const finding: OcsfChoice = { class: 'detectionFinding', activity: [1, 'Create'] };
      if (DETECTION_ACTION.test(action)) return finding;
      const management = target === undefined ? undefined : managementOf(exported, target);
      if (management !== undefined) return management;
      if (AUTHENTICATION_ACTION.test(action))
        return { class: 'authentication', activity: authenticationOf(action) ?? other };
      return finding;
    }
    case 'system_operation': {
      const isLifecycle = target === undefined || isApplication(target);
      return {
        class: 'applicationLifecycle',
        activity: (isLifecycle ? LIFECYCLE[verbOf(action) ?? ''] : undefined) ?? other,
      };
    }
    case 'log_administration':
    case 'anchor':
      return { class: 'eventLogActivity', activity: EVENT_LOG[verbOf(action) ?? ''] ?? other };
    default: {
      const never: never = stream.category;
      throw new Error(`no class for ${never}`);
    }
  }
}

function authenticationOf(action: string): Activity | undefined {
  if (LOGOFF_ACTION.test(action)) return LOGOFF;
  return LOGON_ACTION.test(action) ? LOGON : undefined;
}

/** What was managed: an account, who is in a group, or any other thing. */
function managementOf(exported: ExportedEntry, target: JsonObject | undefined): OcsfChoice | undefined {
  const { action } = exported.entry.record;
  const type = textOf(target, 'type');
  const verb = verbOf(action);
  if (isGroupType(type) && /(?:^|[._])(?:member|user)(?:[._]|$)/.test(action)) {
    if (verb === 'create') return { class: 'groupManagement', activity: [3, 'Add User'] };
    if (verb === 'delete') return { class: 'groupManagement', activity: [4, 'Remove User'] };
  }
  const act = actOf(exported) ?? '';
  if (isAccountType(type)) {
    if (/(?:^|[._])password[._]reset$/.test(action)) return { class: 'accountChange', activity: [4, 'Password Reset'] };
    if (/(?:^|[._])password(?:[._]|$)/.test(action) && verb === 'update')
      return { class: 'accountChange', activity: [3, 'Password Change'] };
    const activity = ACCOUNT[act];
    if (activity !== undefined) return { class: 'accountChange', activity };
  }
  const activity = ENTITY[act];
  return activity === undefined ? undefined : { class: 'entityManagement', activity };
}

function isGroupType(type: string | undefined): boolean {
  return type !== undefined && /(?:^|_)(?:group|team)$/i.test(type);
}

/** Returns what was done to the target: evidence counts more than words, but no evidence tells disabling from updating. */
function actOf(exported: ExportedEntry): string | undefined {
  const verb = verbOf(exported.entry.record.action);
  const isSpecial = verb !== undefined && verb !== 'create' && verb !== 'update' && verb !== 'delete';
  return isSpecial ? verb : (actFromChanges(exported) ?? verb);
}

function actFromChanges({ entry }: ExportedEntry): 'create' | 'update' | 'delete' | undefined {
  const part = entry.parts.find(({ name }) => name === 'changes');
  if (part === undefined || !isOpen(part)) return undefined;
  const { before, after } = asObject(decodeCanonical(part.value)) ?? {};
  if (before === undefined || after === undefined || (before === null && after === null)) return undefined;
  if (before === null) return 'create';
  return after === null ? 'delete' : 'update';
}

/** Returns the verb of an action's last word (`api_key.created`), else of the first after its last dot (`iam.create_user`). */
function verbOf(action: string): string | undefined {
  const last = action.slice(action.lastIndexOf('.') + 1).split('_');
  return VERBS.get(last.at(-1)!) ?? VERBS.get(last[0]!);
}

// ——— objects ———

/** Members that the classes of identity and API events share. */
function ofUser(event: Event): JsonMembers {
  const agent = textOf(event.actor, 'userAgent');
  return {
    actor: actorOf(event),
    src_endpoint: endpointOf(event),
    http_request: agent === undefined ? undefined : { user_agent: agent },
  };
}

/** Returns the actor; of programs as an application, of all others as a user. */
function actorOf(event: Event): JsonMembers | undefined {
  const { actor } = event;
  const user = userOf(actor);
  if (user === undefined) return undefined;
  const isProgram = /(?:^|_)(?:service|system|application|app|process|job)$/i.test(textOf(actor, 'type') ?? '');
  const who = isProgram ? { app_uid: textOf(actor, 'id'), app_name: textOf(actor, 'name') } : { user };
  return { ...who, session: sessionOf(event) };
}

function userOf(actor: JsonObject | undefined): JsonMembers | undefined {
  const named = namedOf(actor);
  const email = textOf(actor, 'email');
  return named && { ...named, email_addr: email !== undefined && isEmail(email) ? email : undefined };
}

function sessionOf({ actor }: Event): JsonMembers | undefined {
  const uid = textOf(actor, 'sessionId');
  return uid === undefined ? undefined : { uid };
}

/** Returns what most objects are: `uid`, `name` and `type`; undefined without an id and a name. */
function namedOf(object: JsonObject | undefined): JsonMembers | undefined {
  const uid = textOf(object, 'id');
  const name = textOf(object, 'name');
  return uid === undefined && name === undefined ? undefined : { uid, name, type: textOf(object, 'type') };
}

function applicationOf(target: JsonObject | undefined): JsonMembers | undefined {
  const uid = textOf(target, 'id');
  const name = textOf(target, 'name');
  return uid === undefined && name === undefined ? undefined : { uid, name };
}

function isApplication(target: JsonObject | undefined): boolean {
  return /(?:^|_)(?:service|application|app|server|broker|driver|software|package)$/i.test(
    textOf(target, 'type') ?? '',
  );
}

/** Where the actor was. What is no address (`localhost`, `10.0.0.7:51234`) is a name. */
function endpointOf({ actor }: Event): JsonMembers | undefined {
  const ip = textOf(actor, 'ip');
  if (ip === undefined) return undefined;
  return isIP(ip) !== 0 && !ip.includes('%') ? { ip } : { name: ip };
}

/** Where it was done. */
function destinationOf(event: Event): JsonMembers {
  return { svc_name: serviceOf(event), ...hostOf(event), zone: textOf(event.source, 'zone') };
}

function deviceOf(event: Event): JsonMembers | undefined {
  const host = hostOf(event);
  // Of unknown type.
  return host && { type_id: 0, ...host, zone: textOf(event.source, 'zone') };
}

function hostOf({ source }: Event): JsonMembers | undefined {
  const host = textOf(source, 'host');
  if (host === undefined) return undefined;
  return isHostName(host) ? { hostname: host } : { name: host };
}

function serviceOf({ source }: Event): string {
  return textOf(source, 'service') ?? '(not given)';
}

function evidenceOf(event: Event): JsonMembers | undefined {
  const src_endpoint = endpointOf(event);
  return src_endpoint && { src_endpoint, actor: actorOf(event) };
}

function listOf(member: JsonMembers | undefined): readonly JsonMembers[] | undefined {
  return member === undefined ? undefined : [member];
}

function whyMissing({ exported, omitted }: Event, name: PartName): string {
  if (omitted.includes(name)) return '(omitted)';
  return erasedParts(exported.entry).includes(name) ? '(erased)' : '(not given)';
}

/** Stricter than OCSF's own types, whose expressions take some of what is none. */
function isEmail(text: string): boolean {
  return text.length <= 254 && /^[a-z0-9!#$%&'*+/=?^_`{|}~.-]{1,64}@[a-z0-9-]+(?:\.[a-z0-9-]+)+$/i.test(text);
}

function isHostName(text: string): boolean {
  return (
    text.length <= 253 &&
    /^[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?)*$/i.test(text)
  );
}

/** Minutes that the sender's clock was before UTC; undefined where he did not know (`-00:00`, RFC 3339 section 4.3). */
function offsetOf(timestamp: string): number | undefined {
  if (timestamp.endsWith('Z')) return 0;
  const offset = timestamp.slice(-6);
  if (offset === '-00:00') return undefined;
  const minutes = Number(offset.slice(1, 3)) * 60 + Number(offset.slice(4));
  return offset.startsWith('-') ? -minutes : minutes;
}
