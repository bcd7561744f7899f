/**
 * Signatures of Standard Webhooks 1.0.0: who has the secret can tell that a request is ours, whole, and of now.
 *
 *     webhook-id: msg_…                 of these entries: the same whenever exactly they go again
 *     webhook-timestamp: 1795377845     seconds since 1970, of this attempt
 *     webhook-signature: v1,<base64> …  HMAC-SHA256(secret, "<id>.<timestamp>.<body>"), one for each secret
 *
 * The body is that before compression: receivers inflate a request before anybody sees it.
 */
import { createHash, createHmac } from 'node:crypto';
import type { Message } from './transport.ts';

const SECRET_PREFIX = 'whsec_';
const KEY_BYTES_MIN = 24;
const KEY_BYTES_MAX = 64;

/** Several, so that a receiver can change from one to the next. */
export const SIGNING_SECRETS_MAX = 4;

/** Returns the key that a secret (`whsec_` and the base64 of 24 to 64 bytes) stands for, else undefined. */
export function webhookKey(secret: string): Uint8Array | undefined {
  if (!secret.startsWith(SECRET_PREFIX)) return undefined;
  const base64 = secret.slice(SECRET_PREFIX.length);
  const key = Buffer.from(base64, 'base64');
  // Buffer.from passes over what is no base64.
  if (key.toString('base64') !== base64) return undefined;
  return key.length >= KEY_BYTES_MIN && key.length <= KEY_BYTES_MAX ? key : undefined;
}

/** Returns the id of a request that holds these entries. Their hashes name stream, seq and content. */
export function webhookId(messages: readonly Message[]): string {
  const hash = createHash('sha256').update('sealog/webhook/v1\0');
  for (const message of messages) hash.update(message.hash, 'hex');
  return `msg_${hash.digest('hex').slice(0, 40)}`;
}

/** Returns the headers that sign a body, with each of these keys. `nowMs` in milliseconds since 1970. */
export function webhookHeaders(
  keys: readonly Uint8Array[],
  id: string,
  nowMs: number,
  body: Uint8Array,
): Record<string, string> {
  const timestamp = String(Math.floor(nowMs / 1000));
  const signatures = keys.map((key) => {
    const hmac = createHmac('sha256', key).update(`${id}.${timestamp}.`).update(body);
    return `v1,${hmac.digest('base64')}`;
  });
  return { 'webhook-id': id, 'webhook-timestamp': timestamp, 'webhook-signature': signatures.join(' ') };
}
