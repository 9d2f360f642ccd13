# Sourced by the other scripts: prepare_environment makes .venv, installs the package there and activates it.
# PYTHON names the interpreter to use; PIP_* variables are pip's own.

prepare_environment() { # $1: what to install, "." or ".[dev]"
    local python=${PYTHON:-python3}
    if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        echo "PYTHON: must be Python 3.11 or newer, got $("$python" --version 2>&1); set PYTHON=/path/to/python3.11" >&2
        return 1
    fi
    [ -x .venv/bin/python ] || "$python" -m venv .venv
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --constraint scripts/constraints.txt --editable "$1"
    PATH="$PWD/.venv/bin:$PATH"
}
