#!/bin/sh
# Run the gateway in the foreground, and keep it in step with TorchServe's key and the operator's secrets.
# TorchServe makes new keys whenever it starts; certificates and clients change while the gateway runs. All are looked at
# every second, and nginx takes a change over without dropping a request. SIGTERM lets running requests finish.
#
#   GATEWAY_SECRETS  folder with tls.crt, tls.key and clients.map    (default: /etc/gateway/secrets)
#   GATEWAY_RUN      folder to write in, best in memory: it gets TorchServe's key    (default: /run/gateway)
#   GATEWAY_CONF     the configuration                    (default: nginx.conf beside this file)
#   KEY_FILE         the key_file.json of TorchServe      (default: /app/run/key_file.json)
#   GATEWAY_NGINX    the program                          (default: nginx)
set -eu
secrets=${GATEWAY_SECRETS:-/etc/gateway/secrets}
run=${GATEWAY_RUN:-/run/gateway}
conf=${GATEWAY_CONF:-$(dirname "$0")/nginx.conf}
key_file=${KEY_FILE:-/app/run/key_file.json}
nginx=${GATEWAY_NGINX:-nginx}

say() { printf '%s\n' "gateway: $*" >&2; }

# The include with the inference key; without one, nothing may be passed on.
write_key() {
  key=$(tr -d ' \n\r' 2> /dev/null < "$key_file" | sed -n 's/.*"inference":{"key":"\([A-Za-z0-9_=-]*\)".*/\1/p') || key=
  if [ -n "$key" ]; then
    printf 'proxy_set_header Authorization "Bearer %s";\n' "$key"
  else
    echo 'return 502;'
  fi > "$run/torchserve.conf.new"
  mv "$run/torchserve.conf.new" "$run/torchserve.conf"
}

state() { cat "$key_file" "$secrets/tls.crt" "$secrets/tls.key" "$secrets/clients.map" 2> /dev/null | cksum; }

# nginx quotes a line that it cannot read: the key in it is cut off.
valid() { "$nginx" -t -q -e stderr -p "$run" -c "$run/nginx.conf" 2>&1 | sed 's/Bearer  *[^" ;]*/Bearer .../g' >&2; }

server=
stopped=
trap 'stopped=1; [ -z "$server" ] || kill -QUIT "$server" 2> /dev/null || true' TERM INT
umask 077
mkdir -p "$run"
cp "$conf" "$run/nginx.conf"
ln -sfn "$secrets" "$run/secrets"
seen=$(state)
write_key
valid
"$nginx" -e stderr -p "$run" -c "$run/nginx.conf" &
server=$!
while kill -0 "$server" 2> /dev/null; do
  # Again: an nginx that had only just been started may not have heard it.
  [ -z "$stopped" ] || kill -QUIT "$server" 2> /dev/null || true
  now=$(state)
  if [ "$now" != "$seen" ]; then
    seen=$now
    write_key
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
