#!/bin/sh
# Makes the virtual environment: every package pinned by version and hash, the project itself in place.
set -eu
PYTHON=${PYTHON:-python3} VENV=${VENV:-.venv}
"$PYTHON" - <<'PY'
import sys
if sys.version_info < (3, 11):
    sys.exit(f"Exclave needs Python 3.11 or later; this is {sys.version.split()[0]}. Name another one: make PYTHON=…")
PY
if ! "$PYTHON" -c 'import ensurepip, venv' 2>/dev/null; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        apt-get update -qq && apt-get install -y -qq --no-install-recommends python3-venv
    else
        echo "Python's venv is missing: run 'apt-get install python3-venv' as root, then this again." >&2
        exit 1
    fi
fi
# A set-up that was broken off may have left an environment without pip: it is made anew.
"$VENV/bin/python" -m pip --version >/dev/null 2>&1 || "$PYTHON" -m venv --clear "$VENV"
"$VENV/bin/python" -m pip install -q --disable-pip-version-check --require-hashes -r requirements.lock
"$VENV/bin/python" -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
