/** The simulation of `npm run simulate`, a short one: what is counted is what the other program counts, and it notices what is wrong. */
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { fewMonths } from '../simulate/plan.ts';
import { differences, recount } from '../simulate/recounted.ts';
import { simulate } from '../simulate/simulation.ts';
import { createDatabase } from './support/postgres.ts';

test('a few months of writing, pruning, holding, erasing and changing policies are as another program recounts them', async () => {
  const database = await createDatabase();
  onTestFinished(() => database.drop());
  const folder = await mkdtemp(join(tmpdir(), 'sealog-test-simulation-'));
  onTestFinished(() => rm(folder, { recursive: true, force: true }));
  const plan = fewMonths();
  const place = { superuser: database.adminConfig, connection: database.appConfig, roles: database.appRole, folder };
  const { counts, deviations, prunings, bundles } = await simulate(place, plan, () => {});
  expect(deviations).toEqual([]);
  const recounted = await recount(plan);
  expect(differences(counts, recounted)).toEqual([]);
  // It was about something.
  const sum = (of: 'stored' | 'pruned' | 'held' | 'erased') => counts.reduce((all, one) => all + one[of], 0);
  expect([
    prunings > 1,
    bundles > 4,
    sum('stored') > 100,
    sum('pruned') > 20,
    sum('erased') > 2,
    sum('held') > 5,
  ]).toEqual(Array.from({ length: 6 }, () => true));

  // A policy that was not kept, a month that was forgotten, an erasure of somebody else, a hold that was not released.
  const policies = plan.deeds.map((deed) => (deed.do === 'policy' ? { ...deed, months: deed.months + 1 } : deed));
  const prunes = plan.deeds.filter(({ do: what }) => what === 'prune');
  const unpruned = plan.deeds.filter((deed) => deed !== prunes.at(-1));
  const erased = plan.deeds.map((deed) => (deed.do === 'erase' ? { ...deed, actor: 'u-3' } : deed));
  const held = plan.deeds.filter(({ do: what }) => what !== 'release');
  for (const deeds of [policies, unpruned, erased, held])
    expect(differences(counts, await recount({ ...plan, deeds }))).not.toEqual([]);
}, 60_000);

test('the other program imports nothing of ours', async () => {
  const text = await readFile(new URL('../simulate/recount.ts', import.meta.url), 'utf8');
  const imported = [...text.matchAll(/\bfrom '([^']+)'|\bimport\(/g)].map(([, from]) => from);
  expect(imported).toEqual(['node:fs']);
});
