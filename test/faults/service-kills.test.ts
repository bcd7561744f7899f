/** `kill -9` of the service under load: no receipt is lost, changed or doubled, and the log tells of each start behind a crash. */
import { setTimeout as sleep } from 'node:timers/promises';
import { expect, onTestFinished, test } from 'vitest';
import { HARD } from '../support/short-form.ts';
import { judgeRun } from './judge.ts';
import { watchLog } from './log-watch.ts';
import { startMixedLoad } from './mixed-load.ts';
import { describeTimes, say } from './say.ts';
import { type Deployment, makeDeployment, startServiceProcess } from './service-process.ts';

const KILLS = HARD ? 100 : 3;
const TENANTS = ['acme', 'zeta'];
const CATEGORIES = ['user_authentication', 'system_operation', 'security_event'];
const BACK_MAX_MS = 40_000;

test(`${KILLS} times`, { timeout: HARD ? 3_600_000 : 120_000 }, async () => {
  const deployment = await makeDeployment();
  onTestFinished(() => deployment.remove());
  const service = await startServiceProcess(deployment.environment(true));
  onTestFinished(() => service.kill());
  const tokens = new Map<string, string>();
  for (const tenant of TENANTS) tokens.set(tenant, await deployment.token('service', tenant));
  const load = startMixedLoad({ urls: () => [service.url], tokens, categories: CATEGORIES, writers: 8, pauseMs: 10 });
  onTestFinished(() => load.stop(false).catch(() => {}));
  const watch = watchLog('acme/user_authentication', await deployment.token('auditor', 'acme'), () => service.url);
  onTestFinished(() => watch.stop());

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
  await load.stop(true);
  const run = { deployment, url: service.url, load, watch, tenants: TENANTS, categories: CATEGORIES };
  const judgement = await judgeRun(run);
  const { problems, verdict, acknowledged, refused, open, openStored } = judgement;
  say(
    `${KILLS} kills of the service: ${acknowledged} receipts, ${refused} refused, ${open} that nobody knows of, of which ${openStored} are stored; next receipt after ${describeTimes(back)}; ${watch.notes.length} checkpoints kept`,
  );
  expect(problems, problems.slice(0, 5).join('\n')).toEqual([]);
  expect(verdict).toBe('kept');
  expect(watch.notes.length).toBeGreaterThanOrEqual(KILLS);
  expect(await startsBehindCrashes(deployment, service.url)).toBe(KILLS);

  // What can not be read is not called lost.
  await service.kill();
  expect((await judgeRun(run)).verdict).toBe('none');
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
