-- Proof: who signs and what was signed, what was anchored, and what the outside said to it (docs/storage.md).

SET LOCAL ROLE sealog_owner;
SET LOCAL search_path = sealog, pg_catalog;

-- The anchor stream is one of the deployment's own.
ALTER TABLE stream DROP CONSTRAINT stream_category_check;
ALTER TABLE stream ADD CONSTRAINT stream_category_check CHECK (category IN ('user_authentication', 'data_access',
  'configuration_change', 'data_modification', 'security_event', 'system_operation', 'log_administration', 'anchor'));

-- An epoch that is closed takes no more entries: a recovery opened the next (docs/format.md section 23).
ALTER TABLE stream ADD COLUMN closed boolean NOT NULL DEFAULT false;

CREATE OR REPLACE FUNCTION guard_stream() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF current_user = 'sealog_owner' THEN RETURN NEW; END IF;
  -- Closing changes nothing else, and comes after the next epoch's row.
  IF NEW.closed AND NOT OLD.closed
     AND EXISTS (SELECT FROM sealog.stream AS n WHERE n.tenant = OLD.tenant AND n.category = OLD.category AND n.epoch > OLD.epoch) AND (NEW.size, NEW.head, NEW.frontier, NEW.recorded_at) = (OLD.size, OLD.head, OLD.frontier, OLD.recorded_at)
     AND (NEW.id, NEW.tenant, NEW.category, NEW.epoch, NEW.name) = (OLD.id, OLD.tenant, OLD.category, OLD.epoch, OLD.name)
     AND NEW.retain_until IS NOT DISTINCT FROM OLD.retain_until THEN
    RETURN NEW;
  END IF;
  IF (NEW.id, NEW.tenant, NEW.category, NEW.epoch, NEW.name) IS DISTINCT FROM (OLD.id, OLD.tenant, OLD.category, OLD.epoch, OLD.name)
     OR OLD.closed OR NEW.closed
     OR NEW.size <= OLD.size OR NEW.recorded_at < OLD.recorded_at OR NEW.retain_until < OLD.retain_until
     -- Kept for ever (NULL) is later than any time.
     OR (OLD.size > 0 AND OLD.retain_until IS NULL AND NEW.retain_until IS NOT NULL) THEN
    RAISE EXCEPTION 'stream % only moves forward', OLD.name USING ERRCODE = 'insufficient_privilege';
  END IF;
  RETURN NEW;
END
$$;
GRANT UPDATE (closed) ON stream TO sealog_writer;

-- One row: the server that the signer accepted, or why it accepts none. Appending asks for it (store/append.ts): a server that was
-- started again, or another one, is refused until the signer has held its streams to its own mark.
CREATE TABLE signer (
  one               boolean     PRIMARY KEY DEFAULT true CHECK (one),
  system_identifier text        NOT NULL,
  timeline          integer     NOT NULL,
  -- The start of the server, the database, and this table in it: a restore of whatever kind makes another.
  incarnation       text        NOT NULL,
  refusal           text,
  looked_at         timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- Key statements (docs/format.md section 19), as signed notes.
CREATE TABLE key_statement (
  name       text    NOT NULL,
  generation integer NOT NULL CHECK (generation >= 1),
  vkey       text    NOT NULL,
  note       text    NOT NULL,
  PRIMARY KEY (name, generation)
);

-- The newest signed checkpoint of each stream.
CREATE TABLE checkpoint (
  stream     integer     PRIMARY KEY REFERENCES stream,
  tenant     integer     NOT NULL,
  size       bigint      NOT NULL CHECK (size BETWEEN 0 AND 9007199254740991),
  root       bytea       NOT NULL CHECK (octet_length(root) = 32),
  generation integer     NOT NULL,
  note       text        NOT NULL,
  signed_at  timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (fillfactor = 50);

-- Leaves of ticks. A checkpoint leaf has stream, size, root and blind; an evidence leaf has evidence. They are there before
-- the tick's entry is appended: a tick without an entry means nothing.
CREATE TABLE anchor_leaf (
  tick     bytea   NOT NULL CHECK (octet_length(tick) = 32),
  position integer NOT NULL CHECK (position >= 0),
  hash     bytea   NOT NULL CHECK (octet_length(hash) = 32),
  tenant   integer NOT NULL,
  stream   integer,
  size     bigint,
  root     bytea   CHECK (octet_length(root) = 32),
  blind    bytea   CHECK (octet_length(blind) = 16),
  evidence bigint,
  PRIMARY KEY (tick, position),
  CHECK ((evidence IS NULL) = (stream IS NOT NULL AND size IS NOT NULL AND root IS NOT NULL AND blind IS NOT NULL))
);
CREATE INDEX anchor_leaf_stream ON anchor_leaf (stream, size) WHERE stream IS NOT NULL;
CREATE INDEX anchor_leaf_evidence ON anchor_leaf (evidence) WHERE evidence IS NOT NULL;

-- Whether a tick's entry was appended: its id is the root, looked up by its hash (docs/format.md section 15).
CREATE FUNCTION is_tick(root bytea) RETURNS boolean LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT EXISTS (
    SELECT FROM sealog.entry_id AS e JOIN sealog.stream AS a ON a.id = e.stream
    WHERE e.drop_month = 0 AND a.category = 'anchor' AND e.id = encode(substring(sha256(
      convert_to('sealog/id/v1', 'UTF8') || '\x00'::bytea || convert_to(encode(root, 'hex'), 'UTF8')) FROM 1 FOR 16), 'hex')::uuid)
$$;

-- What an authority, a witness or a folder said to a checkpoint of the anchor stream (its note).
CREATE TABLE outside_evidence (
  id            bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  anchor        text        NOT NULL,
  kind          text        NOT NULL CHECK (kind IN ('rfc3161', 'witness', 'folder')),
  stream        integer     NOT NULL REFERENCES stream,
  size          bigint      NOT NULL,
  note          text        NOT NULL,
  evidence      bytea       NOT NULL,
  certificates  bytea[]     NOT NULL DEFAULT '{}',
  crls          bytea[]     NOT NULL DEFAULT '{}',
  evidence_time bigint      NOT NULL,
  -- When what signed it is no longer good, milliseconds since 1970: a tick has it before.
  ends          bigint,
  recorded_at   timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX outside_evidence_size ON outside_evidence (stream, size);
CREATE INDEX outside_evidence_anchor ON outside_evidence (anchor, id);

-- A stream's checkpoint only ever grows; the same size is signed again only for another key, and with the same root.
CREATE FUNCTION guard_checkpoint() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF current_user = 'sealog_owner' THEN RETURN NEW; END IF;
  IF NEW.size > (SELECT s.size FROM sealog.stream AS s WHERE s.id = NEW.stream) THEN
    RAISE EXCEPTION 'the checkpoint of stream % is ahead of it', NEW.stream USING ERRCODE = 'insufficient_privilege';
  END IF;
  IF TG_OP = 'INSERT' THEN RETURN NEW; END IF;
  IF (NEW.stream, NEW.tenant) IS DISTINCT FROM (OLD.stream, OLD.tenant) OR NEW.size < OLD.size OR NEW.generation < OLD.generation
     OR (NEW.size = OLD.size AND NEW.root <> OLD.root) THEN
    RAISE EXCEPTION 'the checkpoint of stream % only moves forward', OLD.stream USING ERRCODE = 'insufficient_privilege';
  END IF;
  RETURN NEW;
END
$$;
REVOKE ALL ON FUNCTION guard_checkpoint(), is_tick(bytea) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION is_tick(bytea) TO sealog_writer, sealog_verifier;
CREATE TRIGGER guard BEFORE INSERT OR UPDATE ON checkpoint FOR EACH ROW EXECUTE FUNCTION guard_checkpoint();
ALTER TABLE checkpoint ENABLE ALWAYS TRIGGER guard;
CREATE TRIGGER append_only BEFORE DELETE ON checkpoint FOR EACH ROW EXECUTE FUNCTION refuse_change();
ALTER TABLE checkpoint ENABLE ALWAYS TRIGGER append_only;

DO $$
DECLARE
  one text;
BEGIN
  FOREACH one IN ARRAY ARRAY['key_statement', 'anchor_leaf', 'outside_evidence'] LOOP
    EXECUTE format('CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON sealog.%I FOR EACH ROW EXECUTE FUNCTION sealog.refuse_change()', one);
    EXECUTE format('ALTER TABLE sealog.%I ENABLE ALWAYS TRIGGER append_only', one);
  END LOOP;
  FOREACH one IN ARRAY ARRAY['key_statement', 'checkpoint', 'anchor_leaf', 'outside_evidence'] LOOP
    EXECUTE format('CREATE TRIGGER no_truncate BEFORE TRUNCATE ON sealog.%I FOR EACH STATEMENT EXECUTE FUNCTION sealog.refuse_change()', one);
    EXECUTE format('ALTER TABLE sealog.%I ENABLE ALWAYS TRIGGER no_truncate', one);
  END LOOP;
  FOREACH one IN ARRAY ARRAY['checkpoint', 'anchor_leaf'] LOOP
    EXECUTE format('ALTER TABLE sealog.%I ENABLE ROW LEVEL SECURITY', one);
    EXECUTE format('ALTER TABLE sealog.%I FORCE ROW LEVEL SECURITY', one);
    EXECUTE format('CREATE POLICY owner ON sealog.%I TO sealog_owner USING (true) WITH CHECK (true)', one);
    EXECUTE format('CREATE POLICY writer ON sealog.%I TO sealog_writer USING (true) WITH CHECK (true)', one);
    EXECUTE format('CREATE POLICY verifier ON sealog.%I FOR SELECT TO sealog_verifier USING (true)', one);
    EXECUTE format($policy$CREATE POLICY reader ON sealog.%I FOR SELECT TO sealog_reader
      USING (tenant = (SELECT nullif(current_setting('sealog.tenant', true), '')::integer))$policy$, one);
  END LOOP;
END
$$;

GRANT SELECT ON signer, key_statement, checkpoint, anchor_leaf, outside_evidence TO sealog_writer, sealog_reader, sealog_verifier;
GRANT INSERT ON signer, key_statement, checkpoint, anchor_leaf, outside_evidence TO sealog_writer;
GRANT UPDATE (system_identifier, timeline, incarnation, refusal, looked_at) ON signer TO sealog_writer;
GRANT UPDATE (size, root, generation, note, signed_at) ON checkpoint TO sealog_writer;

RESET ROLE;
