/** The real events outside of the repository, where SEALOG_TEST_DATA names their folder. */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { gunzipSync } from 'node:zlib';
import type { JsonObject } from '../../src/chain/canonical.ts';

export const TEST_DATA = process.env['SEALOG_TEST_DATA'];

/** Of the corpus every event, or, unless SEALOG_TEST_HARD asks for all, one of so many. */
const ONE_OF = process.env['SEALOG_TEST_HARD'] === undefined ? 10 : 1;

/** How many generated events: all, or a tenth unless SEALOG_TEST_HARD asks for all. */
export function manyOf(count: number): number {
  return Math.ceil(count / ONE_OF);
}

/** Yields events of all files of the corpus, and all vendors' samples in `fixtures/`; those without an id get one. */
export function* corpusEvents(folder = TEST_DATA!): Generator<JsonObject> {
  for (const path of ['corpus', 'corpus/fixtures'].map((name) => join(folder, name))) {
    for (const name of readdirSync(path).filter((file) => file.endsWith('.ndjson.gz'))) {
      for (const [index, line] of gunzipSync(readFileSync(join(path, name)))
        .toString('utf8')
        .split('\n')
        .entries()) {
        if (line === '' || (path.endsWith('corpus') && index % ONE_OF !== 0)) continue;
        const event = JSON.parse(line) as JsonObject;
        yield event['id'] === undefined ? { id: `${name}~${index}`, ...event } : event;
      }
    }
  }
}
