/** A backup from before an erasure: restored, it serves nothing that was erased since, and the ledger makes it so. */
import { execFile } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterEach, expect, test } from 'vitest';
import { signToken } from '../src/auth/tokens.ts';
import { migrate } from '../src/store/migrate.ts';
import { createDatabase } from './support/postgres.ts';
import { PROGRAM_ENVIRONMENT } from './support/program-environment.ts';
import { startService, type TestService } from './support/service.ts';

const run = promisify(execFile);
const undo: (() => Promise<unknown>)[] = [];
afterEach(async () => {
  while (undo.length > 0) await undo.pop()!();
});

const event = (id: string) => ({
  ...{ id, category: 'user_authentication', action: 'user.login', outcome: 'success', source: { service: 'test' } },
  ...{ occurredAt: '2026-01-01T10:00:00Z', actor: { type: 'user', id: 'u-17', email: 'zoe@example.com' } },
});

async function until<T>(look: () => Promise<T | undefined>, what: string): Promise<T> {
  for (const end = performance.now() + 40_000; ; ) {
    const found = await look();
    if (found !== undefined) return found;
    if (performance.now() > end) throw new Error(`not in time: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

async function as(service: TestService, subject: string, path: string, body?: unknown) {
  const ttlSeconds = 3600;
  const token = await signToken(service.tokens, { tenant: 'acme', roles: ['privacy_officer'], subject, ttlSeconds });
  return body === undefined ? service.get(path, { token }) : service.post(path, body, { token });
}

test('what was erased after a backup is erased again before anybody reads it', async () => {
  const service = await startService();
  undo.push(() => service.stop());
  const place = await mkdtemp(join(tmpdir(), 'sealog-test-backup-'));
  undo.push(() => rm(place, { recursive: true, force: true }));
  expect((await service.post('/v1/events?wait=checkpoint', event('z1'))).status).toBe(201);
  const main = join(import.meta.dirname, '../src/cli/main.ts');
  const sealog = async (args: readonly string[], adminUrl: string) => {
    const env = { ...PROGRAM_ENVIRONMENT, ...service.environment, DATABASE_URL: adminUrl };
    return run(process.execPath, [main, ...args], { env }).then(
      ({ stdout, stderr }) => ({ code: 0, out: stdout, err: stderr }),
      ({ code, stdout, stderr }) => ({ code, out: stdout, err: stderr }),
    );
  };
  const backup = join(place, 'backup');
  const made = await sealog(['backup', '--to', backup, '--keys-to', join(place, 'keys')], service.database.adminUrl);
  expect(made).toMatchObject({ code: 0 });

  const person = { email: 'zoe@example.com', id: 'u-17' };
  const { body: proposal } = await as(service, 'ann', '/v1/erasures', { person, reason: 'request 4711' });
  const path = `/v1/erasures/${proposal.id}`;
  await until(async () => ((await as(service, 'ann', path)).body.search === 'found' ? true : undefined), 'found');
  expect((await as(service, 'bob', `${path}/approve`, {})).status).toBe(200);
  await until(async () => ((await as(service, 'ann', path)).body.state === 'done' ? true : undefined), 'done');
  await service.app.close();

  const database = await createDatabase();
  undo.push(() => database.drop());
  const restored = await sealog(['restore', '--from', backup, '--verify'], database.adminUrl);
  expect(restored).toMatchObject({ code: 2, err: '' });
  expect(restored.out).toContain('MISSING: acme/log_administration');
  expect(restored.out).not.toContain('WRONG');
  const environment = { ...service.environment, DATABASE_URL: database.appUrl };
  await migrate(database.adminConfig, database.appRole);
  const recovered = await run(process.execPath, [main, 'recover', '--yes'], {
    env: { ...PROGRAM_ENVIRONMENT, ...environment },
  });
  expect(recovered.stdout).toContain('Done.');
  const again = await startService({ beside: { ...service, database, environment } });
  undo.push(() => again.stop());
  const found = await until(async () => {
    const answer = await again.get('/v1/events/z1');
    return answer.status === 200 ? answer.body : undefined;
  }, 'readable');
  expect(JSON.stringify(found)).not.toContain('zoe@example.com');
  expect(found.log.erased).toContain('actor');
});
