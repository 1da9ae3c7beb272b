#!/usr/bin/env bash
# Installs the providers' SDKs beside the scripts that use them: tests/llm_sdk.rs runs those.
set -euo pipefail
cd "$(dirname "$0")"
python3 -m venv .venv
.venv/bin/pip install --quiet --disable-pip-version-check -r requirements.txt
npm install --silent --no-audit --no-fund --no-package-lock
