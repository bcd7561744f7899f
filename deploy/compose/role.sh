#!/bin/sh
# Run by the PostgreSQL image once, on a new data folder: the login of the service. What it may do, `sealog migrate` says.
set -eu
psql -v ON_ERROR_STOP=1 -v password="$(cat /run/secrets/sealog-password)" -U "$POSTGRES_USER" -d "$POSTGRES_DB" <<'SQL'
CREATE ROLE sealog LOGIN NOINHERIT NOSUPERUSER NOBYPASSRLS NOCREATEDB NOCREATEROLE NOREPLICATION PASSWORD :'password';
SQL
