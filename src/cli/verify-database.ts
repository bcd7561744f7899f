/** `sealog verify --database`: the log in the service's database, held to what the command was given and to the signer's folder where it is at hand. */
import { readFile } from 'node:fs/promises';
import type { Logger } from 'pino';
import { parseCosignerVkey } from '../chain/cosignature.ts';
import { parseVkey } from '../chain/note.ts';
import type { Config } from '../config.ts';
import { EvidenceError, SettingsError } from '../errors.ts';
import { Keyring } from '../keys/keyring.ts';
import { openMonthKeys } from '../keys/open-month-keys.ts';
import { signerKnowledge } from '../signer/knowledge.ts';
import { keyStatements } from '../store/checkpoints.ts';
import { findOrStoreKey, keyById } from '../store/data-keys.ts';
import { type Database, type DatabaseOptions, openDatabase } from '../store/database.ts';
import { readOrigin } from '../store/deployment.ts';
import { logWideSource } from '../store/log-wide-source.ts';
import { doneMigrations, knownMigrations, newerSchema } from '../store/migrate.ts';
import { newerMigrations } from '../store/schema-version.ts';
import { listStreams } from '../store/streams.ts';
import { anyOf, type EvidenceChecker, timeStampChecker, witnessChecker } from '../verify/outside-evidence.ts';
import { readCertificates } from '../verify/time-stamp.ts';
import {
  LogCheck,
  type LogOptions,
  type LogReport,
  type LogStreamReport,
  type LogVerdict,
  verifyLog,
} from '../verify/verify-log.ts';
import { withConnection } from './connection.ts';
import { configuration } from './environment.ts';
import { commandLog } from './log.ts';
import { PartsThreads } from './parts-threads.ts';
import { UsageError } from './usage.ts';

export interface DatabaseQuestion {
  /** The name of one stream; undefined = all. */
  readonly stream: string | undefined;
  /** The vkey of the deployment or of one stream. */
  readonly key: string | undefined;
  /** Files: notes of checkpoints; certificates of authorities in PEM. */
  readonly checkpoints: readonly string[];
  readonly authorities: readonly string[];
  /** vkeys. */
  readonly witnesses: readonly string[];
  readonly json: boolean;
}

export async function verifyDatabase(question: DatabaseQuestion): Promise<{ verdict: LogVerdict; text: string }> {
  // What is wrong with the question is told before anything is started.
  const given = await readGiven(question);
  const config = configuration();
  const log = commandLog(config);
  const report = await withConnection(config, log, (connection, logins) =>
    verifyAll(config, log, { connection, logins }, given, question.stream),
  );
  const text = question.json ? `${JSON.stringify(report)}\n` : summary(report, given.evidence !== undefined);
  return { verdict: report.verdict, text };
}

/** Verifies the log of a database, or one stream of it. What is given wins over what the signer's folder says. */
export async function verifyAll(
  config: Config,
  log: Logger,
  where: Pick<DatabaseOptions, 'connection' | 'logins'>,
  given: LogOptions,
  name: string | undefined,
): Promise<LogReport> {
  const monthKeys = await openMonthKeys(config.masterKey, { allowAddresses: config.allowAddresses, log });
  const database = openDatabase({ ...where, readersMax: 1, log });
  const parts = new PartsThreads();
  try {
    const { foreign } = newerMigrations(await doneMigrations(database.verifier), await knownMigrations());
    if (foreign.length > 0) throw newerSchema(foreign);
    const keyring = new Keyring(monthKeys, {
      findOrStore: (stream, month, make) => findOrStoreKey(database.writer, stream, month, make),
      byId: (id) => keyById(database.verifier, id),
    });
    const origin = (await readOrigin(database.verifier)) ?? config.origin;
    if (origin === undefined) throw new SettingsError(['the log has no origin: the service was never started on it']);
    const options = { ...(await ofSigner(config, origin, database)), ...given, parts };
    if (name === undefined) return await verifyLog(logWideSource(database.verifier, keyring, origin), options);
    const stream = (await listStreams(database.verifier)).find((one) => one.name === name);
    if (stream === undefined) throw new UsageError(`there is no stream ${name}`);
    // One stream: ticks are looked at as far as it needs them.
    const source = logWideSource(database.verifier, keyring, origin, { tenantId: stream.tenantId });
    const check = await LogCheck.begin(source, options);
    await check.checkStream(stream);
    return await check.end();
  } finally {
    await parts.close();
    monthKeys.close();
    await database.close();
  }
}

/** What the signer's folder tells, where there is one that can be read. */
async function ofSigner(config: Config, origin: string, { verifier }: Database): Promise<LogOptions> {
  const known = await signerKnowledge(
    config.signerDir,
    origin,
    async () => new Set((await keyStatements(verifier, [origin])).map(({ vkey }) => vkey)),
  );
  return known ?? {};
}

export async function readGiven({
  key,
  checkpoints,
  authorities,
  witnesses,
}: Omit<DatabaseQuestion, 'stream' | 'json'>): Promise<LogOptions> {
  const checkers: EvidenceChecker[] = [];
  if (witnesses.length > 0) {
    for (const vkey of witnesses) orWrong('--witness', () => parseCosignerVkey(vkey));
    checkers.push(witnessChecker(witnesses));
  }
  const certificates: Uint8Array[] = [];
  for (const path of authorities) {
    const pem = await readGivenFile(path);
    certificates.push(...orWrong(`--tsa ${path}`, () => readCertificates(pem)));
  }
  if (certificates.length > 0) checkers.push(timeStampChecker(certificates));
  if (key !== undefined) orWrong('--key', () => parseVkey(key));
  const notes: { name: string; note: string }[] = [];
  for (const path of checkpoints) notes.push({ name: `the checkpoint ${path}`, note: await readGivenFile(path) });
  return {
    ...(key === undefined ? {} : { key: { vkey: key, trusted: 'given' } }),
    ...(notes.length === 0 ? {} : { checkpoints: notes }),
    ...(checkers.length === 0 ? {} : { evidence: anyOf(checkers) }),
  };
}

async function readGivenFile(path: string): Promise<string> {
  try {
    return await readFile(path, 'utf8');
  } catch (error) {
    throw new UsageError(`${path} can not be read: ${(error as Error).message}`);
  }
}

function orWrong<T>(what: string, read: () => T): T {
  try {
    return read();
  } catch (error) {
    if (!(error instanceof EvidenceError)) throw error;
    throw new UsageError(`${what}: ${error.message}`);
  }
}

// ---- For people ----

export function summary(report: LogReport, asked: boolean): string {
  const { verdict, streams, findings, unchecked, entries, key } = report;
  const lines = streams.flatMap(streamLines);
  for (const { stream, kind, seq, detail } of findings)
    lines.push(`${stream}: ${kind} at ${seq ?? 'the log'}: ${detail}`);
  for (const { detail } of unchecked) lines.push(`not checked: ${detail}`);
  lines.push(`${verdict}: ${streams.length} streams, ${entries} entries`);
  if (key === null) lines.push('Nothing in it is signed.');
  else if (key.trusted === 'first use')
    lines.push('Its signing keys are those that the database itself states: give the deployment key with --key.');
  if (verdict === 'not_provable') {
    lines.push('Nothing wrong was found: the database agrees with itself and with what was signed.');
    lines.push(
      asked
        ? 'That nobody rewrote all of it is not shown for the entries that are not anchored.'
        : 'That nobody rewrote all of it is shown by what lies elsewhere: give --checkpoint, --tsa or --witness.',
    );
  }
  return `${lines.join('\n')}\n`;
}

function streamLines(report: LogStreamReport): string[] {
  const lines = [`${report.stream}: ${report.verdict}, ${report.size} entries`];
  for (const { kind, seq, detail } of report.findings) lines.push(`  ${kind} at ${seq ?? 'the stream'}: ${detail}`);
  if (report.truncated) lines.push('  … more was found');
  for (const { seq, detail } of report.unchecked)
    lines.push(`  not checked, from ${seq ?? 'the stream'} on: ${detail}`);
  for (const { from, to, by, time } of report.pruned) {
    const word = time === undefined ? 'pruned, not provable' : 'pruned, certified';
    lines.push(`  ${word}: entries ${from} to ${to - 1}, by ${by}${time === undefined ? '' : `, ${time}`}`);
  }
  for (const { to, by, time } of report.anchored)
    lines.push(`  anchored: ${to} entries by ${by}${time === undefined ? '' : `, ${time}`}`);
  for (const { to, by } of report.pinned) lines.push(`  pinned: ${to} entries by ${by}`);
  if (report.erased !== undefined) {
    const entries = report.erased.reduce((sum, { from, to }) => sum + to - from, 0);
    lines.push(`  erased: parts of ${entries} entries, as certificates say`);
  }
  if (report.unproven !== undefined)
    lines.push(`  not provable: ${report.unproven} parts are gone by certificates that nobody signed`);
  if (report.lost !== null)
    lines.push(`  lost: entries ${report.lost.from} to ${report.lost.to - 1}, as ${report.lost.by} says`);
  return lines;
}
