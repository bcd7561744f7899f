/**
 * Month keys in Azure Key Vault: an RSA key for each month and generation, `<prefix>-202703`, `<prefix>-202703-2`, that wraps (RSA-OAEP-256)
 * and signs (PS256).
 *
 *     wrapped = LP(key version) ‖ LP(wrapped data key) ‖ LP(signature)
 *     signed  = "sealog/azure-wrap/v1\0" ‖ LP(key name) ‖ LP(key version) ‖ LP(associated data) ‖ LP(wrapped data key)
 *
 * Wrapping with RSA takes a public key, which is no secret, and binds nothing. The signature binds to stream and month, and shows that the
 * vault wrapped it: without it, who may write to the database could hand us a data key of his own.
 *
 * A key is deleted and purged: the purge is final. A vault with purge protection keeps it recoverable until the date that it says. That a month
 * was destroyed is a key, too, `<prefix>-202703-destroyed`, which wraps nothing.
 *
 * Source: the REST reference of Azure Key Vault, version 7.4, and of the Microsoft identity platform, client credentials.
 */
import { constants, createHash, createPublicKey, type KeyObject, verify } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import { concatBytes, lengthPrefixed, utf8 } from '../chain/bytes.ts';
import { DATA_KEY_BYTES } from '../chain/seal.ts';
import { isJsonObject, type JsonMembers } from '../http/json-object.ts';
import { type KeyContext, type MonthKeyName, type MonthKeys, monthKeyName, type Removal } from './month-keys.ts';
import { associatedData, monthKeysOf, type NamedKeys, wrong } from './named-keys.ts';
import { fromBase64, jsonBody, type ServiceAnswer, type ServiceCalls, unreachable } from './service-calls.ts';

export interface AzureKeyVaultOptions {
  /** `https://<name>.vault.azure.net`, without a slash at the end. */
  readonly vault: string;
  /** Where tokens are made: `https://login.microsoftonline.com`, likewise. */
  readonly authority: string;
  /** What tokens are for: `https://vault.azure.net/.default`. */
  readonly scope: string;
  readonly tenant: string;
  readonly clientId: string;
  readonly prefix: string;
  readonly keyType: 'RSA' | 'RSA-HSM';
  /** Reads the client secret. */
  readonly secret: () => Promise<string>;
  readonly calls: ServiceCalls;
  /** Between two looks at a key that is being deleted. For tests. */
  readonly settleMs?: number;
}

interface VaultKey {
  readonly version: string;
  readonly publicKey: KeyObject;
}

interface WrappedParts {
  readonly version: string;
  readonly sealed: Uint8Array;
  readonly signature: Uint8Array;
}

const API = 'api-version=7.4';
const TAG = utf8('sealog/azure-wrap/v1\0');
const VERSION = /^[0-9a-f]{1,64}$/;
const KEY_BITS = 3072;
/** Before its end a token is not used any more; of a short life a half. */
const MARGIN_MS = 300_000;
const PAGES_MAX = 1000;
const SETTLE_MS = 500;
const SETTLE_TRIES = 20;

export function azureMonthKeys(options: AzureKeyVaultOptions): MonthKeys {
  return monthKeysOf(new VaultKeys(options));
}

class VaultKeys implements NamedKeys {
  readonly #options: AzureKeyVaultOptions;
  #token: { readonly value: string; readonly until: number } | undefined;
  #fetching: Promise<string> | undefined;

  constructor(options: AzureKeyVaultOptions) {
    this.#options = options;
  }

  async encrypt(key: MonthKeyName, dataKey: Uint8Array, context: KeyContext): Promise<Uint8Array | undefined> {
    const name = this.#nameOf(key);
    const found = await this.#read(name);
    if (found === undefined) return undefined;
    const { version, publicKey } = found;
    const sealed = await this.#operate(name, version, 'wrapkey', 'RSA-OAEP-256', dataKey);
    if (sealed === undefined) return undefined;
    const signed = signedBytes(name, version, context, sealed);
    const signature = await this.#operate(name, version, 'sign', 'PS256', createHash('sha256').update(signed).digest());
    if (signature === undefined) return undefined;
    if (!isSigned(publicKey, signed, signature)) throw unreachable(`${this.#options.vault} signed something else`);
    return concatBytes(lengthPrefixed(utf8(version)), lengthPrefixed(sealed), lengthPrefixed(signature));
  }

  async decrypt(key: MonthKeyName, wrapped: Uint8Array, context: KeyContext): Promise<Uint8Array | undefined> {
    const name = this.#nameOf(key);
    const foreign = () => wrong(monthKeyName(key.month, key.generation), context);
    const parts = readParts(wrapped);
    if (parts === undefined) throw foreign();
    const { version, sealed, signature } = parts;
    const found = await this.#read(name, version);
    // Another version of a key that is there is another key.
    if (found === undefined) {
      if ((await this.#read(name)) === undefined) return undefined;
      throw foreign();
    }
    if (!isSigned(found.publicKey, signedBytes(name, version, context, sealed), signature)) throw foreign();
    const dataKey = await this.#operate(name, version, 'unwrapkey', 'RSA-OAEP-256', sealed);
    if (dataKey !== undefined && dataKey.length !== DATA_KEY_BYTES) throw foreign();
    return dataKey;
  }

  async make(key: MonthKeyName): Promise<void> {
    const name = this.#nameOf(key);
    // Made again, a key has another version: looked for first, and two at once do no harm, since each wrapped key names its own.
    if ((await this.#read(name)) !== undefined) return;
    await this.#create(name, {
      kty: this.#options.keyType,
      key_size: KEY_BITS,
      key_ops: ['wrapKey', 'unwrapKey', 'sign', 'verify'],
    });
  }

  async remove(key: MonthKeyName): Promise<Removal> {
    const name = this.#nameOf(key);
    const deleted = await this.#ask('DELETE', `/keys/${name}?${API}`);
    if (deleted.status !== 200 && deleted.status !== 404) throw this.#refused('delete a key', deleted);
    // Deleting takes the vault some seconds, in which the key is neither here nor there.
    for (let i = 0; i < SETTLE_TRIES; i++) {
      const kept = await this.#ask('GET', `/deletedkeys/${name}?${API}`);
      if (kept.status === 404 && deleted.status === 404) return {};
      if (kept.status === 200) {
        const purged = await this.#ask('DELETE', `/deletedkeys/${name}?${API}`);
        if (purged.status === 204 || purged.status === 404) return {};
        const until = kept.members['scheduledPurgeDate'];
        // With purge protection nobody purges before that date.
        if (purged.status === 403 && typeof until === 'number')
          return { recoverableUntil: new Date(until * 1000).toISOString() };
        if (purged.status !== 409) throw this.#refused('purge a key', purged);
      } else if (kept.status !== 404) throw this.#refused('show a deleted key', kept);
      await delay(this.#options.settleMs ?? SETTLE_MS);
    }
    throw unreachable(`${this.#options.vault} has not deleted a key yet`);
  }

  /** With those that are deleted and may not be purged yet: whoever was cut between the two goes on with them. */
  async generations(month: string): Promise<readonly number[]> {
    return [...new Set([...(await this.#listed('keys', month)), ...(await this.#listed('deletedkeys', month))])];
  }

  async #listed(area: 'keys' | 'deletedkeys', month: string): Promise<readonly number[]> {
    const { vault } = this.#options;
    const first = this.#nameOf({ month, generation: 1 });
    const found: number[] = [];
    let path = `/${area}?${API}&maxresults=25`;
    for (let page = 0; page < PAGES_MAX; page++) {
      const answer = await this.#ask('GET', path);
      const { value: keys, nextLink: next } = answer.members;
      if (answer.status !== 200 || !Array.isArray(keys)) throw this.#refused('list keys', answer);
      for (const key of keys) {
        const name = nameOfKid(isJsonObject(key) ? key['kid'] : undefined);
        if (name === first) found.push(1);
        const [, generation] = name?.startsWith(`${first}-`) ? (/-([1-9]\d{0,5})$/.exec(name) ?? []) : [];
        if (generation !== undefined && name === `${first}-${generation}`) found.push(Number(generation));
      }
      if (next === null || next === undefined || next === '') return found;
      // It is asked with our token: nobody but the vault.
      if (typeof next !== 'string' || !next.startsWith(`${vault}/`))
        throw this.#refused('list its keys itself', answer);
      path = next.slice(vault.length);
    }
    throw unreachable(`${vault} has more than ${PAGES_MAX} pages of keys`);
  }

  async noteDestroyed(month: string): Promise<void> {
    if (await this.isDestroyed(month)) return;
    await this.#create(this.#noteOf(month), { kty: 'EC', crv: 'P-256', key_ops: ['verify'] });
  }

  async isDestroyed(month: string): Promise<boolean> {
    const name = this.#noteOf(month);
    const answer = await this.#ask('GET', `/keys/${name}?${API}`);
    if (answer.status === 404) return false;
    const isNote = nameOfKid(objectOf(answer.members['key'])['kid']) === name;
    if (answer.status !== 200 || !isNote) throw this.#refused('read a key', answer);
    return true;
  }

  close(): void {
    this.#options.calls.close();
  }

  #nameOf({ month, generation }: MonthKeyName): string {
    return `${this.#options.prefix}-${month}${generation === 1 ? '' : `-${generation}`}`;
  }

  #noteOf(month: string): string {
    return `${this.#options.prefix}-${month}-destroyed`;
  }

  /** Returns the newest version of a key, or the one that is named; undefined where there is none. */
  async #read(name: string, version?: string): Promise<VaultKey | undefined> {
    const answer = await this.#ask('GET', `/keys/${name}${version === undefined ? '' : `/${version}`}?${API}`);
    if (answer.status === 404) return undefined;
    const key = objectOf(answer.members['key']);
    const [, , , found] = String(key['kid']).split('/').slice(2);
    const attributes = objectOf(answer.members['attributes']);
    if (answer.status !== 200 || found === undefined || !VERSION.test(found) || nameOfKid(key['kid']) !== name)
      throw this.#refused('read a key', answer);
    if (version !== undefined && found !== version) throw this.#refused('read that version of a key', answer);
    if (attributes['enabled'] !== true || attributes['exportable'] === true)
      throw unreachable(`${this.#options.vault} has a key ${name} that is disabled, or can be exported`);
    if (key['kty'] !== 'RSA' && key['kty'] !== 'RSA-HSM')
      throw unreachable(`${this.#options.vault} has a key ${name} that is not RSA`);
    try {
      const jwk = { kty: 'RSA', n: String(key['n']), e: String(key['e']) };
      return { version: found, publicKey: createPublicKey({ key: jwk, format: 'jwk' }) };
    } catch {
      throw this.#refused('show its public key', answer);
    }
  }

  /** Returns undefined where there is no such key any more. */
  async #operate(
    name: string,
    version: string,
    operation: 'wrapkey' | 'unwrapkey' | 'sign',
    alg: string,
    value: Uint8Array,
  ): Promise<Uint8Array | undefined> {
    const body = { alg, value: Buffer.from(value).toString('base64url') };
    const answer = await this.#ask('POST', `/keys/${name}/${version}/${operation}?${API}`, body);
    if (answer.status === 404) return undefined;
    const { kid, value: result } = answer.members;
    const bytes = fromBase64(result, 'base64url');
    if (answer.status !== 200 || bytes === undefined || !String(kid).endsWith(`/keys/${name}/${version}`))
      throw this.#refused(operation, answer);
    return bytes;
  }

  async #create(name: string, key: object): Promise<void> {
    const body = { ...key, attributes: { enabled: true } };
    const answer = await this.#ask('POST', `/keys/${name}/create?${API}`, body);
    if (answer.status !== 200) throw this.#refused('make a key', answer);
  }

  async #ask(method: 'GET' | 'POST' | 'DELETE', path: string, body?: object): Promise<ServiceAnswer> {
    const { vault, calls } = this.#options;
    const send = (token: string): Promise<ServiceAnswer> =>
      calls.call(method, `${vault}${path}`, {
        headers: { authorization: `Bearer ${token}`, 'content-type': 'application/json' },
        ...(body === undefined ? {} : { body: jsonBody(body) }),
      });
    const token = await this.#tokenNow();
    const answer = await send(token);
    if (answer.status !== 401) return answer;
    // A token can end before its time.
    if (this.#token?.value === token) this.#token = undefined;
    return send(await this.#tokenNow());
  }

  async #tokenNow(): Promise<string> {
    if (this.#token !== undefined && performance.now() < this.#token.until) return this.#token.value;
    this.#fetching ??= this.#fetchToken().finally(() => {
      this.#fetching = undefined;
    });
    return this.#fetching;
  }

  async #fetchToken(): Promise<string> {
    const { authority, tenant, clientId, scope, secret, calls } = this.#options;
    const begin = performance.now();
    const form = new URLSearchParams({
      grant_type: 'client_credentials',
      client_id: clientId,
      client_secret: await secret(),
      scope,
    });
    const { status, members } = await calls.call('POST', `${authority}/${tenant}/oauth2/v2.0/token`, {
      headers: { 'content-type': 'application/x-www-form-urlencoded' },
      body: Buffer.from(form.toString()),
    });
    const { token_type: type, access_token: token, expires_in: seconds } = members;
    const isSound = typeof token === 'string' && /^[\w.~+/-]{1,16384}=*$/.test(token);
    if (status !== 200 || String(type).toLowerCase() !== 'bearer' || !isSound || typeof seconds !== 'number')
      throw unreachable(`${authority} gave no token (answered ${status}${errorWord(members['error'])})`);
    const life = seconds * 1000;
    this.#token = { value: token, until: begin + Math.max(life - MARGIN_MS, life / 2) };
    return token;
  }

  #refused(what: string, { status, members }: Pick<ServiceAnswer, 'status' | 'members'>) {
    const word = errorWord(objectOf(members['error'])['code']);
    return unreachable(`${this.#options.vault} does not ${what} (answered ${status}${word})`);
  }
}

/** A code of the service's, such as `Forbidden`; nothing else of an answer is shown. */
function errorWord(code: unknown): string {
  return typeof code === 'string' && /^\w{1,60}$/.test(code) ? `, ${code}` : '';
}

function nameOfKid(kid: unknown): string | undefined {
  return typeof kid === 'string'
    ? /^https?:\/\/[^/]+\/keys\/([0-9A-Za-z-]{1,127})(?:\/[0-9a-f]{1,64})?$/.exec(kid)?.[1]
    : undefined;
}

function signedBytes(name: string, version: string, context: KeyContext, sealed: Uint8Array): Uint8Array {
  const parts = [utf8(name), utf8(version), associatedData(context), sealed];
  return concatBytes(TAG, ...parts.map(lengthPrefixed));
}

function isSigned(publicKey: KeyObject, signed: Uint8Array, signature: Uint8Array): boolean {
  const options = { key: publicKey, padding: constants.RSA_PKCS1_PSS_PADDING, saltLength: 32 };
  return verify('sha256', signed, options, signature);
}

function readParts(wrapped: Uint8Array): WrappedParts | undefined {
  const parts: Uint8Array[] = [];
  const view = Buffer.from(wrapped);
  let at = 0;
  while (at < view.length && parts.length < 3) {
    if (at + 4 > view.length) return undefined;
    const length = view.readUInt32BE(at);
    if (at + 4 + length > view.length) return undefined;
    parts.push(view.subarray(at + 4, at + 4 + length));
    at += 4 + length;
  }
  const [version, sealed, signature] = parts;
  if (at !== view.length || version === undefined || sealed === undefined || signature === undefined) return undefined;
  const text = Buffer.from(version).toString('latin1');
  return VERSION.test(text) ? { version: text, sealed, signature } : undefined;
}

function objectOf(value: unknown): JsonMembers {
  return isJsonObject(value) ? value : {};
}
