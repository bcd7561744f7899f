/**
 * `/v1/api-keys`: making, listing, rotating and revoking the keys of services. A key's text is in the answer that makes it, and nowhere else.
 *
 * Whoever is narrowed himself (to sites, or to categories) makes only keys that are within what he has, and sees and changes only those of
 * his sites. Each change stands in the tenant's log before it is made.
 */

import type { FastifyInstance, FastifyRequest } from 'fastify';
import { addMonths, formatInstant } from '../chain/retain-until.ts';
import { type FieldError, Problem } from '../errors.ts';
import { validatePath, validateQuery } from '../http/api-schema.ts';
import type {
  ApiKeyRequest,
  ApiKeyRevocation,
  ApiKeyRotation,
  ApiKey as ApiKeyView,
  ApiKeyWithText,
} from '../http/api-types.ts';
import { callerOf, subjectOf, tenantOf } from '../http/caller.ts';
import { instantText } from '../http/instant-text.ts';
import { pageCursor, readPageCursor } from '../http/page-cursor.ts';
import { type ReadJson, readAsked } from '../http/read-asked.ts';
import { changeWithTrace, leaveTrace, type Trace } from '../http/trail.ts';
import { type ApiKey, apiKeyById, listApiKeys, type NewApiKey } from '../store/api-keys.ts';
import type { AsTenant } from '../store/database.ts';

export interface ApiKeyDeps {
  /** Returns a tenant's id and how to ask for it, or undefined when there is no such tenant. */
  readonly tenant: (name: string) => Promise<Owner | undefined>;
  readonly readJson: ReadJson;
  readonly newId: () => string;
  /** A key's text, and the hash of its secret. */
  readonly newSecret: (id: string) => { readonly text: string; readonly hash: Uint8Array };
  /** Stores a key; undefined where the tenant has `unrevokedMax` already. */
  readonly create: (key: NewApiKey, unrevokedMax: number) => Promise<ApiKey | undefined>;
  /** Gives a key another secret; undefined where it is revoked or expired. */
  readonly rotate: (key: {
    readonly id: string;
    readonly tenantId: number;
    readonly hash: Uint8Array;
    readonly overlapSeconds: number;
  }) => Promise<ApiKey | undefined>;
  /** Revokes a key; undefined where it was revoked before. */
  readonly revoke: (key: {
    readonly id: string;
    readonly tenantId: number;
    readonly revokedBy: string;
  }) => Promise<ApiKey | undefined>;
  /** Called when a key may have changed, before the answer: what is remembered of it holds no more. */
  readonly onChanged: (id: string) => void;
  readonly wallClock: () => number;
}

interface Owner {
  readonly id: number;
  readonly ask: AsTenant;
}

/** More than a platform has services; a list that a person can still look through. */
const UNREVOKED_MAX = 1000;
/** Waiting does not help: somebody has to revoke some. */
const QUOTA_RETRY_SECONDS = 3600;
const LIFETIME_MONTHS = 12;
const LIFETIME_MONTHS_MAX = 24;
/** A day, in which a service gets its new key. */
const OVERLAP_SECONDS = 86_400;
/** CEF: medium. What a credential can do is known; that there is a new one, or none any more, somebody should notice. */
const SEVERITY = 5;
/** 100 sites of 256 characters. */
const BODY_BYTES_MAX = 128 * 1024;

export function apiKeyRoutes(deps: ApiKeyDeps) {
  const { wallClock, onChanged } = deps;
  const body = { types: ['application/json'], limit: BODY_BYTES_MAX } as const;
  const writing = { config: { permission: 'api-keys:write', body } } as const;
  const reading = { config: { permission: 'api-keys:read' } } as const;

  return async function apiKeys(app: FastifyInstance): Promise<void> {
    app.post('/v1/api-keys', writing, async (request, reply) => {
      validateQuery('createApiKey', request.query);
      const asked = readAsked<ApiKeyRequest>(deps.readJson, request, 'ApiKeyRequest');
      const expiresAt = expiryOf(asked.expiresAt, wallClock());
      mustBeWithin(request, asked);
      const { name, categories, sites } = asked;
      const id = deps.newId();
      const { text, hash } = deps.newSecret(id);
      const details = {
        name,
        ...(categories === undefined ? {} : { categories: [...categories] }),
        ...(sites === undefined ? {} : { sites: [...sites] }),
        expiresAt: instantText(expiresAt),
      };
      const made = await changeWithTrace(request, traceOf('created', id, { details }), async () => {
        const owner = await deps.tenant(tenantOf(request));
        // Its log has just taken an entry.
        if (owner === undefined) throw new Problem('not_ready');
        const key = {
          ...{ id, tenantId: owner.id, name, hash, categories, sites, expiresAt },
          createdBy: subjectOf(request),
        };
        const stored = await deps.create(key, UNREVOKED_MAX);
        if (stored !== undefined) return stored;
        const detail = `the tenant has ${UNREVOKED_MAX} API keys that are not revoked`;
        throw new Problem('quota', { detail, retryAfter: QUOTA_RETRY_SECONDS });
      });
      const answer: ApiKeyWithText = { ...viewOf(made, wallClock()), key: text };
      return reply.code(201).header('location', `/v1/api-keys/${id}`).send(answer);
    });

    app.get('/v1/api-keys', reading, async (request) => {
      const { limit, cursor } = validateQuery('listApiKeys', request.query);
      const behind = cursor === undefined ? undefined : placeOf(cursor);
      leaveTrace(request, { action: 'log.list', target: { type: 'api_keys', id: tenantOf(request) } });
      const owner = await deps.tenant(tenantOf(request));
      const { sites } = callerOf(request);
      const keys = (await owner?.ask((database) => listApiKeys(database, behind, sites, limit + 1))) ?? [];
      const page = keys.slice(0, limit);
      const now = wallClock();
      return { items: page.map((key) => viewOf(key, now)), next: keys.length > limit ? cursorOf(page.at(-1)!) : null };
    });

    app.get('/v1/api-keys/:id', reading, async (request) => {
      const { id } = validatePath('readApiKey', request.params);
      validateQuery('readApiKey', request.query);
      leaveTrace(request, { action: 'log.read', target: { type: 'api_key', id } });
      const { key } = await find(deps, request, id);
      return viewOf(key, wallClock());
    });

    app.post('/v1/api-keys/:id/rotate', writing, async (request) => {
      const { id } = validatePath('rotateApiKey', request.params);
      validateQuery('rotateApiKey', request.query);
      const { overlapSeconds = OVERLAP_SECONDS } = readAsked<ApiKeyRotation>(deps.readJson, request, 'ApiKeyRotation');
      const { owner, key } = await find(deps, request, id);
      if (stateOf(key, wallClock()) !== 'active') throw ended();
      const { text, hash } = deps.newSecret(id);
      const trace = traceOf('rotated', id, { details: { name: key.name, overlapSeconds } });
      const rotated = await changeWithTrace(request, trace, async () => {
        try {
          const stored = await deps.rotate({ id, tenantId: owner.id, hash, overlapSeconds });
          if (stored === undefined) throw ended();
          return stored;
        } finally {
          onChanged(id);
        }
      });
      return { ...viewOf(rotated, wallClock()), key: text } satisfies ApiKeyWithText;
    });

    app.post('/v1/api-keys/:id/revoke', writing, async (request) => {
      const { id } = validatePath('revokeApiKey', request.params);
      validateQuery('revokeApiKey', request.query);
      const { reason } = readAsked<ApiKeyRevocation>(deps.readJson, request, 'ApiKeyRevocation');
      const { owner, key } = await find(deps, request, id);
      const trace = traceOf('revoked', id, { reason, details: { name: key.name } });
      const revoked = await changeWithTrace(request, trace, async () => {
        try {
          return await deps.revoke({ id, tenantId: owner.id, revokedBy: subjectOf(request) });
        } finally {
          onChanged(id);
        }
      });
      // It was revoked before, by whom and when it says.
      return viewOf(revoked ?? (await find(deps, request, id)).key, wallClock());
    });
  };
}

/** Another tenant's key, and one that is not within the caller's sites, is none. */
async function find(
  { tenant }: ApiKeyDeps,
  request: FastifyRequest,
  id: string,
): Promise<{ owner: Owner; key: ApiKey }> {
  const owner = await tenant(tenantOf(request));
  const key = await owner?.ask((database) => apiKeyById(database, id, callerOf(request).sites));
  if (owner === undefined || key === undefined) throw new Problem('not_found');
  return { owner, key };
}

/** Nobody makes a credential that reaches further than his own. */
function mustBeWithin(request: FastifyRequest, asked: ApiKeyRequest): void {
  const caller = callerOf(request);
  const errors = (['sites', 'categories'] as const).flatMap((field): FieldError[] => {
    const [own, wanted] = [caller[field], asked[field] as readonly string[] | undefined];
    if (own === undefined) return [];
    if (wanted === undefined) return [{ field, message: `must be named: your own credential is held to ${field}` }];
    return wanted.flatMap((one, n) =>
      own.includes(one) ? [] : [{ field: `${field}[${n}]`, message: `is not one of your own ${field}` }],
    );
  });
  if (errors.length > 0) throw new Problem('forbidden', { errors });
}

function expiryOf(text: string | undefined, now: number): Date {
  const end = addMonths(now, LIFETIME_MONTHS_MAX);
  const expiresAt = text === undefined ? addMonths(now, LIFETIME_MONTHS) : Date.parse(text);
  if (expiresAt > now && expiresAt <= end) return new Date(expiresAt);
  const message = `must be in the future, and ${formatInstant(end)} at the latest`;
  throw new Problem('invalid_request', { errors: [{ field: 'expiresAt', message }] });
}

function traceOf(what: string, id: string, more: Pick<Trace, 'reason' | 'details'>): Trace {
  const target = { type: 'api_key', id };
  return { category: 'security_event', action: `api_key.${what}`, severity: SEVERITY, target, ...more };
}

function stateOf({ revokedAt, expiresAt }: ApiKey, now: number): ApiKeyView['state'] {
  if (revokedAt !== null) return 'revoked';
  return now < expiresAt.getTime() ? 'active' : 'expired';
}

function ended(): Problem {
  return new Problem('key_ended', { detail: 'make another key' });
}

function viewOf(key: ApiKey, now: number): ApiKeyView {
  return {
    id: key.id,
    name: key.name,
    state: stateOf(key, now),
    categories: key.categories as ApiKeyView['categories'],
    sites: key.sites,
    createdAt: instantText(key.createdAt),
    createdBy: key.createdBy,
    expiresAt: instantText(key.expiresAt),
    rotatedAt: instantText(key.rotatedAt),
    previousUntil: instantText(key.previousUntil),
    revokedAt: instantText(key.revokedAt),
    revokedBy: key.revokedBy,
    lastUsedAt: instantText(key.lastUsedAt),
  };
}

/** Opaque to clients; it holds nothing but what the page's last item says, and carries no authority. */
function cursorOf({ createdAt, id }: ApiKey): string {
  return pageCursor(`v1 ${createdAt.getTime()} ${id}`);
}

function placeOf(cursor: string): { createdAt: Date; id: string } {
  const [, at, id] = readPageCursor(cursor, /^v1 (\d{1,14}) ([0-9a-f]{16})$/);
  return { createdAt: new Date(Number(at)), id: id! };
}
