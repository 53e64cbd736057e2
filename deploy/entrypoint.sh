#!/bin/sh
# What every container of the image starts with: kernels compiled when the image was built are put where numba reads them. Numba uses
# no cache that it may not write, and the image is read-only; on another kind of processor it compiles anew and keeps that there too.
set -eu
kernels="${CONTIMG_KERNELS:-/opt/contimg/kernels}"
if [ -n "${NUMBA_CACHE_DIR:-}" ] && [ -d "$kernels" ] && [ ! -e "$NUMBA_CACHE_DIR" ]; then
    cp -R "$kernels" "$NUMBA_CACHE_DIR"
fi
exec "$@"
