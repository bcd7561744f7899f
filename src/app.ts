/** Wires everything, once: the only place that knows all the parts. */
import type { FastifyInstance } from 'fastify';
import type pg from 'pg';
import type { Logger } from 'pino';
import { readAnchorsFile } from './anchor/anchors-file.ts';
import { type OutsideAnchors, startOutsideAnchors } from './anchor/outside-anchors.ts';
import { registerAccess } from './auth/access.ts';
import { type TokenOptions, tokenVerifier } from './auth/tokens.ts';
import { TICK_ACTION } from './chain/anchor-tick.ts';
import { OWN_TENANT } from './chain/category.ts';
import { ClockGuard } from './chain/clock-guard.ts';
import type { StreamRef } from './chain/entry.ts';
import { sealWith } from './chain/sealed-run.ts';
import { Sequencer } from './chain/sequencer.ts';
import type { Config } from './config.ts';
import { SettingsError } from './errors.ts';
import { healthRoutes } from './http/health.ts';
import { LabelledCounter, metricsRoutes } from './http/metrics.ts';
import { closeServer, createServer } from './http/server.ts';
import { serviceMetrics } from './http/service-metrics.ts';
import { registerTrail } from './http/trail.ts';
import { Appender } from './ingest/appender.ts';
import { BatchThreads } from './ingest/batch-threads.ts';
import { CheckpointWatch } from './ingest/checkpoint-watch.ts';
import type { OpenStream } from './ingest/events.ts';
import { readJson } from './ingest/json-reader.ts';
import { ownEvents } from './ingest/own-events.ts';
import { ingestRoutes } from './ingest/routes.ts';
import { fileMonthKeys } from './keys/file-month-keys.ts';
import { Keyring } from './keys/keyring.ts';
import { bundleRoutes } from './proof/bundle-routes.ts';
import { proofRoutes } from './proof/routes.ts';
import { readEntries } from './read/entries.ts';
import { findEntry } from './read/find-entry.ts';
import { readRoutes } from './read/routes.ts';
import { partitionMaker } from './retention/partitions.ts';
import { retentionMonths } from './retention/policy.ts';
import { signerKnowledge } from './signer/knowledge.ts';
import { Signer } from './signer/signer.ts';
import { appendStore } from './store/append.ts';
import { checkpointsByName, keyStatements } from './store/checkpoints.ts';
import { ensureDropMonth, findOrStoreKey, keyById } from './store/data-keys.ts';
import { type AsTenant, asTenant, type Database, databaseClock, openDatabase } from './store/database.ts';
import { fixOrigin } from './store/deployment.ts';
import { Directory } from './store/directory.ts';
import { checkSettings } from './store/settings-gate.ts';
import { SignerLease, signerRefusal } from './store/signer.ts';
import {
  beginScrub,
  entriesInScope,
  finishRun,
  releaseRun,
  requestJob,
  saveProgress,
  scrubState,
  takeRun,
} from './store/verifications.ts';
import { verificationRoutes } from './verification/routes.ts';
import type { LaneTiming, RunStore } from './verification/run-lane.ts';
import { Scrubber, type ScrubSettings } from './verification/scrubber.ts';
import type { Trust } from './verification/thread-task.ts';
import { verificationRunner } from './verification/verification-runner.ts';

export interface AppOptions {
  readonly config: Config;
  readonly connection: pg.ClientConfig;
  readonly tokens: TokenOptions;
  readonly log: Logger;
  /** For tests. */
  readonly wallClock?: () => number;
  /** For tests that end the process between two steps of signing. */
  readonly onSignerStep?: (step: string) => void;
  /** For tests that can not wait as long as the service does. */
  readonly verification?: VerificationOptions;
}

export interface VerificationOptions {
  /** `false` = none here. */
  readonly scrubber?: false | Partial<ScrubSettings>;
  readonly timing?: Partial<LaneTiming>;
  /** Of one processor, for jobs. */
  readonly share?: number;
}

export interface App {
  readonly server: FastifyInstance;
  readonly database: Database;
  readonly origin: string;
  /** Undefined where this replica does not sign. */
  readonly signer: Signer | undefined;
  /** Starts what the first requests would otherwise wait for. */
  warm(): void;
  /** Finishes what was taken, then lets go of the database. May be called twice. */
  close(): Promise<void>;
}

/** What the log's own entries call whoever a credential names. */
const ACTOR_TYPE = { token: 'user', api_key: 'api_key', certificate: 'service' } as const;

/** Requests under way get this long to finish when the service stops. */
const GRACE_MS = 3000;

/** `?wait=checkpoint` is answered without one after this time, which is shorter than a request's. */
const CHECKPOINT_WAIT_MAX_MS = 10_000;
const CHECKPOINT_LOOK_MS = 100;
const CHECKPOINT_WAITERS_MAX = 5000;

/** How long a verification waits for what was read to be anchored: two ticks, and the time that anchors take. */
const ANCHOR_WAIT_MAX_MS = 150_000;

/** Builds the service on a database that is there and migrated; it does not listen yet. Throws a SettingsError when it must not start. */
export async function createApp(options: AppOptions): Promise<App> {
  const { config, connection, tokens, log, wallClock = Date.now } = options;
  const database = openDatabase({ connection, readersMax: config.limits.readersMax, log });
  let started: Signer | undefined;
  try {
    const gate = await checkSettings(database.writer);
    if (gate.refusals.length > 0) throw new SettingsError(gate.refusals);
    for (const warning of gate.warnings) log.warn({ setting: warning }, 'database setting');
    const origin = await fixOrigin(database.writer, config.origin, config.databaseUrl === undefined);

    const partitions = partitionMaker({
      ensureDropMonth: (month) => ensureDropMonth(database.writer, month),
      wallClock,
      log,
    });
    await partitions.make();

    const keyring = new Keyring(fileMonthKeys(config.monthKeysDir), {
      findOrStore: (stream, dropMonth, make) => findOrStoreKey(database.writer, stream, dropMonth, make),
      byId: (id) => keyById(database.verifier, id),
    });
    const directory = new Directory({ writer: database.writer, makeTenants: config.makeTenants, retentionMonths });
    const clock = new ClockGuard({ wall: wallClock, monotonic: () => performance.now() });
    const sequencer = new Sequencer({
      store: appendStore(database),
      seal: sealWith((stream, dropMonth) => keyring.keysFor(stream, dropMonth)),
      clock,
      wallClock,
      repeatDays: config.repeatDays,
      queueEntriesMax: config.limits.queueEntriesMax,
      queueBytesMax: config.limits.queueBytesMax,
      onClosed: (streamIds) => directory.forget(streamIds),
      log,
    });
    const appendOwn = ownEvents({
      openStream: (tenant, category) => directory.open(tenant, category),
      append: (submission) => sequencer.append(submission),
      wallClock,
    });
    const signer =
      config.signerDir === undefined
        ? undefined
        : new Signer({
            folder: config.signerDir,
            origin,
            takeLease: () => SignerLease.take(connection),
            checkpointMs: config.checkpointMs,
            anchorMs: config.anchorSeconds * 1000,
            anchorTenant: async () => (await directory.open(OWN_TENANT, 'anchor')).tenantId,
            appendTick: async (id) => {
              await appendOwn(OWN_TENANT, 'anchor', { id, action: TICK_ACTION, outcome: 'success' });
            },
            tell: async (action, details) => {
              await appendOwn(OWN_TENANT, 'log_administration', { action, outcome: 'success', details });
            },
            wallClock,
            log,
            onStep: options.onSignerStep,
          });
    const checkpoints = new CheckpointWatch({
      find: (names) => checkpointsByName(database.verifier, names),
      everyMs: CHECKPOINT_LOOK_MS,
      waitMaxMs: CHECKPOINT_WAIT_MAX_MS,
      waitersMax: CHECKPOINT_WAITERS_MAX,
    });
    const asking = (tenantId: number): AsTenant => {
      return (work) => asTenant(database.reader, tenantId, work);
    };
    const openStream: OpenStream = (tenant, category) => directory.open(tenant, category);
    const entriesOf = (stream: StreamRef, seqs: readonly number[]) =>
      readEntries(asking(stream.tenantId), keyring, stream, seqs);
    const batches = new BatchThreads({
      threads: config.ingestThreads,
      limits: config.limits,
      openStream,
      keysFor: (stream, dropMonth) => keyring.keysFor(stream, dropMonth),
      append: (submission) => sequencer.append(submission),
      readEntries: entriesOf,
      log,
    });
    const appender = new Appender({
      append: (entries, atomic) => sequencer.append({ kind: 'open', entries, atomic }),
      readEntries: entriesOf,
    });

    const runs: RunStore = {
      take: (kind, owner, silentMs) => takeRun(database.writer, kind, owner, silentMs),
      save: (run, progress, gotOn) => saveProgress(database.writer, run, progress, gotOn),
      release: (run, failed) => releaseRun(database.writer, run, failed),
      finish: (run, progress, result) => finishRun(database.writer, run, progress, result),
    };
    const verified = {
      runs: new LabelledCounter('verdict', ['intact', 'tampered', 'incomplete', 'not_provable', 'failed']),
      entries: new LabelledCounter('kind', ['job', 'scrub']),
    };
    const reading = { connection, monthKeysDir: config.monthKeysDir, origin };
    const trusted = config.anchorsFile === undefined ? [] : await readAnchorsFile(config.anchorsFile);
    const trust = async (): Promise<Trust> => {
      const stated = async () => new Set((await keyStatements(database.verifier, [origin])).map(({ vkey }) => vkey));
      const { key, mark } = (await signerKnowledge(config.signerDir, origin, stated)) ?? {};
      return {
        ...{ key, mark },
        authorities: trusted.flatMap((anchor) => (anchor.type === 'rfc3161' ? anchor.trusted : [])),
        witnesses: trusted.flatMap((anchor) => (anchor.type === 'witness' ? [anchor.vkey] : [])),
      };
    };
    const { scrubber: scrubSettings, timing, share } = options.verification ?? {};
    const jobs = verificationRunner({
      store: runs,
      reading,
      trust,
      anchorWait: trusted.some(({ type }) => type !== 'folder')
        ? {
            maxMs: Math.min(2 * config.anchorSeconds * 1000 + 10_000, ANCHOR_WAIT_MAX_MS),
            everyMs: Math.min(config.anchorSeconds * 1000, 5000),
          }
        : undefined,
      onEntries: (entries) => verified.entries.add('job', entries),
      onEnd: (_, verdict) => verified.runs.add(verdict),
      log,
      ...(share === undefined ? {} : { share }),
      timing,
    });
    const scrubber =
      scrubSettings === false
        ? undefined
        : new Scrubber({
            store: {
              ...runs,
              begin: (everyMs) => beginScrub(database.writer, everyMs),
              state: () => scrubState(database.verifier),
            },
            reading,
            trust,
            periodDays: config.scrubDays,
            entries: () => entriesInScope(database.verifier, undefined),
            raise: async (of, action, severity, details) => {
              await appendOwn(of, 'security_event', { action, outcome: 'failure', severity, details });
            },
            tell: async (action, details) => {
              await appendOwn(OWN_TENANT, 'log_administration', { action, outcome: 'success', details });
            },
            onEntries: (entries) => verified.entries.add('scrub', entries),
            onEnd: (_, verdict) => verified.runs.add(verdict),
            log,
            wallClock,
            settings: scrubSettings,
            timing,
          });

    const server = createServer({ log, limits: { bodyBudgetBytes: config.limits.bodyBudgetBytes } });
    registerAccess(server, { tokens: tokenVerifier(server, tokens) });
    registerTrail(server, async (caller, ip, trace) => {
      const { tenant, category, action, severity, ...parts } = { tenant: caller.tenant, ...trace };
      const actor = { type: ACTOR_TYPE[caller.credential], id: caller.subject, ip, roles: [...caller.roles] };
      const event = { action, outcome: 'success', severity, actor, ...parts } as const;
      await appendOwn(tenant, category ?? 'data_access', event);
    });
    await server.register(
      healthRoutes({
        objection: async () => {
          const now = await databaseClock(database.writer);
          if (now === undefined) return 'the database does not answer';
          const objection = clock.objection(now, 0) ?? sequencer.objection;
          const refusal = await signerRefusal(database.writer).catch(() => 'the database does not answer');
          return objection ?? refusal ?? scrubber?.objection;
        },
      }),
    );
    await server.register(
      ingestRoutes({
        appender,
        openStream,
        batches,
        wallClock,
        limits: config.limits,
        checkpointOf: (stream, size) => checkpoints.wait(stream, size),
      }),
    );
    const tenant = async (name: string): Promise<AsTenant | undefined> => {
      const id = await directory.tenant(name);
      return id === undefined ? undefined : asking(id);
    };
    await server.register(readRoutes({ tenant, keys: keyring }));
    await server.register(
      proofRoutes({
        origin,
        tenant,
        findEntry: (ask, id, category) => findEntry(ask, keyring, id, category),
        keyStatements: (names) => keyStatements(database.verifier, names),
        publicLogs: config.publicLogs,
      }),
    );
    await server.register(bundleRoutes({ origin, tenant, verifier: database.verifier, keys: keyring }));
    await server.register(
      verificationRoutes({
        tenant: async (name) => {
          const id = await directory.tenant(name);
          return id === undefined ? undefined : { id, ask: asking(id) };
        },
        readJson,
        request: (job, unfinishedMax) => requestJob(database.writer, job, unfinishedMax),
        wake: () => jobs.wake(),
      }),
    );
    let anchors: OutsideAnchors | undefined;
    await server.register(
      metricsRoutes(
        serviceMetrics({
          queued: () => sequencer.queued,
          signer: () => signer?.status,
          signerRefusal: () => signerRefusal(database.writer),
          anchors: () => anchors?.state() ?? [],
          ...verified,
          scrub: () => scrubber?.status,
        }),
      ),
    );

    started = signer;
    await signer?.start();
    anchors =
      config.anchorsFile === undefined || signer === undefined
        ? undefined
        : await startOutsideAnchors({
            file: config.anchorsFile,
            allowAddresses: config.allowAddresses,
            database: database.verifier,
            writer: database.writer,
            isLeading: () => signer.status.isLeading,
            wallClock,
            log,
          });
    jobs.start();
    await scrubber?.start();

    let closed: Promise<void> | undefined;
    const close = async (): Promise<void> => {
      partitions.stop();
      const verifying = Promise.all([jobs.close(), scrubber?.close()]);
      checkpoints.close();
      await closeServer(server, GRACE_MS);
      await verifying;
      await sequencer.close();
      await batches.close();
      await anchors?.close();
      // The last events are signed too.
      await signer?.close();
      await database.close();
    };
    return {
      server,
      database,
      origin,
      signer,
      warm: () => batches.start(),
      close: () => {
        closed ??= close();
        return closed;
      },
    };
  } catch (error) {
    // It would keep the lease.
    await started?.close();
    await database.close();
    throw error;
  }
}
