#!/bin/bash
# The whole check, on the machine with the GPU: bash .gpu/check/go.sh [arguments of lab.gpu.check]
# $OUT: where results go. SECONDS_LEFT: for everything, this script included.
START=$(date +%s.%N)
cd "$(dirname "$0")" || exit 1
OUT=${OUT:-/tmp/pf/out}
PY=${PY:-python3}
WORK=${WORK:-/tmp/pf}
rm -rf "$WORK/comfy" "$WORK/site" "$WORK/project"
mkdir -p "$OUT" "$WORK/comfy" "$WORK/site"
tar xzf comfy.tar.gz -C "$WORK/comfy" &
cp -r project "$WORK/project" && mkdir -p "$WORK/project/assets/identity_adapters" &
"$PY" - "$WORK/site" whl/*.whl <<'P' &
import sys, zipfile
for wheel in sys.argv[2:]:
    zipfile.ZipFile(wheel).extractall(sys.argv[1])
P
wait
export PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 TOKENIZERS_PARALLELISM=false
cd "$WORK/project" || exit 1
exec "$PY" -m lab.gpu.check --work "$WORK" --out "$OUT" --started "$START" --seconds "${SECONDS_LEFT:-142}" "$@"
