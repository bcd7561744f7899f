/**
 * What is secret in a sink, at rest: canonical JSON, sealed under the data key that its tenant's `log_administration` stream has for ever, and tied to the
 * sink by its id. Who reads the tables alone, or a backup of them, has nothing; sealed bytes that are put into another sink do not open.
 */

import { utf8 } from '../chain/bytes.ts';
import { canonicalText, decodeCanonical, type JsonObject } from '../chain/canonical.ts';
import { openSealed, sealParts } from '../chain/seal.ts';
import { EvidenceError } from '../errors.ts';
import { isJsonObject } from '../http/json-object.ts';

/** The drop month of keys that stay. */
export const KEPT_FOR_EVER = 0;

export interface SealedSecret {
  readonly sealed: Uint8Array;
  readonly keyId: string;
}

interface DataKey {
  readonly id: string;
  readonly dataKey: Uint8Array;
}

export function sealSinkSecret(key: DataKey, sinkId: string, secret: JsonObject): SealedSecret {
  return { sealed: sealParts(key.dataKey, contextOf(sinkId), [], utf8(canonicalText(secret))), keyId: key.id };
}

/** Throws `EvidenceError` where the bytes are not those that were sealed for this sink, and what `keysById` throws. */
export async function openSinkSecret(
  keys: { keysById(id: string): Promise<Pick<DataKey, 'dataKey'>> },
  sinkId: string,
  stored: SealedSecret | undefined,
): Promise<JsonObject | undefined> {
  if (stored === undefined) return undefined;
  const { dataKey } = await keys.keysById(stored.keyId);
  const value = decodeCanonical(openSealed(dataKey, contextOf(sinkId), [], stored.sealed));
  if (!isJsonObject(value)) throw new EvidenceError('the sealed secret of a sink is not an object');
  return value as JsonObject;
}

function contextOf(sinkId: string): string {
  return `sink ${sinkId}`;
}
