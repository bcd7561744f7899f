/** Wires everything, once: the only place that knows all the parts. */
import { randomUUID, type X509Certificate } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { hostname } from 'node:os';
import type { FastifyInstance } from 'fastify';
import type pg from 'pg';
import type { Logger } from 'pino';
import { apiKeyRoutes } from './access/api-key-routes.ts';
import { erasureRoutes } from './access/erasure-routes.ts';
import { HoldKeeper } from './access/hold-keeper.ts';
import { type HoldStep, holdRoutes } from './access/hold-routes.ts';
import { monthKeyRoutes } from './access/month-key-routes.ts';
import { rotationRoutes } from './access/rotation-routes.ts';
import { tenantRoutes } from './access/tenant-routes.ts';
import { readAnchorsFile } from './anchor/anchors-file.ts';
import { type OutsideAnchors, startOutsideAnchors } from './anchor/outside-anchors.ts';
import { registerAccess } from './auth/access.ts';
import { Admission } from './auth/admission.ts';
import { ApiKeys, newApiKeyId, newApiKeySecret } from './auth/api-keys.ts';
import { certificateVerifier } from './auth/certificates.ts';
import { type CertifiedServices, readClientsFile } from './auth/clients-file.ts';
import { KeySet } from './auth/key-set.ts';
import { Quotas } from './auth/quotas.ts';
import { Refusals, refusalOf } from './auth/refusals.ts';
import { Strangers } from './auth/strangers.ts';
import { TenantSettings } from './auth/tenant-settings.ts';
import { type TokenOptions, tokenVerifier } from './auth/tokens.ts';
import { TICK_ACTION } from './chain/anchor-tick.ts';
import { decodeCanonical, type JsonObject } from './chain/canonical.ts';
import { type Category, type ClientCategory, OWN_TENANT } from './chain/category.ts';
import { ClockGuard } from './chain/clock-guard.ts';
import type { PendingEntry } from './chain/entry.ts';
import { isAbout, keeperOf } from './chain/hold.ts';
import type { Entry } from './chain/open-block.ts';
import { isOpen, PART_NAMES } from './chain/part.ts';
import { sealWith } from './chain/sealed-run.ts';
import { Sequencer } from './chain/sequencer.ts';
import type { Config } from './config.ts';
import { KeyUnavailableError, Problem, SettingsError } from './errors.ts';
import { exportRoutes } from './export/export-routes.ts';
import type { ExportTask } from './export/export-task.ts';
import { Exporter } from './export/exporter.ts';
import { LineWriter } from './export/line-writer.ts';
import { sinkRoutes } from './export/sink-routes.ts';
import { KEPT_FOR_EVER, sealSinkSecret } from './export/sink-secret.ts';
import { keepSinksOfFile, readSinksFile } from './export/sinks-file.ts';
import { testSink } from './export/transport-of-sink.ts';
import { addressOf } from './http/client-address.ts';
import { healthRoutes } from './http/health.ts';
import { LabelledCounter, metricsRoutes } from './http/metrics.ts';
import { closeServer, createServer } from './http/server.ts';
import { serviceMetrics } from './http/service-metrics.ts';
import { ServerTls } from './http/tls.ts';
import { registerTrail } from './http/trail.ts';
import { WatchedFiles } from './http/watched-files.ts';
import { Appender, type SeenStream } from './ingest/appender.ts';
import { BatchThreads } from './ingest/batch-threads.ts';
import { CheckpointWatch } from './ingest/checkpoint-watch.ts';
import { epochOpener } from './ingest/epoch-opener.ts';
import type { OpenStream } from './ingest/events.ts';
import { readJson } from './ingest/json-reader.ts';
import { ownEvents } from './ingest/own-events.ts';
import { ingestRoutes } from './ingest/routes.ts';
import { ServiceLife } from './ingest/service-life.ts';
import { Teller } from './ingest/teller.ts';
import { KeyRotation } from './keys/key-rotation.ts';
import { KeyUseEntries } from './keys/key-use-entries.ts';
import { Keyring } from './keys/keyring.ts';
import { CheckedMonthKeys } from './keys/month-key-check.ts';
import { type KeyUse, MonthKeyUses } from './keys/month-key-uses.ts';
import { monthOf } from './keys/month-keys.ts';
import { openMonthKeys } from './keys/open-month-keys.ts';
import { hearThreads } from './keys/thread-keys.ts';
import { bundleRoutes, closing } from './proof/bundle-routes.ts';
import { BUNDLE_BOUNDS, writeBundle } from './proof/bundle-writer.ts';
import { proofRoutes } from './proof/routes.ts';
import { readEntries } from './read/entries.ts';
import { findEntry } from './read/find-entry.ts';
import { readRoutes } from './read/routes.ts';
import { search } from './read/search.ts';
import { archiver } from './retention/archive.ts';
import { Eraser } from './retention/eraser.ts';
import { replayErasures } from './retention/erasure-replay.ts';
import { ErasureSearch, type RefusalsOf } from './retention/erasure-search.ts';
import { EvidenceRules } from './retention/evidence-rules.ts';
import { partitionMaker } from './retention/partitions.ts';
import { floorOf } from './retention/policy.ts';
import { pruneRoutes } from './retention/prune-routes.ts';
import { Pruner, type PrunerTiming, type PruneStep } from './retention/pruner.ts';
import { retentionRoutes } from './retention/routes.ts';
import { noteErasure, readErasureLedger } from './signer/erasure-ledger.ts';
import { signerKnowledge } from './signer/knowledge.ts';
import { Signer } from './signer/signer.ts';
import { createApiKey, findApiKeys, noteApiKeyUses, revokeApiKey, rotateApiKey } from './store/api-keys.ts';
import { appendStore } from './store/append.ts';
import { checkpointsByName, keyStatements } from './store/checkpoints.ts';
import { ClockWatch } from './store/clock-watch.ts';
import {
  beginGeneration,
  dropMonthsOfKeys,
  ensureDropMonth,
  findOrStoreKey,
  generationAgeMs,
  generationToRetire,
  isStreamGone,
  keyById,
  keyGenerations,
  keysFrom,
  newestGeneration,
  noteGeneration,
  sampleOfKeys,
  storeForm,
} from './store/data-keys.ts';
import { type AsTenant, asTenant, type Database, databaseClock, type Logins, openDatabase } from './store/database.ts';
import { fixOrigin } from './store/deployment.ts';
import { Directory } from './store/directory.ts';
import { type DiskState, DiskWatch } from './store/disk-watch.ts';
import { noticeEntries } from './store/entry-notices.ts';
import {
  addFound,
  beginErasure,
  blockHolding,
  endSearch,
  entriesToErase,
  eraseParts,
  finishErasure,
  isCertified,
  isInAdministration,
  oldestErasure,
  planErasure,
  type Refusal,
  refuseEntry,
} from './store/erasures.ts';
import {
  activateHold,
  approvedReleases,
  countingHolds,
  lastHold,
  placeHold,
  releaseHold,
  untoldHolds,
} from './store/holds.ts';
import { decide, propose } from './store/proposals.ts';
import { listRuns } from './store/prunings.ts';
import { ReaderTurns } from './store/reader-turns.ts';
import { changePolicy, evidenceRule, monthsInUse } from './store/retention.ts';
import { SchemaWatch } from './store/schema-watch.ts';
import { checkSettings } from './store/settings-gate.ts';
import { SignerLease, signerRefusal } from './store/signer.ts';
import { isAnySinkActive } from './store/sink-followers.ts';
import {
  changeSink,
  countSinks,
  createSink,
  deleteSink,
  type NewSinkRow,
  oneAtATime,
  replaySink,
  type SeenSink,
  secretOfSink,
  setSinkState,
  sinksFromFile,
  unparkSink,
} from './store/sinks.ts';
import { listStreams, newestStamp } from './store/streams.ts';
import { tenantSettings } from './store/tenants.ts';
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
  /** Logins of the same database that serve one role each; without one, `connection` serves it too. */
  readonly logins?: Logins;
  readonly tokens: TokenOptions;
  readonly log: Logger;
  /** For tests. */
  readonly wallClock?: () => number;
  /** For simulations, in which time goes by faster: what steps of the wall clock are held to. */
  readonly monotonic?: () => number;
  /** For tests that end the process between two steps of signing. */
  readonly onSignerStep?: (step: string) => void;
  /** For tests that can not wait as long as the service does. */
  readonly verification?: VerificationOptions;
  /** `false` = sinks are not followed here. */
  readonly exporting?: false | Partial<Pick<ExportTask, 'timing' | 'followerTiming'>>;
  /** `false` = nothing is pruned here by schedule. */
  readonly pruning?: false | PruningOptions;
  /** For tests: how long refused calls are counted before they are told. */
  readonly refusalWindowMs?: number | undefined;
  /** For tests that can not wait: the clock that opened keys age by, how often uses of month keys are told, and steps of rotating them. */
  readonly keyTiming?:
    | {
        readonly monotonic?: () => number;
        readonly tellEveryMs?: number;
        readonly onStep?: (step: string) => void;
      }
    | undefined;
  /** For tests: `false` = how full disks are is nobody's matter. */
  readonly disks?: false | { readonly lookEveryMs: number };
  /** For tests: false takes the application's own filter between tenants away, so that row-level security holds alone. */
  readonly tenantFilter?: false;
}

/** For tests. */
export interface PruningOptions {
  readonly timing?: Partial<PrunerTiming>;
  readonly databaseClock?: () => Promise<number | undefined>;
  readonly onStep?: (step: PruneStep | HoldStep) => void;
  /** How often to look for what was left unfinished of holds, and how long it must have been silent. */
  readonly holds?: { readonly everyMs: number; readonly silentMs: number };
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
  /** Where health and metrics are, when they have a port of their own. */
  readonly metricsServer: FastifyInstance | undefined;
  /** Undefined without TLS. */
  readonly certificate: X509Certificate | undefined;
  readonly database: Database;
  readonly origin: string;
  /** Undefined where this replica does not sign. */
  readonly signer: Signer | undefined;
  readonly pruner: Pruner;
  /** Resolves, if ever, with migrations of the database that this program may not work beside: it has to end. */
  readonly outdated: Promise<readonly string[]>;
  /** Tells the log that the service is up: whoever makes it listen calls this. Resolves once that is stored, with false where it never will be. */
  tellStart(): Promise<boolean>;
  /** Starts what the first requests would otherwise wait for. */
  warm(): void;
  /** Finishes what was taken, then lets go of the database. May be called twice. */
  close(): Promise<void>;
}

/** What is behind the pool in a function of the store. */
type OnWriter<F extends (writer: pg.Pool, ...rest: never[]) => unknown> = F extends (
  writer: pg.Pool,
  ...rest: infer Rest
) => unknown
  ? Rest
  : never;

/** What the log's own entries call whoever a credential names. */
const ACTOR_TYPE = { token: 'user', api_key: 'api_key', certificate: 'service' } as const;

/** What the clock is held to at the start: nothing, where somebody says that it is the day that it shows. */
async function lastStampToTrust({ writer }: Database, confirmed: number | undefined): Promise<number | undefined> {
  const now = confirmed === undefined ? undefined : await databaseClock(writer);
  // The day as it is anywhere on earth.
  const isConfirmed = now !== undefined && Math.abs(now - confirmed! - DAY_MS / 2) <= DAY_MS;
  return isConfirmed ? undefined : newestStamp(writer);
}

/** Uses of month keys, as an entry tells them. */
function usedEvent(uses: readonly KeyUse[]): { action: string; outcome: 'success' | 'failure'; details: JsonObject } {
  const told = uses.map(({ monthKey, operation, problem, count }) => ({
    ...{ monthKey, operation, count },
    ...(problem === undefined ? {} : { problem }),
  }));
  const isSound = uses.every(({ problem }) => problem === undefined);
  return { action: 'month_key.used', outcome: isSound ? 'success' : 'failure', details: { uses: told } };
}

/** For what can do without entries whose month key is destroyed. */
function unlessDestroyed(error: unknown): undefined {
  const cause = error instanceof Problem ? error.cause : error;
  if (cause instanceof KeyUnavailableError && cause.problem === 'destroyed') return undefined;
  throw error;
}

/** Returns the version of this program. */
async function ownVersion(): Promise<string> {
  const text = await readFile(new URL('../package.json', import.meta.url), 'utf8');
  return (JSON.parse(text) as { version: string }).version;
}

function openTls({ tls }: Config, log: Logger, wallClock: () => number): Promise<ServerTls> | undefined {
  if (tls === undefined) return undefined;
  const { cert, key, clients } = tls;
  return ServerTls.open({ files: { cert, key, clientCa: clients?.ca }, log, wallClock });
}

function openTlsClients({ tls }: Config, log: Logger): Promise<WatchedFiles<CertifiedServices>> | undefined {
  if (tls?.clients === undefined) return undefined;
  return WatchedFiles.open({
    what: 'the list of services with certificates',
    files: [{ setting: 'SEALOG_TLS_CLIENTS_FILE', path: tls.clients.file }],
    load: ([bytes]) => readClientsFile(bytes!),
    log,
  });
}

const ONE_LOGIN =
  'one login acts as several of the roles that keep reading, verifying, signing and appending apart: see docs/storage.md, Roles';

/** Requests under way get this long to finish when the service stops. */
const GRACE_MS = 3000;

/** `?wait=checkpoint` is answered without one after this time, which is shorter than a request's. */
const CHECKPOINT_WAIT_MAX_MS = 10_000;
const CHECKPOINT_LOOK_MS = 100;
const CHECKPOINT_WAITERS_MAX = 5000;

const HOUR_MS = 3_600_000;
const DAY_MS = 24 * HOUR_MS;
const DISK_ACTION = 'disk.filling';
const CLOCK_ACTION = 'clock.wrong';

/** Whoever places or releases a hold is done within a moment; what he left undone is done by whoever looks next. */
const HOLD_TIMING = { everyMs: 10_000, silentMs: 15_000 };
/** Of a tenant: all of them are looked at for each entry that expires. */
const HOLDS_MAX = 100;

const EXPORT_TIMING = { beatMs: 1000, silentMs: 5000 };

/** Of the writer's connections, for what callers change: however many of a tenant ask for it, events find one, and other tenants their turn. */
const CHANGES_AT_ONCE = 1;

/** How often it is looked for erasures that another replica's caller approved. */
const ERASURE_LOOK_MS = 1000;

/** As long as for a connection: somebody who waits for an answer would soon give up. */
const READER_WAIT_MAX_MS = 2000;

/** Another replica starts too, and has the same file. */
const SINKS_FILE_WAIT_MAX_MS = 10_000;

/** How long a verification waits for what was read to be anchored: two ticks, and the time that anchors take. */
const ANCHOR_WAIT_MAX_MS = 150_000;

function diskEvent({ disk, used, freeBytes, level }: DiskState) {
  return {
    ...({ action: DISK_ACTION, outcome: 'failure', severity: level >= 90 ? 8 : 5 } as const),
    target: { type: 'disk', id: disk, name: hostname() },
    details: { level, usedPercent: Math.floor(100 * used), freeBytes },
  };
}

/** Builds the service on a database that is there and migrated; it does not listen yet. Throws a SettingsError when it must not start. */
export async function createApp(options: AppOptions): Promise<App> {
  const { config, connection, logins = {}, tokens, log, wallClock = Date.now } = options;
  const database = openDatabase({ connection, logins, readersMax: config.limits.readersMax, log });
  let started: Signer | undefined;
  const watched: { stop(): void }[] = [];
  try {
    const tls = await openTls(config, log, wallClock);
    if (tls !== undefined) watched.push(tls);
    const tlsClients = await openTlsClients(config, log);
    if (tlsClients !== undefined) watched.push(tlsClients);

    const gate = await checkSettings(database.writer, logins);
    if (gate.refusals.length > 0) throw new SettingsError(gate.refusals);
    for (const warning of gate.warnings) log.warn({ setting: warning }, 'database setting');
    if (Object.values(logins).filter((login) => login !== undefined).length < 3)
      log.warn({ setting: ONE_LOGIN }, 'database setting');
    const origin = await fixOrigin(database.writer, config.origin, config.databaseUrl === undefined);

    const clock = new ClockGuard({
      ...{ wall: wallClock, monotonic: options.monotonic ?? (() => performance.now()) },
      newest: await lastStampToTrust(database, config.clockConfirmed),
    });
    const partitions = partitionMaker({
      ensureDropMonth: (month) => ensureDropMonth(database.writer, month),
      monthsInUse: () => monthsInUse(database.writer),
      wallClock,
      objection: () => clock.objection(wallClock(), 0),
      log,
    });
    await partitions.make();

    const { masterKey, allowAddresses } = config;
    const keyUses = new MonthKeyUses();
    const usesChannel = `sealog.key-uses.${randomUUID()}`;
    watched.push({ stop: hearThreads(usesChannel, keyUses) });
    const monthKeys = new CheckedMonthKeys({
      monthKeys: keyUses.watch(await openMonthKeys(masterKey, { allowAddresses, wallClock, log })),
      samples: () => sampleOfKeys(database.verifier),
      log,
    });
    watched.push({ stop: () => monthKeys.close() });
    await monthKeys.start();
    const { monotonic = () => performance.now(), tellEveryMs, onStep: onKeyStep } = options.keyTiming ?? {};
    const cacheMs = config.keyCacheHours * HOUR_MS;
    const keyring = new Keyring(
      monthKeys,
      {
        findOrStore: async (stream, dropMonth, make) => {
          // Entries are sealed before they are stamped: a clock that stepped would have partitions and keys made for months that nothing is stored in.
          const objection = clock.objection(wallClock(), 0);
          if (objection !== undefined) throw new Problem('not_ready', { detail: objection });
          try {
            return await findOrStoreKey(database.writer, stream, dropMonth, make);
          } catch (error) {
            if (isStreamGone(error)) directory.forget([stream.id]);
            throw error;
          }
        },
        byId: (id) => keyById(database.verifier, id),
      },
      { cacheMs, monotonic },
    );
    const threadKeys = { masterKey, allowAddresses, cacheMs, usesChannel };
    const directory = new Directory({ writer: database.writer, makeTenants: config.makeTenants });
    let exporter: Exporter | undefined;
    const sequencer = new Sequencer({
      store: appendStore(database),
      seal: sealWith((stream, dropMonth) => keyring.keysFor(stream, dropMonth)),
      clock,
      wallClock,
      repeatDays: config.repeatDays,
      queueEntriesMax: config.limits.queueEntriesMax,
      queueBytesMax: config.limits.queueBytesMax,
      onAppended: (tenantIds) => exporter?.appended(tenantIds),
      onOutdated: (streamIds) => directory.forget(streamIds),
      log,
    });
    const appendOwn = ownEvents({
      openStream: (tenant, category) => directory.open(tenant, category),
      append: (submission) => sequencer.append(submission),
      wallClock,
    });
    const openEpoch = epochOpener({
      openStream: (tenant, category) => directory.openAfresh(tenant, category),
      append: (submission) => sequencer.append(submission),
      appendOwn,
      wallClock,
    });
    const teller = new Teller({ log });
    const keyUseEntries = new KeyUseEntries({
      uses: keyUses,
      everyMs: tellEveryMs,
      tell: (uses) => {
        const event = { ...usedEvent(uses), target: { type: 'key_service', id: masterKey.kind } };
        return teller.tell(event.action, () => appendOwn(OWN_TENANT, 'log_administration', event));
      },
    });
    const { writer } = database;
    const keyRotation = new KeyRotation({
      monthKeys,
      store: {
        newest: () => newestGeneration(writer),
        ageMs: () => generationAgeMs(writer),
        begin: (after, by) => beginGeneration(writer, after, by),
        keys: (after, limit, notWrappedBy) => keysFrom(writer, after, limit, notWrappedBy),
        store: (id, generation, form) => storeForm(writer, id, generation, form),
        noteRewrapped: (generation) => noteGeneration(writer, generation, 'rewrapped_at'),
        toRetire: (keptDays) => generationToRetire(writer, keptDays),
        noteRetired: (generation) => noteGeneration(writer, generation, 'retired_at'),
        months: async () => (await dropMonthsOfKeys(writer)).map(monthOf),
      },
      rotationDays: config.keyRotationDays,
      retireDays: config.keyRetireDays,
      tell: (action, { generation, from }) => {
        const target = { type: 'key_generation', id: `${generation}` };
        const details = from === undefined ? {} : { retired: { from, to: generation - 1 } };
        const id = `${action}:${generation}`;
        return appendOwn(OWN_TENANT, 'log_administration', {
          action,
          id,
          once: true,
          outcome: 'success',
          target,
          details,
        });
      },
      objection: () => pruner.clockObjection(),
      log,
      onStep: onKeyStep,
    });
    const disks = new DiskWatch({
      folders: [
        ...(config.databaseUrl === undefined ? [{ disk: 'data', path: config.dataDir }] : []),
        ...(config.signerDir === undefined ? [] : [{ disk: 'signer', path: config.signerDir }]),
        ...(config.monthKeysDir === '' ? [] : [{ disk: 'keys', path: config.monthKeysDir }]),
      ],
      ...(options.disks || {}),
      onFuller: (state) => {
        log.error(state, 'a disk is getting full: when it is, nothing is stored');
        void teller.tell(DISK_ACTION, () => appendOwn(OWN_TENANT, 'system_operation', diskEvent(state)));
      },
    });
    const clocks = new ClockWatch({
      databaseClock: () => databaseClock(database.writer),
      objection: (now) => clock.objection(now, 0),
      onWrong: (reason) => log.error({ reason }, 'a clock is wrong: nothing is stored until it is right'),
      onRight: (wrong) => {
        log.info({ ...wrong }, 'the clocks are right again');
        const event = { action: CLOCK_ACTION, outcome: 'failure', severity: 8, details: { ...wrong } } as const;
        void teller.tell(CLOCK_ACTION, () => appendOwn(OWN_TENANT, 'system_operation', event));
      },
    });
    const signer =
      config.signerDir === undefined
        ? undefined
        : new Signer({
            folder: config.signerDir,
            origin,
            takeLease: () => SignerLease.take(logins.signer ?? connection),
            checkpointMs: config.checkpointMs,
            anchorMs: config.anchorSeconds * 1000,
            anchorTenant: async () => (await directory.open(OWN_TENANT, 'anchor')).tenantId,
            appendTick: async (id) => {
              await appendOwn(OWN_TENANT, 'anchor', { id, action: TICK_ACTION, outcome: 'success' });
            },
            tell: async (action, id, details) => {
              const event = { action, id, once: true, outcome: 'success', details } as const;
              await appendOwn(OWN_TENANT, 'log_administration', event);
            },
            floor: (category) => floorOf(category, config.retentionFloors),
            openEpoch,
            eraseAgain: async (lease) => {
              const lines = await readErasureLedger(config.signerDir!);
              const deps = { lines, database: database.verifier, keys: keyring, log };
              await replayErasures(deps, (...what) => lease.eraseAgain(...what));
            },
            wallClock,
            log,
            onStep: options.onSignerStep,
          });
    const refusalsOf: RefusalsOf = async (stream, entries) => {
      const refused = new Map<number, Refusal>();
      if (config.legalDuty.includes(stream.category as ClientCategory))
        for (const { record } of entries) refused.set(record.seq, { reason: 'legal_duty' });
      const holds = await countingHolds(writer, stream.tenantId);
      for (const hold of holds.filter((one) => isAbout(one, stream))) {
        const keeps = keeperOf(hold);
        for (const entry of entries.filter(keeps))
          refused.set(entry.record.seq, { reason: 'legal_hold', hold: hold.id });
      }
      return refused;
    };
    const erasureSearch = new ErasureSearch({
      keys: keyring,
      refusalsOf,
      add: (of, found, blocks) => addFound(database.writer, of, found, blocks),
      end: ({ id }, state, more) => endSearch(database.writer, id, state, more),
      log,
    });
    const eraser =
      signer === undefined
        ? undefined
        : new Eraser({
            isLeading: () => signer.status.isLeading && signer.status.lastRoundAt > 0,
            store: {
              oldest: (except) => oldestErasure(database.writer, except),
              entries: (id, certificate) => entriesToErase(database.writer, id, certificate),
              refuse: (id, entry, reason) => refuseEntry(database.writer, id, entry, reason),
              lastHold: () => lastHold(database.writer),
              plan: (id, holdsSeen) => planErasure(database.writer, id, holdsSeen),
              isCertified: (id, certificate) => isCertified(database.writer, id, certificate),
              block: (streamId, seq) => blockHolding(database.verifier, streamId, seq),
              erase: (id, block, parts) => eraseParts(database.writer, id, block, parts),
              finish: (id) => finishErasure(database.writer, id),
              isInAdministration: (of, idHash) => isInAdministration(database.verifier, of, idHash),
            },
            ledger: {
              note: (line) => noteErasure(config.signerDir!, line),
              lines: () => readErasureLedger(config.signerDir!),
            },
            keys: keyring,
            refusalsOf,
            append: async (of, event) => {
              await appendOwn(of, 'log_administration', { ...event, outcome: 'success', once: true });
            },
            log,
            everyMs: ERASURE_LOOK_MS,
            onStep: options.onSignerStep,
          });
    const checkpoints = new CheckpointWatch({
      find: (names) => checkpointsByName(database.verifier, names),
      everyMs: CHECKPOINT_LOOK_MS,
      waitMaxMs: CHECKPOINT_WAIT_MAX_MS,
      waitersMax: CHECKPOINT_WAITERS_MAX,
    });
    const readers = new ReaderTurns(config.limits.readersMax, READER_WAIT_MAX_MS);
    const asking = (tenantId: number): AsTenant => {
      return (work) => readers.run(tenantId, () => asTenant(database.reader, tenantId, work, options.tenantFilter));
    };
    const changes = new ReaderTurns(CHANGES_AT_ONCE, READER_WAIT_MAX_MS);
    const openStream: OpenStream = (tenant, category) => directory.open(tenant, category);
    const evidenceRules = new EvidenceRules({ find: (of, category) => evidenceRule(database.writer, of, category) });
    const policies = { openStream, evidenceRule: evidenceRules.of.bind(evidenceRules) };
    const entriesOf = (stream: SeenStream, seqs: readonly number[]) =>
      readEntries(asking(stream.tenantId), keyring, stream, seqs);
    const batches = new BatchThreads({
      threads: config.ingestThreads,
      limits: config.limits,
      policies,
      keysFor: (stream, dropMonth) => keyring.keysFor(stream, dropMonth),
      append: (submission) => sequencer.append(submission),
      readEntries: entriesOf,
      log,
    });
    const appender = new Appender<PendingEntry>({
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
    const reading = { connection: logins.verifier ?? connection, keys: threadKeys, origin };
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
      tell: (of, target, outcome, details) => {
        const event = { action: 'log.verified', outcome, target, details };
        return teller.tell(event.action, () => appendOwn(of, 'log_administration', event));
      },
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

    // What was opened before goes on for its time; then nothing can be sealed any more.
    const keyOutage = (): string | undefined => {
      const { outage } = keyUses;
      const isOver = outage !== undefined && monotonic() - keyring.openedAt >= cacheMs;
      return isOver ? 'the key service does not answer, and what was opened before has ended' : undefined;
    };
    const { onStep, databaseClock: ownClock, timing: pruningTiming, holds: holdTiming } = options.pruning || {};
    const archiving = new AbortController();
    const holdKeeper = new HoldKeeper({
      store: {
        untold: (silentMs) => untoldHolds(writer, silentMs),
        activate: (id) => activateHold(writer, id),
        approved: (silentMs) => approvedReleases(writer, silentMs),
        release: (proposal) => releaseHold(writer, proposal),
      },
      append: async (of, event) => {
        await appendOwn(of, 'log_administration', { ...event, outcome: 'success', once: true });
      },
      log,
      timing: holdTiming ?? HOLD_TIMING,
    });
    const pruner = new Pruner({
      writer: database.writer,
      database: database.verifier,
      databaseClock: ownClock ?? (() => databaseClock(database.writer)),
      guard: (now) => clock.objection(now, 0),
      objection: () => scrubber?.objection,
      hasOutside: trusted.some(({ type }) => type !== 'folder'),
      append: appendOwn,
      keys: keyring,
      archive:
        config.archiveDir === undefined
          ? undefined
          : archiver({
              folder: config.archiveDir,
              signal: archiving.signal,
              bundle: async ({ tenant: owner, stream, first, end }) => {
                const ask = asking((await directory.tenant(owner))!);
                const sources = { origin, ask, verifier: database.verifier, keys: keyring };
                const category = stream.split('/')[1] as Category;
                const asked = { tenant: owner, category, from: undefined, to: undefined, since: [] };
                const request = { ...asked, withhold: new Set(PART_NAMES), only: { stream, first, end } };
                const bundle = await writeBundle(sources, request, BUNDLE_BOUNDS, archiving.signal);
                return closing(bundle);
              },
              key: async () =>
                (await trust()).key?.vkey ?? (await keyStatements(database.verifier, [origin])).at(-1)?.vkey,
            }),
      openingOf: async ({ streamId: id, tenantId, name }) => {
        // The first epoch opens for none. In a database that was restored from before a pruning the key of what goes again may be destroyed.
        if (!/\/e[0-9]+$/.test(name)) return undefined;
        const first = (await readEntries(asking(tenantId), keyring, { id, name }, [0]).catch(unlessDestroyed))?.get(0);
        const details = first?.parts.find((part) => part.name === 'details');
        if (first?.record.action !== 'epoch.opened' || details === undefined || !isOpen(details)) return undefined;
        return decodeCanonical(details.value) as JsonObject;
      },
      destroyKeys: async (dropMonth) => {
        await monthKeys.destroy(String(dropMonth));
        await keyring.forget(dropMonth);
      },
      log,
      onStep,
      timing: pruningTiming,
    });

    const refused = new LabelledCounter('code', [
      ...['unauthenticated', 'forbidden', 'second_person_required', 'tenant_closed', 'quota'],
      ...['not_found', 'exists', 'key_ended', 'already_decided'],
    ]);
    const refusals = new Refusals({
      append: async ({ tenant = OWN_TENANT, category, event }) => {
        try {
          await appendOwn(tenant, category, event);
        } catch (error) {
          // A tenant that was never opened has no log: the deployment's tells of it.
          if (!(error instanceof Problem) || error.status !== 403) throw error;
          await appendOwn(OWN_TENANT, category, { ...event, details: { ...event.details, tenant } });
        }
      },
      actorType: ACTOR_TYPE,
      onRefused: (code) => refused.add(code),
      wallClock,
      log,
      windowMs: options.refusalWindowMs,
    });
    const life = new ServiceLife({
      name: `${hostname()}:${config.port}`,
      facts: { version: await ownVersion(), node: process.version },
      append: (event) => appendOwn(OWN_TENANT, 'system_operation', event),
      lastAction: async (target) => {
        const { tenantId, name } = await openStream(OWN_TENANT, 'system_operation');
        const ask = asking(tenantId);
        const streams = (await ask(listStreams)).filter((stream) => stream.name === name);
        const view = ({ record }: Entry): string => record.action;
        const question = { streams, query: { target }, order: 'desc', limit: 1, positions: undefined, view } as const;
        return (await search(ask, keyring, question)).items[0];
      },
      teller,
      wallClock,
    });

    const keySet = tokens.secret === undefined ? new KeySet({ url: tokens.jwksUrl, allowAddresses, log }) : undefined;
    const shell = {
      ...{ log, tls, trustProxy: config.trustProxy },
      limits: { bodyBudgetBytes: config.limits.bodyBudgetBytes },
    };
    const server = createServer(shell);
    const metricsServer = config.metrics && createServer({ ...shell, asksCertificates: false });
    const apiKeys = new ApiKeys({
      find: (ids) => findApiKeys(database.writer, ids),
      noteUses: (uses) => noteApiKeyUses(database.writer, uses),
      wallClock,
    });
    const settings = new TenantSettings({
      find: (names) => tenantSettings(database.verifier, names),
      defaults: config.quota,
    });
    const admission = new Admission({ settings, quotas: new Quotas(), makeTenants: config.makeTenants });
    const strangers = new Strangers();
    registerAccess(server, {
      admit: (caller, permission, request) => admission.admit(caller, permission, request),
      tokens: tokenVerifier(server, tokens, keySet),
      apiKeys: apiKeys.verify,
      certificates:
        tls &&
        tlsClients &&
        certificateVerifier({
          services: () => tlsClients.value,
          isShownToToday: (socket) => tls.isShownToToday(socket),
          wallClock,
        }),
      admitStranger: (request) => strangers.admit(addressOf(request)),
      onRefused: (request, problem) => refusals.note(refusalOf(request, problem)),
    });
    registerTrail(server, {
      append: async (caller, ip, trace) => {
        const { tenant, category, ...event } = { tenant: caller.tenant, outcome: 'success' as const, ...trace };
        const actor = { type: ACTOR_TYPE[caller.credential], id: caller.subject, ip, roles: [...caller.roles] };
        const once = trace.id === undefined ? {} : ({ once: true } as const);
        await appendOwn(tenant, category ?? 'data_access', { ...event, ...once, actor });
      },
      tellLater: (action, append) => void teller.tell(action, append),
      log,
    });
    await (metricsServer ?? server).register(
      healthRoutes({
        objection: async () => {
          const now = await databaseClock(database.writer);
          if (now === undefined) return 'the database does not answer';
          const objection = clock.objection(now, 0) ?? sequencer.objection;
          const refusal = await signerRefusal(database.writer).catch(() => 'the database does not answer');
          return monthKeys.objection ?? objection ?? refusal ?? keyOutage() ?? scrubber?.objection;
        },
      }),
    );
    await server.register(
      ingestRoutes({
        appender,
        policies,
        batches,
        weigh: (request) => admission.weigh(request),
        charge: (request, events) => admission.charge(request, events),
        onForbidden: (request, events) => refusals.note(refusalOf(request, new Problem('forbidden'), events)),
        wallClock,
        limits: config.limits,
        checkpointOf: (of, stream, size) => checkpoints.wait(of, stream, size),
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
        findEntry: (ask, wanted) => findEntry(ask, keyring, wanted),
        keyStatements: (names) => keyStatements(database.verifier, names),
        publicLogs: config.publicLogs,
      }),
    );
    await server.register(bundleRoutes({ origin, tenant, verifier: database.verifier, keys: keyring }));
    const lines = new LineWriter(log);
    await server.register(exportRoutes({ tenant, keys: keyring, write: (wanted) => lines.write(wanted), log }));
    const tenantWithId = async (name: string): Promise<{ id: number; ask: AsTenant } | undefined> => {
      const id = await directory.tenant(name);
      return id === undefined ? undefined : { id, ask: asking(id) };
    };
    const onChanged = settings.put.bind(settings);
    await server.register(tenantRoutes({ database, readJson, onChanged }));
    await server.register(
      rotationRoutes({
        tenant: tenantWithId,
        readJson,
        propose: (one, openMax) => changes.run(one.tenantId, () => propose(database.writer, one, openMax)),
        decide: (of, decision) => changes.run(of.tenantId, () => decide(database.writer, of, decision)),
      }),
    );
    await server.register(
      erasureRoutes({
        tenant: tenantWithId,
        readJson,
        propose: (one, openMax) => changes.run(one.tenantId, () => propose(database.writer, one, openMax)),
        decide: (of, decision) => changes.run(of.tenantId, () => decide(database.writer, of, decision)),
        hasRoom: (of) => erasureSearch.hasRoom(of),
        search: async (wanted) => {
          await beginErasure(database.writer, wanted.id, wanted.tenantId);
          erasureSearch.start(wanted);
        },
        wake: () => eraser?.wake(),
      }),
    );
    await server.register(
      holdRoutes({
        tenant: tenantWithId,
        readJson,
        openTenant: async (name) => (await directory.open(name, 'log_administration')).tenantId,
        propose: (one, openMax) => changes.run(one.tenantId, () => propose(database.writer, one, openMax)),
        decide: (of, decision) => changes.run(of.tenantId, () => decide(database.writer, of, decision)),
        place: (hold) => changes.run(hold.tenantId, () => placeHold(writer, hold, HOLDS_MAX)),
        activate: (tenantId, id) => changes.run(tenantId, () => activateHold(writer, id)),
        release: (tenantId, proposal) => changes.run(tenantId, () => releaseHold(writer, proposal)),
        onStep,
      }),
    );
    await server.register(
      monthKeyRoutes({
        readJson,
        settings: {
          service: masterKey.kind,
          cacheHours: config.keyCacheHours,
          rotationDays: config.keyRotationDays,
          retireDays: config.keyRetireDays,
        },
        generations: () => keyGenerations(writer),
        begin: (after, by) => keyRotation.begin(after, by),
      }),
    );
    await server.register(
      apiKeyRoutes({
        tenant: tenantWithId,
        readJson,
        newId: newApiKeyId,
        newSecret: newApiKeySecret,
        create: (key, unrevokedMax) =>
          changes.run(key.tenantId, () => createApiKey(database.writer, key, unrevokedMax)),
        rotate: (key) => changes.run(key.tenantId, () => rotateApiKey(database.writer, key)),
        revoke: (key) => changes.run(key.tenantId, () => revokeApiKey(database.writer, key)),
        onChanged: (id) => apiKeys.forget(id),
        wallClock,
      }),
    );
    await server.register(
      retentionRoutes({
        tenant: tenantWithId,
        readJson,
        floors: config.retentionFloors,
        makePartitions: partitions.makeFor,
        change: (one) => changes.run(one.tenantId, () => changePolicy(database.writer, one)),
        onChanged: (of, category, evidence) => evidenceRules.put(of, category, evidence),
      }),
    );
    await server.register(
      pruneRoutes({
        tenantId: (name) => directory.tenant(name),
        readJson,
        pruner,
        list: (tenantId, which) => listRuns(database.verifier, tenantId, which),
      }),
    );
    const sinkDeps = { allowAddresses, hostname: hostname(), log };
    const changeOfSink = async <T>(tenantId: number, work: () => Promise<T>): Promise<T> => {
      try {
        return await changes.run(tenantId, work);
      } finally {
        exporter?.look();
      }
    };
    const sinkStore = {
      create: (sink: NewSinkRow, max: number) =>
        changeOfSink(sink.tenantId, () => createSink(database.writer, sink, max)),
      change: (...given: OnWriter<typeof changeSink>) =>
        changeOfSink(given[0].tenantId, () => changeSink(database.writer, ...given)),
      setState: (...given: OnWriter<typeof setSinkState>) =>
        changeOfSink(given[0].tenantId, () => setSinkState(database.writer, ...given)),
      remove: (...given: OnWriter<typeof deleteSink>) =>
        changeOfSink(given[0].tenantId, () => deleteSink(database.writer, ...given)),
      replay: (...given: OnWriter<typeof replaySink>) =>
        changeOfSink(given[0].tenantId, () => replaySink(database.writer, ...given)),
      unpark: (...given: OnWriter<typeof unparkSink>) =>
        changeOfSink(given[0].tenantId, () => unparkSink(database.writer, ...given)),
      secretOf: (sink: SeenSink) => changes.run(sink.tenantId, () => secretOfSink(database.writer, sink)),
    };
    const sealSink = async (of: string, sinkId: string, secret: JsonObject) => {
      const key = await keyring.keysFor(await directory.open(of, 'log_administration'), KEPT_FOR_EVER);
      return sealSinkSecret(key, sinkId, secret);
    };
    await server.register(
      sinkRoutes({
        tenant: tenantWithId,
        readJson,
        keys: keyring,
        seal: sealSink,
        test: (sink) => testSink(sink, keyring, sinkDeps),
        store: sinkStore,
        wallClock,
      }),
    );
    await server.register(
      verificationRoutes({
        tenant: tenantWithId,
        readJson,
        request: (job, unfinishedMax) =>
          changes.run(job.tenantId, () => requestJob(database.writer, job, unfinishedMax)),
        wake: () => jobs.wake(),
      }),
    );
    let anchors: OutsideAnchors | undefined;
    await (metricsServer ?? server).register(
      metricsRoutes(
        serviceMetrics({
          queued: () => sequencer.queued,
          pools: () => database.connections(),
          signer: () => signer?.status,
          signerRefusal: () => signerRefusal(database.writer),
          anchors: () => anchors?.state() ?? [],
          ...verified,
          refused,
          connectionsRefused: () => server.connectionWatch.refused,
          scrub: () => scrubber?.status,
          sinks: () => countSinks(database.writer),
          deliveries: () => exporter?.deliveries ?? { following: 0, delivered: 0, failures: 0 },
          keySet: () => keySet?.status,
          tls: () => tls?.status,
          tlsClients: () => tlsClients,
          disks: () => disks.states,
          isClockWrong: () => clocks.isWrong,
        }),
      ),
    );

    if (config.sinksFile !== undefined) {
      const sinks = await readSinksFile(config.sinksFile);
      const keep = () =>
        keepSinksOfFile(sinks, {
          tenant: async (name) => {
            const opened = await directory.open(name, 'log_administration').catch((error: unknown) => {
              if (error instanceof Problem && error.code === 'forbidden') return undefined;
              throw error;
            });
            return opened && { id: opened.tenantId, ask: asking(opened.tenantId) };
          },
          ofDeployment: () => tenant(OWN_TENANT),
          keys: keyring,
          seal: sealSink,
          store: { ...sinkStore, fromFile: () => sinksFromFile(database.writer) },
          tell: async (of, event) => {
            await appendOwn(of, 'configuration_change', { outcome: 'success', ...event });
          },
          log,
        });
      await oneAtATime(database.writer, 'sealog.sinks_file', SINKS_FILE_WAIT_MAX_MS, keep);
    }

    started = signer;
    await signer?.start();
    // The folders are there now.
    if (options.disks !== false) await disks.start();
    clocks.start();
    const outdated = Promise.withResolvers<readonly string[]>();
    const schema = new SchemaWatch(database.writer, outdated.resolve);
    await schema.start();
    watched.push(disks, clocks, schema);
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
    eraser?.start();
    jobs.start();
    exporter =
      options.exporting === false
        ? undefined
        : new Exporter({
            task: {
              ...{ connection, logins, keys: threadKeys, allowAddresses, hostname: hostname() },
              ...{ timing: EXPORT_TIMING, followerTiming: {} },
              ...options.exporting,
            },
            isWanted: () => isAnySinkActive(database.writer),
            notice: (tenantIds) => noticeEntries(database.writer, tenantIds),
            log,
          });
    exporter?.start();
    await scrubber?.start();
    keyRotation.start();
    holdKeeper.start();
    if (options.pruning !== false) pruner.start();
    await keySet?.start();

    let closed: Promise<void> | undefined;
    const close = async (): Promise<void> => {
      partitions.stop();
      archiving.abort();
      const rotating = keyRotation.close();
      const keeping = holdKeeper.close();
      const verifying = Promise.all([pruner.close(), jobs.close(), scrubber?.close()]);
      checkpoints.close();
      await Promise.all([server, metricsServer].map((one) => one && closeServer(one, GRACE_MS)));
      await apiKeys.close();
      await keySet?.close();
      await Promise.all([verifying, rotating, keeping, exporter?.close(), lines.close()]);
      await Promise.all([erasureSearch.close(), eraser?.close()]);
      await Promise.all([refusals.close(), life.stop(), keyUseEntries.close()]);
      teller.close();
      await sequencer.close();
      await batches.close();
      await anchors?.close();
      // The last events are signed too.
      await signer?.close();
      for (const one of watched) one.stop();
      await database.close();
    };
    return {
      server,
      metricsServer,
      certificate: tls?.certificate,
      database,
      origin,
      signer,
      pruner,
      outdated: outdated.promise,
      tellStart: () => life.start(),
      warm: () => batches.start(),
      close: () => {
        closed ??= close();
        return closed;
      },
    };
  } catch (error) {
    for (const one of watched) one.stop();
    // It would keep the lease.
    await started?.close();
    await database.close();
    throw error;
  }
}
