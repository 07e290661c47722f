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

nodes=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
address=${nodes%%$'\n'*}:6379
# The run is on this node, the first one: its process number and its exit code come by files.
state=$(mktemp -d)
trap 'rm -rf "$state"' EXIT

# shellcheck disable=SC2016 # Expanded by the shell that starts the run.
srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 \
    ray symmetric-run --address "$address" --min-nodes "$SLURM_JOB_NUM_NODES" \
    --num-cpus "$SLURM_CPUS_PER_TASK" -- env "RAY_ADDRESS=$address" bash -c '
        lmmsteer "$@" &
        echo $! >"$0/run"
        wait $! && code=0 || code=$?
        echo $code >"$0/code"' "$state" "$@" &
step=$!

# shellcheck disable=SC2317 # It is the trap below that calls it.
stop() {
    if [ -s "$state/run" ]; then
        kill -TERM "$(cat "$state/run")" 2>/dev/null || true
    else
        exit 1 # Ray is still starting, and nothing is lost.
    fi
}
trap stop TERM

# The other nodes may outlive the first: Slurm ends them with this script.
while [ ! -s "$state/code" ] && kill -0 "$step" 2>/dev/null; do
    sleep 1
done
code=1
if [ -s "$state/code" ]; then
    code=$(cat "$state/code")
fi
if [ "$code" -ne 0 ]; then
    echo "Ended with $code. What is missing: sbatch deploy/slurm.sh resume out=..." >&2
fi
exit "$code"
