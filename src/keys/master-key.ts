/** Where month keys live, as `SEALOG_MASTER_KEY` says it (docs/keys.md). Read strictly: what is not understood is refused, never passed over. */
import { resolve } from 'node:path';

export type MasterKey = FileKeys | VaultTransit | AwsKms | AzureKeyVault | Hsm;

/** Plain data: it goes to threads. Of secrets it has the files' names alone. */
export interface FileKeys {
  readonly kind: 'file';
  readonly folder: string;
}

interface KeyService {
  /** Before each key's name. */
  readonly prefix: string;
  readonly secretFile: string;
}

interface HttpsService extends KeyService {
  /** A file of certificates (PEM) that the service's must lead to; undefined = the public authorities. */
  readonly caFile: string | undefined;
}

export interface VaultTransit extends HttpsService {
  readonly kind: 'vault';
  readonly address: string;
  readonly mount: string;
  readonly namespace: string | undefined;
  /** Undefined = the secret is a token. */
  readonly appRole: { readonly mount: string; readonly roleId: string } | undefined;
}

export interface AwsKms extends HttpsService {
  readonly kind: 'awskms';
  readonly region: string;
  readonly endpoint: string;
  readonly windowDays: number;
}

export interface AzureKeyVault extends HttpsService {
  readonly kind: 'azurekv';
  readonly vault: string;
  readonly tenant: string;
  readonly clientId: string;
  readonly authority: string;
  readonly scope: string;
  readonly keyType: 'RSA' | 'RSA-HSM';
}

export interface Hsm extends KeyService {
  readonly kind: 'pkcs11';
  /** The library of the HSM. */
  readonly module: string;
  /** The token's label. */
  readonly token: string;
  /** The package pkcs11js: its name, or a folder that it is in. */
  readonly binding: string;
}

export type ParsedMasterKey =
  | { readonly masterKey: MasterKey }
  /** Each goes on behind the name of the setting. */
  | { readonly problems: readonly string[] };

/** `secretFile`: of `SEALOG_MASTER_KEY_SECRET_FILE`. */
export function parseMasterKey(text: string, secretFile: string | undefined): ParsedMasterKey {
  const [, kind = '', rest = ''] = /^([a-z0-9]+):(.+)$/s.exec(text) ?? [];
  const given = new Given(rest, secretFile);
  switch (kind) {
    case 'file':
      if (secretFile !== undefined) return { problems: ['is a folder, which needs no SEALOG_MASTER_KEY_SECRET_FILE'] };
      return { masterKey: { kind, folder: resolve(rest) } };
    case 'vault': {
      const mount = given.path(/^[A-Za-z0-9_-]+(\/[A-Za-z0-9_-]+)*$/) ?? 'transit';
      const roleId = given.text('role', /^[\w.-]{1,200}$/);
      const appRoleMount = given.text('approle', /^[\w-]+(\/[\w-]+)*$/);
      if (appRoleMount !== undefined && roleId === undefined) given.wrong('has approle, which is nothing without role');
      const appRole = roleId === undefined ? undefined : { mount: appRoleMount ?? 'approle', roleId };
      const namespace = given.text('namespace', /^[\w-]+(\/[\w-]+)*$/);
      return given.end({ kind, address: given.origin, mount, namespace, appRole, ...given.https() });
    }
    case 'awskms': {
      const region = given.place(/^[a-z]{2}(-[a-z]+)+-\d$/, 'a region, such as awskms:eu-central-1');
      const endpoint =
        given.url('endpoint') ?? `https://kms.${region}.amazonaws.com${region.startsWith('cn-') ? '.cn' : ''}`;
      const windowDays = given.number('days', 7, 30) ?? 7;
      return given.end({ kind, region, endpoint: `${endpoint}/`, windowDays, ...given.https() });
    }
    case 'azurekv': {
      given.path(/^$/);
      const vault = given.origin;
      const tenant = given.needed('tenant', /^[A-Za-z0-9.-]{1,100}$/);
      const clientId = given.needed('client', /^[A-Za-z0-9-]{1,100}$/);
      const authority = given.url('authority') ?? 'https://login.microsoftonline.com';
      const keyType = given.text('kty', /^(RSA|RSA-HSM)$/) === 'RSA-HSM' ? 'RSA-HSM' : 'RSA';
      // https://<name>.vault.azure.net → https://vault.azure.net, and likewise in other clouds.
      const cloud = /^https:\/\/[^.]+\.(vault\.[a-z0-9.]+)$/.exec(vault)?.[1];
      const scope = given.url('scope') ?? (cloud === undefined ? undefined : `https://${cloud}`);
      if (scope === undefined)
        given.wrong('must name the scope of tokens (scope=https://vault.azure.net) for such a vault');
      const of = { kind, vault, tenant, clientId, authority, scope: `${scope}/.default`, keyType } as const;
      return given.end({ ...of, ...given.https() });
    }
    case 'pkcs11': {
      const place = given.place(
        /^token=[\w .%-]{1,100}$/,
        'a token, such as pkcs11:token=sealog?module-path=/path/to/library.so',
      );
      const token = decoded(place.slice('token='.length));
      if (token === undefined || !/^[\x20-\x7e]{1,32}$/.test(token)) given.wrong('has a token that is no label');
      const module = given.needed('module-path', /^\/.{1,1000}$/s);
      const binding = given.text('binding', /^\/.{1,1000}$/s) ?? 'pkcs11js';
      return given.end({ kind, module, token: token ?? '', binding, ...given.service() });
    }
    default:
      return { problems: ['must begin with file:, vault:, awskms:, azurekv: or pkcs11:'] };
  }
}

/** What stands behind the kind: a place, and parameters of which each is taken once. */
class Given {
  readonly #text: string;
  readonly #query: URLSearchParams;
  readonly #taken = new Set<string>();
  readonly #problems: string[] = [];
  readonly #secretFile: string | undefined;

  constructor(rest: string, secretFile: string | undefined) {
    const at = rest.indexOf('?');
    this.#text = at < 0 ? rest : rest.slice(0, at);
    this.#query = new URLSearchParams(at < 0 ? '' : rest.slice(at + 1));
    this.#secretFile = secretFile;
  }

  /** The place as an address. */
  get origin(): string {
    return this.#urlOf(this.#text, 'an address')?.origin ?? '';
  }

  /** What stands behind the origin; undefined where nothing does. */
  path(form: RegExp): string | undefined {
    const url = URL.parse(this.#text);
    const path = url?.pathname.slice(1) ?? '';
    if (!form.test(path) && path !== '') this.wrong('has a path that is not understood');
    return path === '' ? undefined : path;
  }

  place(form: RegExp, what: string): string {
    if (!form.test(this.#text)) this.wrong(`must name ${what}`);
    return this.#text;
  }

  text(name: string, form: RegExp): string | undefined {
    this.#taken.add(name);
    const values = this.#query.getAll(name);
    if (values.length === 0) return undefined;
    if (values.length > 1 || !form.test(values[0]!)) {
      this.wrong(`has ${name} more than once, or in a form that is not understood`);
      return undefined;
    }
    return values[0]!;
  }

  needed(name: string, form: RegExp): string {
    const isThere = this.#query.has(name);
    const value = this.text(name, form);
    if (!isThere) this.wrong(`must have ${name}=…`);
    return value ?? '';
  }

  number(name: string, min: number, max: number): number | undefined {
    const value = this.text(name, /^\d{1,4}$/);
    if (value === undefined) return undefined;
    if (Number(value) < min || Number(value) > max) this.wrong(`must have ${name} from ${min} to ${max}`);
    return Number(value);
  }

  /** An origin, without a slash at the end. */
  url(name: string): string | undefined {
    const value = this.text(name, /^https?:\/\/.{1,500}$/);
    if (value === undefined) return undefined;
    const url = this.#urlOf(value, name);
    if (url !== undefined && (url.pathname !== '/' || url.search !== '')) this.wrong(`has ${name} with a path`);
    return url?.origin;
  }

  service(): KeyService {
    // In names of keys of each of these services.
    const prefix = this.text('prefix', /^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$/) ?? 'sealog';
    if (this.#secretFile === undefined) this.wrong('needs SEALOG_MASTER_KEY_SECRET_FILE, a file with its secret');
    return { prefix, secretFile: resolve(this.#secretFile ?? '') };
  }

  https(): HttpsService {
    const caFile = this.text('ca', /^.{1,1000}$/s);
    return { ...this.service(), caFile: caFile === undefined ? undefined : resolve(caFile) };
  }

  wrong(problem: string): void {
    if (!this.#problems.includes(problem)) this.#problems.push(problem);
  }

  end(masterKey: MasterKey): ParsedMasterKey {
    const unknown = [...new Set(this.#query.keys())].filter((name) => !this.#taken.has(name));
    // Its value may be a secret that somebody thought belongs here.
    if (unknown.length > 0) this.wrong(`has parameters that it does not know: ${unknown.map(shown).join(', ')}`);
    return this.#problems.length > 0 ? { problems: this.#problems } : { masterKey };
  }

  #urlOf(text: string, what: string): URL | undefined {
    const url = URL.parse(text);
    const isUrl = url !== null && (url.protocol === 'https:' || url.protocol === 'http:') && /^https?:\/\//.test(text);
    if (!isUrl) this.wrong(`must have ${what} that begins with https://`);
    else if (url.username !== '' || url.password !== '' || url.hash !== '' || text.includes('#'))
      this.wrong(`must have ${what} without credentials and fragment`);
    else if (url.protocol === 'http:' && !/^(127(\.\d{1,3}){3}|\[::1\])$/.test(url.hostname))
      this.wrong(`must have ${what} that begins with https://: http:// is for a loopback address only`);
    else return url;
    return undefined;
  }
}

function shown(name: string): string {
  return JSON.stringify(name.slice(0, 30));
}

function decoded(text: string): string | undefined {
  try {
    return decodeURIComponent(text);
  } catch {
    return undefined;
  }
}
