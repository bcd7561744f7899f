/** Mixed load on a deployment, somebody outside who keeps the checkpoints of its busiest stream, and the verdict when it is over. */
import { expect, onTestFinished } from 'vitest';
import { judgeRun, type RunJudgement } from './judge.ts';
import type { Line } from './ledger.ts';
import { type LogWatch, watchLog } from './log-watch.ts';
import { type MixedLoad, type MixedLoadOptions, startMixedLoad } from './mixed-load.ts';
import type { Deployment } from './service-process.ts';

export interface WatchedLoad {
  readonly load: MixedLoad;
  readonly watch: LogWatch;
  /**
   * Ends the load, whose open ends are settled, and holds it to the log. Of what is to be broken nothing is settled, and no signature is
   * waited for: the log may have gone on in another epoch. `earlier` is what a load before this one wrote down.
   */
  judge(expected?: 'kept' | 'broken', earlier?: readonly Line[]): Promise<RunJudgement>;
}

export interface WatchedLoadOptions extends Omit<MixedLoadOptions, 'tokens' | 'categories'> {
  readonly tenants?: readonly string[];
  readonly categories?: readonly string[];
  /** Of a service that is there: `urls` may lead to it through something that breaks. */
  readonly direct?: () => string;
}

const TENANTS = ['acme', 'zeta'];
const CATEGORIES = ['user_authentication', 'system_operation', 'security_event'];

/** Both end with the test. */
export async function startWatchedLoad(
  deployment: Deployment,
  { tenants = TENANTS, categories = CATEGORIES, direct, ...options }: WatchedLoadOptions,
): Promise<WatchedLoad> {
  const url = direct ?? (() => options.urls()[0]!);
  const tokens = new Map<string, string>();
  for (const tenant of tenants) tokens.set(tenant, await deployment.token('service', tenant));
  const load = startMixedLoad({ ...options, tokens, categories });
  onTestFinished(() => load.stop(false).catch(() => {}));
  const [tenant, category] = [tenants[0]!, categories[0]!];
  const watch = watchLog(`${tenant}/${category}`, await deployment.token('auditor', tenant), url);
  onTestFinished(() => watch.stop());
  return {
    load,
    watch,
    async judge(expected = 'kept', earlier = []) {
      await load.stop(expected === 'kept');
      const waits = expected === 'kept' ? watch : { ...watch, covers: async () => {} };
      const lines = [...earlier, ...load.lines];
      return judgeRun({ deployment, url: url(), lines, watch: waits, tenants, categories });
    },
  };
}

export function expectKept({ problems, verdict }: RunJudgement): void {
  expect(problems, problems.slice(0, 5).join('\n')).toEqual([]);
  expect(verdict).toBe('kept');
}

export function describeCounts({ acknowledged, refused, open, openStored }: RunJudgement): string {
  return `${acknowledged} receipts, ${refused} refused, ${open} that nobody knows of, of which ${openStored} are stored`;
}
