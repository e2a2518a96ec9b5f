#!/bin/bash
# Written by synthdepth VERSION. A task runs its line of tasks.jsonl:
# synthdepth finetune /scratch/me/set /scratch/me/run
#SBATCH --job-name=finetune-run
#SBATCH --partition=kill-shared
#SBATCH --nodes=1
#SBATCH --ntasks=2
#SBATCH --cpus-per-task=4
#SBATCH --mem=32G
#SBATCH --gres=gpu:nvidia_h200_nvl:2
#SBATCH --time=12:00:00
#SBATCH --signal=B:USR1@300
#SBATCH --output=/scratch/me/run/jobs/finetune-1/log-0.txt
#SBATCH --chdir=/scratch/me
#SBATCH --requeue
#SBATCH --open-mode=append

# What belongs to a job that this was submitted from
unset SLURM_MEM_PER_CPU SLURM_MEM_PER_GPU SLURM_CPU_BIND RANK WORLD_SIZE LOCAL_RANK MASTER_ADDR MASTER_PORT
export OMP_NUM_THREADS=$SLURM_CPUS_PER_TASK OMP_WAIT_POLICY=passive
task=0
job="job $SLURM_JOB_ID, start $((${SLURM_RESTART_COUNT:-0} + 1)), $SLURMD_NODENAME"
note() { echo "$(date '+%F %T') [$job] $*"; }
soon= term= code=
trap 'soon=1; note "the time is nearly up"; kill -USR1 $pid' USR1
trap 'term=1; note "told to stop"' TERM
note begin
srun --cpus-per-task="$SLURM_CPUS_PER_TASK" --wait=60 \
  /scratch/me/env/bin/python -m synthdepth.cluster.tasks \
  /scratch/me/run/jobs/finetune-1 "$task" & pid=$!
while kill -0 $pid 2>/dev/null; do wait $pid; code=$?; done
note "exit code $code"
case $code in 75|138|143)
  if [ "$soon" ] || [ ! "$term" ]; then
    scontrol requeue "$SLURM_JOB_ID" && note "goes on later"
  fi ;;
esac
exit $code
