#!/bin/bash
# lmmsteer on the nodes of a Slurm job, which make up a Ray cluster for as long as it lasts.
#
#   sbatch deploy/slurm.sh generate -m method=unsteered,random_direction device=cuda out=/shared/study
#   sbatch deploy/slurm.sh resume out=/shared/study      # until it ends with exit code 0
#
# Five minutes before the time is up Slurm tells this script, and no other process: the run then
# gives open shards their `cluster.drain` seconds and ends with 1. To end a job so by hand:
#   scancel --batch --signal=TERM JOB
# Adapt what follows to the machine; `out`, the model and ~/.ray lie on a file system of all nodes.
#SBATCH --job-name=lmmsteer
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --mem=0
#SBATCH --time=08:00:00
#SBATCH --signal=B:TERM@300
#SBATCH --output=lmmsteer-%j.log
set -euo pipefail

if [ $# -eq 0 ]; then
    echo "sbatch deploy/slurm.sh VERB [key=value ...]" >&2
    exit 2
fi

# Nobody else may join or use the cluster: all its processes share a token in the home folder.
export RAY_AUTH_MODE=token
ray get-auth-token --generate >/dev/null
# The nodes of a large job start one after the other.
export RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT=${RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT:-300}

head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
address=$head:${RAY_PORT:-6379}
# The run is on this node, the first one: its process number comes to us by a file.
driver=$(mktemp)
step=
trap 'rm -f "$driver"' EXIT

# shellcheck disable=SC2317 # It is the trap below that calls it.
stop() {
    local run
    run=$(cat "$driver")
    kill -TERM "${run:-$step}" 2>/dev/null || true # The step, while Ray is still starting: nothing is lost.
}
trap stop TERM

# shellcheck disable=SC2016 # Expanded by the shell that becomes the run.
srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 --wait=120 \
    ray symmetric-run --address "$address" --min-nodes "$SLURM_JOB_NUM_NODES" \
    --num-cpus "$SLURM_CPUS_PER_TASK" -- \
    env "RAY_ADDRESS=$address" bash -c 'echo $$ >"$0" && exec lmmsteer "$@"' "$driver" "$@" &
step=$!

while :; do
    wait "$step" && code=0 || code=$?
    kill -0 "$step" 2>/dev/null || break # A signal ends `wait`, but not the step.
done
if [ "$code" -ne 0 ]; then
    echo "lmmsteer ended with $code. What is missing: sbatch deploy/slurm.sh resume out=..." >&2
fi
exit "$code"
