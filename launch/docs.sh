#!/usr/bin/env bash
# Builds the site of the docs into build/site, and fails on a broken link:
#
#   ./launch/docs.sh          # builds it
#   ./launch/docs.sh serve    # serves it on this machine, rebuilt after each change
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=launch/venv.sh
source launch/venv.sh

ensure_venv requirements.txt requirements-docs.txt
export NO_MKDOCS_2_WARNING=1 # of mkdocs-material, about its successor
exec .venv/bin/python -m mkdocs "${@:-build}" --strict
