/** What was fixed at the first start. */
import { randomBytes } from 'node:crypto';
import type { Kysely } from 'kysely';
import type pg from 'pg';
import { SettingsError } from '../errors.ts';
import type { Tables } from './tables.ts';

/** Returns the origin that was fixed; undefined before the first start. */
export async function readOrigin(database: Kysely<Tables>): Promise<string | undefined> {
  return (await database.selectFrom('sealog.deployment').select('origin').executeTakeFirst())?.origin;
}

/**
 * Returns the deployment's origin, fixing it at the first start: as configured, or in embedded mode a generated one. Two first
 * starts at once: one row is stored, both use it.
 */
export async function fixOrigin(writer: pg.Pool, configured: string | undefined, embedded: boolean): Promise<string> {
  const find = async (): Promise<string | undefined> =>
    (await writer.query<{ origin: string }>('SELECT origin FROM sealog.deployment')).rows[0]?.origin;
  let origin = await find();
  if (origin === undefined) {
    const wanted = configured ?? (embedded ? `sealog.local/${randomBytes(6).toString('hex')}` : undefined);
    if (wanted === undefined) {
      throw new SettingsError([
        'SEALOG_ORIGIN must be set for the first start: the name of this log in its checkpoints, such as audit.example.com',
      ]);
    }
    await writer.query('INSERT INTO sealog.deployment (origin) VALUES ($1) ON CONFLICT DO NOTHING', [wanted]);
    origin = await find();
  }
  if (configured !== undefined && configured !== origin) {
    throw new SettingsError([
      `SEALOG_ORIGIN is ${configured}, but this log was started as ${origin}, which can not change`,
    ]);
  }
  return origin!;
}
