/** A service under measurement with everything that measures it: its database, a database for the baselines, and the load clients. */
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Client as DatabaseClient } from 'pg';
import { readEmbeddedConnection } from '../src/store/embedded-postgres.ts';
import { type BaselineRequest, type BaselineResult, type Connection, createTables, openClient } from './baselines.ts';
import { type Client, startClient } from './client-process.ts';
import type { EventSource } from './corpus.ts';
import type { Address, HttpRequest, HttpResult } from './http-load.ts';
import { countEntries, type Service, type Settings, startService } from './service.ts';

const BASELINE_DATABASE = 'sealog_bench';

export type LoadClient = Client<HttpRequest, HttpResult>;
export type PlainClient = Client<BaselineRequest, BaselineResult>;

export interface Workbench {
  readonly service: Service;
  readonly dataDir: string;
  readonly databasePid: number;
  /** The service's database, as its superuser. */
  readonly database: DatabaseClient;
  /** The baselines' database on the same server. */
  readonly baselines: Connection;
  /** The load client of the service, for the tenant `bench`, and that of the baselines: both with the events, started when first asked for. */
  load(): Promise<LoadClient>;
  plain(): Promise<PlainClient>;
  /** Load clients with other events, as other tenants, or of another replica; they end with the rest. */
  loadOf(events: EventSource, tokens: readonly string[], address?: Address): Promise<LoadClient>;
  plainOf(events: EventSource): Promise<PlainClient>;
  /** What the service has acknowledged to `bench` so far. */
  acknowledged: number;
  /** Ends everything. */
  close(): Promise<void>;
}

/** Starts a service on an empty folder. */
export async function openWorkbench(folder: string, events: EventSource, settings: Settings = {}): Promise<Workbench> {
  const endings: (() => Promise<void> | void)[] = [];
  const close = async (): Promise<void> => {
    for (const ending of endings.splice(0).reverse()) await ending();
  };
  try {
    const dataDir = join(folder, 'data');
    const service = await startService(dataDir, join(folder, 'service.log'), settings);
    endings.push(() => service.stop());
    const server = await readEmbeddedConnection(dataDir);
    if (server === undefined) throw new Error('the service is ready, but its embedded PostgreSQL was not found');
    endings.push(() => server.close());
    const database = await openClient(server.admin);
    endings.push(() => database.end());
    // As the service's own database is made, so that neither side sorts by dearer rules.
    await database.query(`CREATE DATABASE ${BASELINE_DATABASE} TEMPLATE template0 ENCODING 'UTF8' LOCALE 'C'`);
    const baselines = { ...server.admin, database: BASELINE_DATABASE };
    await createTables(baselines);

    const loadOf: Workbench['loadOf'] = async (events, tokens, address = service.address) => {
      const client: LoadClient = startClient(fileURLToPath(new URL('http-load.ts', import.meta.url)));
      endings.push(() => client.stop());
      await client.ask({ do: 'prepare', events, address, tokens });
      return client;
    };
    const plainOf: Workbench['plainOf'] = async (events) => {
      const client: PlainClient = startClient(fileURLToPath(new URL('baselines.ts', import.meta.url)));
      endings.push(() => client.stop());
      await client.ask({ do: 'prepare', events, connection: baselines });
      return client;
    };
    let load: Promise<LoadClient> | undefined;
    let plain: Promise<PlainClient> | undefined;
    return {
      ...{ service, dataDir, databasePid: server.pid, database, baselines, loadOf, plainOf, close },
      load: () => (load ??= service.token('service').then((token) => loadOf(events, [token]))),
      plain: () => (plain ??= plainOf(events)),
      acknowledged: 0,
    };
  } catch (error) {
    await close();
    throw error;
  }
}

/** Whatever the service acknowledged to `bench` is stored, once. */
export async function checkStored({ database, acknowledged }: Workbench): Promise<void> {
  const stored = await countEntries(database);
  if (stored !== acknowledged) throw new Error(`${acknowledged} events were acknowledged, ${stored} are stored`);
  console.log(`\nthe service's streams hold the ${stored} events that it acknowledged, no more and no less`);
}
