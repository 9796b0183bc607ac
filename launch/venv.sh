# shellcheck shell=bash
# Sourced by the other scripts, from the repository root.
#
#   ensure_venv FILE...   creates .venv with a supported Python and installs these requirement
#                         files into it; does nothing if that has been done already.
#   ensure_igerg          installs the command .venv/bin/igerg, which runs this folder's code.

MIN_PYTHON="(3, 11)"   # inclusive
BELOW_PYTHON="(3, 14)" # exclusive: the pinned requirements are tested below it
UV_PIN="uv>=0.9,<1"

find_python() {
  local name
  for name in python3.12 python3.13 python3.11 python3 python; do
    # Run it, because a version manager may have put a shim on PATH for an inactive version.
    if "$name" -c "import ensurepip, sys, venv
sys.exit(not $MIN_PYTHON <= sys.version_info[:2] < $BELOW_PYTHON)" >/dev/null 2>&1; then
      command -v "$name"
      return
    fi
  done
  echo "error: no Python >= 3.11 and < 3.14 with the venv module found on PATH." >&2
  echo "Install one (Debian, Ubuntu: apt install python3 python3-venv) and try again." >&2
  return 1
}

# Identifies a finished installation: the requirement file's content and the Python version.
stamp_of() {
  .venv/bin/python -I -S -c 'import hashlib, sys
print(hashlib.sha256(open(sys.argv[1], "rb").read()).hexdigest(), sys.version)' "$1"
}

install() {
  local options=() file
  for file in "$@"; do options+=(-r "$file"); done
  # uv installs several times faster than pip. If it cannot be installed, or cannot reach the index
  # that pip is configured for, pip does the same work.
  if .venv/bin/python -m pip install --quiet --disable-pip-version-check "$UV_PIN" &&
    UV_SYSTEM_CERTS=1 .venv/bin/uv pip install --quiet --python .venv/bin/python "${options[@]}"; then
    return
  fi
  echo "Could not install with uv; falling back to pip, which takes longer." >&2
  .venv/bin/python -m pip install --disable-pip-version-check "${options[@]}"
}

# with_pip FILE   installs, once, a requirement file that uv would resolve differently from pip,
#                 without changing what requirements.txt pins. Call it after ensure_venv.
with_pip() {
  if [[ "$(cat ".venv/installed-$1" 2>/dev/null)" == "$(stamp_of "$1")" ]]; then return; fi
  echo "Installing $1 into .venv" >&2
  .venv/bin/python -m pip install --quiet --disable-pip-version-check -r "$1" -c requirements.txt
  stamp_of "$1" >".venv/installed-$1"
}

ensure_venv() {
  local python file missing=()
  if ! .venv/bin/python -c "import sys
sys.exit(not $MIN_PYTHON <= sys.version_info[:2] < $BELOW_PYTHON)" >/dev/null 2>&1; then
    python=$(find_python)
    echo "Creating .venv with $("$python" --version) ($python)" >&2
    "$python" -m venv --clear .venv
  fi
  for file in "$@"; do
    if [[ "$(cat ".venv/installed-$file" 2>/dev/null)" != "$(stamp_of "$file")" ]]; then
      missing+=("$file")
    fi
  done
  if ((${#missing[@]} == 0)); then return; fi
  echo "Installing ${missing[*]} into .venv" >&2
  install "${missing[@]}"
  for file in "${missing[@]}"; do stamp_of "$file" >".venv/installed-$file"; done
}

# Nothing else needs it, so if there is no index for the build backend, a message is enough.
ensure_igerg() {
  if [[ "$(cat .venv/installed-igerg 2>/dev/null)" == "$(stamp_of pyproject.toml)" ]]; then return; fi
  if UV_SYSTEM_CERTS=1 .venv/bin/uv pip install --quiet --python .venv/bin/python --no-deps -e . \
    2>/dev/null ||
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -e .; then
    stamp_of pyproject.toml >.venv/installed-igerg
  else
    echo "Could not install the command igerg; .venv/bin/python main.py does without it." >&2
  fi
}
