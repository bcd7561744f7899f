/** A service in a process of its own on a PostgreSQL of its own, under load. */
import { onTestFinished } from 'vitest';
import type { PrivatePostgres } from '../support/private-postgres.ts';
import { type Deployment, makeDeployment, type ServiceProcess, startServiceProcess } from './service-process.ts';
import { startWatchedLoad, type WatchedLoad } from './watched-load.ts';

export interface FaultRun extends WatchedLoad {
  readonly deployment: Deployment;
  readonly service: ServiceProcess;
}

/** Everything ends with the test, before the server does. */
export async function startFaultRun(
  postgres: PrivatePostgres,
  pace: { readonly writers: number; readonly pauseMs?: number },
): Promise<FaultRun> {
  const deployment = await makeDeployment({ database: await postgres.database() });
  onTestFinished(() => deployment.remove());
  const service = await startServiceProcess(deployment.environment(true));
  onTestFinished(() => service.kill());
  return { deployment, service, ...(await startWatchedLoad(deployment, { urls: () => [service.url], ...pace })) };
}

/** Returns why the service takes no events now, or undefined. */
export async function objectionOf({ url }: ServiceProcess): Promise<string | undefined> {
  const response = await fetch(`${url}/readyz`);
  const { detail } = (await response.json()) as { detail?: string };
  if (response.ok) return undefined;
  if (response.status !== 503 || !detail) throw new Error(`/readyz says ${response.status} without a reason`);
  return detail;
}
