-- The ids of a block's entries stand in one row, behind a GIN index: less than half of what a row an entry with a btree took, and cheaper to
-- write (docs/storage.md).

SET LOCAL ROLE sealog_owner;
SET LOCAL search_path = sealog, pg_catalog;

-- ---- The table ----

ALTER TABLE entry_id RENAME TO entry_id_before;
ALTER INDEX entry_id_lookup RENAME TO entry_id_before_lookup;
DO $$
DECLARE
  part regclass;
BEGIN
  FOR part IN SELECT i.inhrelid FROM pg_inherits AS i WHERE i.inhparent = 'sealog.entry_id_before'::regclass LOOP
    EXECUTE format('ALTER TABLE %s RENAME TO %I', part, replace(part::text, 'entry_id', 'entry_id_before'));
  END LOOP;
END
$$;

-- Of the block that begins with first_seq: of each entry the 16 bytes of the hashed id, as two signed integers, in the order of the entries.
-- Not unique: after the time in which repeats are recognised an id may come again.
CREATE TABLE entry_id (
  tenant     integer  NOT NULL,
  stream     integer  NOT NULL,
  first_seq  bigint   NOT NULL,
  drop_month integer  NOT NULL,
  ids        bigint[] NOT NULL,
  ids_rest   bigint[] NOT NULL,
  CHECK (cardinality(ids) <= 1024 AND cardinality(ids_rest) = cardinality(ids))
) PARTITION BY LIST (drop_month);
-- Hashes do not shrink.
ALTER TABLE entry_id ALTER COLUMN ids SET STORAGE EXTERNAL, ALTER COLUMN ids_rest SET STORAGE EXTERNAL;
CREATE INDEX entry_id_place ON entry_id (stream, first_seq);
-- Without a list of what is not sorted in yet: whoever filled it would wait until it is.
CREATE INDEX entry_id_lookup ON entry_id USING gin (ids) WITH (fastupdate = off);

CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON entry_id FOR EACH ROW EXECUTE FUNCTION refuse_change();
ALTER TABLE entry_id ENABLE ALWAYS TRIGGER append_only;
CREATE TRIGGER no_truncate BEFORE TRUNCATE ON entry_id FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
ALTER TABLE entry_id ENABLE ALWAYS TRIGGER no_truncate;

-- A reader asks own_places alone: behind row-level security no index of arrays is used.
ALTER TABLE entry_id ENABLE ROW LEVEL SECURITY;
ALTER TABLE entry_id FORCE ROW LEVEL SECURITY;
CREATE POLICY owner ON entry_id TO sealog_owner USING (true) WITH CHECK (true);
CREATE POLICY writer ON entry_id TO sealog_writer USING (true) WITH CHECK (true);
CREATE POLICY verifier ON entry_id FOR SELECT TO sealog_verifier USING (true);
CREATE POLICY signer ON entry_id FOR SELECT TO sealog_signer USING (true);
GRANT SELECT ON entry_id TO sealog_writer, sealog_verifier, sealog_signer;
GRANT INSERT ON entry_id TO sealog_writer;

-- ---- Where an id stands ----

CREATE FUNCTION id_half(id uuid) RETURNS bigint LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT ('x' || substr(replace(id::text, '-', ''), 1, 16))::bit(64)::bigint
$$;
CREATE FUNCTION id_rest(id uuid) RETURNS bigint LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT ('x' || substr(replace(id::text, '-', ''), 17, 16))::bit(64)::bigint
$$;

-- Everywhere. A plan that was made while a table was small would read all of it.
CREATE FUNCTION places(wanted uuid) RETURNS TABLE (tenant integer, stream integer, seq bigint, drop_month integer)
  LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
DECLARE
  wanted_half bigint := sealog.id_half(wanted);
  wanted_rest bigint := sealog.id_rest(wanted);
BEGIN
  RETURN QUERY SELECT e.tenant, e.stream, e.first_seq + i.at - 1, e.drop_month
    FROM sealog.entry_id AS e CROSS JOIN LATERAL unnest(e.ids, e.ids_rest) WITH ORDINALITY AS i (half, rest, at)
    WHERE e.ids && ARRAY[wanted_half] AND i.half = wanted_half AND i.rest = wanted_rest;
END
$$;

-- Of the transaction's tenant, as row-level security would.
CREATE FUNCTION own_places(wanted uuid) RETURNS TABLE (stream integer, seq bigint, drop_month integer)
  LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT p.stream, p.seq, p.drop_month FROM sealog.places(wanted) AS p
  WHERE p.tenant = (SELECT nullif(current_setting('sealog.tenant', true), '')::integer)
$$;

-- Among what is kept for ever.
CREATE FUNCTION kept_places(wanted uuid) RETURNS TABLE (stream integer, seq bigint)
  LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
DECLARE
  wanted_half bigint := sealog.id_half(wanted);
  wanted_rest bigint := sealog.id_rest(wanted);
BEGIN
  RETURN QUERY SELECT e.stream, e.first_seq + i.at - 1
    FROM sealog.entry_id AS e CROSS JOIN LATERAL unnest(e.ids, e.ids_rest) WITH ORDINALITY AS i (half, rest, at)
    WHERE e.drop_month = 0 AND e.ids && ARRAY[wanted_half] AND i.half = wanted_half AND i.rest = wanted_rest;
END
$$;

REVOKE ALL ON FUNCTION id_half(uuid), id_rest(uuid), places(uuid), own_places(uuid), kept_places(uuid) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION id_half(uuid), id_rest(uuid), kept_places(uuid) TO sealog_writer, sealog_verifier, sealog_signer;
GRANT EXECUTE ON FUNCTION id_hash(text) TO sealog_verifier, sealog_signer;
GRANT EXECUTE ON FUNCTION places(uuid) TO sealog_verifier;
GRANT EXECUTE ON FUNCTION own_places(uuid) TO sealog_reader;

-- ---- What asked the rows of before ----

CREATE OR REPLACE FUNCTION is_tick(root bytea) RETURNS boolean LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT EXISTS (
    SELECT FROM sealog.kept_places(sealog.id_hash(encode(root, 'hex'))) AS e JOIN sealog.stream AS a ON a.id = e.stream
    WHERE a.category = 'anchor')
$$;

CREATE OR REPLACE FUNCTION anchored_at(of_stream integer, of_seq bigint) RETURNS TABLE (ticked boolean, outside bigint)
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT count(*) > 0, max((SELECT max(o.evidence_time) FROM sealog.outside_evidence AS o
    WHERE o.stream = e.stream AND o.size > e.seq AND o.kind <> 'folder'))
  FROM (SELECT l.tick FROM sealog.anchor_leaf AS l WHERE l.stream = of_stream AND l.size > of_seq ORDER BY l.size LIMIT 20) AS t
  CROSS JOIN LATERAL sealog.kept_places(sealog.id_hash(encode(t.tick, 'hex'))) AS e
  JOIN sealog.stream AS a ON a.id = e.stream AND a.category = 'anchor'
$$;

CREATE OR REPLACE FUNCTION is_erasure_certified(of_erasure uuid, number integer) RETURNS boolean
  LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT EXISTS (
    SELECT FROM sealog.erasure AS e
    JOIN sealog.stream AS s ON s.tenant = e.tenant AND s.category = 'log_administration'
    JOIN sealog.checkpoint AS c ON c.stream = s.id
    JOIN sealog.kept_places(sealog.id_hash('erasure.' || of_erasure || '.' || number)) AS i ON i.stream = s.id AND i.seq < c.size
    WHERE e.id = of_erasure)
$$;

CREATE OR REPLACE FUNCTION is_pruning_certified(c pruning_certificate) RETURNS boolean LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT EXISTS (
    SELECT FROM sealog.kept_places(sealog.id_hash('retention.pruned:' || encode(sha256(convert_to((c).certificate, 'UTF8')), 'hex'))) AS e
    JOIN sealog.stream AS a ON a.id = e.stream JOIN sealog.checkpoint AS k ON k.stream = a.id
    WHERE e.stream = (c).entry_stream AND e.seq = (c).entry_seq AND e.seq < k.size
      AND a.tenant = (c).tenant AND a.category = 'log_administration')
$$;

-- As 0015, but that ids go with their block.
DROP FUNCTION move_held(uuid, integer, bigint, bytea, bigint[], jsonb, bytea[], bytea[], jsonb, jsonb);
CREATE FUNCTION move_held(of_run uuid, of_stream integer, block_seq bigint, old_hash bytea, gone_tags bigint[],
    blocks jsonb, records bytea[], parts bytea[], tags jsonb) RETURNS boolean
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  p sealog.pruning%ROWTYPE;
  c sealog.pruning_certificate%ROWTYPE;
  old sealog.block%ROWTYPE;
  held int8multirange;
  target integer := sealog.month_of_held();
  wrong boolean;
BEGIN
  -- A backup reads block after block, and holds every table meanwhile: what is cut and moved could come into it twice, or not at all.
  LOCK TABLE sealog.clock_mark IN ACCESS EXCLUSIVE MODE NOWAIT;
  SELECT * INTO p FROM sealog.pruning WHERE id = of_run FOR UPDATE;
  SELECT * INTO c FROM sealog.pruning_certificate WHERE run = of_run AND stream = of_stream;
  IF p.state IS DISTINCT FROM 'anchored' OR c.run IS NULL OR NOT sealog.is_pruning_certified(c) THEN
    RAISE EXCEPTION 'no signed certificate says what is held of stream %', of_stream USING ERRCODE = 'object_not_in_prerequisite_state';
  END IF;
  IF target <= p.drop_month THEN
    RAISE EXCEPTION 'what is held can not stay in its month' USING ERRCODE = 'object_not_in_prerequisite_state';
  END IF;
  SELECT * INTO old FROM sealog.block AS b
    WHERE b.stream = of_stream AND b.first_seq = block_seq AND b.drop_month = p.drop_month AND sha256(b.parts) = old_hash FOR UPDATE;
  IF old.stream IS NULL THEN RETURN false; END IF;
  held := sealog.held_in(c.certificate);
  SELECT min(n.first) IS DISTINCT FROM old.first_seq OR sum(n.entries) IS DISTINCT FROM old.entries
      OR bool_or(n.first IS DISTINCT FROM n.expected) OR count(*) <> cardinality(move_held.records) OR count(*) <> cardinality(move_held.parts)
      OR bool_or(CASE n.month WHEN target THEN NOT held @> n.range WHEN p.drop_month THEN held && n.range ELSE true END)
      OR NOT bool_or(n.month = target)
      OR bool_or(NOT EXISTS (SELECT FROM sealog.data_key AS k WHERE k.id = n.key AND k.stream = of_stream AND k.drop_month = n.month))
    INTO wrong
    FROM (SELECT b.*, int8range(b.first, b.first + b.entries) AS range,
            old.first_seq + coalesce(sum(b.entries) OVER (ORDER BY b.n ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0) AS expected
          FROM (SELECT r.*, row_number() OVER () AS n FROM jsonb_to_recordset(blocks) AS r (first bigint, entries integer, month integer, key bigint)) AS b) AS n;
  IF wrong IS NOT FALSE THEN
    RAISE EXCEPTION 'what is to replace block % of stream % is not what is held of it', block_seq, of_stream USING ERRCODE = 'object_not_in_prerequisite_state';
  END IF;
  UPDATE sealog.stream SET moved = moved + 1 WHERE id = of_stream;
  DELETE FROM sealog.block AS b WHERE b.stream = of_stream AND b.first_seq = block_seq AND b.drop_month = p.drop_month;
  DELETE FROM sealog.tag AS t WHERE t.stream = of_stream AND t.first_seq = block_seq AND t.drop_month = p.drop_month AND t.tag = ANY (gone_tags);
  INSERT INTO sealog.block (tenant, stream, first_seq, entries, drop_month, recorded_from, recorded_to, occurred_from, occurred_to, key_id,
      severity_min, severity_max, outcomes, records, parts)
    SELECT old.tenant, of_stream, b.first, b.entries, b.month, b."recordedFrom", b."recordedTo", b."occurredFrom", b."occurredTo", b.key,
      b."severityMin", b."severityMax", b.outcomes, move_held.records[b.n], move_held.parts[b.n]
    FROM ROWS FROM (jsonb_to_recordset(blocks) AS (first bigint, entries integer, month integer, key bigint, "recordedFrom" bigint, "recordedTo" bigint,
      "occurredFrom" bigint, "occurredTo" bigint, "severityMin" smallint, "severityMax" smallint, outcomes smallint)) WITH ORDINALITY
      AS b (first, entries, month, key, "recordedFrom", "recordedTo", "occurredFrom", "occurredTo", "severityMin", "severityMax", outcomes, n);
  INSERT INTO sealog.tag (tenant, stream, tag, first_seq, drop_month)
    SELECT old.tenant, of_stream, (t ->> 1)::bigint, (t ->> 0)::bigint, (t ->> 2)::integer FROM jsonb_array_elements(move_held.tags) AS t;
  -- A block's ids go with its entries; one that is not there stays missing.
  WITH gone AS (
    DELETE FROM sealog.entry_id AS e WHERE e.stream = of_stream AND e.first_seq = block_seq AND e.drop_month = p.drop_month RETURNING e.ids, e.ids_rest)
  INSERT INTO sealog.entry_id (tenant, stream, first_seq, drop_month, ids, ids_rest)
    SELECT old.tenant, of_stream, b.first, b.month, g.ids[n.at + 1 : n.at + b.entries], g.ids_rest[n.at + 1 : n.at + b.entries]
    FROM gone AS g CROSS JOIN jsonb_to_recordset(blocks) AS b (first bigint, entries integer, month integer)
    CROSS JOIN LATERAL (SELECT (b.first - block_seq)::integer AS at) AS n;
  RETURN true;
END
$$;

-- As 0015.
CREATE OR REPLACE FUNCTION drop_month(wanted uuid) RETURNS void
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '100ms' AS $$
DECLARE
  p sealog.pruning%ROWTYPE;
  bad text;
  keys text[];
  missed jsonb;
  one text;
BEGIN
  SELECT * INTO p FROM sealog.pruning WHERE id = wanted FOR UPDATE;
  IF p.id IS NULL OR p.state <> 'archived' THEN
    RAISE EXCEPTION 'the pruning % is %', wanted, coalesce(p.state, 'not there') USING ERRCODE = 'object_not_in_prerequisite_state';
  END IF;
  IF make_timestamptz(p.drop_month / 100, p.drop_month % 100, 1, 0, 0, 0, 'UTC') > clock_timestamp() THEN
    RAISE EXCEPTION 'the drop month % has not come', p.drop_month USING ERRCODE = 'object_not_in_prerequisite_state';
  END IF;
  IF EXISTS (SELECT FROM sealog.kept_places(sealog.id_hash('retention.abandoned:' || wanted)) AS e
             JOIN sealog.stream AS a ON a.id = e.stream AND a.category = 'log_administration') THEN
    RAISE EXCEPTION 'the log says that the pruning % is abandoned', wanted USING ERRCODE = 'object_not_in_prerequisite_state';
  END IF;
  SELECT string_agg(s.name, ', ') INTO bad
  FROM sealog.pruning_certificate AS c JOIN sealog.stream AS s ON s.id = c.stream
  WHERE c.run = wanted AND (
    -- A member that is not there, or a time that nobody stated, is NULL, which equals nothing and differs from nothing.
    (c.certificate::jsonb ->> 'stream', (c.certificate::jsonb ->> 'first')::bigint, (c.certificate::jsonb ->> 'end')::bigint,
     (c.certificate::jsonb ->> 'dropMonth')::integer, s.tenant,
     (1000 * extract(epoch FROM (c.certificate::jsonb ->> 'retainUntil')::timestamptz))::bigint)
    IS DISTINCT FROM (s.name, c.first_seq, c.end_seq, p.drop_month, c.tenant, c.retain_until)
    OR to_timestamp(c.retain_until / 1000.0) >= make_timestamptz(p.drop_month / 100, p.drop_month % 100, 1, 0, 0, 0, 'UTC')
    OR jsonb_typeof(c.certificate::jsonb -> 'held') IS DISTINCT FROM 'array'
    OR NOT sealog.is_pruning_certified(c)
    OR p.outside AND coalesce((SELECT t.outside FROM sealog.anchored_at(c.entry_stream, c.entry_seq) AS t), 0) < c.retain_until);
  IF bad IS NOT NULL THEN
    RAISE EXCEPTION 'no certificate that holds for %', bad USING ERRCODE = 'object_not_in_prerequisite_state';
  END IF;
  -- Blocks come to a month and leave it by move_held alone, of a run that is not here yet: this need not wait for the lock. From range to range
  -- in the index, which costs as much as there is held; no block is longer than 1024 entries.
  SELECT string_agg(s.name, ', ') INTO bad
  FROM sealog.pruning_certificate AS c JOIN sealog.stream AS s ON s.id = c.stream CROSS JOIN LATERAL (SELECT sealog.held_in(c.certificate) AS held) AS h
  WHERE c.run = wanted AND (
    EXISTS (SELECT FROM unnest(h.held) AS r JOIN sealog.block AS b ON b.stream = c.stream AND b.drop_month = p.drop_month
            AND b.first_seq > lower(r) - 1024 AND b.first_seq < upper(r) AND b.first_seq + b.entries > lower(r))
    OR EXISTS (SELECT FROM sealog.block AS b WHERE b.stream = c.stream AND b.first_seq >= c.first_seq AND b.first_seq < c.end_seq
               AND b.drop_month <> p.drop_month AND NOT h.held @> int8range(b.first_seq, b.first_seq + b.entries)));
  IF bad IS NOT NULL THEN
    RAISE EXCEPTION 'what is held of % is not where its certificate says', bad USING ERRCODE = 'object_not_in_prerequisite_state';
  END IF;
  SELECT coalesce(array_agg(DISTINCT k.month_key), '{}') INTO keys FROM sealog.data_key AS k WHERE k.drop_month = p.drop_month;

  -- A hold that is being placed is waited for; none is until this is over.
  PERFORM pg_advisory_xact_lock_shared(hashtextextended('sealog.hold', 0));
  IF sealog.has_newer_holds(wanted) THEN
    RAISE EXCEPTION 'a hold was placed since' USING ERRCODE = 'object_not_in_prerequisite_state';
  END IF;
  PERFORM FROM sealog.stream AS s WHERE s.id IN (SELECT c.stream FROM sealog.pruning_certificate AS c WHERE c.run = wanted)
    ORDER BY s.id FOR UPDATE;
  LOCK TABLE ONLY sealog.entry_id, ONLY sealog.tag, ONLY sealog.block IN ACCESS EXCLUSIVE MODE;
  -- From stream to stream in the index: a month of a million blocks takes no longer than one of a thousand.
  EXECUTE format($query$
    WITH RECURSIVE step (stream) AS (
      SELECT min(b.stream) FROM sealog.%1$I AS b
      UNION ALL SELECT (SELECT min(b.stream) FROM sealog.%1$I AS b WHERE b.stream > step.stream) FROM step WHERE step.stream IS NOT NULL)
    SELECT string_agg(step.stream::text, ', ') FROM step WHERE step.stream IS NOT NULL AND NOT EXISTS (
      SELECT FROM sealog.pruning_certificate AS c WHERE c.run = $1 AND c.stream = step.stream
        AND c.first_seq <= (SELECT b.first_seq FROM sealog.%1$I AS b WHERE b.stream = step.stream ORDER BY b.first_seq LIMIT 1)
        AND c.end_seq >= (SELECT b.first_seq + b.entries FROM sealog.%1$I AS b WHERE b.stream = step.stream
                          ORDER BY b.first_seq DESC LIMIT 1))$query$, 'block_' || p.drop_month) INTO bad USING wanted;
  IF bad IS NOT NULL THEN
    RAISE EXCEPTION 'no certificate covers what is stored of stream %', bad USING ERRCODE = 'object_not_in_prerequisite_state';
  END IF;
  SELECT coalesce(jsonb_agg(m.one ORDER BY m.one), '[]') INTO missed FROM (
    SELECT jsonb_build_object('tenant', t.name, 'sink', k.name, 'stream', s.name,
      'from', greatest(coalesce(n.next_seq, 0), c.first_seq), 'to', c.end_seq) AS one
    FROM sealog.pruning_certificate AS c JOIN sealog.stream AS s ON s.id = c.stream JOIN sealog.tenant AS t ON t.id = c.tenant
    JOIN sealog.sink AS k ON k.tenant = c.tenant AND k.state <> 'deleted' AND coalesce(k.config #> '{filter,categories}' ? s.category, true)
    LEFT JOIN sealog.sink_cursor AS n ON n.sink = k.id AND n.stream = s.id
    WHERE c.run = wanted AND coalesce(n.next_seq, 0) < c.end_seq LIMIT 1000) AS m;
  FOREACH one IN ARRAY ARRAY['entry_id', 'tag', 'block'] LOOP
    EXECUTE format('DROP TABLE sealog.%I', one || '_' || p.drop_month);
  END LOOP;
  DELETE FROM sealog.data_key AS k WHERE k.drop_month = p.drop_month;
  UPDATE sealog.stream AS s SET pruned = greatest(s.pruned, c.end_seq) FROM sealog.pruning_certificate AS c
    WHERE c.run = wanted AND s.id = c.stream;
  UPDATE sealog.pruning SET state = 'dropped', month_keys = keys, undelivered = missed, waiting = NULL, dropped_at = clock_timestamp() WHERE id = wanted;
END
$$;

REVOKE ALL ON FUNCTION move_held(uuid, integer, bigint, bytea, bigint[], jsonb, bytea[], bytea[], jsonb) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION move_held(uuid, integer, bigint, bytea, bigint[], jsonb, bytea[], bytea[], jsonb) TO sealog_writer;

-- ---- What is stored ----

-- Of each block as many as it has entries: one that was missing is NULL, and one of no entry is left out. Neither is evidence.
DO $$
DECLARE
  month integer;
BEGIN
  FOR month IN SELECT substring(pg_get_expr(c.relpartbound, c.oid) FROM '\((\d+)\)')::integer
               FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid WHERE i.inhparent = 'sealog.entry_id_before'::regclass LOOP
    PERFORM sealog.ensure_drop_month(month);
    INSERT INTO sealog.entry_id (tenant, stream, first_seq, drop_month, ids, ids_rest)
      -- Without a call of id_half and id_rest for each.
      SELECT b.tenant, b.stream, b.first_seq, month, array_agg(('x' || substr(e.hex, 1, 16))::bit(64)::bigint ORDER BY n.seq),
        array_agg(('x' || substr(e.hex, 17))::bit(64)::bigint ORDER BY n.seq)
      FROM sealog.block AS b CROSS JOIN LATERAL generate_series(b.first_seq, b.first_seq + b.entries - 1) AS n (seq)
      LEFT JOIN (SELECT DISTINCT ON (r.stream, r.seq) r.stream, r.seq, replace(r.id::text, '-', '') AS hex FROM sealog.entry_id_before AS r WHERE r.drop_month = month
                 ORDER BY r.stream, r.seq) AS e ON e.stream = b.stream AND e.seq = n.seq
      WHERE b.drop_month = month GROUP BY b.tenant, b.stream, b.first_seq ORDER BY b.stream, b.first_seq;
  END LOOP;
END
$$;
DROP TABLE entry_id_before;

RESET ROLE;
