/**
 * The file that names the outside anchors (`SEALOG_ANCHORS_FILE`, docs/configuration.md): read once, at the start.
 *
 *     { "anchors": [
 *       { "name": "tsa-1", "type": "rfc3161", "url": "https://…", "trust": "tsa-ca.pem" },
 *       { "name": "worm", "type": "folder", "path": "/mnt/worm" },
 *       { "name": "witness-1", "type": "witness", "url": "https://…/prefix", "vkey": "…" } ] }
 *
 * Everything that is wrong is told together; what is not known is refused, since a misspelled field would silently be
 * none. Paths of certificates are relative to the file.
 */
import { X509Certificate } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { dirname, isAbsolute, resolve } from 'node:path';
import { parseDocument } from 'yaml';
import { parseCosignerVkey } from '../chain/cosignature.ts';
import { EvidenceError, SettingsError } from '../errors.ts';
import { urlProblem } from '../http/outgoing.ts';

interface AnyAnchor {
  readonly name: string;
  /** Seconds between two attempts that succeed. */
  readonly everySeconds: number;
}

/** A time-stamp authority (RFC 3161 over HTTP). */
export interface Rfc3161Anchor extends AnyAnchor {
  readonly type: 'rfc3161';
  readonly url: string;
  /** The certificates (DER) that the authority's must lead to. */
  readonly trusted: readonly Uint8Array[];
  /** The policy that is asked for, an object identifier. */
  readonly policy: string | undefined;
  /** The certificates (PEM) that the TLS server's must lead to; undefined = those of the public authorities. */
  readonly tlsCaPem: string | undefined;
}

/** A folder on a mount that keeps what is written (object lock). */
export interface FolderAnchor extends AnyAnchor {
  readonly type: 'folder';
  /** Absolute. */
  readonly path: string;
}

/** A witness (C2SP tlog-witness). */
export interface WitnessAnchor extends AnyAnchor {
  readonly type: 'witness';
  /** The submission prefix, without a slash at its end. */
  readonly url: string;
  readonly vkey: string;
  readonly tlsCaPem: string | undefined;
}

export type Anchor = Rfc3161Anchor | FolderAnchor | WitnessAnchor;

/** More than anybody has; each is called on its own. */
const ANCHORS_MAX = 16;
const FILE_BYTES_MAX = 1024 * 1024;

const EVERY_SECONDS_MIN = 1;
const EVERY_SECONDS_MAX = 86_400;
/** Authorities may count, and bill; a folder and a witness take each tick. */
const EVERY_SECONDS = { rfc3161: 600, folder: 60, witness: 60 } as const;

const FIELDS = {
  rfc3161: ['name', 'type', 'url', 'trust', 'everySeconds', 'policy', 'tlsCa'],
  folder: ['name', 'type', 'path', 'everySeconds'],
  witness: ['name', 'type', 'url', 'vkey', 'everySeconds', 'tlsCa'],
} as const;

/** Reads the file, and the certificates that it names. Throws a SettingsError with every problem. */
export async function readAnchorsFile(path: string): Promise<Anchor[]> {
  const problems: string[] = [];
  const items = listOf(await textOf(path), problems);
  const anchors: Anchor[] = [];
  for (const [i, item] of items.entries()) {
    const before = problems.length;
    const anchor = await readAnchor(item, dirname(path), (field, what) => {
      problems.push(`anchors[${i}]${field === '' ? '' : `.${field}`} ${what}`);
    });
    if (problems.length === before) anchors.push(anchor);
  }
  findTwins(items, problems);
  if (problems.length > 0) throw new SettingsError(problems.map((problem) => `SEALOG_ANCHORS_FILE: ${problem}`));
  return anchors;
}

async function textOf(path: string): Promise<string> {
  let bytes: Buffer;
  try {
    bytes = await readFile(path);
  } catch (error) {
    throw new SettingsError([`SEALOG_ANCHORS_FILE can not be read: ${(error as NodeJS.ErrnoException).code}`]);
  }
  if (bytes.length > FILE_BYTES_MAX)
    throw new SettingsError([`SEALOG_ANCHORS_FILE is larger than ${FILE_BYTES_MAX} bytes`]);
  return bytes.toString('utf8');
}

/** Returns the items of `anchors`. */
function listOf(text: string, problems: string[]): unknown[] {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    throw new SettingsError(['SEALOG_ANCHORS_FILE must hold JSON']);
  }
  // JSON.parse takes the last of two members of one name. JSON is YAML, whose reader says so.
  if (parseDocument(text, { uniqueKeys: true }).errors.some((error) => error.code === 'DUPLICATE_KEY'))
    problems.push('has an object with two members of one name');
  if (!isObject(value) || !Array.isArray(value['anchors'])) {
    problems.push('must be {"anchors": […]}');
    return [];
  }
  for (const name of Object.keys(value)) if (name !== 'anchors') problems.push(`${shown(name)} is not a field`);
  const items: unknown[] = value['anchors'];
  if (items.length > ANCHORS_MAX) problems.push(`anchors may have at most ${ANCHORS_MAX} items`);
  return items.slice(0, ANCHORS_MAX);
}

type Complain = (field: string, what: string) => void;

/** Returns what the item says; where it complained, what it returns means nothing. */
async function readAnchor(item: unknown, folder: string, complain: Complain): Promise<Anchor> {
  const fields = isObject(item) ? item : {};
  const type = fields['type'];
  if (!isObject(item)) complain('', 'must be an object');
  else if (type !== 'rfc3161' && type !== 'folder' && type !== 'witness')
    complain('type', 'must be rfc3161, folder or witness');
  if (type !== 'rfc3161' && type !== 'folder' && type !== 'witness') return NO_ANCHOR;

  const known: readonly string[] = FIELDS[type];
  for (const name of Object.keys(fields))
    if (!known.includes(name)) complain('', `has the field ${shown(name)}, which an anchor of type ${type} has not`);
  const any = {
    name: textField(fields, 'name', complain, nameProblem),
    everySeconds: secondsField(fields, EVERY_SECONDS[type], complain),
  };
  switch (type) {
    case 'rfc3161':
      return {
        ...any,
        type,
        url: textField(fields, 'url', complain, urlProblem),
        trusted: (await certificatesField(fields, 'trust', folder, complain)).certificates,
        policy: optional(fields, 'policy', () => textField(fields, 'policy', complain, policyProblem)),
        tlsCaPem: (await optional(fields, 'tlsCa', () => certificatesField(fields, 'tlsCa', folder, complain)))?.pem,
      };
    case 'folder':
      return { ...any, type, path: textField(fields, 'path', complain, pathProblem) };
    case 'witness':
      return {
        ...any,
        type,
        url: textField(fields, 'url', complain, prefixProblem).replace(/\/+$/, ''),
        vkey: textField(fields, 'vkey', complain, vkeyProblem),
        tlsCaPem: (await optional(fields, 'tlsCa', () => certificatesField(fields, 'tlsCa', folder, complain)))?.pem,
      };
    default: {
      const never: never = type;
      return never;
    }
  }
}

const NO_ANCHOR: Anchor = { name: '', everySeconds: 0, type: 'folder', path: '' };

/** Names tell evidence apart in the tables, and one witness counts once. */
function findTwins(items: readonly unknown[], problems: string[]): void {
  for (const field of ['name', 'vkey']) {
    const seen = new Map<unknown, number>();
    for (const [i, item] of items.entries()) {
      const value = isObject(item) ? item[field] : undefined;
      if (typeof value !== 'string') continue;
      const first = seen.get(value);
      if (first !== undefined) problems.push(`anchors[${i}].${field} is that of anchors[${first}]`);
      else seen.set(value, i);
    }
  }
}

// ---- Fields ----

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function shown(name: string): string {
  return JSON.stringify(name.slice(0, 50).toWellFormed());
}

function optional<T>(fields: Record<string, unknown>, name: string, read: () => T): T | undefined {
  return Object.hasOwn(fields, name) ? read() : undefined;
}

function textField(
  fields: Record<string, unknown>,
  name: string,
  complain: Complain,
  problemOf: (value: string) => string | undefined,
): string {
  const value = Object.hasOwn(fields, name) ? fields[name] : undefined;
  if (typeof value !== 'string') {
    complain(name, value === undefined ? 'is required' : 'must be text');
    return '';
  }
  const problem = problemOf(value);
  if (problem !== undefined) complain(name, problem);
  return value;
}

function secondsField(fields: Record<string, unknown>, fallback: number, complain: Complain): number {
  const value = Object.hasOwn(fields, 'everySeconds') ? fields['everySeconds'] : fallback;
  if (typeof value === 'number' && Number.isInteger(value) && value >= EVERY_SECONDS_MIN && value <= EVERY_SECONDS_MAX)
    return value;
  complain('everySeconds', `must be an integer from ${EVERY_SECONDS_MIN} to ${EVERY_SECONDS_MAX}`);
  return fallback;
}

interface Certificates {
  readonly pem: string;
  /** DER. */
  readonly certificates: readonly Uint8Array[];
}

async function certificatesField(
  fields: Record<string, unknown>,
  name: string,
  folder: string,
  complain: Complain,
): Promise<Certificates> {
  const none = { pem: '', certificates: [] };
  const path = textField(fields, name, complain, (value) => (value === '' ? 'must be a path' : undefined));
  if (path === '') return none;
  try {
    const pem = await readFile(resolve(folder, path), 'utf8');
    const blocks = pem.match(/-----BEGIN CERTIFICATE-----[^-]*-----END CERTIFICATE-----/g) ?? [];
    if (blocks.length === 0) complain(name, 'names a file without a certificate in PEM');
    return { pem, certificates: blocks.map((block) => new X509Certificate(block).raw) };
  } catch (error) {
    const { code = '' } = error as NodeJS.ErrnoException;
    complain(
      name,
      /^E[A-Z]+$/.test(code) ? `names a file that can not be read: ${code}` : 'holds a broken certificate',
    );
    return none;
  }
}

function nameProblem(name: string): string | undefined {
  if (/^[a-z0-9][a-z0-9-]{0,62}$/.test(name)) return undefined;
  return 'must be 1 to 63 of a-z, 0-9 and -, not beginning with -';
}

function pathProblem(path: string): string | undefined {
  return isAbsolute(path) && !path.includes('\0') ? undefined : 'must be an absolute path';
}

function policyProblem(policy: string): string | undefined {
  const isOid = policy.length <= 200 && /^[0-2](\.(0|[1-9][0-9]*))+$/.test(policy);
  return isOid ? undefined : 'must be an object identifier such as 1.2.3';
}

function prefixProblem(url: string): string | undefined {
  return urlProblem(url) ?? (/[?#]/.test(url) ? 'must not have a query: /add-checkpoint is put behind it' : undefined);
}

function vkeyProblem(vkey: string): string | undefined {
  try {
    parseCosignerVkey(vkey);
    return undefined;
  } catch (error) {
    if (!(error instanceof EvidenceError)) throw error;
    return `must be the vkey of a witness: ${error.message}`;
  }
}
