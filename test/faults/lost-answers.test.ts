/**
 * Answers that get lost behind what they tell of: the database's to a COMMIT that it made, and the service's to an event that it stored.
 * Whoever heard nothing sends the same again, with the same id: nothing is doubled, and his receipt is that of what was stored.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { expect, onTestFinished, test } from 'vitest';
import { createDatabase, urlOf } from '../support/postgres.ts';
import { HARD } from '../support/short-form.ts';
import { passAll, startProxy } from '../support/tcp-proxy.ts';
import { startAnswerThief } from './answer-thief.ts';
import { say } from './say.ts';
import { makeDeployment, startServiceProcess } from './service-process.ts';
import { describeCounts, expectKept, startWatchedLoad } from './watched-load.ts';

const LOST = HARD ? 10_000 : 50;
const TENANTS = ['acme', 'zeta', 'omega'];
/** Of a hundred answers. The rest arrives, so that something goes on between the losses. */
const SHARE = 60;
const MAX_MS = HARD ? 1_800_000 : 60_000;

test(`${LOST} of the database to COMMIT, and ${LOST} of the service`, { timeout: 2 * MAX_MS + 60_000 }, async () => {
  const database = await createDatabase();
  const proxy = await startProxy(database.appConfig);
  onTestFinished(() => proxy.close());
  const appUrl = urlOf({ ...database.appConfig, host: '127.0.0.1', port: proxy.port });
  const deployment = await makeDeployment({ database: { ...database, appUrl } });
  onTestFinished(() => deployment.remove());
  const service = await startServiceProcess(deployment.environment(true));
  onTestFinished(() => service.kill());
  const thief = await startAnswerThief(() => service.url);
  onTestFinished(() => thief.close());
  const run = await startWatchedLoad(deployment, {
    ...{ urls: () => [thief.url], direct: () => service.url, tenants: TENANTS, writers: 8 },
    ...{ hot: 0.2, retryMs: 5, givesUp: false },
  });
  const { load } = run;
  await load.nextReceipt(10_000);

  // The writer's alone: readers end with a COMMIT too, and write nothing.
  const began = performance.now();
  proxy.rule = (statement, before) =>
    statement === 'COMMIT' && before === 'write' && Math.random() * 100 < SHARE ? 'cut_answer' : 'pass';
  const committed = (): number => proxy.cutAnswers.filter((said) => said === 'COMMIT').length;
  await until(() => committed() >= LOST);
  proxy.rule = passAll;
  await load.nextReceipt(10_000);
  const [commits, commitMs, unknown] = [committed(), performance.now() - began, load.answers.get(504) ?? 0];
  // Whatever was cut had been made: the rest is a ROLLBACK, of which nothing can be lost.
  expect(proxy.cutAnswers.filter((said) => said !== 'COMMIT')).toEqual([]);

  const beganAgain = performance.now();
  thief.share = SHARE;
  await until(() => thief.lost >= LOST);
  thief.share = 0;
  const [answers, answerMs] = [thief.lost, performance.now() - beganAgain];
  await load.stop(true);
  const opened = load.lines.filter(({ isOpen }) => isOpen);
  const judgement = await run.judge();
  say(
    `${commits} answers to COMMIT lost in ${(commitMs / 1000).toFixed(1)} s, which ${unknown} requests heard of as outcome_unknown; ${answers} answers of the service lost in ${(answerMs / 1000).toFixed(1)} s: ${opened.length} events without an answer at first, ${describeCounts(judgement)}`,
  );
  expectKept(judgement);
  // Each had somebody who waited, but for those of the log's own entries.
  expect(unknown).toBeGreaterThan(commits * 0.8);
  expect(load.answers.get(0)).toBe(answers);
  // Nobody gave up.
  expect(load.lines.filter(({ receipts, isRefused }) => receipts.length === 0 && !isRefused)).toEqual([]);
});

async function until(isSo: () => boolean): Promise<void> {
  for (const end = performance.now() + MAX_MS; !isSo(); await sleep(5))
    if (performance.now() > end) throw new Error('too slow');
}
