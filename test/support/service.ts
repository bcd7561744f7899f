/**
 * A running service for tests: the real application on a database and in a key folder of its own, reached over a socket.
 *
 * `checkLog()` belongs at the end of every scenario: it verifies all streams from the tables up.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { Agent, request as httpRequest, type IncomingHttpHeaders } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type pg from 'pg';
import { type Logger, pino } from 'pino';
import { expect } from 'vitest';
import { type App, type AppOptions, createApp, type VerificationOptions } from '../../src/app.ts';
import type { Role } from '../../src/auth/roles.ts';
import { generateSecret, signToken, type TokenOptions } from '../../src/auth/tokens.ts';
import { type Config, readConfig } from '../../src/config.ts';
import { fileMonthKeys } from '../../src/keys/file-month-keys.ts';
import { Keyring } from '../../src/keys/keyring.ts';
import { keyById } from '../../src/store/data-keys.ts';
import { type Logins, openDatabase } from '../../src/store/database.ts';
import { migrate } from '../../src/store/migrate.ts';
import { listStreams } from '../../src/store/streams.ts';
import { orphanedStreams, type SourceKeys, verifySource } from '../../src/store/verify-source.ts';
import { orphanReport, type StreamReport, type VerifyOptions, verifyStream } from '../../src/verify/verify-stream.ts';
import { adminPool, createDatabase, createLogins, type TestDatabase } from './postgres.ts';

export interface ServiceOptions {
  readonly limits?: Partial<Config['limits']>;
  readonly repeatDays?: number;
  readonly makeTenants?: boolean;
  readonly wallClock?: () => number;
  /** What steps of the wall clock are held to. */
  readonly monotonic?: () => number;
  /** An empty one, in place of one that has the schema on the run's server. */
  readonly database?: TestDatabase;
  readonly log?: Logger;
  /** Settings besides, or instead of, those that tests have; undefined = not set. */
  readonly environment?: Readonly<Record<string, string | undefined>>;
  /** There is no scrubber unless this asks for one. */
  readonly verification?: VerificationOptions;
  /** Sinks are not followed unless this asks for it. */
  readonly exporting?: AppOptions['exporting'];
  /** Nothing is pruned by schedule unless this asks for it. */
  readonly pruning?: AppOptions['pruning'];
  /** Whether it tells of its start and stop, as `sealog serve` does. */
  readonly tellsStart?: true;
  /** How long refused calls are counted before they are told; a minute unless said otherwise. */
  readonly refusalWindowMs?: number;
  /** Disks are not watched unless this asks for it: how full this machine's is would be in the log. */
  readonly disks?: NonNullable<AppOptions['disks']>;
  /** false: the application's own filter between tenants is taken away. */
  readonly tenantFilter?: false;
  /** Each role of the application has a login of its own. */
  readonly ownLogins?: true;
  /** The clock that opened keys age by, and how often uses of month keys are told. */
  readonly keyTiming?: AppOptions['keyTiming'];
  /** Another service whose database, month keys and token secret this one shares, as a replica or as the same service started again. */
  readonly beside?: TestService;
}

export interface RequestOptions {
  /** Default: tenant `acme`, a service for `post` and an auditor for `get`. `null` sends none. */
  readonly token?: string | null;
  readonly headers?: Readonly<Record<string, string>>;
}

export interface Answer {
  readonly status: number;
  readonly headers: IncomingHttpHeaders;
  readonly text: string;
  /** The text parsed as JSON; undefined where it is empty. */
  // biome-ignore lint/suspicious/noExplicitAny: tests look into answers of every shape
  readonly body: any;
}

export interface TestService {
  /** Without a slash at the end. */
  readonly url: string;
  readonly port: number;
  readonly app: App;
  readonly config: Config;
  readonly database: TestDatabase;
  readonly tokens: TokenOptions;
  /** What a `sealog` command needs to work on the same database and keys. */
  readonly environment: Readonly<Record<string, string>>;
  /** Where each role has one of its own (`ownLogins`). */
  readonly logins: Awaited<ReturnType<typeof createLogins>> | undefined;
  /** The superuser: the adversary, or somebody who wants to know. */
  readonly adminPool: pg.Pool;
  token(role: Role | readonly Role[], tenant?: string): Promise<string>;
  /** Sends a string or bytes as they are and anything else as JSON; `content-type` is `application/json` unless `headers` says otherwise. */
  post(path: string, body: unknown, options?: RequestOptions): Promise<Answer>;
  get(path: string, options?: RequestOptions): Promise<Answer>;
  /** Verifies every stream, with keys read afresh. Does not judge. */
  verify(options?: VerifyOptions): Promise<StreamReport[]>;
  /** Verifies every stream and fails unless all are intact. */
  checkLog(): Promise<StreamReport[]>;
  /** Stops the service, and drops its database and keys unless they are another's. May be called twice. */
  stop(): Promise<void>;
}

const silent = pino({ level: 'silent' });

export async function startService(options: ServiceOptions = {}): Promise<TestService> {
  const { beside } = options;
  const database = options.database ?? beside?.database ?? (await createDatabase('migrated'));
  const folder = beside === undefined ? await mkdtemp(join(tmpdir(), 'sealog-test-keys-')) : undefined;
  const undo: (() => Promise<unknown>)[] = [];
  if (folder !== undefined)
    undo.push(
      () => rm(folder, { recursive: true, force: true }),
      () => database.drop(),
    );
  const stop = async (): Promise<void> => {
    while (undo.length > 0) await undo.pop()!();
  };
  try {
    const logins = options.ownLogins === undefined ? undefined : await createLogins(database);
    if (beside === undefined && (logins !== undefined || options.database !== undefined))
      await migrate(
        database.adminConfig,
        logins === undefined
          ? database.appRole
          : {
              writer: database.appRole,
              reader: logins.reader.user,
              verifier: logins.verifier.user,
              signer: logins.signer.user,
            },
      );
    const usual = beside?.environment ?? {
      DATABASE_URL: database.appUrl,
      SEALOG_ORIGIN: 'log.example',
      SEALOG_MASTER_KEY: `file:${folder}`,
      SEALOG_SIGNER_DIR: join(folder!, 'signer'),
      SEALOG_CHECKPOINT_MS: '100',
      SEALOG_JWT_SECRET: generateSecret(),
      SEALOG_LOG_LEVEL: 'silent',
    };
    const environment = Object.fromEntries(
      Object.entries({ ...usual, ...options.environment }).filter(
        (one): one is [string, string] => one[1] !== undefined,
      ),
    );
    const read = readConfig(environment);
    const config: Config = {
      ...read,
      port: 0,
      limits: { ...read.limits, ...options.limits },
      repeatDays: options.repeatDays ?? read.repeatDays,
      makeTenants: options.makeTenants ?? read.makeTenants,
    };
    const tokens: TokenOptions = { ...config.jwt, secret: config.jwt.secret! };
    const app = await createApp({
      config,
      connection: database.appConfig,
      ...(logins === undefined ? {} : { logins }),
      tokens,
      log: options.log ?? silent,
      verification: { scrubber: false, ...options.verification },
      exporting: options.exporting ?? false,
      pruning: options.pruning ?? false,
      ...(options.wallClock === undefined ? {} : { wallClock: options.wallClock }),
      ...(options.monotonic === undefined ? {} : { monotonic: options.monotonic }),
      ...(options.refusalWindowMs === undefined ? {} : { refusalWindowMs: options.refusalWindowMs }),
      keyTiming: options.keyTiming,
      disks: options.disks ?? false,
      ...(options.tenantFilter === undefined ? {} : { tenantFilter: options.tenantFilter }),
    });
    undo.push(() => app.close());
    await app.server.listen({ host: config.host, port: 0 });
    const address = app.server.server.address();
    if (address === null || typeof address === 'string') throw new Error('no port');
    const { port } = address;
    // A database that is kept from appending does not keep the test.
    if (options.tellsStart === true)
      await Promise.race([app.tellStart(), new Promise((resolve) => setTimeout(resolve, 1000).unref())]);

    const pool = adminPool(database.adminConfig, { max: 4 });
    undo.push(() => pool.end());
    const agent = new Agent({ keepAlive: true });
    undo.push(async () => agent.destroy());

    const signed = new Map<string, Promise<string>>();
    const token = (role: Role | readonly Role[], tenant = 'acme'): Promise<string> => {
      const roles = [role].flat() as Role[];
      const key = `${tenant} ${roles}`;
      const made =
        signed.get(key) ?? signToken(tokens, { tenant, roles, subject: `test-${roles[0]}`, ttlSeconds: 3600 });
      signed.set(key, made);
      return made;
    };
    const send = async (
      method: string,
      path: string,
      role: Role,
      body: Uint8Array | string | undefined,
      { token: given, headers = {} }: RequestOptions,
    ): Promise<Answer> => {
      const bearer = given === undefined ? await token(role) : given;
      return ask(agent, port, method, path, body, {
        ...(bearer === null ? {} : { authorization: `Bearer ${bearer}` }),
        ...(body === undefined ? {} : { 'content-type': 'application/json' }),
        ...headers,
      });
    };
    const verify = (verifyOptions: VerifyOptions = {}) =>
      verifyLog(database, config.monthKeysDir, verifyOptions, logins);

    return {
      url: `http://127.0.0.1:${port}`,
      port,
      app,
      config,
      database,
      tokens,
      environment,
      logins,
      adminPool: pool,
      token,
      post: (path, body, given = {}) =>
        send(
          'POST',
          path,
          'service',
          typeof body === 'string' || body instanceof Uint8Array ? body : JSON.stringify(body),
          given,
        ),
      get: (path, given = {}) => send('GET', path, 'auditor', undefined, given),
      verify,
      async checkLog() {
        const reports = await verify();
        expect(reports.filter((report) => report.verdict !== 'intact')).toEqual([]);
        return reports;
      },
      stop,
    };
  } catch (error) {
    await stop();
    throw error;
  }
}

/** Of what a search or an event gave, what clients sent: reading leaves entries of the log's own. */
// biome-ignore lint/suspicious/noExplicitAny: items of every shape
export function withoutTrail(items: readonly any[]): any[] {
  return items.filter((item) => item.source.service !== 'sealog');
}

/** Verifies all streams as `sealog verify` does: over the verifier's role, with keys from a folder of month keys. */
export async function verifyLog(
  database: TestDatabase,
  monthKeysDir: string,
  options: VerifyOptions = {},
  logins?: Logins,
): Promise<StreamReport[]> {
  const opened = openDatabase({ connection: database.appConfig, logins, readersMax: 1, log: silent });
  try {
    const keys: SourceKeys = new Keyring(fileMonthKeys(monthKeysDir), {
      findOrStore: () => Promise.reject(new Error('verification makes no keys')),
      byId: (id) => keyById(opened.verifier, id),
    });
    const reports: StreamReport[] = [];
    for (const stream of await listStreams(opened.verifier))
      reports.push(await verifyStream(verifySource(opened.verifier, keys, stream), options));
    reports.push(...(await orphanedStreams(opened.verifier)).map(orphanReport));
    return reports;
  } finally {
    await opened.close();
  }
}

function ask(
  agent: Agent,
  port: number,
  method: string,
  path: string,
  body: Uint8Array | string | undefined,
  headers: Readonly<Record<string, string>>,
): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const length = body === undefined ? {} : { 'content-length': Buffer.byteLength(body) };
    const asking = httpRequest({ agent, host: '127.0.0.1', port, method, path, headers: { ...length, ...headers } });
    asking.once('error', reject);
    asking.once('response', (response) => {
      const chunks: Buffer[] = [];
      response.on('data', (chunk: Buffer) => chunks.push(chunk));
      response.once('error', reject);
      response.once('end', () => {
        const text = Buffer.concat(chunks).toString();
        try {
          resolve({
            status: response.statusCode!,
            headers: response.headers,
            text,
            body: text === '' ? undefined : JSON.parse(text),
          });
        } catch (cause) {
          reject(new Error(`${method} ${path} answered ${response.statusCode} without JSON: ${text}`, { cause }));
        }
      });
    });
    asking.end(body);
  });
}
