-- The signer has a role of its own: what is signed, whom the signer lets in, and which epochs are closed, is its alone to write. Until now
-- that was the writer's, who appends what clients send (docs/storage.md).

DO $$
BEGIN
  IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'sealog_signer') THEN
    CREATE ROLE sealog_signer NOLOGIN NOSUPERUSER NOBYPASSRLS NOCREATEDB NOCREATEROLE NOREPLICATION;
  END IF;
EXCEPTION
  WHEN duplicate_object OR unique_violation THEN NULL;
END
$$;

SET LOCAL ROLE sealog_owner;
SET LOCAL search_path = sealog, pg_catalog;

GRANT USAGE ON SCHEMA sealog TO sealog_signer;

-- What it reads: heads and trees, what was signed and anchored. No parts, no keys of parts, no tags.
GRANT SELECT ON deployment, tenant, stream, entry_id, tile, signer, key_statement, checkpoint, anchor_leaf, outside_evidence, proposal
  TO sealog_signer;
GRANT SELECT (tenant, stream, first_seq, entries, drop_month, records) ON block TO sealog_signer;
GRANT EXECUTE ON FUNCTION is_tick(bytea) TO sealog_signer;

-- What it writes. A recovery opens an epoch, and closes the one before.
REVOKE INSERT ON signer, key_statement, checkpoint, anchor_leaf FROM sealog_writer;
REVOKE UPDATE (system_identifier, timeline, incarnation, refusal, looked_at) ON signer FROM sealog_writer;
REVOKE UPDATE (size, root, generation, note, signed_at) ON checkpoint FROM sealog_writer;
REVOKE UPDATE (closed) ON stream FROM sealog_writer;
GRANT INSERT (system_identifier, timeline, incarnation, refusal), UPDATE (system_identifier, timeline, incarnation, refusal, looked_at)
  ON signer TO sealog_signer;
GRANT INSERT ON key_statement, anchor_leaf TO sealog_signer;
GRANT INSERT (stream, tenant, size, root, generation, note), UPDATE (size, root, generation, note, signed_at) ON checkpoint TO sealog_signer;
GRANT INSERT (name) ON tenant TO sealog_signer;
GRANT INSERT (tenant, category, epoch, name), UPDATE (closed) ON stream TO sealog_signer;
GRANT UPDATE (state, plan, error) ON proposal TO sealog_signer;

-- What the service needs of these tables, and no other columns: ids and times are the database's to say.
REVOKE INSERT ON deployment, tenant, stream, data_key, outside_evidence FROM sealog_writer;
GRANT INSERT (origin) ON deployment TO sealog_writer;
GRANT INSERT (name) ON tenant TO sealog_writer;
GRANT INSERT (tenant, category, epoch, name) ON stream TO sealog_writer;
GRANT INSERT (tenant, stream, drop_month, month_key, wrapped) ON data_key TO sealog_writer;
GRANT INSERT (anchor, kind, stream, size, note, evidence, certificates, crls, evidence_time, ends) ON outside_evidence TO sealog_writer;

-- Nobody who answers clients asks whom the signer lets in.
REVOKE SELECT ON signer FROM sealog_reader;

DO $$
DECLARE
  one text;
BEGIN
  FOREACH one IN ARRAY ARRAY['tenant', 'stream', 'block', 'entry_id', 'tile', 'checkpoint', 'anchor_leaf', 'proposal'] LOOP
    EXECUTE format('CREATE POLICY signer ON sealog.%I TO sealog_signer USING (true) WITH CHECK (true)', one);
  END LOOP;
END
$$;

RESET ROLE;
