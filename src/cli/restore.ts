/**
 * `sealog restore`: a backup, put into an empty data folder or database, verified, and held to what others know of the log.
 *
 * A backup is older than what came after it. What is missing is named, by stream and place, as far as anybody tells of it who was there: the
 * signer's own record, where its folder survived; signed checkpoints that were kept; receipts. Where nobody tells of anything that is newer than the
 * backup, that is said, too.
 *
 * Where the mark itself comes from the backup, it has forgotten what was signed after it, as the database has. Then nothing is taken before
 * `sealog recover` has gone on in new epochs, so that no size is ever signed twice; unless the operator says that there was nothing.
 *
 * What is already in its place stays: a signer's folder or a folder of month keys that is there is newer than its copy in a backup. An older
 * mark is told what the given checkpoints say, where they are signed by its own keys: nothing is ever signed again that they contradict.
 *
 * In embedded mode the new server is made beside its place, and put there when everything is loaded: what was interrupted is begun again.
 *
 * Exit 0: everything that is known of is there. 1: it failed, or what is there is not what was signed. 2: entries are missing, or whether they are is not known.
 */
import { mkdir, rename, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import type pg from 'pg';
import type { Logger } from 'pino';
import {
  checkDatabaseBackup,
  type DatabaseManifest,
  loadDatabaseBackup,
  readDatabaseManifest,
  readHeads,
} from '../backup/database-backup.ts';
import { isEmpty, putBackKeys, readKeysManifest, restoreTokenSecret } from '../backup/keys-backup.ts';
import { type MissingEntries, missingEntries, type Statement } from '../backup/missing-entries.ts';
import type { Config } from '../config.ts';
import { SettingsError } from '../errors.ts';
import type { SignedHead } from '../signer/mark.ts';
import { seedCount } from '../signer/seeds.ts';
import { connectionOf } from '../store/connection.ts';
import { lockDataDir } from '../store/data-dir-lock.ts';
import { openDatabase } from '../store/database.ts';
import { clusterOf, homeOf } from '../store/embedded/cluster.ts';
import { startEmbeddedPostgres } from '../store/embedded-postgres.ts';
import { Load } from '../store/load.ts';
import { listStreams } from '../store/streams.ts';
import type { LogReport } from '../verify/verify-log.ts';
import { configuration } from './environment.ts';
import {
  checkReceipts,
  markOf,
  noteCopy,
  type Receipt,
  raiseMark,
  type SignedNote,
  signedNotes,
} from './kept-elsewhere.ts';
import { commandLog } from './log.ts';
import { orUsage, UsageError } from './usage.ts';
import { readGiven, summary, verifyAll } from './verify-database.ts';

const FAILED = 1;
const SHORT = 2;

/** Where the new server of the embedded mode is made: a data folder of its own, below the one that it is for. */
const ASIDE = 'restoring';

interface Question {
  readonly from: string;
  readonly keysFrom: string | undefined;
  readonly withoutKeys: boolean;
  /** The operator says that nothing was signed after the backup: the service was stopped before. */
  readonly markIsNewest: boolean;
  readonly verifies: boolean;
  readonly checkpoints: readonly string[];
  readonly anchors: readonly string[];
  readonly receipts: readonly string[];
  readonly key: string | undefined;
  readonly authorities: readonly string[];
  readonly witnesses: readonly string[];
}

/** What a restore came to. */
interface Outcome {
  readonly takenAt: string;
  readonly streams: number;
  readonly entries: number;
  /** In words: rows that are not what the manifest says, checkpoints that contradict the log. */
  readonly wrong: readonly string[];
  readonly missing: readonly MissingEntries[];
  readonly missingReceipts: readonly Receipt[];
  /** Whether anybody told of the log who was there after the backup, or at least not by it. */
  readonly isCompared: boolean;
  /** Whether the mark came from the backup, and may have forgotten what was signed. */
  readonly isCopy: boolean;
  readonly report: LogReport | undefined;
}

export async function restoreCommand(args: string[]): Promise<number> {
  const list = { type: 'string' as const, multiple: true as const, default: [] as string[] };
  const options = {
    from: { type: 'string' },
    'keys-from': { type: 'string' },
    'without-keys': { type: 'boolean', default: false },
    'mark-is-newest': { type: 'boolean', default: false },
    verify: { type: 'boolean', default: false },
    checkpoint: list,
    anchors: list,
    receipts: list,
    key: { type: 'string' },
    tsa: list,
    witness: list,
    json: { type: 'boolean', default: false },
  } as const;
  const { values } = orUsage(() => parseArgs({ args, options }));
  if (values.from === undefined) throw new UsageError('say where from: --from DIR');
  const question: Question = {
    from: values.from,
    keysFrom: values['keys-from'],
    withoutKeys: values['without-keys'],
    markIsNewest: values['mark-is-newest'],
    verifies: values.verify,
    checkpoints: values.checkpoint,
    anchors: values.anchors,
    receipts: values.receipts,
    key: values.key,
    authorities: values.tsa,
    witnesses: values.witness,
  };
  const config = configuration();
  const log = commandLog(config);
  const manifest = await readDatabaseManifest(question.from);
  await checkDatabaseBackup(question.from, manifest);
  const outcome = await withTarget(config, log, async (admin, put) => {
    const mark = await placeKeys(config, question);
    const load = await Load.begin(admin, { ...manifest, takenAt: Date.parse(manifest.takenAt), heads: [] });
    try {
      await loadDatabaseBackup(question.from, manifest, load);
      await load.finish();
    } finally {
      await load.close();
    }
    const found = await lookAtRestored(config, log, admin, manifest, question, mark);
    await put();
    return found;
  });
  process.stdout.write(values.json ? `${JSON.stringify(outcome)}\n` : textOf(outcome, config, question));
  if (outcome.wrong.length > 0 || outcome.report?.verdict === 'tampered') return FAILED;
  const isShort = outcome.missing.length > 0 || outcome.missingReceipts.length > 0 || !outcome.isCompared;
  return isShort || outcome.report === undefined || outcome.report.verdict === 'incomplete' ? SHORT : 0;
}

/** Runs `work` on an empty database; `put` takes what was made in embedded mode to its place. */
async function withTarget<T>(
  config: Config,
  log: Logger,
  work: (admin: pg.ClientConfig, put: () => Promise<void>) => Promise<T>,
): Promise<T> {
  const { dataDir, databaseUrl } = config;
  if (databaseUrl !== undefined) return work(connectionOf(databaseUrl), async () => {});
  const lock = await lockDataDir(dataDir);
  try {
    if (await isThere(clusterOf(dataDir)))
      throw new SettingsError([`there is a log in ${dataDir}: set SEALOG_DATA_DIR to a folder for the restored one`]);
    const aside = join(dataDir, ASIDE);
    await rm(aside, { recursive: true, force: true });
    await mkdir(aside, { mode: 0o711 });
    const postgres = await startEmbeddedPostgres({ dataDir: aside, log });
    try {
      return await work(postgres.admin, async () => {
        await postgres.stop();
        await rm(homeOf(dataDir), { recursive: true, force: true });
        await rename(homeOf(aside), homeOf(dataDir));
      });
    } finally {
      await postgres.stop();
      await rm(aside, { recursive: true, force: true });
    }
  } finally {
    await lock.release();
  }
}

interface MarkOrigin {
  /** The signer's own record survived: what is there is newer than any copy. */
  readonly isLive: boolean;
  readonly isCopy: boolean;
}

/** Puts keys back where there are none. */
async function placeKeys(config: Config, { keysFrom, withoutKeys, markIsNewest }: Question): Promise<MarkOrigin> {
  const { signerDir, monthKeysDir, databaseUrl, dataDir } = config;
  const keys = keysFrom === undefined ? undefined : await readKeysManifest(keysFrom);
  const has = (kind: string): boolean => keys?.files.some(({ path }) => path.startsWith(`${kind}/`)) === true;
  const isLive = signerDir !== undefined && (await seedCount(signerDir)) > 0;
  let isCopy = false;
  if (withoutKeys) return { isLive, isCopy };
  if (signerDir !== undefined && !isLive) {
    if (!has('signer'))
      throw new SettingsError([
        `there are no signing seeds in ${signerDir}: give their backup with --keys-from, or say --without-keys`,
      ]);
    if (!(await isEmpty(signerDir)))
      throw new SettingsError([`${signerDir} has no seeds, and is not empty: take an empty folder`]);
    await putBackKeys(keysFrom!, keys!, 'signer', signerDir);
    isCopy = !markIsNewest && keys!.files.some(({ path }) => path === 'signer/mark.log');
    if (isCopy) await noteCopy(signerDir);
  }
  // A key that was destroyed since must not come back beside those that are there.
  if (monthKeysDir !== '' && (await isEmpty(monthKeysDir))) {
    if (!has('months'))
      throw new SettingsError([
        `there are no month keys in ${monthKeysDir}: give their backup with --keys-from, or say --without-keys`,
      ]);
    await putBackKeys(keysFrom!, keys!, 'months', monthKeysDir);
  }
  if (databaseUrl === undefined && keys !== undefined)
    await restoreTokenSecret(keysFrom!, keys, join(dataDir, 'keys', 'jwt-secret'));
  return { isLive, isCopy };
}

async function lookAtRestored(
  config: Config,
  log: Logger,
  admin: pg.ClientConfig,
  manifest: DatabaseManifest,
  question: Question,
  { isLive, isCopy }: MarkOrigin,
): Promise<Outcome> {
  const database = openDatabase({ connection: admin, readersMax: 1, log });
  try {
    const sizes = new Map((await listStreams(database.verifier)).map(({ name, size }) => [name, size]));
    const wrong = await againstManifest(question.from, manifest, sizes);
    const mark = await markOf(config);
    const notes = await signedNotes(database, manifest.origin, question);
    wrong.push(...notes.wrong);
    const receipts = await checkReceipts(database, question.receipts);
    wrong.push(...receipts.wrong);
    const statements: Statement[] = [...notes.good];
    for (const [stream, { size }] of mark ?? []) statements.push({ stream, size, by: "the signer's own record" });
    for (const { stream, seq, id } of receipts.missing)
      statements.push({ stream, size: seq + 1, by: `the receipt of ${id}` });
    const missing = missingEntries(sizes, statements);
    wrong.push(...(await raiseMark(config, notes.good)));
    const report = question.verifies
      ? await verifyRestored(config, log, admin, question, sizes, mark, notes.good)
      : undefined;
    return {
      takenAt: manifest.takenAt,
      streams: sizes.size,
      entries: [...sizes.values()].reduce((sum, size) => sum + size, 0),
      wrong,
      missing,
      missingReceipts: receipts.missing,
      isCompared: isLive || question.markIsNewest || notes.good.length > 0 || receipts.count > 0,
      isCopy,
      report,
    };
  } finally {
    await database.close();
  }
}

/** Verifies with what speaks of entries that are there: what speaks of others was told as missing. */
async function verifyRestored(
  config: Config,
  log: Logger,
  admin: pg.ClientConfig,
  question: Question,
  sizes: ReadonlyMap<string, number>,
  mark: ReadonlyMap<string, SignedHead> | undefined,
  notes: readonly SignedNote[],
): Promise<LogReport> {
  const isThere = ({ stream, size }: { stream: string; size: number }): boolean => size <= (sizes.get(stream) ?? 0);
  const given = await readGiven({ ...question, checkpoints: [] });
  const heads = [...(mark ?? [])].filter(([stream, { size }]) => isThere({ stream, size }));
  return verifyAll(
    config,
    log,
    { connection: admin, logins: undefined },
    {
      ...given,
      ...(mark === undefined ? {} : { mark: new Map(heads) }),
      checkpoints: notes.filter(isThere).map(({ by, note }) => ({ name: by, note })),
    },
    undefined,
  );
}

/** What was loaded has the streams, and the sizes, of the moment of the backup. */
async function againstManifest(
  from: string,
  manifest: DatabaseManifest,
  sizes: ReadonlyMap<string, number>,
): Promise<string[]> {
  const heads = await readHeads(from, manifest);
  const wrong = [...heads.values()]
    .filter(({ stream, size }) => sizes.get(stream) !== size)
    .map(({ stream, size }) => `${stream} has ${sizes.get(stream) ?? 'no'} entries, and had ${size} at the backup`);
  for (const stream of sizes.keys()) if (!heads.has(stream)) wrong.push(`${stream} was not there at the backup`);
  return wrong;
}

async function isThere(path: string): Promise<boolean> {
  return stat(path).then(
    () => true,
    (error: NodeJS.ErrnoException) => {
      if (error.code === 'ENOENT') return false;
      throw error;
    },
  );
}

// ---- For people ----

function textOf(outcome: Outcome, { databaseUrl, dataDir }: Config, question: Question): string {
  const { takenAt, streams, entries, wrong, missing, missingReceipts, isCompared, isCopy, report } = outcome;
  const lines = [`Restored ${streams} streams, ${entries} entries, as of ${takenAt}.`];
  for (const one of wrong) lines.push(`WRONG: ${one}`);
  for (const { stream, from, to, by } of missing)
    lines.push(`MISSING: ${stream}: entries ${from} to ${to - 1}, as ${by} says`);
  for (const { id, stream, seq } of missingReceipts)
    lines.push(`MISSING: ${id}, entry ${seq} of ${stream}, which has a receipt`);
  if (!isCompared) {
    lines.push(
      'NOT KNOWN whether entries are missing: nothing that is newer than the backup was given to compare with.',
    );
    lines.push(
      "Give the newest you have: --checkpoint FILE, --anchors DIR, --receipts FILE, or the signer's own folder.",
    );
  } else if (missing.length === 0 && missingReceipts.length === 0)
    lines.push('Nothing is missing of what was given to compare with.');
  if (report !== undefined)
    lines.push('', summary(report, question.authorities.length + question.witnesses.length > 0).trimEnd());
  else lines.push('It was not verified: sealog verify --database');
  lines.push('');
  if (isCopy)
    lines.push(
      "The signer's record is a copy: what was signed after it is not known, and must not be signed a second time with other entries.",
      'Where the service was stopped before the backup, and nothing was: restore again, with --mark-is-newest.',
    );
  if (databaseUrl !== undefined) lines.push('Let the service in: sealog migrate --app-role ROLE.');
  if (isCopy || missing.length > 0)
    lines.push(
      'To go on, in new epochs whose first entries name what is lost: sealog recover, before the service is started.',
    );
  if (databaseUrl === undefined) lines.push(`The service starts from ${dataDir}.`);
  lines.push('What was erased since is erased again, from the ledger, before anybody reads.');
  return `${lines.join('\n')}\n`;
}
