-- Baseline of ingest.batch and of disk: the audit table that a team would write itself. One row an event, the whole event as
-- jsonb, a unique id, and one index each for the questions an auditor asks: when, who, on what, which action.
-- It is kept as lean as it can be, so that the comparison flatters nobody: the only columns beside the body are those that are
-- indexed (and the event's own time), and the indexed time is the one that grows with every insert, the cheapest to index.

-- name: schema
CREATE TABLE audit_event (
  id          text        PRIMARY KEY,
  occurred_at timestamptz NOT NULL,
  recorded_at timestamptz NOT NULL DEFAULT now(),
  actor       text,
  target      text,
  action      text        NOT NULL,
  body        jsonb       NOT NULL
) WITH (autovacuum_enabled = off); -- its vacuum must not run while the other side is measured; what it would cost is left out
CREATE INDEX audit_event_recorded_at ON audit_event (recorded_at);
CREATE INDEX audit_event_actor       ON audit_event (actor);
CREATE INDEX audit_event_target      ON audit_event (target);
CREATE INDEX audit_event_action      ON audit_event (action);

-- name: insert
-- One statement, and so one transaction, per 500 events. Every parameter is an array with one element an event.
INSERT INTO audit_event (id, occurred_at, actor, target, action, body)
SELECT id, occurred_at::timestamptz, actor, target, action, body::jsonb
  FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[])
    AS event (id, occurred_at, actor, target, action, body);
