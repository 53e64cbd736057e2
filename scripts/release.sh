#!/usr/bin/env bash
# Build a release into dist/: wheel, sdist, SBOM, SHA256SUMS and its signature: scripts/release.sh
#
# MINISIGN_KEY names a secret key of minisign (`minisign -G`); without one nothing is signed, and that is said. The SBOM (CycloneDX) lists
# the environment that was tested, with versions and licences.
set -euo pipefail
cd "$(dirname "$0")/.."

rm -rf dist
mkdir dist
.venv/bin/python -m pip wheel --disable-pip-version-check --quiet --no-deps --no-build-isolation --wheel-dir dist .
.venv/bin/python - >/dev/null <<'PYTHON'
from setuptools import build_meta

build_meta.build_sdist("dist")
PYTHON
.venv/bin/cyclonedx-py environment --output-reproducible --output-file dist/contimg-sbom.json .venv/bin/python
(cd dist && sha256sum -- *.whl *.tar.gz contimg-sbom.json >SHA256SUMS)
if [[ -n "${MINISIGN_KEY:-}" ]]; then
    minisign -S -s "$MINISIGN_KEY" -m dist/SHA256SUMS
else
    echo "SHA256SUMS is not signed: MINISIGN_KEY names no key" >&2
fi
