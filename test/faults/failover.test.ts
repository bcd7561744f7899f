/**
 * Failover: the primary's machine fails under load, its standby is promoted, and the address moves to it. With a synchronous standby
 * nothing that has a receipt is lost. The asynchronous one loses: the signer finds that out before anything is appended, and the rig does.
 */
import { execFile } from 'node:child_process';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import pg from 'pg';
import { expect, onTestFinished, test } from 'vitest';
import { PROGRAM_ENVIRONMENT } from '../support/program-environment.ts';
import { HARD } from '../support/short-form.ts';
import type { MixedLoad } from './mixed-load.ts';
import { type PostgresPair, startPostgresPair } from './postgres-pair.ts';
import { describeTimes, say } from './say.ts';
import { type Deployment, makeDeployment, startServiceProcess } from './service-process.ts';
import { describeCounts, expectKept, startWatchedLoad } from './watched-load.ts';

const FAILOVERS = HARD ? 20 : 1;
const LAG_MS = HARD ? 2000 : 1000;
const BACK_MAX_MS = 40_000;
const AWAY_MS = 25_000;

test('a synchronous standby loses nothing, an asynchronous one does', {
  timeout: HARD ? 1_800_000 : 120_000,
}, async () => {
  const pair = await startPostgresPair();
  onTestFinished(() => pair.stop());
  const deployment = await makeDeployment({ database: await pair.database() });
  onTestFinished(() => deployment.remove());
  const service = await startServiceProcess(deployment.environment(true));
  onTestFinished(() => service.kill());
  const begin = () => startWatchedLoad(deployment, { urls: () => [service.url], writers: 8, pauseMs: 10 });

  const run = await begin();
  if (HARD) await loseStandby(pair, service.url, run.load);
  const back: number[] = [];
  const red: number[] = [];
  const reasons = new Set<string>();
  for (let failover = 1; failover <= FAILOVERS; failover += 1) {
    await run.load.nextReceipt(BACK_MAX_MS);
    await sleep(300 + Math.random() * 700);
    const lag = failover % 2 === 1 ? LAG_MS : 0;
    const failed = performance.now() + lag;
    const unready = firstUnready(service.url);
    await pair.failOver(lag);
    // Until there is a standby again, nothing has a receipt.
    await pair.replaceStandby();
    await run.load.nextReceipt(BACK_MAX_MS);
    back.push(performance.now() - failed);
    const { reason, at } = await unready;
    reasons.add(reason);
    red.push(Math.max(0, at - failed));
    // Another timeline, which the signer has looked at.
    expect((await fetch(`${service.url}/readyz`)).status).toBe(200);
    expect(await signerOf(pair.primary.admin)).toEqual({ timeline: 1 + failover, refusal: null });
  }
  const judgement = await run.judge();
  say(
    `${FAILOVERS} failovers to a synchronous standby: ${describeCounts(judgement)}; next receipt after ${describeTimes(back)}, with a fresh standby; unready after ${describeTimes(red)}: ${[...reasons].join(', ')}; ${run.watch.notes.length} checkpoints kept`,
  );
  expectKept(judgement);

  if (!HARD) return;
  await pair.setSynchronous(false);
  const control = await begin();
  const { load } = control;
  await load.nextReceipt(BACK_MAX_MS);
  await pair.failOver(LAG_MS);
  await expect
    .poll(async () => (await fetch(`${service.url}/readyz`)).text(), { timeout: BACK_MAX_MS })
    .toContain('the signer refuses this database');
  load.forget();
  await sleep(200);
  await load.stop(false);
  // Nothing is appended to what is left, until somebody says that it is to go on.
  expect([...load.answers.keys()].filter((status) => status < 400)).toEqual([]);
  await service.kill();
  expect(await recover(deployment)).toContain('count as lost');
  await service.again();
  const broken = await control.judge('broken', run.load.lines);
  const kinds = new Set(broken.problems.map((problem) => problem.slice(0, problem.indexOf(':'))));
  const lost = broken.problems.filter((problem) => problem.startsWith('lost: '));
  say(`1 to an asynchronous standby: ${broken.acknowledged} receipts, ${lost.length} lost; problems: ${[...kinds]}`);
  expect(broken.verdict).toBe('broken');
  expect(lost.length).toBeGreaterThan(0);
});

/**
 * Nothing has a receipt that the standby does not have, and the service says so. (While nobody sends, it does not know for longer than ten
 * seconds.)
 */
async function loseStandby(pair: PostgresPair, url: string, load: MixedLoad): Promise<void> {
  await load.nextReceipt(BACK_MAX_MS);
  await pair.loseStandby();
  const lost = performance.now();
  const { at } = await firstUnready(url);
  for (const end = at + AWAY_MS; performance.now() < end; await sleep(100))
    expect((await fetch(`${url}/readyz`)).status).toBe(503);
  expect(load.lines.filter(({ sentAt, receipts }) => sentAt > lost && receipts.length > 0)).toEqual([]);
  await pair.replaceStandby();
  const began = performance.now();
  await load.nextReceipt(BACK_MAX_MS);
  say(
    `a standby that is away for ${AWAY_MS / 1000} s: next receipt after ${describeTimes([performance.now() - began])}`,
  );
}

/** Resolves with the first reason for which a service is not ready. */
async function firstUnready(url: string): Promise<{ reason: string; at: number }> {
  for (const end = performance.now() + BACK_MAX_MS; performance.now() < end; await sleep(50)) {
    const response = await fetch(`${url}/readyz`);
    const { detail } = (await response.json()) as { detail?: string };
    if (response.status === 503) return { reason: detail ?? '', at: performance.now() };
  }
  throw new Error('the service was ready all the time');
}

async function signerOf(admin: pg.ClientConfig): Promise<unknown> {
  const client = new pg.Client(admin);
  await client.connect();
  try {
    return (await client.query('SELECT timeline, refusal FROM sealog.signer')).rows[0];
  } finally {
    await client.end();
  }
}

/** Has the log go on from what is left, and returns what was told of the loss. */
async function recover(deployment: Deployment): Promise<string> {
  const { stdout } = await promisify(execFile)(process.execPath, ['src/cli/main.ts', 'recover', '--yes'], {
    env: { ...PROGRAM_ENVIRONMENT, ...deployment.environment(true) },
  });
  return stdout;
}
