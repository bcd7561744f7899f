/**
 * `sealog recover`: makes a log go on that was put back to an older state, or rewritten, and says what is lost.
 *
 * Without `--yes` it shows what it would do and changes nothing (exit 2). Exit 0: nothing to do, or done.
 */
import { parseArgs } from 'node:util';
import type { Logger } from 'pino';
import { decodeCanonical } from '../chain/canonical.ts';
import { Checkpointer } from '../chain/checkpointer.ts';
import { ClockGuard } from '../chain/clock-guard.ts';
import { type PendingEntry, pendingEntry, type StreamRef } from '../chain/entry.ts';
import { type Entry, openBlock } from '../chain/open-block.ts';
import { isOpen } from '../chain/part.ts';
import { sealWith } from '../chain/sealed-run.ts';
import { type Outcome, Sequencer } from '../chain/sequencer.ts';
import type { Config } from '../config.ts';
import { EvidenceError, KeyUnavailableError, SettingsError } from '../errors.ts';
import { type Opening, openingEntry, ownEvents } from '../ingest/own-events.ts';
import { Keyring } from '../keys/keyring.ts';
import type { MonthKeys } from '../keys/month-keys.ts';
import { openMonthKeys } from '../keys/open-month-keys.ts';
import { replayErasures } from '../retention/erasure-replay.ts';
import { checkKeys, type SignedLog } from '../signer/acceptance.ts';
import { readErasureLedger } from '../signer/erasure-ledger.ts';
import { Mark, readMark } from '../signer/mark.ts';
import { findLosses, type Loss, type LostCategory } from '../signer/recovery.ts';
import { readSeeds, type SigningKeys, seedCount } from '../signer/seeds.ts';
import { appendStore } from '../store/append.ts';
import { tryLockFolder } from '../store/data-dir-lock.ts';
import { findOrStoreKey, keyById } from '../store/data-keys.ts';
import { type Database, openDatabase } from '../store/database.ts';
import { fixOrigin } from '../store/deployment.ts';
import { Directory } from '../store/directory.ts';
import { blockOf, blocksFrom } from '../store/log-reader.ts';
import { SignerLease } from '../store/signer.ts';
import { withConnection } from './connection.ts';
import { configuration } from './environment.ts';
import { commandLog } from './log.ts';
import { orUsage } from './usage.ts';

const SHOWN = 2;
/** Appending is refused meanwhile, whatever happens to us: the signer lets the database in again. */
const UNDER_WAY = 'a recovery is under way, or was begun and not finished: `sealog recover`';

export async function recoverCommand(args: string[]): Promise<number> {
  const options = {
    yes: { type: 'boolean' },
    'leave-unreadable': { type: 'boolean' },
    'new-mark': { type: 'boolean' },
  } as const;
  const { values } = orUsage(() => parseArgs({ args, options }));
  const config = configuration();
  const folder = config.signerDir;
  if (folder === undefined)
    throw new SettingsError(['recover needs SEALOG_SIGNER_DIR: only the signer knows what was signed']);
  // An empty folder, such as a mount point without its mount, knows nothing, and would find nothing wrong.
  if ((await seedCount(folder)) === 0) throw new SettingsError([`there is no signing seed in ${folder}`]);
  const hasMark = await readMark(folder).then(
    () => true,
    (error: unknown) => !isMissing(error),
  );
  if (!hasMark && values['new-mark'] !== true)
    throw new SettingsError([
      `mark.log is missing in ${folder}: restore it from a copy. Where it is lost for good: sealog recover --new-mark`,
    ]);
  const log = commandLog(config);
  return withConnection(config, log, async (connection, logins) => {
    const lock = await tryLockFolder(folder);
    if (lock === undefined)
      throw new SettingsError([`the signer folder ${folder} is in use: stop the service that signs`]);
    const lease = await SignerLease.take(logins.signer ?? connection);
    let recovery: Recovery | undefined;
    try {
      if (lease === undefined)
        throw new SettingsError(['another replica signs: stop it, it would refuse and come back']);
      const monthKeys = await openMonthKeys(config.masterKey, { allowAddresses: config.allowAddresses, log });
      const database = openDatabase({ connection, logins, readersMax: 1, log });
      const [mark, seeds] = [await Mark.open(folder), await readSeeds(folder)];
      recovery = new Recovery(config, log, database, monthKeys, lease, mark, seeds, folder);
      return await recovery.run({
        isMeant: values.yes === true,
        leavesUnreadable: values['leave-unreadable'] === true,
      });
    } finally {
      await recovery?.close();
      await lease?.release();
      await lock.release();
    }
  });
}

/** What an old epoch holds beyond what is known to have been signed. */
interface Held {
  readonly entries: number;
  /** Ranges that can not be read, in words. */
  readonly unreadable: readonly string[];
}

class Recovery {
  readonly #lease: SignerLease;
  readonly #mark: Mark;
  readonly #seeds: readonly SigningKeys[];
  readonly #folder: string;
  readonly #database: Database;
  readonly #keyring: Keyring;
  readonly #directory: Directory;
  readonly #sequencer: Sequencer;
  readonly #config: Config;
  readonly #log: Logger;

  constructor(
    config: Config,
    log: Logger,
    database: Database,
    monthKeys: MonthKeys,
    lease: SignerLease,
    mark: Mark,
    seeds: readonly SigningKeys[],
    folder: string,
  ) {
    this.#config = config;
    this.#log = log;
    this.#lease = lease;
    this.#mark = mark;
    this.#seeds = seeds;
    this.#folder = folder;
    this.#database = database;
    this.#keyring = new Keyring(monthKeys, {
      findOrStore: (stream, month, make) => findOrStoreKey(database.writer, stream, month, make),
      byId: (id) => keyById(database.verifier, id),
    });
    this.#directory = new Directory({ writer: database.writer, makeTenants: true });
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

  async run({ isMeant, leavesUnreadable }: { isMeant: boolean; leavesUnreadable: boolean }): Promise<number> {
    const signed = await this.#signedLog();
    const lost = await findLosses(signed);
    if (lost.length === 0) {
      process.stdout.write('Every stream agrees with what was signed: the service that signs lets the database in.\n');
      return 0;
    }
    const held = new Map<Loss, Held>();
    for (const loss of lost.flatMap(({ losses }) => losses)) held.set(loss, await this.#look(loss));
    process.stdout.write(planOf(lost, held));
    const isUnreadable = [...held.values()].some(({ unreadable }) => unreadable.length > 0);
    if (!isMeant || (isUnreadable && !leavesUnreadable)) {
      const how = isUnreadable ? 'sealog recover --yes --leave-unreadable' : 'sealog recover --yes';
      const first = isUnreadable ? 'Bring back the keys of what can not be read, if they are anywhere. ' : '';
      process.stdout.write(`Nothing was changed. ${first}To do this: ${how}\n`);
      return SHOWN;
    }
    await this.#lease.accept(await this.#lease.identity(), UNDER_WAY);
    // What is appended again is read from what is left.
    await this.#eraseAgain();
    for (const one of lost) await this.#recover(one);
    if (this.#mark.isCopied) await this.#mark.append([{ kind: 'settled' }]);
    process.stdout.write('Done. The service that signs lets the database in when it starts.\n');
    return 0;
  }

  /** The database is older than erasures that the ledger lists. */
  async #eraseAgain(): Promise<void> {
    const lines = await readErasureLedger(this.#folder);
    const deps = { lines, database: this.#database.verifier, keys: this.#keyring, log: this.#log };
    await replayErasures(deps, (...what) => this.#lease.eraseAgain(...what));
  }

  async #signedLog(): Promise<SignedLog> {
    const origin = await fixOrigin(this.#database.writer, this.#config.origin, false);
    if (this.#mark.origin === undefined)
      await this.#mark.append([
        { kind: 'origin', origin },
        { kind: 'generation', generation: 1, from: { epoch: 1, size: 0 } },
      ]);
    if (this.#mark.origin !== origin)
      throw new SettingsError([`the signer folder is that of ${this.#mark.origin}, and this log is ${origin}`]);
    const checkpointer = new Checkpointer({
      origin,
      store: this.#lease.checkpoints(),
      mark: {
        head: (stream) => this.#mark.head(stream),
        closedAt: (stream) => this.#mark.closedAt(stream),
        raise: async () => {},
      },
    });
    const [lease, mark] = [this.#lease, this.#mark];
    const signed = { lease, mark, checkpointer, keys: this.#seeds, origin, folder: this.#folder };
    await checkKeys(signed);
    return signed;
  }

  async #recover({ tenant, category, next, losses }: LostCategory): Promise<void> {
    const closed = losses.filter(({ stream }) =>
      this.#mark.closings().every((one) => one[0] !== stream || one[1] !== next.name),
    );
    await this.#mark.append(
      closed.map(({ stream, consistentSize: size }) => ({ kind: 'closed', stream, size, next: next.name }) as const),
    );
    for (const { stream } of losses) await this.#lease.closeEpoch(stream, next);
    const ref = await this.#directory.open(tenant, category);
    if (ref.name !== next.name) throw new Error(`the epoch ${next.name} could not be opened`);
    // Now nobody appends to the old epochs any more: what came since they were looked at is there, too.
    const streams = await this.#lease.streams();
    const now = losses.map((loss) => ({ ...loss, stored: streams.get(loss.stream) }));
    for (const loss of now)
      await this.#append([openingEntry(ref, detailsOf(loss, (await this.#look(loss)).entries), Date.now())]);
    let [appended, seen] = [0, 0];
    for (const loss of now) {
      for await (const entries of this.#held(loss, () => {})) {
        const outcomes = await this.#append(entries.map((entry) => again(ref, entry)));
        appended += outcomes.filter((outcome) => outcome?.kind === 'appended').length;
        seen += outcomes.filter((outcome) => outcome?.kind === 'seen').length;
      }
    }
    for (const loss of now) await this.#tell(loss, tenant, next.name);
    await this.#mark.append([{ kind: 'opened', stream: next.name }]);
    const repeats = seen === 0 ? '' : `; ${seen} were there already, by their ids`;
    process.stdout.write(`${next.name} goes on; ${appended} entries were appended again${repeats}\n`);
  }

  async #append(entries: readonly PendingEntry[]): Promise<readonly (Outcome | undefined)[]> {
    return this.#sequencer.append({ kind: 'open', atomic: false, entries });
  }

  async #look(loss: Loss): Promise<Held> {
    const unreadable: string[] = [];
    let entries = 0;
    for await (const some of this.#held(loss, (words) => unreadable.push(words))) entries += some.length;
    return { entries, unreadable };
  }

  /** Entries of the old epoch beyond what is known to have been signed, block by block. */
  async *#held(
    { stream, stored, consistentSize }: Loss,
    isUnreadable: (words: string) => void,
  ): AsyncIterable<Entry[]> {
    if (stored === undefined) return;
    for (let seq = consistentSize; seq < stored.size; ) {
      const block = await blockOf(this.#database.verifier, stored.id, seq);
      if (block === undefined) {
        const [after] = await blocksFrom(this.#database.verifier, stored.id, seq, 1);
        const end = Math.min(after?.firstSeq ?? stored.size, stored.size);
        isUnreadable(`entries ${seq} to ${end - 1} are not there`);
        seq = Math.max(end, seq + 1);
        continue;
      }
      const end = block.firstSeq + block.entries;
      try {
        const { dataKey } = await this.#keyring.keysById(block.keyId);
        yield openBlock(block, stream, dataKey).filter(({ record }) => record.seq >= seq);
      } catch (error) {
        if (!(error instanceof KeyUnavailableError || error instanceof EvidenceError)) throw error;
        isUnreadable(`entries ${seq} to ${end - 1} can not be read: ${error.message}`);
      }
      seq = end;
    }
  }

  async #tell(loss: Loss, tenant: string, next: string): Promise<void> {
    const append = ownEvents({
      openStream: (name, category) => this.#directory.open(name, category),
      append: (submission) => this.#sequencer.append(submission),
      wallClock: Date.now,
    });
    const details = { ...detailsOf(loss, undefined), next };
    await append(tenant, 'log_administration', { action: 'log.recovered', outcome: 'success', details });
  }
}

function isMissing(error: unknown): boolean {
  return error instanceof Error && 'code' in error && error.code === 'ENOENT';
}

function detailsOf({ stream, last, consistentSize }: Loss, reappended: number | undefined): Opening {
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

function planOf(lost: readonly LostCategory[], held: ReadonlyMap<Loss, Held>): string {
  const lines = lost.flatMap(({ next, losses }) => [
    ...losses.flatMap((loss) => {
      const { stream, detail, last, consistentSize } = loss;
      const { entries, unreadable } = held.get(loss)!;
      const isLost = consistentSize < last.size;
      return [
        `${stream} ${detail}`,
        `  it is closed at size ${consistentSize}, the last at which it is known to be what was signed`,
        isLost
          ? `  entries ${consistentSize} to ${last.size - 1} were signed and can not be shown to be there: they count as lost`
          : '  nothing that is known to have been signed is lost',
        `  ${entries} entries that it holds beyond are appended again`,
        ...unreadable.map((words) => `  not appended again: ${words}`),
      ];
    }),
    `  ${next.name} goes on for it`,
  ]);
  return `${lines.join('\n')}\n`;
}
