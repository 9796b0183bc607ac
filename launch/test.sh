#!/usr/bin/env bash
# Creates the same .venv as local.sh, adds what the tests, the site of the docs, gs://, the image
# back end of OpenCV and the training of text labellers need, and runs the tests:
#
#   ./launch/test.sh                                   # all but the slow ones
#   ./launch/test.sh -m slow                           # processes, kills, large programs
#   ./launch/test.sh tests/test_text_metrics.py -k bleu # accepts any pytest argument
#   ./launch/test.sh --parity                          # installs torch and transformers, and
#                                                      # compares with them
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=launch/venv.sh
source launch/venv.sh

ensure_venv requirements.txt requirements-test.txt requirements-gcs.txt requirements-evidence.txt \
  requirements-docs.txt requirements-opencv.txt
if [[ "${1:-}" == "--parity" ]]; then
  shift
  with_pip requirements-parity.txt
  exec .venv/bin/python -m pytest -m parity tests/tools tests/data/test_byte_level_bpe.py tests/test_similarity.py "$@"
fi
exec .venv/bin/python -m pytest "$@"
