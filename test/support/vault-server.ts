/**
 * A server that plays HashiCorp Vault: the Transit engine and AppRole, as its API documentation says, and strict where Vault is: the token, the
 * namespace, the associated data, who may delete. Keys never leave it.
 */
import { createCipheriv, createDecipheriv, randomBytes } from 'node:crypto';
import { type KeyAnswer, type KeyRequest, type KeyServer, startKeyServer } from './key-server.ts';

interface TransitKey {
  readonly key: Buffer;
  readonly type: string;
  readonly exportable: boolean;
  isDeletable: boolean;
}

export interface VaultServer extends KeyServer {
  readonly roleId: string;
  /** Another one makes the old one wrong. */
  secretId: string;
  /** Tokens that are good now; taken out, one has ended. */
  readonly tokens: Set<string>;
  readonly keys: Map<string, TransitKey>;
  /** Lives of tokens that a login gives, in seconds. */
  leaseSeconds: number;
}

const NAMESPACE = 'plants/eu';

export async function startVault(mount = 'transit'): Promise<VaultServer> {
  const keys = new Map<string, TransitKey>();
  const tokens = new Set<string>();
  const own = {
    roleId: 'role-1',
    secretId: `secret-id-${randomBytes(8).toString('hex')}`,
    leaseSeconds: 3600,
    keys,
    tokens,
  };

  function answer({ method, url, headers, text }: KeyRequest): KeyAnswer {
    if (headers['x-vault-namespace'] !== NAMESPACE) return failed(404, 'no handler for route');
    const path = url.pathname.replace(/^\/v1\//, '');
    const body = text === '' ? {} : (JSON.parse(text) as Record<string, unknown>);
    if (path === 'auth/approle/login') {
      if (method !== 'POST' || body['role_id'] !== server.roleId || body['secret_id'] !== server.secretId)
        return failed(400, 'invalid role or secret ID');
      const token = `hvs.${randomBytes(16).toString('hex')}`;
      tokens.add(token);
      return done({ auth: { client_token: token, lease_duration: server.leaseSeconds, renewable: true } });
    }
    if (!tokens.has(String(headers['x-vault-token']))) return failed(403, 'permission denied');
    const [operation, name, more] = path.slice(mount.length + 1).split('/');
    if (!path.startsWith(`${mount}/`)) return failed(404, 'no handler for route');
    if (operation === 'keys' && name === undefined)
      return url.searchParams.get('list') === 'true' && keys.size > 0
        ? done({ data: { keys: [...keys.keys()] } })
        : failed(404);
    const key = keys.get(name!);
    switch (`${method} ${operation}${more === undefined ? '' : `/${more}`}`) {
      case 'POST keys':
        if (key === undefined)
          keys.set(name!, {
            key: randomBytes(32),
            type: String(body['type'] ?? 'aes256-gcm96'),
            exportable: body['exportable'] === true,
            isDeletable: false,
          });
        return done({ data: view(name!) });
      case 'GET keys':
        return key === undefined ? failed(404) : done({ data: view(name!) });
      case 'POST keys/config':
        if (key === undefined) return failed(400, `no existing key named ${name} could be found`);
        key.isDeletable = body['deletion_allowed'] === true;
        return done({ data: view(name!) });
      case 'DELETE keys':
        if (key?.isDeletable !== true) return failed(400, 'deletion is not allowed for this key');
        keys.delete(name!);
        return { status: 204 };
      case 'POST encrypt': {
        // As Vault does where the policy lets it: a key that is not there is made.
        if (key === undefined)
          keys.set(name!, { key: randomBytes(32), type: 'aes256-gcm96', exportable: false, isDeletable: false });
        const nonce = randomBytes(12);
        const cipher = createCipheriv('aes-256-gcm', keys.get(name!)!.key, nonce);
        cipher.setAAD(base64(body['associated_data'] ?? ''));
        const sealed = Buffer.concat([nonce, cipher.update(base64(body['plaintext'])), cipher.final()]);
        return done({
          data: { ciphertext: `vault:v1:${Buffer.concat([sealed, cipher.getAuthTag()]).toString('base64')}` },
        });
      }
      case 'POST decrypt': {
        if (key === undefined) return failed(400, 'encryption key not found');
        try {
          const bytes = base64(String(body['ciphertext']).replace(/^vault:v1:/, ''));
          const decipher = createDecipheriv('aes-256-gcm', key.key, bytes.subarray(0, 12));
          decipher.setAAD(base64(body['associated_data'] ?? ''));
          decipher.setAuthTag(bytes.subarray(-16));
          const text = Buffer.concat([decipher.update(bytes.subarray(12, -16)), decipher.final()]);
          return done({ data: { plaintext: text.toString('base64') } });
        } catch {
          return failed(400, 'cipher: message authentication failed');
        }
      }
      default:
        return failed(405, 'unsupported operation');
    }
  }

  function view(name: string) {
    const { type, exportable, isDeletable } = keys.get(name)!;
    return {
      ...{ name, type, exportable, deletion_allowed: isDeletable, allow_plaintext_backup: false, derived: false },
      ...{ keys: { 1: 1_700_000_000 }, latest_version: 1, min_decryption_version: 1, supports_encryption: true },
    };
  }

  const server: VaultServer = Object.assign(await startKeyServer(answer), own);
  return server;
}

function done(body: object): KeyAnswer {
  return { status: 200, body: { request_id: 'r', lease_id: '', renewable: false, ...body } };
}

function failed(status: number, ...errors: string[]): KeyAnswer {
  return { status, body: { errors } };
}

function base64(text: unknown): Buffer {
  const bytes = Buffer.from(String(text), 'base64');
  if (bytes.toString('base64') !== text) throw new Error('not base64');
  return bytes;
}
