#!/usr/bin/env bash
# Creates .venv on the first run, then serves the page where one talks with a model:
#
#   ./launch/demo.sh                                   # with the model that comes with this code
#   ./launch/demo.sh --checkpoint=runs/pretrain-local  # accepts any flag of igerg demo
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=launch/venv.sh
source launch/venv.sh

ensure_venv requirements.txt requirements-demo.txt
ensure_igerg # for igerg chat, which README.md names beside the page
exec .venv/bin/python -m igerg_jax.cli.igerg demo "$@"
