/**
 * Runs of verification: jobs of tenants and passes of the scrubber. The rows are the queue, what a run has done so far, and the history.
 *
 * A run has an owner, who says each second that he lives. What nobody owns, or whose owner is silent, is taken by whoever is free. Everything
 * that an owner writes names him, so that one who was given up for dead and is not changes nothing any more.
 */
import { type Kysely, sql } from 'kysely';
import type pg from 'pg';
import { Problem } from '../errors.ts';
import { withClient } from './database.ts';
import type { Tables } from './tables.ts';

export type RunKind = 'job' | 'scrub';
export type RunState = 'waiting' | 'running' | 'done' | 'failed';
export type RunVerdict = 'intact' | 'tampered' | 'incomplete' | 'not_provable';

/** What a run holds in `progress` and `report` is its own business: `verification/run-report.ts`. */
export interface StoredRun {
  readonly id: string;
  readonly number: number;
  readonly kind: RunKind;
  readonly category: string | null;
  readonly state: RunState;
  readonly progress: unknown;
  readonly verdict: RunVerdict | null;
  readonly report: unknown;
  readonly error: string | null;
  readonly requestedAt: Date;
  readonly startedAt: Date | null;
  readonly finishedAt: Date | null;
}

/** A run that its taker owns now. */
export interface TakenRun extends StoredRun {
  /** Null = all. */
  readonly tenant: { readonly id: number; readonly name: string } | null;
  /** How often it was begun since it last got on, this time not counted. */
  readonly attempts: number;
}

const COLUMNS = `v.id, v.number, v.kind, v.category, v.state, v.progress, v.verdict, v.report, v.error, v.created_at AS "requestedAt",
  v.started_at AS "startedAt", v.finished_at AS "finishedAt"`;

/** Stores a job. Returns undefined where the tenant has `unfinishedMax` that are not finished; two callers at once: one waits for the other. */
export async function requestJob(
  writer: pg.Pool,
  job: { readonly tenantId: number; readonly category: string | undefined; readonly requestedBy: string },
  unfinishedMax: number,
): Promise<StoredRun | undefined> {
  try {
    return await withClient(writer, async (client) => {
      await client.query('BEGIN');
      try {
        await client.query(`SELECT pg_advisory_xact_lock(hashtextextended('sealog.verification', $1))`, [job.tenantId]);
        const { rows } = await client.query<StoredRun>(
          `INSERT INTO sealog.verification AS v (kind, tenant, category, requested_by)
           SELECT 'job', $1::integer, $2::text, $3::text
           WHERE (SELECT count(*) FROM sealog.verification AS other WHERE other.kind = 'job' AND other.tenant = $1
                  AND other.state IN ('waiting', 'running')) < $4
           RETURNING ${COLUMNS}`,
          [job.tenantId, job.category ?? null, job.requestedBy, unfinishedMax],
        );
        await client.query('COMMIT');
        return rows[0];
      } catch (error) {
        await client.query('ROLLBACK').catch(() => {});
        throw error;
      }
    });
  } catch (cause) {
    if (cause instanceof Problem) throw cause;
    throw new Problem('not_ready', { detail: 'the database does not answer', cause });
  }
}

/** Returns a job, where the connection's role may see it. */
export async function jobById(database: Kysely<Tables>, id: string): Promise<StoredRun | undefined> {
  const { rows } = await sql<StoredRun>`
    SELECT ${sql.raw(COLUMNS)} FROM ${sql.table('sealog.verification')} AS v WHERE v.kind = 'job' AND v.id = ${id}::uuid`.execute(
    database,
  );
  return rows[0];
}

/** Returns the number of a job, where the connection's role may see it. */
export async function jobNumber(database: Kysely<Tables>, id: string): Promise<number | undefined> {
  const row = await database
    .selectFrom('sealog.verification')
    .select('number')
    .where('kind', '=', 'job')
    .where('id', '=', id)
    .executeTakeFirst();
  return row?.number;
}

/** Returns the jobs that the connection's role may see, newest first, from below a number. */
export async function listJobs(
  database: Kysely<Tables>,
  below: number | undefined,
  limit: number,
): Promise<StoredRun[]> {
  // What was found is in the run itself: a page of it would be long.
  const { rows } = await sql<StoredRun>`
    SELECT v.id, v.number, v.kind, v.category, v.state, v.verdict, v.created_at AS "requestedAt", v.started_at AS "startedAt",
           v.finished_at AS "finishedAt", v.error, NULL AS report, v.progress - 'finished' AS progress
    FROM ${sql.table('sealog.verification')} AS v WHERE v.kind = 'job' AND v.number < ${below ?? Number.MAX_SAFE_INTEGER}
    ORDER BY v.number DESC LIMIT ${limit}`.execute(database);
  return rows;
}

/** Takes the oldest run that waits, or whose owner was silent for so long. Two takers at once get two runs. */
export async function takeRun(
  writer: pg.Pool,
  kind: RunKind,
  owner: string,
  silentMs: number,
): Promise<TakenRun | undefined> {
  const { rows } = await writer.query<TakenRun & { tenantId: number | null; tenantName: string | null }>(
    `UPDATE sealog.verification AS v
     SET state = 'running', owner = $2, heartbeat = clock_timestamp(), started_at = coalesce(v.started_at, clock_timestamp()),
         -- Who let go of it did so by intent; who vanished, or failed, did not.
         attempts = v.attempts + CASE WHEN v.owner IS NULL THEN 0 ELSE 1 END
     FROM (SELECT w.id FROM sealog.verification AS w
           WHERE w.kind = $1 AND (w.state = 'waiting' OR (w.state = 'running' AND CASE
             -- The taker himself: he lost his database, and is not at work on it.
             WHEN w.owner = $2 THEN true
             WHEN w.owner IS NOT NULL THEN w.heartbeat < clock_timestamp() - make_interval(secs => $3::double precision / 1000)
             -- After a failure there is a pause, longer each time.
             ELSE w.heartbeat IS NULL OR w.heartbeat < clock_timestamp() - make_interval(secs => w.attempts * w.attempts) END))
           ORDER BY w.number LIMIT 1 FOR UPDATE SKIP LOCKED) AS free
     WHERE v.id = free.id
     RETURNING ${COLUMNS}, v.attempts, v.tenant AS "tenantId",
       (SELECT t.name FROM sealog.tenant AS t WHERE t.id = v.tenant) AS "tenantName"`,
    [kind, owner, silentMs],
  );
  const row = rows[0];
  if (row === undefined) return undefined;
  const { tenantId, tenantName, ...run } = row;
  return { ...run, tenant: tenantId === null ? null : { id: tenantId, name: tenantName ?? '' } };
}

/** Says that the owner lives, and where he is; without `progress` only that. Returns whether the run is still his. */
export async function saveProgress(
  writer: pg.Pool,
  run: { readonly id: string; readonly owner: string },
  progress: object | undefined,
  gotOn: boolean,
): Promise<boolean> {
  const { rowCount } = await writer.query(
    `UPDATE sealog.verification SET heartbeat = clock_timestamp(), progress = coalesce($3::jsonb, progress),
       attempts = CASE WHEN $4 THEN 0 ELSE attempts END
     WHERE id = $1 AND owner = $2 AND state = 'running'`,
    [run.id, run.owner, progress === undefined ? null : JSON.stringify(progress), gotOn],
  );
  return rowCount === 1;
}

/** Lets go of a run, for whoever takes it next; where it failed, as one more attempt, and after a pause. */
export async function releaseRun(
  writer: pg.Pool,
  run: { readonly id: string; readonly owner: string },
  failed: boolean,
): Promise<void> {
  await writer.query(
    `UPDATE sealog.verification SET owner = NULL, heartbeat = CASE WHEN $3 THEN clock_timestamp() END,
       attempts = attempts + CASE WHEN $3 THEN 1 ELSE 0 END
     WHERE id = $1 AND owner = $2 AND state = 'running'`,
    [run.id, run.owner, failed],
  );
}

/** Ends a run. Returns whether it was still the owner's. */
export async function finishRun(
  writer: pg.Pool,
  run: { readonly id: string; readonly owner: string },
  progress: object,
  result: { readonly verdict: RunVerdict; readonly report: object } | { readonly error: string },
): Promise<boolean> {
  const { rowCount } = await writer.query(
    `UPDATE sealog.verification SET state = $3, progress = $4::jsonb, verdict = $5, report = $6::jsonb, error = $7,
       owner = NULL, heartbeat = NULL, finished_at = clock_timestamp()
     WHERE id = $1 AND owner = $2 AND state = 'running'`,
    [
      run.id,
      run.owner,
      'error' in result ? 'failed' : 'done',
      JSON.stringify(progress),
      'error' in result ? null : result.verdict,
      'error' in result ? null : JSON.stringify(result.report),
      'error' in result ? result.error.slice(0, 1000) : null,
    ],
  );
  return rowCount === 1;
}

/**
 * Begins the next pass of the scrubber, unless one is under way, or began less than so long ago. It takes over what the one before it
 * knew to be wrong. Two replicas at once: the index lets one.
 */
export async function beginScrub(writer: pg.Pool, everyMs: number): Promise<void> {
  await writer.query(
    `INSERT INTO sealog.verification (kind, requested_by, progress)
     SELECT 'scrub', 'sealog', jsonb_build_object('alarms', coalesce(
       (SELECT l.progress -> 'alarms' FROM sealog.verification AS l WHERE l.kind = 'scrub' ORDER BY l.number DESC LIMIT 1), '[]'))
     WHERE NOT EXISTS (SELECT FROM sealog.verification AS o WHERE o.kind = 'scrub'
       AND (o.state IN ('waiting', 'running') OR o.created_at > clock_timestamp() - make_interval(secs => $1::double precision / 1000)))
     ON CONFLICT DO NOTHING`,
    [everyMs],
  );
}

/** The scrubber's last pass, finished or not, and when the last that came to its end began and ended. */
export interface ScrubState {
  readonly progress: unknown;
  readonly full: { readonly startedAt: Date; readonly finishedAt: Date } | undefined;
  /** Entries are unread since then at most. */
  readonly unreadSince: Date | undefined;
}

export async function scrubState(database: Kysely<Tables>): Promise<ScrubState> {
  const { rows } = await sql<{
    progress: unknown;
    startedAt: Date | null;
    finishedAt: Date | null;
    firstAt: Date | null;
  }>`
    SELECT (SELECT progress FROM sealog.verification WHERE kind = 'scrub' ORDER BY number DESC LIMIT 1) AS progress,
           (SELECT created_at FROM sealog.verification WHERE kind = 'scrub' ORDER BY number LIMIT 1) AS "firstAt",
           f.started_at AS "startedAt", f.finished_at AS "finishedAt"
    FROM (VALUES (1)) AS one
    LEFT JOIN LATERAL (SELECT started_at, finished_at FROM sealog.verification
                       WHERE kind = 'scrub' AND state = 'done' ORDER BY number DESC LIMIT 1) AS f ON true`.execute(
    database,
  );
  const { progress, startedAt, finishedAt, firstAt } = rows[0]!;
  return {
    progress,
    full: startedAt === null || finishedAt === null ? undefined : { startedAt, finishedAt },
    unreadSince: startedAt ?? firstAt ?? undefined,
  };
}

/** Returns how many entries there are: in all, or of a tenant, or of a category of it. */
export async function entriesInScope(
  database: Kysely<Tables>,
  scope: { readonly tenantId: number; readonly category: string | undefined } | undefined,
): Promise<number> {
  let query = database
    .selectFrom('sealog.stream')
    .select(sql<number>`least(coalesce(sum(greatest(size, 0)), 0), 9007199254740991)::bigint`.as('entries'));
  if (scope !== undefined) query = query.where('tenant', '=', scope.tenantId);
  if (scope?.category !== undefined) query = query.where('category', '=', scope.category);
  return (await query.executeTakeFirstOrThrow()).entries;
}
