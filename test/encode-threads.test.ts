/** Entries that are encoded in threads, held to what encoding them here gives: in the log's order, and with the same failures in their turn. */
import { afterAll, expect, test } from 'vitest';
import { encodeParts, encodeRecords, packPayload } from '../src/chain/block.ts';
import { fromHex } from '../src/chain/bytes.ts';
import type { JsonObject } from '../src/chain/canonical.ts';
import type { OpenableBlock } from '../src/chain/open-block.ts';
import { sealParts } from '../src/chain/seal.ts';
import { type EncodedSink, EncodeThreads } from '../src/export/encode-threads.ts';
import { type EncodedEntry, encodeBlock, encodedFrom } from '../src/export/encoded-entries.ts';
import type { KeyedBlock } from '../src/export/entry-source.ts';
import type { ExportedEntry } from '../src/export/exported-entry.ts';
import { encoderOf } from '../src/export/transport-of-sink.ts';
import { generateEvents } from './support/events.ts';
import { exportedStream } from './support/exported.ts';

const KEY = new Uint8Array(32).fill(7);
const BLOCK_ENTRIES = 25;
const threads = new EncodeThreads();
afterAll(() => threads.close());

const events = generateEvents({ seed: 8, count: 1000, categories: ['data_access'] }) as unknown as JsonObject[];
const log = [...exportedStream(events)];
const { stream } = log[0]!;

const SYSLOG: EncodedSink = {
  key: 'syslog',
  config: { type: 'syslog', format: 'cef', url: 'tcp://192.0.2.1:514', secrets: [] },
  secret: undefined,
  hostname: 'log-1',
};
const WEBHOOK: EncodedSink = {
  key: 'webhook',
  config: {
    type: 'webhook',
    url: 'https://siem.example/in',
    format: 'json',
    filter: { severityMin: 2 },
    secrets: ['bearerToken'],
  },
  secret: { bearerToken: 'a-token' },
  hostname: 'log-1',
};

function blocksOf(entries: readonly ExportedEntry[]): OpenableBlock[] {
  return Array.from({ length: Math.ceil(entries.length / BLOCK_ENTRIES) }, (_, index) => {
    const own = entries.slice(index * BLOCK_ENTRIES, (index + 1) * BLOCK_ENTRIES).map(({ entry }) => entry);
    const hashes = own.map(({ record }) => fromHex(record.parts));
    return {
      firstSeq: own[0]!.record.seq,
      entries: own.length,
      records: packPayload(encodeRecords(own.map(({ bytes }) => bytes))),
      parts: sealParts(KEY, stream.name, hashes, packPayload(encodeParts(own.map(({ parts }) => parts)))),
    };
  });
}

/** As many of them together as were read together. */
async function* read(blocks: readonly OpenableBlock[], failure?: Error): AsyncGenerator<KeyedBlock, undefined> {
  for (const block of blocks) yield { block: block as KeyedBlock['block'], dataKey: KEY, together: blocks.length };
  if (failure !== undefined) throw failure;
}

/** Returns what came, and the failure that ended it. */
async function encoded(
  sink: EncodedSink,
  blocks: AsyncIterable<KeyedBlock>,
  ahead: number,
): Promise<{ readonly entries: EncodedEntry[]; readonly failure: string | undefined }> {
  const elsewhere = (sealed: Parameters<EncodeThreads['encode']>[1]) => threads.encode(sink, sealed);
  const entries: EncodedEntry[] = [];
  try {
    for await (const some of encodedFrom(
      { encoder: encoderOf(sink), elsewhere, ahead: () => ahead },
      blocks,
      stream,
      30,
    ))
      entries.push(...some);
  } catch (error) {
    return { entries, failure: `${(error as Error).name}: ${(error as Error).message}` };
  }
  return { entries, failure: undefined };
}

const hereAndThere = async (sink: EncodedSink, blocks: () => AsyncIterable<KeyedBlock>) => {
  const here = await encoded(sink, blocks(), 0);
  const there = await encoded(sink, blocks(), 6);
  expect(there.entries.map(comparable)).toEqual(here.entries.map(comparable));
  expect(there.failure).toBe(here.failure);
  return there;
};

function comparable(entry: EncodedEntry): object {
  if (entry.kind !== 'message') return entry;
  return { ...entry, message: { ...entry.message, payload: Buffer.from(entry.message.payload).toString() } };
}

const blocks = blocksOf(log);

test.each([SYSLOG, WEBHOOK])('every entry in its place: $key', async (sink) => {
  const { entries, failure } = await hereAndThere(sink, () => read(blocks));
  expect(failure).toBeUndefined();
  expect(entries.map(({ seq }) => seq)).toEqual(log.slice(30).map(({ entry }) => entry.record.seq));
  const kinds = new Set(entries.map(({ kind }) => kind));
  expect([...kinds].sort()).toEqual(sink === SYSLOG ? ['message'] : ['message', 'passed']);
});

test('an entry that can not be encoded is the last', async () => {
  const sink = { ...SYSLOG, key: 'narrow', config: { ...(SYSLOG.config as object), maxBytes: 900 } };
  const long = [
    ...events.slice(0, 400),
    { ...events[400]!, id: 'i'.repeat(256), action: `a.${'b'.repeat(100)}` },
    ...events.slice(401),
  ];
  const { entries } = await hereAndThere(sink, () => read(blocksOf([...exportedStream(long)])));
  expect(entries.find(({ kind }) => kind === 'poison')).toMatchObject({
    seq: 400,
    reason: expect.stringContaining('900'),
  });
});

test('a block that is not what was stored fails in its turn', async () => {
  const damaged = blocks.map((block, index) =>
    index === 5 ? { ...block, parts: block.parts.with(60, block.parts[60]! ^ 1) } : block,
  );
  const { entries, failure } = await hereAndThere(SYSLOG, () => read(damaged));
  expect(entries.at(-1)!.seq).toBe(5 * BLOCK_ENTRIES - 1);
  expect(failure).toContain('EvidenceError');
});

test('a read that fails does so behind what was read before it', async () => {
  const { entries, failure } = await hereAndThere(SYSLOG, () => read(blocks, new Error('the database is away')));
  expect(entries.at(-1)!.seq).toBe(log.at(-1)!.entry.record.seq);
  expect(failure).toBe('Error: the database is away');
});

test('who stops in the middle leaves nothing behind', async () => {
  const elsewhere = (sealed: Parameters<EncodeThreads['encode']>[1]) => threads.encode(SYSLOG, sealed);
  const entries = encodedFrom({ encoder: encoderOf(SYSLOG), elsewhere, ahead: () => 6 }, read(blocks), stream, 0);
  expect((await entries.next()).done).toBe(false);
  await entries.return(undefined);
  expect(encodeBlock(encoderOf(SYSLOG), { block: blocks[0]!, stream, dataKey: KEY, fromSeq: 0 })).toHaveLength(25);
});
