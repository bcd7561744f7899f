/**
 * A JSON Web Key Set (RFC 7517 section 5): the keys that an identity provider signs tokens with, read strictly.
 *
 * One key, one algorithm (RFC 8725 section 3.1): what a key says of itself, or else what its type alone allows. Keys that are not for this
 * are passed over, as the RFC wants, and counted: a provider has others too. A set that is not understood as a whole, or in which one name
 * stands for two keys, is no set.
 */
import { createPublicKey, type JsonWebKey, type KeyObject } from 'node:crypto';
import { isJsonObject, type JsonMembers, parseJsonObject } from '../http/json-object.ts';

export type TokenAlgorithm = 'RS256' | 'PS256' | 'ES256' | 'EdDSA';

export interface TokenKey {
  readonly algorithm: TokenAlgorithm;
  /** SubjectPublicKeyInfo. */
  readonly pem: string;
}

/** `kid` → key. */
export type TokenKeys = ReadonlyMap<string, TokenKey>;

export interface KeySetContents {
  readonly keys: TokenKeys;
  /** Why keys were passed over, and how many for each reason. */
  readonly passedOver: ReadonlyMap<PassedOver, number>;
}

export type PassedOver =
  | 'not a key'
  | 'without a name'
  | 'not for signatures'
  | 'holds a private key'
  | 'of another type'
  | 'for another algorithm'
  | 'too weak'
  | 'broken';

/** What was answered is no key set. The message is for the log, and quotes nothing of it. */
export class KeySetError extends Error {
  override readonly name = 'KeySetError';
}

/** Providers have two to ten. */
const KEYS_MAX = 100;
export const KEY_ID_LENGTH_MAX = 128;
/** NIST SP 800-131A; the most keeps a signature's check below a millisecond. */
const RSA_BITS_MIN = 2048;
const RSA_BITS_MAX = 8192;
/** FIPS 186-5 section 5.4. With 1 every text would be its own signature. */
const RSA_EXPONENT_MIN = 65_537n;
const RSA_EXPONENT_MAX = 2n ** 64n;
/** RFC 7518 sections 6.2.2, 6.3.2 and 6.4.1. */
const PRIVATE_MEMBERS = ['d', 'p', 'q', 'dp', 'dq', 'qi', 'oth', 'k'];

/** @throws {KeySetError} when it is no set */
export function parseKeySet(bytes: Uint8Array): KeySetContents {
  const items = parseJsonObject(bytes)?.['keys'];
  if (!Array.isArray(items)) throw new KeySetError('it is no JSON Web Key Set');
  if (items.length > KEYS_MAX) throw new KeySetError(`it has more than ${KEYS_MAX} keys`);
  const keys = new Map<string, TokenKey>();
  const passedOver = new Map<PassedOver, number>();
  for (const item of items) {
    const key = isJsonObject(item) ? readKey(item) : 'not a key';
    if (typeof key === 'string') {
      passedOver.set(key, (passedOver.get(key) ?? 0) + 1);
    } else {
      const kid = (item as JsonMembers)['kid'] as string;
      if (keys.has(kid)) throw new KeySetError('two of its keys have one name');
      keys.set(kid, key);
    }
  }
  return { keys, passedOver };
}

/** Says whether a value can name a key: what a token's header says is a stranger's text, and looked up in a Map, nowhere else. */
export function isKeyId(value: unknown): value is string {
  return typeof value === 'string' && value !== '' && value.length <= KEY_ID_LENGTH_MAX;
}

function readKey(jwk: JsonMembers): TokenKey | PassedOver {
  if (PRIVATE_MEMBERS.some((name) => Object.hasOwn(jwk, name))) return 'holds a private key';
  const { use, key_ops: operations } = jwk;
  if (use !== undefined && use !== 'sig') return 'not for signatures';
  if (operations !== undefined && !(Array.isArray(operations) && operations.includes('verify')))
    return 'not for signatures';
  if (!isKeyId(jwk['kid'])) return 'without a name';
  const algorithm = algorithmOf(jwk);
  if (algorithm === undefined) return 'of another type';
  if (jwk['alg'] !== undefined && jwk['alg'] !== algorithm) return 'for another algorithm';

  const key = publicKey(jwk);
  if (key === undefined) return 'broken';
  if (jwk['kty'] === 'RSA' && !isStrong(key)) return 'too weak';
  return { algorithm, pem: key.export({ type: 'spki', format: 'pem' }).toString() };
}

/** The one algorithm that a key of this type is for: of RSA's two the older, unless the key names the other. */
function algorithmOf({ kty, crv, alg }: JsonMembers): TokenAlgorithm | undefined {
  if (kty === 'RSA') return alg === 'PS256' ? 'PS256' : 'RS256';
  if (kty === 'EC' && crv === 'P-256') return 'ES256';
  if (kty === 'OKP' && crv === 'Ed25519') return 'EdDSA';
  return undefined;
}

function publicKey({ kty, crv, n, e, x, y }: JsonMembers): KeyObject | undefined {
  const members = kty === 'RSA' ? { n, e } : kty === 'EC' ? { x, y } : { x };
  if (!Object.values(members).every(isBase64Url)) return undefined;
  try {
    return createPublicKey({
      key: { kty, ...(kty === 'RSA' ? {} : { crv }), ...members } as JsonWebKey,
      format: 'jwk',
    });
  } catch {
    return undefined;
  }
}

function isStrong({ asymmetricKeyDetails }: KeyObject): boolean {
  const { modulusLength = 0, publicExponent = 0n } = asymmetricKeyDetails ?? {};
  const rightSize = modulusLength >= RSA_BITS_MIN && modulusLength <= RSA_BITS_MAX;
  return (
    rightSize && publicExponent % 2n === 1n && publicExponent >= RSA_EXPONENT_MIN && publicExponent < RSA_EXPONENT_MAX
  );
}

/** Node takes more than RFC 7515 section 2 allows. */
function isBase64Url(value: unknown): value is string {
  return typeof value === 'string' && value !== '' && Buffer.from(value, 'base64url').toString('base64url') === value;
}
