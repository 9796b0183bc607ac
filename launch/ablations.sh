#!/usr/bin/env bash
# Creates .venv on the first run, then trains configs/pretrain.py and every ablation and baseline,
# one after another, and compares them. Rerun the command to resume.
#
#   ./launch/ablations.sh --only=full,no_images --seeds=0,1,2 --config.train.steps=1000
#   ./launch/ablations.sh --smoke      # all of it in miniature
#   ./launch/ablations.sh --help
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=launch/venv.sh
source launch/venv.sh

ensure_venv requirements.txt
# As in launch/local.sh.
export GLIBC_TUNABLES=${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1}
exec .venv/bin/python -m igerg_jax.tools.ablations "$@"
