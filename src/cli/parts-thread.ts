/** A thread that looks at parts for a verification (`parts-threads.ts`). */
import assert from 'node:assert/strict';
import { parentPort } from 'node:worker_threads';
import { PartsCheck, type PartsResult } from '../verify/parts-check.ts';
import type { PackedJob, PackedResult } from './parts-threads.ts';

const port = parentPort;
assert(port !== null, 'runs as a worker thread');

const check = new PartsCheck();

port.on('message', ({ id, stream, begin, parts, texts, dataKey, tagKey }: PackedJob) => {
  const records = Array.from({ length: texts.length / 4 }, (_, i) => {
    const [action, service, site, hash] = texts.slice(4 * i, 4 * i + 4);
    const source = { ...(service == null ? {} : { service }), ...(site == null ? {} : { site }) };
    return { seq: begin + i, action: action!, source, parts: hash! };
  });
  const { closed, findings, tags }: PartsResult = check.check({ stream, begin, parts, records, dataKey, tagKey });
  const packed = tags === undefined ? undefined : BigInt64Array.from(tags);
  const result: PackedResult = { id, closed, findings, tags: packed };
  port.postMessage(result, packed === undefined ? [] : [packed.buffer as ArrayBuffer]);
});
