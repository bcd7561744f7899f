-- Baselines of ingest.limit and of ingest.single.p99: what PostgreSQL needs for the text of the events alone. One column, no index, no
-- constraint, nothing parsed: nobody can find anything in it again. It is the edge of what any service on this server could do.

-- name: schema
CREATE TABLE event_text (
  body text NOT NULL
) WITH (autovacuum_enabled = off); -- its vacuum must not run while the other side is measured; what it would cost is left out

-- name: copy
-- One statement, and so one transaction, per 500 events, whose rows were escaped before the clock ran.
COPY event_text (body) FROM STDIN;

-- name: insert
-- One event, and with it one COMMIT.
INSERT INTO event_text (body) VALUES ($1::text);
