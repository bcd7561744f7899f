/** The real application on a database whose clock is simulated, with a witness that states simulated times, reached over HTTP. */
import assert from 'node:assert/strict';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import pg from 'pg';
import { pino } from 'pino';
import { type App, createApp } from '../src/app.ts';
import type { Role } from '../src/auth/roles.ts';
import { generateSecret, signToken, type TokenOptions } from '../src/auth/tokens.ts';
import { type Config, readConfig } from '../src/config.ts';
import { SigningKeys } from '../src/signer/seeds.ts';
import type { Logins } from '../src/store/database.ts';
import { type LoginRoles, migrate } from '../src/store/migrate.ts';
import { startWitness, type TestWitness } from '../test/support/witness.ts';
import { SimulatedClock } from './clock.ts';

/** An empty database of its own. */
export interface Place {
  readonly superuser: pg.ClientConfig;
  readonly connection: pg.ClientConfig;
  readonly roles: string | LoginRoles;
  readonly logins?: Logins;
  /** An empty folder, for keys. */
  readonly folder: string;
}

export interface Answer {
  readonly status: number;
  readonly bytes: Uint8Array;
  // biome-ignore lint/suspicious/noExplicitAny: answers of every shape
  readonly body: any;
}

/** Whoever asks: a role and a name, of a tenant. */
export type Asker = readonly [role: Role, subject: string, tenant: string];

export const ORIGIN = 'simulated.example';
const WAIT_MAX_MS = 60_000;

export class SimulatedService {
  readonly clock: SimulatedClock;
  readonly pool: pg.Pool;
  readonly config: Config;
  readonly witness: TestWitness | undefined;
  readonly #place: Place;
  readonly #tokens = new Map<string, Promise<string>>();
  #app: App | undefined;
  #url = '';

  private constructor(place: Place, clock: SimulatedClock, config: Config, witness: TestWitness | undefined) {
    this.#place = place;
    this.clock = clock;
    this.config = config;
    this.witness = witness;
    this.pool = new pg.Pool({ ...place.superuser, max: 2, allowExitOnIdle: true });
    this.pool.on('error', () => {});
  }

  static async open(
    place: Place,
    { at, floors, outside }: { at: number; floors: { readonly [category: string]: number }; outside: boolean },
  ): Promise<SimulatedService> {
    const witness = outside ? await startWitness() : undefined;
    const clock = await SimulatedClock.takeOver(place.superuser, at, (aheadMs) => {
      if (witness !== undefined) witness.clockAheadS = Math.floor(aheadMs / 1000);
    });
    await migrate(place.superuser, place.roles);
    const anchors = join(place.folder, 'anchors.json');
    await mkdir(join(place.folder, 'keys'), { recursive: true });
    if (witness !== undefined) {
      const anchor = { name: 'w', type: 'witness', url: witness.url, vkey: witness.vkey, everySeconds: 1 };
      await writeFile(anchors, JSON.stringify({ anchors: [anchor] }));
    }
    const config = readConfig({
      ...{
        DATABASE_URL: 'postgresql://simulated',
        SEALOG_ORIGIN: ORIGIN,
        SEALOG_PORT: '0',
        SEALOG_LOG_LEVEL: 'silent',
      },
      SEALOG_MASTER_KEY: `file:${join(place.folder, 'keys')}`,
      SEALOG_SIGNER_DIR: join(place.folder, 'signer'),
      ...{ SEALOG_CHECKPOINT_MS: '100', SEALOG_ANCHOR_SECONDS: '1', SEALOG_JWT_SECRET: generateSecret() },
      // Few events come at once, and each start costs the threads' start.
      SEALOG_INGEST_THREADS: '1',
      SEALOG_RETENTION_FLOORS: Object.entries(floors)
        .map(([category, months]) => `${category}=${months}`)
        .join(','),
      SEALOG_ALLOW_ADDRESSES: '127.0.0.1/32',
      ...(outside ? { SEALOG_ANCHORS_FILE: anchors } : {}),
    });
    const service = new SimulatedService(place, clock, config, witness);
    await service.start();
    return service;
  }

  get app(): App {
    assert(this.#app !== undefined, 'the service runs');
    return this.#app;
  }

  async start(): Promise<void> {
    const { connection, logins } = this.#place;
    const { config, clock, witness } = this;
    this.#app = await createApp({
      ...{ config, connection, tokens: this.#tokenOptions, log: pino({ level: 'silent' }) },
      ...(logins === undefined ? {} : { logins }),
      ...{ wallClock: clock.wall, monotonic: clock.monotonic },
      // What goes by schedule would go at times that no plan knows.
      ...{ verification: { scrubber: false }, exporting: false, pruning: false },
    });
    await this.#app.server.listen({ host: '127.0.0.1', port: 0 });
    const address = this.#app.server.server.address();
    assert(address !== null && typeof address === 'object', 'it listens');
    this.#url = `http://127.0.0.1:${address.port}`;
    if (witness === undefined) return;
    const seed = await this.until('the signer has made its seed', () =>
      readFile(join(config.signerDir!, 'seed-0001'), 'utf8').catch(() => undefined),
    );
    const keys = new SigningKeys(Buffer.from(seed.trim(), 'hex'));
    witness.know(keys.signer(`${ORIGIN}/sealog/anchor`).vkey);
  }

  /** As by an operator, between two months: nothing that a replica remembers may matter. */
  async restart(): Promise<void> {
    await this.app.close();
    await this.start();
  }

  async stop(): Promise<void> {
    await this.#app?.close();
    await this.witness?.close();
    await this.pool.end();
    await this.clock.close();
  }

  async ask([role, subject, tenant]: Asker, method: string, path: string, body?: unknown): Promise<Answer> {
    const response = await fetch(`${this.#url}${path}`, {
      method,
      headers: {
        authorization: `Bearer ${await this.#token(role, subject, tenant)}`,
        ...(body === undefined ? {} : { 'content-type': 'application/json' }),
      },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    });
    const bytes = new Uint8Array(await response.arrayBuffer());
    const isJson = /json/.test(response.headers.get('content-type') ?? '');
    return { status: response.status, bytes, body: isJson ? JSON.parse(Buffer.from(bytes).toString()) : undefined };
  }

  /** Asks, again where nothing was stored, as clients do; throws where the answer is another than it should be. */
  async must(status: number, asker: Asker, method: string, path: string, body?: unknown): Promise<Answer> {
    const answer = await this.until(`an answer to ${method} ${path}`, async () => {
      const one = await this.ask(asker, method, path, body);
      return one.status === 503 ? undefined : one;
    });
    if (answer.status !== status)
      throw new Error(`${method} ${path} answered ${answer.status}: ${JSON.stringify(answer.body)}`);
    return answer;
  }

  /** Looks until there is something. */
  async until<T>(what: string, look: () => Promise<T | undefined>): Promise<T> {
    const end = performance.now() + WAIT_MAX_MS;
    for (;;) {
      const found = await look();
      if (found !== undefined) return found;
      if (performance.now() > end) throw new Error(`not within ${WAIT_MAX_MS} ms: ${what}`);
      await delay(30);
    }
  }

  async untilSigned(): Promise<void> {
    await this.until('everything is signed', async () => {
      const { rows } = await this.pool.query(
        `SELECT FROM sealog.stream AS s LEFT JOIN sealog.checkpoint AS c ON c.stream = s.id
         WHERE s.size > 0 AND s.category <> 'anchor' AND c.size IS DISTINCT FROM s.size`,
      );
      return rows.length === 0 ? true : undefined;
    });
  }

  get #tokenOptions(): TokenOptions {
    return { ...this.config.jwt, secret: this.config.jwt.secret! };
  }

  #token(role: Role, subject: string, tenant: string): Promise<string> {
    const key = `${role} ${subject} ${tenant}`;
    const made =
      this.#tokens.get(key) ?? signToken(this.#tokenOptions, { tenant, roles: [role], subject, ttlSeconds: 3600 });
    this.#tokens.set(key, made);
    return made;
  }
}
