/** Tenants and streams by name, remembered: until the sequencer finds that an epoch was closed, or a policy changed. */
import type pg from 'pg';
import { type Category, OWN_TENANT } from '../chain/category.ts';
import type { StreamRef } from '../chain/entry.ts';
import { Problem } from '../errors.ts';
import { openStream, tenantId } from './streams.ts';

export interface DirectoryOptions {
  readonly writer: pg.Pool;
  /** Whether a tenant is made by its first valid token. */
  readonly makeTenants: boolean;
}

export class Directory {
  readonly #options: DirectoryOptions;
  readonly #tenants = new Map<string, number>();
  readonly #streams = new Map<string, StreamRef>();

  constructor(options: DirectoryOptions) {
    this.#options = options;
  }

  /** Returns a tenant's id, or undefined when there is none. */
  async tenant(name: string): Promise<number | undefined> {
    const known = this.#tenants.get(name);
    if (known !== undefined) return known;
    const id = await tenantId(this.#options.writer, name, false);
    if (id !== undefined) this.#tenants.set(name, id);
    return id;
  }

  /** The same as `open`, of what stands in the database now. */
  openAfresh(tenant: string, category: Category): Promise<StreamRef> {
    this.#streams.delete(`${tenant}/${category}`);
    return this.open(tenant, category);
  }

  /** Forgets streams of which something else is remembered than is so, and whose they are. */
  forget(streamIds: readonly number[]): void {
    for (const [key, stream] of this.#streams) {
      if (!streamIds.includes(stream.id)) continue;
      this.#streams.delete(key);
      this.#tenants.delete(key.slice(0, key.lastIndexOf('/')));
    }
  }

  /** Returns the stream that a tenant's new entries of a category go to; tenant and stream are made on first use. */
  async open(tenant: string, category: Category): Promise<StreamRef> {
    const key = `${tenant}/${category}`;
    const known = this.#streams.get(key);
    if (known !== undefined) return known;
    const { writer, makeTenants } = this.#options;
    const id = this.#tenants.get(tenant) ?? (await tenantId(writer, tenant, makeTenants || tenant === OWN_TENANT));
    if (id === undefined) throw new Problem('forbidden', { detail: 'this tenant has not been opened' });
    this.#tenants.set(tenant, id);
    const ref = await openStream(writer, { id, name: tenant }, category);
    this.#streams.set(key, ref);
    return ref;
  }
}
