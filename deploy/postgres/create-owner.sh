#!/bin/bash
# Run once by the image of PostgreSQL when it has made the empty database POSTGRES_DB: a role of the same name owns it and may do nothing
# else. The superuser, POSTGRES_USER, is for backups of the whole server and for upgrades; no service of contimg knows its password.
set -e
export OWNER_PASSWORD_FILE="${OWNER_PASSWORD_FILE:-/run/secrets/postgres_owner_password}"
psql --no-psqlrc --set=ON_ERROR_STOP=1 --set=owner="$POSTGRES_DB" --username="$POSTGRES_USER" --dbname=postgres <<'SQL'
\set password `cat "$OWNER_PASSWORD_FILE"`
CREATE ROLE :"owner" LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS PASSWORD :'password';
ALTER DATABASE :"owner" OWNER TO :"owner";
REVOKE CONNECT, TEMPORARY ON DATABASE :"owner" FROM PUBLIC;
SQL
