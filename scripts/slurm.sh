#!/usr/bin/env bash
# Submits any of the recipes' scripts as a SLURM job that survives pre-emption and its time limit. See --help.
set -euo pipefail

usage() {
    cat <<'HELP'
usage: bash scripts/slurm.sh [options] SCRIPT [arguments of SCRIPT]

Submits SCRIPT (scripts/pretrain_vast.sh, scripts/vast/finetune_ret.sh, …) as a job with one task per GPU, for example
  bash scripts/slurm.sh --nodes 8 --gpus 8 --time 24:00:00 --partition gpu scripts/pretrain_vast.sh
Five minutes before its time is up, or pre-empted, the job saves a checkpoint and queues itself again; scancel ends it for good. When a
process dies or hangs, the job starts all of them again. Each start resumes from the last checkpoint. Options:
  --nodes N       machines (default 1)
  --gpus N        GPUs per machine (default 8; 0: one CPU process per machine)
  --cpus N        CPU cores per GPU (default 12)
  --time T        time limit of one start (default 24:00:00)
  --max_restarts N  how often a job starts its processes again after a failure (default 3)
  --partition P, --account A, --qos Q, --constraint C, --mem M    as for sbatch
  --print         print the job instead of submitting it
The log goes to output/slurm/<name>-<job>.log. The environment (.venv or the active one) must be on a disk that all machines see.
HELP
}

fail() {
    echo "scripts/slurm.sh: $1" >&2
    exit 2
}

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
nodes=1 gpus=8 cpus=12 time=24:00:00 max_restarts=3 only_print=false
more=()
while [ $# -gt 0 ]; do
    case "$1" in
        --*=*) set -- "${1%%=*}" "${1#*=}" "${@:2}" ;;
    esac
    case "$1" in
        -h | --help) usage; exit 0 ;;
        --print) only_print=true; shift; continue ;;
        --*) [ $# -gt 1 ] || fail "$1: needs a value (--help lists the options)" ;;
    esac
    case "$1" in
        --nodes | --gpus | --cpus | --max_restarts) [[ "$2" =~ ^[0-9]+$ ]] || fail "$1: expected a whole number, got '$2'" ;;&
        --nodes | --gpus | --cpus | --max_restarts | --time) printf -v "${1#--}" '%s' "$2"; shift 2 ;;
        --partition | --account | --qos | --constraint | --mem) more+=("#SBATCH $1=$2"); shift 2 ;;
        --*) fail "unknown option $1 (options of SCRIPT come after it; --help lists those before)" ;;
        *) break ;;
    esac
done
[ $# -gt 0 ] || fail "name the script to run, for example scripts/vast/finetune_ret.sh msrvtt (--help says more)"
[ -f "$1" ] || [ -f "$root/$1" ] || fail "$1: no such script"
script="$1"
if [ ! -f "$root/$script" ]; then script="$(realpath "$1")"; fi
shift
words="$(printf ' %q' "$script" "$@")"
tasks=$((gpus > 0 ? gpus : 1))
name="$(basename "$script" .sh)"
if [ $# -gt 0 ] && [[ "$1" != -* ]]; then name="$name-$1"; fi

# Tasks are started by srun rather than torchrun, which would keep SLURM's signals from them.
job() {
    cat <<JOB
#!/usr/bin/env bash
#SBATCH --job-name=$name
#SBATCH --nodes=$nodes
#SBATCH --ntasks-per-node=$tasks
#SBATCH --cpus-per-task=$cpus
JOB
    if [ "$gpus" -gt 0 ]; then echo "#SBATCH --gpus-per-node=$gpus"; fi
    cat <<JOB
#SBATCH --time=$time
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=USR1@300
#SBATCH --output=output/slurm/%x-%j.log
JOB
    if [ ${#more[@]} -gt 0 ]; then printf '%s\n' "${more[@]}"; fi
    cat <<JOB
set -uo pipefail
cd $(printf '%q' "$root")
source scripts/_environment.sh
export OMNIVAST_SRUN=1 GPUS=$gpus NNODES=$nodes
MASTER_ADDR="\$(scontrol show hostnames "\$SLURM_JOB_NODELIST" | head -n 1)"
export MASTER_ADDR MASTER_PORT
for start in \$(seq 0 $max_restarts); do
    MASTER_PORT=\$((20000 + (SLURM_JOB_ID + start) % 20000)) status=0
    srun --kill-on-bad-exit=1 bash$words --resume true || status=\$?
    # 0: done. 2: bad input, which another start would meet again. 130, 138, 143: told to stop, and saved.
    case "\$status" in 0 | 2 | 130 | 138 | 143) break ;; esac
    echo "scripts/slurm.sh: start \$start ended with status \$status (75: a process hung, see its log; 137: killed)"
done
# 138: told by SIGUSR1 that its time is nearly up; 143: pre-empted; both have saved. scancel ends this script as well.
case "\$status" in 138 | 143) scontrol requeue "\$SLURM_JOB_ID" ;; esac
exit "\$status"
JOB
}

if $only_print; then
    job
    exit 0
fi
command -v sbatch >/dev/null || fail "sbatch was not found: this machine is no SLURM login node (--print shows the job)"
cd "$root"
mkdir -p output/slurm
job | sbatch
