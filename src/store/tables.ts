/** The tables of `migrations/`, as kysely sees them. Instants are milliseconds since 1970. */
import type { Generated } from 'kysely';

export interface Tables {
  'sealog.deployment': { one: Generated<boolean>; origin: string };
  'sealog.tenant': { id: Generated<number>; name: string };
  'sealog.stream': {
    id: Generated<number>;
    tenant: number;
    category: string;
    epoch: number;
    name: string;
    size: number;
    head: Buffer;
    frontier: Buffer;
    recorded_at: number;
    retain_until: number | null;
  };
  'sealog.data_key': {
    id: Generated<number>;
    tenant: number;
    stream: number;
    drop_month: number;
    month_key: string;
    wrapped: Buffer;
  };
  'sealog.block': {
    tenant: number;
    stream: number;
    first_seq: number;
    entries: number;
    drop_month: number;
    recorded_from: number;
    recorded_to: number;
    occurred_from: number;
    occurred_to: number;
    key_id: number;
    severity_min: number;
    severity_max: number;
    outcomes: number;
    records: Buffer;
    parts: Buffer;
  };
  'sealog.tag': { tenant: number; stream: number; tag: string; first_seq: number; drop_month: number };
  'sealog.entry_id': { tenant: number; stream: number; seq: number; id: string; drop_month: number };
  'sealog.tile': { tenant: number; stream: number; level: number; tile_index: number; hashes: Buffer; root: Buffer };
  'sealog.migration': { name: string; timestamp: string };
}
