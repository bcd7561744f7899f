/** Has a plan recounted by the other program, and holds what was counted to that. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { text as textOf } from 'node:stream/consumers';
import { fileURLToPath } from 'node:url';
import { isDeepStrictEqual } from 'node:util';
import type { Plan } from './plan.ts';
import type { Count } from './state.ts';

const PROGRAM = fileURLToPath(new URL('recount.ts', import.meta.url));

/** Runs `recount.ts`, which gets the plan and nothing else. */
export async function recount(plan: Plan): Promise<Count[]> {
  const child = spawn(process.execPath, [PROGRAM], { stdio: ['pipe', 'pipe', 'inherit'] });
  child.stdin.end(JSON.stringify(plan));
  const [printed, [code]] = await Promise.all([textOf(child.stdout), once(child, 'exit')]);
  if (code !== 0) throw new Error(`the recount ended with ${code}`);
  return JSON.parse(printed) as Count[];
}

/** Returns in words what differs. */
export function differences(counted: readonly Count[], recounted: readonly Count[]): string[] {
  const placeOf = ({ at, tenant, category }: Count): string => `${at} ${tenant}/${category}`;
  const known = new Map(counted.map((one) => [placeOf(one), one]));
  const found: string[] = [];
  for (const wanted of recounted) {
    const one = known.get(placeOf(wanted));
    known.delete(placeOf(wanted));
    if (!isDeepStrictEqual(one, wanted))
      found.push(`${placeOf(wanted)}: counted ${JSON.stringify(one)}, recounted ${JSON.stringify(wanted)}`);
  }
  return [...found, ...[...known.keys()].map((place) => `${place} was counted, and the recount knows nothing of it`)];
}
