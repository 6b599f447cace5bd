# shellcheck shell=bash
# What a site decides: the one file to edit. Each value may also be given for one submission, as in
#   PRISM_CATALOG=/archive/catalog.parquet sbatch slurm/train_single.sbatch
# Partition, GPUs, cores, memory and time are in the #SBATCH lines of the scripts and on sbatch's command line.

# A script that is sourced first, such as one that loads modules; it may be an ordinary profile. Empty: none.
: "${PRISM_SETUP:=}"

# The interpreter into which the project is installed (`make install` makes this one).
: "${PRISM_PYTHON:=$PRISM_REPO/.venv/bin/python}"

# The table of the archive, for all but phantom-cpu and the smoke scale; empty: given with --data.catalog-path.
: "${PRISM_CATALOG:=}"

# Run folders (last.ckpt, record, encoder): durable storage with room for them, never /tmp.
: "${PRISM_RUNS:=$PRISM_REPO/runs}"

# Size of Ray's object store. A recipe states its need in the memory plan; 206 MB for betty-baseline at batch 32.
: "${PRISM_OBJECT_STORE_MIB:=4096}"

# How often a job may put itself back into the queue at its time limit.
: "${PRISM_MAX_RESTARTS:=20}"

# How often a run that ended on a broken scan (strict mode), which is quarantined then, begins again without it.
: "${PRISM_SCAN_RESTARTS:=3}"

# Seconds that a run has for its checkpoint after the warning (--signal=B:USR1@300) before the job requeues anyway.
: "${PRISM_STOP_WITHIN_S:=240}"

# 1: train on the CPU although the job has a GPU (tests on phantoms); empty: a GPU that is not there is an error.
: "${PRISM_ALLOW_CPU:=}"
