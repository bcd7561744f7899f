/**
 * Members of a sink's configuration, each with its rule: read strictly, all mistakes told at once. A rule is told without the value that
 * broke it, which may be a secret.
 */
import { createPrivateKey, X509Certificate } from 'node:crypto';
import type { FieldError } from '../errors.ts';
import { isJsonObject } from '../http/json-object.ts';
import { urlProblem } from '../http/outgoing.ts';

export interface Member<T> {
  /** Stored sealed, and never given back. */
  readonly isSecret: boolean;
  /** `value` is undefined where the member is not there. */
  readonly read: (value: unknown) => Read<T>;
}

export type Read<T> = { readonly value: T } | { readonly problem: string };

export type Shape = { readonly [name: string]: Member<unknown> };

export type MembersOf<S extends Shape> = {
  readonly [K in keyof S]: S[K] extends Member<infer T> ? T : never;
};

export type ReadMembers<T> = { readonly config: T } | { readonly errors: readonly FieldError[] };

/** Reads an object that has these members and no others. Errors name the member. */
export function readMembers<S extends Shape>(shape: S, given: unknown): ReadMembers<MembersOf<S>> {
  if (!isJsonObject(given)) return { errors: [{ field: '', message: 'must be an object' }] };
  const errors: FieldError[] = [];
  for (const name of Object.keys(given)) {
    if (!Object.hasOwn(shape, name)) errors.push({ field: shown(name), message: 'is not a member' });
  }
  const config: Record<string, unknown> = {};
  for (const [name, member] of Object.entries(shape)) {
    const read = member.read(Object.hasOwn(given, name) ? given[name] : undefined);
    if ('problem' in read) errors.push({ field: name, message: read.problem });
    else config[name] = read.value;
  }
  return errors.length > 0 ? { errors } : { config: config as MembersOf<S> };
}

/** Returns the names of the members that are secret. */
export function secretNames(shape: Shape): string[] {
  return Object.keys(shape).filter((name) => shape[name]!.isSecret);
}

// ---- What a member may be, said about another ----

export function secret<T>(member: Member<T>): Member<T> {
  return { ...member, isSecret: true };
}

export function optional<T>(member: Member<T>): Member<T | undefined> {
  return { ...member, read: (value) => (value === undefined ? { value } : member.read(value)) };
}

export function withDefault<T>(member: Member<T>, otherwise: T): Member<T> {
  return { ...member, read: (value) => (value === undefined ? { value: otherwise } : member.read(value)) };
}

// ---- Kinds ----

export function text(pattern: RegExp, what: string): Member<string> {
  return open((value) =>
    typeof value === 'string' && pattern.test(value) ? { value } : { problem: `must be ${what}` },
  );
}

export function oneOf<const T extends string>(...values: readonly T[]): Member<T> {
  return open((value) => {
    const found = values.find((one) => one === value);
    return found === undefined
      ? { problem: `must be ${values.join(', ')}`.replace(/, ([^,]*)$/, ' or $1') }
      : { value: found };
  });
}

export function flag(): Member<boolean> {
  return open((value) => (typeof value === 'boolean' ? { value } : { problem: 'must be true or false' }));
}

export function integer(min: number, max: number): Member<number> {
  return open((value) =>
    Number.isSafeInteger(value) && (value as number) >= min && (value as number) <= max
      ? { value: value as number }
      : { problem: `must be an integer from ${min} to ${max}` },
  );
}

export function listOf<T>(member: Member<T>, max: number): Member<readonly T[]> {
  return open((given) => {
    if (!Array.isArray(given) || given.length === 0 || given.length > max)
      return { problem: `must be a list of 1 to ${max}` };
    const values: T[] = [];
    for (const [index, item] of given.entries()) {
      const read = member.read(item);
      if ('problem' in read) return { problem: `[${index}] ${read.problem}` };
      values.push(read.value);
    }
    return { value: values };
  });
}

const URL_LENGTH_MAX = 2048;

/** A URL to call. `isBase`: more is put behind its path, so it may not have a query. */
export function url({
  isBase,
  httpsOnly = false,
}: {
  readonly isBase: boolean;
  readonly httpsOnly?: boolean;
}): Member<string> {
  return open((value) => {
    if (typeof value !== 'string' || value.length > URL_LENGTH_MAX)
      return { problem: `must be a URL of at most ${URL_LENGTH_MAX} characters` };
    // A URL's own reader drops line ends and blanks, and takes them for nothing.
    const problem = /[^\x21-\x7e]/.test(value) ? 'must be a URL in printable ASCII' : urlProblem(value);
    if (problem !== undefined) return { problem };
    const { protocol, search, hash } = new URL(value);
    if (httpsOnly && protocol !== 'https:') return { problem: 'must begin with https://' };
    if (value.includes('#') || hash !== '') return { problem: 'must have no fragment' };
    if (isBase && (search !== '' || value.includes('?'))) return { problem: 'must have no query' };
    return { value };
  });
}

/** A token or password as it stands in a header: printable ASCII, no blanks. */
export function token(lengthMax = 4096): Member<string> {
  return text(
    new RegExp(`^[\\x21-\\x7e]{1,${lengthMax}}$`),
    `1 to ${lengthMax} characters of printable ASCII without blanks`,
  );
}

/** What a header may carry: printable ASCII, no blank at an end. */
export function headerText(lengthMax = 1024): Member<string> {
  return text(
    new RegExp(`^(?=.{1,${lengthMax}}$)[\\x21-\\x7e](?:[\\x20-\\x7e]*[\\x21-\\x7e])?$`),
    `1 to ${lengthMax} characters of printable ASCII without a blank at an end`,
  );
}

/** RFC 9110 section 5.6.2. */
const HEADER_NAME = /^[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}$/;
/** What the request itself says, and what would change how it is read, or who is taken for its sender. */
const OWN_HEADERS =
  /^(?:host|connection|keep-alive|te|trailer|upgrade|expect|content-.*|transfer-encoding|proxy-.*|forwarded|x-forwarded-.*|via|webhook-.*|accept-encoding|cookie)$/i;
const HEADERS_MAX = 16;

/** Headers to send along, for everybody to see who may see the sink. */
export function openHeaders(): Member<Readonly<Record<string, string>>> {
  return headers((name) =>
    /authorization|key|token|secret|password|signature/.test(name) ? 'belongs into secretHeaders' : undefined,
  );
}

/** Headers to send along. `whyNot` says of a name, in lower case, why it is not for here. */
export function headers(
  whyNot: (name: string) => string | undefined = () => undefined,
): Member<Readonly<Record<string, string>>> {
  return open((given) => {
    if (!isJsonObject(given)) return { problem: 'must be an object of header names and texts' };
    const names = Object.keys(given);
    if (names.length > HEADERS_MAX) return { problem: `must have at most ${HEADERS_MAX} headers` };
    if (new Set(names.map((name) => name.toLowerCase())).size < names.length)
      return { problem: 'has one header twice' };
    const read: [name: string, value: string][] = [];
    for (const [name, value] of Object.entries(given)) {
      if (!HEADER_NAME.test(name)) return { problem: `${shown(name)} is not the name of a header` };
      if (OWN_HEADERS.test(name)) return { problem: `${name} is not for you to set` };
      const why = whyNot(name.toLowerCase());
      if (why !== undefined) return { problem: `${name} ${why}` };
      const line = headerText(4096).read(value);
      if ('problem' in line) return { problem: `${name} ${line.problem}` };
      read.push([name.toLowerCase(), line.value]);
    }
    return { value: Object.fromEntries(read) };
  });
}

/** Returns a base URL with a path behind it; what of that path somebody wrote already is not put there twice. */
export function under(base: string, path: string, written?: RegExp): string {
  const { origin, pathname } = new URL(base);
  const prefix = pathname.replace(/\/+$/, '');
  return `${origin}${written === undefined ? prefix : prefix.replace(written, '')}${path}`;
}

// ---- TLS ----

const PEM_BYTES_MAX = 64 * 1024;

function certificates(): Member<string> {
  return open((value) => {
    const problem = { problem: `must be certificates in PEM, of at most ${PEM_BYTES_MAX} bytes` };
    if (typeof value !== 'string' || value.length > PEM_BYTES_MAX) return problem;
    const found = value.match(/-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----/g) ?? [];
    return found.length > 0 && found.every((one) => certificateIn(one) !== undefined) ? { value } : problem;
  });
}

function privateKey(): Member<string> {
  return open((value) => {
    if (typeof value === 'string' && value.length <= PEM_BYTES_MAX && keyIn(value) !== undefined) return { value };
    return { problem: 'must be a private key in PEM, not encrypted' };
  });
}

/** Of all that goes over HTTPS. */
export const TLS_MEMBERS = {
  /** The authorities to trust instead of the public ones. */
  tlsCa: optional(certificates()),
  /** Our own certificate, and what is between it and its root. */
  tlsCert: optional(certificates()),
  tlsKey: secret(optional(privateKey())),
} as const satisfies Shape;

export function tlsErrors({ tlsCert, tlsKey }: MembersOf<typeof TLS_MEMBERS>): FieldError[] {
  if (tlsCert === undefined && tlsKey === undefined) return [];
  if (tlsCert === undefined) return [{ field: 'tlsCert', message: 'is missing: tlsKey is its key' }];
  if (tlsKey === undefined) return [{ field: 'tlsKey', message: 'is missing: tlsCert needs its key' }];
  if (certificateIn(tlsCert)!.checkPrivateKey(keyIn(tlsKey)!)) return [];
  return [{ field: 'tlsKey', message: 'is not the key of the first certificate in tlsCert' }];
}

function certificateIn(pem: string): X509Certificate | undefined {
  try {
    return new X509Certificate(pem);
  } catch {
    return undefined;
  }
}

function keyIn(pem: string): ReturnType<typeof createPrivateKey> | undefined {
  try {
    return createPrivateKey(pem);
  } catch {
    return undefined;
  }
}

// ---- Helpers ----

function open<T>(read: (value: unknown) => Read<T>): Member<T> {
  return { isSecret: false, read: (value) => (value === undefined ? { problem: 'is missing' } : read(value)) };
}

/** A name of the caller's, in an error: short, and nothing that could be taken for more. */
function shown(name: string): string {
  return JSON.stringify(name.slice(0, 40)).slice(1, -1);
}
