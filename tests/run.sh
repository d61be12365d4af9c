#!/bin/sh
# Sets up all that the tests need on a fresh Debian 12 (as root) and runs them all: `tests/run.sh [PYTEST ARGUMENTS]`.
# Ends with pytest's own closing line. With CI=true a missing runtime or tool is a failure, not a skip.
set -eu

top=$(cd "$(dirname "$0")/.." && pwd)
cd "$top"

if [ "$(id -u)" = 0 ]; then
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    # shellcheck disable=SC2046
    apt-get install -y -qq --no-install-recommends $(sed 's/#.*//' tests/debian-packages.txt) >/dev/null
    sh tests/setup-runsc.sh
fi

venv=${SANDBOXBUILD_VENV:-$top/.venv}
python=/usr/bin/python3
[ -x "$python" ] || python=python3
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
"$venv/bin/python" -m pip install --quiet --editable "$top[test]"

"$venv/bin/ruff" check .
"$venv/bin/ruff" format --check .
"$venv/bin/mypy"
exec "$venv/bin/python" -m pytest "$@"
