-- Keys of services that have no identity provider (docs/access.md). What is presented is never stored: only its hash.

SET LOCAL ROLE sealog_owner;
SET LOCAL search_path = sealog, pg_catalog;

-- Instants are whole milliseconds, so that a page of a list can go on from one.
CREATE TABLE api_key (
  id             text        PRIMARY KEY CHECK (id ~ '^[0-9a-f]{16}$'),
  tenant         integer     NOT NULL REFERENCES tenant,
  name           text        NOT NULL CHECK (length(name) BETWEEN 1 AND 100 AND name !~ '[\u0001-\u001f\u007f-\u009f]'),
  -- SHA-256 of the secret's 32 random bytes; of nothing that could be guessed, so whoever reads it has nothing.
  hash           bytea       NOT NULL CHECK (octet_length(hash) = 32),
  -- Whether the present secret was ever used: one that was not is not what services have.
  hash_used      boolean     NOT NULL DEFAULT false,
  -- The secret before, and until when it still holds.
  previous_hash  bytea       CHECK (octet_length(previous_hash) = 32),
  previous_until timestamptz,
  rotated_at     timestamptz,
  -- Null = all.
  categories     text[]      CHECK (cardinality(categories) BETWEEN 1 AND 6 AND categories <@ ARRAY['user_authentication',
                               'data_access', 'configuration_change', 'data_modification', 'security_event', 'system_operation']),
  sites          text[]      CHECK (cardinality(sites) BETWEEN 1 AND 100 AND array_position(sites, NULL) IS NULL),
  created_at     timestamptz NOT NULL DEFAULT date_trunc('milliseconds', clock_timestamp()),
  created_by     text        NOT NULL CHECK (length(created_by) <= 256),
  expires_at     timestamptz NOT NULL,
  revoked_at     timestamptz,
  revoked_by     text        CHECK (length(revoked_by) <= 256),
  -- To the hour.
  last_used_at   timestamptz,
  -- Two years, and a day in which the clocks of service and database may differ.
  CHECK (expires_at - created_at <= interval '732 days'),
  CHECK ((previous_hash IS NULL) = (previous_until IS NULL)),
  CHECK (previous_until IS NULL OR (rotated_at IS NOT NULL AND previous_until - rotated_at <= interval '7 days')),
  CHECK ((revoked_at IS NULL) = (revoked_by IS NULL))
) WITH (fillfactor = 50);
CREATE INDEX api_key_tenant ON api_key (tenant, created_at, id);
CREATE INDEX api_key_unrevoked ON api_key (tenant) WHERE revoked_at IS NULL;

-- What was asked for never changes, what is revoked stays as it is, and no secret that was replaced comes back or holds longer.
CREATE FUNCTION guard_api_key() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF current_user = 'sealog_owner' THEN RETURN NEW; END IF;
  IF OLD.revoked_at IS NOT NULL
     OR (NEW.id, NEW.tenant, NEW.name, NEW.created_at, NEW.created_by) IS DISTINCT FROM (OLD.id, OLD.tenant, OLD.name, OLD.created_at, OLD.created_by)
     OR NEW.categories IS DISTINCT FROM OLD.categories OR NEW.sites IS DISTINCT FROM OLD.sites
     OR NEW.expires_at > OLD.expires_at
     OR (OLD.last_used_at IS NOT NULL AND (NEW.last_used_at IS NULL OR NEW.last_used_at < OLD.last_used_at)) THEN
    RAISE EXCEPTION 'the API key % is revoked, or was asked for otherwise', OLD.id USING ERRCODE = 'insufficient_privilege';
  END IF;
  IF (NEW.hash IS NOT DISTINCT FROM OLD.hash AND ((OLD.hash_used AND NOT NEW.hash_used) OR NEW.rotated_at IS DISTINCT FROM OLD.rotated_at))
     OR (NEW.hash IS DISTINCT FROM OLD.hash AND (NEW.hash_used OR NEW.rotated_at IS NULL OR NEW.rotated_at < OLD.rotated_at))
     -- The secret before is none, the one that has just been replaced, or the one that it was, and then no longer than it was to be.
     OR NOT (NEW.previous_hash IS NULL
             OR (NEW.hash IS DISTINCT FROM OLD.hash AND NEW.previous_hash = OLD.hash)
             OR (NEW.previous_hash IS NOT DISTINCT FROM OLD.previous_hash AND NEW.previous_until <= OLD.previous_until)) THEN
    RAISE EXCEPTION 'a secret of the API key % can not come back', OLD.id USING ERRCODE = 'insufficient_privilege';
  END IF;
  RETURN NEW;
END
$$;
REVOKE ALL ON FUNCTION guard_api_key() FROM PUBLIC;
CREATE TRIGGER guard BEFORE UPDATE ON api_key FOR EACH ROW EXECUTE FUNCTION guard_api_key();
ALTER TABLE api_key ENABLE ALWAYS TRIGGER guard;
CREATE TRIGGER append_only BEFORE DELETE ON api_key FOR EACH ROW EXECUTE FUNCTION refuse_change();
ALTER TABLE api_key ENABLE ALWAYS TRIGGER append_only;
CREATE TRIGGER no_truncate BEFORE TRUNCATE ON api_key FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
ALTER TABLE api_key ENABLE ALWAYS TRIGGER no_truncate;

ALTER TABLE api_key ENABLE ROW LEVEL SECURITY;
ALTER TABLE api_key FORCE ROW LEVEL SECURITY;
CREATE POLICY owner ON api_key TO sealog_owner USING (true) WITH CHECK (true);
CREATE POLICY writer ON api_key TO sealog_writer USING (true) WITH CHECK (true);
CREATE POLICY verifier ON api_key FOR SELECT TO sealog_verifier USING (true);
CREATE POLICY reader ON api_key FOR SELECT TO sealog_reader
  USING (tenant = (SELECT nullif(current_setting('sealog.tenant', true), '')::integer));

GRANT SELECT ON api_key TO sealog_writer, sealog_reader, sealog_verifier;
GRANT INSERT (id, tenant, name, hash, categories, sites, created_by, expires_at) ON api_key TO sealog_writer;
GRANT UPDATE (hash, hash_used, previous_hash, previous_until, rotated_at, revoked_at, revoked_by, last_used_at) ON api_key TO sealog_writer;

RESET ROLE;
