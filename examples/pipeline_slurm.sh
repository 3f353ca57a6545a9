#!/usr/bin/env bash
# A pipeline over MPI as a Slurm job, which goes on by itself where it was stopped:
#
#     sbatch examples/pipeline_slurm.sh
#     sbatch --ntasks=8 examples/pipeline_slurm.sh --schedule zb-h1 --steps 5000
#
# What stands behind the script's name goes to `baremetal train`. Submit it from a folder that all
# machines of the cluster see, with an environment there: python3 -m venv .venv, and
# .venv/bin/pip install 'baremetal[mpi]'.
#
# No cluster has run this yet: only what it does without Slurm is tested.

#SBATCH --job-name=pipeline
#SBATCH --ntasks=4               # one process for each stage: this is --stages
#SBATCH --cpus-per-task=2        # its kernels' threads; a second one keeps MPI's waiting off it
#SBATCH --mem-per-cpu=2G
#SBATCH --time=01:00:00
#SBATCH --signal=TERM@120        # to the processes, two minutes before the end: they save and stop
#SBATCH --requeue                # when it is preempted, or a machine fails, it begins again
#SBATCH --open-mode=append       # ... and goes on writing to the same file:
#SBATCH --output=pipeline-%j.log

set -euo pipefail

steps=1000
name="pipeline-${SLURM_JOB_ID:?submit this with sbatch}" # stays the same when it is requeued
run="runs/$name"

# Whatever this shell had activated is not there on the other machines; its path is.
export PATH="$PWD/.venv/bin:$PATH"

# Each machine compiles the kernels once, on its own disk: a home folder that all share is slow.
export BAREMETAL_CACHE_DIR="${TMPDIR:-/tmp}/baremetal-kernels-$UID"

# One thread in libraries that nobody asked to have more; ours are told by --threads.
export OMP_NUM_THREADS=1

# How the processes are started. The MPI must understand how Slurm introduces them to each other:
#   --mpi=pmi2    MPICH (also the one from pip), Intel MPI, MVAPICH
#   --mpi=pmix    Open MPI 4 and newer; MPICH that was built with PMIx
# `srun --mpi=list` says what this Slurm has. If neither fits, MPICH's own launcher finds the job's
# machines by itself: launch=(mpiexec -n "$SLURM_NTASKS"), but then --signal may not get through.
# --kill-on-bad-exit: when one process fails all are ended; else the others would wait for ever.
launch=(srun --mpi=pmi2 --kill-on-bad-exit=1)

if [[ -d $run/checkpoints ]]; then
  # A checkpoint is whole or not there; this takes the last one, and the run goes on bit for bit.
  "${launch[@]}" baremetal train --resume "$run"
else
  rm -rf "$run" # it was stopped before it had saved anything
  "${launch[@]}" baremetal train --stages "$SLURM_NTASKS" --schedule 1f1b --microbatches 8 \
    --steps "$steps" --threads 1 --name "$name" "$@"
fi

# It ends well, too, when its time is up: then there is no sample yet, and it goes back in the queue.
if [[ ! -e $run/sample.txt ]]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
