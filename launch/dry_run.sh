# shellcheck shell=bash
# Sourced by the scripts that start runs on other machines.
#
#   perform COMMAND ARGUMENT...   runs the command, or with dry_run=1 prints it, shell-quoted
#   quoted ARGUMENT...            prints the arguments on one line, shell-quoted
#   need NAME...                  exits with an error if one of these variables is unset

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

# Prints the comment at the top of the script, and exits.
usage() {
  sed -n '2,/^[^#]/{s/^# \{0,1\}//p;}' "$0" >&2
  exit 2
}
