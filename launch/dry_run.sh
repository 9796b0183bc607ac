# shellcheck shell=bash
# Sourced by the scripts that start runs on other machines, or several processes on this one.
#
#   perform COMMAND ARGUMENT...   runs the command, or with dry_run=1 prints it, shell-quoted
#   quoted ARGUMENT...            prints the arguments on one line, shell-quoted
#   need NAME...                  exits with an error if one of these variables is unset
#   whole_number NAME DEFAULT MIN MAX   gives an unset variable this value; exits with an error if
#                                 the variable is not a whole number from MIN to MAX

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

# Call it before a variable is used in arithmetic: there bash runs a command that hides in a value,
# as in 'PATH[$(command)]'.
whole_number() {
  local name=$1
  printf -v "$name" %s "${!name:-$2}"
  # Without leading zeros, which would make the number octal; short enough not to overflow.
  if [[ ! "${!name}" =~ ^(0|[1-9][0-9]{0,8})$ ]] || ((${!name} < $3 || ${!name} > $4)); then
    echo "error: $name='${!name}' must be a whole number from $3 to $4" >&2
    exit 2
  fi
}

# Prints the comment at the top of the script, and exits.
usage() {
  sed -n '2,/^[^#]/{s/^# \{0,1\}//p;}' "$0" >&2
  exit 2
}
