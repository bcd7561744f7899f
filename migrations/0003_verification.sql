-- Verification by the service itself: its runs, which are their own history (docs/storage.md).

SET LOCAL ROLE sealog_owner;
SET LOCAL search_path = sealog, pg_catalog;

-- A job of a tenant (over all its streams, or those of one category), or a pass of the scrubber, which belongs to no tenant.
CREATE TABLE verification (
  id           uuid        PRIMARY KEY DEFAULT gen_random_uuid(),
  -- In the order in which they were asked for.
  number       bigint      GENERATED ALWAYS AS IDENTITY UNIQUE,
  kind         text        NOT NULL CHECK (kind IN ('job', 'scrub')),
  tenant       integer     REFERENCES tenant,
  category     text        CHECK (category ~ '^[a-z_]{1,40}$'),
  requested_by text        NOT NULL CHECK (length(requested_by) <= 256),
  state        text        NOT NULL DEFAULT 'waiting' CHECK (state IN ('waiting', 'running', 'done', 'failed')),
  -- What is counted while it runs, and the reports of streams that are finished, from which another replica goes on.
  progress     jsonb       NOT NULL DEFAULT '{}',
  verdict      text        CHECK (verdict IN ('intact', 'tampered', 'incomplete', 'not_provable')),
  report       jsonb,
  -- Why it failed, in words.
  error        text        CHECK (length(error) <= 1000),
  -- How often it was begun since it last got on.
  attempts     integer     NOT NULL DEFAULT 0 CHECK (attempts >= 0),
  -- Who runs it, and when he last said so. Nobody, or one who is silent: whoever is free goes on with it.
  owner        uuid,
  heartbeat    timestamptz,
  created_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
  started_at   timestamptz,
  finished_at  timestamptz,
  CHECK ((kind = 'scrub') = (tenant IS NULL)),
  CHECK ((state = 'done') = (verdict IS NOT NULL AND report IS NOT NULL)),
  CHECK ((state IN ('done', 'failed')) = (finished_at IS NOT NULL))
) WITH (fillfactor = 50);
CREATE INDEX verification_tenant ON verification (tenant, number) WHERE kind = 'job';
CREATE INDEX verification_unfinished ON verification (kind, number) WHERE state IN ('waiting', 'running');
-- Two replicas begin the next pass at once: one does.
CREATE UNIQUE INDEX verification_one_scrub ON verification (kind) WHERE kind = 'scrub' AND state IN ('waiting', 'running');
CREATE INDEX verification_scrub ON verification (number) WHERE kind = 'scrub';

-- What is asked for never changes, and what is finished stays as it is: a verdict can not be corrected afterwards.
CREATE FUNCTION guard_verification() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF current_user = 'sealog_owner' THEN RETURN NEW; END IF;
  IF OLD.state IN ('done', 'failed')
     OR (NEW.id, NEW.number, NEW.kind, NEW.requested_by, NEW.created_at) IS DISTINCT FROM (OLD.id, OLD.number, OLD.kind, OLD.requested_by, OLD.created_at)
     OR NEW.tenant IS DISTINCT FROM OLD.tenant OR NEW.category IS DISTINCT FROM OLD.category
     OR (OLD.state = 'running' AND NEW.state = 'waiting')
     OR (OLD.started_at IS NOT NULL AND NEW.started_at IS DISTINCT FROM OLD.started_at) THEN
    RAISE EXCEPTION 'the verification % is finished, or was asked for otherwise', OLD.id USING ERRCODE = 'insufficient_privilege';
  END IF;
  RETURN NEW;
END
$$;
REVOKE ALL ON FUNCTION guard_verification() FROM PUBLIC;
CREATE TRIGGER guard BEFORE UPDATE ON verification FOR EACH ROW EXECUTE FUNCTION guard_verification();
ALTER TABLE verification ENABLE ALWAYS TRIGGER guard;
CREATE TRIGGER append_only BEFORE DELETE ON verification FOR EACH ROW EXECUTE FUNCTION refuse_change();
ALTER TABLE verification ENABLE ALWAYS TRIGGER append_only;
CREATE TRIGGER no_truncate BEFORE TRUNCATE ON verification FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
ALTER TABLE verification ENABLE ALWAYS TRIGGER no_truncate;

ALTER TABLE verification ENABLE ROW LEVEL SECURITY;
ALTER TABLE verification FORCE ROW LEVEL SECURITY;
CREATE POLICY owner ON verification TO sealog_owner USING (true) WITH CHECK (true);
CREATE POLICY writer ON verification TO sealog_writer USING (true) WITH CHECK (true);
CREATE POLICY verifier ON verification FOR SELECT TO sealog_verifier USING (true);
-- Passes of the scrubber have no tenant: no reader sees them.
CREATE POLICY reader ON verification FOR SELECT TO sealog_reader
  USING (tenant = (SELECT nullif(current_setting('sealog.tenant', true), '')::integer));

GRANT SELECT ON verification TO sealog_writer, sealog_reader, sealog_verifier;
GRANT INSERT (kind, tenant, category, requested_by, progress) ON verification TO sealog_writer;
GRANT UPDATE (state, progress, verdict, report, error, attempts, owner, heartbeat, started_at, finished_at) ON verification TO sealog_writer;

RESET ROLE;
