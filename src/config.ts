/**
 * The configuration: read from the environment once, here and nowhere else, into one object. All problems are reported together,
 * and nothing is guessed: without `DATABASE_URL` everything that the embedded mode needs is made in the data folder; with it,
 * keys and secrets must be named.
 */
import { availableParallelism } from 'node:os';
import { join, resolve } from 'node:path';
import { SettingsError } from './errors.ts';
import { cidrProblem } from './http/address-guard.ts';

export interface Config {
  /** PostgreSQL's address; undefined = the embedded server in `dataDir`. */
  readonly databaseUrl: string | undefined;
  readonly dataDir: string;
  readonly host: string;
  /** 0 = any free port. */
  readonly port: number;
  /** The name in checkpoints, fixed at first start; undefined = what was fixed. */
  readonly origin: string | undefined;
  /** The folder of month keys (`SEALOG_MASTER_KEY=file:DIR`). */
  readonly monthKeysDir: string;
  readonly jwt: {
    /** Undefined in embedded mode: generated in the data folder. */
    readonly secret: string | undefined;
    readonly issuer: string;
    readonly audience: string;
    readonly rolesClaim: string;
    readonly tenantClaim: string;
  };
  /** Whether a tenant is made by its first valid token. */
  readonly makeTenants: boolean;
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
  /** The signer's folder; undefined = this replica does not sign. */
  readonly signerDir: string | undefined;
  /** How often what grew is signed. */
  readonly checkpointMs: number;
  /** How often there is a tick of the anchor stream, at most. */
  readonly anchorSeconds: number;
  /** Whether checkpoints, tiles and records of all streams are given to callers without a token. */
  readonly publicLogs: boolean;
  /** CIDRs of addresses that outgoing calls may go to though they are not public. */
  readonly allowAddresses: readonly string[];
  /** The file that names the outside anchors; undefined = none. */
  readonly anchorsFile: string | undefined;
  /** Within so many days everything stored is read and verified again. */
  readonly scrubDays: number;
  readonly logLevel: string;
}

type Environment = Readonly<Record<string, string | undefined>>;

const KiB = 1024;
const MiB = 1024 * KiB;

/** Every variable that Sealog reads; the table in docs/configuration.md is held to it by a test. */
export const VARIABLES = [
  'DATABASE_URL',
  'SEALOG_DATA_DIR',
  'SEALOG_HOST',
  'SEALOG_PORT',
  'SEALOG_ORIGIN',
  'SEALOG_MASTER_KEY',
  'SEALOG_JWT_SECRET',
  'SEALOG_JWT_ISSUER',
  'SEALOG_JWT_AUDIENCE',
  'SEALOG_JWT_ROLES_CLAIM',
  'SEALOG_JWT_TENANT_CLAIM',
  'SEALOG_TENANTS',
  'SEALOG_EVENT_BYTES_MAX',
  'SEALOG_BATCH_BYTES_MAX',
  'SEALOG_BATCH_EVENTS_MAX',
  'SEALOG_QUEUE_ENTRIES_MAX',
  'SEALOG_QUEUE_BYTES_MAX',
  'SEALOG_BODY_BUDGET_BYTES',
  'SEALOG_READERS_MAX',
  'SEALOG_INGEST_THREADS',
  'SEALOG_REPEAT_DAYS',
  'SEALOG_SIGNER_DIR',
  'SEALOG_CHECKPOINT_MS',
  'SEALOG_ANCHOR_SECONDS',
  'SEALOG_PUBLIC_LOGS',
  'SEALOG_ALLOW_ADDRESSES',
  'SEALOG_ANCHORS_FILE',
  'SEALOG_SCRUB_DAYS',
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

  // A misspelled setting would silently be no setting.
  for (const name of Object.keys(environment).sort()) {
    if (name.startsWith('SEALOG_') && !name.startsWith('SEALOG_TEST_') && !known.has(name))
      problems.push(`${name} is not a setting of Sealog: see docs/configuration.md`);
  }

  const databaseUrl = text('DATABASE_URL');
  if (databaseUrl !== undefined && !/^postgres(ql)?:\/\//.test(databaseUrl))
    problems.push('DATABASE_URL must begin with postgres:// or postgresql://');
  const dataDir = resolve(text('SEALOG_DATA_DIR') ?? 'data');

  const origin = text('SEALOG_ORIGIN');
  if (origin !== undefined && !/^[a-z0-9]([a-z0-9.:/_-]{0,200}[a-z0-9])?$/.test(origin)) {
    problems.push('SEALOG_ORIGIN must be a name such as audit.example.com: lower-case letters, digits and . : / _ -');
  }

  const masterKey = text('SEALOG_MASTER_KEY');
  if (masterKey !== undefined && !/^file:./.test(masterKey)) problems.push('SEALOG_MASTER_KEY must be file:DIR');
  if (masterKey === undefined && databaseUrl !== undefined) {
    problems.push(
      'SEALOG_MASTER_KEY must be set with DATABASE_URL: file:DIR, a folder for month keys outside the database and its backups',
    );
  }
  const secret = text('SEALOG_JWT_SECRET');
  if (secret === undefined && databaseUrl !== undefined)
    problems.push('SEALOG_JWT_SECRET must be set with DATABASE_URL: at least 32 random bytes');
  if (secret !== undefined && Buffer.byteLength(secret) < 32)
    problems.push('SEALOG_JWT_SECRET must have at least 32 bytes');

  const allowAddresses = (text('SEALOG_ALLOW_ADDRESSES')?.split(',') ?? []).map((cidr) => cidr.trim());
  for (const cidr of allowAddresses) {
    const problem = cidrProblem(cidr);
    if (problem !== undefined) problems.push(`SEALOG_ALLOW_ADDRESSES: ${JSON.stringify(cidr.slice(0, 50))} ${problem}`);
  }
  const anchorsFile = text('SEALOG_ANCHORS_FILE');
  const signerDir = text('SEALOG_SIGNER_DIR') ?? (databaseUrl === undefined ? join(dataDir, 'signer') : undefined);

  const config: Config = {
    databaseUrl,
    dataDir,
    host: text('SEALOG_HOST') ?? '127.0.0.1',
    port: integer('SEALOG_PORT', 8080, 0, 65_535),
    origin,
    monthKeysDir: masterKey === undefined ? join(dataDir, 'keys', 'months') : resolve(masterKey.slice('file:'.length)),
    jwt: {
      secret,
      issuer: text('SEALOG_JWT_ISSUER') ?? 'sealog',
      audience: text('SEALOG_JWT_AUDIENCE') ?? 'sealog',
      rolesClaim: text('SEALOG_JWT_ROLES_CLAIM') ?? 'roles',
      tenantClaim: text('SEALOG_JWT_TENANT_CLAIM') ?? 'tenant',
    },
    makeTenants: oneOf('SEALOG_TENANTS', ['open', 'closed'], 'open') === 'open',
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
    signerDir: signerDir === undefined ? undefined : resolve(signerDir),
    checkpointMs: integer('SEALOG_CHECKPOINT_MS', 1000, 50, 60_000),
    anchorSeconds: integer('SEALOG_ANCHOR_SECONDS', 60, 1, 3600),
    publicLogs: oneOf('SEALOG_PUBLIC_LOGS', ['0', '1'], '0') === '1',
    allowAddresses,
    anchorsFile: anchorsFile === undefined ? undefined : resolve(anchorsFile),
    scrubDays: integer('SEALOG_SCRUB_DAYS', 7, 1, 365),
    logLevel: oneOf('SEALOG_LOG_LEVEL', ['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent'], 'info'),
  };
  const { limits, jwt } = config;
  if (limits.eventBytesMax > limits.batchBytesMax)
    problems.push('SEALOG_EVENT_BYTES_MAX must not be more than SEALOG_BATCH_BYTES_MAX');
  // A compressed batch holds twice its size while its pieces are joined: with less it would never be taken.
  if (limits.bodyBudgetBytes < 3 * limits.batchBytesMax)
    problems.push('SEALOG_BODY_BUDGET_BYTES must be at least three times SEALOG_BATCH_BYTES_MAX');
  if (jwt.rolesClaim === jwt.tenantClaim)
    problems.push('SEALOG_JWT_ROLES_CLAIM and SEALOG_JWT_TENANT_CLAIM must be two claims');
  if (problems.length > 0) throw new SettingsError(problems);
  return config;
}

/** Returns `DATABASE_URL` alone, for `migrate`, which needs no other setting. */
export function readDatabaseUrl(environment: Environment): string | undefined {
  const url = environment['DATABASE_URL'];
  return url === undefined || url === '' ? undefined : url;
}
