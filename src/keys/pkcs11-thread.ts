/**
 * The thread that talks to an HSM: the calls of PKCS#11 block whoever makes them, for as long as the HSM likes.
 *
 * The library is one for the whole process: that another thread of it initialized it, or logged in, is as good as having done so. Nothing is
 * finalized, since others may use it; the session ends with the thread.
 */
import assert from 'node:assert/strict';
import { createRequire } from 'node:module';
import { parentPort, workerData } from 'node:worker_threads';
import type { Pkcs11Answer, Pkcs11Question, Pkcs11Task } from './pkcs11-month-keys.ts';

/** Of the package pkcs11js what is used here. */
interface Binding {
  readonly PKCS11: new () => Session;
  readonly [constant: string]: unknown;
}

type Template = { type: number; value?: number | boolean | string | Buffer }[];

interface Session {
  load(path: string): void;
  C_Initialize(options: object): void;
  C_GetSlotList(withToken: boolean): Buffer[];
  C_GetTokenInfo(slot: Buffer): { label: string };
  C_OpenSession(slot: Buffer, flags: number): Buffer;
  C_Login(session: Buffer, user: number, pin: string): void;
  C_FindObjectsInit(session: Buffer, template: Template): void;
  C_FindObjects(session: Buffer, max: number): Buffer[];
  C_FindObjectsFinal(session: Buffer): void;
  C_GetAttributeValue(session: Buffer, object: Buffer, template: Template): { value: Buffer }[];
  C_GenerateKey(session: Buffer, mechanism: object, template: Template): Buffer;
  C_CreateObject(session: Buffer, template: Template): Buffer;
  C_DestroyObject(session: Buffer, object: Buffer): void;
  C_EncryptInit(session: Buffer, mechanism: object, key: Buffer): void;
  C_Encrypt(session: Buffer, data: Buffer, out: Buffer): Buffer;
  C_DecryptInit(session: Buffer, mechanism: object, key: Buffer): void;
  C_Decrypt(session: Buffer, data: Buffer, out: Buffer): Buffer;
}

const OBJECTS_MAX = 10_000;
const TAG_BITS = 128;

assert(parentPort !== null, 'runs as a worker thread');
const main = parentPort;
const task = workerData as Pkcs11Task;
const binding = createRequire(import.meta.url)(task.binding) as Binding;
const library = new binding.PKCS11();
let opened: Buffer | undefined;
/** Several questions wait at a time, each with the same PIN: it is tried with the first. */
let refusedPin: string | undefined;

const of = (name: string): number => binding[name] as number;
const attribute = (name: string, value: number | boolean | string | Buffer) => ({ type: of(name), value });

main.on('message', ({ id, pin, ...question }: Pkcs11Question & { readonly id: number; readonly pin: string }) => {
  let answer: Pkcs11Answer;
  try {
    answer = { value: carryOut(sessionOf(pin), question as Pkcs11Question) };
  } catch (error) {
    const [word = 'failed'] = /CKR_[A-Z_]{1,60}|PIN not tried again/.exec(String((error as Error).message)) ?? [];
    if (/PIN/.test(word)) refusedPin = pin;
    // A session that ended is opened again by the next call.
    if (/SESSION|DEVICE|TOKEN|LOGGED_IN|CRYPTOKI/.test(word)) opened = undefined;
    answer = { error: word };
  }
  main.postMessage({ id, ...answer });
});

function sessionOf(pin: string): Buffer {
  if (opened !== undefined) return opened;
  if (pin === refusedPin) throw new Error('PIN not tried again');
  unless('CKR_CRYPTOKI_ALREADY_INITIALIZED', () => {
    library.load(task.module);
    // Several threads use it.
    library.C_Initialize({ flags: of('CKF_OS_LOCKING_OK') });
  });
  const slot = library.C_GetSlotList(true).find((one) => library.C_GetTokenInfo(one).label.trimEnd() === task.token);
  if (slot === undefined) throw new Error('CKR_TOKEN_NOT_PRESENT');
  const session = library.C_OpenSession(slot, of('CKF_SERIAL_SESSION') | of('CKF_RW_SESSION'));
  unless('CKR_USER_ALREADY_LOGGED_IN', () => library.C_Login(session, of('CKU_USER'), pin));
  opened = session;
  return session;
}

function unless(word: string, work: () => void): void {
  try {
    work();
  } catch (error) {
    if (!String((error as Error).message).includes(word)) throw error;
  }
}

function carryOut(session: Buffer, question: Pkcs11Question): unknown {
  const { call, label } = question;
  switch (call) {
    case 'list':
      return find(session, [attribute('CKA_CLASS', of('CKO_SECRET_KEY'))]).map((object) =>
        attributeOf(session, object, 'CKA_LABEL').toString(),
      );
    case 'ids':
      return keysOf(session, label).map((object) => attributeOf(session, object, 'CKA_ID'));
    case 'encrypt':
    case 'decrypt': {
      const { keyId, nonce, aad, data } = question;
      const key = keysOf(session, label).find((one) => attributeOf(session, one, 'CKA_ID').equals(Buffer.from(keyId)));
      if (key === undefined) return undefined;
      const iv = Buffer.from(nonce);
      const parameter = {
        ...{ type: of('CK_PARAMS_AES_GCM'), iv, ivBits: 8 * iv.length, aad: Buffer.from(aad), tagBits: TAG_BITS },
      };
      const mechanism = { mechanism: of('CKM_AES_GCM'), parameter };
      const out = Buffer.alloc(data.length + TAG_BITS / 8);
      if (call === 'encrypt') {
        library.C_EncryptInit(session, mechanism, key);
        return library.C_Encrypt(session, Buffer.from(data), out);
      }
      library.C_DecryptInit(session, mechanism, key);
      return library.C_Decrypt(session, Buffer.from(data), out);
    }
    case 'make':
      library.C_GenerateKey(session, { mechanism: of('CKM_AES_KEY_GEN') }, [
        attribute('CKA_CLASS', of('CKO_SECRET_KEY')),
        attribute('CKA_KEY_TYPE', of('CKK_AES')),
        attribute('CKA_VALUE_LEN', 32),
        attribute('CKA_LABEL', label),
        attribute('CKA_ID', Buffer.from(question.keyId)),
        ...['CKA_TOKEN', 'CKA_PRIVATE', 'CKA_SENSITIVE', 'CKA_ENCRYPT', 'CKA_DECRYPT'].map((name) =>
          attribute(name, true),
        ),
        attribute('CKA_EXTRACTABLE', false),
      ]);
      return undefined;
    case 'remove':
      for (const key of keysOf(session, label)) library.C_DestroyObject(session, key);
      return undefined;
    case 'note':
      library.C_CreateObject(session, [
        attribute('CKA_CLASS', of('CKO_DATA')),
        attribute('CKA_TOKEN', true),
        attribute('CKA_PRIVATE', true),
        attribute('CKA_LABEL', label),
        attribute('CKA_VALUE', Buffer.from('destroyed')),
      ]);
      return undefined;
    case 'noted':
      return find(session, [attribute('CKA_CLASS', of('CKO_DATA')), attribute('CKA_LABEL', label)]).length > 0;
    default: {
      const never: never = question;
      return never;
    }
  }
}

function keysOf(session: Buffer, label: string): Buffer[] {
  return find(session, [attribute('CKA_CLASS', of('CKO_SECRET_KEY')), attribute('CKA_LABEL', label)]);
}

function find(session: Buffer, template: Template): Buffer[] {
  library.C_FindObjectsInit(session, template);
  try {
    return library.C_FindObjects(session, OBJECTS_MAX);
  } finally {
    library.C_FindObjectsFinal(session);
  }
}

function attributeOf(session: Buffer, object: Buffer, name: string): Buffer {
  const [found] = library.C_GetAttributeValue(session, object, [{ type: of(name) }]);
  return Buffer.from(found!.value);
}
