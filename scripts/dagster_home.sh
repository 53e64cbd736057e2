#!/usr/bin/env bash
# Prepare a DAGSTER_HOME and print its absolute path: scripts/dagster_home.sh [FOLDER]
#
# Dagster wants DAGSTER_HOME absolute with dagster.yaml inside it; a dagster.yaml of your own is left alone. Its SQLite
# files are created here, by one process: several first openings at once corrupt them.
set -euo pipefail

project="$(cd "$(dirname "$0")/.." && pwd)"
home="${1:-$project/.contimg/dagster}"
mkdir -p "$home"
home="$(cd "$home" && pwd)"
if [[ -L "$home/dagster.yaml" || ! -e "$home/dagster.yaml" ]]; then
    ln -sfn "$project/dagster.yaml" "$home/dagster.yaml"
fi
DAGSTER_HOME="$home" "$project/.venv/bin/python" - <<'PYTHON'
import dagster as dg

with dg.DagsterInstance.get() as instance:
    instance.get_runs_count()
    instance.all_asset_keys()
    instance.all_instigator_state()
PYTHON
# Dagster marks here that its welcome dialog was seen, also for readers who may not write: there is nothing left to mark.
mkdir -p "$home/.nux"
[[ -e "$home/.nux/nux.yaml" ]] || printf 'seen: 1\n' >"$home/.nux/nux.yaml"
printf '%s\n' "$home"
