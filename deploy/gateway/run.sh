#!/bin/sh
# Run the gateway in the foreground, and reload it when TorchServe's keys or the operator's secrets change.
# TorchServe makes new keys whenever it starts; certificates and clients change while the gateway runs. This script checks
# all of them every second and reloads nginx, which drops no request. SIGTERM lets running requests finish.
# Run it as TorchServe's user, who owns the keys and the run folder; not as root.
#
#   GATEWAY_SECRETS  folder with tls.crt, tls.key and clients.map    (default: /etc/gateway/secrets)
#   GATEWAY_RUN      writable folder, best in memory: it holds keys  (default: /run/gateway)
#   GATEWAY_CONF     the configuration                    (default: nginx.conf beside this file)
#   GATEWAY_LISTEN   where clients connect: [ADDRESS:]PORT, and `proxy_protocol` behind a load balancer that sends the
#                    address of the client so    (default: 8443)
#   GATEWAY_TLS      `off` where an ingress ends TLS and nothing else can reach the port (default: on)
#   GATEWAY_METRICS  where Prometheus finds /metrics and health checks /ping: [ADDRESS:]PORT  (default: 127.0.0.1:8083)
#   GATEWAY_SERVER   `standalone` when all servers are that of serve.sh --server standalone: its further routes are
#                    forwarded, and it is asked for its health    (default: torchserve)
#   TORCHSERVE       addresses of the servers, separated by spaces   (default: 127.0.0.1:8080)
#   KEY_FILE         the key_file.json of each, in the same order, in its run folder (default: /app/run/key_file.json)
#   GATEWAY_NGINX    the program                          (default: nginx)
#
# Each change makes a new folder of configuration, GATEWAY_RUN/conf.N. nginx reads it only when it has passed all checks:
# clients.awk checks the clients, `nginx -t` everything else. A file that fails leaves what was read before it in force.
set -eu
here=$(dirname "$0")
secrets=${GATEWAY_SECRETS:-/etc/gateway/secrets}
run=${GATEWAY_RUN:-/run/gateway}
conf=${GATEWAY_CONF:-$here/nginx.conf}
listen=${GATEWAY_LISTEN:-8443}
metrics=${GATEWAY_METRICS:-127.0.0.1:8083}
tls=' ssl'
[ "${GATEWAY_TLS:-on}" = on ] || tls=
addresses=${TORCHSERVE:-127.0.0.1:8080}
key_files=${KEY_FILE:-/app/run/key_file.json}
kind=${GATEWAY_SERVER:-torchserve}
nginx=${GATEWAY_NGINX:-nginx}

say() { printf '%s\n' "gateway: $*" >&2; }

count() { echo $#; }
# shellcheck disable=SC2086 # words
if [ "$(count $addresses)" -ne "$(count $key_files)" ]; then
  say "TORCHSERVE names $(count $addresses) servers and KEY_FILE $(count $key_files) files: give each server its own"
  exit 2
fi

case $kind in
  torchserve | standalone) ;;
  *) say "GATEWAY_SERVER is $kind: torchserve or standalone"; exit 2 ;;
esac

# --- The version of nginx -------------------------------------------------------------------------------------------

# Is version $1 older than $2 of the stable or $3 of the mainline branch?
older() {
  echo "$1" | awk -F. -v stable="$2" -v mainline="$3" '
    function number(text, part) { split(text, part, "."); return part[1] * 1000000 + part[2] * 1000 + part[3] }
    { fixed = $2 % 2 == 0 && number($0) < number(mainline) ? stable : mainline; exit !(number($0) < number(fixed)) }'
}

# Older than 1.30.4 and 1.31.3: a request can overflow a buffer through `map` (CVE-2026-42533). Older than 1.30.7 and 1.31.9:
# string expressions (CVE-2026-93479) and what was published on 2026-11-18.
version=$("$nginx" -v 2>&1 | sed -n 's|^nginx version: [^/]*/\([0-9.]*\).*|\1|p')
if older "${version:-0.0.0}" 1.30.4 1.31.3; then
  say "nginx ${version:-of unknown version} has known weaknesses that clients can reach: 1.30.7, 1.31.9 or newer is needed"
  exit 2
fi
! older "$version" 1.30.7 1.31.9 || say "nginx $version has known weaknesses: replace it by 1.30.7, 1.31.9 or newer"

# --- What nginx.conf includes ----------------------------------------------------------------------------------------

# The inference key in a key file; empty: there is none yet.
key_in() { tr -d ' \n\r' 2> /dev/null < "$1" | sed -n 's/.*"inference":{"key":"\([A-Za-z0-9_=-]*\)".*/\1/p'; }

# One line for each replica: its number, its address, its key file.
replicas() {
  number=0
  # shellcheck disable=SC2086 # words
  set -- $key_files
  for address in $addresses; do
    echo "$number $address $1"
    shift
    number=$((number + 1))
  done
}

# A map from the sockets, by which nginx identifies a replica, to what `value` prints for each.
map_to() {
  echo "map \$server_addr \$$1 {"
  replicas | while read -r number address key_file; do
    echo "  \"unix:$run/$number.sock\" \"$(value "$1" "$number" "$key_file")\";"
  done
  echo "}"
}

value() {
  case $1 in
    replica) echo "replica-$2" ;;
    authorization) key=$(key_in "$3") && [ -n "$key" ] && echo "Bearer $key" || true ;;
    state) echo "$(dirname "$3")/run" ;;
  esac
}

# A busier replica gets fewer requests. All are always tried: by default nginx would skip a failed one for ten seconds.
# TorchServe closes connections only after an error, and announces it: a persistent one saves a millisecond per request.
replicas_conf() {
  echo "upstream torchserve {"
  echo "  zone torchserve 64k;"
  echo "  least_conn;"
  replicas | while read -r number address key_file; do echo "  server unix:$run/$number.sock max_fails=0;"; done
  echo "}"
  replicas | while read -r number address key_file; do
    echo "upstream replica-$number {"
    echo "  server $address max_fails=0;"
    echo "  keepalive 32;"
    echo "}"
  done
  printf '%s\n' "map \$server_name \$server_kind {" "  default $kind;" "}"
  map_to replica
  map_to authorization
  map_to state
}

# Who sends the PROXY protocol is believed: only the load balancer may reach the port then.
front_conf() {
  echo "listen $listen;"
  echo "proxy_pass unix:$run/clients.sock;"
  case $listen in *proxy_protocol*) printf '%s\n' "set_real_ip_from 0.0.0.0/0;" "set_real_ip_from ::/0;" ;; esac
}

sockets_conf() { replicas | while read -r number address key_file; do echo "listen unix:$run/$number.sock;"; done; }

# --- Check a change, then apply it -----------------------------------------------------------------------------------

# Test a folder of configuration; nginx may quote a line that it cannot read, so keys are cut off.
valid() {
  "$nginx" -t -q -e stderr -p "$run" -g "$globally" -c "$1/nginx.conf" 2> "$run/reason" && return
  sed 's/^/gateway: /; s/[Bb][Ee][Aa][Rr][Ee][Rr][[:space:]][^";]*/Bearer .../g' < "$run/reason" >&2
  return 1
}

# Make the next folder of configuration and switch to it; 1: it does not pass. $applied: it differs from the one before.
apply() {
  applied=
  all_valid=1
  generation=$((generation + 1))
  next=$run/conf.$generation
  mkdir "$next"
  cp "$conf" "$next/nginx.conf"
  front_conf > "$next/front.conf"
  echo "listen unix:$run/clients.sock$tls proxy_protocol;" > "$next/listen.conf"
  echo "listen $metrics;" > "$next/metrics.conf"
  sockets_conf > "$next/sockets.conf"
  replicas_conf > "$next/replicas.conf"
  if ! awk -f "$here/clients.awk" "$secrets/clients.map" > "$next/clients.conf" 2> "$run/reason"; then
    sed 's/^/gateway: clients.map, /' < "$run/reason" >&2
    keep clients.conf || return 1
    all_valid=0
    say "clients.map is not used: the clients that it had before stay in force"
  fi
  cp "$secrets/tls.crt" "$secrets/tls.key" "$next/" && valid "$next" && switch && return
  all_valid=0
  keep tls.crt && keep tls.key || return 1
  say "tls.crt or tls.key is not used: the certificate before stays in force"
  valid "$next" && switch
}

# Use a file of the folder in force; 1: there is no such folder yet.
keep() { [ -e "$run/conf" ] && cp "$run/conf/$1" "$next/$1"; }

# Readers of `conf` see the old folder or the new one, never none.
switch() {
  for file in "$next"/*; do
    cmp -s "$file" "$run/conf/${file##*/}" || applied=1
  done
  ln -s "conf.$generation" "$run/conf.new"
  mv -fT "$run/conf.new" "$run/conf"
  for folder in "$run"/conf.*; do
    [ "$folder" = "$next" ] || rm -rf "$folder"
  done
}

# shellcheck disable=SC2086 # words
state() { cat $key_files "$secrets/tls.crt" "$secrets/tls.key" "$secrets/clients.map" 2> /dev/null | cksum; }

# --- Metrics ---------------------------------------------------------------------------------------------------------

# Count the requests since the last call, and write the page that nginx serves.
write_metrics() {
  size=$(wc -c 2> /dev/null < "$run/requests.log" || echo 0)
  tail -c "+$((counted + 1))" "$run/requests.log" 2> /dev/null | head -c "$((size - counted))" \
    | awk -f "$here/metrics.awk" "$run/counters" - > "$run/counters.new" && mv "$run/counters.new" "$run/counters"
  counted=$size
  if [ "$counted" -gt 4000000 ]; then # nginx appends: what it writes next begins the file anew
    : > "$run/requests.log"
    counted=0
  fi
  {
    cat "$run/counters"
    echo "# TYPE gateway_configuration_valid gauge"
    echo "gateway_configuration_valid $all_valid"
    echo "# TYPE gateway_server_available gauge"
    replicas | while read -r number address key_file; do
      available=1
      [ -n "$(key_in "$key_file")" ] || available=0
      folder=$(dirname "$key_file")/run
      [ ! -e "$folder/starting" ] && [ ! -e "$folder/draining" ] || available=0
      echo "gateway_server_available{server=\"$address\"} $available"
    done
  } > "$run/metrics.new"
  mv "$run/metrics.new" "$run/metrics.txt"
}

# --- Run -------------------------------------------------------------------------------------------------------------

# Worker processes of an nginx that root starts would run as `nobody`, who may not open the sockets.
globally=
[ "$(id -u)" -ne 0 ] || globally="user $(id -un) $(id -gn);"
server=
stopped=
trap 'stopped=1; [ -z "$server" ] || kill -QUIT "$server" 2> /dev/null || true' TERM INT
umask 077
mkdir -p "$run"
run=$(cd "$run" && pwd) # nginx identifies a socket by its absolute path
rm -rf "$run"/*.sock "$run"/conf "$run"/conf.* "$run"/requests.log # of an nginx that was killed
generation=0
counted=0
seconds=0
: > "$run/counters"
seen=$(state)
if ! apply; then
  say "not started: correct what is reported above"
  exit 2
fi
write_metrics
"$nginx" -e stderr -p "$run" -g "$globally" -c "$run/conf/nginx.conf" &
server=$!
while kill -0 "$server" 2> /dev/null; do
  # Again: an nginx that has just started may have missed the signal.
  [ -z "$stopped" ] || kill -QUIT "$server" 2> /dev/null || true
  now=$(state)
  if [ "$now" != "$seen" ]; then
    seen=$now
    apply || rm -rf "$next"
    if [ -n "$applied" ]; then
      say "applied changed keys or certificates"
      kill -HUP "$server" 2> /dev/null || true
    else
      say "nothing is reloaded"
    fi
  fi
  seconds=$((seconds + 1))
  [ $((seconds % 5)) -ne 0 ] || write_metrics
  sleep 1 &
  wait $! || true
done
code=0
wait "$server" || code=$?
exit "$code"
