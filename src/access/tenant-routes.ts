/**
 * `/v1/tenants`: opening, closing and reopening tenants, and what each may ask for. In the tenant `sealog` alone.
 *
 * Nothing is deleted: a closed tenant takes no more events, and what it has stays readable and provable. Each change stands in the
 * deployment's log and in the tenant's own before it is made; but a tenant that is opened has no log before.
 */

import type { FastifyInstance, FastifyRequest } from 'fastify';
import type { JsonObject } from '../chain/canonical.ts';
import { OWN_TENANT } from '../chain/category.ts';
import { Problem } from '../errors.ts';
import { validatePath, validateQuery } from '../http/api-schema.ts';
import type {
  Quota,
  QuotaRequest,
  TenantChange,
  TenantDetails,
  TenantRequest,
  Tenant as TenantView,
} from '../http/api-types.ts';
import { subjectOf } from '../http/caller.ts';
import { instantText } from '../http/instant-text.ts';
import { pageCursor, readPageCursor } from '../http/page-cursor.ts';
import { type ReadJson, readAsked } from '../http/read-asked.ts';
import { changeWithTrace, leaveTrace, type Trace } from '../http/trail.ts';
import type { Database } from '../store/database.ts';
import {
  changeTenant,
  DEFAULT_QUOTA,
  listTenants,
  makeTenant,
  type SettingRow,
  settingsOf,
  type TenantRow,
  type TenantSetting,
  tenantByName,
} from '../store/tenants.ts';

export interface TenantDeps {
  /** All tenants are read as the verifier, who sees them. */
  readonly database: Pick<Database, 'writer' | 'verifier'>;
  readonly readJson: ReadJson;
  /** Called with what was set, before the answer: what is remembered of the tenant holds no more. */
  readonly onChanged: (name: string, setting: TenantSetting) => void;
}

const PATH = '/v1/tenants';
/** Of a tenant: more than people change in its time. */
const HISTORY_MAX = 100;
/** A reason of 4096 characters. */
const BODY_BYTES_MAX = 32 * 1024;

export function tenantRoutes({ database, readJson, onChanged }: TenantDeps) {
  const { writer, verifier } = database;
  const reading = { config: { permission: 'tenants:read' } } as const;
  const body = { types: ['application/json'], limit: BODY_BYTES_MAX } as const;
  const writing = { config: { permission: 'tenants:write', body } } as const;

  async function find(name: string): Promise<TenantRow> {
    const found = await tenantByName(verifier, name);
    if (found === undefined) throw new Problem('not_found');
    return found;
  }

  /** Changes a tenant behind its entries: in the deployment's log, and in the tenant's own. */
  async function change(
    request: FastifyRequest,
    tenant: TenantRow,
    action: string,
    next: Pick<TenantSetting, 'state' | 'quota'>,
    reason: string | undefined,
  ): Promise<TenantView> {
    const trace = traceOf(action, tenant.name, reason, { before: settingView(tenant), after: settingView(next) });
    const set = async (): Promise<SettingRow> => {
      const by = subjectOf(request);
      const row = await changeTenant(writer, tenant.id, tenant.number, { ...next, by, reason });
      if (row !== undefined) return row;
      throw new Problem('busy', { detail: 'somebody else changed this tenant at the same time' });
    };
    const row = await changeWithTrace(request, trace, () =>
      tenant.name === OWN_TENANT ? set() : changeWithTrace(request, { ...trace, tenant: tenant.name }, set),
    );
    onChanged(tenant.name, row);
    return tenantView({ ...tenant, ...row });
  }

  return async function tenants(app: FastifyInstance): Promise<void> {
    app.get(PATH, reading, async (request) => {
      const { limit, cursor } = validateQuery('listTenants', request.query);
      const behind = cursor === undefined ? undefined : nameOf(cursor);
      leaveTrace(request, { action: 'log.list', target: { type: 'tenants', id: OWN_TENANT } });
      const rows = await listTenants(verifier, behind, limit + 1);
      const page = rows.slice(0, limit);
      return { items: page.map(tenantView), next: rows.length > limit ? cursorOf(page.at(-1)!.name) : null };
    });

    app.get(`${PATH}/:name`, reading, async (request): Promise<TenantDetails> => {
      const { name } = validatePath('readTenant', request.params);
      validateQuery('readTenant', request.query);
      leaveTrace(request, { action: 'log.read', target: { type: 'tenant', id: name } });
      const tenant = await find(name);
      const history = await settingsOf(verifier, tenant.id, HISTORY_MAX);
      return { ...tenantView(tenant), history: history.map(changeView) };
    });

    app.post(PATH, writing, async (request, reply) => {
      validateQuery('openTenant', request.query);
      const { name, quota: limits = {}, reason } = readAsked<TenantRequest>(readJson, request, 'TenantRequest');
      const quota = { ...DEFAULT_QUOTA, ...limits };
      const setting = { state: 'open', quota, by: subjectOf(request), reason } as const;
      if (name === OWN_TENANT || (await tenantByName(verifier, name)) !== undefined) throw new Problem('exists');
      const trace = traceOf('tenant.opened', name, reason, { before: null, after: settingView(setting) });
      const made = await changeWithTrace(request, trace, async () => {
        const row = await makeTenant(writer, name, setting);
        if (row === undefined) throw new Problem('exists');
        return row;
      });
      onChanged(name, made);
      // Its own log begins with it.
      await leaveTrace(request, { ...trace, tenant: name });
      return reply.code(201).header('location', `${PATH}/${name}`).send(tenantView(made));
    });

    app.post(`${PATH}/:name/close`, writing, async (request) => {
      const { name } = validatePath('closeTenant', request.params);
      validateQuery('closeTenant', request.query);
      const tenant = await find(name);
      const { reason } = readAsked<TenantChange>(readJson, request, 'TenantChange');
      if (name === OWN_TENANT) throw new Problem('invalid_request', { errors: [NEVER_CLOSED] });
      return change(request, tenant, 'tenant.closed', { state: 'closed', quota: tenant.quota }, reason);
    });

    app.post(`${PATH}/:name/reopen`, writing, async (request) => {
      const { name } = validatePath('reopenTenant', request.params);
      validateQuery('reopenTenant', request.query);
      const tenant = await find(name);
      const { reason } = readAsked<TenantChange>(readJson, request, 'TenantChange');
      return change(request, tenant, 'tenant.reopened', { state: 'open', quota: tenant.quota }, reason);
    });

    app.put(`${PATH}/:name/quota`, writing, async (request) => {
      const { name } = validatePath('setTenantQuota', request.params);
      validateQuery('setTenantQuota', request.query);
      const tenant = await find(name);
      const { reason, ...limits } = readAsked<QuotaRequest & { readonly reason?: string }>(
        readJson,
        request,
        'QuotaRequest',
      );
      const quota = { ...DEFAULT_QUOTA, ...limits };
      return change(request, tenant, 'tenant.quota_changed', { state: tenant.state, quota }, reason);
    });
  };
}

const NEVER_CLOSED = { field: 'name', message: 'must be another: sealog is the deployment itself' };

function traceOf(action: string, name: string, reason: string | undefined, changes: JsonObject): Trace {
  return { action, category: 'log_administration', target: { type: 'tenant', id: name }, reason, changes };
}

function settingView({ state, quota }: Pick<TenantSetting, 'state' | 'quota'>): {
  state: 'open' | 'closed';
  quota: Quota;
} {
  return { state, quota: { ...quota } };
}

function tenantView(tenant: TenantRow): TenantView {
  return {
    name: tenant.name,
    createdAt: instantText(tenant.createdAt),
    ...settingView(tenant),
    changedAt: tenant.at === null ? null : instantText(tenant.at),
    changedBy: tenant.by,
    reason: tenant.reason,
  };
}

function changeView(row: SettingRow): TenantDetails['history'][number] {
  return { ...settingView(row), at: instantText(row.at!), by: row.by!, reason: row.reason };
}

/** Opaque to clients; it carries no authority, since whoever may list tenants may list them all. */
function cursorOf(name: string): string {
  return pageCursor(`v1 ${name}`);
}

function nameOf(cursor: string): string {
  return readPageCursor(cursor, /^v1 ([a-z0-9][a-z0-9-]{0,62})$/)[1]!;
}
