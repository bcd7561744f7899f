-- Generations of month keys: a new one wraps what is new, and what is there is wrapped again, without a row being changed (docs/keys.md).

SET LOCAL ROLE sealog_owner;
SET LOCAL search_path = sealog, pg_catalog;

-- The first generation is there without a row.
CREATE TABLE key_generation (
  generation   integer     PRIMARY KEY CHECK (generation BETWEEN 2 AND 999999),
  begun_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
  -- A person of the tenant sealog, or NULL: it was time.
  begun_by     text        CHECK (length(begun_by) BETWEEN 1 AND 256),
  -- Since when every data key has a form of this generation.
  rewrapped_at timestamptz,
  -- Since when the keys of all earlier generations are destroyed.
  retired_at   timestamptz,
  CHECK (rewrapped_at IS NOT NULL OR retired_at IS NULL)
);

-- A data key, wrapped by a later generation of its month key than the one that its row has. Rows are added and never changed: whoever adds a
-- form that does not open keeps no older one from opening.
CREATE TABLE data_key_form (
  data_key   bigint      NOT NULL REFERENCES data_key ON DELETE CASCADE,
  generation integer     NOT NULL REFERENCES key_generation,
  month_key  text        NOT NULL CHECK (length(month_key) <= 32),
  wrapped    bytea       NOT NULL CHECK (length(wrapped) <= 8192),
  created_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (data_key, generation)
);

-- Whether a month key was ever used: one that was and is not there was lost, and is not made anew.
CREATE INDEX data_key_drop_month ON data_key (drop_month, id);

-- Generations come one after another, and only move forward.
CREATE FUNCTION guard_key_generation() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF TG_OP = 'INSERT' THEN
    IF NEW.generation <> 1 + coalesce((SELECT max(generation) FROM sealog.key_generation), 1) THEN
      RAISE EXCEPTION 'generation % is not the next', NEW.generation USING ERRCODE = 'unique_violation';
    END IF;
    NEW.begun_at := clock_timestamp();
    NEW.rewrapped_at := NULL;
    NEW.retired_at := NULL;
    RETURN NEW;
  END IF;
  IF (NEW.generation, NEW.begun_at, NEW.begun_by) IS DISTINCT FROM (OLD.generation, OLD.begun_at, OLD.begun_by)
     OR OLD.rewrapped_at IS NOT NULL AND NEW.rewrapped_at IS DISTINCT FROM OLD.rewrapped_at
     OR OLD.retired_at IS NOT NULL AND NEW.retired_at IS DISTINCT FROM OLD.retired_at THEN
    RAISE EXCEPTION 'generation % only moves forward', OLD.generation USING ERRCODE = 'insufficient_privilege';
  END IF;
  RETURN NEW;
END
$$;
REVOKE ALL ON FUNCTION guard_key_generation() FROM PUBLIC;
CREATE TRIGGER guard BEFORE INSERT OR UPDATE ON key_generation FOR EACH ROW EXECUTE FUNCTION guard_key_generation();
ALTER TABLE key_generation ENABLE ALWAYS TRIGGER guard;
CREATE TRIGGER append_only BEFORE DELETE ON key_generation FOR EACH ROW EXECUTE FUNCTION refuse_change();
ALTER TABLE key_generation ENABLE ALWAYS TRIGGER append_only;
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON data_key_form FOR EACH ROW EXECUTE FUNCTION refuse_change();
ALTER TABLE data_key_form ENABLE ALWAYS TRIGGER append_only;

DO $$
DECLARE
  one text;
BEGIN
  FOREACH one IN ARRAY ARRAY['key_generation', 'data_key_form'] LOOP
    EXECUTE format('CREATE TRIGGER no_truncate BEFORE TRUNCATE ON sealog.%I FOR EACH STATEMENT EXECUTE FUNCTION sealog.refuse_change()', one);
    EXECUTE format('ALTER TABLE sealog.%I ENABLE ALWAYS TRIGGER no_truncate', one);
  END LOOP;
END
$$;

-- Nobody who answers clients reads wrapped keys.
GRANT SELECT ON key_generation, data_key_form TO sealog_writer, sealog_verifier;
GRANT INSERT (generation, begun_by), UPDATE (rewrapped_at, retired_at) ON key_generation TO sealog_writer;
GRANT INSERT (data_key, generation, month_key, wrapped) ON data_key_form TO sealog_writer;

RESET ROLE;
