/**
 * A month that is dropped while somebody reads it, between any two of his statements: verification finds nothing, searches and sinks go on with what is
 * left, and a download either goes on or says what expired. Each try has a copy of one database, in which the drop alone is left to do; which
 * statement it comes before is drawn, all of them in the long form (SEALOG_TEST_HARD=1).
 */
import type { KyselyPlugin } from 'kysely';
import { pino } from 'pino';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { Problem } from '../src/errors.ts';
import { download } from '../src/export/download.ts';
import { entriesFrom } from '../src/export/entry-source.ts';
import { LineWriter } from '../src/export/line-writer.ts';
import { fileMonthKeys } from '../src/keys/file-month-keys.ts';
import { Keyring } from '../src/keys/keyring.ts';
import { BUNDLE_BOUNDS, writeBundle } from '../src/proof/bundle-writer.ts';
import type { Positions } from '../src/read/cursor.ts';
import { findEntry } from '../src/read/find-entry.ts';
import { search } from '../src/read/search.ts';
import { keyById } from '../src/store/data-keys.ts';
import { type AsTenant, asTenant, type Database, openDatabase } from '../src/store/database.ts';
import { logWideSource } from '../src/store/log-wide-source.ts';
import { dropMonth } from '../src/store/prunings.ts';
import { listStreams, type StreamRow } from '../src/store/streams.ts';
import { verifyLog } from '../src/verify/verify-log.ts';
import { appendOld, monthsAgo } from './support/old-entries.ts';
import { copyDatabase } from './support/postgres.ts';
import { startService, type TestService } from './support/service.ts';

const HARD = process.env['SEALOG_TEST_HARD'] !== undefined;
/** A try costs a copy of the database. */
const LIMIT_MS = HARD ? 1_800_000 : 60_000;
const silent = pino({ level: 'silent' });
/** More blocks than are read at once by anybody. */
const [EXPIRED, LEFT] = [36, 5];
const STREAM = 'acme/data_access';

let service: TestService;
let runId: string;
let expiredId: string;
let tenantId: number;
const writer = new LineWriter(silent);

beforeAll(async () => {
  const onStep = (step: string): void => {
    if (step === 'archived') throw new Error('held back');
  };
  service = await startService({
    environment: { SEALOG_ANCHOR_SECONDS: '1', SEALOG_CHECKPOINT_MS: '50' },
    pruning: { onStep },
  });
  for (let n = 0; n < EXPIRED; n++) {
    const [receipt] = await appendOld(service, monthsAgo(15) + n * 1000, 1);
    expiredId ??= receipt!.id;
  }
  for (let n = 0; n < LEFT; n++) await appendOld(service, monthsAgo(2) + n * 1000, 2);
  const held = (): Promise<string> => service.app.pruner.pass('test').catch((error: Error) => error.message);
  while ((await held()) !== 'held back') await new Promise((resolve) => setTimeout(resolve, 50));
  const { rows } = await service.adminPool.query(
    `SELECT p.id, s.tenant FROM sealog.pruning AS p, sealog.stream AS s WHERE p.state = 'archived' AND s.name = $1`,
    [STREAM],
  );
  runId = rows[0].id;
  tenantId = rows[0].tenant;
  await service.app.close();
}, 60_000);
afterAll(async () => {
  await writer.close();
  await service.stop();
});

interface Reading {
  readonly database: Database;
  readonly keys: Keyring;
  readonly ask: AsTenant;
  readonly stream: StreamRow;
}

/** Has a reader read, and drops the month before his nth statement, counted from 1; 0 = never. Returns what he got, and how many statements there were. */
async function droppedBefore<T>(
  nth: number,
  read: (reading: Reading) => Promise<T>,
): Promise<{ got: T; statements: number }> {
  const copy = nth === 0 ? undefined : await copyDatabase(service.database);
  const connection = (copy ?? service.database).appConfig;
  const database = openDatabase({ connection, readersMax: 1, log: silent });
  const dropping = openDatabase({ connection, readersMax: 1, log: silent });
  try {
    let statements = 0;
    const count = async (): Promise<void> => {
      if (++statements !== nth) return;
      while ((await dropMonth(dropping.writer, runId)) === 'busy')
        await new Promise((resolve) => setTimeout(resolve, 20));
    };
    // A verifier's statements are transactions of their own; what follows one comes before the next.
    const counting: KyselyPlugin = {
      transformQuery: ({ node }) => node,
      transformResult: async ({ result }) => {
        await count();
        return result;
      },
    };
    const verifier = database.verifier.withPlugin(counting);
    // Nothing is remembered, as in a process that was told to forget.
    const keys = new Keyring(
      fileMonthKeys(service.config.monthKeysDir),
      { findOrStore: () => Promise.reject(new Error('readers make no keys')), byId: (id) => keyById(verifier, id) },
      { cacheMs: 0 },
    );
    const ask: AsTenant = async (work) => {
      await count();
      return asTenant(database.reader, tenantId, work);
    };
    const streams = await asTenant(database.reader, tenantId, listStreams);
    const stream = streams.find(({ name }) => name === STREAM)!;
    const got = await read({ database: { ...database, verifier }, keys, ask, stream });
    return { got, statements };
  } finally {
    await Promise.all([database.close(), dropping.close()]);
    await copy?.drop();
  }
}

/** Tries places among the statements of a reader. */
async function everywhere<T>(
  short: number,
  read: (reading: Reading) => Promise<T>,
  check: (got: T, nth: number) => void,
): Promise<void> {
  const { got, statements } = await droppedBefore(0, read);
  check(got, 0);
  const all = Array.from({ length: statements }, (_, i) => i + 1);
  // One in each stretch of the way.
  const drawn = Array.from({ length: short }, (_, i) => 1 + Math.floor(((i + Math.random()) * statements) / short));
  for (const nth of HARD ? all : drawn) check((await droppedBefore(nth, read)).got, nth);
}

const LAST = EXPIRED + 2 * LEFT;
/** The seqs that are left, and before them as many of the others as came before the drop, none left out. */
function isWhatIsLeft(seqs: readonly number[], nth: number): void {
  const at = seqs.indexOf(EXPIRED);
  expect([nth, seqs.slice(at)]).toEqual([nth, Array.from({ length: 2 * LEFT }, (_, i) => EXPIRED + i)]);
  expect([nth, seqs.slice(0, at)]).toEqual([nth, Array.from({ length: at }, (_, i) => i)]);
}

describe('a month that is dropped', () => {
  test('while the log is verified is no finding, and nothing is left unchecked', { timeout: LIMIT_MS }, async () => {
    await everywhere(
      2,
      ({ database, keys }) => verifyLog(logWideSource(database.verifier, keys, 'log.example')),
      (report, nth) => {
        const found = [...report.findings, ...report.streams.flatMap(({ findings }) => findings)];
        const unchecked = report.streams.flatMap((one) => one.unchecked);
        expect([nth, found, unchecked, report.verdict]).toEqual([nth, [], [], 'not_provable']);
      },
    );
  });

  test.each(['asc', 'desc'] as const)(
    'while it is searched (%s) is passed over',
    { timeout: LIMIT_MS },
    async (order) => {
      const find = async ({ ask, keys, stream }: Reading): Promise<number[]> => {
        const seqs: number[] = [];
        let positions: Positions | undefined;
        do {
          const view = ({ record }: { record: { seq: number } }): string => `${record.seq}`;
          const page = await search(ask, keys, {
            streams: [stream],
            query: { site: 'plant-7' },
            order,
            limit: 20,
            positions,
            view,
          });
          seqs.push(...page.items.map(Number));
          positions = page.next;
        } while (positions !== undefined);
        return order === 'asc' ? seqs : seqs.reverse();
      };
      // What came before the drop is the newest of the month, or the oldest.
      await everywhere(1, find, (seqs, nth) => {
        if (order === 'asc') return isWhatIsLeft(seqs, nth);
        expect([nth, seqs]).toEqual([nth, Array.from({ length: seqs.length }, (_, i) => LAST - seqs.length + i)]);
        expect(seqs.length).toBeGreaterThanOrEqual(2 * LEFT);
      });
    },
  );

  test('while an event of it is looked for is there or has expired', { timeout: LIMIT_MS }, async () => {
    await everywhere(
      1,
      ({ ask, keys }) =>
        findEntry(ask, keys, { id: expiredId, category: undefined, sites: undefined }).then(
          ({ entry }) => entry.record.id,
          (error: Problem) => error.detail,
        ),
      (got, nth) =>
        expect([nth, got === expiredId || got?.includes('have expired') || got?.includes('has expired')]).toEqual([
          nth,
          true,
        ]),
    );
  });

  test('while a sink reads it is passed over', { timeout: LIMIT_MS }, async () => {
    const follow = async ({ ask, keys, stream: { id, size, name, category } }: Reading): Promise<number[]> => {
      const seqs: number[] = [];
      const source = { id, size, ask, stream: { name, category, tenant: 'acme' } };
      for await (const entries of entriesFrom(keys, source, 0))
        seqs.push(...entries.map(({ entry }) => entry.record.seq));
      return seqs;
    };
    await everywhere(1, follow, isWhatIsLeft);
  });

  test('while a bundle is made is in it, or what the answer says', { timeout: LIMIT_MS }, async () => {
    const made = async ({ database, ask, keys }: Reading): Promise<string> => {
      const sources = { origin: 'log.example', ask, verifier: database.verifier, keys };
      const asked = { tenant: 'acme', category: 'data_access', from: undefined, to: undefined, since: [] } as const;
      const request = { ...asked, withhold: new Set<never>() };
      try {
        await (await writeBundle(sources, request, BUNDLE_BOUNDS, new AbortController().signal)).close();
        return 'whole';
      } catch (error) {
        if (!(error instanceof Problem)) throw error;
        return `${error.code}: ${error.detail}`;
      }
    };
    await everywhere(1, made, (got, nth) =>
      expect([nth, got]).toEqual([nth, expect.stringMatching(/^whole$|^not_found: .* have expired and are gone/)]),
    );
  });

  test.each([[undefined], ['plant-7']])(
    'while it is downloaded (site %s) is what the download ends with, or passed over',
    { timeout: LIMIT_MS },
    async (site) => {
      const fetched = async ({ ask, keys }: Reading): Promise<number[] | string | undefined> => {
        const request = {
          tenant: 'acme',
          format: 'ndjson',
          categories: ['data_access'],
          query: { site },
          ...NOTHING,
        } as const;
        let text = '';
        try {
          const write = writer.write.bind(writer);
          for await (const bytes of download({ ask, keys, write }, request, new AbortController().signal))
            text += Buffer.from(bytes).toString();
        } catch (error) {
          if (!(error instanceof Problem)) throw error;
          return `${error.code}: ${error.detail}`;
        }
        const lines = text
          .trimEnd()
          .split('\n')
          .map((line) => JSON.parse(line));
        return lines.flatMap((line) => (line.log === undefined ? [] : [line.log.seq]));
      };
      await everywhere(1, fetched, (got, nth) => {
        if (Array.isArray(got)) isWhatIsLeft(got, nth);
        else
          expect([nth, got]).toEqual([
            nth,
            expect.stringMatching(/^not_found: the entries of acme\/data_access before \d+ have expired and are gone$/),
          ]);
        if (site !== undefined) expect(Array.isArray(got)).toBe(true);
      });
    },
  );
});

const NOTHING = { epoch: undefined, fromSeq: undefined, toSeq: undefined, limit: undefined, cursor: undefined };
