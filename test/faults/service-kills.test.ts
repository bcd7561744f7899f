/** `kill -9` of the service under load: no receipt is lost, changed or doubled, and the log tells of each start behind a crash. */
import { setTimeout as sleep } from 'node:timers/promises';
import { expect, onTestFinished, test } from 'vitest';
import { HARD } from '../support/short-form.ts';
import { describeTimes, say } from './say.ts';
import { type Deployment, makeDeployment, startServiceProcess } from './service-process.ts';
import { describeCounts, expectKept, startWatchedLoad } from './watched-load.ts';

const KILLS = HARD ? 100 : 3;
const BACK_MAX_MS = 40_000;

test(`${KILLS} times`, { timeout: HARD ? 3_600_000 : 120_000 }, async () => {
  const deployment = await makeDeployment();
  onTestFinished(() => deployment.remove());
  const service = await startServiceProcess(deployment.environment(true));
  onTestFinished(() => service.kill());
  const run = await startWatchedLoad(deployment, { urls: () => [service.url], writers: 8, pauseMs: 10 });
  const { load, watch } = run;

  const back: number[] = [];
  for (let kill = 0; kill < KILLS; kill += 1) {
    await load.nextReceipt(BACK_MAX_MS);
    await sleep(Math.random() * 800);
    await service.kill();
    const began = performance.now();
    await service.again();
    await load.nextReceipt(BACK_MAX_MS);
    back.push(performance.now() - began);
  }
  const judgement = await run.judge();
  say(
    `${KILLS} kills of the service: ${describeCounts(judgement)}; next receipt after ${describeTimes(back)}; ${watch.notes.length} checkpoints kept`,
  );
  expectKept(judgement);
  expect(watch.notes.length).toBeGreaterThan(1);
  expect(await startsBehindCrashes(deployment, service.url)).toBe(KILLS);

  // What can not be read is not called lost.
  await service.kill();
  expect((await run.judge('broken')).verdict).toBe('none');
});

/** Returns how many entries in the deployment's own log tell of a start of a service that had not been stopped. */
async function startsBehindCrashes(deployment: Deployment, url: string): Promise<number> {
  const token = await deployment.token('auditor', 'sealog');
  const response = await fetch(`${url}/v1/events?action=service.started&limit=1000`, {
    headers: { authorization: `Bearer ${token}` },
  });
  const { items } = (await response.json()) as { items: { details: { previous: string } }[] };
  return items.filter(({ details }) => details.previous === 'not_stopped').length;
}
