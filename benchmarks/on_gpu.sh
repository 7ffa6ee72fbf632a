#!/bin/sh
# Measure on a bare machine with torch, a GPU and no network, in at most 8 minutes:
#   OUT=results WHEELS=wheels CKPTLAB_COMMIT=abc1234 benchmarks/on_gpu.sh [--images DIR]
# Rehearse all of it on a CPU:
#   OUT=results benchmarks/on_gpu.sh --quick --device cpu
# WHEELS holds wheels for the machine's Python (make wheels). Each stage is a process of its own that adds to $OUT/on_gpu.json.
set -u
cd "$(dirname "$0")/.." || exit 1
: "${OUT:?set OUT to a folder for the results}"
PYTHON=${PYTHON:-python3}
mkdir -p "$OUT"
rm -f "$OUT/on_gpu.json"
if [ -n "${WHEELS:-}" ]; then
    echo "== install"
    timeout 60 "$PYTHON" -m pip install --quiet --no-index --find-links "$WHEELS" \
        'ckptlab[cluster]' hypothesis pytest pytest-timeout || {
        echo "not all that it needs is there: installing what was carried"
        timeout 60 "$PYTHON" -m pip install --quiet --no-index --no-deps "$WHEELS"/*.whl
    }
fi
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
failed=0
stage() {
    name=$1
    limit=$2
    shift 2
    echo "== $name"
    timeout -k 5 "$limit" "$PYTHON" -m benchmarks.on_gpu "$name" --out "$OUT" "$@"
    code=$?
    if [ "$code" -ne 0 ]; then
        failed=1
        "$PYTHON" -m benchmarks.on_gpu failed --what "$name" --code "$code" --out "$OUT"
    fi
}
stage tests 75 "$@"
stage repeat 60 "$@"
stage step 75 "$@"
stage recording 60 "$@"
stage replicas 75 "$@"
stage profile 25 "$@"
stage record 90 "$@"
"$PYTHON" -m benchmarks.on_gpu collect --out "$OUT" "$@"
exit "$failed"
