# shellcheck shell=bash
# Settings of your site: the only file to edit. Each value can also be set for one submission, as in
#   PRISM_CATALOG=/archive/catalog.parquet sbatch slurm/train_single.sbatch
# Partition, GPUs, cores, memory and time are in the #SBATCH lines of the scripts and on sbatch's command line.

# A script that is sourced first, such as one that loads modules; it can be an ordinary profile. Empty: none.
: "${PRISM_SETUP:=}"

# The Python interpreter with the project installed (`make install` creates this one).
: "${PRISM_PYTHON:=$PRISM_REPO/.venv/bin/python}"

# The table of scans, for all recipes but phantom-cpu, phantom-place and the smoke scale; empty: pass --data.catalog-path.
: "${PRISM_CATALOG:=}"

# Run folders (last.ckpt, record, encoder): durable storage with room for them, never /tmp.
: "${PRISM_RUNS:=$PRISM_REPO/runs}"

# Size of Ray's object store. The memory plan prints what a recipe needs: 206 MB for betty-baseline at batch 32.
: "${PRISM_OBJECT_STORE_MIB:=4096}"

# How often a job may requeue itself at its time limit.
: "${PRISM_MAX_RESTARTS:=20}"

# How often a run that failed on a broken scan (strict mode) restarts; the scan is quarantined and left out.
: "${PRISM_SCAN_RESTARTS:=3}"

# Seconds that a run has to write its checkpoint after the warning (--signal=B:USR1@300) before the job is requeued.
: "${PRISM_STOP_WITHIN_S:=240}"

# 1: train on the CPU although the job has a GPU (tests on phantoms); empty: a missing GPU is an error.
: "${PRISM_ALLOW_CPU:=}"
