/**
 * A strict validator of OCSF events against the compiled classes and objects of a version, which lie outside of the repository: required
 * members, constraints, types, enumerations and their captions, profiles, and no member that the class or object does not have.
 *
 * The compiled file has the types of the classes' members and the names of the objects' members; the types of the latter are below, taken
 * from OCSF's dictionary for what is written. A member that is not there is a problem, not a pass.
 */
import { readFileSync } from 'node:fs';
import { isIP } from 'node:net';
import { join } from 'node:path';

interface Attribute {
  readonly type: string;
  readonly is_array?: boolean;
  readonly profile?: string;
  readonly requirement?: string;
}

interface Constraints {
  readonly at_least_one?: readonly string[];
  readonly just_one?: readonly string[];
}

export interface OcsfSchema {
  readonly version: string;
  readonly classes: Readonly<
    Record<
      string,
      {
        readonly caption: string;
        readonly category_uid: number;
        readonly class_uid: number;
        readonly deprecated: unknown;
        readonly required: readonly string[];
        readonly constraints: Constraints;
        readonly attributes: Readonly<Record<string, Attribute>>;
        readonly enums: Readonly<Record<string, Readonly<Record<string, string>>>>;
      }
    >
  >;
  readonly objects: Readonly<
    Record<
      string,
      {
        readonly required: readonly string[];
        readonly constraints: Constraints;
        readonly attributes: readonly string[];
      }
    >
  >;
}

export function readOcsfSchema(testData: string): OcsfSchema {
  return JSON.parse(readFileSync(join(testData, 'reference/data/ocsf_classes_1.8.0.json'), 'utf8')) as OcsfSchema;
}

type Members = Readonly<Record<string, unknown>>;

const NAMED = { uid: 'string_t', name: 'string_t', type: 'string_t' };
const TYPES: Readonly<Record<string, Readonly<Record<string, string>>>> = {
  metadata: {
    version: 'string_t',
    product: 'product',
    profiles: 'string_t[]',
    uid: 'string_t',
    original_event_uid: 'string_t',
    sequence: 'integer_t',
    tenant_uid: 'string_t',
    log_name: 'string_t',
    log_provider: 'string_t',
    event_code: 'string_t',
    original_time: 'string_t',
    logged_time: 'timestamp_t',
    labels: 'string_t[]',
    is_truncated: 'boolean_t',
  },
  product: { uid: 'string_t', name: 'string_t', vendor_name: 'string_t', version: 'string_t' },
  user: { ...NAMED, email_addr: 'email_t' },
  actor: { user: 'user', session: 'session', app_uid: 'string_t', app_name: 'string_t' },
  session: { uid: 'string_t' },
  service: { name: 'string_t' },
  network_endpoint: { ip: 'ip_t', name: 'string_t', hostname: 'hostname_t', svc_name: 'string_t', zone: 'string_t' },
  device: { type_id: 'integer_t', name: 'string_t', hostname: 'hostname_t', zone: 'string_t' },
  api: { operation: 'string_t', service: 'service' },
  http_request: { user_agent: 'string_t' },
  resource_details: NAMED,
  managed_entity: NAMED,
  group: NAMED,
  finding_info: {
    uid: 'string_t',
    title: 'string_t',
    types: 'string_t[]',
    created_time: 'timestamp_t',
    desc: 'string_t',
  },
  evidences: { src_endpoint: 'network_endpoint', actor: 'actor' },
};

/** Members that go with a member of numbers: its caption. Of 99, Other, it is the source's own word. */
const CAPTIONS: Readonly<Record<string, string>> = {
  activity_name: 'activity_id',
  severity: 'severity_id',
  status: 'status_id',
};

/** Returns what is wrong with an event, in words; nothing where it is valid. */
export function ocsfProblems(schema: OcsfSchema, event: Members): string[] {
  const found = Object.values(schema.classes).find((one) => one.class_uid === event['class_uid']);
  if (found === undefined) return [`there is no class ${event['class_uid']}`];
  const problems: string[] = [];
  const profiles = ((event['metadata'] as Members | undefined)?.['profiles'] ?? []) as readonly string[];
  for (const [name, value] of Object.entries(event)) {
    const attribute = found.attributes[name];
    if (attribute === undefined) {
      problems.push(`${name} is no member of ${found.caption}`);
      continue;
    }
    if (attribute.profile !== undefined && attribute.profile !== null && !profiles.includes(attribute.profile))
      problems.push(`${name} is of the profile ${attribute.profile}, which is not named`);
    problems.push(
      ...typeProblems(schema, attribute.is_array === true ? `${attribute.type}[]` : attribute.type, value, name),
    );
  }
  const ofProfiles = Object.entries(found.attributes)
    .filter(([, one]) => one.requirement === 'required' && one.profile !== undefined && profiles.includes(one.profile))
    .map(([name]) => name);
  problems.push(...memberProblems([...found.required, ...ofProfiles], found.constraints, event, found.caption));
  for (const [name, captions] of Object.entries(found.enums)) {
    if (event[name] !== undefined && captions[String(event[name])] === undefined)
      problems.push(`${name} can not be ${event[name]}`);
  }
  for (const [name, of] of Object.entries(CAPTIONS)) {
    const id = event[of];
    if (event[name] === undefined || id === 99) continue;
    if (found.enums[of]?.[String(id)] !== event[name]) problems.push(`${name} of ${of} ${id} is not ${event[name]}`);
  }
  if (event['class_name'] !== found.caption) problems.push(`class_name is not ${found.caption}`);
  if (event['category_uid'] !== found.category_uid) problems.push(`category_uid is not ${found.category_uid}`);
  if (event['type_uid'] !== found.class_uid * 100 + (event['activity_id'] as number))
    problems.push('type_uid is wrong');
  if ((event['metadata'] as Members | undefined)?.['version'] !== schema.version)
    problems.push('metadata.version is wrong');
  return problems;
}

function memberProblems(
  required: readonly string[],
  constraints: Constraints,
  members: Members,
  path: string,
): string[] {
  const problems = required.filter((name) => members[name] === undefined).map((name) => `${path} has no ${name}`);
  const { at_least_one: some, just_one: one } = constraints;
  if (some !== undefined && !some.some((name) => members[name] !== undefined))
    problems.push(`${path} has none of ${some}`);
  if (one !== undefined && one.filter((name) => members[name] !== undefined).length !== 1)
    problems.push(`${path} has not one of ${one}`);
  return problems;
}

function typeProblems(schema: OcsfSchema, type: string, value: unknown, path: string): string[] {
  if (type.endsWith('[]')) {
    if (!Array.isArray(value)) return [`${path} is not a list`];
    if (value.length === 0) return [`${path} is empty`];
    return value.flatMap((item, index) => typeProblems(schema, type.slice(0, -2), item, `${path}[${index}]`));
  }
  const isOk = SCALARS[type];
  if (isOk !== undefined) return isOk(value) ? [] : [`${path} is no ${type}: ${JSON.stringify(value)}`];
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return [`${path} is not an object`];
  if (type === 'object') return [];
  const object = schema.objects[type];
  const types = TYPES[type];
  if (object === undefined || types === undefined) return [`${path} is of type ${type}, which is not known here`];
  const members = value as Members;
  return [
    ...memberProblems(object.required, object.constraints, members, path),
    ...Object.entries(members).flatMap(([name, member]) => {
      if (!object.attributes.includes(name)) return [`${path}.${name} is no member of ${type}`];
      const memberType = types[name];
      if (memberType === undefined) return [`the type of ${path}.${name} is not known here`];
      return typeProblems(schema, memberType, member, `${path}.${name}`);
    }),
  ];
}

const SCALARS: Readonly<Record<string, (value: unknown) => boolean>> = {
  string_t: (value) => typeof value === 'string' && value !== '',
  boolean_t: (value) => typeof value === 'boolean',
  integer_t: (value) => Number.isSafeInteger(value),
  long_t: (value) => Number.isSafeInteger(value),
  timestamp_t: (value) => Number.isSafeInteger(value),
  ip_t: (value) => typeof value === 'string' && isIP(value) !== 0 && !value.includes('%'),
  email_t: (value) => typeof value === 'string' && /^[^\s@]+@[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+$/.test(value),
  hostname_t: (value) =>
    typeof value === 'string' &&
    value.split('.').every((label) => /^[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?$/.test(label)),
};
