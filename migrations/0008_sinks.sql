-- Destinations of the log: what each is, who follows it, and how far it got (docs/export.md).

SET LOCAL ROLE sealog_owner;
SET LOCAL search_path = sealog, pg_catalog;

CREATE TABLE sink (
  id           uuid        PRIMARY KEY DEFAULT gen_random_uuid(),
  tenant       integer     NOT NULL REFERENCES tenant,
  name         text        NOT NULL CHECK (length(name) BETWEEN 1 AND 100 AND name !~ '[\u0001-\u001f\u007f-\u009f]'),
  -- Type, address, format, filter; nothing secret.
  config       jsonb       NOT NULL,
  -- What must not be read here, sealed under a data key.
  secret       bytea,
  secret_key   bigint      REFERENCES data_key,
  state        text        NOT NULL DEFAULT 'active' CHECK (state IN ('active', 'paused', 'disabled', 'deleted')),
  -- Raised by every change that whoever follows it must learn of: what he writes names the revision that he knows.
  revision     integer     NOT NULL DEFAULT 1,
  -- Made from the operator's file, which alone changes it.
  from_file    boolean     NOT NULL DEFAULT false,
  created_at   timestamptz NOT NULL DEFAULT date_trunc('milliseconds', clock_timestamp()),
  created_by   text        NOT NULL CHECK (length(created_by) <= 256),
  -- Who follows it, and when he last said so. Nobody, or one who is silent: whoever is free goes on with it.
  owner        uuid,
  heartbeat    timestamptz,
  delivered_at timestamptz,
  failures     integer     NOT NULL DEFAULT 0 CHECK (failures >= 0),
  error        text        CHECK (length(error) <= 500),
  error_at     timestamptz,
  retry_at     timestamptz,
  CHECK ((secret IS NULL) = (secret_key IS NULL)),
  CHECK (state <> 'deleted' OR secret IS NULL)
) WITH (fillfactor = 50);
CREATE UNIQUE INDEX sink_name ON sink (tenant, name) WHERE state <> 'deleted';
CREATE INDEX sink_free ON sink (heartbeat) WHERE state = 'active';

-- How far a sink got in a stream; without a row it begins at 0.
CREATE TABLE sink_cursor (
  sink          uuid        NOT NULL REFERENCES sink,
  tenant        integer     NOT NULL,
  stream        integer     NOT NULL REFERENCES stream,
  -- The first entry that was not delivered yet.
  next_seq      bigint      NOT NULL CHECK (next_seq >= 0),
  -- The entry at next_seq can not be delivered as it is: nothing moves until an administrator says how to go on.
  parked_at     timestamptz,
  parked_reason text        CHECK (length(parked_reason) <= 500),
  PRIMARY KEY (sink, stream),
  CHECK ((parked_at IS NULL) = (parked_reason IS NULL))
) WITH (fillfactor = 50);

CREATE FUNCTION guard_sink() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF current_user = 'sealog_owner' THEN RETURN NEW; END IF;
  IF OLD.state = 'deleted' OR NEW.revision < OLD.revision
     OR (NEW.id, NEW.tenant, NEW.created_at, NEW.created_by, NEW.from_file)
        IS DISTINCT FROM (OLD.id, OLD.tenant, OLD.created_at, OLD.created_by, OLD.from_file) THEN
    RAISE EXCEPTION 'the sink % is deleted, or was made otherwise', OLD.id USING ERRCODE = 'insufficient_privilege';
  END IF;
  RETURN NEW;
END
$$;
REVOKE ALL ON FUNCTION guard_sink() FROM PUBLIC;
CREATE TRIGGER guard BEFORE UPDATE ON sink FOR EACH ROW EXECUTE FUNCTION guard_sink();
ALTER TABLE sink ENABLE ALWAYS TRIGGER guard;

DO $$
DECLARE
  one text;
BEGIN
  FOREACH one IN ARRAY ARRAY['sink', 'sink_cursor'] LOOP
    EXECUTE format('CREATE TRIGGER append_only BEFORE DELETE ON sealog.%I FOR EACH ROW EXECUTE FUNCTION sealog.refuse_change()', one);
    EXECUTE format('ALTER TABLE sealog.%I ENABLE ALWAYS TRIGGER append_only', one);
    EXECUTE format('CREATE TRIGGER no_truncate BEFORE TRUNCATE ON sealog.%I FOR EACH STATEMENT EXECUTE FUNCTION sealog.refuse_change()', one);
    EXECUTE format('ALTER TABLE sealog.%I ENABLE ALWAYS TRIGGER no_truncate', one);
    EXECUTE format('ALTER TABLE sealog.%I ENABLE ROW LEVEL SECURITY', one);
    EXECUTE format('ALTER TABLE sealog.%I FORCE ROW LEVEL SECURITY', one);
    EXECUTE format('CREATE POLICY owner ON sealog.%I TO sealog_owner USING (true) WITH CHECK (true)', one);
    EXECUTE format('CREATE POLICY writer ON sealog.%I TO sealog_writer USING (true) WITH CHECK (true)', one);
    EXECUTE format('CREATE POLICY verifier ON sealog.%I FOR SELECT TO sealog_verifier USING (true)', one);
    EXECUTE format($policy$CREATE POLICY reader ON sealog.%I FOR SELECT TO sealog_reader
      USING (tenant = (SELECT nullif(current_setting('sealog.tenant', true), '')::integer))$policy$, one);
    EXECUTE format('GRANT SELECT ON sealog.%I TO sealog_writer, sealog_reader, sealog_verifier', one);
  END LOOP;
END
$$;
GRANT INSERT (id, tenant, name, config, secret, secret_key, state, from_file, created_by) ON sink TO sealog_writer;
GRANT UPDATE (name, config, secret, secret_key, state, revision, owner, heartbeat, delivered_at, failures, error, error_at, retry_at)
  ON sink TO sealog_writer;
GRANT INSERT (sink, tenant, stream, next_seq, parked_at, parked_reason) ON sink_cursor TO sealog_writer;
GRANT UPDATE (next_seq, parked_at, parked_reason) ON sink_cursor TO sealog_writer;

RESET ROLE;
