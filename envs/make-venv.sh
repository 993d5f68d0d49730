#!/usr/bin/env bash
# Make the project's own environment: make-venv.sh PYTHON FOLDER LOCK
# Nothing is installed outside FOLDER, but for Debian's venv module where this is root and it is missing.
set -euo pipefail
python=$1 venv=$2 lock=$3

if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    echo "This project needs Python 3.11 or newer; '$python' is $("$python" --version 2>&1 || echo missing)." >&2
    echo "Install one, or name it: make PYTHON=python3.12 demo" >&2
    exit 1
fi
if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    # Debian and Ubuntu ship the venv module apart from Python.
    package=$("$python" -c 'import sys; print(f"python{sys.version_info[0]}.{sys.version_info[1]}-venv")')
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        apt-get update -qq && apt-get install -y -qq --no-install-recommends "$package" >/dev/null
    else
        echo "Python's venv module is missing. Install it: sudo apt-get install $package" >&2
        exit 1
    fi
fi

echo "Making the environment in $venv, once: $(grep -c == "$lock") packages of $lock (one to three minutes, 1.5 GB)"
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
echo "  downloading and installing them, each checked by its hash"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes -r "$lock"
echo "  installing this project beside them"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --editable .
echo "The environment is made: $venv/bin/python"
touch "$venv/.installed"
