#!/bin/sh
# Run the gateway in the foreground, and keep it in step with TorchServe's keys and the operator's secrets.
# TorchServe makes new keys whenever it starts; certificates and clients change while the gateway runs. All are looked at
# every second, and nginx takes a change over without dropping a request. SIGTERM lets running requests finish.
# Run it as TorchServe's user, whose alone the keys and the run folder are; not as root.
#
#   GATEWAY_SECRETS  folder with tls.crt, tls.key and clients.map    (default: /etc/gateway/secrets)
#   GATEWAY_RUN      folder to write in, best in memory: it gets TorchServe's keys    (default: /run/gateway)
#   GATEWAY_CONF     the configuration                    (default: nginx.conf beside this file)
#   TORCHSERVE       where TorchServe listens; several of one machine with spaces between (default: 127.0.0.1:8080)
#   KEY_FILE         the key_file.json of each, in the same order, in its run folder (default: /app/run/key_file.json)
#   GATEWAY_NGINX    the program                          (default: nginx)
set -eu
secrets=${GATEWAY_SECRETS:-/etc/gateway/secrets}
run=${GATEWAY_RUN:-/run/gateway}
conf=${GATEWAY_CONF:-$(dirname "$0")/nginx.conf}
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

# A map from the sockets, by which nginx knows a replica, to what `value` prints of each.
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

# What nginx.conf includes. A replica that is busier than the others gets less. All are always tried: after a failure
# nginx would leave one alone for ten seconds. TorchServe closes connections only after an error, and says so: a kept one
# saves a millisecond a question.
write_replicas() {
  {
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
  } > "$run/replicas.conf.new"
  mv "$run/replicas.conf.new" "$run/replicas.conf"
}

# shellcheck disable=SC2086 # words
state() { cat $key_files "$secrets/tls.crt" "$secrets/tls.key" "$secrets/clients.map" 2> /dev/null | cksum; }

# nginx quotes a line that it cannot read: the key in it is cut off.
valid() { "$nginx" -t -q -e stderr -p "$run" -g "$globally" -c "$run/nginx.conf" 2>&1 | sed 's/Bearer  *[^" ;]*/Bearer .../g' >&2; }

# Processes that root's nginx starts would be `nobody`, who may not open the sockets.
globally=
[ "$(id -u)" -ne 0 ] || globally="user $(id -un) $(id -gn);"
server=
stopped=
trap 'stopped=1; [ -z "$server" ] || kill -QUIT "$server" 2> /dev/null || true' TERM INT
umask 077
mkdir -p "$run"
run=$(cd "$run" && pwd) # a socket is known by its whole path
rm -f "$run"/*.sock # of an nginx that was killed
cp "$conf" "$run/nginx.conf"
ln -sfn "$secrets" "$run/secrets"
replicas | while read -r number address key_file; do echo "listen unix:$run/$number.sock;"; done > "$run/sockets.conf"
seen=$(state)
write_replicas
valid
"$nginx" -e stderr -p "$run" -g "$globally" -c "$run/nginx.conf" &
server=$!
while kill -0 "$server" 2> /dev/null; do
  # Again: an nginx that had only just been started may not have heard it.
  [ -z "$stopped" ] || kill -QUIT "$server" 2> /dev/null || true
  now=$(state)
  if [ "$now" != "$seen" ]; then
    seen=$now
    write_replicas
    valid
    say "a key or a certificate changed"
    # nginx itself keeps what it has when it cannot read the new.
    kill -HUP "$server" 2> /dev/null || true
  fi
  sleep 1 &
  wait $! || true
done
code=0
wait "$server" || code=$?
exit "$code"
