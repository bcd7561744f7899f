/**
 * `npm run bench`: what Sealog does with real audit events, beside what the same PostgreSQL does with them without Sealog.
 *
 * The service runs as a user would start it; the baselines run on its database server, in a database of their own. The method and how to read
 * the figures: bench/README.md.
 */
import { mkdtemp } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type EventChoice, type EventSource, loadEvents, writeEvents } from './corpus.ts';
import { describeMachine } from './machine.ts';
import { readOptions, usage } from './options.ts';
import { Run } from './run.ts';
import { SUITE } from './suite.ts';

const NAMES = SUITE.flatMap(({ names }) => names);
await main();

async function main(): Promise<void> {
  const asked = readOptions(NAMES, process.env.SEALOG_TEST_DATA);
  if (asked === undefined) {
    console.error(usage(NAMES));
    process.exitCode = 64;
    return;
  }
  const folder = await mkdtemp(join(tmpdir(), 'sealog-bench-'));
  const events = writeEvents(asked.choice, join(folder, 'events.ndjson'));
  const run = new Run({ ...asked, events }, folder);
  for (const signal of ['SIGINT', 'SIGTERM'] as const) {
    process.once(signal, () => {
      run.print();
      void run.close().finally(() => process.exit(1));
    });
  }
  try {
    console.log(describeMachine());
    console.log(describeEvents(asked.choice, events));
    if (asked.smoke) console.log('a smoke run: it shows that everything works; its figures say nothing');
    for (const measurement of SUITE) await run.take(measurement);
    await run.closeShared();
  } finally {
    await run.close();
  }
  run.print();
  if (run.failures.length > 0) process.exitCode = 1;
}

function describeEvents({ testData, order }: EventChoice, source: EventSource): string {
  const events = loadEvents(source);
  const bytes = events.reduce((sum, { text }) => sum + Buffer.byteLength(text), 0);
  const origin = testData === undefined ? 'generated (SEALOG_TEST_DATA is not set)' : `real, from ${testData}/corpus`;
  return `events: ${events.length}, ${(bytes / events.length).toFixed(0)} bytes on average, ${order}, ${origin}`;
}
