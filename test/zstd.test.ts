import zlib from 'node:zlib';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { keepsContext, zstdFrameOf } from '../src/chain/zstd.ts';

const params = { [zlib.constants.ZSTD_c_compressionLevel]: 3 };

describe('a frame by the kept context', () => {
  it('is the one that the documented function gives, whatever was compressed before', () => {
    const words = fc.array(fc.constantFrom('user.login ', 'file.read ', '10.0.0.7 ', '{"id":"', 'ä', '\0'), {
      maxLength: 4000,
    });
    const payload = fc.oneof(
      fc.uint8Array({ maxLength: 3000 }),
      words.map((list) => Buffer.from(list.join(''))),
    );
    fc.assert(
      fc.property(fc.array(payload, { minLength: 2, maxLength: 6 }), (payloads) => {
        for (const bytes of payloads)
          expect(Buffer.compare(zstdFrameOf(bytes), zlib.zstdCompressSync(bytes, { params }))).toBe(0);
      }),
    );
  });

  it.each([256 * 1024, 256 * 1024 + 1, 3_000_000])('holds %i bytes, and so does the next', (length) => {
    const noise = Buffer.from(Array.from({ length: 65_536 }, (_, i) => (i * i * 31) % 251));
    for (const bytes of [Buffer.alloc(length, noise), Buffer.from('a short one')])
      expect(zlib.zstdDecompressSync(zstdFrameOf(bytes)).equals(bytes)).toBe(true);
  });

  it('is given on, and not overwritten by the next', () => {
    const first = zstdFrameOf(Buffer.alloc(5000, 'first '));
    zstdFrameOf(Buffer.alloc(5000, 'another '));
    expect(zlib.zstdDecompressSync(first).toString()).toBe(Buffer.alloc(5000, 'first ').toString());
  });

  // Where it is not, frames are the same and dear: somebody has to look at what this Node's streams have.
  it('is what this Node gives', () => {
    expect(keepsContext()).toBe(true);
  });
});
