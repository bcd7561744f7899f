/** Entries of long ago, in a database of today: stored by the real sequencer, whose transactions are told another time than the server's. */
import { ClockGuard } from '../../src/chain/clock-guard.ts';
import { pendingEntry } from '../../src/chain/entry.ts';
import { formatInstant } from '../../src/chain/retain-until.ts';
import { sealWith } from '../../src/chain/sealed-run.ts';
import { type AppendStore, type Receipt, Sequencer } from '../../src/chain/sequencer.ts';
import { fileMonthKeys } from '../../src/keys/file-month-keys.ts';
import { Keyring } from '../../src/keys/keyring.ts';
import { appendStore } from '../../src/store/append.ts';
import { findOrStoreKey, keyById } from '../../src/store/data-keys.ts';
import { Directory } from '../../src/store/directory.ts';
import type { TestService } from './service.ts';

type Category = 'data_access' | 'user_authentication' | 'configuration_change' | 'security_event';

/** What is needed of a service: its database, and where its month keys are. */
export interface OldLog {
  readonly app: Pick<TestService['app'], 'database'>;
  readonly config: Pick<TestService['config'], 'monthKeysDir'>;
}

/** Appends entries that were recorded at an instant, as far as the log can tell; with an actor whose name is `name`, so many in a block. */
export function appendOld(
  service: OldLog,
  at: number,
  count: number,
  {
    category = 'data_access',
    tenant = 'acme',
    name = 'Old Person',
    blockEntries = count,
  }: { category?: Category; tenant?: string; name?: string; blockEntries?: number } = {},
): Promise<Receipt[]> {
  const events = Array.from({ length: count }, (_, i) => ({
    ...{ id: `${tenant}-${category}-${at}-${i}`, action: `thing.act${i % 3}` },
    source: { service: 'mes', site: 'plant-7' },
    parts: { actor: { type: 'user', id: `u${i % 5}`, name }, target: { type: 'thing', id: `t${i % 7}` } },
  }));
  return appendAt(service, at, { tenant, category }, events, blockEntries);
}

/** The same for events of any category, also the log's own: whoever has the writer's role and the month keys can write them. */
export async function appendAt(
  service: OldLog,
  at: number,
  { tenant, category }: { readonly tenant: string; readonly category: Category | 'log_administration' },
  events: readonly Pick<Parameters<typeof pendingEntry>[1], 'id' | 'action' | 'source' | 'parts'>[],
  blockEntries = events.length,
): Promise<Receipt[]> {
  const { database } = service.app;
  const keyring = new Keyring(fileMonthKeys(service.config.monthKeysDir), {
    findOrStore: (stream, month, make) => findOrStoreKey(database.writer, stream, month, make),
    byId: (id) => keyById(database.verifier, id),
  });
  const real = appendStore(database);
  const store: AppendStore = {
    transact: (streams, queries, work, onWritten) =>
      real.transact(streams, queries, (transaction) => work({ ...transaction, now: at }), onWritten),
  };
  const silent = { debug() {}, warn() {}, error() {} };
  const wallClock = (): number => at;
  const sequencer = new Sequencer({
    ...{ store, wallClock, repeatDays: 30, queueEntriesMax: 100_000, queueBytesMax: 2 ** 30, log: silent },
    clock: new ClockGuard({ wall: wallClock, monotonic: () => 0 }),
    seal: sealWith((stream, dropMonth) => keyring.keysFor(stream, dropMonth)),
  });
  const stream = await new Directory({ writer: database.writer, makeTenants: true }).open(tenant, category);
  const entries = events.map((event) =>
    pendingEntry(stream, { ...event, outcome: 'success', severity: undefined, occurredAt: formatInstant(at) }, true),
  );
  const outcomes: Awaited<ReturnType<typeof sequencer.append>>[number][] = [];
  for (let next = 0; next < entries.length; next += blockEntries) {
    const some = entries.slice(next, next + blockEntries);
    outcomes.push(...(await sequencer.append({ kind: 'open', atomic: false, entries: some })));
  }
  await sequencer.close();
  return outcomes.map((outcome) => {
    if (outcome?.kind !== 'appended') throw new Error('an old entry was not appended');
    return outcome.receipt;
  });
}

/** The instant so many months before now, in the middle of its month. */
export function monthsAgo(months: number): number {
  const now = new Date();
  return Date.UTC(now.getUTCFullYear(), now.getUTCMonth() - months, 15, 12);
}
