-- Baseline of ingest.single: tamper evidence as applications usually add it to the audit table. Each event carries the hash of
-- the one before it, so writers queue on an advisory lock from reading the last hash until their commit has been answered.
-- The table is that of audit-table.sql, with the position and the two hashes.

-- name: schema
CREATE TABLE chained_event (
  seq           bigint      PRIMARY KEY,
  id            text        NOT NULL UNIQUE,
  occurred_at   timestamptz NOT NULL,
  recorded_at   timestamptz NOT NULL DEFAULT now(),
  actor         text,
  target        text,
  action        text        NOT NULL,
  body          jsonb       NOT NULL,
  previous_hash bytea       NOT NULL,
  hash          bytea       NOT NULL
) WITH (autovacuum_enabled = off); -- its vacuum must not run while the other side is measured; what it would cost is left out
CREATE INDEX chained_event_recorded_at ON chained_event (recorded_at);
CREATE INDEX chained_event_actor       ON chained_event (actor);
CREATE INDEX chained_event_target      ON chained_event (target);
CREATE INDEX chained_event_action      ON chained_event (action);

-- name: begin
BEGIN;

-- name: lock
-- A statement of its own: under READ COMMITTED the next one then sees what the last holder of the lock committed.
SELECT pg_advisory_xact_lock(7205);

-- name: last
SELECT seq, hash FROM chained_event ORDER BY seq DESC LIMIT 1;

-- name: insert
-- $8 and $9: the last row's hash and SHA-256 over it and the event's bytes, computed by the application.
INSERT INTO chained_event (seq, id, occurred_at, actor, target, action, body, previous_hash, hash)
VALUES ($1::bigint, $2::text, $3::timestamptz, $4::text, $5::text, $6::text, $7::jsonb, $8::bytea, $9::bytea);

-- name: commit
COMMIT;
