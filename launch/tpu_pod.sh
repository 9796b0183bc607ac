#!/usr/bin/env bash
# Runs main.py on Cloud TPU with gcloud, from requesting queued resources to deleting them:
#
#   ./launch/tpu_pod.sh [--dry-run] create NAME         requests the TPU; granted when available
#   ./launch/tpu_pod.sh [--dry-run] status NAME         WAITING_FOR_RESOURCES … ACTIVE
#   ./launch/tpu_pod.sh [--dry-run] install NAME        installs this commit and .venv on all workers
#   ./launch/tpu_pod.sh [--dry-run] run NAME --config=… --workdir=gs://… [any flag of main.py]
#   ./launch/tpu_pod.sh [--dry-run] logs NAME           follows a worker's output
#   ./launch/tpu_pod.sh [--dry-run] stop NAME           SIGTERM: saves a checkpoint and ends the run
#   ./launch/tpu_pod.sh [--dry-run] delete NAME         deletes the TPU and everything on it
#
# --dry-run only prints the commands. Settings are environment variables:
#
#   TPU_ZONE      the zone, such as us-west4-a
#   TPU_TYPE      for create: v5litepod-64, v6e-256, v5p-128, v4-64, ...
#   TPU_SLICES    number of slices, connected by the data-centre network (default 1)
#   TPU_RUNTIME   the workers' software version (default: the one for TPU_TYPE)
#   TPU_SPOT      1 = cheaper, but may be preempted
#   TPU_PROJECT   the project (default: gcloud's)
#   TPU_NODE, TPU_WORKER   the worker whose output logs follows (default 0, 0)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=launch/dry_run.sh
source launch/dry_run.sh

if [[ "${1:-}" == --dry-run ]]; then
  dry_run=1
  shift
fi
action=${1:-} name=${2:-}
case $action in create | status | install | run | logs | stop | delete) ;; *) usage ;; esac
if [[ ! "$name" =~ ^[a-z]([-a-z0-9]*[a-z0-9])?$ ]]; then
  echo "error: '$name' is not a valid name: use a letter, then lower-case letters, digits and dashes" >&2
  exit 2
fi
shift 2
if [[ $action != run && $# -gt 0 ]]; then usage; fi
need TPU_ZONE
whole_number TPU_SLICES 1 1 1024
whole_number TPU_SPOT 0 0 1
whole_number TPU_NODE 0 0 100000
whole_number TPU_WORKER 0 0 100000

where=(--zone="$TPU_ZONE")
if [[ -n "${TPU_PROJECT:-}" ]]; then where+=(--project="$TPU_PROJECT"); fi
resources=(gcloud compute tpus queued-resources)

on_all_workers() {
  perform "${resources[@]}" ssh "$name" "${where[@]}" --node=all --worker=all --command="$1"
}

runtime_of() {
  case $1 in
    v6e-*) echo v2-alpha-tpuv6e ;;
    v5p-*) echo v2-alpha-tpuv5 ;;
    v5litepod-*) echo v2-alpha-tpuv5-lite ;;
    v2-* | v3-* | v4-*) echo tpu-ubuntu2204-base ;;
    *)
      echo "error: set TPU_RUNTIME: the software version for TPU_TYPE='$1' is not known" >&2
      return 2
      ;;
  esac
}

create() {
  need TPU_TYPE
  local runtime nodes options=()
  runtime=${TPU_RUNTIME:-$(runtime_of "$TPU_TYPE")}
  nodes=(--node-id="$name")
  if ((TPU_SLICES > 1)); then nodes=(--node-count="$TPU_SLICES" --node-prefix="$name"); fi
  if [[ "$TPU_SPOT" == 1 ]]; then options+=(--spot); fi
  perform "${resources[@]}" create "$name" "${where[@]}" --accelerator-type="$TPU_TYPE" \
    --runtime-version="$runtime" "${nodes[@]}" ${options[@]+"${options[@]}"}
}

# The workers' Python may be too old, so uv installs one. The rest is as in local.sh.
# shellcheck disable=SC2016 # expanded by the worker's shell
install_command='set -e; rm -rf igerg_jax.new; mkdir igerg_jax.new
tar -xzf igerg_jax.tar.gz -C igerg_jax.new
if [ -d igerg_jax/.venv ]; then mv igerg_jax/.venv igerg_jax.new/.venv; fi
rm -rf igerg_jax; mv igerg_jax.new igerg_jax; cd igerg_jax
export PATH="$HOME/.local/bin:$PATH"
python3 -m pip install --quiet --user "uv>=0.9,<1"
uv python install --quiet 3.12
bash -c "set -e; source launch/venv.sh; ensure_venv requirements.txt requirements-tpu.txt requirements-gcs.txt"'

install_code() {
  local archive=${TMPDIR:-/tmp}/igerg_jax-$$.tar.gz
  if [[ -n "$(git status --porcelain 2>/dev/null)" ]]; then
    echo "Note: uncommitted changes are not installed." >&2
  fi
  perform git archive --format=tar.gz --output="$archive" HEAD
  perform "${resources[@]}" scp "$archive" "$name:igerg_jax.tar.gz" "${where[@]}" \
    --node=all --worker=all
  perform rm -f "$archive"
  on_all_workers "$install_command"
}

run() {
  local arguments
  arguments=$(quoted "$@" --config.distributed.cluster=gcetpu)
  # setsid and nohup let the run outlive the connection.
  on_all_workers "cd igerg_jax && if [ -f run.pid ] && kill -0 \$(cat run.pid) 2>/dev/null; \
then echo 'a run is already in progress here' >&2; exit 1; fi; \
{ setsid nohup .venv/bin/python main.py $arguments >run.log 2>&1 </dev/null & } && echo \$! >run.pid"
}

case $action in
  create) create ;;
  status) perform "${resources[@]}" describe "$name" "${where[@]}" --format='value(state.state)' ;;
  install) install_code ;;
  run)
    if (($# == 0)); then usage; fi
    run "$@"
    ;;
  logs)
    perform "${resources[@]}" ssh "$name" "${where[@]}" --node="$TPU_NODE" \
      --worker="$TPU_WORKER" --command='tail -n 100 -F igerg_jax/run.log'
    ;;
  stop)
    on_all_workers "pid=\$(cat igerg_jax/run.pid) && kill -TERM \$pid; \
while kill -0 \$pid 2>/dev/null; do sleep 1; done; tail -n 3 igerg_jax/run.log"
    ;;
  delete) perform "${resources[@]}" delete "$name" "${where[@]}" --force --quiet ;;
esac
