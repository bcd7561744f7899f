/**
 * Month keys in AWS KMS: a symmetric KMS key for each month and generation, found by its alias `alias/<prefix>/202703`,
 * `alias/<prefix>/202703-2`. Wrapped data keys are KMS's ciphertexts, bound to stream and drop month by the encryption context, which
 * CloudTrail shows.
 *
 * KMS deletes a key after a waiting period of 7 to 30 days, in which nothing can be decrypted and an administrator can still cancel. That a
 * month was destroyed is an alias, too, `alias/<prefix>/202703-destroyed`, of a key that stands for some years and wraps nothing
 * (`alias/<prefix>/destroyed-2024`; a key has 50 aliases at most).
 *
 * Source: the API reference of AWS KMS (JSON 1.1).
 */
import { setTimeout as delay } from 'node:timers/promises';
import { DATA_KEY_BYTES } from '../chain/seal.ts';
import { isJsonObject, type JsonMembers, parseJsonObject } from '../http/json-object.ts';
import { type AwsCredentials, signedHeaders } from './aws-signature.ts';
import {
  type KeyContext,
  type MonthKeyName,
  type MonthKeys,
  monthKeyName,
  monthOf,
  type Removal,
} from './month-keys.ts';
import { monthKeysOf, type NamedKeys, wrong } from './named-keys.ts';
import { fromBase64, jsonBody, type ServiceCalls, unreachable } from './service-calls.ts';

export interface AwsKmsOptions {
  readonly region: string;
  /** With a slash at the end. */
  readonly endpoint: string;
  readonly prefix: string;
  /** Days until a destroyed key is deleted, 7 to 30. */
  readonly windowDays: number;
  /** Reads the credentials, in the form that a `credential_process` prints. */
  readonly secret: () => Promise<string>;
  readonly calls: ServiceCalls;
  readonly wallClock: () => number;
  /** A key that was made is not found everywhere at once. For tests. */
  readonly settleMs?: number;
}

/** What KMS says, by name: an answer, or why there is none. */
interface KmsAnswer {
  readonly error: string | undefined;
  readonly members: JsonMembers;
}

const PAGES_MAX = 1000;
const SETTLE_MS = 300;
const SETTLE_TRIES = 10;
const YEARS_A_MARKER = 4;

export function awsMonthKeys(options: AwsKmsOptions): MonthKeys {
  return monthKeysOf(new KmsKeys(options));
}

class KmsKeys implements NamedKeys {
  readonly #options: AwsKmsOptions;

  constructor(options: AwsKmsOptions) {
    this.#options = options;
  }

  async encrypt(key: MonthKeyName, dataKey: Uint8Array, context: KeyContext): Promise<Uint8Array | undefined> {
    const answer = await this.#ask('Encrypt', {
      KeyId: this.#aliasOf(key),
      Plaintext: Buffer.from(dataKey).toString('base64'),
      EncryptionContext: contextOf(context),
    });
    if (await this.#isGone(key, answer)) return undefined;
    const wrapped = fromBase64(answer.members['CiphertextBlob'], 'base64');
    if (answer.error !== undefined || wrapped === undefined) throw refused('Encrypt', answer);
    return wrapped;
  }

  async decrypt(key: MonthKeyName, wrapped: Uint8Array, context: KeyContext): Promise<Uint8Array | undefined> {
    const answer = await this.#ask('Decrypt', {
      KeyId: this.#aliasOf(key),
      CiphertextBlob: Buffer.from(wrapped).toString('base64'),
      EncryptionContext: contextOf(context),
    });
    if (['InvalidCiphertextException', 'IncorrectKeyException'].includes(answer.error ?? ''))
      throw wrong(monthKeyName(key.month, key.generation), context);
    if (await this.#isGone(key, answer)) return undefined;
    const dataKey = fromBase64(answer.members['Plaintext'], 'base64');
    if (answer.error !== undefined || dataKey?.length !== DATA_KEY_BYTES) throw refused('Decrypt', answer);
    return dataKey;
  }

  async make(key: MonthKeyName): Promise<void> {
    await this.#make(this.#aliasOf(key), `Sealog, ${monthKeyName(key.month, key.generation)}`);
  }

  async remove(key: MonthKeyName): Promise<Removal> {
    const found = await this.#describe(this.#aliasOf(key));
    if (found === undefined) return {};
    if (found['KeyState'] === 'PendingDeletion') return removalAt(found['DeletionDate']);
    const answer = await this.#schedule(found['KeyId'], this.#options.windowDays);
    if (answer.error !== undefined) throw refused('ScheduleKeyDeletion', answer);
    return removalAt(answer.members['DeletionDate']);
  }

  async generations(month: string): Promise<readonly number[]> {
    const first = this.#aliasOf({ month, generation: 1 });
    const found: number[] = [];
    let marker: unknown;
    for (let page = 0; page < PAGES_MAX; page++) {
      const answer = await this.#ask('ListAliases', {
        Limit: 100,
        ...(marker === undefined ? {} : { Marker: marker }),
      });
      const { Aliases: aliases, Truncated: isCut, NextMarker: next } = answer.members;
      if (answer.error !== undefined || !Array.isArray(aliases)) throw refused('ListAliases', answer);
      for (const alias of aliases) {
        const name: unknown = isJsonObject(alias) ? alias['AliasName'] : undefined;
        if (typeof name !== 'string' || !name.startsWith(first)) continue;
        const [whole, generation] = /^(?:-([1-9]\d{0,5}))?$/.exec(name.slice(first.length)) ?? [];
        if (whole !== undefined) found.push(Number(generation ?? 1));
      }
      if (isCut !== true) return found;
      marker = next;
    }
    throw unreachable(`AWS KMS has more than ${PAGES_MAX} pages of aliases`);
  }

  async noteDestroyed(month: string): Promise<void> {
    if (await this.isDestroyed(month)) return;
    const year = Number(month.slice(0, -2));
    const marker = this.#alias(`destroyed-${year - (year % YEARS_A_MARKER)}`);
    if ((await this.#describe(marker)) === undefined)
      await this.#make(marker, 'Sealog, marks months whose keys were destroyed');
    const target = (await this.#describe(marker))?.['KeyId'];
    const answer = await this.#ask('CreateAlias', { AliasName: this.#noteOf(month), TargetKeyId: target });
    if (answer.error !== undefined && answer.error !== 'AlreadyExistsException') throw refused('CreateAlias', answer);
    await this.#settle(this.#noteOf(month));
  }

  async isDestroyed(month: string): Promise<boolean> {
    return (await this.#describe(this.#noteOf(month))) !== undefined;
  }

  close(): void {
    this.#options.calls.close();
  }

  #aliasOf({ month, generation }: MonthKeyName): string {
    return this.#alias(`${month}${generation === 1 ? '' : `-${generation}`}`);
  }

  #noteOf(month: string): string {
    return this.#alias(`${month}-destroyed`);
  }

  #alias(name: string): string {
    return `alias/${this.#options.prefix}/${name}`;
  }

  async #make(alias: string, description: string): Promise<void> {
    const made = await this.#ask(
      'CreateKey',
      {
        Description: description,
        KeySpec: 'SYMMETRIC_DEFAULT',
        KeyUsage: 'ENCRYPT_DECRYPT',
        Tags: [{ TagKey: 'sealog', TagValue: alias.slice('alias/'.length) }],
      },
      true,
    );
    const { KeyId: id } = objectOf(made.members['KeyMetadata']);
    if (made.error !== undefined || typeof id !== 'string') throw refused('CreateKey', made);
    const answer = await this.#ask('CreateAlias', { AliasName: alias, TargetKeyId: id });
    if (answer.error !== undefined) {
      // Another was faster, or it failed: nothing was wrapped by the key that we made, and it would cost for ever.
      await this.#schedule(id, 7);
      if (answer.error !== 'AlreadyExistsException') throw refused('CreateAlias', answer);
    }
    await this.#settle(alias);
  }

  async #settle(alias: string): Promise<void> {
    for (let i = 0; i < SETTLE_TRIES; i++) {
      if ((await this.#describe(alias)) !== undefined) return;
      await delay(this.#options.settleMs ?? SETTLE_MS);
    }
    throw unreachable(`AWS KMS does not find ${alias}, which it made`);
  }

  /** Says whether an answer means that there is no such key, or that it is on its way out. */
  async #isGone(key: MonthKeyName, { error }: KmsAnswer): Promise<boolean> {
    if (error === 'NotFoundException') return true;
    if (error !== 'KMSInvalidStateException') return false;
    return (await this.#describe(this.#aliasOf(key)))?.['KeyState'] === 'PendingDeletion';
  }

  async #describe(alias: string): Promise<JsonMembers | undefined> {
    const answer = await this.#ask('DescribeKey', { KeyId: alias });
    if (answer.error === 'NotFoundException') return undefined;
    const metadata = answer.members['KeyMetadata'];
    if (answer.error !== undefined || !isJsonObject(metadata)) throw refused('DescribeKey', answer);
    return metadata;
  }

  #schedule(id: unknown, days: number): Promise<KmsAnswer> {
    return this.#ask('ScheduleKeyDeletion', { KeyId: id, PendingWindowInDays: days });
  }

  async #ask(operation: string, request: object, isOnce = false): Promise<KmsAnswer> {
    const { region, endpoint, secret, calls, wallClock } = this.#options;
    const body = jsonBody(request);
    const headers = signedHeaders(readCredentials(await secret()), {
      method: 'POST',
      url: new URL(endpoint),
      headers: { 'content-type': 'application/x-amz-json-1.1', 'x-amz-target': `TrentService.${operation}` },
      ...{ body, region, service: 'kms', now: wallClock() },
    });
    const { status, members } = await calls.call('POST', endpoint, {
      headers,
      body,
      ...(isOnce ? { once: true } : {}),
    });
    if (status === 200) return { error: undefined, members };
    // The name stands alone, or behind the namespace.
    const [, name = `${status}`] = /^(?:[\w.]{1,100}#)?(\w{1,100})$/.exec(String(members['__type'])) ?? [];
    return { error: name, members: {} };
  }
}

/** CloudTrail shows it: the stream's name, which says tenant and category. */
function contextOf({ stream, dropMonth }: KeyContext): Record<string, string> {
  return { 'sealog:stream': stream, 'sealog:month': monthOf(dropMonth) };
}

function removalAt(date: unknown): Removal {
  return typeof date === 'number' ? { recoverableUntil: new Date(date * 1000).toISOString() } : {};
}

function readCredentials(text: string): AwsCredentials {
  const { AccessKeyId: id, SecretAccessKey: secret, SessionToken: token } = parseJsonObject(Buffer.from(text)) ?? {};
  const isText = (value: unknown): value is string => typeof value === 'string' && /^[\x21-\x7e]{1,8192}$/.test(value);
  if (!isText(id) || !isText(secret) || (token !== undefined && !isText(token)))
    throw unreachable('the file of credentials is not what a credential_process prints');
  return { accessKeyId: id, secretAccessKey: secret, sessionToken: token };
}

function objectOf(value: unknown): JsonMembers {
  return isJsonObject(value) ? value : {};
}

function refused(operation: string, { error }: KmsAnswer) {
  return unreachable(`AWS KMS: ${operation} ${error ?? 'was answered in a form that is not documented'}`);
}
