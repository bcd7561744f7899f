/**
 * The services that are known by their certificates (`SEALOG_TLS_CLIENTS_FILE`, docs/access.md):
 *
 *     [{ "name": "mes.plant7.example", "tenant": "acme", "categories": ["system_operation"], "sites": ["plant-7"] }]
 *
 * A file of the operator and no API: a name belongs to whoever the authority gave it to, and an administrator of one tenant must not be able to
 * claim the service of another.
 *
 * Everything that is wrong is told together; what is not known is refused, since a misspelled field would silently be none.
 */
import { parseDocument } from 'yaml';
import { CLIENT_CATEGORIES, OWN_TENANT, TENANT_PATTERN } from '../chain/category.ts';
import { SettingsError } from '../errors.ts';

/** What a service may send. */
export interface CertifiedService {
  /** A DNS name in lower case, or a URI as it stands in the certificate. */
  readonly name: string;
  readonly tenant: string;
  /** Undefined = all. */
  readonly categories: readonly string[] | undefined;
  readonly sites: readonly string[] | undefined;
}

/** By name. */
export type CertifiedServices = ReadonlyMap<string, CertifiedService>;

const SERVICES_MAX = 10_000;
const LIST_MAX = 1000;
const TEXT_LENGTH_MAX = 256;
/** More than anybody reads. */
const PROBLEMS_MAX = 50;
const FIELDS: readonly string[] = ['name', 'tenant', 'categories', 'sites'];
/** RFC 1123 section 2.1, and `_`, which is in use; one label is enough inside a plant. No wildcard: it is nobody's name. */
const DNS_NAME = /^(?=.{1,253}$)[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?(?:\.[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?)*$/;
/** RFC 3986 section 3.1, and what may stand behind. */
const URI = /^[A-Za-z][A-Za-z0-9+.-]*:[!-~]{1,240}$/;

/** Reads the file. Throws a SettingsError with every problem. */
export function readClientsFile(bytes: Buffer): CertifiedServices {
  const problems: string[] = [];
  const services = new Map<string, CertifiedService>();
  for (const [i, item] of itemsOf(bytes, problems).entries()) {
    const service = readService(item, (field, what) => problems.push(`[${i}]${field && `.${field}`} ${what}`));
    if (services.has(service.name)) problems.push(`[${i}].name stands twice`);
    if (service.name !== '') services.set(service.name, service);
  }
  if (problems.length === 0) return services;
  throw new SettingsError(problems.slice(0, PROBLEMS_MAX).map((problem) => `SEALOG_TLS_CLIENTS_FILE: ${problem}`));
}

/** Says whether the text can be the name of a service, and of which kind. */
export function nameKind(name: string): 'dns' | 'uri' | undefined {
  return DNS_NAME.test(name) ? 'dns' : URI.test(name) ? 'uri' : undefined;
}

function itemsOf(bytes: Buffer, problems: string[]): unknown[] {
  const text = bytes.toString('utf8');
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    throw new SettingsError(['SEALOG_TLS_CLIENTS_FILE must hold JSON']);
  }
  // JSON.parse takes the last of two members of one name. JSON is YAML, whose reader says so.
  if (parseDocument(text, { uniqueKeys: true }).errors.some(({ code }) => code === 'DUPLICATE_KEY'))
    problems.push('has an object with two members of one name');
  if (!Array.isArray(value)) {
    problems.push('must be an array: [{ "name": …, "tenant": … }]');
    return [];
  }
  if (value.length > SERVICES_MAX) problems.push(`may have at most ${SERVICES_MAX} items`);
  return value.slice(0, SERVICES_MAX);
}

type Complain = (field: string, what: string) => void;

/** Returns what the item says; where it complained, what it returns means nothing. */
function readService(item: unknown, complain: Complain): CertifiedService {
  if (typeof item !== 'object' || item === null || Array.isArray(item)) {
    complain('', 'must be an object');
    return { name: '', tenant: '', categories: undefined, sites: undefined };
  }
  const fields = item as Readonly<Record<string, unknown>>;
  for (const field of Object.keys(fields))
    if (!FIELDS.includes(field)) complain('', `has the field ${shown(field)}, which there is not`);
  const { name, tenant } = fields;
  const isName = typeof name === 'string' && nameKind(name) !== undefined;
  if (!isName) complain('name', 'must be a DNS name in lower case, without a wildcard, or a URI');
  if (typeof tenant !== 'string' || !TENANT_PATTERN.test(tenant))
    complain('tenant', 'must be the name of a tenant: 1 to 63 of a-z, 0-9 and -, not beginning with -');
  // Nobody writes there but the log itself.
  else if (tenant === OWN_TENANT) complain('tenant', `must not be ${OWN_TENANT}, whose log is the deployment's own`);
  return {
    name: isName ? name : '',
    tenant: typeof tenant === 'string' ? tenant : '',
    categories: listField(fields, 'categories', complain, (one) =>
      CLIENT_CATEGORIES.some((category) => category === one) ? undefined : `has ${shown(one)}, which is no category`,
    ),
    sites: listField(fields, 'sites', complain, (one) =>
      one !== '' && one.length <= TEXT_LENGTH_MAX && one.isWellFormed() && !/\p{Cc}/u.test(one)
        ? undefined
        : `has ${shown(one)}, which can be no site`,
    ),
  };
}

function listField(
  fields: Readonly<Record<string, unknown>>,
  field: string,
  complain: Complain,
  problemOf: (one: string) => string | undefined,
): readonly string[] | undefined {
  if (!Object.hasOwn(fields, field)) return undefined;
  const value = fields[field];
  // An empty list would permit nothing; absent, the field permits everything. Whoever writes one may mean the other.
  if (!Array.isArray(value) || value.length === 0 || value.length > LIST_MAX) {
    complain(field, `must be a list of 1 to ${LIST_MAX} texts, or absent for all`);
    return undefined;
  }
  const items: unknown[] = value;
  for (const one of items) {
    const problem = typeof one === 'string' ? problemOf(one) : 'must hold texts alone';
    if (problem !== undefined) complain(field, problem);
  }
  if (new Set(items).size !== items.length) complain(field, 'names one twice');
  return items.filter((one) => typeof one === 'string');
}

function shown(text: string): string {
  return JSON.stringify(text.slice(0, 50).toWellFormed());
}
