#!/usr/bin/env bash
# Installs what the tests need and the machine has not, then runs them all.
# More arguments go to `cargo test`.
set -euo pipefail
cd "$(dirname "$0")/.."

packages=()
need() { # command, Debian package
    command -v "$1" >/dev/null || packages+=("$2")
}
need cc gcc
need redis-server redis-server
need nginx nginx

if [ ${#packages[@]} -gt 0 ]; then
    if ! command -v apt-get >/dev/null; then
        echo "tests/all.sh: please install: ${packages[*]}" >&2
        exit 1
    fi
    sudo=$([ "$(id -u)" = 0 ] || echo sudo)
    $sudo apt-get update -qq
    DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq --no-install-recommends "${packages[@]}" libc6-dev
fi

exec cargo test --all-features "$@"
