/**
 * The tar files of evidence bundles (docs/format.md section 22): POSIX ustar, of which everything but names and contents is fixed, so that
 * a file has one spelling. Whatever could be said twice or hidden between the lines is refused.
 */
import assert from 'node:assert/strict';
import { EvidenceError } from '../errors.ts';
import { equalBytes, fromUtf8, utf8 } from './bytes.ts';

export interface TarFile {
  readonly name: string;
  /** A view of the tar's bytes. */
  readonly bytes: Uint8Array;
}

const BLOCK = 512;
const NAME_BYTES = 100;
const SIZE_AT = 124;
const CHECKSUM_AT = 148;
/** 11 octal digits. */
const SIZE_MAX = 8 ** 11 - 1;
const NAME = /^[a-z0-9./-]{1,99}$/;

/** The header of an empty file without a name, but for its checksum, which counts as spaces while it is worked out. */
const TEMPLATE = template();

/** Two blocks of zeros. */
export const TAR_END: Uint8Array = new Uint8Array(2 * BLOCK);

/** Returns the header of a file. */
export function tarHeader(name: string, size: number): Uint8Array {
  assert(NAME.test(name) && Number.isSafeInteger(size) && size >= 0 && size <= SIZE_MAX, 'no such tar file');
  const header = TEMPLATE.slice();
  header.set(utf8(name));
  header.set(utf8(size.toString(8).padStart(11, '0')), SIZE_AT);
  const sum = header.reduce((a, b) => a + b, 0);
  header.set(utf8(`${sum.toString(8).padStart(6, '0')}\0 `), CHECKSUM_AT);
  return header;
}

/** Returns how many zero bytes follow the content of a file. */
export function tarPadding(size: number): number {
  return (BLOCK - (size % BLOCK)) % BLOCK;
}

/** Returns the files of a tar as `tarHeader`, the contents and `TAR_END` write it; at most `filesMax`. Throws an EvidenceError. */
export function readTar(tar: Uint8Array, filesMax: number): TarFile[] {
  const files: TarFile[] = [];
  let at = 0;
  for (;;) {
    const header = tar.subarray(at, at + BLOCK);
    if (header.length < BLOCK) throw new EvidenceError('the tar file is cut short');
    if (isZero(header)) break;
    if (files.length === filesMax) throw new EvidenceError(`the tar file has more than ${filesMax} files`);
    const { name, size } = readHeader(header);
    const bytes = tar.subarray(at + BLOCK, at + BLOCK + size);
    const padding = tar.subarray(at + BLOCK + size, at + BLOCK + size + tarPadding(size));
    if (bytes.length < size || padding.length < tarPadding(size)) throw new EvidenceError('the tar file is cut short');
    if (!isZero(padding)) throw new EvidenceError(`bytes follow the content of ${name}`);
    files.push({ name, bytes });
    at += BLOCK + size + tarPadding(size);
  }
  if (!equalBytes(tar.subarray(at), TAR_END)) throw new EvidenceError('the tar file does not end as it must');
  return files;
}

/** Writing the header again shows all that is not as it must be. */
function readHeader(header: Uint8Array): { name: string; size: number } {
  const end = header.indexOf(0);
  const digits = latin(header.subarray(SIZE_AT, SIZE_AT + 11));
  const name = end < 0 || end >= NAME_BYTES ? '' : latin(header.subarray(0, end));
  if (!NAME.test(name) || !/^[0-7]{11}$/.test(digits)) throw new EvidenceError('a header of the tar file is malformed');
  const size = Number.parseInt(digits, 8);
  if (!equalBytes(header, tarHeader(name, size))) throw new EvidenceError(`the header of ${name} is not as it must be`);
  return { name, size };
}

function latin(bytes: Uint8Array): string {
  try {
    return fromUtf8(bytes);
  } catch {
    return '';
  }
}

function template(): Uint8Array {
  const header = new Uint8Array(BLOCK);
  const fields: readonly (readonly [at: number, text: string])[] = [
    [100, '0000644\0'],
    [108, '0000000\0'],
    [116, '0000000\0'],
    [136, '00000000000\0'],
    [CHECKSUM_AT, ' '.repeat(8)],
    [156, '0'],
    [257, 'ustar\0'],
    [263, '00'],
  ];
  for (const [at, text] of fields) header.set(utf8(text), at);
  return header;
}

function isZero(bytes: Uint8Array): boolean {
  return bytes.every((byte) => byte === 0);
}
