import { randomBytes } from 'node:crypto';
import zlib from 'node:zlib';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { packPayload, unpackPayload } from '../src/chain/block.ts';
import { utf8 } from '../src/chain/bytes.ts';
import { decodeRecord, encodeRecord, partsHashIn, type Rec } from '../src/chain/record.ts';
import { EvidenceError } from '../src/errors.ts';

const text = (length: number) =>
  Buffer.from('{"actor":"u-17","n":1}'.repeat(Math.ceil(length / 22))).subarray(0, length);
/** Around the sizes at which buffers, blocks of a frame and windows end. */
const SIZES = [
  0, 1, 255, 256, 257, 16_383, 16_384, 16_385, 32_768, 65_536, 131_071, 131_072, 131_073, 262_144, 1_000_000,
];

test('every payload comes back, whatever its size and content', () => {
  for (const size of SIZES) {
    for (const payload of [
      text(size),
      randomBytes(size),
      Buffer.alloc(size, 65),
      Buffer.concat([randomBytes(size), text(size)]),
    ]) {
      expect(Buffer.compare(unpackPayload(packPayload(payload)), payload)).toBe(0);
    }
  }
  for (let i = 0; i < 2000; i++) {
    const payload = Buffer.concat([text(i * 37), randomBytes(i % 300)]);
    expect(Buffer.compare(unpackPayload(packPayload(payload)), payload)).toBe(0);
  }
});

test('a frame that is as long as the chunks that the library writes in is one frame', () => {
  let met = 0;
  // Text that shrinks a little, so that the compressed payload is stored, in lengths around 16 KiB and its multiples.
  for (const chunk of [16_384, 32_768, 49_152, 65_536]) {
    for (let length = chunk - 200; length < chunk; length++) {
      const payload = Buffer.concat([randomBytes(length), text(2000)]);
      const packed = packPayload(payload);
      if (packed.length === 1 + chunk) met += 1;
      expect(Buffer.compare(unpackPayload(packed), payload)).toBe(0);
    }
  }
  expect(met).toBeGreaterThan(0);
});

test('frames of every level, with and without checksum or size, are one frame', () => {
  for (const level of [1, 3, 9, 19]) {
    for (const checksum of [0, 1]) {
      for (const contentSize of [0, 1]) {
        const frame = zlib.zstdCompressSync(text(50_000), {
          params: {
            [zlib.constants.ZSTD_c_compressionLevel]: level,
            [zlib.constants.ZSTD_c_checksumFlag]: checksum,
            [zlib.constants.ZSTD_c_contentSizeFlag]: contentSize,
          },
        });
        expect(unpackPayload(Buffer.concat([Buffer.of(1), frame])).length).toBe(50_000);
      }
    }
  }
});

test('anything behind the frame, or missing from it, is refused', () => {
  const packed = packPayload(text(40_000));
  const frame = packed.subarray(1);
  for (const damaged of [
    Buffer.concat([packed, Buffer.of(0)]),
    Buffer.concat([packed, Buffer.from('xyz')]),
    Buffer.concat([packed, frame]),
    ...Array.from({ length: packed.length - 1 }, (_, i) => packed.subarray(0, i + 1)),
    Buffer.of(1),
    Buffer.of(2, 0, 0),
    Buffer.alloc(0),
  ]) {
    expect(() => unpackPayload(damaged)).toThrow(EvidenceError);
  }
});

test('a frame that would open to more than any payload has is refused', () => {
  const bomb = zlib.zstdCompressSync(Buffer.alloc(17 * 1024 * 1024));
  expect(() => unpackPayload(Buffer.concat([Buffer.of(1), bomb]))).toThrow(EvidenceError);
});

test('the parts hash is found in a record as reading all of it finds it, whatever its texts look like', () => {
  const hash = fc.string({ unit: fc.constantFrom(...'0123456789abcdef'), minLength: 64, maxLength: 64 });
  const snare = fc.constantFrom(
    '","parts":"',
    `","parts":"${'f'.repeat(64)}"`,
    '\\',
    '"',
    '\u2028',
    'ä',
    '{"action":"',
  );
  const text = fc.array(fc.oneof(snare, fc.string({ unit: 'binary' })), { maxLength: 4 }).map((all) => all.join(''));
  const record = fc.record<Rec>(
    {
      ...{ stream: text, id: text, action: text, occurredAt: text, parts: hash, previous: hash },
      outcome: fc.constantFrom('success', 'failure', 'unknown'),
      severity: fc.integer({ min: 0, max: 10 }),
      evidence: fc.constant('incomplete' as const),
      source: fc.record({ service: text, site: text }),
      seq: fc.nat(),
      recordedAt: fc.constant('2026-11-22T21:04:05.000Z'),
    },
    {
      requiredKeys: [
        'stream',
        'id',
        'action',
        'occurredAt',
        'parts',
        'previous',
        'outcome',
        'source',
        'seq',
        'recordedAt',
      ],
    },
  );
  fc.assert(
    fc.property(record, (one) => {
      const bytes = utf8(encodeRecord(one));
      expect(partsHashIn(bytes)).toBe(one.parts);
      expect(decodeRecord(bytes).parts).toBe(one.parts);
    }),
    { numRuns: 500 },
  );
  for (const broken of [new Uint8Array(0), Buffer.of(0xff, 0xfe), utf8('{}'), utf8('{"parts":"'), utf8('[]')])
    expect(() => partsHashIn(broken)).toThrow(EvidenceError);
});
