/**
 * Compressing by a context that is kept. `zstdCompressSync` makes one for each call, which costs 20 µs before the first byte: most of it asks the
 * processor what it can do, and in a virtual machine the host answers. For a block of few events that is as much as compressing them.
 *
 * Node keeps a context behind each of its streams, in fields that it does not document and that others live on, too (minizlib, and so npm). Where
 * they are not as expected, or do not give the bytes that the documented function gives, that function is used.
 */
import zlib from 'node:zlib';

/** Level 3 costs about 1 µs a kilobyte at 64 KiB; level 1 saves a third of that and stores 4 % more. */
const PARAMS = { [zlib.constants.ZSTD_c_compressionLevel]: 3 };
const { ZSTD_e_end } = zlib.constants;
/** For larger ones a context is no matter. */
const KEPT_BYTES_MAX = 256 * 1024;
const UNTOUCHED = 0xffff_ffff;

/** What a stream of `node:zlib` has. */
interface Kept {
  readonly _handle: {
    writeSync(
      flush: number,
      from: Uint8Array,
      at: number,
      length: number,
      to: Uint8Array,
      toAt: number,
      room: number,
    ): void;
  };
  /** Bytes that were left after a call: of the room, and of what was given. */
  readonly _writeState: Uint32Array;
}

let kept: Kept | undefined;
let isSound: boolean | undefined;
/** Frames are written here first, since nobody knows how long one will be. */
let room = new Uint8Array(0);

/** Returns bytes as one zstd frame, which states its content's size. */
export function zstdFrameOf(bytes: Uint8Array): Uint8Array {
  return (keepsContext() && bytes.length <= KEPT_BYTES_MAX ? byKept(bytes) : undefined) ?? byNew(bytes);
}

/** Whether this Node's streams are as expected. */
export function keepsContext(): boolean {
  isSound ??= isAsDocumented();
  return isSound;
}

function byNew(bytes: Uint8Array): Uint8Array {
  return zlib.zstdCompressSync(bytes, { params: PARAMS, chunkSize: roomFor(bytes.length) });
}

/** A frame that fills the library's chunk exactly is followed by a second, empty one: the chunk has room for more than any frame. */
function roomFor(bytes: number): number {
  return bytes + (bytes >>> 8) + 1024;
}

/** Undefined where it did not come out whole: then the context is in no state to go on. */
function byKept(bytes: Uint8Array): Uint8Array | undefined {
  // What its error would be, is seen below.
  kept ??= zlib.createZstdCompress({ params: PARAMS }).on('error', () => {}) as unknown as Kept;
  if (room.length === 0) room = new Uint8Array(roomFor(KEPT_BYTES_MAX));
  const { _handle: handle, _writeState: state } = kept;
  state.fill(UNTOUCHED);
  handle.writeSync(ZSTD_e_end, bytes, 0, bytes.length, room, 0, room.length);
  const [roomLeft, bytesLeft] = state as unknown as [number, number];
  if (bytesLeft === 0 && roomLeft > 0 && roomLeft < room.length) return room.slice(0, room.length - roomLeft);
  kept = undefined;
  return undefined;
}

/** Twice, since a context is used again. */
function isAsDocumented(): boolean {
  const sample = Buffer.from('one context for many frames, '.repeat(40));
  try {
    return [sample, sample.subarray(7)].every((bytes) => {
      const frame = byKept(bytes);
      return frame !== undefined && Buffer.compare(frame, byNew(bytes)) === 0;
    });
  } catch {
    return false;
  }
}
