#!/usr/bin/env bash
# Two pods of the example server behind nginx, on one Redis. Ctrl-C stops all of it.
# Debian: apt-get install redis-server nginx-light
set -euo pipefail
cd "$(dirname "$0")/../.."

port=${1:-8080}
dir=$(mktemp -d)
pids=()
stop() {
    for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
    wait
    rm -rf "$dir"
}
trap stop EXIT

cargo build --example server --features redis,cache,resilience
server=${CARGO_TARGET_DIR:-target}/debug/examples/server

redis-server --port 0 --unixsocket "$dir/redis.sock" --dir "$dir" --appendonly yes --save "" >"$dir/redis.log" &
pids+=($!)
until [ -S "$dir/redis.sock" ]; do sleep 0.1; done
for pod in 1 2; do
    "$server" --listen "127.0.0.1:$((port + pod))" --store "unix://$dir/redis.sock" &
    pids+=($!)
done
sed -e "s|@DIR@|$dir|; s|@PORT@|$port|" \
    -e "s|@POD1@|127.0.0.1:$((port + 1))|; s|@POD2@|127.0.0.1:$((port + 2))|" \
    examples/two_pods/nginx.conf >"$dir/nginx.conf"
PATH=$PATH:/usr/sbin nginx -p "$dir" -c "$dir/nginx.conf" -g "daemon off;" &
pids+=($!)

cat <<TEXT
Talk to it, and watch X-Pod change while the conversation goes on:
  curl -i http://127.0.0.1:$port/chat -H 'x-user-id: ada' -H 'x-conversation-id: c1' \\
       -H 'content-type: application/json' -d '{"message": "my name is Ada"}'
TEXT
wait -n
