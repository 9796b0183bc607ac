# shellcheck shell=bash
# Sourced by the scripts that start runs on other machines.
#
#   perform COMMAND ARGUMENT...   runs it; with dry_run=1 prints it as a shell would read it
#   quoted ARGUMENT...            the arguments in one line that a shell takes apart again
#   need NAME...                  ends with a message where one of these variables is not set

dry_run=${dry_run:-0}

quoted() {
  local argument separator="" quote="'\\''"
  for argument in "$@"; do
    if [[ ! "$argument" =~ ^[-A-Za-z0-9_./:=,@%+]+$ ]]; then
      argument="'${argument//"'"/$quote}'"
    fi
    printf '%s%s' "$separator" "$argument"
    separator=" "
  done
}

perform() {
  if [[ "$dry_run" == 1 ]]; then
    quoted "$@"
    echo
  else
    "$@"
  fi
}

need() {
  local name
  for name in "$@"; do
    if [[ -z "${!name:-}" ]]; then
      echo "error: set $name (see the first lines of $0)" >&2
      exit 2
    fi
  done
}

# The lines of comment that a script begins with.
usage() {
  sed -n '2,/^[^#]/{s/^# \{0,1\}//p;}' "$0" >&2
  exit 2
}
