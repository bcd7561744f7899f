/**
 * Month keys in an HSM by PKCS#11: AES-256 keys that can not be read out, for each month and generation, labelled `<prefix>-202703`,
 * `<prefix>-202703-2`, each with an id of its own.
 *
 *     wrapped = CKA_ID (16 bytes) ‖ nonce (12 random bytes) ‖ CKM_AES_GCM(key, nonce, data key, associated data), tag of 16 bytes behind
 *
 * Two who make the same key at once make two of one label; what each wrapped names its own. That a month was destroyed is a data object,
 * `<prefix>-202703-destroyed`.
 *
 * Source: PKCS #11 version 2.40. The binding is the package pkcs11js, which has to be compiled and is therefore no dependency (docs/keys.md).
 */

import { randomBytes } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import { getEnvironmentData, setEnvironmentData, Worker } from 'node:worker_threads';
import { concatBytes } from '../chain/bytes.ts';
import { DATA_KEY_BYTES } from '../chain/seal.ts';
import { type KeyContext, type MonthKeyName, type MonthKeys, monthKeyName, type Removal } from './month-keys.ts';
import { associatedData, monthKeysOf, type NamedKeys, wrong } from './named-keys.ts';
import { unreachable } from './service-calls.ts';

export interface Pkcs11Options extends Pkcs11Task {
  readonly prefix: string;
  /** Reads the PIN. */
  readonly secret: () => Promise<string>;
  readonly callMs?: number | undefined;
}

export interface Pkcs11Task {
  /** The library of the HSM. */
  readonly module: string;
  /** The token's label. */
  readonly token: string;
  /** The package pkcs11js: its name, or a folder that it is in. */
  readonly binding: string;
}

export type Pkcs11Question =
  | { readonly call: 'list' | 'ids' | 'remove' | 'note' | 'noted'; readonly label: string }
  | { readonly call: 'make'; readonly label: string; readonly keyId: Uint8Array }
  | {
      readonly call: 'encrypt' | 'decrypt';
      readonly label: string;
      readonly keyId: Uint8Array;
      readonly nonce: Uint8Array;
      readonly aad: Uint8Array;
      readonly data: Uint8Array;
    };

/** `error`: the HSM's own word for it. */
export type Pkcs11Answer = { readonly value: unknown } | { readonly error: string };

const MAKES_MAX = 4;
const ID_BYTES = 16;
const NONCE_BYTES = 12;
const WRAPPED_BYTES = ID_BYTES + NONCE_BYTES + DATA_KEY_BYTES + 16;
const CALL_MS = 5000;
/** In the thread's queue, with those that nobody waits for any more: an HSM that hangs finds no hours of work when it comes back. */
const ASKED_MAX = 100;
/** A token locks itself after some that it refused: threads that are started later do not try it either. */
const REFUSED_PIN = 'sealog/refused-pin';

export function pkcs11MonthKeys(options: Pkcs11Options): MonthKeys {
  return monthKeysOf(new HsmKeys(options));
}

class HsmKeys implements NamedKeys {
  readonly #options: Pkcs11Options;
  readonly #waiting = new Map<number, (answer: Pkcs11Answer) => void>();
  #worker: Worker | undefined;
  #asked = 0;
  #unanswered = 0;

  constructor(options: Pkcs11Options) {
    this.#options = options;
  }

  async encrypt(key: MonthKeyName, dataKey: Uint8Array, context: KeyContext): Promise<Uint8Array | undefined> {
    const label = this.#labelOf(key);
    // Of several the same for all, so that there is one in the end.
    const [keyId] = ((await this.#ask({ call: 'ids', label })) as Uint8Array[]).sort(Buffer.compare);
    if (keyId === undefined) return undefined;
    const nonce = randomBytes(NONCE_BYTES);
    const aad = associatedData(context);
    const sealed = await this.#ask({ call: 'encrypt', label, keyId, nonce, aad, data: dataKey });
    return sealed === undefined ? undefined : concatBytes(keyId, nonce, sealed as Uint8Array);
  }

  async decrypt(key: MonthKeyName, wrapped: Uint8Array, context: KeyContext): Promise<Uint8Array | undefined> {
    const label = this.#labelOf(key);
    const foreign = (): Error => wrong(monthKeyName(key.month, key.generation), context);
    if (wrapped.length !== WRAPPED_BYTES) throw foreign();
    const keyId = wrapped.subarray(0, ID_BYTES);
    const nonce = wrapped.subarray(ID_BYTES, ID_BYTES + NONCE_BYTES);
    const aad = associatedData(context);
    const ask = { call: 'decrypt', label, keyId, nonce, aad, data: wrapped.subarray(ID_BYTES + NONCE_BYTES) } as const;
    const answer = await this.#answer(ask);
    if ('error' in answer) {
      // HSMs have several words for a tag that does not fit; where the key works on its own, it is that.
      const own = randomBytes(DATA_KEY_BYTES);
      const sealed = (await this.#ask({ ...ask, call: 'encrypt', data: own })) as Uint8Array | undefined;
      const back = sealed && (await this.#ask({ ...ask, data: sealed }));
      if (back !== undefined && own.equals(back as Uint8Array)) throw foreign();
      throw unreachable(`the HSM answers ${answer.error}`);
    }
    const dataKey = answer.value as Uint8Array | undefined;
    if (dataKey === undefined) {
      if (((await this.#ask({ call: 'ids', label })) as unknown[]).length > 0) throw foreign();
      return undefined;
    }
    if (dataKey.length !== DATA_KEY_BYTES) throw foreign();
    return dataKey;
  }

  async make(key: MonthKeyName): Promise<void> {
    const label = this.#labelOf(key);
    for (let attempt = 1; ; attempt++) {
      const answer = await this.#answer({ call: 'make', label, keyId: randomBytes(ID_BYTES) });
      if (!('error' in answer)) return;
      if (attempt === MAKES_MAX) throw unreachable(`the HSM answers ${answer.error}`);
      // Somebody else who makes it at the same moment is in the way of both, for which HSMs have no word of its own.
      await delay(50 * attempt * (1 + Math.random()));
      const there = await this.#answer({ call: 'ids', label });
      if ('value' in there && (there.value as unknown[]).length > 0) return;
    }
  }

  async remove(key: MonthKeyName): Promise<Removal> {
    await this.#ask({ call: 'remove', label: this.#labelOf(key) });
    return {};
  }

  async generations(month: string): Promise<readonly number[]> {
    const first = this.#labelOf({ month, generation: 1 });
    const labels = new Set((await this.#ask({ call: 'list', label: '' })) as string[]);
    return [...labels].flatMap((label) => {
      const [whole, generation] = label.startsWith(first)
        ? (/^(?:-([1-9]\d{0,5}))?$/.exec(label.slice(first.length)) ?? [])
        : [];
      return whole === undefined ? [] : [Number(generation ?? 1)];
    });
  }

  async noteDestroyed(month: string): Promise<void> {
    if (!(await this.isDestroyed(month))) await this.#ask({ call: 'note', label: this.#noteOf(month) });
  }

  async isDestroyed(month: string): Promise<boolean> {
    return (await this.#ask({ call: 'noted', label: this.#noteOf(month) })) === true;
  }

  close(): void {
    void this.#worker?.terminate();
    this.#worker = undefined;
  }

  #labelOf({ month, generation }: MonthKeyName): string {
    return `${this.#options.prefix}-${month}${generation === 1 ? '' : `-${generation}`}`;
  }

  #noteOf(month: string): string {
    return `${this.#options.prefix}-${month}-destroyed`;
  }

  async #ask(question: Pkcs11Question): Promise<unknown> {
    const answer = await this.#answer(question);
    if ('error' in answer) throw unreachable(`the HSM answers ${answer.error}`);
    return answer.value;
  }

  async #answer(question: Pkcs11Question): Promise<Pkcs11Answer> {
    const pin = await this.#options.secret();
    if (pin === getEnvironmentData(REFUSED_PIN)) throw unreachable('the HSM refused the PIN, which is not tried again');
    if (this.#unanswered >= ASKED_MAX) throw unreachable('the HSM has not answered for long');
    const id = this.#asked++;
    const late = Promise.withResolvers<Pkcs11Answer>();
    this.#waiting.set(id, late.resolve);
    const timer = setTimeout(() => late.resolve({ error: 'nothing in time' }), this.#options.callMs ?? CALL_MS);
    try {
      this.#thread().postMessage({ id, pin, ...question });
      this.#unanswered += 1;
      const answer = await late.promise;
      if ('error' in answer && /PIN/.test(answer.error)) setEnvironmentData(REFUSED_PIN, pin);
      if ('error' in answer && /nothing in time|PIN|TOKEN|DEVICE|SESSION|failed/.test(answer.error))
        throw unreachable(`the HSM answers ${answer.error}`);
      return answer;
    } finally {
      clearTimeout(timer);
      this.#waiting.delete(id);
    }
  }

  #thread(): Worker {
    if (this.#worker !== undefined) return this.#worker;
    const { module, token, binding } = this.#options;
    const task: Pkcs11Task = { module, token, binding };
    const worker = new Worker(new URL('./pkcs11-thread.ts', import.meta.url), { workerData: task });
    worker.on('message', ({ id, ...answer }: Pkcs11Answer & { readonly id: number }) => {
      this.#unanswered -= 1;
      this.#waiting.get(id)?.(answer);
    });
    const ended = (): void => {
      if (this.#worker === worker) {
        this.#worker = undefined;
        this.#unanswered = 0;
      }
      for (const settle of this.#waiting.values()) settle({ error: 'failed: is pkcs11js there?' });
    };
    worker.on('error', ended);
    worker.on('exit', ended);
    worker.unref();
    this.#worker = worker;
    return worker;
  }
}
