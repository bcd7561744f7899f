/** A service in a process of its own on a PostgreSQL of its own, under mixed load, with somebody who keeps its checkpoints. */
import { onTestFinished } from 'vitest';
import type { PrivatePostgres } from '../support/private-postgres.ts';
import { judgeRun, type RunJudgement } from './judge.ts';
import { type LogWatch, watchLog } from './log-watch.ts';
import { type MixedLoad, startMixedLoad } from './mixed-load.ts';
import { type Deployment, makeDeployment, type ServiceProcess, startServiceProcess } from './service-process.ts';

export interface FaultRun {
  readonly deployment: Deployment;
  readonly service: ServiceProcess;
  readonly load: MixedLoad;
  readonly watch: LogWatch;
  /**
   * Ends the load, whose open ends are settled, and holds it to the log. Of what is to be broken nothing is settled, and no signature is
   * waited for: the log may have gone on in another epoch.
   */
  judge(expected?: 'kept' | 'broken'): Promise<RunJudgement>;
}

const TENANTS = ['acme', 'zeta'];
const CATEGORIES = ['user_authentication', 'system_operation', 'security_event'];

/** Everything ends with the test, before the server does. */
export async function startFaultRun(
  postgres: PrivatePostgres,
  pace: { readonly writers: number; readonly pauseMs?: number },
): Promise<FaultRun> {
  const deployment = await makeDeployment({ database: await postgres.database() });
  onTestFinished(() => deployment.remove());
  const service = await startServiceProcess(deployment.environment(true));
  onTestFinished(() => service.kill());
  const tokens = new Map<string, string>();
  for (const tenant of TENANTS) tokens.set(tenant, await deployment.token('service', tenant));
  const load = startMixedLoad({ urls: () => [service.url], tokens, categories: CATEGORIES, ...pace });
  onTestFinished(() => load.stop(false).catch(() => {}));
  const watch = watchLog('acme/user_authentication', await deployment.token('auditor', 'acme'), () => service.url);
  onTestFinished(() => watch.stop());
  return {
    ...{ deployment, service, load, watch },
    async judge(expected = 'kept') {
      await load.stop(expected === 'kept');
      const waits = expected === 'kept' ? watch : { ...watch, covers: async () => {} };
      return judgeRun({
        ...{ deployment, url: service.url, load, watch: waits, tenants: TENANTS, categories: CATEGORIES },
      });
    },
  };
}

/** Returns why the service takes no events now, or undefined. */
export async function objectionOf({ url }: ServiceProcess): Promise<string | undefined> {
  const response = await fetch(`${url}/readyz`);
  const { detail } = (await response.json()) as { detail?: string };
  if (response.ok) return undefined;
  if (response.status !== 503 || !detail) throw new Error(`/readyz says ${response.status} without a reason`);
  return detail;
}
