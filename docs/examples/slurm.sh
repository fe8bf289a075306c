#!/bin/bash
#SBATCH --job-name=sret-nas
#SBATCH --array=1-16
#SBATCH --cpus-per-task=4
#SBATCH --mem=8G
#SBATCH --time=12:00:00
#SBATCH --requeue
#SBATCH --signal=TERM@60
#SBATCH --output=worker-%A_%a.log
#
# Workers for a search whose study is in a shared storage; see docs/cluster.md.
#
#     export SRET_NAS_STORAGE=@$HOME/.sret-nas
#     sbatch docs/examples/slurm.sh demo
#
# A minute before its time is up a worker hands its candidate back to the others.
# For GPUs: --gres=gpu:1 above, and: sbatch … demo --device cuda --workers 1
set -eu
study=${1:?the name of the study}
shift
: "${SRET_NAS_STORAGE:?the address of the storage, or @FILE with it}"
[ $# -gt 0 ] || set -- --workers "$SLURM_CPUS_PER_TASK"
srun sret-nas worker --study "$study" "$@"
