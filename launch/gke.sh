#!/usr/bin/env bash
# A run on a GKE cluster of TPUs or GPUs, with xpk (github.com/AI-Hypercomputer/xpk):
#
#   ./launch/gke.sh [--dry-run] run NAME --config=… --workdir=gs://… [any flag of main.py]
#   ./launch/gke.sh [--dry-run] list            the workloads of the cluster
#   ./launch/gke.sh [--dry-run] logs NAME       follows the output of the first pod
#   ./launch/gke.sh [--dry-run] delete NAME     SIGTERM: the state is saved, all end
#
# --dry-run prints the commands and runs none. Settings are environment variables:
#
#   GKE_CLUSTER   the cluster, made once with `xpk cluster create`
#   GKE_ZONE      where it is
#   GKE_PROJECT   whose it is
#   TPU_TYPE      what, for run: v5litepod-64, v6e-256, v5p-128, ...
#   TPU_SLICES    how many of them, joined over the data centre's network (default 1)
#   GKE_IMAGE     the image that this folder is put into (default python:3.12)
#   GKE_RESTARTS  how often a run that was interrupted is taken up again (default 50)
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
    echo "error: '$name' is not a name: at most 40 small letters, digits and dashes" >&2
    exit 2
  fi
  shift
fi
if [[ $action != run && $# -gt 0 ]]; then usage; fi
need GKE_CLUSTER GKE_ZONE GKE_PROJECT
where=(--cluster="$GKE_CLUSTER" --zone="$GKE_ZONE" --project="$GKE_PROJECT")

run() {
  need TPU_TYPE
  local arguments command
  arguments=$(quoted "$@" --config.distributed.cluster=gketpu)
  # xpk copies this folder into the image and runs the command in it, in a shell. exec: so that
  # SIGTERM reaches the run.
  command="source launch/venv.sh && \
ensure_venv requirements.txt requirements-tpu.txt requirements-gcs.txt && \
exec .venv/bin/python main.py $arguments"
  perform xpk workload create "${where[@]}" --workload="$name" --tpu-type="$TPU_TYPE" \
    --num-slices="${TPU_SLICES:-1}" --base-docker-image="${GKE_IMAGE:-python:3.12}" \
    --script-dir=. --max-restarts="${GKE_RESTARTS:-50}" --command="$command"
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
