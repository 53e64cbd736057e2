#!/usr/bin/env bash
# Install the system packages that tests need and Python packages cannot bring: Chromium and a font for it.
# Does nothing when they are there. Without root or sudo it says what is missing and goes on: the tests that
# need it are then skipped with that reason (and fail in CI).
set -euo pipefail

missing=()
command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null \
    || missing+=(chromium fonts-dejavu-core)
if ((${#missing[@]} == 0)); then
    exit 0
fi

as_root=()
if ((EUID != 0)); then
    if ! command -v sudo >/dev/null || ! sudo -n true 2>/dev/null; then
        echo "Missing system packages: ${missing[*]}. Install them as root: apt-get install ${missing[*]}" >&2
        exit 0
    fi
    as_root=(sudo)
fi
echo "Installing system packages: ${missing[*]}" >&2
"${as_root[@]}" apt-get update -qq </dev/null
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" \
    </dev/null >/dev/null
