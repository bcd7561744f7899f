-- Each role reads what its code reads: of API keys and sinks nobody but the writer reads what is secret, and who answers clients reads
-- nothing that is the deployment's (docs/storage.md).

SET LOCAL ROLE sealog_owner;
SET LOCAL search_path = sealog, pg_catalog;

-- Clients are shown what a key may, and what a sink is: not the hashes of secrets, not sealed secrets, not the wrapped keys of parts. Of
-- what is the deployment's, or lies beneath proofs of all tenants, others answer.
REVOKE SELECT ON deployment, tenant_setting, data_key, key_statement, anchor_leaf, outside_evidence, api_key, sink FROM sealog_reader;
GRANT SELECT (id, tenant, stream, drop_month) ON data_key TO sealog_reader;
GRANT SELECT (id, tenant, name, categories, sites, created_at, created_by, expires_at, rotated_at, previous_until, revoked_at, revoked_by,
  last_used_at) ON api_key TO sealog_reader;
GRANT SELECT (id, tenant, name, config, state, revision, from_file, created_at, created_by, delivered_at, failures, error, error_at, retry_at)
  ON sink TO sealog_reader;
DROP POLICY reader ON tenant_setting;
DROP POLICY reader ON anchor_leaf;

-- Verification asks about entries, not about who sends or receives them.
REVOKE SELECT ON proposal, api_key, sink, sink_cursor FROM sealog_verifier;
DROP POLICY verifier ON proposal;
DROP POLICY verifier ON api_key;
DROP POLICY verifier ON sink;
DROP POLICY verifier ON sink_cursor;

-- Of what two persons agreed on, the signer reads what is to be done.
REVOKE SELECT ON proposal FROM sealog_signer;
GRANT SELECT (id, number, kind, state, plan) ON proposal TO sealog_signer;

RESET ROLE;
