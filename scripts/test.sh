#!/usr/bin/env bash
# Make a virtual environment, install with the development tools, and run the tests; arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/environment.sh

prepare_environment '.[dev]'
# A core for each worker: threads of one would wait for those of the other.
OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} python -m pytest -n 2 --dist worksteal "$@"
