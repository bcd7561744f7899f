/**
 * Hashed ids (16 bytes, written as UUIDs) as `entry_id` has them: two arrays of bigint, of their first eight bytes and of their last, each in
 * PostgreSQL's binary form, which neither side has to make text of.
 *
 *     i32 dimensions, i32 whether there are NULLs, i32 type; of each dimension: i32 length, i32 lower bound
 *     of each element: i32 8, its bytes, big-endian; or i32 −1, which is NULL
 */

const BIGINT = 20;
const HEADER_BYTES = 12;
const DIMENSION_BYTES = 8;
const HALF_BYTES = 8;
const ELEMENT_BYTES = 4 + HALF_BYTES;

/** Returns the two halves, as parameters of a statement. */
export function encodeIdHashes(idHashes: readonly string[]): { readonly ids: Buffer; readonly rest: Buffer } {
  const bytes = Buffer.from(idHashes.join('').replaceAll('-', ''), 'hex');
  return {
    ids: encodeArray(bytes, 0, idHashes.length),
    rest: encodeArray(bytes, HALF_BYTES, idHashes.length),
  };
}

function encodeArray(bytes: Buffer, at: number, length: number): Buffer {
  // No element, no dimension.
  if (length === 0) return Buffer.from([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, BIGINT]);
  const from = HEADER_BYTES + DIMENSION_BYTES;
  const array = Buffer.alloc(from + length * ELEMENT_BYTES);
  array.writeInt32BE(1, 0);
  array.writeInt32BE(BIGINT, 8);
  array.writeInt32BE(length, 12);
  array.writeInt32BE(1, 16);
  for (let i = 0; i < length; i++) {
    const to = from + i * ELEMENT_BYTES;
    array.writeInt32BE(HALF_BYTES, to);
    bytes.copy(array, to + 4, 2 * HALF_BYTES * i + at, 2 * HALF_BYTES * i + at + HALF_BYTES);
  }
  return array;
}

/** Returns the hashed ids of a row, whose arrays come as `array_send` gives them. What lacks a half is undefined, whatever else somebody stored there. */
export function decodeIdHashes(ids: Buffer, rest: Buffer): (string | undefined)[] {
  const [halves, others] = [decodeArray(ids), decodeArray(rest)];
  return Array.from({ length: Math.max(halves.length, others.length) }, (_, i) => {
    const [half, other] = [halves[i], others[i]];
    if (half === undefined || other === undefined) return undefined;
    return `${half.slice(0, 8)}-${half.slice(8, 12)}-${half.slice(12)}-${other.slice(0, 4)}-${other.slice(4)}`;
  });
}

function decodeArray(array: Buffer): (string | undefined)[] {
  const elements: (string | undefined)[] = [];
  let at = HEADER_BYTES + DIMENSION_BYTES * array.readInt32BE(0);
  while (at < array.length) {
    const isThere = array.readInt32BE(at) !== -1;
    elements.push(isThere ? array.toString('hex', at + 4, at + ELEMENT_BYTES) : undefined);
    at += isThere ? ELEMENT_BYTES : 4;
  }
  return elements;
}
