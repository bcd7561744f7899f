/**
 * Arrays of bigint in PostgreSQL's binary form, which neither side has to make text of: a block's tags, and hashed ids (16 bytes, written as UUIDs),
 * which `entry_id` has as two arrays, of their first eight bytes and of their last.
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
  const halves = (at: number): Buffer =>
    encodeArray(idHashes.length, (array, to, i) =>
      bytes.copy(array, to, 2 * HALF_BYTES * i + at, (2 * i + 1) * HALF_BYTES + at),
    );
  return { ids: halves(0), rest: halves(HALF_BYTES) };
}

/** Returns the bigints as a parameter of a statement. */
export function encodeBigints(values: readonly bigint[]): Buffer {
  return encodeArray(values.length, (array, to, i) => array.writeBigInt64BE(values[i]!, to));
}

/** `write` puts the eight bytes of an element where it is told to. */
function encodeArray(length: number, write: (array: Buffer, to: number, i: number) => void): Buffer {
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
    write(array, to + 4, i);
  }
  return array;
}

/** Returns the hashed ids of a row, whose arrays come as `array_send` gives them. What lacks a half is undefined, whatever else somebody stored there. */
export function decodeIdHashes(ids: Buffer, rest: Buffer): (string | undefined)[] {
  const [halves, others] = [ids, rest].map((array) =>
    decodeArray(array, (at) => array.toString('hex', at, at + HALF_BYTES)),
  ) as [(string | undefined)[], (string | undefined)[]];
  return Array.from({ length: Math.max(halves.length, others.length) }, (_, i) => {
    const [half, other] = [halves[i], others[i]];
    if (half === undefined || other === undefined) return undefined;
    return `${half.slice(0, 8)}-${half.slice(8, 12)}-${half.slice(12)}-${other.slice(0, 4)}-${other.slice(4)}`;
  });
}

/** Returns the bigints of an array that comes as `array_send` gives it; NULL is undefined. */
export function decodeBigints(array: Buffer): (bigint | undefined)[] {
  return decodeArray(array, (at) => array.readBigInt64BE(at));
}

function decodeArray<T>(array: Buffer, read: (at: number) => T): (T | undefined)[] {
  const elements: (T | undefined)[] = [];
  let at = HEADER_BYTES + DIMENSION_BYTES * array.readInt32BE(0);
  while (at < array.length) {
    const isThere = array.readInt32BE(at) !== -1;
    elements.push(isThere ? read(at + 4) : undefined);
    at += isThere ? ELEMENT_BYTES : 4;
  }
  return elements;
}
