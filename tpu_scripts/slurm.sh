#!/usr/bin/env bash
# A run on the GPUs of a Slurm cluster: an example to copy. From the checkout, with `make setup` and
# `pip install -c constraints.txt -e '.[cuda]'` done on a file system that all nodes share:
#
#   sbatch tpu_scripts/slurm.sh --config=configs/torl_7b.py --workdir=/shared/torl_7b
#
# The same sbatch command resumes. Slurm itself starts the job again when a node dies (--requeue).
#SBATCH --job-name=torl
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --exclusive
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=torl-%j.log
# A quarter of an hour before the time is up: save, see on_node.
#SBATCH --signal=USR1@900
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:?submit this with sbatch}"

TORL_RUN_ID=slurm-$SLURM_JOB_ID.${SLURM_RESTART_COUNT:-0}
TORL_COMMIT=$(git rev-parse --verify HEAD)
[[ -z $(git status --porcelain) ]] || TORL_COMMIT+=-dirty
export TORL_RUN_ID TORL_COMMIT
# NAME=VALUE lines, mode 600; read on each node, so that they stand in no job record.
export TORL_SECRETS=${TORL_SECRETS:-$HOME/.config/torl_secrets}

on_node() { # COMMAND...
  local line child status
  # One process a node drives all its GPUs. Left to itself jax would take one process a GPU on
  # Slurm, and give this one the first GPU only.
  JAX_LOCAL_DEVICE_IDS=$(seq -s , 0 "$((SLURM_GPUS_ON_NODE - 1))")
  export JAX_LOCAL_DEVICE_IDS
  if [[ -r $TORL_SECRETS ]]; then
    while IFS= read -r line || [[ -n $line ]]; do
      if [[ $line =~ ^[A-Za-z_][A-Za-z0-9_]*= ]]; then export "${line?}"; fi
    done <"$TORL_SECRETS"
  fi
  # Slurm signals every process of a step, but a second SIGINT tells the trainer to quit without
  # saving. So all but this shell ignore USR1, and this shell makes one SIGINT of it.
  (
    trap - INT
    trap '' USR1
    exec "$@"
  ) &
  child=$!
  trap 'kill -INT "$child"' USR1
  while true; do
    status=0
    wait "$child" || status=$?
    kill -0 "$child" 2>/dev/null || exit "$status"
  done
}

srun --kill-on-bad-exit=1 bash -c "$(declare -f on_node); on_node \"\$@\"" on_node \
  .venv/bin/python -m torl_jax.train --distributed "$@"
