-- The sealed log: roles, tables, and what keeps them append-only (docs/storage.md, DESIGN section 5).
--
-- Three layers, each enough against another kind of mistake: privileges (no role of the application may change or remove
-- what is stored), triggers that fire for everybody but the owner's own functions (also on every partition, also under
-- session_replication_role), and row-level security (a reader sees one tenant). None of them stops a superuser:
-- that is found by verification.

-- Roles belong to the whole server: another database of it may have made them, even at this moment.
DO $$
DECLARE
  wanted text;
BEGIN
  FOREACH wanted IN ARRAY ARRAY['sealog_owner', 'sealog_writer', 'sealog_reader', 'sealog_verifier'] LOOP
    BEGIN
      IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = wanted) THEN
        EXECUTE format('CREATE ROLE %I NOLOGIN NOSUPERUSER NOBYPASSRLS NOCREATEDB NOCREATEROLE NOREPLICATION', wanted);
      END IF;
    EXCEPTION
      WHEN duplicate_object OR unique_violation THEN NULL;
    END;
  END LOOP;
  -- A schema's owner must be allowed to create in the database.
  EXECUTE format('GRANT CREATE ON DATABASE %I TO sealog_owner', current_database());
  -- Whoever migrates must be able to act as the owner; a superuser is.
  IF NOT pg_catalog.pg_has_role(current_user, 'sealog_owner', 'MEMBER') THEN
    EXECUTE format('GRANT sealog_owner TO %I', current_user);
  END IF;
END
$$;

ALTER SCHEMA sealog OWNER TO sealog_owner;
REVOKE ALL ON SCHEMA sealog FROM PUBLIC;
GRANT USAGE ON SCHEMA sealog TO sealog_writer, sealog_reader, sealog_verifier;
GRANT SELECT ON sealog.migration TO sealog_writer, sealog_reader, sealog_verifier;

SET LOCAL ROLE sealog_owner;
SET LOCAL search_path = sealog, pg_catalog;

-- One row: what was fixed at the first start.
CREATE TABLE deployment (
  one        boolean     PRIMARY KEY DEFAULT true CHECK (one),
  origin     text        NOT NULL CHECK (origin ~ '^[a-z0-9]([a-z0-9.:/_-]{0,200}[a-z0-9])?$'),
  created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE tenant (
  id         integer     GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  name       text        NOT NULL UNIQUE CHECK (name ~ '^[a-z0-9][a-z0-9-]{0,62}$'),
  created_at timestamptz NOT NULL DEFAULT now()
);

-- A row a stream: the sequencer's lock and its whole state. Instants are milliseconds since 1970.
CREATE TABLE stream (
  id           integer  GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  tenant       integer  NOT NULL REFERENCES tenant,
  category     text     NOT NULL CHECK (category IN ('user_authentication', 'data_access', 'configuration_change',
                          'data_modification', 'security_event', 'system_operation', 'log_administration')),
  epoch        integer  NOT NULL CHECK (epoch >= 1),
  name         text     NOT NULL UNIQUE,
  size         bigint   NOT NULL DEFAULT 0 CHECK (size BETWEEN 0 AND 9007199254740991),
  head         bytea    NOT NULL DEFAULT decode(repeat('00', 32), 'hex') CHECK (octet_length(head) = 32),
  frontier     bytea    NOT NULL DEFAULT '' CHECK (octet_length(frontier) <= 53 * 32),
  recorded_at  bigint   NOT NULL DEFAULT 0,
  retain_until bigint,
  UNIQUE (tenant, category, epoch)
) WITH (fillfactor = 50);  -- half a page free: head updates stay on the page and touch no index

-- A key for the parts of one stream that expire in one month, wrapped by the month key of the key service.
CREATE TABLE data_key (
  id         bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  tenant     integer     NOT NULL,
  stream     integer     NOT NULL REFERENCES stream,
  drop_month integer     NOT NULL,
  month_key  text        NOT NULL,
  wrapped    bytea       NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now(),
  UNIQUE (stream, drop_month)
);

-- Consecutive entries of one stream. drop_month is year * 100 + month of the month in which the row may be dropped,
-- 0 for what is kept for ever, 1 for what a legal hold keeps. There is no DEFAULT partition: it would make every drop scan it.
CREATE TABLE block (
  tenant        integer  NOT NULL,
  stream        integer  NOT NULL,
  first_seq     bigint   NOT NULL CHECK (first_seq >= 0),
  entries       integer  NOT NULL CHECK (entries > 0),
  drop_month    integer  NOT NULL,
  recorded_from bigint   NOT NULL,
  recorded_to   bigint   NOT NULL,
  occurred_from bigint   NOT NULL,
  occurred_to   bigint   NOT NULL,
  key_id        bigint   NOT NULL,
  severity_min  smallint NOT NULL,
  severity_max  smallint NOT NULL,
  outcomes      smallint NOT NULL,
  records       bytea    NOT NULL,
  parts         bytea    NOT NULL,
  PRIMARY KEY (stream, first_seq, drop_month)
) PARTITION BY LIST (drop_month);
CREATE INDEX block_recorded ON block (stream, recorded_from);
-- Both are compressed already.
ALTER TABLE block ALTER COLUMN records SET STORAGE EXTERNAL, ALTER COLUMN parts SET STORAGE EXTERNAL;

CREATE TABLE tag (
  tenant     integer NOT NULL,
  stream     integer NOT NULL,
  tag        bigint  NOT NULL,
  first_seq  bigint  NOT NULL,
  drop_month integer NOT NULL
) PARTITION BY LIST (drop_month);
CREATE INDEX tag_lookup ON tag (stream, tag, first_seq);

-- id: 16 bytes of the hashed id. Not unique: after the time in which repeats are recognised an id may come again.
CREATE TABLE entry_id (
  tenant     integer NOT NULL,
  stream     integer NOT NULL,
  seq        bigint  NOT NULL,
  id         uuid    NOT NULL,
  drop_month integer NOT NULL
) PARTITION BY LIST (drop_month);
CREATE INDEX entry_id_lookup ON entry_id (stream, id);

-- Full tiles (C2SP tlog-tiles, height 8). They outlive pruned entries. root: of the tile's 256 hashes, the hash one level up.
CREATE TABLE tile (
  tenant     integer  NOT NULL,
  stream     integer  NOT NULL,
  level      smallint NOT NULL CHECK (level BETWEEN 0 AND 6),
  tile_index bigint   NOT NULL CHECK (tile_index >= 0),
  hashes     bytea    NOT NULL CHECK (octet_length(hashes) = 8192),
  root       bytea    NOT NULL CHECK (octet_length(root) = 32),
  PRIMARY KEY (stream, level, tile_index)
);
ALTER TABLE tile ALTER COLUMN hashes SET STORAGE EXTERNAL;

-- Append-only. The functions of the owner (pruning, holding, erasing) run as the owner and pass; nobody logs in as the owner.
CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF current_user = 'sealog_owner' THEN
    IF TG_OP = 'DELETE' THEN RETURN OLD; ELSE RETURN NEW; END IF;
  END IF;
  RAISE EXCEPTION '% on %.% is refused: the log is append-only', TG_OP, TG_TABLE_SCHEMA, TG_TABLE_NAME
    USING ERRCODE = 'insufficient_privilege';
END
$$;

-- A stream's row only ever moves forward.
CREATE FUNCTION guard_stream() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF current_user = 'sealog_owner' THEN RETURN NEW; END IF;
  IF (NEW.id, NEW.tenant, NEW.category, NEW.epoch, NEW.name) IS DISTINCT FROM (OLD.id, OLD.tenant, OLD.category, OLD.epoch, OLD.name)
     OR NEW.size <= OLD.size OR NEW.recorded_at < OLD.recorded_at OR NEW.retain_until < OLD.retain_until
     -- Kept for ever (NULL) is later than any time.
     OR (OLD.size > 0 AND OLD.retain_until IS NULL AND NEW.retain_until IS NOT NULL) THEN
    RAISE EXCEPTION 'stream % only moves forward', OLD.name USING ERRCODE = 'insufficient_privilege';
  END IF;
  RETURN NEW;
END
$$;

CREATE TRIGGER guard BEFORE UPDATE ON stream FOR EACH ROW EXECUTE FUNCTION guard_stream();
ALTER TABLE stream ENABLE ALWAYS TRIGGER guard;
CREATE TRIGGER append_only BEFORE DELETE ON stream FOR EACH ROW EXECUTE FUNCTION refuse_change();
ALTER TABLE stream ENABLE ALWAYS TRIGGER append_only;

DO $$
DECLARE
  one text;
BEGIN
  FOREACH one IN ARRAY ARRAY['deployment', 'tenant', 'data_key', 'block', 'tag', 'entry_id', 'tile'] LOOP
    EXECUTE format('CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON sealog.%I FOR EACH ROW EXECUTE FUNCTION sealog.refuse_change()', one);
    EXECUTE format('ALTER TABLE sealog.%I ENABLE ALWAYS TRIGGER append_only', one);
  END LOOP;
  FOREACH one IN ARRAY ARRAY['deployment', 'tenant', 'stream', 'data_key', 'block', 'tag', 'entry_id', 'tile'] LOOP
    EXECUTE format('CREATE TRIGGER no_truncate BEFORE TRUNCATE ON sealog.%I FOR EACH STATEMENT EXECUTE FUNCTION sealog.refuse_change()', one);
    EXECUTE format('ALTER TABLE sealog.%I ENABLE ALWAYS TRIGGER no_truncate', one);
  END LOOP;
END
$$;

-- Makes the three partitions of one drop month, if they are not there. They are filled by ATTACH, which does not wait for
-- readers and writers of other partitions as CREATE TABLE … PARTITION OF does. Row triggers come with ATTACH; that
-- against TRUNCATE does not, nor is it certain that a cloned trigger stays ALWAYS: both are set here.
CREATE FUNCTION ensure_drop_month(month integer) RETURNS boolean
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  one text;
  part text;
  made boolean := false;
BEGIN
  IF month NOT IN (0, 1) AND (month NOT BETWEEN 197001 AND 1000012 OR month % 100 NOT BETWEEN 1 AND 12) THEN
    RAISE EXCEPTION 'not a drop month: %', month USING ERRCODE = 'invalid_parameter_value';
  END IF;
  -- Two makers at once: the second waits, then finds everything there.
  PERFORM pg_advisory_xact_lock(hashtextextended('sealog.ensure_drop_month', 0));
  FOREACH one IN ARRAY ARRAY['block', 'tag', 'entry_id'] LOOP
    part := one || '_' || CASE month WHEN 0 THEN 'for_ever' WHEN 1 THEN 'held' ELSE month::text END;
    CONTINUE WHEN to_regclass(format('sealog.%I', part)) IS NOT NULL;
    EXECUTE format('CREATE TABLE sealog.%I (LIKE sealog.%I INCLUDING ALL, CHECK (drop_month = %s))', part, one, month);
    EXECUTE format('CREATE TRIGGER no_truncate BEFORE TRUNCATE ON sealog.%I FOR EACH STATEMENT EXECUTE FUNCTION sealog.refuse_change()', part);
    EXECUTE format('ALTER TABLE sealog.%I ENABLE ALWAYS TRIGGER no_truncate', part);
    EXECUTE format('ALTER TABLE sealog.%I ATTACH PARTITION sealog.%I FOR VALUES IN (%s)', one, part, month);
    EXECUTE format('ALTER TABLE sealog.%I ENABLE ALWAYS TRIGGER append_only', part);
    made := true;
  END LOOP;
  RETURN made;
END
$$;
REVOKE ALL ON FUNCTION refuse_change(), guard_stream(), ensure_drop_month(integer) FROM PUBLIC;

-- Row-level security: the writer appends for all tenants, the verifier reads all, a reader sees the tenant that its
-- transaction names (sealog.tenant, a tenant's id) and without it nothing.
DO $$
DECLARE
  one text;
  mine text;
BEGIN
  FOREACH one IN ARRAY ARRAY['tenant', 'stream', 'data_key', 'block', 'tag', 'entry_id', 'tile'] LOOP
    mine := CASE one WHEN 'tenant' THEN 'id' ELSE 'tenant' END;
    EXECUTE format('ALTER TABLE sealog.%I ENABLE ROW LEVEL SECURITY', one);
    EXECUTE format('ALTER TABLE sealog.%I FORCE ROW LEVEL SECURITY', one);
    EXECUTE format('CREATE POLICY owner ON sealog.%I TO sealog_owner USING (true) WITH CHECK (true)', one);
    EXECUTE format('CREATE POLICY writer ON sealog.%I TO sealog_writer USING (true) WITH CHECK (true)', one);
    EXECUTE format('CREATE POLICY verifier ON sealog.%I FOR SELECT TO sealog_verifier USING (true)', one);
    EXECUTE format($policy$CREATE POLICY reader ON sealog.%I FOR SELECT TO sealog_reader
      USING (%I = (SELECT nullif(current_setting('sealog.tenant', true), '')::integer))$policy$, one, mine);
    EXECUTE format('GRANT SELECT ON sealog.%I TO sealog_writer, sealog_reader, sealog_verifier', one);
    EXECUTE format('GRANT INSERT ON sealog.%I TO sealog_writer', one);
  END LOOP;
END
$$;
GRANT UPDATE (size, head, frontier, recorded_at, retain_until) ON stream TO sealog_writer;
GRANT SELECT, INSERT ON deployment TO sealog_writer;
GRANT SELECT ON deployment TO sealog_reader, sealog_verifier;
GRANT EXECUTE ON FUNCTION ensure_drop_month(integer) TO sealog_writer;

RESET ROLE;
