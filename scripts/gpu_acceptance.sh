#!/usr/bin/env bash
# The first run on a GPU: smoke test, tests, benchmark, profiles; each within its own time limit.
# Needs Python with PyTorch, transformers and pytest; no network, no Java, no set-up.
set -uo pipefail
cd "$(dirname "$0")/.."

usage() {
  cat << 'END'
Usage: scripts/gpu_acceptance.sh [--output DIR] [--seconds N] [--device DEVICE] [--only STEP,...]

Runs in this order, so that a failure of one step loses nothing of the others:

  smoke      a tiny model on the GPU answers as on the CPU, in every precision of the GPU (half a minute)
  tests      tests/handler/engine/test_cuda.py and test_cuda_products.py
  benchmark  scripts/bench_gpu.py with the time that is left
  pieces     every piece of a layer of bert-large: products, steps between them, attention, launches
  profile    one batch of bert-large in each precision: every kernel with its time, and the variants of the engine

The log of each step, JSON results and summary.txt are in --output (default: $OUT, or run/gpu-acceptance); the summary
is printed last.

  --seconds N    of all steps (default: 330)
  --device       of the smoke test and the profile; cpu tries the script where there is no GPU (default: cuda:0)
  --only         steps, separated by commas

Environment: PYTHON, an interpreter that has PyTorch (default: python3)
END
}

output=${OUT:-run/gpu-acceptance}
seconds=330
device=cuda:0
only=smoke,tests,benchmark,pieces,profile
while [ $# -gt 0 ]; do
  case $1 in
    --output) output=${2:?--output needs a folder}; shift 2 ;;
    --seconds) seconds=${2:?--seconds needs a number}; shift 2 ;;
    --device) device=${2:?--device needs a device}; shift 2 ;;
    --only) only=${2:?--only needs steps}; shift 2 ;;
    -h | --help) usage; exit 0 ;;
    *) echo "gpu_acceptance: unknown option $1" >&2; usage >&2; exit 2 ;;
  esac
done
python=${PYTHON:-python3}
mkdir -p "$output"
summary=$output/summary.txt
: > "$summary"
began=$SECONDS
failed=0

# step NAME SHARE COMMAND...: run a step in at most SHARE percent of the time that is left, 20 s at least. MINUTES in the
# command is replaced by that time, less 15 s to start.
step() {
  local name=$1 share=$2 left limit start status=0
  shift 2
  [[ ",$only," == *",$name,"* ]] || return 0
  left=$((seconds - (SECONDS - began)))
  limit=$((left * share / 100))
  if [ "$limit" -lt 20 ]; then
    echo "$name: left out, $left s were left" | tee -a "$summary"
    return 0
  fi
  echo "== $name: at most $limit s"
  start=$SECONDS
  set -- "${@/MINUTES/$(awk "BEGIN { print ($limit - 15) / 60 }")}"
  timeout --kill-after=10 "$limit" "$@" > "$output/$name.log" 2>&1 || status=$?
  case $status in
    0) status=passed ;;
    124 | 137) status="out of time"; failed=1 ;;
    *) status="failed with $status"; failed=1 ;;
  esac
  { echo "$name: $status after $((SECONDS - start)) s"; tr '\r' '\n' < "$output/$name.log" | tail -n 12 | cut -c1-200 | sed 's/^/  /'; } >> "$summary"
  echo "   $status after $((SECONDS - start)) s"
}

export OMP_WAIT_POLICY=PASSIVE

step smoke 25 "$python" -m scripts.benchmark.gpu_smoke --device "$device" --output "$output/smoke.json"
# A warning of a compiler is no failure of an answer. Models are loaded some 45 times: ten processes where they can be had.
parallel=()
"$python" -c 'import xdist' 2> /dev/null && parallel=(-n 10 --dist worksteal)
step tests 40 "$python" -m pytest tests/handler/engine/test_cuda.py tests/handler/engine/test_cuda_products.py -q -W default -p no:cacheprovider --durations=5 "${parallel[@]+"${parallel[@]}"}"
step benchmark 75 "$python" -m scripts.bench_gpu --device "$device" --minutes MINUTES --output "$output/benchmark"
step pieces 60 "$python" -m scripts.benchmark.gpu_pieces --device "$device" --output "$output/pieces.json"
step profile 95 "$python" -m scripts.benchmark.gpu_profile --device "$device" --output "$output/profile.json"

echo
cat "$summary"
exit $failed
