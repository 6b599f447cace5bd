# shellcheck shell=bash
# Functions for all jobs: checks, Ray head, requeue, cleanup. The .sbatch files set PRISM_REPO and then source it.
#   prism_begin                 folders, environment, cleanup at every exit, checks that need no Python
#   prism_check RECIPE [...]    check settings, archive, quotas and W&B access of the run, in seconds
#   prism_ray_start [ADDRESS]   start a Ray head with the CPUs and GPUs of this node, on the loopback or on ADDRESS
#   prism_ray_join              start Ray on the other nodes of the job (ray_node.sh), and wait until all have joined
#   prism_run COMMAND [...]     run the command; when stopped before the time limit, requeue the job
#   prism_sweep COMMAND [...]   the same for a sweep, which is also requeued when an outage has stopped it
# All temporary files are below PRISM_ROOT = /tmp/$USER/prism_ssl/$SLURM_JOB_ID, which is deleted when the job ends.

prism_say() { echo "prism: $*" >&2 || return 0; } # a log on a full disk ends no job
prism_fail() { prism_say "cannot start: $*"; exit 1; }

prism_begin() {
    [ -n "${SLURM_JOB_ID:-}" ] || prism_fail "this is a job script; submit it: sbatch $0"
    [ -z "$PRISM_SETUP" ] || prism_setup
    USER=${USER:-$(id -un 2>/dev/null)} || USER=$UID # a container's user may have no name
    umask 077
    export PRISM_ROOT=/tmp/$USER/prism_ssl/$SLURM_JOB_ID # exported: the cleanup finds the job's processes by it
    PRISM_STOP_FILE=$PRISM_ROOT/stop-$SLURM_JOB_ID
    PRISM_CHILD='' PRISM_RAY='' PRISM_NODES='' PRISM_ASKED='' PRISM_CLEAN='' PRISM_GRACE_S=15
    mkdir -p "$PRISM_ROOT" || prism_fail "$PRISM_ROOT cannot be created; does /tmp/$USER belong to another user?"
    local folder
    for folder in "/tmp/$USER" "/tmp/$USER/prism_ssl" "$PRISM_ROOT"; do
        [ -O "$folder" ] && [ ! -L "$folder" ] || prism_fail "$folder does not belong to $USER; have it removed"
    done
    chmod 700 "/tmp/$USER/prism_ssl" "$PRISM_ROOT"
    # Every process of this start holds this lock until it ends: after a requeue, the next start must not use the folder
    # while the previous one still removes it. The lock is outside the folder, which the cleanup searches for processes.
    PRISM_START_LOCK=/tmp/$USER/prism_ssl/.start-$SLURM_JOB_ID
    exec 8>"$PRISM_START_LOCK"
    flock -w 120 8 || prism_fail "processes of the job's previous start are still running on $(hostname)"
    mkdir -p "$PRISM_ROOT"
    chmod 700 "$PRISM_ROOT"
    # Held while the job runs: a process that gets this lock may remove the folder.
    exec 9>"$PRISM_ROOT/.lock"
    flock -n 9 || prism_fail "$PRISM_ROOT is in use by another process"
    trap prism_cleanup EXIT
    trap prism_cancelled TERM
    trap 'exit 130' INT
    trap 'PRISM_ASKED=1; touch "$PRISM_STOP_FILE"' USR1
    rm -f "$PRISM_STOP_FILE"

    export TMPDIR=$PRISM_ROOT/tmp WANDB_DIR=$PRISM_ROOT/wandb/runs WANDB_CACHE_DIR=$PRISM_ROOT/wandb/cache
    export WANDB_DATA_DIR=$PRISM_ROOT/wandb/staging WANDB_ARTIFACT_DIR=$PRISM_ROOT/wandb/artifacts
    export WANDB_CONFIG_DIR=$PRISM_ROOT/wandb/config
    mkdir -p "$TMPDIR" "$WANDB_DIR" "$WANDB_CACHE_DIR" "$WANDB_DATA_DIR" "$WANDB_ARTIFACT_DIR" "$WANDB_CONFIG_DIR"

    [ -x "$PRISM_PYTHON" ] || prism_fail "no Python at $PRISM_PYTHON; run 'make install' once in $PRISM_REPO, or set PRISM_PYTHON in slurm/site.sh"
    case $PRISM_RUNS/ in /tmp/* | /dev/shm/*) prism_fail "PRISM_RUNS is $PRISM_RUNS, which is gone with the job; set durable storage in slurm/site.sh" ;; esac
    mkdir -p "$PRISM_RUNS" && [ -w "$PRISM_RUNS" ] || prism_fail "run folders cannot be written to $PRISM_RUNS; set PRISM_RUNS in slurm/site.sh"
    PRISM_GPUS=${SLURM_GPUS_ON_NODE:-0}
    if [ -n "$PRISM_ALLOW_CPU" ]; then
        PRISM_GPUS=0
        export CUDA_VISIBLE_DEVICES=''
    elif [ "$PRISM_GPUS" -gt "$(nvidia-smi -L 2>/dev/null | wc -l)" ]; then
        prism_fail "the job has $PRISM_GPUS GPU(s), but nvidia-smi on $(hostname) shows fewer; is the driver up? (PRISM_ALLOW_CPU=1 trains on the CPU)"
    fi
    cd "$PRISM_REPO"
    prism_say "job $SLURM_JOB_ID, start $((${SLURM_RESTART_COUNT:-0} + 1)), on $(hostname); run folders in $PRISM_RUNS"
}

# Sources the site's script as a login shell would: profiles often use unset variables and continue after a failed
# command. The shell options are restored afterwards.
prism_setup() {
    [ -r "$PRISM_SETUP" ] || prism_fail "PRISM_SETUP is $PRISM_SETUP, which $(hostname) cannot read; correct it in slurm/site.sh"
    local options status=0
    options=$(set +o)$'\n'"set -e" # the subshell $(...) does not inherit -e
    set +eu +o pipefail
    # shellcheck disable=SC1090
    source "$PRISM_SETUP"
    status=$?
    eval "$options"
    [ "$status" -eq 0 ] || prism_say "the last command of $PRISM_SETUP failed with $status; the job goes on"
}

# scancel or pre-emption: SLURM has sent SIGTERM to every process of the job, and kills all after KillWait seconds.
prism_cancelled() {
    local killed_after_s
    killed_after_s=$(timeout 5 scontrol show config | awk '$1 == "KillWait" { print $3 }') || killed_after_s=''
    PRISM_GRACE_S=$((${killed_after_s:-5} > 12 ? ${killed_after_s:-5} - 10 : 2))
    exit 143
}

# Sets PRISM_ARGS from a recipe and its options, and adds the arguments that site.sh defines, unless they are given.
prism_arguments() {
    local given=" $* "
    PRISM_ARGS=("$@")
    [[ $given == *" --run.root"* ]] || PRISM_ARGS+=(--run.root "$PRISM_RUNS")
    [[ $given == *" --run.max-restarts"* ]] || PRISM_ARGS+=(--run.max-restarts "$PRISM_SCAN_RESTARTS")
    [[ $given != *" --config"* ]] || return 0 # the file names its scans
    case $1 in phantom-cpu | phantom-place | core24-smoke) return ;; esac # they generate phantoms unless told otherwise
    if [ -n "$PRISM_CATALOG" ] && [[ $given != *" --data.catalog-path"* ]]; then
        PRISM_ARGS+=(--data.catalog-path "$PRISM_CATALOG")
    fi
}

prism_check() {
    "$PRISM_PYTHON" tune/check_job.py --no-page "$@" || prism_fail "see the failed checks above"
}

prism_ray_folder() {
    PRISM_RAY_FOLDER=$PRISM_ROOT/ray
    # Ray's sockets are below this folder, and the kernel limits their paths to 107 bytes.
    if [ ${#PRISM_RAY_FOLDER} -gt 38 ]; then PRISM_RAY_FOLDER=/tmp/r$SLURM_JOB_ID-$UID; fi
    mkdir -m 700 "$PRISM_RAY_FOLDER" || prism_fail "$PRISM_RAY_FOLDER cannot be created; is it left over from another job?"
}

prism_ray_start() {
    local ports port dashboard metrics client agent folder address=${1:-127.0.0.1}
    prism_ray_folder
    folder=$PRISM_RAY_FOLDER/r # Ray makes its own folder accessible to all users
    ports=$("$PRISM_PYTHON" -I -S - <<'PORTS'
import socket
sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(5)]
print(*(s.getsockname()[1] for s in sockets))
PORTS
    )
    read -r port dashboard metrics client agent <<<"$ports"
    export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$PRISM_ROOT/token
    od -An -N32 -tx1 /dev/urandom | tr -d ' \n' >"$RAY_AUTH_TOKEN_PATH"
    export RAY_USAGE_STATS_ENABLED=0 RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO=0
    export RAY_prestart_worker_first_driver=0 # otherwise Ray starts one idle worker per core
    "$PRISM_PYTHON" -m ray.scripts.scripts start --head --block --disable-usage-stats \
        --num-cpus "${SLURM_CPUS_PER_TASK:-$(nproc)}" --num-gpus "$PRISM_GPUS" \
        --object-store-memory $((PRISM_OBJECT_STORE_MIB * 1024 * 1024)) --temp-dir "$folder" \
        --node-ip-address "$address" --port "$port" --ray-client-server-port "$client" \
        --include-dashboard true --dashboard-host 127.0.0.1 --dashboard-port "$dashboard" \
        --dashboard-agent-listen-port "$agent" --metrics-export-port "$metrics" >"$PRISM_ROOT/ray_head.log" 2>&1 &
    PRISM_RAY=$!
    disown "$PRISM_RAY" # no message of the shell when it ends
    local tries
    for ((tries = 0; tries < 120; tries++)); do
        if [ -s "$folder/ray_current_cluster" ]; then break; fi
        if ! kill -0 "$PRISM_RAY" 2>/dev/null; then
            tail -n 20 "$PRISM_ROOT/ray_head.log" >&2
            prism_fail "the Ray head did not start; the end of its log is above"
        fi
        sleep 0.5
    done
    [ -s "$folder/ray_current_cluster" ] || prism_fail "the Ray head was not up within 60 s; is the node overloaded?"
    export RAY_ADDRESS=$address:$port
    # Compute nodes are usually reached through a login node; the host from which the job was submitted is one.
    local through=''
    [ "${SLURM_SUBMIT_HOST:-$(hostname)}" = "$(hostname)" ] || through="-J $USER@$SLURM_SUBMIT_HOST "
    prism_say "Ray dashboard, from your own machine: ssh ${through}-N -L 8265:127.0.0.1:$dashboard $USER@$(hostname), then http://127.0.0.1:8265; its token: ssh ${through}$USER@$(hostname) cat $RAY_AUTH_TOKEN_PATH"
    prism_say "metrics for Prometheus on this node: http://127.0.0.1:$metrics/metrics"
}

# The address under which the other nodes reach this one; empty, for the loopback, where there is no other node.
prism_own_address() {
    if [ "${SLURM_JOB_NUM_NODES:-1}" -gt 1 ]; then echo "${PRISM_NODE_ADDRESS:-$(hostname -I | awk '{ print $1 }')}"; fi
}

prism_ray_join() {
    local others=$((${SLURM_JOB_NUM_NODES:-1} - 1)) names cpus=${SLURM_CPUS_PER_TASK:-1} gpus=''
    if [ "$others" -eq 0 ]; then return; fi
    names=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | grep -vxF "$SLURMD_NODENAME" | paste -sd ,)
    if [ "$PRISM_GPUS" -gt 0 ]; then gpus=--gpus-per-node=$PRISM_GPUS; fi
    export PRISM_REPO PRISM_PYTHON PRISM_GPUS PRISM_OBJECT_STORE_MIB
    # The token goes through a pipe: not onto a command line, not into a file that other nodes see.
    srun --nodes="$others" --ntasks="$others" --ntasks-per-node=1 --nodelist="$names" --cpus-per-task="$cpus" $gpus \
        --overlap --no-kill bash "$PRISM_REPO/slurm/ray_node.sh" <"$RAY_AUTH_TOKEN_PATH" >"$PRISM_ROOT/ray_nodes.log" 2>&1 &
    PRISM_NODES=$!
    disown "$PRISM_NODES"
    "$PRISM_PYTHON" -m prism_ssl.utils.ray_cluster.wait_for_nodes $((others + 1)) 180 || {
        tail -n 20 "$PRISM_ROOT/ray_nodes.log" >&2
        prism_fail "not all of the $((others + 1)) nodes have joined; see above. Do they reach $RAY_ADDRESS, and see $PRISM_REPO?"
    }
}

# Seconds that the run may take to stop, so that cleanup and requeue still fit before the job's time limit.
prism_patience_s() {
    local end left_s=$((PRISM_STOP_WITHIN_S + 20))
    if end=$(timeout 10 squeue -h -j "$SLURM_JOB_ID" -o %e) && end=$(date -d "$end" +%s 2>/dev/null); then
        left_s=$((end - $(date +%s)))
    fi
    echo $((left_s - 20 < PRISM_STOP_WITHIN_S ? left_s - 20 : PRISM_STOP_WITHIN_S))
}

prism_run() {
    local code=0 end_s=''
    "$@" &
    PRISM_CHILD=$!
    # A trap interrupts 'wait', so it is repeated until the run has ended or its time to stop is over.
    while kill -0 "$PRISM_CHILD" 2>/dev/null && [ "$SECONDS" -lt "${end_s:-$((SECONDS + 1))}" ]; do
        if [ -z "$PRISM_ASKED" ]; then
            wait "$PRISM_CHILD" || continue
        elif [ -z "$end_s" ]; then
            end_s=$((SECONDS + $(prism_patience_s)))
        else
            sleep 1
        fi
    done
    if kill -0 "$PRISM_CHILD" 2>/dev/null; then
        prism_say "the run did not stop in time (PRISM_STOP_WITHIN_S is $PRISM_STOP_WITHIN_S): its checkpoint was slow to write, or W&B slow to answer (--tracking.finish-timeout-s); it will resume at the last complete checkpoint"
        code=75
    else
        wait "$PRISM_CHILD" || code=$?
    fi
    if [ "$code" -ne 75 ] || [ -z "$PRISM_ASKED" ]; then
        return "$code"
    fi
    prism_requeue
}

# A sweep ends with 75 of its own accord when W&B, the archive or the GPU is away; not if a user's stop file ended it.
prism_sweep() {
    local code=0
    prism_run "$@" || code=$?
    if [ "$code" -eq 75 ] && [ ! -e "$PRISM_STOP_FILE" ]; then prism_requeue; fi
    return "$code"
}

prism_requeue() {
    if [ "${SLURM_RESTART_COUNT:-0}" -ge "$PRISM_MAX_RESTARTS" ]; then
        prism_say "interrupted after ${SLURM_RESTART_COUNT} restarts (PRISM_MAX_RESTARTS); submit the job again to resume"
        exit 75
    fi
    prism_say "interrupted; the job goes back into the queue and resumes at the checkpoint"
    prism_cleanup
    timeout 60 scontrol requeue "$SLURM_JOB_ID" || prism_fail "scontrol requeue failed; submit the job again to resume"
    sleep 60 & # Slurm ends this script now
    wait $!
    exit 75
}

# Ends the processes that this job started, and no others, and removes its folder.
prism_cleanup() {
    [ -z "$PRISM_CLEAN" ] || return 0
    PRISM_CLEAN=1
    trap '' TERM INT USR1 HUP
    local pid folder environ
    disown -a # no messages of the shell when they end
    for pid in $PRISM_CHILD $PRISM_NODES $PRISM_RAY; do kill -TERM "$pid" 2>/dev/null || continue; done
    exec 9>&-
    for folder in "$PRISM_ROOT" "${PRISM_RAY_FOLDER:-$PRISM_ROOT}"; do
        # Processes with an open file below the folder get time to end, then are killed.
        if [ -x "$PRISM_PYTHON" ] && [ -d "$folder" ]; then
            "$PRISM_PYTHON" -I -S "$PRISM_REPO/prism_ssl/utils/ray_cluster/cleanup_after_kill.py" "$folder" "$PRISM_GRACE_S" </dev/null || continue
        fi
        rm -rf "$folder"
    done
    for environ in $(grep -lzxF "PRISM_ROOT=$PRISM_ROOT" /proc/[0-9]*/environ 2>/dev/null); do
        pid=${environ//[!0-9]/}
        [ "$pid" = $$ ] || kill -KILL "$pid" 2>/dev/null || continue
    done
    rm -f "$PRISM_START_LOCK"
}
