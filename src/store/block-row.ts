/** A row of the table `block` as the formats know it. */
import type { Selectable } from 'kysely';
import type { StoredBlock } from '../chain/block.ts';
import type { Tables } from './tables.ts';

/** Named, since a statement that was prepared for `*` fails for ever once a newer version added a column. Its tags are for the index. */
export const BLOCK_COLUMNS = [
  ...(['drop_month', 'first_seq', 'entries', 'recorded_from', 'recorded_to', 'occurred_from', 'occurred_to'] as const),
  ...(['severity_min', 'severity_max', 'outcomes', 'key_id', 'records', 'parts'] as const),
] as const;

export type BlockRow = Pick<Selectable<Tables['sealog.block']>, (typeof BLOCK_COLUMNS)[number]>;

export function storedBlock(row: BlockRow): StoredBlock {
  return {
    dropMonth: row.drop_month,
    firstSeq: row.first_seq,
    entries: row.entries,
    recordedFrom: row.recorded_from,
    recordedTo: row.recorded_to,
    occurredFrom: row.occurred_from,
    occurredTo: row.occurred_to,
    severityMin: row.severity_min,
    severityMax: row.severity_max,
    outcomes: row.outcomes,
    keyId: String(row.key_id),
    records: row.records,
    parts: row.parts,
  };
}
