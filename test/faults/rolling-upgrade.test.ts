/**
 * An upgrade by one schema version under load, one replica after the other: those of the version before go on while the schema is migrated and
 * behind it, and nothing is lost. The next version is this one with one migration more.
 */
import { execFile } from 'node:child_process';
import { cp, mkdtemp, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import pg from 'pg';
import { expect, onTestFinished, test } from 'vitest';
import { knownMigrations } from '../../src/store/migrate.ts';
import { createDatabase, type TestDatabase } from '../support/postgres.ts';
import { PROGRAM_ENVIRONMENT } from '../support/program-environment.ts';
import { HARD } from '../support/short-form.ts';
import { describeTimes, say } from './say.ts';
import { makeDeployment, startServiceProcess } from './service-process.ts';
import { describeCounts, expectKept, startWatchedLoad } from './watched-load.ts';

const REPOSITORY = join(import.meta.dirname, '../..');
const BACK_MAX_MS = 20_000;
/** What the next version changes of the tables that every append uses. */
const CHANGE = `
  SET LOCAL ROLE sealog_owner;
  SET LOCAL search_path = sealog, pg_catalog;
  ALTER TABLE stream ADD COLUMN tomorrow integer NOT NULL DEFAULT 0;
  ALTER TABLE block ADD COLUMN tomorrow text;
  CREATE INDEX stream_tomorrow ON stream (tomorrow);
  CREATE TABLE tomorrow (stream integer NOT NULL REFERENCES stream);
  RESET ROLE;`;

test('replica after replica, while the schema is migrated', { timeout: 120_000 }, async () => {
  const version = (await knownMigrations()).at(-1)!.slice(0, 4);
  const next = await nextVersion(`9001_next.beside-${version}`);
  const database = await createDatabase();
  const deployment = await makeDeployment({ database });
  onTestFinished(() => deployment.remove());
  const replicas = [await startServiceProcess(deployment.environment(true))];
  if (HARD) replicas.push(await startServiceProcess(deployment.environment(false)));
  onTestFinished(async () => {
    for (const one of replicas) await one.kill();
  });
  let serving = replicas;
  const urls = () => serving.map(({ url }) => url);
  const run = await startWatchedLoad(deployment, { urls, direct: () => replicas[0]!.url, writers: 8, pauseMs: 10 });
  const { load } = run;

  await load.nextReceipt(BACK_MAX_MS);
  await sleep(500);
  const waits: number[] = [];
  let migrating = true;
  const receipts = (async () => {
    while (migrating) waits.push(await load.nextReceipt(BACK_MAX_MS));
  })();
  const migrated = await sealogMigrate(next, database);
  migrating = false;
  await receipts;
  expect([migrated.code, migrated.output], migrated.output).toEqual([0, expect.stringContaining('9001_next')]);
  // Those of the version before go on, may start again, and may even be the ones that an upgrade is taken back to.
  waits.push(await load.nextReceipt(BACK_MAX_MS));
  if (HARD) {
    await replicas[1]!.kill();
    await replicas[1]!.again();
    expect(replicas[1]!.output()).toContain('which may go on beside it (9001_next');
    expect((await sealogMigrate(REPOSITORY, database)).code).toBe(0);
    for (const [place, signs] of [true, false].entries()) {
      const old = replicas[place]!;
      serving = replicas.filter((one) => one !== old);
      expect(await old.stop()).toBe(0);
      replicas[place] = await startServiceProcess(deployment.environment(signs), next);
      serving = replicas;
      await load.nextReceipt(BACK_MAX_MS);
    }
  } else replicas.push(await startServiceProcess(deployment.environment(false), next));
  await sleep(500);
  await load.nextReceipt(BACK_MAX_MS);
  const judgement = await run.judge();
  say(
    `a rolling upgrade: ${describeCounts(judgement)}; an event while the schema was migrated: ${describeTimes(waits)}`,
  );
  expectKept(judgement);
});

test.runIf(HARD)(
  'what they can not go on beside is not migrated under them, and who is there anyway ends',
  async () => {
    const next = await nextVersion('9001_other');
    const database = await createDatabase();
    const deployment = await makeDeployment({ database });
    onTestFinished(() => deployment.remove());
    const service = await startServiceProcess(deployment.environment(true));
    onTestFinished(() => service.kill());
    const refused = await sealogMigrate(next, database);
    expect([refused.code, refused.output]).toEqual([1, expect.stringContaining('can not go on beside 9001_other')]);
    const client = new pg.Client(database.adminConfig);
    await client.connect();
    await client.query(`INSERT INTO sealog.migration VALUES ('9001_other', now()::text)`);
    expect(await service.ended()).toBe(1);
    expect(service.output()).toContain('migrated past this version');
    await client.query(`DELETE FROM sealog.migration WHERE name = '9001_other'`);
    await client.end();
    const { code, output } = await sealogMigrate(next, database);
    expect([code, output], output).toEqual([0, expect.stringContaining('ran 9001_other')]);
    await expect(service.again()).rejects.toThrow(/newer than this version of Sealog \(9001_other\)/);
  },
);

test.runIf(HARD)('a replica whose files are taken away, as by an upgrade in place, goes on', async () => {
  const tree = await nextVersion('9001_next');
  await rm(join(tree, 'migrations', '9001_next.sql'));
  const deployment = await makeDeployment();
  onTestFinished(() => deployment.remove());
  const service = await startServiceProcess(deployment.environment(true), tree);
  onTestFinished(() => service.kill());
  await rm(join(tree, 'migrations'), { recursive: true });
  // It looks at the schema every five seconds.
  await sleep(7000);
  expect((await fetch(`${service.url}/readyz`)).status).toBe(200);
});

/** Returns where the next version lies. */
async function nextVersion(migration: string): Promise<string> {
  const tree = await mkdtemp(join(tmpdir(), 'sealog-test-next-'));
  onTestFinished(() => rm(tree, { recursive: true, force: true }));
  for (const name of ['src', 'migrations', 'package.json', 'openapi.yaml'])
    await cp(join(REPOSITORY, name), join(tree, name), { recursive: true });
  await symlink(join(REPOSITORY, 'node_modules'), join(tree, 'node_modules'));
  await writeFile(join(tree, 'migrations', `${migration}.sql`), CHANGE);
  return tree;
}

function sealogMigrate(tree: string, { adminUrl, appRole }: TestDatabase): Promise<{ code: unknown; output: string }> {
  return new Promise((resolve) => {
    execFile(
      process.execPath,
      ['src/cli/main.ts', 'migrate', '--app-role', appRole],
      { cwd: tree, env: { ...PROGRAM_ENVIRONMENT, DATABASE_URL: adminUrl } },
      (error, stdout, stderr) => resolve({ code: error?.code ?? 0, output: stdout + stderr }),
    );
  });
}
