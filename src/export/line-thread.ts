/** The thread that makes the lines of downloads: a stored block and its key in, lines out. */
import assert from 'node:assert/strict';
import { setPriority } from 'node:os';
import { parentPort } from 'node:worker_threads';
import { matches } from '../chain/entry-filter.ts';
import { openBlock } from '../chain/open-block.ts';
import { EvidenceError } from '../errors.ts';
import { downloadWriter } from './download-format.ts';
import type { Lines, LinesAnswer, LinesAsked, LinesWanted } from './line-writer.ts';

assert(parentPort !== null, 'runs as a worker thread');
const main = parentPort;
const encoder = new TextEncoder();

/** A third of what others get, where processors are short: whoever sends events goes first, and no download stands still. */
const NICE = 5;
// On Linux this is of the thread alone, elsewhere of the whole service.
if (process.platform === 'linux') setPriority(NICE);

function linesOf({ block, stream, dataKey, query, format, first, end, limit }: LinesWanted): Lines {
  const { line } = downloadWriter(format);
  const entries = openBlock(block, stream.name, dataKey)
    .filter((entry) => entry.record.seq >= first && entry.record.seq < end && matches(query, entry))
    .slice(0, limit);
  const bytes = encoder.encode(entries.map((entry) => line({ entry, stream })).join(''));
  return { bytes, entries: entries.length, first: entries[0]?.record.seq, last: entries.at(-1)?.record.seq };
}

main.on('message', (asked: LinesAsked) => {
  if (asked === undefined) {
    main.close();
    return;
  }
  const { id, ...wanted } = asked;
  try {
    const lines = linesOf(wanted);
    main.postMessage({ ...lines, id } satisfies LinesAnswer, [lines.bytes.buffer as ArrayBuffer]);
  } catch (error) {
    const failure = error instanceof Error ? error.message : String(error);
    main.postMessage({ id, failure, isEvidence: error instanceof EvidenceError } satisfies LinesAnswer);
  }
});
