-- Legal holds: what is under one outlives its drop month, sealed anew under a later one (docs/retention.md, docs/format.md section 25).

SET LOCAL ROLE sealog_owner;
SET LOCAL search_path = sealog, pg_catalog;

-- How many blocks were moved to a later drop month than their own: who reads sees where to look, and whether that changed. Never evidence.
ALTER TABLE stream ADD COLUMN moved bigint NOT NULL DEFAULT 0 CHECK (moved >= 0);

-- It counts from its row on, and is told right behind: all it does meanwhile is keep.
CREATE TABLE hold (
  id          uuid        PRIMARY KEY,
  -- In the order in which they count: given under a lock, so that none comes before one that was seen.
  number      bigint      NOT NULL UNIQUE,
  tenant      integer     NOT NULL REFERENCES tenant,
  -- NULL = every one.
  category    text        CHECK (category IN ('user_authentication', 'data_access', 'configuration_change', 'data_modification', 'security_event',
                            'system_operation')),
  epoch       integer     CHECK (epoch >= 1),
  -- What else an entry must be: {from, to, occurredFrom, occurredTo, actor, target, site}, as a search takes them.
  criteria    jsonb       NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(criteria) = 'object'),
  reason      text        NOT NULL CHECK (length(reason) BETWEEN 1 AND 1000),
  placed_by   text        NOT NULL CHECK (length(placed_by) BETWEEN 1 AND 256),
  placed_at   timestamptz NOT NULL,
  -- placing: the log does not tell of it yet. It counts all the same.
  state       text        NOT NULL DEFAULT 'placing' CHECK (state IN ('placing', 'active', 'released')),
  -- What two persons agreed on.
  release     uuid        REFERENCES proposal,
  released_at timestamptz,
  CHECK (epoch IS NULL OR category IS NOT NULL),
  CHECK (category IS NOT NULL OR criteria <> '{}'),
  CHECK ((state = 'released') = (release IS NOT NULL) AND (release IS NULL) = (released_at IS NULL))
) WITH (fillfactor = 50);
CREATE INDEX hold_listed ON hold (tenant, number);
CREATE INDEX hold_counting ON hold (tenant) WHERE state <> 'released';

-- Whoever prunes looks at holds under the same lock: one that is on its way is waited for.
CREATE FUNCTION guard_hold() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF TG_OP = 'INSERT' THEN
    PERFORM pg_advisory_xact_lock(hashtextextended('sealog.hold', 0));
    NEW.number := 1 + coalesce((SELECT max(h.number) FROM sealog.hold AS h), 0);
    NEW.placed_at := clock_timestamp();
    RETURN NEW;
  END IF;
  IF current_user = 'sealog_owner' THEN RETURN NEW; END IF;
  -- Released by release_hold alone.
  IF (OLD.state, NEW.state) IN (('placing', 'active')) AND to_jsonb(NEW) - 'state' = to_jsonb(OLD) - 'state' THEN RETURN NEW; END IF;
  RAISE EXCEPTION 'the hold % is %', OLD.id, OLD.state USING ERRCODE = 'insufficient_privilege';
END
$$;
CREATE TRIGGER guard BEFORE INSERT OR UPDATE ON hold FOR EACH ROW EXECUTE FUNCTION guard_hold();
CREATE TRIGGER append_only BEFORE DELETE ON hold FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER no_truncate BEFORE TRUNCATE ON hold FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
ALTER TABLE hold ENABLE ALWAYS TRIGGER guard, ENABLE ALWAYS TRIGGER append_only, ENABLE ALWAYS TRIGGER no_truncate;
ALTER TABLE hold ENABLE ROW LEVEL SECURITY;
ALTER TABLE hold FORCE ROW LEVEL SECURITY;
CREATE POLICY owner ON hold TO sealog_owner USING (true) WITH CHECK (true);
CREATE POLICY writer ON hold TO sealog_writer USING (true) WITH CHECK (true);
CREATE POLICY verifier ON hold FOR SELECT TO sealog_verifier USING (true);
CREATE POLICY reader ON hold FOR SELECT TO sealog_reader
  USING (tenant = (SELECT nullif(current_setting('sealog.tenant', true), '')::integer));
GRANT SELECT ON hold TO sealog_writer, sealog_reader, sealog_verifier;
GRANT INSERT (id, tenant, category, epoch, criteria, reason, placed_by), UPDATE (state) ON hold TO sealog_writer;

-- Ends a hold that two persons agreed to end: the constraint of proposals says that they are two.
CREATE FUNCTION release_hold(of_proposal uuid) RETURNS boolean
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  p sealog.proposal%ROWTYPE;
BEGIN
  SELECT * INTO p FROM sealog.proposal WHERE id = of_proposal AND kind = 'hold_release' FOR UPDATE;
  IF p.state = 'done' THEN RETURN false; END IF;
  IF p.state IS DISTINCT FROM 'approved' THEN
    RAISE EXCEPTION 'the release % is not approved', of_proposal USING ERRCODE = 'insufficient_privilege';
  END IF;
  UPDATE sealog.hold SET state = 'released', release = p.id, released_at = clock_timestamp()
    WHERE id = (p.request ->> 'hold')::uuid AND tenant = p.tenant AND state <> 'released';
  UPDATE sealog.proposal SET state = 'done', done_at = clock_timestamp() WHERE id = p.id;
  RETURN true;
END
$$;

-- ---- Erasing around holds ----

-- Which hold keeps an entry from being erased.
ALTER TABLE erasure_entry ADD COLUMN hold uuid REFERENCES hold, ADD CHECK (hold IS NULL OR refused = 'legal_hold' AND refused IS NOT NULL);
GRANT INSERT (hold), UPDATE (hold) ON erasure_entry TO sealog_writer;

-- As 0013, of a tenant whose holds were all looked at up to this number: NULL where there is a newer one, and what it keeps must be left out first.
CREATE FUNCTION plan_erasure(of_erasure uuid, holds_seen bigint) RETURNS integer
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  PERFORM pg_advisory_xact_lock_shared(hashtextextended('sealog.hold', 0));
  PERFORM FROM sealog.erasure AS e JOIN sealog.hold AS h ON h.tenant = e.tenant
    WHERE e.id = of_erasure AND e.certificates IS NULL AND h.number > coalesce(plan_erasure.holds_seen, 0) AND h.state <> 'released';
  IF FOUND THEN RETURN NULL; END IF;
  RETURN sealog.plan_erasure(of_erasure);
END
$$;
REVOKE EXECUTE ON FUNCTION plan_erasure(uuid) FROM sealog_writer;
REVOKE ALL ON FUNCTION plan_erasure(uuid, bigint) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION plan_erasure(uuid, bigint) TO sealog_writer;

-- ---- Pruning around holds ----

-- Notes which holds there are before anything is decided by them: who decides then sees all of these, and one that is on its way has a
-- higher number.
CREATE FUNCTION look_at_holds(of_run uuid) RETURNS void
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  UPDATE sealog.pruning SET holds_seen = coalesce((SELECT max(h.number) FROM sealog.hold AS h), 0) WHERE id = of_run AND state = 'planned';
END
$$;

-- Whether a hold was placed since that may be about what the run certifies.
CREATE FUNCTION has_newer_holds(of_run uuid) RETURNS boolean
  LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT EXISTS (
    SELECT FROM sealog.pruning AS p JOIN sealog.pruning_certificate AS c ON c.run = p.id JOIN sealog.stream AS s ON s.id = c.stream
    JOIN sealog.hold AS h ON h.tenant = c.tenant AND h.number > coalesce(p.holds_seen, 0) AND h.state <> 'released'
    WHERE p.id = of_run AND coalesce(h.category, s.category) = s.category AND coalesce(h.epoch, s.epoch) = s.epoch)
$$;

-- What stays of what a certificate is about.
CREATE FUNCTION held_in(certificate text) RETURNS int8multirange LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT coalesce(range_agg(int8range((one ->> 0)::bigint, (one ->> 1)::bigint)), '{}') FROM jsonb_array_elements(certificate::jsonb -> 'held') AS one
$$;

-- Whether a certificate stands in its tenant's log_administration and is signed; its id is the hash of the certificate.
CREATE FUNCTION is_pruning_certified(c pruning_certificate) RETURNS boolean LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT EXISTS (
    SELECT FROM sealog.entry_id AS e JOIN sealog.stream AS a ON a.id = e.stream JOIN sealog.checkpoint AS k ON k.stream = a.id
    WHERE e.drop_month = 0 AND e.stream = (c).entry_stream AND e.seq = (c).entry_seq AND e.seq < k.size
      AND a.tenant = (c).tenant AND a.category = 'log_administration'
      AND e.id = sealog.id_hash('retention.pruned:' || encode(sha256(convert_to((c).certificate, 'UTF8')), 'hex')))
$$;

-- The drop month that what is held goes to now: the one after the present.
CREATE FUNCTION month_of_held() RETURNS integer LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
  SELECT to_char((clock_timestamp() AT TIME ZONE 'UTC') + interval '1 month', 'YYYYMM')::integer
$$;

-- Puts blocks in place of one: its entries that are held, as the run's signed certificate says, under the month of held ones, the others as
-- they were. So at any time each entry stands in exactly one block. Rows that say the same of the same entries are the caller's to make:
-- records are compressed, and what they are is what verification is for. Returns false where the block is another by now.
CREATE FUNCTION move_held(of_run uuid, of_stream integer, block_seq bigint, old_hash bytea, gone_tags bigint[],
    blocks jsonb, records bytea[], parts bytea[], tags jsonb, ids jsonb) RETURNS boolean
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
  UPDATE sealog.entry_id AS e SET drop_month = target
    FROM (SELECT (i ->> 0)::bigint AS seq, (i ->> 1)::uuid AS id FROM jsonb_array_elements(move_held.ids) AS i) AS m
    WHERE e.stream = of_stream AND e.drop_month = p.drop_month AND e.id = m.id AND e.seq = m.seq AND held @> m.seq;
  RETURN true;
END
$$;

-- Drops the month of a run, in one transaction with the data keys of what was in it, or raises:
-- - the month is over, by this clock, and the log does not say that the run was abandoned;
-- - each certificate is of its stream, and of what expired before that month; it stands in its tenant's log_administration, under a signed
--   checkpoint (so since an earlier transaction), and where the run needs it somebody outside has stated a time over it that is not before the
--   last entry's retainUntil. The entry's id is the hash of the certificate, so that nothing need be opened for this;
-- - nothing goes that is held, or that a hold may be about which was placed since it was certified; what stays elsewhere is named by the
--   certificate;
-- - each stream that has blocks in the partition has a certificate over all of them.
-- Locks as appending does, streams' rows, then entry_id, then the others, and waits no longer than 100 ms for any: the drop of a partition
-- needs its parent alone, and whoever comes after us waits behind us.
CREATE FUNCTION drop_month(wanted uuid) RETURNS void
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
  IF EXISTS (SELECT FROM sealog.entry_id AS e JOIN sealog.stream AS a ON a.id = e.stream AND a.category = 'log_administration'
             WHERE e.drop_month = 0 AND e.id = sealog.id_hash('retention.abandoned:' || wanted)) THEN
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

REVOKE ALL ON FUNCTION guard_hold(), release_hold(uuid), look_at_holds(uuid), has_newer_holds(uuid), held_in(text),
  is_pruning_certified(pruning_certificate), month_of_held(), drop_month(uuid),
  move_held(uuid, integer, bigint, bytea, bigint[], jsonb, bytea[], bytea[], jsonb, jsonb) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION release_hold(uuid), look_at_holds(uuid), has_newer_holds(uuid), month_of_held(), drop_month(uuid),
  move_held(uuid, integer, bigint, bytea, bigint[], jsonb, bytea[], bytea[], jsonb, jsonb) TO sealog_writer;

RESET ROLE;
