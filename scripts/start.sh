#!/usr/bin/env bash
# Run the platform on your own data until Ctrl-C: Dagster (UI and daemon) and the portal, both on loopback.
# Settings come from the environment (CONTIMG_...) and the file CONTIMG_CONFIG names; ports from DAGSTER_PORT, PORTAL_PORT.
set -euo pipefail
cd "$(dirname "$0")/.."

DAGSTER_HOME="$(scripts/dagster_home.sh "${DAGSTER_HOME:-.contimg/dagster}")"
export DAGSTER_HOME
dagster_port="${DAGSTER_PORT:-3000}"
portal_port="${PORTAL_PORT:-8000}"

.venv/bin/dagster dev --host 127.0.0.1 --port "$dagster_port" &
dagster=$!
.venv/bin/contimg portal --port "$portal_port" &
portal=$!
trap 'kill "$dagster" "$portal" 2>/dev/null || true; wait || true' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
echo "Dagster http://127.0.0.1:$dagster_port   portal http://127.0.0.1:$portal_port" >&2
wait -n "$dagster" "$portal"
