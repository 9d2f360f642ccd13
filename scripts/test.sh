#!/usr/bin/env bash
# Make a virtual environment, install with the development tools, and run the tests; arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/environment.sh

prepare_environment '.[dev]'
# One thread a worker: those of one would wait for those of the others. Three workers for two cores, as many tests wait
# for processes that they have started. Four took as long.
OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} python -m pytest -n 3 --dist worksteal "$@"
