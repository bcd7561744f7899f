/**
 * A server that plays Azure Key Vault (REST, 7.4) and the token endpoint of Entra ID, as their references say, and strict where they are: the
 * token and its audience, versions of keys, allowed operations, deleting in two steps that take their time.
 */
import {
  constants,
  createHash,
  generateKeyPairSync,
  type KeyObject,
  privateDecrypt,
  privateEncrypt,
  publicEncrypt,
  randomBytes,
} from 'node:crypto';
import { type KeyAnswer, type KeyRequest, type KeyServer, startKeyServer } from './key-server.ts';

interface Version {
  readonly version: string;
  readonly kty: string;
  readonly privateKey: KeyObject;
  readonly publicKey: KeyObject;
  readonly operations: readonly string[];
  enabled: boolean;
}

export interface KeyVaultServer extends KeyServer {
  readonly tenant: string;
  readonly clientId: string;
  clientSecret: string;
  readonly scope: string;
  readonly tokens: Set<string>;
  readonly keys: Map<string, Version[]>;
  readonly deleted: Map<string, { readonly versions: Version[]; looks: number }>;
  hasPurgeProtection: boolean;
  /** A deleted key is not shown so many times. */
  deletingFor: number;
  pageSize: number;
}

const PURGE_AT = 1_900_000_000;
/** Making one takes longer than a call may: some are made before, and used in turns. */
const PAIRS = 5;
const rsaPairs: { readonly privateKey: KeyObject; readonly publicKey: KeyObject }[] = [];
let made = 0;
const OAEP = { padding: constants.RSA_PKCS1_OAEP_PADDING, oaepHash: 'sha256' };

export async function startKeyVault(): Promise<KeyVaultServer> {
  while (rsaPairs.length < PAIRS) rsaPairs.push(generateKeyPairSync('rsa', { modulusLength: 2048 }));
  const keys = new Map<string, Version[]>();
  const deleted: KeyVaultServer['deleted'] = new Map();
  const tokens = new Set<string>();

  function answer(request: KeyRequest): KeyAnswer {
    const { method, url, headers, text } = request;
    if (url.pathname === `/${server.tenant}/oauth2/v2.0/token`) return token(text);
    if (!tokens.has(String(headers['authorization']).replace(/^Bearer /, ''))) return failed(401, 'Unauthorized');
    if (url.searchParams.get('api-version') !== '7.4') return failed(400, 'BadParameter');
    const [, area, name = '', version = '', operation] = url.pathname.split('/');
    const body = text === '' ? {} : (JSON.parse(text) as Record<string, unknown>);
    if (name !== '' && !/^[0-9a-zA-Z-]{1,127}$/.test(name)) return failed(400, 'BadParameter');
    if (name === '') return list(url, area === 'deletedkeys' ? deleted : keys);
    if (area === 'deletedkeys') return ofDeleted(method, name);
    if (method === 'POST' && version === 'create') return create(name, body);
    const versions = keys.get(name);
    if (versions === undefined) return failed(404, 'KeyNotFound');
    if (method === 'DELETE') {
      keys.delete(name);
      deleted.set(name, { versions, looks: server.deletingFor });
      return { status: 200, body: { ...view(name, versions.at(-1)!), ...ofRecovery(name) } };
    }
    const found = version === '' ? versions.at(-1) : versions.find((one) => one.version === version);
    if (found === undefined) return failed(404, 'KeyNotFound');
    if (method === 'GET') return { status: 200, body: view(name, found) };
    return operate(name, found, operation ?? '', body);
  }

  function token(text: string): KeyAnswer {
    const form = new URLSearchParams(text);
    const isGood =
      form.get('grant_type') === 'client_credentials' &&
      form.get('client_id') === server.clientId &&
      form.get('client_secret') === server.clientSecret &&
      form.get('scope') === `${server.scope}/.default`;
    if (!isGood) return { status: 401, body: { error: 'invalid_client', error_description: `not ${text}` } };
    const made = randomBytes(24).toString('base64url');
    tokens.add(made);
    return { status: 200, body: { token_type: 'Bearer', expires_in: 3599, access_token: made } };
  }

  function create(name: string, body: Record<string, unknown>): KeyAnswer {
    if (deleted.has(name)) return failed(409, 'Conflict');
    const kty = String(body['kty']);
    const pair = kty === 'EC' ? generateKeyPairSync('ec', { namedCurve: 'P-256' }) : rsaPairs[made++ % PAIRS]!;
    const operations = (body['key_ops'] ?? []) as string[];
    const version: Version = { version: randomBytes(16).toString('hex'), kty, ...pair, operations, enabled: true };
    keys.set(name, [...(keys.get(name) ?? []), version]);
    return { status: 200, body: view(name, version) };
  }

  function operate(name: string, key: Version, operation: string, body: Record<string, unknown>): KeyAnswer {
    const value = Buffer.from(String(body['value']), 'base64url');
    const needed = { wrapkey: 'wrapKey', unwrapkey: 'unwrapKey', sign: 'sign' }[operation];
    if (needed === undefined || !key.operations.includes(needed) || !key.enabled) return failed(403, 'Forbidden');
    if (body['alg'] !== (operation === 'sign' ? 'PS256' : 'RSA-OAEP-256')) return failed(400, 'BadParameter');
    try {
      const result =
        operation === 'wrapkey'
          ? publicEncrypt({ key: key.publicKey, ...OAEP }, value)
          : operation === 'unwrapkey'
            ? privateDecrypt({ key: key.privateKey, ...OAEP }, value)
            : signDigest(key.privateKey, value);
      return { status: 200, body: { kid: kid(name, key), value: result.toString('base64url') } };
    } catch {
      return failed(400, 'BadParameter');
    }
  }

  function ofDeleted(method: string, name: string): KeyAnswer {
    const found = deleted.get(name);
    if (found === undefined) return failed(404, 'KeyNotFound');
    if (found.looks > 0) {
      found.looks -= 1;
      return method === 'GET' ? failed(404, 'KeyNotFound') : failed(409, 'Conflict');
    }
    if (method === 'GET') return { status: 200, body: { ...view(name, found.versions.at(-1)!), ...ofRecovery(name) } };
    if (server.hasPurgeProtection) return failed(403, 'Forbidden');
    deleted.delete(name);
    return { status: 204 };
  }

  function list(url: URL, of: ReadonlyMap<string, unknown>): KeyAnswer {
    const names = [...of.keys()].sort();
    const from = Number(url.searchParams.get('$skiptoken') ?? 0);
    const value = names.slice(from, from + server.pageSize).map((name) => ({ kid: `${server.url}/keys/${name}` }));
    const end = from + server.pageSize;
    const nextLink = end < names.length ? `${server.url}${url.pathname}?api-version=7.4&$skiptoken=${end}` : null;
    return { status: 200, body: { value, nextLink } };
  }

  function view(name: string, key: Version) {
    const jwk = key.publicKey.export({ format: 'jwk' });
    return {
      key: { kid: kid(name, key), kty: key.kty, key_ops: key.operations, n: jwk.n, e: jwk.e },
      attributes: { enabled: key.enabled, exportable: false, recoveryLevel: 'Recoverable+Purgeable' },
    };
  }

  function kid(name: string, { version }: Version): string {
    return `${server.url}/keys/${name}/${version}`;
  }

  function ofRecovery(name: string) {
    return {
      recoveryId: `${server.url}/deletedkeys/${name}`,
      deletedDate: 1_800_000_000,
      scheduledPurgeDate: PURGE_AT,
    };
  }

  const server: KeyVaultServer = Object.assign(await startKeyServer(answer), {
    ...{ tenant: 'tenant-1', clientId: 'client-1', clientSecret: `client~${randomBytes(16).toString('hex')}` },
    ...{ scope: 'https://vault.azure.net', tokens, keys, deleted },
    ...{ hasPurgeProtection: false, deletingFor: 0, pageSize: 25 },
  });
  return server;
}

/** PS256 over a digest, which is what Key Vault is given. Node signs messages: EMSA-PSS (RFC 8017 section 9.1.1) by hand, then bare RSA. */
function signDigest(key: KeyObject, digest: Buffer): Buffer {
  if (digest.length !== 32) throw new Error('no digest of SHA-256');
  const bits = key.asymmetricKeyDetails!.modulusLength! - 1;
  const length = Math.ceil(bits / 8);
  const salt = randomBytes(32);
  const hash = (...parts: Buffer[]) => createHash('sha256').update(Buffer.concat(parts)).digest();
  const h = hash(Buffer.alloc(8), digest, salt);
  const db = Buffer.concat([Buffer.alloc(length - 32 - 32 - 2), Buffer.of(1), salt]);
  const mask: Buffer[] = [];
  for (let i = 0; mask.length * 32 < db.length; i++) {
    const counter = Buffer.alloc(4);
    counter.writeUInt32BE(i);
    mask.push(hash(h, counter));
  }
  const bytes = Buffer.concat(mask);
  const masked = db.map((byte, i) => byte ^ bytes[i]!);
  masked[0]! &= 0xff >> (8 * length - bits);
  const encoded = Buffer.concat([masked, h, Buffer.of(0xbc)]);
  const whole = Buffer.concat([Buffer.alloc(key.asymmetricKeyDetails!.modulusLength! / 8 - encoded.length), encoded]);
  return privateEncrypt({ key, padding: constants.RSA_NO_PADDING }, whole);
}

function failed(status: number, code: string): KeyAnswer {
  return { status, body: { error: { code, message: `because of ${code}` } } };
}
