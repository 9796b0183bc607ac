#!/usr/bin/env bash
# Runs main.py as N processes of this machine, joined to one JAX cluster over the loopback
# interface: what a pod does, without a pod. CPU only; Gloo carries the collectives.
#
#   ./launch/multiprocess.sh 2 --config=configs/pretrain.py --config.data.dataset=synthetic
#   DEVICES=2 ./launch/multiprocess.sh 4 --config=…    # 4 processes of 2 devices each; default 4
#
# Each line of output begins with its process's number. When one process fails the others are
# ended, and the exit code is that of the first to fail. Ctrl-C and SIGTERM are passed on: the run
# saves its state and ends.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=launch/venv.sh
source launch/venv.sh

if [[ ! "${1:-}" =~ ^[1-9][0-9]*$ ]]; then
  echo "usage: [DEVICES=4] $0 PROCESSES --config=FILE [any flag of main.py]" >&2
  exit 2
fi
processes=$1
shift
devices=${DEVICES:-4}
grace_seconds=${GRACE_SECONDS:-30} # from the first exit to when the rest is ended by force
if [[ -z "${PYTHON:-}" ]]; then # else that interpreter, which has all that is needed
  ensure_venv requirements.txt
  PYTHON=.venv/bin/python
fi
port=$("$PYTHON" -I -S -c 'import socket
with socket.socket() as s:
    s.bind(("127.0.0.1", 0))
    print(s.getsockname()[1])')

export JAX_PLATFORMS=cpu
# The last of two equal flags counts.
export XLA_FLAGS="${XLA_FLAGS:-} --xla_force_host_platform_device_count=$devices"
pids=()
trap 'signal_all TERM' TERM INT

signal_all() {
  local pid
  for pid in "${pids[@]}"; do kill "-$1" "$pid" 2>/dev/null || true; done
}

for ((i = 0; i < processes; i++)); do
  # In the background of a script Ctrl-C is ignored, so that only the trap passes it on.
  "$PYTHON" main.py "$@" \
    --config.distributed.coordinator_address="127.0.0.1:$port" \
    --config.distributed.process_count="$processes" \
    --config.distributed.process_index="$i" \
    > >(sed -u "s/^/[$i] /") 2> >(sed -u "s/^/[$i] /" >&2) </dev/null &
  pids+=($!)
  echo "[$i] pid $!" >&2
done

code=0        # of the first that failed
deadline=     # in seconds of this shell; empty while none has failed
left=$processes
done_with=()  # by number: 1 = its exit code was read
while ((left > 0)); do
  for ((i = 0; i < processes; i++)); do
    if [[ -n "${done_with[$i]:-}" ]] || kill -0 "${pids[$i]}" 2>/dev/null; then continue; fi
    status=0
    wait "${pids[$i]}" || status=$?
    done_with[i]=1
    left=$((left - 1))
    if ((status != 0 && code == 0)); then
      code=$status
      echo "process $i ended with exit code $status" >&3
      # Stopped on request: the others are about to end by themselves. Else they would wait for it.
      if ((status == 143 || status == 130)); then
        deadline=$((SECONDS + grace_seconds))
      else
        deadline=$SECONDS
      fi
    fi
  done
  if [[ -n "$deadline" ]] && ((SECONDS >= deadline && left > 0)); then signal_all KILL; fi
  if ((left > 0)); then sleep 0.1 || true; fi
done 3>&2 2>/dev/null # without bash's own lines about those that were killed
exit "$code"
