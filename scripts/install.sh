#!/usr/bin/env bash
# Install contimg into .venv with the tested versions: scripts/install.sh [EXTRAS], e.g. scripts/install.sh test,casa,flag,flag
set -euo pipefail
cd "$(dirname "$0")/.."

if [[ ! -x .venv/bin/python ]]; then
    python="${PYTHON:-$(command -v python3.11 || command -v python3)}"
    if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
        echo "contimg needs Python 3.11 or newer; $python is $("$python" --version 2>&1)." \
            "Install one and name it: PYTHON=/path/to/python3.11 make install" >&2
        exit 1
    fi
    "$python" -m venv .venv
fi
.venv/bin/python -m pip install --disable-pip-version-check --quiet --constraint constraints.txt --editable ".${1:+[$1]}"
