#!/usr/bin/env bash
# Makes .venv on the first run, then trains on this machine:
#
#   ./launch/local.sh                                  # the "local" preset, minutes on 2 cores
#   ./launch/local.sh --config.train.steps=1000        # any flag of main.py
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=launch/venv.sh
source launch/venv.sh

ensure_venv requirements.txt
# Left to itself, glibc gives back what a step used and takes it again for the next: 50,000 page
# faults a step of the local preset. (Other C libraries read none of these.)
export MALLOC_ARENA_MAX=${MALLOC_ARENA_MAX:-1} MALLOC_MMAP_MAX_=${MALLOC_MMAP_MAX_:-0}
export MALLOC_TRIM_THRESHOLD_=${MALLOC_TRIM_THRESHOLD_:-2000000000}
exec .venv/bin/python main.py --config=configs/pretrain.py "$@"
