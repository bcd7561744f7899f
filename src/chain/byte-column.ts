/** Bytes of many things, one behind the other in memory that grows: a garbage collector sees one object. */
import assert from 'node:assert/strict';

const FIRST_BYTES = 512;

export class ByteColumn {
  #room = Buffer.alloc(0);
  #length = 0;

  /** What was added so far. */
  get bytes(): Uint8Array {
    return this.#room.subarray(0, this.#length);
  }

  get length(): number {
    return this.#length;
  }

  add(bytes: Uint8Array): void {
    this.#reserve(bytes.length);
    this.#room.set(bytes, this.#length);
    this.#length += bytes.length;
  }

  addHex(text: string): void {
    const bytes = text.length / 2;
    this.#reserve(bytes);
    assert(this.#room.write(text, this.#length, 'hex') === bytes, 'hex');
    this.#length += bytes;
  }

  #reserve(bytes: number): void {
    const needed = this.#length + bytes;
    if (needed <= this.#room.length) return;
    const room = Buffer.allocUnsafe(Math.max(needed, 2 * this.#room.length, FIRST_BYTES));
    room.set(this.bytes);
    this.#room = room;
  }
}
