/** `POST /v1/verifications`, `GET /v1/verifications` and `GET /v1/verifications/{id}`: verification as a job, and its history. */

import type { FastifyInstance } from 'fastify';
import { Problem } from '../errors.ts';
import { validatePath, validateQuery } from '../http/api-schema.ts';
import type { Verification, VerificationRequest, VerificationSummary } from '../http/api-types.ts';
import { subjectOf, tenantOf } from '../http/caller.ts';
import { instantText } from '../http/instant-text.ts';
import { pageCursor, readPageCursor, wrongCursor } from '../http/page-cursor.ts';
import { type ReadJson, readAsked } from '../http/read-asked.ts';
import { changeWithTrace, leaveTrace } from '../http/trail.ts';
import type { AsTenant } from '../store/database.ts';
import { jobById, jobNumber, listJobs, type StoredRun } from '../store/verifications.ts';
import { type JobProgress, type RunReport, streamSummary } from './run-report.ts';

export interface VerificationDeps {
  /** Returns a tenant's id and how to ask for it, or undefined when there is no such tenant. */
  readonly tenant: (name: string) => Promise<{ readonly id: number; readonly ask: AsTenant } | undefined>;
  readonly readJson: ReadJson;
  /** Stores a job; undefined where the tenant has `unfinishedMax` already. */
  readonly request: (
    job: { readonly tenantId: number; readonly category: string | undefined; readonly requestedBy: string },
    unfinishedMax: number,
  ) => Promise<StoredRun | undefined>;
  /** Called when there is something to do. */
  readonly wake: () => void;
}

/** Of one tenant, so that none keeps all others waiting. */
const UNFINISHED_MAX = 3;
/** A run takes seconds at least. */
const RETRY_AFTER_SECONDS = 10;
const BODY_BYTES_MAX = 4096;

export function verificationRoutes({ tenant, readJson, request: store, wake }: VerificationDeps) {
  return async function verifications(app: FastifyInstance): Promise<void> {
    const post = {
      permission: 'verifications:run',
      body: { types: ['application/json'], limit: BODY_BYTES_MAX },
    } as const;
    app.post('/v1/verifications', { config: post }, async (request, reply) => {
      validateQuery('requestVerification', request.query);
      const asked = readAsked<VerificationRequest>(readJson, request, 'VerificationRequest');
      const owner = await tenant(tenantOf(request));
      if (owner === undefined) throw new Problem('not_found', { detail: 'nothing was ever logged for this tenant' });
      const job = {
        tenantId: owner.id,
        category: (asked as VerificationRequest).category,
        requestedBy: subjectOf(request),
      };
      const id = job.category === undefined ? tenantOf(request) : `${tenantOf(request)}/${job.category}`;
      const trace = { action: 'log.verify', target: { type: 'log', id } };
      const run = await changeWithTrace(request, trace, async () => {
        const stored = await store(job, UNFINISHED_MAX);
        if (stored !== undefined) return stored;
        const detail = `${UNFINISHED_MAX} verifications of this tenant are not finished yet`;
        throw new Problem('busy', { detail, retryAfter: RETRY_AFTER_SECONDS });
      });
      wake();
      return reply.code(202).header('location', `/v1/verifications/${run.id}`).send(runView(run));
    });

    app.get('/v1/verifications', { config: { permission: 'verifications:read' } }, async (request) => {
      const { limit, cursor } = validateQuery('listVerifications', request.query);
      const last = cursor === undefined ? undefined : readPageCursor(cursor, CURSOR)[1]!;
      leaveTrace(request, { action: 'log.list', target: { type: 'verifications', id: tenantOf(request) } });
      const owner = await tenant(tenantOf(request));
      const below = last === undefined ? undefined : await owner?.ask((database) => jobNumber(database, last));
      if (last !== undefined && below === undefined) throw wrongCursor();
      const runs = owner === undefined ? [] : await owner.ask((database) => listJobs(database, below, limit + 1));
      const page = runs.slice(0, limit);
      return { items: page.map(summaryView), next: runs.length > limit ? pageCursor(`v2 ${page.at(-1)!.id}`) : null };
    });

    app.get('/v1/verifications/:id', { config: { permission: 'verifications:read' } }, async (request) => {
      const { id } = validatePath('readVerification', request.params);
      validateQuery('readVerification', request.query);
      leaveTrace(request, { action: 'log.read', target: { type: 'verification', id } });
      const owner = await tenant(tenantOf(request));
      const run = await owner?.ask((database) => jobById(database, id));
      if (run === undefined) throw new Problem('not_found');
      return runView(run);
    });
  };
}

function summaryView(run: StoredRun): VerificationSummary {
  const progress = run.progress as Partial<JobProgress>;
  return {
    id: run.id,
    state: run.state,
    category: run.category as VerificationSummary['category'],
    requestedAt: instantText(run.requestedAt),
    startedAt: instantText(run.startedAt),
    finishedAt: instantText(run.finishedAt),
    progress: {
      entries: progress.entries ?? 0,
      of: progress.of ?? 0,
      stream: progress.stream ?? null,
      streams: progress.streams ?? 0,
    },
    verdict: run.verdict,
    error: run.error,
  };
}

/** While it runs, what was found so far. */
function runView(run: StoredRun): Verification {
  const report = run.report as RunReport | null;
  const finished = (run.progress as Partial<JobProgress>).finished ?? [];
  const soFar = {
    findings: finished.flatMap((stream) => stream.findings),
    unchecked: finished.flatMap((one) => one.unchecked.map((what) => ({ stream: one.stream, ...what }))),
    truncated: finished.some(({ truncated }) => truncated),
    streams: finished.map(streamSummary),
  };
  const { findings, unchecked, truncated, streams } = report ?? soFar;
  return {
    ...summaryView(run),
    key: report?.key ?? null,
    ...{ findings, truncated, unchecked, streams },
  } as Verification;
}

/** The last run of the page before. */
const CURSOR = /^v2 ([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})$/;
