-- Tenants: whether each is open, and what it may ask for (docs/storage.md).

SET LOCAL ROLE sealog_owner;
SET LOCAL search_path = sealog, pg_catalog;

-- A tenant's history: the row with the highest number counts. A tenant without one is open, and held to the defaults.
CREATE TABLE tenant_setting (
  tenant            integer     NOT NULL REFERENCES tenant,
  -- From 1 on, without gaps. Two change a tenant at once: both write the same number, and one is refused.
  number            integer     NOT NULL CHECK (number >= 1),
  state             text        NOT NULL CHECK (state IN ('open', 'closed')),
  -- NULL = the configuration's default, 0 = no limit.
  events_per_second bigint      CHECK (events_per_second BETWEEN 0 AND 1000000000),
  burst_events      bigint      CHECK (burst_events BETWEEN 1 AND 1000000000),
  bytes_per_second  bigint      CHECK (bytes_per_second BETWEEN 0 AND 1000000000000),
  reads_per_second  bigint      CHECK (reads_per_second BETWEEN 0 AND 1000000000),
  at                timestamptz NOT NULL DEFAULT clock_timestamp(),
  by                text        NOT NULL CHECK (length(by) BETWEEN 1 AND 256),
  reason            text        CHECK (length(reason) BETWEEN 1 AND 4096),
  PRIMARY KEY (tenant, number)
);

CREATE FUNCTION guard_tenant_setting() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF NEW.number <> 1 + coalesce((SELECT max(s.number) FROM sealog.tenant_setting AS s WHERE s.tenant = NEW.tenant), 0) THEN
    RAISE EXCEPTION 'the next setting of tenant % has another number', NEW.tenant USING ERRCODE = 'unique_violation';
  END IF;
  -- Its log is the deployment's own, and whoever could open it again is one of its callers.
  IF NEW.state = 'closed' AND EXISTS (SELECT FROM sealog.tenant AS t WHERE t.id = NEW.tenant AND t.name = 'sealog') THEN
    RAISE EXCEPTION 'the tenant sealog is the deployment itself' USING ERRCODE = 'check_violation';
  END IF;
  RETURN NEW;
END
$$;
REVOKE ALL ON FUNCTION guard_tenant_setting() FROM PUBLIC;
CREATE TRIGGER guard BEFORE INSERT ON tenant_setting FOR EACH ROW EXECUTE FUNCTION guard_tenant_setting();
ALTER TABLE tenant_setting ENABLE ALWAYS TRIGGER guard;
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON tenant_setting FOR EACH ROW EXECUTE FUNCTION refuse_change();
ALTER TABLE tenant_setting ENABLE ALWAYS TRIGGER append_only;
CREATE TRIGGER no_truncate BEFORE TRUNCATE ON tenant_setting FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
ALTER TABLE tenant_setting ENABLE ALWAYS TRIGGER no_truncate;

ALTER TABLE tenant_setting ENABLE ROW LEVEL SECURITY;
ALTER TABLE tenant_setting FORCE ROW LEVEL SECURITY;
CREATE POLICY owner ON tenant_setting TO sealog_owner USING (true) WITH CHECK (true);
CREATE POLICY writer ON tenant_setting TO sealog_writer USING (true) WITH CHECK (true);
CREATE POLICY verifier ON tenant_setting FOR SELECT TO sealog_verifier USING (true);
CREATE POLICY reader ON tenant_setting FOR SELECT TO sealog_reader
  USING (tenant = (SELECT nullif(current_setting('sealog.tenant', true), '')::integer));

GRANT SELECT ON tenant_setting TO sealog_writer, sealog_reader, sealog_verifier;
GRANT INSERT (tenant, number, state, events_per_second, burst_events, bytes_per_second, reads_per_second, by, reason)
  ON tenant_setting TO sealog_writer;

RESET ROLE;
