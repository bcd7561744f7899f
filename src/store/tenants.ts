/**
 * Tenants: which there are, whether they are open, and what they may ask for. A tenant's row never changes; what does is its history in
 * `tenant_setting`, of which the newest row counts.
 *
 * A change is one statement, and says which row it follows: of two at once the second finds its number taken.
 */
import { type Kysely, sql } from 'kysely';
import pg from 'pg';
import { Problem } from '../errors.ts';
import { withClient } from './database.ts';
import type { Tables } from './tables.ts';

export type TenantState = 'open' | 'closed';

/** Null = the configuration's default, 0 = no limit. */
export interface TenantQuota {
  readonly eventsPerSecond: number | null;
  readonly burstEvents: number | null;
  readonly bytesPerSecond: number | null;
  readonly readsPerSecond: number | null;
}

export interface TenantSetting {
  /** From 1 on; 0 where nothing was ever set. */
  readonly number: number;
  readonly state: TenantState;
  readonly quota: TenantQuota;
}

/** A setting, and who set it when; nulls where nothing was ever set. */
export interface SettingRow extends TenantSetting {
  readonly at: Date | null;
  readonly by: string | null;
  readonly reason: string | null;
}

export interface TenantRow extends SettingRow {
  readonly id: number;
  readonly name: string;
  readonly createdAt: Date;
}

export interface SettingChange {
  readonly state: TenantState;
  readonly quota: TenantQuota;
  readonly by: string;
  readonly reason: string | undefined;
}

export const DEFAULT_QUOTA: TenantQuota = {
  eventsPerSecond: null,
  burstEvents: null,
  bytesPerSecond: null,
  readsPerSecond: null,
};

const QUOTA = `jsonb_build_object('eventsPerSecond', s.events_per_second, 'burstEvents', s.burst_events, 'bytesPerSecond', s.bytes_per_second,
  'readsPerSecond', s.reads_per_second) AS quota`;
const SETTING = `coalesce(s.number, 0) AS number, coalesce(s.state, 'open') AS state, ${QUOTA}`;
const ROW = `t.id, t.name, t.created_at AS "createdAt", ${SETTING}, s.at, s.by, s.reason`;
const NEWEST = `LEFT JOIN LATERAL (SELECT * FROM sealog.tenant_setting WHERE tenant = t.id ORDER BY number DESC LIMIT 1) AS s ON true`;

/** Returns the settings of those of the tenants that there are. */
export async function tenantSettings(
  database: Kysely<Tables>,
  names: readonly string[],
): Promise<Map<string, TenantSetting>> {
  const { rows } = await sql<TenantSetting & { name: string }>`
    SELECT t.name, ${sql.raw(SETTING)} FROM sealog.tenant AS t ${sql.raw(NEWEST)}
    WHERE t.name = ANY (${[...names]}::text[])`.execute(database);
  return new Map(rows.map(({ name, ...setting }) => [name, setting]));
}

/** Returns tenants by name, from behind one. */
export async function listTenants(
  database: Kysely<Tables>,
  behind: string | undefined,
  limit: number,
): Promise<TenantRow[]> {
  const { rows } = await sql<TenantRow>`
    SELECT ${sql.raw(ROW)} FROM sealog.tenant AS t ${sql.raw(NEWEST)}
    WHERE t.name > ${behind ?? ''} ORDER BY t.name LIMIT ${limit}`.execute(database);
  return rows;
}

export async function tenantByName(database: Kysely<Tables>, name: string): Promise<TenantRow | undefined> {
  const { rows } = await sql<TenantRow>`
    SELECT ${sql.raw(ROW)} FROM sealog.tenant AS t ${sql.raw(NEWEST)} WHERE t.name = ${name}`.execute(database);
  return rows[0];
}

/** Returns what was ever set of a tenant, newest first. */
export async function settingsOf(database: Kysely<Tables>, tenantId: number, limit: number): Promise<SettingRow[]> {
  const { rows } = await sql<SettingRow>`
    SELECT ${sql.raw(SETTING)}, s.at, s.by, s.reason FROM sealog.tenant_setting AS s
    WHERE s.tenant = ${tenantId} ORDER BY s.number DESC LIMIT ${limit}`.execute(database);
  return rows;
}

/** Makes a tenant with its first setting. Returns undefined where there is one of that name; two makers at once: the name is unique. */
export async function makeTenant(
  writer: pg.Pool,
  name: string,
  setting: SettingChange,
): Promise<TenantRow | undefined> {
  return change<TenantRow>(
    writer,
    `WITH t AS (INSERT INTO sealog.tenant (name) VALUES ($1) ON CONFLICT (name) DO NOTHING RETURNING id, name, created_at),
          s AS (INSERT INTO sealog.tenant_setting AS s (tenant, number, state, events_per_second, burst_events, bytes_per_second,
                  reads_per_second, by, reason)
                SELECT t.id, 1, $2, $3, $4, $5, $6, $7, $8 FROM t RETURNING s.*)
     SELECT ${ROW} FROM t CROSS JOIN s`,
    [name, ...valuesOf(setting)],
  );
}

/** Sets a tenant's setting that follows number `behind`. Returns undefined where another one follows it by now. */
export async function changeTenant(
  writer: pg.Pool,
  tenantId: number,
  behind: number,
  setting: SettingChange,
): Promise<SettingRow | undefined> {
  return change<SettingRow>(
    writer,
    `INSERT INTO sealog.tenant_setting AS s (tenant, number, state, events_per_second, burst_events, bytes_per_second, reads_per_second, by,
       reason)
     VALUES ($1, $9, $2, $3, $4, $5, $6, $7, $8) RETURNING ${SETTING}, s.at, s.by, s.reason`,
    [tenantId, ...valuesOf(setting), behind + 1],
  );
}

function valuesOf({ state, quota, by, reason }: SettingChange): unknown[] {
  const { eventsPerSecond, burstEvents, bytesPerSecond, readsPerSecond } = quota;
  return [state, eventsPerSecond, burstEvents, bytesPerSecond, readsPerSecond, by, reason ?? null];
}

async function change<Row extends object>(
  writer: pg.Pool,
  text: string,
  values: readonly unknown[],
): Promise<Row | undefined> {
  try {
    return await withClient(writer, async (client) => (await client.query<Row>(text, [...values])).rows[0]);
  } catch (cause) {
    if (cause instanceof Problem) throw cause;
    if (!(cause instanceof pg.DatabaseError)) throw new Problem('outcome_unknown', { cause });
    // The number is taken.
    if (cause.code === '23505') return undefined;
    // A statement that can not be right is ours; its words can hold the row.
    if (/^(23|42)/.test(cause.code ?? ''))
      throw new Error(`a tenant was not changed: ${cause.code} ${cause.constraint ?? ''}`);
    throw new Problem('not_ready', { detail: 'the database refused to store', cause });
  }
}
