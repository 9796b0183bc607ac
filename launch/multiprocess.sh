#!/usr/bin/env bash
# Runs main.py as N processes on this machine that form one JAX cluster over the loopback
# interface, as the hosts of a pod do. CPU only; collectives go through Gloo.
#
#   ./launch/multiprocess.sh 2 --config=configs/pretrain.py --config.data.dataset=synthetic
#   DEVICES=2 ./launch/multiprocess.sh 4 --config=…    # 4 processes with 2 devices each (default 4)
#
# Each line of output is prefixed with its process index. If a process fails, the others are killed,
# and the exit code is that of the first to fail. Ctrl-C, SIGTERM and SIGHUP (a closed terminal) are
# forwarded: the run saves a checkpoint and ends with 130 or 143. A second Ctrl-C kills all
# processes at once.
#
#   DEVICES         devices of each process (default 4)
#   GRACE_SECONDS   from the first exit after a stop until the rest are killed (default 30)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=launch/venv.sh
source launch/venv.sh
# shellcheck source=launch/dry_run.sh
source launch/dry_run.sh

if [[ ! "${1:-}" =~ ^[0-9] ]]; then
  echo "usage: [DEVICES=4] $0 PROCESSES --config=FILE [any flag of main.py]" >&2
  exit 2
fi
PROCESSES=$1
shift
whole_number PROCESSES 1 1 9999
whole_number DEVICES 4 1 1024
whole_number GRACE_SECONDS 30 0 86400
if [[ -z "${PYTHON:-}" ]]; then # if set, that interpreter must have all requirements
  ensure_venv requirements.txt
  PYTHON=.venv/bin/python
fi
port=$("$PYTHON" -I -S -c 'import socket
with socket.socket() as s:
    s.bind(("127.0.0.1", 0))
    print(s.getsockname()[1])')

export JAX_PLATFORMS=cpu
# XLA uses the last of several equal flags.
export XLA_FLAGS="${XLA_FLAGS:-} --xla_force_host_platform_device_count=$DEVICES"
pids=()
interrupts=0 # how often Ctrl-C was pressed
sent=        # the last signal that the processes got

signal_all() {
  local pid
  sent=$1
  for pid in "${pids[@]}"; do kill "-$1" "$pid" 2>/dev/null || true; done
}

# shellcheck disable=SC2317,SC2329 # the trap calls it
interrupt() {
  interrupts=$((interrupts + 1))
  if ((interrupts > 1)); then signal_all KILL; else signal_all TERM; fi
}

trap 'signal_all TERM' TERM HUP
trap interrupt INT

for ((i = 0; i < PROCESSES; i++)); do
  # A script's background processes ignore Ctrl-C, so only the trap forwards it.
  "$PYTHON" main.py "$@" \
    --config.distributed.coordinator_address="127.0.0.1:$port" \
    --config.distributed.process_count="$PROCESSES" \
    --config.distributed.process_index="$i" \
    > >(sed -u "s/^/[$i] /") 2> >(sed -u "s/^/[$i] /" >&2) </dev/null &
  pids+=($!)
  echo "[$i] pid $!" >&2
done
if [[ -n "$sent" ]]; then signal_all "$sent"; fi # some may not have been started yet

advice() {
  if (($1 == 137 && interrupts < 2)); then
    echo " (killed; if nobody did that, memory ran out): the same command resumes the run"
  fi
}

code=0        # of the first process that failed
deadline=     # on the shell's clock (SECONDS); empty until a process fails
left=$PROCESSES
done_with=()  # by process index: 1 = its exit code has been read
while ((left > 0)); do
  for ((i = 0; i < PROCESSES; i++)); do
    if [[ -n "${done_with[$i]:-}" ]] || kill -0 "${pids[$i]}" 2>/dev/null; then continue; fi
    status=0
    wait "${pids[$i]}" || status=$?
    done_with[i]=1
    left=$((left - 1))
    if ((status != 0 && code == 0)); then
      code=$status
      echo "process $i ended with exit code $status$(advice "$status")" >&3
      # After a requested stop the others are about to end too. Otherwise they would wait for it.
      if ((status == 143 || status == 130 || status == 129)); then
        deadline=$((SECONDS + GRACE_SECONDS))
      else
        deadline=$SECONDS
      fi
    fi
  done
  if [[ -n "$deadline" ]] && ((SECONDS >= deadline && left > 0)); then signal_all KILL; fi
  if ((left > 0)); then sleep 0.1 || true; fi
done 3>&2 2>/dev/null # hides bash's own messages about killed processes
if ((code == 143 && interrupts > 0)); then code=130; fi
exit "$code"
