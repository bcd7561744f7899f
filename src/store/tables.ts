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
    closed: Generated<boolean>;
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
  'sealog.migration': { name: string; timestamp: string };
}
