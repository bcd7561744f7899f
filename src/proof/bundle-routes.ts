/**
 * `GET /v1/bundle`: the evidence for an auditor who trusts nobody, as one tar file.
 *
 * All that can fail fails before the first byte; then it is sent from temporary files. Whoever goes away, or does not read, ends the work.
 */
import { Readable } from 'node:stream';
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import { PART_NAMES, type PartName } from '../chain/part.ts';
import { formatInstant } from '../chain/retain-until.ts';
import { Problem } from '../errors.ts';
import { validateQuery } from '../http/api-schema.ts';
import { mayReadEvents, tenantOf } from '../http/caller.ts';
import { leaveTrace, type Trace } from '../http/trail.ts';
import type { AsTenant } from '../store/database.ts';
import {
  BUNDLE_BOUNDS,
  type Bundle,
  type BundleBounds,
  type BundleRequest,
  type BundleSources,
  writeBundle,
} from './bundle-writer.ts';

export interface BundleDeps extends Omit<BundleSources, 'ask'> {
  /** Returns how to ask for one tenant, or undefined when there is no such tenant. */
  readonly tenant: (name: string) => Promise<AsTenant | undefined>;
  readonly bounds?: BundleBounds;
}

/**
 * Each holds two temporary files of up to a GiB together, and reads as fast as the database gives. Whoever reads his slowly has it for hours: so
 * one tenant has no more than half of them.
 */
const AT_ONCE_MAX = 4;
const OF_TENANT_MAX = 2;
const BUSY_RETRY_SECONDS = 10;
const LAST_INSTANT = Date.UTC(9999, 11, 31, 23, 59, 59, 999);

export function bundleRoutes({ tenant, bounds = BUNDLE_BOUNDS, ...sources }: BundleDeps) {
  /** What is made or sent. */
  const underWay = new Set<BundleRequest>();
  return async function bundles(app: FastifyInstance): Promise<void> {
    const config = { permission: 'bundles:read', ofAllSites: () => true } as const;
    app.get('/v1/bundle', { config }, async (request, reply) => {
      const asked = readRequest(request);
      leaveTrace(request, traceOf(asked));
      const ask = await tenant(asked.tenant);
      if (ask === undefined) throw new Problem('not_found');
      const own = [...underWay].filter((one) => one.tenant === asked.tenant).length;
      if (own >= OF_TENANT_MAX || underWay.size >= AT_ONCE_MAX)
        throw new Problem('busy', { detail: 'other bundles are being made', retryAfter: BUSY_RETRY_SECONDS });
      underWay.add(asked);
      const done = (): void => {
        underWay.delete(asked);
      };
      const gone = new AbortController();
      const onClose = (): void => gone.abort();
      reply.raw.once('close', onClose);
      // Before he was let in; that is not said again.
      if (reply.raw.destroyed) gone.abort();
      try {
        const bundle = await writeBundle({ ...sources, ask }, asked, bounds, gone.signal);
        send(reply, asked, bundle, done);
      } catch (error) {
        done();
        throw gone.signal.aborted
          ? new Problem('request_timeout', { detail: 'the client went away', cause: error })
          : error;
      } finally {
        reply.raw.off('close', onClose);
      }
      return reply;
    });
  };
}

function send(
  reply: FastifyReply,
  { category, tenant, from, to }: BundleRequest,
  bundle: Bundle,
  done: () => void,
): void {
  const body = Readable.from(closing(bundle), { objectMode: false });
  body.once('close', () => {
    done();
    // Where nobody read any of it, the generator never began, and does not end either.
    bundle.close().catch(() => {});
  });
  const day = (at: number | undefined): string[] => (at === undefined ? [] : [formatInstant(at).slice(0, 10)]);
  const name = ['sealog', tenant, category.replaceAll('_', '-'), ...day(from), ...day(to)].join('_');
  reply
    .type('application/x-tar')
    .header('content-disposition', `attachment; filename="${name}.tar"`)
    .header('content-length', String(bundle.bytes))
    .send(body);
}

/** A bundle's bytes; it is closed behind them. */
export async function* closing(bundle: Bundle): AsyncGenerator<Uint8Array> {
  try {
    yield* bundle.content();
  } finally {
    await bundle.close();
  }
}

function traceOf({ tenant, category, from, to, since, withhold }: BundleRequest): Trace {
  const day = (at: number | undefined): string | null => (at === undefined ? null : formatInstant(at));
  const details = { from: day(from), to: day(to), since: [...since], withheld: [...withhold] };
  return { action: 'log.bundle', target: { type: 'stream', id: `${tenant}/${category}` }, details };
}

function readRequest(request: FastifyRequest): BundleRequest {
  const { category, from, to, since, withhold } = validateQuery('readBundle', request.query);
  const [begin, end] = [from, to].map((text) => (text === undefined ? undefined : instantFrom(text)));
  if (begin !== undefined && end !== undefined && begin > end)
    throw new Problem('invalid_request', { errors: [{ field: 'to', message: 'must not be before `from`' }] });
  return {
    tenant: tenantOf(request),
    category,
    from: begin,
    to: end,
    since: since === undefined ? [] : since.split(',').map(Number),
    // Who may not read events gets a bundle that shows them without saying what is in them.
    withhold: new Set(mayReadEvents(request) ? ((withhold?.split(',') ?? []) as PartName[]) : PART_NAMES),
  };
}

/** Returns the first millisecond that is not before an RFC 3339 time: recordedAt has no finer ones, so that both bounds may be rounded up. */
function instantFrom(text: string): number {
  const rest = /\.\d{3}(\d+)/.exec(text)?.[1] ?? '';
  const ms = Date.parse(text) + (/[1-9]/.test(rest) ? 1 : 0);
  return Math.min(Math.max(ms, 0), LAST_INSTANT);
}
