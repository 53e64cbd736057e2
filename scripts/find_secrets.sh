#!/usr/bin/env bash
# Search files for secrets: scripts/find_secrets.sh [FILES]; by default all that git knows. Exit code 1 and a list when there are any.
#
# Keys, tokens and passwords in addresses are found by their form. Left out: randomness (hashes and numbers of astronomy look random) and
# the words "secret" and "password" by themselves (settings have such names). An example writes PASSWORD@ or //user:
set -euo pipefail
cd "$(dirname "$0")/.."

options=(--disable-plugin Base64HighEntropyString --disable-plugin HexHighEntropyString --disable-plugin KeywordDetector)
options+=(--exclude-lines 'PASSWORD@|//user:' --exclude-files '\.(png|svg|json)$')
if (($# > 0)); then
    exec .venv/bin/detect-secrets-hook "${options[@]}" "$@"
fi
git ls-files -z | xargs -0 .venv/bin/detect-secrets-hook "${options[@]}"
