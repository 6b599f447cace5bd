# shellcheck shell=bash
# One more node of a job's Ray cluster. prism_ray_join starts it with srun; the token comes on the standard input.
set -euo pipefail
source "$PRISM_REPO/slurm/env.sh"
umask 077
PRISM_CHILD='' PRISM_RAY='' PRISM_NODES='' PRISM_CLEAN='' PRISM_GRACE_S=5 PRISM_START_LOCK=$PRISM_ROOT/.start
mkdir -p "$PRISM_ROOT" "$TMPDIR"
[ -O "$PRISM_ROOT" ] && [ ! -L "$PRISM_ROOT" ] || prism_fail "$PRISM_ROOT on $(hostname) belongs to another user; have it removed"
chmod 700 "$PRISM_ROOT"
exec 9>"$PRISM_ROOT/.lock" # held while the node serves: a process that gets this lock may remove the folder
flock -n 9 || prism_fail "$PRISM_ROOT on $(hostname) is in use by another process"
trap prism_cleanup EXIT
trap 'exit 143' TERM INT
prism_ray_folder
cat >"$RAY_AUTH_TOKEN_PATH"
"$PRISM_PYTHON" -m ray.scripts.scripts start --address "$RAY_ADDRESS" --block --disable-usage-stats \
    --num-cpus "${SLURM_CPUS_PER_TASK:-$(nproc)}" --num-gpus "$PRISM_GPUS" \
    --object-store-memory $((PRISM_OBJECT_STORE_MIB * 1024 * 1024)) --temp-dir "$PRISM_RAY_FOLDER/r" &
PRISM_RAY=$!
wait "$PRISM_RAY"
