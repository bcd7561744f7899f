/**
 * `kill -9` of PostgreSQL under load, in turns of a backend that serves the service, which PostgreSQL answers by ending all of them, and of
 * the postmaster, which a supervisor starts again: no receipt is lost, changed or doubled, and nobody touches the service.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { expect, onTestFinished, test } from 'vitest';
import { startPrivatePostgres } from '../support/private-postgres.ts';
import { HARD } from '../support/short-form.ts';
import { objectionOf, startFaultRun } from './fault-run.ts';
import { describeTimes, say } from './say.ts';
import { describeCounts, expectKept } from './watched-load.ts';

const KILLS = HARD ? 100 : 2;
const BACK_MAX_MS = 20_000;
/** Until /readyz is green, when nothing else is in the way any more. */
const GREEN_MAX_MS = 5000;

test(`${KILLS} times`, { timeout: HARD ? 3_600_000 : 120_000 }, async () => {
  const postgres = await startPrivatePostgres({ supervised: true, inMemory: !HARD });
  onTestFinished(() => postgres.stop());
  const run = await startFaultRun(postgres, { writers: 8, pauseMs: 10 });
  const { load, service, watch } = run;

  const times = { backend: [] as number[], postmaster: [] as number[] };
  const afterAnswer: number[] = [];
  const objections = new Map<string, number>();
  for (let kill = 0; kill < KILLS; kill += 1) {
    await load.nextReceipt(BACK_MAX_MS);
    await sleep(Math.random() * 800);
    const which = kill % 2 === 0 ? 'backend' : 'postmaster';
    const began = performance.now();
    let isBack = false;
    const back = postgres.crash(which).finally(() => {
      isBack = true;
    });
    let reason: string | undefined;
    while (!isBack) {
      reason = (await objectionOf(service)) ?? reason;
      await sleep(10);
    }
    await back;
    const wait = await load.nextReceipt(BACK_MAX_MS);
    afterAnswer.push(wait);
    times[which].push(performance.now() - began);
    // A backend's end may be over before anybody looks.
    if (which === 'postmaster') expect(reason).toBeDefined();
    if (reason !== undefined) objections.set(reason, (objections.get(reason) ?? 0) + 1);
    const end = performance.now() + GREEN_MAX_MS;
    while ((await objectionOf(service)) !== undefined) expect(performance.now()).toBeLessThan(end);
  }
  const judgement = await run.judge();
  say(
    `${times.backend.length} kills of a backend and ${times.postmaster.length} of the postmaster: ${describeCounts(judgement)}; ` +
      `next receipt ${describeTimes(times.backend)} after the kill of a backend, ${describeTimes(times.postmaster)} after that of the postmaster, ${describeTimes(afterAnswer)} after PostgreSQL answered again; ` +
      `${watch.notes.length} checkpoints kept; /readyz: ${JSON.stringify(Object.fromEntries(objections))}; answers: ${JSON.stringify(Object.fromEntries(load.answers))}`,
  );
  expectKept(judgement);
  expect(postgres.starts).toBeGreaterThanOrEqual(1 + times.postmaster.length);
});
