/**
 * The verdict of a run with faults, when they are over: the ledger against all that the log gives out, every byte of the database against
 * the checkpoints that were kept meanwhile, and the evidence of one stream in the hands of the second verifier, which shares no code.
 */
import { execFile } from 'node:child_process';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import type { JsonObject } from '../../src/chain/canonical.ts';
import { PROGRAM_ENVIRONMENT } from '../support/program-environment.ts';
import { checkLedger, type Judgement, type Line, type Receipt, type StoredEntry } from './ledger.ts';
import type { LogWatch } from './log-watch.ts';
import type { Deployment } from './service-process.ts';

const REPOSITORY = join(import.meta.dirname, '../..');
const run = promisify(execFile);
/** Of the checkpoints that were kept, so many are held against the log: the first, the last, and some between. */
const NOTES_MAX = 12;

export interface RunJudgement extends Omit<Judgement, 'verdict'> {
  /** `none`: the log could not be read, which is no finding. */
  readonly verdict: Judgement['verdict'] | 'none';
}

export interface RunToJudge {
  readonly deployment: Deployment;
  /** Of a service that is there. */
  readonly url: string;
  readonly lines: readonly Line[];
  readonly tenants: readonly string[];
  readonly categories: readonly string[];
  /** Is stopped. */
  readonly watch: LogWatch;
}

export async function judgeRun({
  deployment,
  url,
  lines,
  tenants,
  categories,
  watch,
}: RunToJudge): Promise<RunJudgement> {
  const entries: StoredEntry[] = [];
  const own: (Receipt & { previous: string })[] = [];
  try {
    for (const tenant of tenants)
      for (const entry of await readEntries(url, await deployment.token('auditor', tenant), tenant, categories))
        (isOwn(entry) ? own : entries).push(entry);
  } catch (error) {
    return {
      verdict: 'none',
      problems: [`unreadable: ${(error as Error).message}`],
      ...{ acknowledged: 0, refused: 0, open: 0, openStored: 0 },
    };
  }
  const judgement = checkLedger(lines, entries, own);
  await watch.covers([...entries, ...own].filter(({ stream }) => stream === watch.stream).length);
  await watch.stop();
  const problems = [...judgement.problems, ...(await verified(deployment, url, watch))];
  return { ...judgement, problems, verdict: problems.length > 0 ? 'broken' : judgement.verdict };
}

/** Returns what the log gives out of a tenant's categories, whole. */
async function readEntries(
  url: string,
  token: string,
  tenant: string,
  categories: readonly string[],
): Promise<StoredEntry[]> {
  const response = await fetch(`${url}/v1/export?format=ndjson&category=${categories.join(',')}`, {
    headers: { authorization: `Bearer ${token}` },
  });
  if (!response.ok) throw new Error(`${response.status} ${await response.text()}`);
  const lines = (await response.text()).trimEnd().split('\n');
  const closing = JSON.parse(lines.pop()!) as { export?: { complete: boolean; entries: number } };
  if (closing.export?.complete !== true || closing.export.entries !== lines.length)
    throw new Error('the export was cut');
  return lines.map((line) => {
    const { log, ...event } = JSON.parse(line) as JsonObject & { id: string; log: Receipt & { previous: string } };
    return { tenant, event, stream: log.stream, seq: log.seq, hash: log.hash, previous: log.previous };
  });
}

/** What the log itself has to say, of refused calls for one; the writers of a load are called otherwise. */
function isOwn({ event }: StoredEntry): boolean {
  return (event['source'] as JsonObject)['service'] === 'sealog';
}

async function verified(deployment: Deployment, url: string, { stream, notes, key }: LogWatch): Promise<string[]> {
  const folder = await mkdtemp(join(tmpdir(), 'sealog-test-judge-'));
  const problems: string[] = [];
  try {
    const step = Math.max(1, Math.ceil(notes.length / NOTES_MAX));
    const kept = notes.filter((_, index) => index % step === 0 || index === notes.length - 1);
    const files = await Promise.all(
      kept.map(async (note, index) => {
        const path = join(folder, `checkpoint-${index}`);
        await writeFile(path, note);
        return path;
      }),
    );
    const trust = ['--key', key, ...files.flatMap((path) => ['--checkpoint', path])];
    const database = await json(process.execPath, ['src/cli/main.ts', 'verify', '--database', '--json', ...trust], {
      ...deployment.environment(true),
    });
    const { verdict, streams } = database as { verdict: string; streams: { stream: string; verdict: string }[] };
    // What nobody kept a checkpoint of is not provable, and nothing else.
    for (const one of streams)
      if (one.verdict !== 'intact' && (one.stream === stream || one.verdict !== 'not_provable'))
        problems.push(`verify: ${JSON.stringify(one)}`);
    if (verdict === 'tampered' || streams.length === 0) problems.push(`verify: ${JSON.stringify(database)}`);

    const [tenant, category] = stream.split('/') as [string, string];
    const token = await deployment.token('auditor', tenant);
    const response = await fetch(`${url}/v1/bundle?category=${category}`, {
      headers: { authorization: `Bearer ${token}` },
    });
    if (!response.ok) return [...problems, `bundle: ${response.status} ${await response.text()}`];
    const bundle = join(folder, 'bundle.tar');
    await writeFile(bundle, Buffer.from(await response.arrayBuffer()));
    const second = await json('python3', ['docs/verifiers/verify_bundle.py', '--key', key, '--json', bundle], {});
    const { findings } = second as { findings: unknown[] };
    if (findings.length > 0) problems.push(`second verifier: ${JSON.stringify(findings).slice(0, 1000)}`);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
  return problems;
}

/** Returns what a verifier printed, whatever its verdict. */
async function json(program: string, args: readonly string[], environment: NodeJS.ProcessEnv): Promise<unknown> {
  const options = { cwd: REPOSITORY, env: { ...PROGRAM_ENVIRONMENT, ...environment }, maxBuffer: 64 * 2 ** 20 };
  const { stdout, stderr } = await run(program, args, options).catch(
    (error: { stdout: string; stderr: string }) => error,
  );
  if (stdout === '') throw new Error(`${program} said nothing:\n${stderr}`);
  return JSON.parse(stdout);
}
