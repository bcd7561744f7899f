/**
 * Month keys in HashiCorp Vault's Transit engine: a key of type aes256-gcm96 for each month and generation, `<prefix>-202703`,
 * `<prefix>-202703-2`, which never leaves Vault. Wrapped data keys are Transit's ciphertexts (`vault:v1:…`), with the associated data of
 * docs/format.md section 13.
 *
 * A key that can be exported, or backed up in the clear, could not be destroyed: it is refused. Deleting a key in Transit is final. That a month
 * was destroyed is a key, too, `<prefix>-202703-destroyed`, which is made before and wraps nothing.
 *
 * Source: Vault's API documentation, Transit secrets engine, and AppRole auth method.
 */
import { DATA_KEY_BYTES } from '../chain/seal.ts';
import { isJsonObject, type JsonMembers } from '../http/json-object.ts';
import { type MonthKeyName, type MonthKeys, monthKeyName, type Removal } from './month-keys.ts';
import { associatedData, monthKeysOf, type NamedKeys, wrong } from './named-keys.ts';
import { fromBase64, jsonBody, type ServiceAnswer, type ServiceCalls, unreachable } from './service-calls.ts';

export interface VaultOptions {
  /** Vault's address without a slash at the end. */
  readonly address: string;
  /** Where the engine is mounted: `transit`. */
  readonly mount: string;
  readonly prefix: string;
  readonly namespace: string | undefined;
  /** How to log in with a secret id; undefined = the secret is a token. */
  readonly appRole: { readonly mount: string; readonly roleId: string } | undefined;
  /** Reads the token, or the secret id. */
  readonly secret: () => Promise<string>;
  readonly calls: ServiceCalls;
}

const CIPHERTEXT = /^vault:v[1-9]\d{0,5}:[A-Za-z0-9+/]{1,4000}={0,2}$/;
/** What may stand in a header. */
const TOKEN = /^[\x21-\x7e]{1,4096}$/;
/** Of a login's life this much is used. */
const LIFE_USED = 0.5;

export function vaultMonthKeys(options: VaultOptions): MonthKeys {
  return monthKeysOf(new TransitKeys(options));
}

class TransitKeys implements NamedKeys {
  readonly #options: VaultOptions;
  #login: { readonly token: string; readonly until: number } | undefined;
  #loggingIn: Promise<string> | undefined;

  constructor(options: VaultOptions) {
    this.#options = options;
  }

  async encrypt(key: MonthKeyName, dataKey: Uint8Array, context: Parameters<NamedKeys['encrypt']>[2]) {
    // Transit makes what it is asked to encrypt with where the policy allows it: looked for first.
    if ((await this.#read(this.#nameOf(key))) === undefined) return undefined;
    const { status, members } = await this.#ask('POST', `encrypt/${this.#nameOf(key)}`, {
      plaintext: Buffer.from(dataKey).toString('base64'),
      associated_data: Buffer.from(associatedData(context)).toString('base64'),
    });
    const ciphertext = dataOf(members)['ciphertext'];
    if (status !== 200 || typeof ciphertext !== 'string' || !CIPHERTEXT.test(ciphertext))
      throw this.#refused('encrypt', status);
    return Buffer.from(ciphertext);
  }

  async decrypt(key: MonthKeyName, wrapped: Uint8Array, context: Parameters<NamedKeys['decrypt']>[2]) {
    const ciphertext = Buffer.from(wrapped).toString('latin1');
    if (!CIPHERTEXT.test(ciphertext)) throw wrong(monthKeyName(key.month, key.generation), context);
    const { status, members } = await this.#ask('POST', `decrypt/${this.#nameOf(key)}`, {
      ciphertext,
      associated_data: Buffer.from(associatedData(context)).toString('base64'),
    });
    if (status === 400 || status === 404) {
      // The same status for a key that is not there and for a ciphertext of another.
      if ((await this.#read(this.#nameOf(key))) === undefined) return undefined;
      throw wrong(monthKeyName(key.month, key.generation), context);
    }
    const dataKey = fromBase64(dataOf(members)['plaintext'], 'base64');
    if (status !== 200 || dataKey?.length !== DATA_KEY_BYTES) throw this.#refused('decrypt', status);
    return dataKey;
  }

  async make(key: MonthKeyName): Promise<void> {
    await this.#make(this.#nameOf(key));
  }

  async remove(key: MonthKeyName): Promise<Removal> {
    const name = this.#nameOf(key);
    if ((await this.#read(name, false)) === undefined) return {};
    const allowed = await this.#ask('POST', `keys/${name}/config`, { deletion_allowed: true });
    const { status } = isDone(allowed) ? await this.#ask('DELETE', `keys/${name}`) : allowed;
    // Another may have been faster; what counts is that it is not there.
    if ((await this.#read(name, false)) !== undefined) throw this.#refused('delete a key', status);
    return {};
  }

  async generations(month: string): Promise<readonly number[]> {
    const { status, members } = await this.#ask('GET', 'keys?list=true');
    if (status === 404) return [];
    const { keys } = dataOf(members);
    if (status !== 200 || !Array.isArray(keys)) throw this.#refused('list keys', status);
    const first = this.#nameOf({ month, generation: 1 });
    return keys.flatMap((name: unknown) => {
      if (name === first) return [1];
      const [, generation] =
        typeof name === 'string' && name.startsWith(`${first}-`) ? (/-([1-9]\d{0,5})$/.exec(name) ?? []) : [];
      return generation !== undefined && name === `${first}-${generation}` ? [Number(generation)] : [];
    });
  }

  noteDestroyed(month: string): Promise<void> {
    return this.#make(this.#noteOf(month));
  }

  async isDestroyed(month: string): Promise<boolean> {
    return (await this.#read(this.#noteOf(month))) !== undefined;
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

  async #make(name: string): Promise<void> {
    const answer = await this.#ask('POST', `keys/${name}`, {
      type: 'aes256-gcm96',
      derived: false,
      exportable: false,
      allow_plaintext_backup: false,
    });
    if (!isDone(answer)) throw this.#refused('make a key', answer.status);
  }

  /** Returns what Transit says of a key, or undefined where it is not there. */
  async #read(name: string, isUsed = true): Promise<JsonMembers | undefined> {
    const { status, members } = await this.#ask('GET', `keys/${name}`);
    if (status === 404) return undefined;
    const key = dataOf(members);
    if (status !== 200 || key['name'] !== name) throw this.#refused('read a key', status);
    const isSealed = key['exportable'] === false && key['allow_plaintext_backup'] === false;
    if (isUsed && (key['type'] !== 'aes256-gcm96' || key['derived'] !== false || !isSealed))
      throw unreachable(`${this.#options.address} has a key ${name} that is not aes256-gcm96, or can be exported`);
    return key;
  }

  async #ask(method: 'GET' | 'POST' | 'DELETE', path: string, body?: object): Promise<ServiceAnswer> {
    const { address, mount, appRole } = this.#options;
    const send = async (token: string): Promise<ServiceAnswer> =>
      this.#options.calls.call(method, `${address}/v1/${mount}/${path}`, {
        headers: { ...this.#headers(), 'x-vault-token': token },
        ...(body === undefined ? {} : { body: jsonBody(body) }),
      });
    const token = await this.#token();
    const answer = await send(token);
    if (answer.status !== 403) return answer;
    if (appRole !== undefined) {
      // A token can end before its time.
      if (this.#login?.token === token) this.#login = undefined;
      const again = await send(await this.#token());
      if (again.status !== 403) return again;
    }
    throw this.#refused(`${method} ${path.split('/')[0]?.split('?')[0]}`, 403);
  }

  async #token(): Promise<string> {
    if (this.#options.appRole === undefined) return headerText(await this.#options.secret());
    if (this.#login !== undefined && performance.now() < this.#login.until) return this.#login.token;
    this.#loggingIn ??= this.#logIn().finally(() => {
      this.#loggingIn = undefined;
    });
    return this.#loggingIn;
  }

  async #logIn(): Promise<string> {
    const { address, appRole, secret, calls } = this.#options;
    const begin = performance.now();
    const { status, members } = await calls.call('POST', `${address}/v1/auth/${appRole!.mount}/login`, {
      headers: this.#headers(),
      body: jsonBody({ role_id: appRole!.roleId, secret_id: await secret() }),
    });
    const { client_token: token, lease_duration: seconds } = objectOf(members['auth']);
    if (status !== 200 || typeof token !== 'string' || typeof seconds !== 'number' || !(seconds >= 0))
      throw this.#refused('log in', status);
    // 0 = it does not end.
    const until = begin + (seconds === 0 ? Number.POSITIVE_INFINITY : seconds * 1000 * LIFE_USED);
    this.#login = { token: headerText(token), until };
    return token;
  }

  #headers(): Record<string, string> {
    const { namespace } = this.#options;
    return {
      'content-type': 'application/json',
      'x-vault-request': 'true',
      ...(namespace === undefined ? {} : { 'x-vault-namespace': namespace }),
    };
  }

  #refused(what: string, status: number) {
    return unreachable(`${this.#options.address} does not ${what} (answered ${status})`);
  }
}

function isDone({ status }: ServiceAnswer): boolean {
  return status === 200 || status === 204;
}

function dataOf(members: JsonMembers): JsonMembers {
  return objectOf(members['data']);
}

function objectOf(value: unknown): JsonMembers {
  return isJsonObject(value) ? value : {};
}

function headerText(token: string): string {
  if (!TOKEN.test(token)) throw unreachable('a token of Vault is not one');
  return token;
}
