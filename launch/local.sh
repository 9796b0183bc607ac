#!/usr/bin/env bash
# Creates .venv on the first run, with the command igerg, then trains on this machine:
#
#   ./launch/local.sh                                  # the "local" preset: minutes on 2 cores
#   ./launch/local.sh --config.train.steps=1000        # accepts any flag of main.py
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=launch/venv.sh
source launch/venv.sh

ensure_venv requirements.txt
ensure_igerg
# A step uses about 200 MB, which the first one has the kernel clear: 50,000 page faults with 4 KiB
# pages, 500 with 2 MiB pages (counted). glibc before 2.35 and other C libraries ignore this setting.
export GLIBC_TUNABLES=${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1}
exec .venv/bin/python main.py --config=configs/pretrain.py "$@"
