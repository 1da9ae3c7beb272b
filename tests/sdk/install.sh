#!/usr/bin/env bash
# Installs the providers' SDKs beside the scripts that use them: tests/gateway/sdk.rs runs those.
set -euo pipefail
cd "$(dirname "$0")"
if ! cmp -s requirements.txt .venv/requirements.txt; then
    python3 -m venv .venv
    .venv/bin/pip install --quiet --disable-pip-version-check -r requirements.txt
    cp requirements.txt .venv/requirements.txt
fi
if ! cmp -s package.json node_modules/package.json; then
    npm install --silent --no-audit --no-fund --no-package-lock
    cp package.json node_modules/package.json
fi
