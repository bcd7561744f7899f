/**
 * DER (ITU-T X.690): whether bytes are the one encoding that their content has.
 *
 * Certificates and time-stamp tokens come from elsewhere, and libraries that read them take BER, of which there are many
 * encodings for one content: bytes could be changed without anything noticing. So this check comes before any library.
 * One pass, no recursion: a length beyond what holds it, or a depth made to fill the stack, ends it at once.
 */
import { EvidenceError } from '../errors.ts';

/** A token has a depth of about 16 (an attribute of a name in a certificate in the token). */
export const DER_DEPTH_MAX = 32;
/** In one structure: a token has some hundred, a list of revoked certificates four to eight for each. */
export const DER_ELEMENTS_MAX = 60_000;
/** Real ones have at most about 30 bytes. Libraries do arithmetic on the arcs, whose cost grows with the square. */
const OID_BYTES_MAX = 64;

const BOOLEAN = 0x01;
const INTEGER = 0x02;
const BIT_STRING = 0x03;
const NULL = 0x05;
const OBJECT_IDENTIFIER = 0x06;
const ENUMERATED = 0x0a;
const SEQUENCE = 0x10;
const SET = 0x11;

/**
 * Passes where `bytes` are one element in DER and nothing after it. Not looked at: the order within a SET OF, which some
 * signers get wrong (what they signed is the order that they wrote), and what primitive context-specific tags hold.
 * Throws an EvidenceError.
 */
export function checkDer(bytes: Uint8Array): void {
  /** Where the elements end that hold the one at `at`, the outermost first. */
  const ends: number[] = [];
  let at = 0;
  let elements = 0;
  do {
    if (++elements > DER_ELEMENTS_MAX) throw notDer('it has too many elements');
    const { identifier, start, end } = readHeader(bytes, at, ends.at(-1) ?? bytes.length);
    const constructed = (identifier & 0x20) !== 0;
    if (identifier >> 6 === 0) checkUniversal(identifier & 0x1f, constructed, bytes.subarray(start, end));
    if (constructed) {
      if (ends.length === DER_DEPTH_MAX) throw notDer('it is nested too deeply');
      ends.push(end);
      at = start;
    } else {
      at = end;
    }
    while (ends.at(-1) === at) ends.pop();
  } while (ends.length > 0);
  if (at !== bytes.length) throw notDer('bytes follow its end');
}

/** Returns the elements that a constructed one holds, of bytes that `checkDer` passed. Throws an EvidenceError where there are none to hold. */
export function contentsOf(bytes: Uint8Array): Uint8Array[] {
  const { identifier, start, end } = readHeader(bytes, 0, bytes.length);
  if ((identifier & 0x20) === 0) throw new EvidenceError('a list is missing');
  const found: Uint8Array[] = [];
  for (let at = start; at < end; at += found.at(-1)!.length)
    found.push(bytes.subarray(at, readHeader(bytes, at, end).end));
  return found;
}

interface Header {
  readonly identifier: number;
  /** Of the content. */
  readonly start: number;
  readonly end: number;
}

/** Identifier and length octets: a low tag number, a definite length in its shortest form (X.690 sections 8.1.2, 10.1). */
function readHeader(bytes: Uint8Array, at: number, limit: number): Header {
  const identifier = bytes[at];
  const first = bytes[at + 1];
  if (at + 2 > limit || identifier === undefined || first === undefined) throw notDer('it is cut off');
  if ((identifier & 0x1f) === 0x1f) throw notDer('it has a tag of several bytes');
  let start = at + 2;
  let length = first;
  if (first >= 0x80) {
    const count = first & 0x7f;
    if (count === 0) throw notDer('it has a length that is not definite');
    if (count > 4 || start + count > limit) throw notDer('it is cut off');
    length = bytes.subarray(start, start + count).reduce((value, byte) => value * 256 + byte, 0);
    start += count;
    if (length < 0x80 || length < 256 ** (count - 1)) throw notDer('it has a length that is not the shortest');
  }
  if (length > limit - start) throw notDer('it is cut off');
  return { identifier, start, end: start + length };
}

/** Contents of universal types (X.690 sections 8.2 to 8.19, 11.1, 11.2). */
function checkUniversal(tag: number, constructed: boolean, content: Uint8Array): void {
  if (constructed !== (tag === SEQUENCE || tag === SET)) throw notDer('it has a string in pieces, or a list in one');
  switch (tag) {
    case 0:
      throw notDer('it has an end mark');
    case BOOLEAN:
      if (content.length !== 1 || (content[0] !== 0 && content[0] !== 0xff)) throw notDer('it has a wrong BOOLEAN');
      return;
    case INTEGER:
    case ENUMERATED: {
      const [first, second] = content;
      if (first === undefined) throw notDer('it has an empty INTEGER');
      if (second === undefined) return;
      if ((first === 0 && second < 0x80) || (first === 0xff && second >= 0x80)) {
        throw notDer('it has an INTEGER that is not the shortest');
      }
      return;
    }
    case BIT_STRING: {
      const unused = content[0];
      if (unused === undefined || unused > 7 || (content.length === 1 && unused > 0)) {
        throw notDer('it has a wrong BIT STRING');
      }
      if ((content.at(-1)! & ((1 << unused) - 1)) !== 0 && content.length > 1) {
        throw notDer('it has a BIT STRING whose unused bits are not zero');
      }
      return;
    }
    case NULL:
      if (content.length > 0) throw notDer('it has a NULL with content');
      return;
    case OBJECT_IDENTIFIER:
      checkObjectIdentifier(content);
      return;
  }
}

/** Arcs in base 128, each in its shortest form (X.690 section 8.19.2). */
function checkObjectIdentifier(content: Uint8Array): void {
  let first = true;
  for (const byte of content) {
    if (first && byte === 0x80) throw notDer('it has an OBJECT IDENTIFIER that is not the shortest');
    first = byte < 0x80;
  }
  if (content.length === 0 || !first) throw notDer('it has an OBJECT IDENTIFIER that is cut off');
  if (content.length > OID_BYTES_MAX) throw notDer('it has an OBJECT IDENTIFIER that is too long');
}

function notDer(why: string): EvidenceError {
  return new EvidenceError(`not DER: ${why}`);
}
