/** A block without some of its parts. What an erasure does with it in a database: erasure.test.ts. */
import { expect, test } from 'vitest';
import { packPayload, type StoredBlock } from '../src/chain/block.ts';
import { pendingEntry } from '../src/chain/entry.ts';
import { placeRecords } from '../src/chain/placed-records.ts';
import { NO_PREVIOUS } from '../src/chain/record.ts';
import { sealRuns, sealWith } from '../src/chain/sealed-run.ts';
import { KEPT_BITS, tagKeyOf, tagOf } from '../src/chain/tag.ts';
import { resealWithout } from '../src/retention/reseal.ts';

test('a tag that ends as one does that stays is not taken away with its entry', async () => {
  const dataKey = new Uint8Array(32).fill(7);
  const keys = { id: '1', dataKey, tagKey: tagKeyOf(dataKey) };
  // The first two of u-0, u-1 and on whose tags end alike under this key.
  const ids = ['u-537608', 'u-1484477'];
  const tags = ids.map((value) => tagOf({ kind: 'actor', value }, keys.tagKey));
  expect(new Set(tags).size).toBe(2);
  expect(new Set(tags.map((tag) => BigInt.asUintN(KEPT_BITS, tag))).size).toBe(1);

  const stream = { id: 1, tenantId: 1, name: 'acme/data_access', retentionMonths: 12 };
  const event = { action: 'thing.read', outcome: 'success', occurredAt: '2026-01-01T00:00:00Z' } as const;
  const entries = [...ids, 'alone'].map((id, n) =>
    pendingEntry(
      stream,
      { ...event, id: `event-${n}`, source: { service: 'mes' }, parts: { actor: { type: 'user', id } } },
      true,
    ),
  );
  const [run] = await sealRuns(
    entries,
    () => 202702,
    sealWith(async () => keys),
  );
  const { bundle } = placeRecords(
    entries.map(({ frame }) => frame),
    { seq: 0, previous: NO_PREVIOUS, recordedAt: '2026-01-01T00:00:00.000Z' },
  );
  const block: StoredBlock = {
    ...{
      dropMonth: 202702,
      firstSeq: 0,
      entries: entries.length,
      recordedFrom: 0,
      recordedTo: 0,
      ...run!.spans,
      keyId: keys.id,
    },
    ...{ records: packPayload(bundle), parts: run!.parts },
  };
  const gone = (...seqs: number[]) =>
    resealWithout(block, stream.name, keys, new Map(seqs.map((seq) => [seq, ['actor' as const]])))!.goneTags;
  const alone = tagOf({ kind: 'actor', value: 'alone' }, keys.tagKey);
  expect(gone(0, 2)).toEqual([alone]);
  expect(gone(0, 1)).toEqual(tags);
});
