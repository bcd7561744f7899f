/**
 * The events of the benchmark: the real audit events under SEALOG_TEST_DATA where there are any, else the generator's.
 *
 * They are loaded once and sent many times. An id may be stored only once, so each ends in a mark of fixed width that the
 * clients overwrite before sending: the bytes are built before the clock runs, and a new pass over the events costs five bytes an event.
 */
import assert from 'node:assert/strict';
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { gunzipSync } from 'node:zlib';
import { generateEvents } from '../test/support/events.ts';

/** One event, ready to be sent. `text` is its JSON, as in the corpus but for the mark at the end of its id. */
export interface BenchEvent {
  readonly text: string;
  /** Where the mark stands in `text` (characters; also bytes, since what precedes it is ASCII) and in `id`. */
  readonly markInText: number;
  readonly markInId: number;
  readonly id: string;
  readonly occurredAt: string;
  readonly action: string;
  readonly actor: string | null;
  readonly target: string | null;
}

/**
 * Which events to send. Without a folder they are generated.
 *
 * `sources`: each source's events stay in the order it wrote them, and the sources are merged at random, as when several services send.
 * `shuffled`: every order is as likely as any other, so each batch mixes some twenty unlike sources of all times, and compresses worst.
 * `files`: source after source, so that a batch comes from one source, as it does when each service sends its own.
 */
export interface EventChoice {
  readonly testData?: string;
  readonly order: EventOrder;
  readonly limit?: number;
}

/** The events that were chosen, an event a line, as every process of the bench loads them: reading the corpus takes each of them longer. */
export interface EventSource {
  readonly file: string;
  /** Only the first of them. */
  readonly limit?: number;
  /** Events of so many bytes each, filled up with the text of these, in place of them; `limit` of them. */
  readonly bytes?: number;
}

export const EVENT_ORDERS = ['sources', 'shuffled', 'files'] as const;
export type EventOrder = (typeof EVENT_ORDERS)[number];

/** Characters of the mark. */
export const MARK_LENGTH = 5;

const PLACEHOLDER = '0'.repeat(MARK_LENGTH);
const SEED = 20_261_122;
const GENERATED_EVENTS = 40_000;
/** Whose text fills up events of a given size. */
const TEXT_EVENTS = 2000;

/** Writes the events that are chosen, always the same ones in the same order, to a file. */
export function writeEvents({ testData, order, limit }: EventChoice, file: string): EventSource {
  const random = seededRandom(SEED);
  const sources = testData === undefined ? generatedSources(limit) : corpusSources(join(testData, 'corpus'));
  const lines = order === 'files' ? sources.flat() : merge(sources, random);
  if (order === 'shuffled') shuffle(lines, random);
  writeFileSync(file, lines.slice(0, limit).join('\n'));
  return { file };
}

/** Loads the events. */
export function loadEvents({ file, limit, bytes }: EventSource): BenchEvent[] {
  const lines = readFileSync(file, 'utf8').split('\n');
  if (bytes === undefined) return lines.slice(0, limit).map(toBenchEvent);
  return sizedLines(lines.slice(0, TEXT_EVENTS).join(' '), bytes, limit ?? lines.length).map(toBenchEvent);
}

/** Whether the folder holds the real events. */
export function hasCorpus(testData: string | undefined): testData is string {
  return testData !== undefined && existsSync(join(testData, 'corpus'));
}

/** The mark of a pass: a letter for the measurement, the round and the pass in it, so that no id is sent twice to one table. */
export function passMark(kind: string, round: number, pass: number): string {
  const mark = kind + base36(round) + base36(pass);
  assert.equal(mark.length, MARK_LENGTH, `no mark is left for pass ${pass} of round ${round}`);
  return mark;
}

/** The event's JSON with the mark in its id. */
export function markText(event: BenchEvent, mark: string): string {
  return event.text.slice(0, event.markInText) + mark + event.text.slice(event.markInText + MARK_LENGTH);
}

/** The event's id with the mark. */
export function markId(event: BenchEvent, mark: string): string {
  return event.id.slice(0, event.markInId) + mark;
}

function base36(n: number): string {
  return n.toString(36).padStart(2, '0');
}

function corpusSources(folder: string): string[][] {
  const files = readdirSync(folder)
    .filter((name) => name.endsWith('.ndjson.gz'))
    .sort();
  assert(files.length > 0, `${folder} holds no *.ndjson.gz`);
  return files.map((name) =>
    gunzipSync(readFileSync(join(folder, name)))
      .toString('utf8')
      .split('\n')
      .filter((line) => line !== ''),
  );
}

function generatedSources(limit = GENERATED_EVENTS): string[][] {
  return [generateEvents({ seed: SEED, count: limit }).map((event) => JSON.stringify(event))];
}

/** Events whose `raw` takes the text piece by piece, from its beginning again where it ends. */
function sizedLines(text: string, bytes: number, count: number): string[] {
  const ascii = text.replace(/[^\x20-\x7e]/g, ' ');
  const lines: string[] = [];
  for (let at = 0; lines.length < count; ) {
    const event = (raw: string) =>
      JSON.stringify({
        ...{ id: `sized-${lines.length}`, category: 'system_operation', action: 'resource.alert', outcome: 'success' },
        ...{ occurredAt: '2026-11-22T21:04:05Z', source: { service: 'historian' }, raw },
      });
    const room = bytes - event('').length - MARK_LENGTH - 1;
    assert(room > 0, `no event has only ${bytes} bytes`);
    let raw = ascii.slice(at, at + room);
    // Quotes take two bytes.
    while (JSON.stringify(raw).length - 2 > room)
      raw = raw.slice(0, raw.length - Math.ceil((JSON.stringify(raw).length - 2 - room) / 2));
    lines.push(event(raw));
    at = at + raw.length + bytes > ascii.length ? 0 : at + raw.length;
  }
  return lines;
}

/** The line itself is sent, not what JSON.parse makes of it, so that the numbers are spelled as they were. */
function toBenchEvent(line: string): BenchEvent {
  const event: unknown = JSON.parse(line);
  assert(isSent(event), `not an event with an id: ${line.slice(0, 200)}`);
  const start = `{"id":"${event.id}`;
  assert(line.startsWith(start), `the id does not come first: ${line.slice(0, 200)}`);
  return {
    text: `${start}~${PLACEHOLDER}${line.slice(start.length)}`,
    markInText: start.length + 1,
    id: `${event.id}~${PLACEHOLDER}`,
    markInId: event.id.length + 1,
    occurredAt: event.occurredAt,
    action: event.action,
    actor: event.actor?.id ?? null,
    target: event.target?.id ?? null,
  };
}

interface SentEvent {
  id: string;
  occurredAt: string;
  action: string;
  actor?: { id?: string };
  target?: { id?: string };
}

function isSent(value: unknown): value is SentEvent {
  return typeof value === 'object' && value !== null && 'id' in value && typeof value.id === 'string';
}

/** Merges the sources at random, each in its own order: the next line comes from a source with the chance of its remaining share. */
function merge(sources: readonly (readonly string[])[], random: () => number): string[] {
  const taken = sources.map(() => 0);
  let remaining = sources.reduce((sum, source) => sum + source.length, 0);
  const merged: string[] = [];
  for (; remaining > 0; remaining--) {
    let ticket = Math.floor(random() * remaining);
    for (const [index, source] of sources.entries()) {
      const left = source.length - taken[index]!;
      if (ticket < left) {
        merged.push(source[taken[index]!++]!);
        break;
      }
      ticket -= left;
    }
  }
  return merged;
}

/** Fisher and Yates. */
function shuffle(lines: string[], random: () => number): void {
  for (let last = lines.length - 1; last > 0; last--) {
    const other = Math.floor(random() * (last + 1));
    [lines[last], lines[other]] = [lines[other]!, lines[last]!];
  }
}

/** A number in [0, 1) from a 32-bit xorshift: good enough to mix, and the same everywhere. */
function seededRandom(seed: number): () => number {
  let state = seed | 0;
  return () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) / 2 ** 32;
  };
}
