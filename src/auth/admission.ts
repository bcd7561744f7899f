/**
 * Who is let in beyond his permission: callers of a tenant that is there, that is open where they send events, and that asks for no more
 * than its quota. Asked before the body is read (access.ts).
 */
import type { FastifyRequest } from 'fastify';
import { OWN_TENANT } from '../chain/category.ts';
import { Problem } from '../errors.ts';
import { bodyOf } from '../http/body.ts';
import { type Caller, callerOf } from '../http/caller.ts';
import type { Quotas } from './quotas.ts';
import type { Permission } from './roles.ts';
import type { KnownTenant, TenantSettings } from './tenant-settings.ts';

export interface AdmissionOptions {
  readonly settings: TenantSettings;
  readonly quotas: Quotas;
  /** Whether a tenant is made by its first valid token. */
  readonly makeTenants: boolean;
}

/** Real audit events have 1.8 KB on average, and shrink 10 to 17 times. */
const EVENT_BYTES = 2048;
const GZIP_RATIO = 12;

interface Amounts {
  readonly events: number;
  readonly bytes: number;
}

export class Admission {
  readonly #options: AdmissionOptions;
  /** Of requests that paid for something else than their headers said. */
  readonly #paid = new WeakMap<FastifyRequest, Amounts>();

  constructor(options: AdmissionOptions) {
    this.#options = options;
  }

  /** Lets a request in, or throws (or rejects with) a Problem: `forbidden`, `tenant_closed`, `quota`, or `not_ready`. */
  admit(caller: Caller, permission: Permission, request: FastifyRequest): void | Promise<void> {
    const tenant = this.#options.settings.of(caller.tenant);
    if (tenant instanceof Promise) return tenant.then((known) => this.#decide(known, caller, permission, request));
    this.#decide(tenant, caller, permission, request);
  }

  /**
   * Lets a request in by what it brought, where its headers did not say how much that is: else several large bodies could come in at once as if
   * each were one event. Throws a Problem `quota`; it has paid nothing then.
   */
  weigh(request: FastifyRequest): void {
    const { settings, quotas } = this.#options;
    const caller = callerOf(request);
    const quota = settings.quotaOf(caller.tenant);
    const { 'content-length': length, 'content-encoding': coding } = request.headers;
    if (quota === undefined || (length !== undefined && coding === undefined)) return;
    const paid = declared(request);
    quotas.charge(caller, quota, -paid.events, -paid.bytes);
    this.#paid.set(request, { events: 0, bytes: 0 });
    const { length: bytes } = bodyOf(request);
    const brought = { events: eventsIn(bytes, EVENT_BYTES), bytes };
    quotas.takeEvents(caller, quota, brought.events, brought.bytes);
    this.#paid.set(request, brought);
  }

  /** Counts the events of a request that was let in, once their number is known, or that there is none, and its bytes. */
  charge(request: FastifyRequest, events: number | undefined): void {
    const { settings, quotas } = this.#options;
    const caller = callerOf(request);
    const quota = settings.quotaOf(caller.tenant);
    if (quota === undefined) return;
    const paid = this.#paid.get(request) ?? declared(request);
    quotas.charge(caller, quota, (events ?? paid.events) - paid.events, bodyOf(request).length - paid.bytes);
  }

  #decide(tenant: KnownTenant, caller: Caller, permission: Permission, request: FastifyRequest): void {
    const { quotas, makeTenants } = this.#options;
    if (!tenant.exists && !makeTenants && caller.tenant !== OWN_TENANT)
      throw new Problem('forbidden', { detail: 'this tenant has not been opened' });
    if (permission !== 'events:write') {
      quotas.takeRead(caller, tenant.quota);
      return;
    }
    if (tenant.isClosed) throw new Problem('tenant_closed');
    const { events, bytes } = declared(request);
    quotas.takeEvents(caller, tenant.quota, events, bytes);
  }
}

/** What a request says that it brings. Events are a guess: what matters is that several large batches are not let in for one event each. */
function declared({ headers, routeOptions }: FastifyRequest): Amounts {
  // Node has refused what is no plain decimal number. More than the route takes is not read (body.ts), and a header alone is no debt of years.
  const bytes = Math.min(Number(headers['content-length'] ?? 0), routeOptions.config.body?.limit ?? 0);
  return {
    events: eventsIn(bytes, headers['content-encoding'] === undefined ? EVENT_BYTES : EVENT_BYTES / GZIP_RATIO),
    bytes,
  };
}

function eventsIn(bytes: number, eventBytes: number): number {
  return Math.max(1, Math.floor(bytes / eventBytes));
}
