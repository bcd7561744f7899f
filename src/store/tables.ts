/** The tables of `migrations/`, as kysely sees them. Instants are milliseconds since 1970. */
import type { Generated } from 'kysely';
import type { StoredRetention } from './streams.ts';

/** How far a pruning is; each but the last two is followed by the next. */
export type PruningState =
  | 'planned'
  | 'written'
  | 'certified'
  | 'anchored'
  | 'moved'
  | 'archived'
  | 'dropped'
  | 'destroyed'
  | 'done'
  | 'abandoned';

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
    closed: Generated<boolean>;
    pruned: Generated<number>;
    moved: Generated<number>;
    /** Set by the table itself where a row is made; null = for ever. */
    retention_months: Generated<number | null>;
    retention_before: StoredRetention | null;
    retention_next: number | null;
    turned: Generated<boolean>;
  };
  'sealog.retention_policy': {
    tenant: number;
    category: string;
    number: number;
    months: number;
    evidence: 'refuse' | 'flag';
    at: Generated<Date>;
    by: string;
    reason: string | null;
  };
  'sealog.data_key': {
    id: Generated<number>;
    tenant: number;
    stream: number;
    drop_month: number;
    month_key: string;
    wrapped: Buffer;
  };
  'sealog.data_key_form': { data_key: number; generation: number; month_key: string; wrapped: Buffer };
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
    /** Placed (`chain/tag.ts`). */
    tags: unknown;
  };
  'sealog.entry_id': {
    tenant: number;
    stream: number;
    first_seq: number;
    drop_month: number;
    /** Halves of hashed ids (`bigint-arrays.ts`). */
    ids: unknown;
    ids_rest: unknown;
  };
  'sealog.tile': { tenant: number; stream: number; level: number; tile_index: number; hashes: Buffer; root: Buffer };
  'sealog.tile_edge': { tenant: number; stream: number; tile_index: number; width: number; hashes: Buffer };
  'sealog.pruning': {
    id: Generated<string>;
    number: Generated<number>;
    drop_month: number;
    requested_by: string;
    outside: boolean;
    state: Generated<PruningState>;
    waiting: string | null;
    month_keys: Generated<string[]>;
    undelivered: Generated<unknown>;
    holds_seen: number | null;
    created_at: Generated<Date>;
    dropped_at: Date | null;
    finished_at: Date | null;
  };
  'sealog.pruning_certificate': {
    run: string;
    tenant: number;
    stream: number;
    first_seq: number;
    end_seq: number;
    retain_until: number;
    certificate: string;
    entry_stream: number | null;
    entry_seq: number | null;
  };
  'sealog.hold': {
    id: string;
    number: Generated<number>;
    tenant: number;
    category: string | null;
    epoch: number | null;
    criteria: unknown;
    reason: string;
    placed_by: string;
    placed_at: Generated<Date>;
    state: Generated<'placing' | 'active' | 'released'>;
    release: string | null;
    released_at: Date | null;
  };
  'sealog.clock_mark': { one: Generated<boolean>; seen: number; doubted_since: number | null };
  'sealog.signer': {
    one: Generated<boolean>;
    system_identifier: string;
    timeline: number;
    incarnation: string;
    refusal: string | null;
    looked_at: Generated<Date>;
  };
  'sealog.key_statement': { name: string; generation: number; vkey: string; note: string };
  'sealog.checkpoint': {
    stream: number;
    tenant: number;
    size: number;
    root: Buffer;
    generation: number;
    note: string;
    signed_at: Generated<Date>;
  };
  'sealog.anchor_leaf': {
    tick: Buffer;
    position: number;
    hash: Buffer;
    tenant: number;
    stream: number | null;
    size: number | null;
    root: Buffer | null;
    blind: Buffer | null;
    evidence: number | null;
  };
  'sealog.outside_evidence': {
    id: Generated<number>;
    anchor: string;
    kind: 'rfc3161' | 'witness' | 'folder';
    stream: number;
    size: number;
    note: string;
    evidence: Buffer;
    certificates: Buffer[];
    crls: Buffer[];
    evidence_time: number;
    ends: number | null;
    recorded_at: Generated<Date>;
  };
  'sealog.verification': {
    id: Generated<string>;
    number: Generated<number>;
    kind: 'job' | 'scrub';
    tenant: number | null;
    category: string | null;
    requested_by: string;
    state: Generated<'waiting' | 'running' | 'done' | 'failed'>;
    progress: Generated<unknown>;
    verdict: 'intact' | 'tampered' | 'incomplete' | 'not_provable' | null;
    report: unknown;
    error: string | null;
    attempts: Generated<number>;
    owner: string | null;
    heartbeat: Date | null;
    created_at: Generated<Date>;
    started_at: Date | null;
    finished_at: Date | null;
  };
  'sealog.tenant_setting': {
    tenant: number;
    number: number;
    state: 'open' | 'closed';
    events_per_second: number | null;
    burst_events: number | null;
    bytes_per_second: number | null;
    reads_per_second: number | null;
    at: Generated<Date>;
    by: string;
    reason: string | null;
  };
  'sealog.proposal': {
    id: string;
    number: Generated<number>;
    tenant: number;
    kind: string;
    request: unknown;
    reason: string;
    proposed_by: string;
    proposed_at: Generated<Date>;
    expires_at: Generated<Date>;
    state: Generated<'proposed' | 'approved' | 'rejected' | 'withdrawn' | 'done' | 'failed'>;
    decided_by: string | null;
    decided_at: Date | null;
    decision_reason: string | null;
    plan: unknown;
    done_at: Date | null;
    error: string | null;
  };
  'sealog.erasure': {
    id: string;
    tenant: number;
    state: Generated<'searching' | 'found' | 'failed'>;
    blocks: Generated<number>;
    more: Generated<boolean>;
    heartbeat: Generated<Date>;
    certificates: number | null;
  };
  'sealog.erasure_entry': {
    erasure: string;
    tenant: number;
    stream: number;
    seq: number;
    event_id: string;
    parts: string[];
    refused: 'legal_hold' | 'legal_duty' | null;
    hold: string | null;
    certificate: number | null;
  };
  'sealog.erased': { tenant: number; stream: number; seq: number; certificate: string; parts: string[] };
  'sealog.api_key': {
    id: string;
    tenant: number;
    name: string;
    hash: Buffer;
    hash_used: Generated<boolean>;
    previous_hash: Buffer | null;
    previous_until: Date | null;
    rotated_at: Date | null;
    categories: string[] | null;
    sites: string[] | null;
    created_at: Generated<Date>;
    created_by: string;
    expires_at: Date;
    revoked_at: Date | null;
    revoked_by: string | null;
    last_used_at: Date | null;
  };
  'sealog.sink': {
    id: Generated<string>;
    tenant: number;
    name: string;
    config: unknown;
    secret: Buffer | null;
    secret_key: number | null;
    state: Generated<'active' | 'paused' | 'disabled' | 'deleted'>;
    revision: Generated<number>;
    from_file: Generated<boolean>;
    created_at: Generated<Date>;
    created_by: string;
    owner: string | null;
    heartbeat: Date | null;
    delivered_at: Date | null;
    failures: Generated<number>;
    error: string | null;
    error_at: Date | null;
    retry_at: Date | null;
  };
  'sealog.sink_cursor': {
    sink: string;
    tenant: number;
    stream: number;
    next_seq: number;
    parked_at: Date | null;
    parked_reason: string | null;
  };
  'sealog.migration': { name: string; timestamp: string };
}
