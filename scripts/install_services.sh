#!/usr/bin/env bash
# Install the system packages that Python packages cannot bring: scripts/install_services.sh [bench|cluster]
#
# For tests Chromium, a font for it, Prometheus, PostgreSQL, Redis, Swift (an S3 server), nginx, openssl, docker-compose, systemd,
# rsyslog and minisign (what deploy/ holds is checked by them), and WSClean, which can be chosen for imaging; with the argument `bench` WSClean,
# PostgreSQL and Redis, with `cluster` PostgreSQL and Redis only.
# Does nothing when they are there. Without root or sudo it says what is missing and goes on: the tests that
# need it are then skipped with that reason (and fail in CI), and the benchmark says what to install.
set -euo pipefail

missing=()
command -v redis-server >/dev/null || missing+=(redis-server)
compgen -G '/usr/lib/postgresql/*/bin/postgres' >/dev/null || missing+=(postgresql)
if [[ "${1:-}" != cluster ]]; then
    command -v wsclean >/dev/null || missing+=(wsclean)
fi
if [[ -z "${1:-}" ]]; then
    command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null \
        || missing+=(chromium fonts-dejavu-core)
    command -v prometheus >/dev/null && command -v promtool >/dev/null || missing+=(prometheus)
    command -v swift-proxy-server >/dev/null || missing+=(swift-proxy swift-account swift-container swift-object)
    for service in nginx openssl docker-compose systemd minisign; do
        command -v "${service/systemd/systemd-analyze}" >/dev/null || missing+=("$service")
    done
    [[ -x /usr/sbin/rsyslogd ]] || missing+=(rsyslog)
fi
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
# Packages must not start services here (Prometheus, PostgreSQL and Redis would): while they are installed, Debian's policy says no.
policy=/usr/sbin/policy-rc.d
if [[ ! -e "$policy" ]]; then
    printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" tee "$policy" >/dev/null
    "${as_root[@]}" chmod 755 "$policy"
    trap '"${as_root[@]}" rm -f "$policy"' EXIT
fi
"${as_root[@]}" apt-get update -qq </dev/null
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" \
    </dev/null >/dev/null
