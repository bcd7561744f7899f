-- The tags of a block stand in its row, behind a GIN index: about a quarter of what a row a tag with a btree took, cheaper to write, and erased or
-- moved with the block (docs/format.md section 14).

SET LOCAL ROLE sealog_owner;
SET LOCAL search_path = sealog, pg_catalog;

-- ---- The column ----

-- The last five bytes of a tag, behind three that say where the block is: tags of what stands together stand together in the index.
CREATE FUNCTION placed_tag(tag bigint, of_stream integer, stretch bigint) RETURNS bigint LANGUAGE sql IMMUTABLE
  RETURN (tag & 1099511627775) | (((of_stream::bigint * 10368889 + (stretch & 16777215)) & 16777215) << 40);

-- Of the block's entries, each once, in any order. A stretch has 8192 entries.
ALTER TABLE block ADD COLUMN tags bigint[] NOT NULL DEFAULT '{}' CHECK (cardinality(tags) <= 9216);
-- Hashes do not shrink.
ALTER TABLE block ALTER COLUMN tags DROP DEFAULT, ALTER COLUMN tags SET STORAGE EXTERNAL;
-- What is missing stays missing, and what no entry of a block has stays there. Tags of no block are left out: they are no evidence.
DO $$
DECLARE
  month integer;
BEGIN
  FOR month IN SELECT substring(pg_get_expr(c.relpartbound, c.oid) FROM '\((\d+)\)')::integer
               FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid WHERE i.inhparent = 'sealog.block'::regclass LOOP
    EXECUTE format($move$
      UPDATE sealog.block AS b SET tags = t.placed
      FROM (SELECT tenant, stream, first_seq,
              array_agg(DISTINCT sealog.placed_tag(tag, stream, first_seq >> 13)) AS placed
            FROM sealog.tag WHERE drop_month = %1$s GROUP BY tenant, stream, first_seq) AS t
      WHERE b.drop_month = %1$s AND b.tenant = t.tenant AND b.stream = t.stream AND b.first_seq = t.first_seq AND cardinality(t.placed) <= 9216
    $move$, month);
  END LOOP;
END
$$;
DROP TABLE tag;
-- Without a list of what is not sorted in yet: whoever filled it would wait until it is.
CREATE INDEX block_tags ON block USING gin (tags) WITH (fastupdate = off);

-- ---- Search ----

-- The blocks of a stream and drop month that may have one of the tags: from `bound` on, or before it, newest first; at most so many. It goes from
-- stretch to stretch of 8192 entries, more of them at a time where nothing is found; behind 1024 of them it ends with how far it looked (is_edge): up to
-- there, going up; down to there and with it, going down. No other index can serve: a plan that was made while a table was small would read all of it.
CREATE FUNCTION tagged_blocks(of_stream integer, of_month integer, wanted bigint[], newest_first boolean, bound bigint, at_most integer)
  RETURNS TABLE (first_seq bigint, is_edge boolean)
  LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
DECLARE
  low bigint;
  high bigint;
  stretches bigint := 1;
  left_over bigint := 1024;
  few bigint[];
  found_now integer;
BEGIN
  low := (SELECT b.first_seq FROM sealog.block AS b WHERE b.drop_month = of_month AND b.stream = of_stream ORDER BY b.first_seq LIMIT 1) >> 13;
  high := (SELECT b.first_seq FROM sealog.block AS b WHERE b.drop_month = of_month AND b.stream = of_stream ORDER BY b.first_seq DESC LIMIT 1) >> 13;
  IF newest_first THEN high := least(high, (bound - 1) >> 13); ELSE low := greatest(low, bound >> 13); END IF;
  WHILE low <= high AND at_most > 0 AND left_over > 0 LOOP
    few := ARRAY(SELECT sealog.placed_tag(t, of_stream, s) FROM unnest(wanted) AS t CROSS JOIN
      generate_series(CASE WHEN newest_first THEN greatest(low, high - stretches + 1) ELSE low END,
                      CASE WHEN newest_first THEN high ELSE least(high, low + stretches - 1) END) AS s);
    RETURN QUERY SELECT b.first_seq, false FROM sealog.block AS b
      WHERE b.drop_month = of_month AND b.tags && few AND b.stream + 0 = of_stream
        AND CASE WHEN newest_first THEN b.first_seq < bound ELSE b.first_seq >= bound END
      ORDER BY CASE WHEN newest_first THEN -b.first_seq ELSE b.first_seq END LIMIT at_most;
    GET DIAGNOSTICS found_now = ROW_COUNT;
    at_most := at_most - found_now;
    left_over := left_over - stretches;
    IF newest_first THEN high := high - stretches; ELSE low := low + stretches; END IF;
    -- Of what is found each costs as much as there are keys, and all is found before the first is taken.
    stretches := least(stretches * 4, 16);
  END LOOP;
  IF low <= high AND at_most > 0 THEN
    RETURN QUERY SELECT CASE WHEN newest_first THEN (high + 1) << 13 ELSE (low << 13) - 1 END, true;
  END IF;
END
$$;

-- Of the transaction's tenant, as row-level security would, behind which no index of arrays is used.
CREATE FUNCTION own_tagged_blocks(of_stream integer, of_month integer, wanted bigint[], newest_first boolean, bound bigint, at_most integer)
  RETURNS TABLE (first_seq bigint, is_edge boolean)
  LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT t.first_seq, t.is_edge
  FROM sealog.stream AS s CROSS JOIN LATERAL sealog.tagged_blocks(of_stream, of_month, wanted, newest_first, bound, at_most) AS t
  WHERE s.id = of_stream AND s.tenant = (SELECT nullif(current_setting('sealog.tenant', true), '')::integer)
$$;

REVOKE ALL ON FUNCTION placed_tag(bigint, integer, bigint), tagged_blocks(integer, integer, bigint[], boolean, bigint, integer),
  own_tagged_blocks(integer, integer, bigint[], boolean, bigint, integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION placed_tag(bigint, integer, bigint) TO sealog_verifier;
GRANT EXECUTE ON FUNCTION tagged_blocks(integer, integer, bigint[], boolean, bigint, integer) TO sealog_verifier;
GRANT EXECUTE ON FUNCTION own_tagged_blocks(integer, integer, bigint[], boolean, bigint, integer) TO sealog_reader;

-- ---- What wrote rows of tags ----

-- As 0013, but that tags go in the same change.
CREATE OR REPLACE FUNCTION replace_parts(of_stream integer, block_seq bigint, month integer, old_hash bytea, new_parts bytea, gone_tags bigint[]) RETURNS boolean
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  PERFORM FROM sealog.stream WHERE id = of_stream AND category NOT IN ('log_administration', 'anchor');
  IF NOT FOUND THEN
    RAISE EXCEPTION 'nothing is erased from stream %', of_stream USING ERRCODE = 'insufficient_privilege';
  END IF;
  UPDATE sealog.block AS b SET parts = new_parts, tags = ARRAY(SELECT t FROM unnest(b.tags) AS t WHERE t <> ALL (gone_tags))
    WHERE b.stream = of_stream AND b.first_seq = block_seq AND b.drop_month = month AND sha256(b.parts) = old_hash;
  RETURN FOUND;
END
$$;

-- As 0016, but that tags come with their block.
DROP FUNCTION move_held(uuid, integer, bigint, bytea, bigint[], jsonb, bytea[], bytea[], jsonb);
CREATE FUNCTION move_held(of_run uuid, of_stream integer, block_seq bigint, old_hash bytea, blocks jsonb, records bytea[], parts bytea[]) RETURNS boolean
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
  INSERT INTO sealog.block (tenant, stream, first_seq, entries, drop_month, recorded_from, recorded_to, occurred_from, occurred_to, key_id,
      severity_min, severity_max, outcomes, records, parts, tags)
    SELECT old.tenant, of_stream, b.first, b.entries, b.month, b."recordedFrom", b."recordedTo", b."occurredFrom", b."occurredTo", b.key,
      b."severityMin", b."severityMax", b.outcomes, move_held.records[b.n], move_held.parts[b.n], b.tags
    FROM ROWS FROM (jsonb_to_recordset(blocks) AS (first bigint, entries integer, month integer, key bigint, "recordedFrom" bigint, "recordedTo" bigint,
      "occurredFrom" bigint, "occurredTo" bigint, "severityMin" smallint, "severityMax" smallint, outcomes smallint, tags bigint[])) WITH ORDINALITY
      AS b (first, entries, month, key, "recordedFrom", "recordedTo", "occurredFrom", "occurredTo", "severityMin", "severityMax", outcomes, tags, n);
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

REVOKE ALL ON FUNCTION move_held(uuid, integer, bigint, bytea, jsonb, bytea[], bytea[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION move_held(uuid, integer, bigint, bytea, jsonb, bytea[], bytea[]) TO sealog_writer;

-- As they were (0001, 0016), without the table.
DO $$
DECLARE
  own record;
  text_now text;
BEGIN
  FOR own IN SELECT * FROM (VALUES
      ('sealog.ensure_drop_month(integer)'::regprocedure, $was$ARRAY['block', 'tag', 'entry_id']$was$, $is$ARRAY['block', 'entry_id']$is$),
      ('sealog.drop_month(uuid)', $was$ARRAY['entry_id', 'tag', 'block']$was$, $is$ARRAY['entry_id', 'block']$is$),
      ('sealog.drop_month(uuid)', 'ONLY sealog.entry_id, ONLY sealog.tag, ONLY sealog.block', 'ONLY sealog.entry_id, ONLY sealog.block')
    ) AS change (function, was, becomes) LOOP
    text_now := pg_get_functiondef(own.function);
    IF strpos(text_now, own.was) = 0 THEN RAISE EXCEPTION '% does not say %', own.function, own.was; END IF;
    EXECUTE replace(text_now, own.was, own.becomes);
  END LOOP;
END
$$;

RESET ROLE;
