#!/usr/bin/env bash
# Runs main.py on a GKE cluster with TPUs, with xpk (github.com/AI-Hypercomputer/xpk):
#
#   ./launch/gke.sh [--dry-run] run NAME --config=… --workdir=gs://… [any flag of main.py]
#   ./launch/gke.sh [--dry-run] list            lists the cluster's workloads
#   ./launch/gke.sh [--dry-run] logs NAME       follows the output of the first pod
#   ./launch/gke.sh [--dry-run] delete NAME     SIGTERM: saves a checkpoint and ends the run
#
# --dry-run only prints the commands. Settings are environment variables:
#
#   GKE_CLUSTER   the cluster, created once with `xpk cluster create`
#   GKE_ZONE      its zone
#   GKE_PROJECT   its project
#   TPU_TYPE      for run: v5litepod-64, v6e-256, v5p-128, tpu7x-4x4x4, ...
#   TPU_SLICES    number of slices, connected by the data-centre network (default 1)
#   GKE_IMAGE     base image that this folder is added to (default python:3.12)
#   GKE_RESTARTS  how often an interrupted run is restarted (default 50)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=launch/dry_run.sh
source launch/dry_run.sh

if [[ "${1:-}" == --dry-run ]]; then
  dry_run=1
  shift
fi
action=${1:-} name=${2:-}
case $action in run | list | logs | delete) ;; *) usage ;; esac
shift
if [[ $action != list ]]; then
  if [[ ! "$name" =~ ^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$ ]]; then
    echo "error: '$name' is not a valid name: use a letter, then lower-case letters, digits and dashes, at most 40 in all" >&2
    exit 2
  fi
  shift
fi
if [[ $action != run && $# -gt 0 ]]; then usage; fi
need GKE_CLUSTER GKE_ZONE GKE_PROJECT
whole_number TPU_SLICES 1 1 1024
whole_number GKE_RESTARTS 50 0 100000
where=(--cluster="$GKE_CLUSTER" --zone="$GKE_ZONE" --project="$GKE_PROJECT")

run() {
  need TPU_TYPE
  local arguments command
  arguments=$(quoted "$@" --config.distributed.cluster=gketpu)
  # xpk copies this folder into the image and runs the command there in a shell; exec makes SIGTERM
  # reach the run.
  command="source launch/venv.sh && \
ensure_venv requirements.txt requirements-tpu.txt requirements-gcs.txt && \
exec .venv/bin/python main.py $arguments"
  perform xpk workload create "${where[@]}" --workload="$name" --tpu-type="$TPU_TYPE" \
    --num-slices="$TPU_SLICES" --base-docker-image="${GKE_IMAGE:-python:3.12}" \
    --script-dir=. --max-restarts="$GKE_RESTARTS" --command="$command"
}

case $action in
  run)
    if (($# == 0)); then usage; fi
    run "$@"
    ;;
  list) perform xpk workload list "${where[@]}" ;;
  logs)
    perform gcloud container clusters get-credentials "$GKE_CLUSTER" \
      --location="$GKE_ZONE" --project="$GKE_PROJECT"
    perform kubectl logs --follow --tail=100 --container=jax-tpu \
      --selector="jobset.sigs.k8s.io/jobset-name=$name,jobset.sigs.k8s.io/job-index=0,\
batch.kubernetes.io/job-completion-index=0"
    ;;
  delete) perform xpk workload delete "${where[@]}" --workload="$name" --force ;;
esac
