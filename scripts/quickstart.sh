#!/usr/bin/env bash
# From a fresh clone to answers of a BERT that was just fine-tuned, on a live TorchServe.
# Safe to run again, and twice at once: finished steps are skipped, a running server is used, and a step that another
# quickstart is at is waited for.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
  cat << 'EOF2'
Usage: scripts/quickstart.sh [--stop] [--config FILE] [--run-dir DIR] [--model-store DIR]

Sets up, fine-tunes a small BERT on examples/intents, packs it, starts the server, registers the model and asks it a
few sentences. Two to four minutes the first time. The server is left running, unless

  --stop              stops it at the end
  --config, --run-dir, --model-store
                      run another server than that of this folder; see scripts/serve.sh --help
EOF2
}

stop=
store=model_store
run_dir=${SERVE_RUN_DIR:-.}
server=()
while [ $# -gt 0 ]; do
  case $1 in
    --stop) stop=yes; shift ;;
    --config) server+=("$1" "${2:?$1 needs a path}"); shift 2 ;;
    --run-dir) run_dir=${2:?$1 needs a path}; server+=("$1" "$2"); shift 2 ;;
    --model-store) store=${2:?--model-store needs a folder}; shift 2 ;;
    -h | --help) usage; exit 0 ;;
    *) echo "quickstart: unknown option $1" >&2; usage >&2; exit 2 ;;
  esac
done

step() { printf '\n%s\n' "== $*" >&2; }
# Wait until no other quickstart does this step in the same folder. The server must not keep the lock: start it with 9>&-.
lock() {
  mkdir -p "${1%/*}"
  exec 9> "$1"
  flock --nonblock 9 || { echo "another quickstart does this now: waiting until it is done" >&2; flock 9; }
}
unlock() { exec 9>&-; }
newer() { [ -n "$(find "${@:2}" -type f -not -path '*/__pycache__/*' -newer "$1" -print -quit)" ]; }

name=intents
data=examples/intents
model=models/$name
archive=$store/$name.mar

step "1/5 set-up"
scripts/setup.sh --train
export PATH="$PWD/.venv/bin:$PATH"

step "2/5 fine-tune a BERT on $data"
lock .cache/quickstart.lock
if [ -f "$model/training.json" ] && ! newer "$model/training.json" "$data"; then
  echo "$model is trained already" >&2
else
  scripts/train.py --model models/base --train "$data/train.csv" --validation "$data/validation.csv" \
    --test "$data/test.csv" --output "$model" --overwrite --epochs 8
fi

step "3/5 pack it into $archive"
fresh=
if [ -f "$archive" ] && ! newer "$archive" "$model" handler model-config.yaml; then
  echo "$archive is up to date" >&2
else
  scripts/package.py --model "$model" --name "$name" --version 1.0 --model-store "$store"
  fresh=yes
fi

unlock

step "4/5 serve it"
lock "$run_dir/run/quickstart.lock"
running=0
scripts/serve.sh status ${server[@]+"${server[@]}"} > /dev/null 2>&1 || running=$?
case $running in
  0 | 1) echo "a server is running already" >&2 ;;
  *) scripts/serve.sh start --model-store "$store" ${server[@]+"${server[@]}"} 9>&- ;;
esac
if [ -n "$fresh" ]; then scripts/models.py unregister "$name" ${server[@]+"${server[@]}"} 2> /dev/null || true; fi
if scripts/models.py status "$name" --wait ${server[@]+"${server[@]}"} > /dev/null 2>&1; then
  echo "$name is registered already" >&2
else
  scripts/models.py register "$name" ${server[@]+"${server[@]}"}
fi
unlock

step "5/5 ask it"
scripts/predict.py "$name" --table ${server[@]+"${server[@]}"} \
  "Where is the parcel I ordered last Tuesday?" \
  "Please cancel my order, I found it cheaper elsewhere." \
  "I moved house, can you send it to my new address instead?" \
  "The charger stopped working after two weeks and it still has warranty." \
  "I can't log in, the reset mail never arrives." \
  "Can I talk to a real person?"

if [ -n "$stop" ]; then
  step "stopping"
  scripts/serve.sh stop ${server[@]+"${server[@]}"}
  exit
fi

{ read -r url && read -r key; } < <(python - ${server[@]+"${server[@]}"} << 'END'
import argparse
from scripts.client.http import Inference
from scripts.client.server import Server, add_options
parser = argparse.ArgumentParser()
add_options(parser)
port = Inference(Server.of(parser.parse_args()))
print(port.base, port.key(), sep="\n")
END
)
cat << EOF2

Ask it yourself; the key is the one of this server, from key_file.json:

  curl $url/predictions/$name -H 'Authorization: Bearer $key' \\
    -H 'Content-Type: application/json' -d '"Where is my parcel?"'

  .venv/bin/python - << END
from huggingface_hub import InferenceClient
client = InferenceClient(model="$url/predictions/$name", token="$key")
print(client.text_classification("Where is my parcel?"))
END

Is it good enough? A report of metrics with intervals, calibration, weak slices and robustness:

  .venv/bin/python scripts/evaluate.py $name --data $data/test.csv${server[*]:+ ${server[*]}}   # evaluation/report.html

What is running: scripts/serve.sh status, scripts/models.py list, scripts/serve.sh logs${server[*]:+ (each with ${server[*]})}
Stop it:         scripts/serve.sh stop${server[*]:+ ${server[*]}}
EOF2
