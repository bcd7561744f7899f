-- Pruning: what has expired goes, behind a certificate that is signed and anchored (docs/retention.md, docs/format.md section 24).

SET LOCAL ROLE sealog_owner;
SET LOCAL search_path = sealog, pg_catalog;

-- How far a stream's oldest part was pruned: for answers, never as evidence.
ALTER TABLE stream ADD COLUMN pruned bigint NOT NULL DEFAULT 0 CHECK (pruned >= 0);

-- The first leaf hashes of a tile that was not full when entries in it were pruned: proofs go on with them, and so does the sequencer.
CREATE TABLE tile_edge (
  tenant     integer NOT NULL,
  stream     integer NOT NULL,
  tile_index bigint  NOT NULL CHECK (tile_index >= 0),
  width      integer NOT NULL CHECK (width BETWEEN 1 AND 255),
  hashes     bytea   NOT NULL CHECK (octet_length(hashes) = 32 * width),
  PRIMARY KEY (stream, tile_index, width)
);
ALTER TABLE tile_edge ALTER COLUMN hashes SET STORAGE EXTERNAL;

-- A run prunes one drop month, step by step; whoever finds it unfinished goes on with it.
CREATE TABLE pruning (
  id           uuid        PRIMARY KEY DEFAULT gen_random_uuid(),
  number       bigint      GENERATED ALWAYS AS IDENTITY UNIQUE,
  drop_month   integer     NOT NULL CHECK (drop_month BETWEEN 197001 AND 1000012),
  requested_by text        NOT NULL CHECK (length(requested_by) BETWEEN 1 AND 256),
  -- Whether an outside time must say that the time has come.
  outside      boolean     NOT NULL,
  state        text        NOT NULL DEFAULT 'planned' CHECK (state IN
                 ('planned', 'written', 'certified', 'anchored', 'moved', 'archived', 'dropped', 'destroyed', 'done', 'abandoned')),
  -- What it waits for, or why it was given up, in words.
  waiting      text        CHECK (length(waiting) <= 1000),
  -- Holds up to this number were looked at for what is certified (0015).
  holds_seen   bigint,
  -- The names of the month keys that go with it.
  month_keys   text[]      NOT NULL DEFAULT '{}',
  -- Sinks that what went was not delivered to, as it was when it went: [{tenant, sink, stream, from, to}].
  undelivered  jsonb       NOT NULL DEFAULT '[]',
  created_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
  dropped_at   timestamptz,
  finished_at  timestamptz,
  CHECK ((state IN ('done', 'abandoned')) = (finished_at IS NOT NULL))
) WITH (fillfactor = 50);
-- One at a time, the oldest month first: so what is pruned of a stream is always its oldest part.
CREATE UNIQUE INDEX pruning_one ON pruning ((true)) WHERE state NOT IN ('done', 'abandoned');

-- What a run certifies of each stream, fixed before any of it is appended.
CREATE TABLE pruning_certificate (
  run          uuid    NOT NULL REFERENCES pruning,
  tenant       integer NOT NULL,
  stream       integer NOT NULL REFERENCES stream,
  first_seq    bigint  NOT NULL CHECK (first_seq >= 0),
  end_seq      bigint  NOT NULL CHECK (end_seq > first_seq),
  retain_until bigint  NOT NULL,
  -- The canonical text of the entry's details.
  certificate  text    NOT NULL,
  -- Where the entry stands, once it does.
  entry_stream integer REFERENCES stream,
  entry_seq    bigint,
  PRIMARY KEY (run, stream),
  CHECK ((entry_stream IS NULL) = (entry_seq IS NULL))
) WITH (fillfactor = 50);
CREATE INDEX pruning_certificate_stream ON pruning_certificate (stream, end_seq);

-- The database's clock at the last look, and since when nobody vouches for it (docs/retention.md, Clocks).
CREATE TABLE clock_mark (
  one           boolean PRIMARY KEY DEFAULT true CHECK (one),
  seen          bigint  NOT NULL,
  doubted_since bigint
);
INSERT INTO clock_mark (seen) VALUES (floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint);

-- The hash under which entry_id has an id (docs/format.md section 15).
CREATE FUNCTION id_hash(id text) RETURNS uuid LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT encode(substring(sha256(convert_to('sealog/id/v1', 'UTF8') || '\x00'::bytea || convert_to(id, 'UTF8')) FROM 1 FOR 16), 'hex')::uuid
$$;

-- Whether an entry is under a tick, and the latest time that somebody outside stated over it. Some leaves may lack their tick's entry.
CREATE FUNCTION anchored_at(of_stream integer, of_seq bigint) RETURNS TABLE (ticked boolean, outside bigint)
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT count(*) > 0, max((SELECT max(o.evidence_time) FROM sealog.outside_evidence AS o
    WHERE o.stream = e.stream AND o.size > e.seq AND o.kind <> 'folder'))
  FROM (SELECT l.tick FROM sealog.anchor_leaf AS l WHERE l.stream = of_stream AND l.size > of_seq ORDER BY l.size LIMIT 20) AS t
  JOIN sealog.entry_id AS e ON e.drop_month = 0 AND e.id = sealog.id_hash(encode(t.tick, 'hex'))
  JOIN sealog.stream AS a ON a.id = e.stream AND a.category = 'anchor'
$$;

-- A run only goes forward, and nobody but drop_month says that its month was dropped.
CREATE FUNCTION guard_pruning() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF current_user = 'sealog_owner' THEN RETURN NEW; END IF;
  IF (NEW.id, NEW.number, NEW.drop_month, NEW.requested_by, NEW.outside, NEW.month_keys, NEW.undelivered, NEW.created_at, NEW.dropped_at, NEW.holds_seen)
     IS DISTINCT FROM (OLD.id, OLD.number, OLD.drop_month, OLD.requested_by, OLD.outside, OLD.month_keys, OLD.undelivered, OLD.created_at, OLD.dropped_at,
       OLD.holds_seen)
     OR OLD.state IN ('done', 'abandoned')
     OR NOT (NEW.state = OLD.state OR (OLD.state, NEW.state) IN (('planned', 'written'), ('written', 'certified'), ('certified', 'anchored'),
       ('anchored', 'moved'), ('moved', 'archived'), ('dropped', 'destroyed'), ('destroyed', 'done'), ('planned', 'abandoned'),
       ('written', 'abandoned'), ('certified', 'abandoned'), ('anchored', 'abandoned'), ('moved', 'abandoned'), ('archived', 'abandoned'))) THEN
    RAISE EXCEPTION 'the pruning % is %', OLD.id, OLD.state USING ERRCODE = 'insufficient_privilege';
  END IF;
  NEW.finished_at := CASE WHEN NEW.state IN ('done', 'abandoned') THEN clock_timestamp() END;
  RETURN NEW;
END
$$;

-- What is certified never changes; where its entry stands is said once.
CREATE FUNCTION guard_pruning_certificate() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF current_user = 'sealog_owner' THEN RETURN NEW; END IF;
  IF OLD.entry_seq IS NOT NULL
     OR (NEW.run, NEW.tenant, NEW.stream, NEW.first_seq, NEW.end_seq, NEW.retain_until, NEW.certificate)
        IS DISTINCT FROM (OLD.run, OLD.tenant, OLD.stream, OLD.first_seq, OLD.end_seq, OLD.retain_until, OLD.certificate) THEN
    RAISE EXCEPTION 'the certificate of stream % is written', OLD.stream USING ERRCODE = 'insufficient_privilege';
  END IF;
  RETURN NEW;
END
$$;

REVOKE ALL ON FUNCTION id_hash(text), anchored_at(integer, bigint), guard_pruning(), guard_pruning_certificate() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION id_hash(text), anchored_at(integer, bigint) TO sealog_writer;

CREATE TRIGGER guard BEFORE UPDATE ON pruning FOR EACH ROW EXECUTE FUNCTION guard_pruning();
ALTER TABLE pruning ENABLE ALWAYS TRIGGER guard;
CREATE TRIGGER guard BEFORE UPDATE ON pruning_certificate FOR EACH ROW EXECUTE FUNCTION guard_pruning_certificate();
ALTER TABLE pruning_certificate ENABLE ALWAYS TRIGGER guard;
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON tile_edge FOR EACH ROW EXECUTE FUNCTION refuse_change();
ALTER TABLE tile_edge ENABLE ALWAYS TRIGGER append_only;

DO $$
DECLARE
  one text;
BEGIN
  FOREACH one IN ARRAY ARRAY['pruning', 'pruning_certificate', 'clock_mark'] LOOP
    EXECUTE format('CREATE TRIGGER append_only BEFORE DELETE ON sealog.%I FOR EACH ROW EXECUTE FUNCTION sealog.refuse_change()', one);
    EXECUTE format('ALTER TABLE sealog.%I ENABLE ALWAYS TRIGGER append_only', one);
  END LOOP;
  FOREACH one IN ARRAY ARRAY['tile_edge', 'pruning', 'pruning_certificate', 'clock_mark'] LOOP
    EXECUTE format('CREATE TRIGGER no_truncate BEFORE TRUNCATE ON sealog.%I FOR EACH STATEMENT EXECUTE FUNCTION sealog.refuse_change()', one);
    EXECUTE format('ALTER TABLE sealog.%I ENABLE ALWAYS TRIGGER no_truncate', one);
  END LOOP;
  FOREACH one IN ARRAY ARRAY['tile_edge', 'pruning_certificate'] LOOP
    EXECUTE format('ALTER TABLE sealog.%I ENABLE ROW LEVEL SECURITY', one);
    EXECUTE format('ALTER TABLE sealog.%I FORCE ROW LEVEL SECURITY', one);
    EXECUTE format('CREATE POLICY owner ON sealog.%I TO sealog_owner USING (true) WITH CHECK (true)', one);
    EXECUTE format('CREATE POLICY writer ON sealog.%I TO sealog_writer USING (true) WITH CHECK (true)', one);
    EXECUTE format('CREATE POLICY verifier ON sealog.%I FOR SELECT TO sealog_verifier USING (true)', one);
    EXECUTE format('GRANT SELECT ON sealog.%I TO sealog_writer, sealog_verifier', one);
  END LOOP;
END
$$;
CREATE POLICY reader ON tile_edge FOR SELECT TO sealog_reader
  USING (tenant = (SELECT nullif(current_setting('sealog.tenant', true), '')::integer));
GRANT SELECT ON tile_edge TO sealog_reader;
CREATE POLICY signer ON tile_edge FOR SELECT TO sealog_signer USING (true);
GRANT SELECT ON tile_edge TO sealog_signer;
GRANT INSERT ON tile_edge TO sealog_writer;
GRANT SELECT ON pruning TO sealog_writer, sealog_verifier;
GRANT INSERT (drop_month, requested_by, outside), UPDATE (state, waiting) ON pruning TO sealog_writer;
GRANT INSERT (run, tenant, stream, first_seq, end_seq, retain_until, certificate), UPDATE (entry_stream, entry_seq) ON pruning_certificate
  TO sealog_writer;
GRANT SELECT, UPDATE (seen, doubted_since) ON clock_mark TO sealog_writer;

RESET ROLE;
