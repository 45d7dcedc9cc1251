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
#   TORCHSERVE       addresses of TorchServe, separated by spaces    (default: 127.0.0.1:8080)
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
addresses=${TORCHSERVE:-127.0.0.1:8080}
key_files=${KEY_FILE:-/app/run/key_file.json}
nginx=${GATEWAY_NGINX:-nginx}

say() { printf '%s\n' "gateway: $*" >&2; }

count() { echo $#; }
# shellcheck disable=SC2086 # words
if [ "$(count $addresses)" -ne "$(count $key_files)" ]; then
  say "TORCHSERVE names $(count $addresses) servers and KEY_FILE $(count $key_files) files: give each server its own"
  exit 2
fi

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
  generation=$((generation + 1))
  next=$run/conf.$generation
  mkdir "$next"
  cp "$conf" "$next/nginx.conf"
  front_conf > "$next/front.conf"
  echo "listen unix:$run/clients.sock ssl proxy_protocol;" > "$next/listen.conf"
  sockets_conf > "$next/sockets.conf"
  replicas_conf > "$next/replicas.conf"
  if ! awk -f "$here/clients.awk" "$secrets/clients.map" > "$next/clients.conf" 2> "$run/reason"; then
    sed 's/^/gateway: clients.map, /' < "$run/reason" >&2
    keep clients.conf || return 1
    say "clients.map is not used: the clients that it had before stay in force"
  fi
  cp "$secrets/tls.crt" "$secrets/tls.key" "$next/" && valid "$next" && switch && return
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
rm -rf "$run"/*.sock "$run"/conf "$run"/conf.* # of an nginx that was killed
generation=0
seen=$(state)
if ! apply; then
  say "not started: correct what is reported above"
  exit 2
fi
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
  sleep 1 &
  wait $! || true
done
code=0
wait "$server" || code=$?
exit "$code"
