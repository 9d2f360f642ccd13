#!/usr/bin/env bash
# Make a virtual environment, install with the development tools, and run the tests; arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/environment.sh

prepare_environment '.[dev]'
python -m pytest -n 2 --dist worksteal "$@"
