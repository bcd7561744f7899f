/**
 * A temporary file that nobody can open: it has no name any more when the first byte is written, so that a crash leaves nothing of what
 * is in it, and it goes when it is closed.
 */
import { createHash, type Hash } from 'node:crypto';
import { type FileHandle, mkdtemp, open, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

/** A run of the file's bytes. */
export interface SpooledBytes {
  readonly at: number;
  readonly bytes: number;
  /** Hex. */
  readonly sha256: string;
}

const WRITE_BYTES = 1024 * 1024;
const READ_BYTES = 256 * 1024;

export class Spool {
  readonly #file: FileHandle;
  #written = 0;
  #waiting: Uint8Array[] = [];
  #waitingBytes = 0;
  #begin = 0;
  #hash: Hash = createHash('sha256');

  private constructor(file: FileHandle) {
    this.#file = file;
  }

  static async make(): Promise<Spool> {
    const folder = await mkdtemp(join(tmpdir(), 'sealog-bundle-'));
    try {
      return new Spool(await open(join(folder, 'spool'), 'wx+', 0o600));
    } finally {
      await rm(folder, { recursive: true, force: true });
    }
  }

  /** All bytes that were written. */
  get bytes(): number {
    return this.#written + this.#waitingBytes;
  }

  async write(bytes: Uint8Array): Promise<void> {
    this.#hash.update(bytes);
    this.#waiting.push(bytes);
    this.#waitingBytes += bytes.length;
    if (this.#waitingBytes >= WRITE_BYTES) await this.#flush();
  }

  /** Ends a run of bytes, which began where the last one ended. */
  async end(): Promise<SpooledBytes> {
    await this.#flush();
    const run = { at: this.#begin, bytes: this.#written - this.#begin, sha256: this.#hash.digest('hex') };
    this.#begin = this.#written;
    this.#hash = createHash('sha256');
    return run;
  }

  async *read({ at, bytes }: SpooledBytes): AsyncGenerator<Uint8Array> {
    for (let done = 0; done < bytes; ) {
      const chunk = Buffer.allocUnsafe(Math.min(READ_BYTES, bytes - done));
      const { bytesRead } = await this.#file.read(chunk, 0, chunk.length, at + done);
      if (bytesRead === 0) throw new Error('the temporary file is shorter than what was written');
      done += bytesRead;
      yield chunk.subarray(0, bytesRead);
    }
  }

  /** Gives the bytes back to the file system. May be called twice. */
  async close(): Promise<void> {
    await this.#file.close();
  }

  async #flush(): Promise<void> {
    const bytes = Buffer.concat(this.#waiting);
    this.#waiting = [];
    this.#waitingBytes = 0;
    for (let done = 0; done < bytes.length; ) {
      const { bytesWritten } = await this.#file.write(bytes, done, bytes.length - done, this.#written);
      done += bytesWritten;
      this.#written += bytesWritten;
    }
  }
}
