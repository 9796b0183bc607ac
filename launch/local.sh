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
exec .venv/bin/python main.py --config=configs/pretrain.py "$@"
