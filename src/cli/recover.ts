/**
 * `sealog recover`: makes a log go on that was put back to an older state, or rewritten, and says what is lost.
 *
 * Without `--yes` it shows what it would do and changes nothing (exit 2). Exit 0: nothing to do, or done.
 */
import { parseArgs } from 'node:util';
import type pg from 'pg';
import { type Logger, pino } from 'pino';
import { toHex } from '../chain/bytes.ts';
import { decodeCanonical, type JsonObject } from '../chain/canonical.ts';
import { OWN_TENANT } from '../chain/category.ts';
import { decodeCheckpoint } from '../chain/checkpoint.ts';
import { ClockGuard } from '../chain/clock-guard.ts';
import { type PendingEntry, pendingEntry, type StreamRef } from '../chain/entry.ts';
import { noteVerifier, openNote, parseVkey } from '../chain/note.ts';
import { type Entry, openBlock } from '../chain/open-block.ts';
import { isOpen } from '../chain/part.ts';
import { formatInstant } from '../chain/retain-until.ts';
import { sealWith } from '../chain/sealed-run.ts';
import { Sequencer } from '../chain/sequencer.ts';
import type { Config } from '../config.ts';
import { EvidenceError, KeyUnavailableError, SettingsError } from '../errors.ts';
import { OWN_SOURCE, ownEvents } from '../ingest/own-events.ts';
import { uuidV7 } from '../ingest/uuid-v7.ts';
import { fileMonthKeys } from '../keys/file-month-keys.ts';
import { Keyring } from '../keys/keyring.ts';
import { retentionMonths } from '../retention/policy.ts';
import { Mark, type SignedHead } from '../signer/mark.ts';
import { findLosses, type Loss } from '../signer/recovery.ts';
import { readSeeds, type SigningKeys } from '../signer/seeds.ts';
import { appendStore } from '../store/append.ts';
import { tryLockFolder } from '../store/data-dir-lock.ts';
import { findOrStoreKey, keyById } from '../store/data-keys.ts';
import { type Database, openDatabase } from '../store/database.ts';
import { fixOrigin } from '../store/deployment.ts';
import { Directory } from '../store/directory.ts';
import { blockOf } from '../store/log-reader.ts';
import { SignerLease } from '../store/signer.ts';
import { withConnection } from './connection.ts';
import { configuration } from './environment.ts';
import { orUsage } from './usage.ts';

const SHOWN = 2;
/** Entries that are read and appended together. */
const STEP_ENTRIES = 500;

export async function recoverCommand(args: string[]): Promise<number> {
  const { values } = orUsage(() => parseArgs({ args, options: { yes: { type: 'boolean' } } }));
  const config = configuration();
  const folder = config.signerDir;
  if (folder === undefined)
    throw new SettingsError(['recover needs SEALOG_SIGNER_DIR: only the signer knows what was signed']);
  const log = pino({ level: config.logLevel, base: null }, pino.destination({ dest: 2, sync: true }));
  return withConnection(config, log, async (connection) => {
    const lock = await tryLockFolder(folder);
    if (lock === undefined)
      throw new SettingsError([`the signer folder ${folder} is in use: stop the service that signs`]);
    const lease = await SignerLease.take(connection);
    try {
      if (lease === undefined)
        throw new SettingsError(['another replica signs: stop it, it would refuse and come back']);
      const recovery = new Recovery(config, log, connection, lease, await Mark.open(folder), await readSeeds(folder));
      try {
        return await recovery.run(values.yes === true);
      } finally {
        await recovery.close();
      }
    } finally {
      await lease?.release();
      await lock.release();
    }
  });
}

class Recovery {
  readonly #lease: SignerLease;
  readonly #mark: Mark;
  readonly #seeds: readonly SigningKeys[];
  readonly #database: Database;
  readonly #keyring: Keyring;
  readonly #directory: Directory;
  readonly #sequencer: Sequencer;
  readonly #config: Config;

  constructor(
    config: Config,
    log: Logger,
    connection: pg.ClientConfig,
    lease: SignerLease,
    mark: Mark,
    seeds: readonly SigningKeys[],
  ) {
    this.#config = config;
    this.#lease = lease;
    this.#mark = mark;
    this.#seeds = seeds;
    const database = openDatabase({ connection, readersMax: 1, log });
    this.#database = database;
    this.#keyring = new Keyring(fileMonthKeys(config.monthKeysDir), {
      findOrStore: (stream, month, make) => findOrStoreKey(database.writer, stream, month, make),
      byId: (id) => keyById(database.verifier, id),
    });
    this.#directory = new Directory({ writer: database.writer, makeTenants: true, retentionMonths });
    this.#sequencer = new Sequencer({
      store: appendStore(database),
      seal: sealWith((stream, month) => this.#keyring.keysFor(stream, month)),
      clock: new ClockGuard({ wall: Date.now, monotonic: () => performance.now() }),
      wallClock: Date.now,
      repeatDays: config.repeatDays,
      queueEntriesMax: config.limits.queueEntriesMax,
      queueBytesMax: config.limits.queueBytesMax,
      isRecovery: true,
      log,
    });
  }

  async close(): Promise<void> {
    await this.#sequencer.close();
    await this.#mark.close();
    await this.#database.close();
  }

  async run(isMeant: boolean): Promise<number> {
    const origin = await fixOrigin(this.#database.writer, this.#config.origin, false);
    if (this.#mark.origin !== undefined && this.#mark.origin !== origin)
      throw new SettingsError([`the signer folder is that of ${this.#mark.origin}, and this log is ${origin}`]);
    const losses = await findLosses(this.#lease, this.#mark, origin, (stream, note) =>
      this.#openOwn(origin, stream, note),
    );
    process.stdout.write(planOf(losses));
    if (losses.length > 0 && !isMeant) {
      process.stdout.write('Nothing was changed. To do this: sealog recover --yes\n');
      return SHOWN;
    }
    for (const loss of losses) await this.#recover(loss);
    // Told when every stream goes on again, its own included.
    for (const loss of losses) await this.#tell(loss);
    await this.#lease.accept(await this.#lease.identity(), undefined);
    process.stdout.write('The database is accepted: the service can go on.\n');
    return 0;
  }

  async #recover(loss: Loss): Promise<void> {
    const { stream, consistentSize, next } = loss;
    if (this.#mark.closedAt(stream) === undefined)
      await this.#mark.append([{ kind: 'closed', stream, size: consistentSize, next: next.name }]);
    await this.#lease.closeEpoch(stream, next);
    const ref = await this.#directory.open(next.tenant, next.category);
    const row = (await this.#lease.streams()).get(next.name);
    if (row === undefined || ref.name !== next.name) throw new Error(`the epoch ${next.name} could not be opened`);
    const entries = await this.#held(loss);
    if (row.size === 0) {
      const details = detailsOf(loss, entries.length);
      const now = Date.now();
      const fields = {
        id: uuidV7(now),
        action: 'epoch.opened',
        outcome: 'success' as const,
        occurredAt: formatInstant(now),
      };
      await this.#append([pendingEntry(ref, { ...fields, source: OWN_SOURCE, parts: { details } }, false)]);
    }
    for (let at = 0; at < entries.length; at += STEP_ENTRIES)
      await this.#append(entries.slice(at, at + STEP_ENTRIES).map((entry) => again(ref, entry)));
    await this.#mark.append([{ kind: 'opened', stream: next.name }]);
    process.stdout.write(`${next.name} goes on; ${entries.length} entries were appended again\n`);
  }

  async #append(entries: readonly PendingEntry[]): Promise<void> {
    await this.#sequencer.append({ kind: 'open', atomic: false, entries });
  }

  /** What the old epoch still holds beyond what is known to have been signed. What can not be read is told, and left where it is. */
  async #held({ stream, stored, consistentSize }: Loss): Promise<Entry[]> {
    const entries: Entry[] = [];
    if (stored === undefined) return entries;
    for (let seq = consistentSize; seq < stored.size; ) {
      const block = await blockOf(this.#database.verifier, stored.id, seq);
      if (block === undefined) {
        process.stdout.write(`${stream}: entry ${seq} is not there\n`);
        seq += 1;
        continue;
      }
      const end = block.firstSeq + block.entries;
      try {
        const { dataKey } = await this.#keyring.keysById(block.keyId);
        entries.push(...openBlock(block, stream, dataKey).filter(({ record }) => record.seq >= seq));
      } catch (error) {
        // Without its key a block would be lost for good: that is the operator's to mend first.
        if (error instanceof KeyUnavailableError || !(error instanceof EvidenceError)) throw error;
        process.stdout.write(`${stream}: entries ${seq} to ${end - 1} can not be read: ${error.message}\n`);
      }
      seq = end;
    }
    return entries;
  }

  async #tell(loss: Loss): Promise<void> {
    const append = ownEvents({
      openStream: (tenant, category) => this.#directory.open(tenant, category),
      append: (submission) => this.#sequencer.append(submission),
      wallClock: Date.now,
    });
    const tenant = loss.next.category === 'anchor' ? OWN_TENANT : loss.next.tenant;
    const details = { ...detailsOf(loss, undefined), next: loss.next.name };
    await append(tenant, 'log_administration', { action: 'log.recovered', outcome: 'success', details });
  }

  #openOwn(origin: string, stream: string, note: string): SignedHead | undefined {
    const name = `${origin}/${stream}`;
    for (const keys of this.#seeds) {
      try {
        const { text } = openNote(note, [noteVerifier(parseVkey(keys.signer(name).vkey))]);
        const { size, root } = decodeCheckpoint(text);
        return { size, root: toHex(root) };
      } catch (error) {
        if (!(error instanceof EvidenceError)) throw error;
      }
    }
    return undefined;
  }
}

function detailsOf({ stream, last, consistentSize }: Loss, reappended: number | undefined): JsonObject {
  const lost = consistentSize < last.size ? { from: consistentSize, to: last.size } : null;
  return {
    closed: { consistentSize, lastRoot: last.root, lastSize: last.size, stream },
    lost,
    ...(reappended === undefined ? {} : { reappended }),
  };
}

/** An entry's event, for a new place: with a fresh salt for each part. What it can repeat is only itself. */
function again(stream: StreamRef, { record, parts }: Entry): PendingEntry {
  const values = Object.fromEntries(
    parts.flatMap((part) => (isOpen(part) ? [[part.name, decodeCanonical(part.value)]] : [])),
  );
  const { id, action, outcome, severity, occurredAt, source, evidence } = record;
  return pendingEntry(stream, { id, action, outcome, severity, occurredAt, source, evidence, parts: values }, true);
}

function planOf(losses: readonly Loss[]): string {
  if (losses.length === 0) return 'Every stream agrees with what was signed.\n';
  const lines = losses.flatMap(({ stream, detail, last, consistentSize, stored, next }) => {
    const held = Math.max(0, (stored?.size ?? 0) - consistentSize);
    const lost =
      consistentSize < last.size
        ? `  entries ${consistentSize} to ${last.size - 1} were signed and can not be shown to be there: they count as lost`
        : '  nothing that was signed is lost';
    return [
      `${stream} ${detail}`,
      `  it is closed at size ${consistentSize}, the last at which it is known to be what was signed`,
      lost,
      `  ${next.name} begins; ${held} entries that the old epoch holds beyond are appended again`,
    ];
  });
  return `${lines.join('\n')}\n`;
}
