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
# A step takes and gives back some 200 MB: 50,000 page faults with pages of 4 KiB, 500 with pages of
# 2 MiB, as counted. (glibc before 2.35 and other C libraries do not read it.)
export GLIBC_TUNABLES=${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1}
exec .venv/bin/python main.py --config=configs/pretrain.py "$@"
