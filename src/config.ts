/**
 * The configuration: read from the environment once, here and nowhere else, into one object. All problems are reported together,
 * and nothing is guessed: without `DATABASE_URL` everything that the embedded mode needs is made in the data folder; with it,
 * keys and secrets must be named.
 */
import { availableParallelism } from 'node:os';
import { join, resolve } from 'node:path';
import { ABSENT, claimProblems } from './auth/claims.ts';
import { keySetUrlProblem } from './auth/key-set.ts';
import { CLIENT_CATEGORIES, type ClientCategory } from './chain/category.ts';
import { parseInstant } from './chain/retain-until.ts';
import { SettingsError } from './errors.ts';
import { cidrProblem } from './http/address-guard.ts';
import { parseJsonObject } from './http/json-object.ts';
import { proxyProblem } from './http/trusted-proxies.ts';
import { type MasterKey, parseMasterKey } from './keys/master-key.ts';

export interface Config {
  /** PostgreSQL's address; undefined = the embedded server in `dataDir`. */
  readonly databaseUrl: string | undefined;
  /** The same database, as logins that serve one role each; undefined = `databaseUrl` serves it too. */
  readonly ownDatabaseUrls: {
    readonly reader: string | undefined;
    readonly verifier: string | undefined;
    readonly signer: string | undefined;
  };
  readonly dataDir: string;
  readonly host: string;
  /** 0 = any free port. */
  readonly port: number;
  /** TLS, served by this process; undefined = plain HTTP. */
  readonly tls:
    | {
        /** Files in PEM. */
        readonly cert: string;
        readonly key: string;
        /** Client certificates: who may issue them (PEM), and whose they are; undefined = none are asked for. */
        readonly clients: { readonly ca: string; readonly file: string } | undefined;
      }
    | undefined;
  /** CIDRs of the proxies whose `X-Forwarded-For` is believed. */
  readonly trustProxy: readonly string[];
  /** Where health and metrics are, when not on the main port. */
  readonly metrics: { readonly host: string; readonly port: number } | undefined;
  /** The name in checkpoints, fixed at first start; undefined = what was fixed. */
  readonly origin: string | undefined;
  /** Where month keys live. */
  readonly masterKey: MasterKey;
  /** Their folder; empty where a key service has them. */
  readonly monthKeysDir: string;
  /** How long an opened data key is used after the key service last opened it. */
  readonly keyCacheHours: number;
  /** How old a generation of month keys becomes; 0 = there is no next by itself. */
  readonly keyRotationDays: number;
  /** How long earlier generations stay after everything is wrapped by a later one; 0 = until their months are destroyed. */
  readonly keyRetireDays: number;
  readonly jwt: {
    /** Undefined with `jwksUrl`; else, in embedded mode: generated in the data folder. */
    readonly secret: string | undefined;
    /** Where the keys of the identity provider are. */
    readonly jwksUrl: string | undefined;
    readonly issuer: string;
    readonly audience: string;
    readonly rolesClaim: string;
    readonly tenantClaim: string;
    readonly sitesClaim: string;
    /** A value of that claim, or `absent`; undefined = every token lists sites. */
    readonly allSites: string | undefined;
    /** Claim's value → tenant, and role; undefined = as it is. */
    readonly tenantMap: ReadonlyMap<string, string> | undefined;
    readonly rolesMap: ReadonlyMap<string, string> | undefined;
  };
  /** Whether a tenant is made by its first valid token. */
  readonly makeTenants: boolean;
  /** Of a tenant that has none of its own, on this replica; 0 = no limit. */
  readonly quota: {
    readonly eventsPerSecond: number;
    readonly bytesPerSecond: number;
    readonly readsPerSecond: number;
  };
  readonly limits: {
    readonly eventBytesMax: number;
    readonly batchBytesMax: number;
    readonly batchEventsMax: number;
    readonly queueEntriesMax: number;
    readonly queueBytesMax: number;
    readonly bodyBudgetBytes: number;
    readonly readersMax: number;
  };
  /** Threads that work out batches beside the main thread. */
  readonly ingestThreads: number;
  /** How many days a repeated id finds its first receipt. */
  readonly repeatDays: number;
  /** Months below which no policy goes, where that is another than the category's default. */
  readonly retentionFloors: { readonly [category in ClientCategory]?: number };
  /** The signer's folder; undefined = this replica does not sign. */
  readonly signerDir: string | undefined;
  /** How often what grew is signed. */
  readonly checkpointMs: number;
  /** How often there is a tick of the anchor stream, at most. */
  readonly anchorSeconds: number;
  /** Whether checkpoints, tiles and records of all streams are given to callers without a token. */
  readonly publicLogs: boolean;
  /** Categories that the law forbids to erase from. */
  readonly legalDuty: readonly ClientCategory[];
  /** CIDRs of addresses that outgoing calls may go to though they are not public. */
  readonly allowAddresses: readonly string[];
  /** The file that names the outside anchors; undefined = none. */
  readonly anchorsFile: string | undefined;
  /** The file of sinks that the operator configures; undefined = none. */
  readonly sinksFile: string | undefined;
  /** Within so many days everything stored is read and verified again. */
  readonly scrubDays: number;
  /** Where what is pruned is archived before; undefined = nowhere. */
  readonly archiveDir: string | undefined;
  /** The day that somebody says it is: the first instant of it, UTC; undefined = nobody does. */
  readonly clockConfirmed: number | undefined;
  readonly logLevel: string;
}

type Environment = Readonly<Record<string, string | undefined>>;

const KiB = 1024;
const MiB = 1024 * KiB;
/** Of a map of claims. */
const MAP_ENTRIES_MAX = 1000;

/** Every variable that Sealog reads; the table in docs/configuration.md is held to it by a test. */
export const VARIABLES = [
  'DATABASE_URL',
  'SEALOG_READER_DATABASE_URL',
  'SEALOG_VERIFIER_DATABASE_URL',
  'SEALOG_SIGNER_DATABASE_URL',
  'SEALOG_DATA_DIR',
  'SEALOG_HOST',
  'SEALOG_PORT',
  'SEALOG_TLS_CERT',
  'SEALOG_TLS_KEY',
  'SEALOG_TLS_CLIENT_CA',
  'SEALOG_TLS_CLIENTS_FILE',
  'SEALOG_TRUST_PROXY',
  'SEALOG_METRICS_PORT',
  'SEALOG_METRICS_HOST',
  'SEALOG_ORIGIN',
  'SEALOG_MASTER_KEY',
  'SEALOG_MASTER_KEY_SECRET_FILE',
  'SEALOG_KEY_CACHE_HOURS',
  'SEALOG_KEY_ROTATION_DAYS',
  'SEALOG_KEY_RETIRE_DAYS',
  'SEALOG_JWT_SECRET',
  'SEALOG_JWT_JWKS_URL',
  'SEALOG_JWT_ISSUER',
  'SEALOG_JWT_AUDIENCE',
  'SEALOG_JWT_ROLES_CLAIM',
  'SEALOG_JWT_TENANT_CLAIM',
  'SEALOG_JWT_SITES_CLAIM',
  'SEALOG_JWT_ALL_SITES',
  'SEALOG_JWT_ROLES_MAP',
  'SEALOG_JWT_TENANT_MAP',
  'SEALOG_TENANTS',
  'SEALOG_QUOTA_EVENTS_PER_SECOND',
  'SEALOG_QUOTA_BYTES_PER_SECOND',
  'SEALOG_QUOTA_READS_PER_SECOND',
  'SEALOG_EVENT_BYTES_MAX',
  'SEALOG_BATCH_BYTES_MAX',
  'SEALOG_BATCH_EVENTS_MAX',
  'SEALOG_QUEUE_ENTRIES_MAX',
  'SEALOG_QUEUE_BYTES_MAX',
  'SEALOG_BODY_BUDGET_BYTES',
  'SEALOG_READERS_MAX',
  'SEALOG_INGEST_THREADS',
  'SEALOG_REPEAT_DAYS',
  'SEALOG_RETENTION_FLOORS',
  'SEALOG_LEGAL_DUTY',
  'SEALOG_SIGNER_DIR',
  'SEALOG_CHECKPOINT_MS',
  'SEALOG_ANCHOR_SECONDS',
  'SEALOG_PUBLIC_LOGS',
  'SEALOG_ALLOW_ADDRESSES',
  'SEALOG_ANCHORS_FILE',
  'SEALOG_SINKS_FILE',
  'SEALOG_SCRUB_DAYS',
  'SEALOG_ARCHIVE_DIR',
  'SEALOG_CLOCK_CONFIRMED',
  'SEALOG_LOG_LEVEL',
] as const;

/** Reads the configuration. Throws a SettingsError with every problem. */
export function readConfig(environment: Environment): Config {
  const problems: string[] = [];
  const known: ReadonlySet<string> = new Set(VARIABLES);
  const text = (name: (typeof VARIABLES)[number]): string | undefined => {
    const value = environment[name];
    return value === undefined || value === '' ? undefined : value;
  };
  const integer = (name: (typeof VARIABLES)[number], fallback: number, min: number, max: number): number => {
    const value = text(name);
    if (value === undefined) return fallback;
    const number = Number(value);
    if (/^\d+$/.test(value) && number >= min && number <= max) return number;
    problems.push(`${name} must be an integer from ${min} to ${max}`);
    return fallback;
  };
  const oneOf = (name: (typeof VARIABLES)[number], values: readonly string[], fallback: string): string => {
    const value = text(name) ?? fallback;
    if (!values.includes(value)) problems.push(`${name} must be one of ${values.join(', ')}`);
    return value;
  };

  const day = (name: (typeof VARIABLES)[number]): number | undefined => {
    const value = text(name);
    const instant = value === undefined ? undefined : parseInstant(`${value}T00:00:00.000Z`);
    if (value !== undefined && instant === undefined) problems.push(`${name} must be a date such as 2027-03-31`);
    return instant;
  };

  // A misspelled setting would silently be no setting.
  for (const name of Object.keys(environment).sort()) {
    if (name.startsWith('SEALOG_') && !name.startsWith('SEALOG_TEST_') && !known.has(name))
      problems.push(`${name} is not a setting of Sealog: see docs/configuration.md`);
  }

  const databaseUrlOf = (name: (typeof VARIABLES)[number]): string | undefined => {
    const value = text(name);
    if (value !== undefined && !/^postgres(ql)?:\/\//.test(value))
      problems.push(`${name} must begin with postgres:// or postgresql://`);
    if (value !== undefined && text('DATABASE_URL') === undefined)
      problems.push(`${name} needs DATABASE_URL: the embedded mode has its own logins`);
    return value;
  };
  const databaseUrl = databaseUrlOf('DATABASE_URL');
  const ownDatabaseUrls = {
    reader: databaseUrlOf('SEALOG_READER_DATABASE_URL'),
    verifier: databaseUrlOf('SEALOG_VERIFIER_DATABASE_URL'),
    signer: databaseUrlOf('SEALOG_SIGNER_DATABASE_URL'),
  };
  const dataDir = resolve(text('SEALOG_DATA_DIR') ?? 'data');

  const origin = text('SEALOG_ORIGIN');
  if (origin !== undefined && !/^[a-z0-9]([a-z0-9.:/_-]{0,200}[a-z0-9])?$/.test(origin)) {
    problems.push('SEALOG_ORIGIN must be a name such as audit.example.com: lower-case letters, digits and . : / _ -');
  }

  const masterKeyText = text('SEALOG_MASTER_KEY');
  let masterKey: MasterKey = { kind: 'file', folder: join(dataDir, 'keys', 'months') };
  if (masterKeyText !== undefined) {
    const parsed = parseMasterKey(masterKeyText, text('SEALOG_MASTER_KEY_SECRET_FILE'));
    if ('problems' in parsed) problems.push(...parsed.problems.map((problem) => `SEALOG_MASTER_KEY ${problem}`));
    else masterKey = parsed.masterKey;
  } else {
    if (text('SEALOG_MASTER_KEY_SECRET_FILE') !== undefined)
      problems.push('SEALOG_MASTER_KEY_SECRET_FILE needs SEALOG_MASTER_KEY, the key service that it is a secret of');
    if (databaseUrl !== undefined)
      problems.push(
        'SEALOG_MASTER_KEY must be set with DATABASE_URL: a key service, or file:DIR, a folder for month keys outside the database and its backups',
      );
  }
  const secret = text('SEALOG_JWT_SECRET');
  const jwksUrl = text('SEALOG_JWT_JWKS_URL');
  if (secret === undefined && jwksUrl === undefined && databaseUrl !== undefined) {
    problems.push(
      'SEALOG_JWT_SECRET must be set with DATABASE_URL: at least 32 random bytes; or else SEALOG_JWT_JWKS_URL, where the identity provider has its keys',
    );
  }
  if (secret !== undefined && jwksUrl !== undefined)
    problems.push('SEALOG_JWT_SECRET and SEALOG_JWT_JWKS_URL must not both be set: either makes tokens');
  if (secret !== undefined && Buffer.byteLength(secret) < 32)
    problems.push('SEALOG_JWT_SECRET must have at least 32 bytes');
  if (jwksUrl !== undefined) {
    const problem = keySetUrlProblem(jwksUrl);
    if (problem !== undefined) problems.push(`SEALOG_JWT_JWKS_URL ${problem}`);
    // What any provider's tokens say would be a guess.
    for (const name of ['SEALOG_JWT_ISSUER', 'SEALOG_JWT_AUDIENCE'] as const) {
      if (text(name) === undefined) problems.push(`${name} must be set with SEALOG_JWT_JWKS_URL`);
    }
  }
  const map = (name: (typeof VARIABLES)[number]): ReadonlyMap<string, string> | undefined => {
    const value = text(name);
    if (value === undefined) return undefined;
    const entries = Object.entries(parseJsonObject(Buffer.from(value)) ?? {});
    if (entries.length === 0 || entries.length > MAP_ENTRIES_MAX || !entries.every(isTextToText)) {
      problems.push(
        `${name} must be a JSON object of texts, such as {"Plant Managers":"plant_manager"}, no name twice`,
      );
      return undefined;
    }
    return new Map(entries.filter(isTextToText));
  };

  const cidrs = (name: (typeof VARIABLES)[number], problemOf: (cidr: string) => string | undefined): string[] => {
    const list = (text(name)?.split(',') ?? []).map((cidr) => cidr.trim());
    for (const cidr of list) {
      const problem = problemOf(cidr);
      if (problem !== undefined) problems.push(`${name}: ${JSON.stringify(cidr.slice(0, 50))} ${problem}`);
    }
    return list;
  };
  const floors: { [category in ClientCategory]?: number } = {};
  for (const one of text('SEALOG_RETENTION_FLOORS')?.split(',') ?? []) {
    const [, name, months] = /^([a-z_]+)=(\d{1,4})$/.exec(one.trim()) ?? [];
    const category = CLIENT_CATEGORIES.find((each) => each === name);
    if (category === undefined || Number(months) < 1 || Number(months) > 1200 || floors[category] !== undefined)
      problems.push(
        `SEALOG_RETENTION_FLOORS: ${JSON.stringify(one.slice(0, 50))} must be a category and 1 to 1200 months, such as data_access=6, each once`,
      );
    else floors[category] = Number(months);
  }
  const categories = (name: (typeof VARIABLES)[number]): ClientCategory[] => {
    const list = (text(name)?.split(',') ?? []).map((category) => category.trim());
    for (const one of list)
      if (!CLIENT_CATEGORIES.some((category) => category === one))
        problems.push(`${name}: ${JSON.stringify(one.slice(0, 50))} is none of ${CLIENT_CATEGORIES.join(', ')}`);
    return CLIENT_CATEGORIES.filter((category) => list.includes(category));
  };
  const anchorsFile = text('SEALOG_ANCHORS_FILE');
  const sinksFile = text('SEALOG_SINKS_FILE');
  const signerDir = text('SEALOG_SIGNER_DIR') ?? (databaseUrl === undefined ? join(dataDir, 'signer') : undefined);

  const together = (names: readonly (typeof VARIABLES)[number][], why: string): boolean => {
    const unset = names.filter((name) => text(name) === undefined);
    if (unset.length !== 0 && unset.length !== names.length)
      problems.push(`${unset.join(' and ')} must be set: ${why} (${names.join(', ')})`);
    return unset.length === 0;
  };
  const path = (name: (typeof VARIABLES)[number]): string => resolve(text(name) ?? '');
  const servesTls = together(['SEALOG_TLS_CERT', 'SEALOG_TLS_KEY'], 'a certificate is nothing without its key');
  const knowsClients = together(
    ['SEALOG_TLS_CLIENT_CA', 'SEALOG_TLS_CLIENTS_FILE'],
    'a client certificate needs who issues it and whose it is',
  );
  if (knowsClients && text('SEALOG_TLS_CERT') === undefined && text('SEALOG_TLS_KEY') === undefined)
    problems.push(
      'SEALOG_TLS_CLIENT_CA needs SEALOG_TLS_CERT and SEALOG_TLS_KEY: certificates are shown over TLS alone',
    );
  const clients = knowsClients
    ? { ca: path('SEALOG_TLS_CLIENT_CA'), file: path('SEALOG_TLS_CLIENTS_FILE') }
    : undefined;

  const host = text('SEALOG_HOST') ?? '127.0.0.1';
  const port = integer('SEALOG_PORT', 8080, 0, 65_535);
  const metricsHost = text('SEALOG_METRICS_HOST');
  const metrics =
    text('SEALOG_METRICS_PORT') === undefined
      ? undefined
      : { host: metricsHost ?? host, port: integer('SEALOG_METRICS_PORT', 0, 0, 65_535) };
  if (metricsHost !== undefined && metrics === undefined)
    problems.push('SEALOG_METRICS_HOST needs SEALOG_METRICS_PORT: without it metrics are on the main port');
  if (metrics !== undefined && metrics.port !== 0 && metrics.port === port && metrics.host === host)
    problems.push('SEALOG_METRICS_PORT must be another port than SEALOG_PORT');

  const config: Config = {
    databaseUrl,
    ownDatabaseUrls,
    dataDir,
    host,
    port,
    tls: servesTls ? { cert: path('SEALOG_TLS_CERT'), key: path('SEALOG_TLS_KEY'), clients } : undefined,
    trustProxy: cidrs('SEALOG_TRUST_PROXY', proxyProblem),
    metrics,
    origin,
    masterKey,
    monthKeysDir: masterKey.kind === 'file' ? masterKey.folder : '',
    keyCacheHours: integer('SEALOG_KEY_CACHE_HOURS', 24, 1, 168),
    keyRotationDays: integer('SEALOG_KEY_ROTATION_DAYS', 90, 0, 3660),
    keyRetireDays: integer('SEALOG_KEY_RETIRE_DAYS', 0, 0, 3660),
    jwt: {
      secret,
      jwksUrl,
      issuer: text('SEALOG_JWT_ISSUER') ?? 'sealog',
      audience: text('SEALOG_JWT_AUDIENCE') ?? 'sealog',
      rolesClaim: text('SEALOG_JWT_ROLES_CLAIM') ?? 'roles',
      tenantClaim: text('SEALOG_JWT_TENANT_CLAIM') ?? 'tenant',
      sitesClaim: text('SEALOG_JWT_SITES_CLAIM') ?? 'sites',
      // Where its name may be misspelled, that it is not there says nothing.
      allSites: text('SEALOG_JWT_ALL_SITES') ?? (text('SEALOG_JWT_SITES_CLAIM') === undefined ? ABSENT : undefined),
      tenantMap: map('SEALOG_JWT_TENANT_MAP'),
      rolesMap: map('SEALOG_JWT_ROLES_MAP'),
    },
    makeTenants: oneOf('SEALOG_TENANTS', ['open', 'closed'], 'open') === 'open',
    quota: {
      // What a tenant may store is between it and the operator, and how fast depends on the machine: no number would be right for all. That one
      // tenant keeps others waiting is prevented without it.
      eventsPerSecond: integer('SEALOG_QUOTA_EVENTS_PER_SECOND', 0, 0, 1_000_000_000),
      bytesPerSecond: integer('SEALOG_QUOTA_BYTES_PER_SECOND', 0, 0, 1_000_000_000_000),
      // Each read is an entry, too; about what a replica can answer if it does nothing else.
      readsPerSecond: integer('SEALOG_QUOTA_READS_PER_SECOND', 1000, 0, 1_000_000_000),
    },
    limits: {
      eventBytesMax: integer('SEALOG_EVENT_BYTES_MAX', 256 * KiB, KiB, 4 * MiB),
      batchBytesMax: integer('SEALOG_BATCH_BYTES_MAX', 16 * MiB, KiB, 64 * MiB),
      batchEventsMax: integer('SEALOG_BATCH_EVENTS_MAX', 10_000, 1, 100_000),
      // What may wait for its place: a few seconds of work at full speed.
      queueEntriesMax: integer('SEALOG_QUEUE_ENTRIES_MAX', 30_000, 1, 1_000_000),
      queueBytesMax: integer('SEALOG_QUEUE_BYTES_MAX', 64 * MiB, KiB, 4096 * MiB),
      bodyBudgetBytes: integer('SEALOG_BODY_BUDGET_BYTES', 192 * MiB, MiB, 8192 * MiB),
      readersMax: integer('SEALOG_READERS_MAX', 10, 1, 200),
    },
    // One a processor, but the database and the main thread need some too.
    ingestThreads: integer('SEALOG_INGEST_THREADS', Math.min(4, availableParallelism()), 1, 64),
    repeatDays: integer('SEALOG_REPEAT_DAYS', 30, 30, 366),
    retentionFloors: floors,
    legalDuty: categories('SEALOG_LEGAL_DUTY'),
    signerDir: signerDir === undefined ? undefined : resolve(signerDir),
    checkpointMs: integer('SEALOG_CHECKPOINT_MS', 1000, 50, 60_000),
    anchorSeconds: integer('SEALOG_ANCHOR_SECONDS', 60, 1, 3600),
    publicLogs: oneOf('SEALOG_PUBLIC_LOGS', ['0', '1'], '0') === '1',
    allowAddresses: cidrs('SEALOG_ALLOW_ADDRESSES', cidrProblem),
    anchorsFile: anchorsFile === undefined ? undefined : resolve(anchorsFile),
    sinksFile: sinksFile === undefined ? undefined : resolve(sinksFile),
    scrubDays: integer('SEALOG_SCRUB_DAYS', 7, 1, 365),
    clockConfirmed: day('SEALOG_CLOCK_CONFIRMED'),
    archiveDir: text('SEALOG_ARCHIVE_DIR') === undefined ? undefined : path('SEALOG_ARCHIVE_DIR'),
    logLevel: oneOf('SEALOG_LOG_LEVEL', ['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent'], 'info'),
  };
  const { limits, jwt } = config;
  if (limits.eventBytesMax > limits.batchBytesMax)
    problems.push('SEALOG_EVENT_BYTES_MAX must not be more than SEALOG_BATCH_BYTES_MAX');
  // A compressed batch holds twice its size while its pieces are joined: with less it would never be taken.
  if (limits.bodyBudgetBytes < 3 * limits.batchBytesMax)
    problems.push('SEALOG_BODY_BUDGET_BYTES must be at least three times SEALOG_BATCH_BYTES_MAX');
  problems.push(...claimProblems(jwt));
  if (problems.length > 0) throw new SettingsError(problems);
  return config;
}

function isTextToText(entry: [string, unknown]): entry is [string, string] {
  return entry[0] !== '' && typeof entry[1] === 'string';
}

/** Returns `DATABASE_URL` alone, for `migrate`, which needs no other setting. */
export function readDatabaseUrl(environment: Environment): string | undefined {
  const url = environment['DATABASE_URL'];
  return url === undefined || url === '' ? undefined : url;
}
