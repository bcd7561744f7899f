-- Two persons: what one proposes, another approves, before it is done (docs/access.md).

SET LOCAL ROLE sealog_owner;
SET LOCAL search_path = sealog, pg_catalog;

-- A person is a subject of the proposal's tenant, compared to the letter, whatever roles and tokens he comes with.
CREATE TABLE proposal (
  id              uuid        PRIMARY KEY,
  -- In the order in which they were proposed.
  number          bigint      GENERATED ALWAYS AS IDENTITY UNIQUE,
  tenant          integer     NOT NULL REFERENCES tenant,
  kind            text        NOT NULL CHECK (kind ~ '^[a-z][a-z_]{0,39}$'),
  -- What exactly; it depends on the kind.
  request         jsonb       NOT NULL DEFAULT '{}',
  reason          text        NOT NULL CHECK (length(reason) BETWEEN 1 AND 1000),
  proposed_by     text        NOT NULL CHECK (length(proposed_by) BETWEEN 1 AND 256),
  proposed_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
  -- From here on nobody decides on it any more: what is shown as expired is a row that still says proposed.
  expires_at      timestamptz NOT NULL DEFAULT clock_timestamp() + interval '7 days',
  state           text        NOT NULL DEFAULT 'proposed'
                  CHECK (state IN ('proposed', 'approved', 'rejected', 'withdrawn', 'done', 'failed')),
  decided_by      text        CHECK (length(decided_by) BETWEEN 1 AND 256),
  decided_at      timestamptz,
  decision_reason text        CHECK (length(decision_reason) BETWEEN 1 AND 1000),
  -- What its doer is about to do, noted before he does it, so that after a crash it is done once.
  plan            jsonb,
  done_at         timestamptz,
  -- Why it failed, in words.
  error           text        CHECK (length(error) <= 1000),
  CHECK (expires_at > proposed_at),
  CHECK ((state = 'proposed') = (decided_by IS NULL) AND (decided_by IS NULL) = (decided_at IS NULL)),
  -- Nobody approves, or rejects, what he proposed; and only he withdraws it.
  CONSTRAINT proposal_second_person CHECK (decided_by IS NULL OR (decided_by = proposed_by) = (state = 'withdrawn')),
  CHECK (decided_by IS NOT NULL OR decision_reason IS NULL),
  CHECK (plan IS NULL OR state IN ('approved', 'done', 'failed')),
  CHECK ((state IN ('done', 'failed')) = (done_at IS NOT NULL)),
  CHECK ((state = 'failed') = (error IS NOT NULL))
) WITH (fillfactor = 50);
CREATE INDEX proposal_listed ON proposal (tenant, kind, number);
CREATE INDEX proposal_approved ON proposal (kind, number) WHERE state = 'approved';

-- What is proposed never changes, so an approval is of exactly what was shown; what is decided stays decided, and each step is taken once.
CREATE FUNCTION guard_proposal() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF current_user = 'sealog_owner' THEN RETURN NEW; END IF;
  IF (NEW.id, NEW.number, NEW.tenant, NEW.kind, NEW.request, NEW.reason, NEW.proposed_by, NEW.proposed_at, NEW.expires_at)
     IS DISTINCT FROM (OLD.id, OLD.number, OLD.tenant, OLD.kind, OLD.request, OLD.reason, OLD.proposed_by, OLD.proposed_at, OLD.expires_at) THEN
    RAISE EXCEPTION 'the proposal % was made otherwise', OLD.id USING ERRCODE = 'insufficient_privilege';
  END IF;
  IF OLD.state = 'proposed' AND NEW.state IN ('approved', 'rejected', 'withdrawn') THEN
    IF clock_timestamp() >= OLD.expires_at THEN
      RAISE EXCEPTION 'the proposal % has expired', OLD.id USING ERRCODE = 'insufficient_privilege';
    END IF;
    NEW.decided_at := clock_timestamp();
    RETURN NEW;
  END IF;
  -- Keys are the signer's: nobody else (0007) plans a rotation, or says that it is done.
  IF OLD.state = 'approved' AND NEW.state IN ('approved', 'done', 'failed') AND (OLD.kind <> 'key_rotation' OR current_user = 'sealog_signer')
     AND (NEW.decided_by, NEW.decided_at, NEW.decision_reason) IS NOT DISTINCT FROM (OLD.decided_by, OLD.decided_at, OLD.decision_reason)
     AND (OLD.plan IS NULL OR NEW.plan IS NOT DISTINCT FROM OLD.plan) THEN
    NEW.done_at := CASE WHEN NEW.state <> 'approved' THEN clock_timestamp() END;
    RETURN NEW;
  END IF;
  RAISE EXCEPTION 'the proposal % is %', OLD.id, OLD.state USING ERRCODE = 'insufficient_privilege';
END
$$;
REVOKE ALL ON FUNCTION guard_proposal() FROM PUBLIC;
CREATE TRIGGER guard BEFORE UPDATE ON proposal FOR EACH ROW EXECUTE FUNCTION guard_proposal();
ALTER TABLE proposal ENABLE ALWAYS TRIGGER guard;
CREATE TRIGGER append_only BEFORE DELETE ON proposal FOR EACH ROW EXECUTE FUNCTION refuse_change();
ALTER TABLE proposal ENABLE ALWAYS TRIGGER append_only;
CREATE TRIGGER no_truncate BEFORE TRUNCATE ON proposal FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
ALTER TABLE proposal ENABLE ALWAYS TRIGGER no_truncate;

ALTER TABLE proposal ENABLE ROW LEVEL SECURITY;
ALTER TABLE proposal FORCE ROW LEVEL SECURITY;
CREATE POLICY owner ON proposal TO sealog_owner USING (true) WITH CHECK (true);
CREATE POLICY writer ON proposal TO sealog_writer USING (true) WITH CHECK (true);
CREATE POLICY verifier ON proposal FOR SELECT TO sealog_verifier USING (true);
CREATE POLICY reader ON proposal FOR SELECT TO sealog_reader
  USING (tenant = (SELECT nullif(current_setting('sealog.tenant', true), '')::integer));

GRANT SELECT ON proposal TO sealog_writer, sealog_reader, sealog_verifier;
-- When it was made, decided and done, and until when it stands, is the database's to say.
GRANT INSERT (id, tenant, kind, request, reason, proposed_by) ON proposal TO sealog_writer;
GRANT UPDATE (state, decided_by, decision_reason) ON proposal TO sealog_writer;

RESET ROLE;
