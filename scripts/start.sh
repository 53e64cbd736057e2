#!/usr/bin/env bash
# Run the platform on your own data until Ctrl-C or SIGTERM: Dagster (UI and daemon) and the portal, both on loopback.
# Settings come from the environment (CONTIMG_...) and the file CONTIMG_CONFIG names; ports from DAGSTER_PORT, PORTAL_PORT.
set -euo pipefail
set -m # each service in a process group of its own, which can be ended as a whole
cd "$(dirname "$0")/.."

DAGSTER_HOME="$(scripts/dagster_home.sh "${DAGSTER_HOME:-.contimg/dagster}")"
export DAGSTER_HOME OPENBLAS_NUM_THREADS=1 # threads of ours share the cores; those of BLAS would fight with them
dagster_port="${DAGSTER_PORT:-3000}"
portal_port="${PORTAL_PORT:-8000}"
export CONTIMG_DAGSTER_URL="${CONTIMG_DAGSTER_URL:-http://127.0.0.1:$dagster_port}" # where pages link to

services=()
stop() {
    trap - EXIT INT TERM
    kill -INT "${services[@]}" 2>/dev/null || true # Dagster then ends its own processes in order
    for _ in {1..40}; do
        kill -0 "${services[@]}" 2>/dev/null || break
        sleep 0.5
    done
    for service in "${services[@]}"; do
        kill -KILL -- "-$service" 2>/dev/null || true
    done
}
trap stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# A shell that runs in the background hands on an ignored SIGINT; Dagster would then ignore SIGTERM too.
env --default-signal=INT,TERM .venv/bin/dagster dev --host 127.0.0.1 --port "$dagster_port" &
services+=($!)
env --default-signal=INT,TERM .venv/bin/contimg portal --port "$portal_port" &
services+=($!)
echo "Dagster http://127.0.0.1:$dagster_port   portal http://127.0.0.1:$portal_port" >&2
wait -n "${services[@]}" # a service that ends takes the other with it
