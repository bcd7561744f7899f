/** A log that was filled once, for many tests that each want it to themselves. */
import { cp, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { copyDatabase } from './postgres.ts';
import type { TestService } from './service.ts';

export interface Copied {
  /** To start services beside, as if it had been stopped: of the service itself only what it was started with is there. */
  readonly log: TestService;
  remove(): Promise<void>;
}

/** Copies the database and the signer's folder of a service that was stopped (`app.close()`). Month keys and token secret are the same. */
export async function copied(service: TestService): Promise<Copied> {
  const database = await copyDatabase(service.database);
  const signerDir = await mkdtemp(join(tmpdir(), 'sealog-test-signer-'));
  await cp(service.config.signerDir!, signerDir, { recursive: true });
  const own = { DATABASE_URL: database.appUrl, SEALOG_SIGNER_DIR: signerDir };
  return {
    log: {
      ...service,
      database,
      config: { ...service.config, signerDir },
      environment: { ...service.environment, ...own },
    },
    async remove() {
      await database.drop();
      await rm(signerDir, { recursive: true, force: true });
    },
  };
}
