/** A thread that looks at parts for a verification (`parts-threads.ts`). */
import assert from 'node:assert/strict';
import { parentPort } from 'node:worker_threads';
import type { JsonObject } from '../chain/canonical.ts';
import { PartsCheck, type PartsJob, type PartsResult } from '../verify/parts-check.ts';
import type { PackedJob, PackedResult } from './parts-threads.ts';

const port = parentPort;
assert(port !== null, 'runs as a worker thread');

const check = new PartsCheck();

port.on('message', ({ id, stream, begin, parts, texts, dataKey, tagKey }: PackedJob) => {
  const records: PartsJob['records'][number][] = [];
  for (let i = 0; i < texts.length; i += 4) {
    const source: JsonObject = { service: texts[i + 1]!, site: texts[i + 2]! };
    records.push({ seq: begin + i / 4, action: texts[i]!, source, parts: texts[i + 3]! });
  }
  const { tags, ...found }: PartsResult = check.check({ stream, begin, parts, records, dataKey, tagKey });
  const packed = tags === undefined ? undefined : BigInt64Array.from(tags);
  const result: PackedResult = { id, ...found, tags: packed };
  port.postMessage(result, packed === undefined ? [] : [packed.buffer as ArrayBuffer]);
});
