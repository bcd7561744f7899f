-- How long each category of a tenant is kept, and what becomes of events without its evidence (docs/retention.md).

SET LOCAL ROLE sealog_owner;
SET LOCAL search_path = sealog, pg_catalog;

-- A category's history: the row with the highest number counts. Without one the defaults do.
CREATE TABLE retention_policy (
  tenant   integer     NOT NULL REFERENCES tenant,
  category text        NOT NULL CHECK (category IN ('user_authentication', 'data_access', 'configuration_change', 'data_modification',
                         'security_event', 'system_operation')),
  -- From 1 on, without gaps. Two change a policy at once: both write the same number, and one is refused.
  number   integer     NOT NULL CHECK (number >= 1),
  months   integer     NOT NULL CHECK (months BETWEEN 1 AND 1200),
  evidence text        NOT NULL CHECK (evidence IN ('refuse', 'flag')),
  at       timestamptz NOT NULL DEFAULT clock_timestamp(),
  by       text        NOT NULL CHECK (length(by) BETWEEN 1 AND 256),
  reason   text        CHECK (length(reason) BETWEEN 1 AND 4096),
  PRIMARY KEY (tenant, category, number)
);
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON retention_policy FOR EACH ROW EXECUTE FUNCTION refuse_change();
ALTER TABLE retention_policy ENABLE ALWAYS TRIGGER append_only;
CREATE TRIGGER no_truncate BEFORE TRUNCATE ON retention_policy FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
ALTER TABLE retention_policy ENABLE ALWAYS TRIGGER no_truncate;

ALTER TABLE retention_policy ENABLE ROW LEVEL SECURITY;
ALTER TABLE retention_policy FORCE ROW LEVEL SECURITY;
CREATE POLICY owner ON retention_policy TO sealog_owner USING (true) WITH CHECK (true);
CREATE POLICY writer ON retention_policy FOR SELECT TO sealog_writer USING (true);
CREATE POLICY reader ON retention_policy FOR SELECT TO sealog_reader
  USING (tenant = (SELECT nullif(current_setting('sealog.tenant', true), '')::integer));
GRANT SELECT ON retention_policy TO sealog_writer, sealog_reader;

-- Months below which nothing is kept by a policy, as the signer's replica was configured last. Without a row the category's default is it.
CREATE TABLE retention_floor (
  category text    PRIMARY KEY,
  months   integer NOT NULL CHECK (months BETWEEN 1 AND 1200)
);
GRANT SELECT ON retention_floor TO sealog_writer;
GRANT SELECT, INSERT, UPDATE (months) ON retention_floor TO sealog_signer;

-- What a new entry is stamped by stands in the row that the sequencer locks: a change has one place in each stream, however many replicas
-- append. retention_before: what counted earlier in this stream, [[months, until], …], oldest first, for as long as repeats are looked for
-- where it put them. retention_next: the shorter months of a policy that waits for the signer. turned: the epoch was closed for a shorter
-- policy, at its last entry; all of it counts.
ALTER TABLE stream
  ADD COLUMN retention_months integer CHECK (retention_months BETWEEN 1 AND 1200),
  ADD COLUMN retention_before jsonb,
  ADD COLUMN retention_next integer CHECK (retention_next BETWEEN 1 AND 1200),
  ADD COLUMN turned boolean NOT NULL DEFAULT false CHECK (closed OR NOT turned);
-- Commits change none of its columns, so they stay on their page (docs/storage.md).
CREATE INDEX stream_to_turn ON stream (id) WHERE retention_next IS NOT NULL AND NOT closed;

CREATE FUNCTION default_retention_months(of_category text) RETURNS integer LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT CASE of_category WHEN 'security_event' THEN 36 WHEN 'configuration_change' THEN 24 WHEN 'data_modification' THEN 24 ELSE 12 END
$$;

-- The months of a category's new streams; NULL = for ever. Who writes policies is held to the floor here, too.
CREATE FUNCTION retention_months_of(of_tenant integer, of_category text) RETURNS integer
  LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT CASE WHEN of_category IN ('log_administration', 'anchor') THEN NULL ELSE coalesce(
    (SELECT greatest(p.months, coalesce((SELECT f.months FROM sealog.retention_floor AS f WHERE f.category = of_category),
                                        sealog.default_retention_months(of_category)))
     FROM sealog.retention_policy AS p WHERE p.tenant = of_tenant AND p.category = of_category ORDER BY p.number DESC LIMIT 1),
    sealog.default_retention_months(of_category)) END
$$;

UPDATE stream SET retention_months = retention_months_of(tenant, category) WHERE category NOT IN ('log_administration', 'anchor');

-- A stream that is made while its policy changes is made before or behind that, never beside it.
CREATE FUNCTION set_stream_retention() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  PERFORM pg_advisory_xact_lock_shared(hashtextextended('sealog.retention', NEW.tenant));
  NEW.retention_months := sealog.retention_months_of(NEW.tenant, NEW.category);
  RETURN NEW;
END
$$;
CREATE TRIGGER retention BEFORE INSERT ON stream FOR EACH ROW EXECUTE FUNCTION set_stream_retention();
ALTER TABLE stream ENABLE ALWAYS TRIGGER retention;

-- A stream's row only moves forward; by what it stamps, and whether it was turned, is the functions' below to change.
CREATE OR REPLACE FUNCTION guard_stream() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF current_user = 'sealog_owner' THEN RETURN NEW; END IF;
  -- Closing changes nothing else, and comes after the next epoch's row. A recovery closes a turned epoch once more.
  IF NEW.closed AND NOT NEW.turned AND (NOT OLD.closed OR OLD.turned)
     AND EXISTS (SELECT FROM sealog.stream AS n WHERE n.tenant = OLD.tenant AND n.category = OLD.category AND n.epoch > OLD.epoch)
     AND (NEW.size, NEW.head, NEW.frontier, NEW.recorded_at) = (OLD.size, OLD.head, OLD.frontier, OLD.recorded_at)
     AND (NEW.id, NEW.tenant, NEW.category, NEW.epoch, NEW.name) = (OLD.id, OLD.tenant, OLD.category, OLD.epoch, OLD.name)
     AND (NEW.retain_until, NEW.retention_months, NEW.retention_before, NEW.retention_next)
         IS NOT DISTINCT FROM (OLD.retain_until, OLD.retention_months, OLD.retention_before, OLD.retention_next) THEN
    RETURN NEW;
  END IF;
  IF (NEW.id, NEW.tenant, NEW.category, NEW.epoch, NEW.name, NEW.retention_months, NEW.retention_before, NEW.retention_next)
     IS DISTINCT FROM (OLD.id, OLD.tenant, OLD.category, OLD.epoch, OLD.name, OLD.retention_months, OLD.retention_before, OLD.retention_next)
     OR OLD.closed OR NEW.closed OR NEW.turned
     OR NEW.size <= OLD.size OR NEW.recorded_at < OLD.recorded_at OR NEW.retain_until < OLD.retain_until
     -- Kept for ever (NULL) is later than any time.
     OR (OLD.size > 0 AND OLD.retain_until IS NULL AND NEW.retain_until IS NOT NULL) THEN
    RAISE EXCEPTION 'stream % only moves forward', OLD.name USING ERRCODE = 'insufficient_privilege';
  END IF;
  RETURN NEW;
END
$$;
GRANT UPDATE (turned) ON stream TO sealog_signer;

-- Another epoch than the first is opened by the signer, or by a recovery: whoever appends can not begin one, and so not keep for less.
ALTER TABLE stream ALTER COLUMN epoch SET DEFAULT 1;
REVOKE INSERT (epoch) ON stream FROM sealog_writer;

-- Sets the policy that follows number `behind`. A stream that keeps for less keeps for more from its next entry on; one that keeps for more
-- goes on as it is, until the signer has turned it.
CREATE FUNCTION set_retention(of_tenant integer, of_category text, behind integer, new_months integer, new_evidence text, who text, why text)
  RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  now_ms bigint;
BEGIN
  PERFORM pg_advisory_xact_lock(hashtextextended('sealog.retention', of_tenant));
  IF behind <> coalesce((SELECT max(p.number) FROM sealog.retention_policy AS p WHERE p.tenant = of_tenant AND p.category = of_category), 0) THEN
    RAISE EXCEPTION 'the next policy of % in tenant % has another number', of_category, of_tenant USING ERRCODE = 'unique_violation';
  END IF;
  INSERT INTO sealog.retention_policy (tenant, category, number, months, evidence, by, reason)
    VALUES (of_tenant, of_category, behind + 1, new_months, new_evidence, who, why);
  PERFORM FROM sealog.stream AS s WHERE s.tenant = of_tenant AND s.category = of_category AND NOT s.closed ORDER BY s.id FOR UPDATE;
  now_ms := floor(extract(epoch FROM clock_timestamp()) * 1000);
  -- No entry has been stamped yet.
  UPDATE sealog.stream AS s
  SET retention_months = sealog.retention_months_of(of_tenant, of_category), retention_next = NULL
  WHERE s.tenant = of_tenant AND s.category = of_category AND NOT s.closed AND s.size = 0;
  UPDATE sealog.stream AS s
  SET retention_months = new_months, retention_next = NULL,
      -- Repeats are looked for in 366 days at most.
      retention_before = coalesce((SELECT jsonb_agg(b.one ORDER BY b.n)
                                   FROM jsonb_array_elements(s.retention_before) WITH ORDINALITY AS b (one, n)
                                   WHERE (b.one ->> 1)::bigint > now_ms - 367 * 86400000::bigint), '[]')
        || jsonb_build_array(jsonb_build_array(s.retention_months, greatest(now_ms, s.recorded_at)))
  WHERE s.tenant = of_tenant AND s.category = of_category AND NOT s.closed AND s.size > 0 AND s.retention_months < new_months;
  UPDATE sealog.stream AS s SET retention_next = nullif(new_months, s.retention_months)
  WHERE s.tenant = of_tenant AND s.category = of_category AND NOT s.closed AND s.size > 0 AND s.retention_months >= new_months;
END
$$;

-- Closes an epoch at its last entry, and makes the row of the next one, which goes on under the policy of this moment; it may have been done
-- before. Nobody appends to the next before its opening entry (store/append.ts).
CREATE FUNCTION turn_epoch(old_name text) RETURNS void
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  old sealog.stream;
BEGIN
  SELECT * INTO STRICT old FROM sealog.stream AS s WHERE s.name = old_name;
  PERFORM pg_advisory_xact_lock(hashtextextended('sealog.retention', old.tenant));
  SELECT * INTO STRICT old FROM sealog.stream AS s WHERE s.name = old_name FOR UPDATE;
  IF old.turned THEN RETURN; END IF;
  IF old.closed OR old.size = 0 OR old.retention_months IS NULL THEN
    RAISE EXCEPTION 'stream % can not be turned', old_name USING ERRCODE = 'insufficient_privilege';
  END IF;
  INSERT INTO sealog.stream (tenant, category, epoch, name)
    SELECT old.tenant, old.category, old.epoch + 1, format('%s/%s/e%s', t.name, old.category, old.epoch + 1)
    FROM sealog.tenant AS t WHERE t.id = old.tenant;
  UPDATE sealog.stream SET closed = true, turned = true WHERE id = old.id;
END
$$;

REVOKE ALL ON FUNCTION default_retention_months(text), retention_months_of(integer, text), set_stream_retention(), turn_epoch(text),
  set_retention(integer, text, integer, integer, text, text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION set_retention(integer, text, integer, integer, text, text, text) TO sealog_writer;
GRANT EXECUTE ON FUNCTION turn_epoch(text) TO sealog_signer;

RESET ROLE;
