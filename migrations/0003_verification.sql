-- Verification by the service itself: its runs, which are their own history (docs/storage.md).

SET LOCAL ROLE sealog_owner;
SET LOCAL search_path = sealog, pg_catalog;

-- A job of a tenant (all its streams, or those of one category), or a pass of the scrubber, which belongs to no tenant.
-- progress: what is counted while it runs, and the reports of streams that are finished, from which another replica goes on.
CREATE TABLE verification (
  id           uuid        PRIMARY KEY DEFAULT gen_random_uuid(),
  number       bigint      GENERATED ALWAYS AS IDENTITY UNIQUE,
  tenant       integer     REFERENCES tenant,
  category     text,
  kind         text        NOT NULL CHECK (kind IN ('job', 'scrub')),
  requested_by text        NOT NULL,
  state        text        NOT NULL DEFAULT 'waiting' CHECK (state IN ('waiting', 'running', 'done', 'failed')),
  progress     jsonb       NOT NULL DEFAULT '{}',
  verdict      text        CHECK (verdict IN ('intact', 'tampered', 'incomplete', 'not_provable')),
  report       jsonb,
  error        text,
  attempts     integer     NOT NULL DEFAULT 0 CHECK (attempts >= 0),
  owner        uuid,
  heartbeat    timestamptz,
  created_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
  started_at   timestamptz,
  finished_at  timestamptz
);

RESET ROLE;
