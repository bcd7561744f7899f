/** A thread that encodes entries for sinks: a stored block, its key and a sink in, messages out. */
import assert from 'node:assert/strict';
import { setPriority } from 'node:os';
import { parentPort } from 'node:worker_threads';
import { EvidenceError } from '../errors.ts';
import { type EncodeAnswer, type EncodeAsked, type EncodedSink, packEntries } from './encode-threads.ts';
import { type EntryEncoder, encodeBlock } from './encoded-entries.ts';
import { encoderOf } from './transport-of-sink.ts';

assert(parentPort !== null, 'runs as a worker thread');
const main = parentPort;

/** A third of what others get, where processors are short: whoever sends events goes first, and no replay stands still. */
const NICE = 5;
// On Linux this is of the thread alone, elsewhere of the whole service.
if (process.platform === 'linux') setPriority(NICE);

/** As many as are followed at once. */
const SINKS_REMEMBERED = 200;
const encoders = new Map<string, EntryEncoder>();

function encoderFor(sink: EncodedSink): EntryEncoder {
  let encoder = encoders.get(sink.key);
  if (encoder === undefined) {
    if (encoders.size >= SINKS_REMEMBERED) encoders.clear();
    encoder = encoderOf(sink);
    encoders.set(sink.key, encoder);
  }
  return encoder;
}

main.on('message', ({ id, sink, ...sealed }: EncodeAsked) => {
  try {
    const firstSeq = Math.max(sealed.block.firstSeq, sealed.fromSeq);
    const packed = packEntries(firstSeq, encodeBlock(encoderFor(sink), sealed));
    main.postMessage({ ...packed, id } satisfies EncodeAnswer, [packed.payloads.buffer, packed.ends.buffer]);
  } catch (error) {
    const failure = error instanceof Error ? error.message : String(error);
    main.postMessage({ id, failure, isEvidence: error instanceof EvidenceError } satisfies EncodeAnswer);
  }
});
