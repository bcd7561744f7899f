/** The embedded server's next major version: poured over, verified, put in place, and nothing lost wherever it is interrupted. */
import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdir, mkdtemp, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { pino } from 'pino';
import { expect, onTestFinished, test } from 'vitest';
import { createApp } from '../src/app.ts';
import { generateSecret, signToken } from '../src/auth/tokens.ts';
import { readConfig } from '../src/config.ts';
import { startEmbeddedPostgres } from '../src/store/embedded-postgres.ts';
import { migrate } from '../src/store/migrate.ts';
import { PROGRAM_ENVIRONMENT } from './support/program-environment.ts';

const HARD = process.env['SEALOG_TEST_HARD'] !== undefined;
const OLD = '/usr/lib/postgresql/15/bin';
const run = promisify(execFile);
const log = pino({ level: 'silent' });

const event = (id: string) => ({
  ...{ id, category: 'user_authentication', action: 'user.login', outcome: 'success', source: { service: 'test' } },
  ...{ occurredAt: '2026-01-01T10:00:00Z', actor: { type: 'user', id: 'u-1' } },
});

/** Runs the service on a data folder, with the programs of a folder, and sends events. */
async function sendTo(dataDir: string, bin: string | undefined, ids: readonly string[]): Promise<number[]> {
  const config = readConfig({ SEALOG_DATA_DIR: dataDir, SEALOG_PORT: '0', SEALOG_CHECKPOINT_MS: '50' });
  const postgres = await startEmbeddedPostgres({ dataDir, log, bin });
  try {
    const { app: writer, logins } = postgres;
    const users = { reader: logins.reader.user, verifier: logins.verifier.user, signer: logins.signer.user };
    await migrate(postgres.admin, { writer: writer.user, ...users });
    const tokens = { ...config.jwt, secret: generateSecret() };
    const app = await createApp({ config, connection: writer, logins, tokens, log });
    try {
      await app.server.listen({ host: '127.0.0.1', port: 0 });
      const { port } = app.server.server.address() as { port: number };
      const token = await signToken(tokens, { tenant: 'acme', roles: ['service'], subject: 't', ttlSeconds: 60 });
      const statuses: number[] = [];
      for (const id of ids) {
        const answer = await fetch(`http://127.0.0.1:${port}/v1/events?wait=checkpoint`, {
          method: 'POST',
          headers: { authorization: `Bearer ${token}`, 'content-type': 'application/json' },
          body: JSON.stringify(event(id)),
        });
        statuses.push(answer.status);
      }
      return statuses;
    } finally {
      await app.close();
    }
  } finally {
    await postgres.stop();
  }
}

test.skipIf(!HARD || !existsSync(OLD))(
  'goes from PostgreSQL 15 to the one of this version, keeps the old one, and can be interrupted',
  async () => {
    const dataDir = await mkdtemp(join(tmpdir(), 'sealog-test-upgrade-'));
    onTestFinished(() => rm(dataDir, { recursive: true, force: true }));
    const main = join(import.meta.dirname, '../src/cli/main.ts');
    const env = { ...PROGRAM_ENVIRONMENT, SEALOG_DATA_DIR: dataDir, SEALOG_LOG_LEVEL: 'error' };
    const sealog = (...args: string[]) => run(process.execPath, [main, ...args], { env });
    expect(await sendTo(dataDir, OLD, ['one', 'two'])).toEqual([201, 201]);

    await expect(sealog('serve')).rejects.toMatchObject({
      code: 1,
      stderr: expect.stringContaining('upgrade-database'),
    });
    await expect(sealog('upgrade-database', '--old', dataDir)).rejects.toMatchObject({
      stderr: expect.stringContaining('there is no PostgreSQL in'),
    });
    const { stdout } = await sealog('upgrade-database', '--old', OLD);
    expect(stdout).toMatch(/^not_provable: \d+ streams, \d+ entries$/m);
    expect(stdout).toContain('postgres-15: remove it once the service has run');
    expect(await readFile(join(dataDir, 'postgres-15/cluster/PG_VERSION'), 'utf8')).toBe('15\n');

    // As if it had been interrupted between the two renames.
    await mkdir(join(dataDir, 'upgrading'));
    await rename(join(dataDir, 'postgres'), join(dataDir, 'upgrading/postgres'));
    await writeFile(join(dataDir, 'upgrading/verified'), '15\n');
    await expect(sealog('serve')).rejects.toMatchObject({
      code: 1,
      stderr: expect.stringContaining('was interrupted'),
    });
    await sealog('upgrade-database');
    // The signer takes the new server for the log that it signed, and repeats find their receipts.
    expect(await sendTo(dataDir, undefined, ['one', 'three'])).toEqual([200, 201]);
  },
  120_000,
);
