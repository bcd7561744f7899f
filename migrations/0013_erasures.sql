-- Erasure (docs/retention.md, "Erasing a person"): what was found, what two persons agreed on, and what is gone. Who is to be erased stands nowhere.

SET LOCAL ROLE sealog_owner;
SET LOCAL search_path = sealog, pg_catalog;

-- What was asked for is the proposal of this id (0006).
CREATE TABLE erasure (
  id           uuid    PRIMARY KEY REFERENCES proposal,
  tenant       integer NOT NULL REFERENCES tenant,
  state        text    NOT NULL DEFAULT 'searching' CHECK (state IN ('searching', 'found', 'failed')),
  -- Blocks that the search looked at.
  blocks       bigint  NOT NULL DEFAULT 0 CHECK (blocks >= 0),
  -- More was found than one erasure takes.
  more         boolean NOT NULL DEFAULT false,
  heartbeat    timestamptz NOT NULL DEFAULT clock_timestamp(),
  -- How many certificates it takes: set once it is approved and what is held was left out.
  certificates integer CHECK (certificates >= 0)
) WITH (fillfactor = 50);

CREATE TABLE erasure_entry (
  erasure     uuid    NOT NULL REFERENCES erasure,
  tenant      integer NOT NULL,
  stream      integer NOT NULL,
  seq         bigint  NOT NULL CHECK (seq >= 0),
  -- Of the event: it stands in the record.
  event_id    text    NOT NULL CHECK (length(event_id) BETWEEN 1 AND 128),
  parts       text[]  NOT NULL
              CHECK (cardinality(parts) > 0 AND parts <@ ARRAY['actor', 'changes', 'details', 'raw', 'reason', 'target']),
  -- Why it is not erased.
  refused     text    CHECK (refused IN ('legal_hold', 'legal_duty')),
  -- The number of the certificate that names it.
  certificate integer CHECK (certificate > 0),
  PRIMARY KEY (erasure, stream, seq),
  CHECK (refused IS NULL OR certificate IS NULL)
);

-- What is gone, and the id of the certificate's event: for readers. It is no evidence.
CREATE TABLE erased (
  tenant      integer NOT NULL,
  stream      integer NOT NULL,
  seq         bigint  NOT NULL,
  certificate text    NOT NULL,
  parts       text[]  NOT NULL,
  PRIMARY KEY (stream, seq, certificate)
);

-- A search goes from searching to found or failed, once; what it found changes only while it searches. So an approval is of what was shown.
CREATE FUNCTION guard_erasure() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF current_user = 'sealog_owner' THEN RETURN NEW; END IF;
  IF OLD.state <> 'searching' OR NEW.blocks < OLD.blocks THEN
    RAISE EXCEPTION 'the search of erasure % is over', OLD.id USING ERRCODE = 'insufficient_privilege';
  END IF;
  NEW.heartbeat := clock_timestamp();
  RETURN NEW;
END
$$;
CREATE FUNCTION guard_erasure_entry() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  of_erasure sealog.erasure;
BEGIN
  IF current_user = 'sealog_owner' THEN RETURN NEW; END IF;
  SELECT * INTO of_erasure FROM sealog.erasure WHERE id = NEW.erasure FOR UPDATE;
  IF TG_OP = 'INSERT' AND of_erasure.state = 'searching' AND of_erasure.tenant = NEW.tenant AND NEW.certificate IS NULL THEN RETURN NEW; END IF;
  -- What came under a hold since is left out, as long as no certificate names it.
  IF TG_OP = 'UPDATE' AND of_erasure.certificates IS NULL AND OLD.refused IS NULL THEN RETURN NEW; END IF;
  RAISE EXCEPTION 'the search of erasure % is over', NEW.erasure USING ERRCODE = 'insufficient_privilege';
END
$$;
CREATE TRIGGER guard BEFORE UPDATE ON erasure FOR EACH ROW EXECUTE FUNCTION guard_erasure();
CREATE TRIGGER guard BEFORE INSERT OR UPDATE ON erasure_entry FOR EACH ROW EXECUTE FUNCTION guard_erasure_entry();
CREATE TRIGGER append_only BEFORE DELETE ON erasure FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER append_only BEFORE DELETE ON erasure_entry FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON erased FOR EACH ROW EXECUTE FUNCTION refuse_change();
DO $$
DECLARE
  one text;
BEGIN
  FOREACH one IN ARRAY ARRAY['erasure', 'erasure_entry', 'erased'] LOOP
    EXECUTE format('CREATE TRIGGER no_truncate BEFORE TRUNCATE ON sealog.%I FOR EACH STATEMENT EXECUTE FUNCTION sealog.refuse_change()', one);
    EXECUTE format('ALTER TABLE sealog.%I ENABLE ALWAYS TRIGGER no_truncate', one);
    EXECUTE format('ALTER TABLE sealog.%I ENABLE ALWAYS TRIGGER append_only', one);
    IF one <> 'erased' THEN EXECUTE format('ALTER TABLE sealog.%I ENABLE ALWAYS TRIGGER guard', one); END IF;
    EXECUTE format('ALTER TABLE sealog.%I ENABLE ROW LEVEL SECURITY', one);
    EXECUTE format('ALTER TABLE sealog.%I FORCE ROW LEVEL SECURITY', one);
    EXECUTE format('CREATE POLICY owner ON sealog.%I TO sealog_owner USING (true) WITH CHECK (true)', one);
    EXECUTE format('CREATE POLICY writer ON sealog.%I TO sealog_writer USING (true) WITH CHECK (true)', one);
    EXECUTE format($policy$CREATE POLICY reader ON sealog.%I FOR SELECT TO sealog_reader
      USING (tenant = (SELECT nullif(current_setting('sealog.tenant', true), '')::integer))$policy$, one);
    EXECUTE format('GRANT SELECT ON sealog.%I TO sealog_writer, sealog_reader', one);
  END LOOP;
END
$$;
CREATE POLICY verifier ON erased FOR SELECT TO sealog_verifier USING (true);
GRANT SELECT ON erased TO sealog_verifier;
GRANT INSERT (id, tenant), UPDATE (state, blocks, more) ON erasure TO sealog_writer;
GRANT INSERT (erasure, tenant, stream, seq, event_id, parts, refused), UPDATE (refused) ON erasure_entry TO sealog_writer;

-- Gives what is to be erased to certificates, so many entries each, once: whoever begins again after a crash finds the same.
CREATE FUNCTION plan_erasure(of_erasure uuid) RETURNS integer
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  planned integer;
BEGIN
  SELECT e.certificates INTO planned FROM sealog.erasure AS e JOIN sealog.proposal AS p ON p.id = e.id
    WHERE e.id = of_erasure AND e.state = 'found' AND p.kind = 'erasure' AND p.state = 'approved' FOR UPDATE OF e;
  IF NOT FOUND THEN
    RAISE EXCEPTION 'the erasure % is not approved', of_erasure USING ERRCODE = 'insufficient_privilege';
  END IF;
  IF planned IS NOT NULL THEN RETURN planned; END IF;
  UPDATE sealog.erasure_entry AS e SET certificate = n.number
    FROM (SELECT stream, seq, ((row_number() OVER (ORDER BY stream, seq) - 1) / 500 + 1)::integer AS number
          FROM sealog.erasure_entry WHERE erasure = of_erasure AND refused IS NULL) AS n
    WHERE e.erasure = of_erasure AND e.stream = n.stream AND e.seq = n.seq;
  SELECT coalesce(max(certificate), 0) INTO planned FROM sealog.erasure_entry WHERE erasure = of_erasure;
  UPDATE sealog.erasure SET certificates = planned WHERE id = of_erasure;
  RETURN planned;
END
$$;

-- Says whether a certificate of an erasure stands in its tenant's log and is signed: the signer alone writes checkpoints, so it is of an earlier transaction.
CREATE FUNCTION is_erasure_certified(of_erasure uuid, number integer) RETURNS boolean
  LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT EXISTS (
    SELECT FROM sealog.erasure AS e
    JOIN sealog.stream AS s ON s.tenant = e.tenant AND s.category = 'log_administration'
    JOIN sealog.checkpoint AS c ON c.stream = s.id
    JOIN sealog.entry_id AS i ON i.drop_month = 0 AND i.stream = s.id AND i.seq < c.size
    WHERE e.id = of_erasure AND i.id = encode(substring(sha256(
      convert_to('sealog/id/v1', 'UTF8') || '\x00'::bytea || convert_to('erasure.' || of_erasure || '.' || number, 'UTF8')
    ) FROM 1 FOR 16), 'hex')::uuid)
$$;

-- Puts a block's sealed parts in place of those that they were made from, and takes away the tags that no entry of it has any more. Records
-- stay as they are. Returns false where the block is another by now. Not for callers: it checks nothing.
CREATE FUNCTION replace_parts(of_stream integer, block_seq bigint, month integer, old_hash bytea, new_parts bytea, gone_tags bigint[]) RETURNS boolean
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  PERFORM FROM sealog.stream WHERE id = of_stream AND category NOT IN ('log_administration', 'anchor');
  IF NOT FOUND THEN
    RAISE EXCEPTION 'nothing is erased from stream %', of_stream USING ERRCODE = 'insufficient_privilege';
  END IF;
  UPDATE sealog.block SET parts = new_parts
    WHERE stream = of_stream AND first_seq = block_seq AND drop_month = month AND sha256(parts) = old_hash;
  IF NOT FOUND THEN RETURN false; END IF;
  DELETE FROM sealog.tag WHERE stream = of_stream AND first_seq = block_seq AND drop_month = month AND tag = ANY (gone_tags);
  RETURN true;
END
$$;

-- Erases in one block what two persons agreed on and signed certificates name.
CREATE FUNCTION erase_parts(of_erasure uuid, of_stream integer, block_seq bigint, month integer, old_hash bytea, new_parts bytea, gone_tags bigint[])
  RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  own sealog.erasure;
  numbers integer[];
  block_end bigint;
BEGIN
  SELECT e.* INTO own FROM sealog.erasure AS e JOIN sealog.proposal AS p ON p.id = e.id
    WHERE e.id = of_erasure AND p.kind = 'erasure' AND p.state = 'approved' FOR UPDATE OF e;
  SELECT first_seq + entries INTO block_end FROM sealog.block
    WHERE stream = of_stream AND first_seq = block_seq AND drop_month = month AND tenant = own.tenant;
  IF block_end IS NULL THEN RETURN false; END IF;
  SELECT array_agg(DISTINCT certificate) INTO numbers FROM sealog.erasure_entry
    WHERE erasure = of_erasure AND stream = of_stream AND seq >= block_seq AND seq < block_end AND certificate IS NOT NULL;
  IF numbers IS NULL OR EXISTS (SELECT FROM unnest(numbers) AS n WHERE NOT sealog.is_erasure_certified(of_erasure, n)) THEN
    RAISE EXCEPTION 'no certificate of erasure % is signed for this block', of_erasure USING ERRCODE = 'insufficient_privilege';
  END IF;
  IF NOT sealog.replace_parts(of_stream, block_seq, month, old_hash, new_parts, gone_tags) THEN RETURN false; END IF;
  INSERT INTO sealog.erased (tenant, stream, seq, certificate, parts)
    SELECT tenant, stream, seq, 'erasure.' || of_erasure || '.' || certificate, parts FROM sealog.erasure_entry
    WHERE erasure = of_erasure AND stream = of_stream AND seq >= block_seq AND seq < block_end AND certificate IS NOT NULL
    ON CONFLICT DO NOTHING;
  RETURN true;
END
$$;

-- The same for the signer, of what stands in its ledger: in a database that it has not let in, which may be older than the erasure.
CREATE FUNCTION erase_again(certificate text, seqs bigint[], of_stream integer, block_seq bigint, month integer, old_hash bytea,
    new_parts bytea, gone_tags bigint[], names text[]) RETURNS boolean
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  PERFORM FROM sealog.signer WHERE refusal IS NULL AND incarnation = concat_ws(' ', extract(epoch FROM pg_postmaster_start_time()),
    (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database()), pg_relation_filenode('sealog.signer'));
  IF FOUND THEN
    RAISE EXCEPTION 'this database was let in: what is erased in it is approved first' USING ERRCODE = 'insufficient_privilege';
  END IF;
  IF NOT sealog.replace_parts(of_stream, block_seq, month, old_hash, new_parts, gone_tags) THEN RETURN false; END IF;
  -- names: of each seq, joined by commas.
  INSERT INTO sealog.erased (tenant, stream, seq, certificate, parts)
    SELECT s.tenant, s.id, u.seq, erase_again.certificate, string_to_array(u.parts, ',')
    FROM sealog.stream AS s CROSS JOIN unnest(seqs, names) AS u (seq, parts) WHERE s.id = of_stream
    ON CONFLICT DO NOTHING;
  RETURN true;
END
$$;

CREATE FUNCTION finish_erasure(of_erasure uuid) RETURNS void
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  of_tenant integer;
BEGIN
  UPDATE sealog.proposal AS p SET state = 'done', done_at = clock_timestamp() FROM sealog.erasure AS e
    WHERE p.id = of_erasure AND e.id = p.id AND p.kind = 'erasure' AND p.state = 'approved' AND e.certificates IS NOT NULL
    RETURNING p.tenant INTO of_tenant;
  -- Whoever follows a sink of the tenant holds entries that he has not delivered: he reads them anew.
  UPDATE sealog.sink SET revision = revision + 1 WHERE tenant = of_tenant AND state = 'active';
END
$$;

REVOKE ALL ON FUNCTION guard_erasure(), guard_erasure_entry(), plan_erasure(uuid), is_erasure_certified(uuid, integer), finish_erasure(uuid),
  replace_parts(integer, bigint, integer, bytea, bytea, bigint[]),
  erase_parts(uuid, integer, bigint, integer, bytea, bytea, bigint[]),
  erase_again(text, bigint[], integer, bigint, integer, bytea, bytea, bigint[], text[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION plan_erasure(uuid), is_erasure_certified(uuid, integer), finish_erasure(uuid),
  erase_parts(uuid, integer, bigint, integer, bytea, bytea, bigint[]) TO sealog_writer;
GRANT EXECUTE ON FUNCTION erase_again(text, bigint[], integer, bigint, integer, bytea, bytea, bigint[], text[]) TO sealog_signer;

RESET ROLE;
