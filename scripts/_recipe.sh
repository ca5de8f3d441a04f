# Sourced by pretrain_vast.sh and the scripts in vast/, valor/, gram/ and avllm/, which say what they are for: one config, started on the processes asked for.
#   about     a sentence for --help
#   configs   path of the config files, %s standing for the benchmark or stage; without %s there is one config and no such argument
#   choices   stages in their order; unset: whatever configs are there
#   start_of  function: name → folder of the trained run to start from, empty for none
#   output_of function: name, folder it starts from → output folder

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
script="${0#"$root"/}"

list_choices() {
    local prefix="${configs%%%s*}" suffix="${configs##*%s}" file
    if [ -n "${choices:-}" ]; then
        echo "$choices"
        return
    fi
    for file in "$root/$prefix"*"$suffix"; do
        file="${file#"$root/$prefix"}"
        printf '%s ' "${file%"$suffix"}"
    done
}

usage() {
    local argument=""
    if [[ "$configs" == *%s* ]]; then argument=" NAME"; fi
    cat <<HELP
usage: bash $script$argument [options] [flags of run.py]

$about
HELP
    if [ -n "$argument" ]; then
        printf '\nNAME is one of:\n'
        list_choices | xargs | fold -s -w 96 | sed 's/^/  /'
    fi
    cat <<'HELP'

Options (or the environment variable behind each):
  --gpus N           GPUS         processes on this machine, one per GPU; default: all GPUs; 0: one process on the CPU
  --nnodes N         NNODES       machines; run the same command on each, with its own --node_rank. Default 1
  --node_rank R      NODE_RANK    number of this machine, from 0
  --master_addr A    MASTER_ADDR  name or address of machine 0
  --master_port P    MASTER_PORT  a free port on machine 0. Default 29500 (on one machine: any free port)
  --max_restarts N   MAX_RESTARTS how often torchrun starts all processes again when one dies or hangs, each time from the last
                                  checkpoint. Default 3; a lone process is not started again
  --pretrain_dir D                folder of the run to start from; "none": from the towers' own weights
  --checkpoint FILE               weights to start from, or to test, in place of the newest of that folder
  --output_dir D                  folder of checkpoints, logs and results
  --resume true                   continue from the last checkpoint in the output folder, or start where there is none
  --print                         print the command and stop
A training that gets SIGUSR1 saves and starts again from there (in a SLURM job: is queued again); SIGTERM and Ctrl-C save and stop it.
Exit status: as run.py says, 138 after SIGUSR1, 143 after SIGTERM, 130 after Ctrl-C.
Everything else goes to run.py as it is: --train_batch_size 32, --mode testing --checkpoint FILE.pt, …
(python run.py --help). On a SLURM cluster: bash scripts/slurm.sh --help
HELP
}

fail() {
    echo "$script: $1" >&2
    exit 2
}

count_gpus() {
    local ids="${CUDA_VISIBLE_DEVICES-unset}"
    if [ "$ids" = unset ]; then
        { nvidia-smi -L 2>/dev/null || true; } | grep -c '^GPU' || true
    elif [ -z "$ids" ] || [ "$ids" = -1 ]; then
        echo 0
    else
        tr ',' '\n' <<<"$ids" | grep -c .
    fi
}

number() { # name, value
    [[ "$2" =~ ^[0-9]+$ ]] || fail "$1: expected a whole number, got '$2'"
}

parse() {
    gpus="${GPUS:-}" nnodes="${NNODES:-1}" node_rank="${NODE_RANK:-}" master_addr="${MASTER_ADDR:-}" master_port="${MASTER_PORT:-}"
    max_restarts="${MAX_RESTARTS:-3}"
    name="" pretrain_dir="" output_dir="" checkpoint="" resume=false testing=false only_print=false
    flags=()
    while [ $# -gt 0 ]; do
        case "$1" in
            --*=*) set -- "${1%%=*}" "${1#*=}" "${@:2}" ;;
        esac
        case "$1" in
            -h | --help) usage; exit 0 ;;
            --print) only_print=true; shift; continue ;;
            --gpus | --nnodes | --node_rank | --master_addr | --master_port | --max_restarts | --pretrain_dir | --output_dir | --mode | \
                --checkpoint)
                [ $# -gt 1 ] || fail "$1: needs a value (--help says more)" ;;
        esac
        case "$1" in
            --gpus | --nnodes | --node_rank | --master_addr | --master_port | --max_restarts | --pretrain_dir | --output_dir | --checkpoint)
                printf -v "${1#--}" '%s' "$2"; shift 2 ;;
            --resume)
                resume=true; shift
                case "${1:-}" in true) shift ;; false) resume=false; shift ;; esac ;;
            --mode) if [ "$2" = testing ]; then testing=true; fi; flags+=("$1" "$2"); shift 2 ;;
            *)
                if [ -z "$name" ] && [ ${#flags[@]} -eq 0 ] && [[ "$1" != -* ]] && [[ "$configs" == *%s* ]]; then
                    name="$1"
                else
                    flags+=("$1")
                fi
                shift ;;
        esac
    done
}

exists() { # pattern, from the root of the repository or absolute
    (cd "$root" && compgen -G "$1" >/dev/null)
}

# The words of run.py's command line, in "words".
settle() {
    local config="$configs" named="$pretrain_dir"
    if [[ "$configs" == *%s* ]]; then
        [ -n "$name" ] || fail "name one of: $(list_choices)"
        config="${configs/\%s/$name}"
        [ -f "$root/$config" ] || fail "unknown '$name'; there are: $(list_choices)"
    fi
    pretrain_dir="${pretrain_dir:-$(start_of "$name")}"
    if [ "$pretrain_dir" = none ]; then pretrain_dir=""; fi
    output_dir="${output_dir:-$(output_of "$name" "$pretrain_dir")}"
    # Weights of its own need no other run; where there is one, it says the sizes.
    if [ -n "$checkpoint" ] && [ -z "$named" ] && ! exists "$pretrain_dir/log/hps.json"; then pretrain_dir=""; fi
    words=(--config "$config" --output_dir "$output_dir")
    if [ -n "$pretrain_dir" ]; then words+=(--pretrain_dir "$pretrain_dir"); fi
    # Nothing to continue is the start of the run: a job that is requeued always asks to resume.
    if $resume && ! $testing && exists "$output_dir/ckpt/model_step_*.pt"; then
        words+=(--resume true)
    elif [ -n "$checkpoint" ]; then
        words+=(--checkpoint "$checkpoint")
    elif [[ "$name" == *_scst ]] && exists "$pretrain_dir/ckpt/best_*.pt"; then
        words+=(--checkpoint "$(cd "$root" && compgen -G "$pretrain_dir/ckpt/best_*.pt" | head -n 1)")
    fi
    words+=(${flags[@]+"${flags[@]}"})
}

# torchrun runs the same command line again, which therefore has to ask for the last checkpoint from the first time on.
continue_after_restarts() {
    command+=(--max-restarts "$max_restarts")
    case " ${words[*]} " in *" --resume true "*) return ;; esac
    if exists "$output_dir/ckpt/model_step_*.pt"; then
        fail "$output_dir already holds a run: continue it with --resume true, or choose another --output_dir"
    fi
    words+=(--resume true)
}

# The program with its launcher, in "command".
choose_launcher() {
    gpus="${gpus:-$(count_gpus)}"
    number --gpus "$gpus"
    number --nnodes "$nnodes"
    number --max_restarts "$max_restarts"
    if [ "$gpus" -eq 0 ]; then words+=(--device cpu); fi
    if [ -n "${OMNIVAST_SRUN:-}" ] || { [ "$nnodes" -eq 1 ] && [ "$gpus" -le 1 ]; }; then
        command=(python run.py "${words[@]}")
        return
    fi
    command=(torchrun --nnodes "$nnodes" --nproc_per_node "$((gpus > 0 ? gpus : 1))")
    if [ "$nnodes" -gt 1 ]; then
        [ -n "$master_addr" ] || fail "--nnodes $nnodes needs --master_addr: the name or address of machine 0"
        [ -n "$node_rank" ] || fail "--nnodes $nnodes needs --node_rank: the number of this machine, from 0"
        # The machines meet again after a restart, which a fixed --node_rank of torchrun does not provide for.
        command+=(--rdzv-backend c10d --rdzv-endpoint "$master_addr:${master_port:-29500}" --rdzv-id "${output_dir//\//-}"
                  --rdzv-conf "is_host=$((node_rank == 0))")
    elif [ -n "$master_port" ]; then
        command+=(--rdzv-backend c10d --rdzv-endpoint "localhost:$master_port")
    else
        command+=(--standalone)
    fi
    if ! $testing && [ "$max_restarts" -gt 0 ]; then continue_after_restarts; fi
    command+=(run.py "${words[@]}")
}

# A training, started again from its last checkpoint as often as SIGUSR1 (pre-emption) has stopped it; where this script is a job of
# SLURM's, by a place in its queue. Signals are passed on: torchrun knows SIGTERM, but dies of SIGUSR1, and ends with 1 after either.
train() {
    local child="" status told preempted=USR1
    if [ "${command[0]}" = torchrun ]; then preempted=TERM; fi
    pass_on() { # number, what the program knows it as
        told="$1"
        kill -"$2" "$child" 2>/dev/null || true
    }
    trap 'pass_on 2 INT' INT
    trap 'pass_on 15 TERM' TERM
    trap 'pass_on 10 "$preempted"' USR1
    while true; do
        told="" status=0
        (trap - INT; exec "${command[@]}") &
        child=$!
        if [ -n "$told" ]; then kill -TERM "$child" 2>/dev/null || true; fi
        wait "$child" || status=$?
        while kill -0 "$child" 2>/dev/null; do # a signal ended the wait, and not the program
            status=0
            wait "$child" || status=$?
        done
        if [ -n "$told" ] && [ "$status" -eq 1 ]; then status=$((128 + told)); fi
        if [ "$status" -ne 138 ]; then exit "$status"; fi
        if [ -n "${SLURM_JOB_ID:-}" ]; then
            scontrol requeue "$SLURM_JOB_ID"
            exit "$status"
        fi
        echo "$script: stopped by SIGUSR1 and saved; starting again"
        case " ${words[*]} " in *" --resume true "*) ;; *) words+=(--resume true) command+=(--resume true) ;; esac
    done
}

parse "$@"
settle
choose_launcher
if [ "${SLURM_PROCID:-0}" -eq 0 ]; then
    printf '$'
    printf ' %q' "${command[@]}"
    printf '\n'
fi
if $only_print; then exit 0; fi
if [ -n "$pretrain_dir" ] && ! exists "$pretrain_dir/log/hps.json"; then
    fail "$pretrain_dir holds no trained run (log/hps.json and ckpt/model_step_N.pt). Name the run to start from with --pretrain_dir, \
for example the unpacked released checkpoint; --pretrain_dir none starts from the towers' own weights"
fi
cd "$root"
if [ -n "${OMNIVAST_SRUN:-}" ]; then
    # One of the tasks of scripts/slurm.sh, whose job has set up the environment.
    export RANK="$SLURM_PROCID" WORLD_SIZE="$SLURM_NTASKS" LOCAL_RANK="$SLURM_LOCALID" LOCAL_WORLD_SIZE="$((gpus > 0 ? gpus : 1))"
else
    source "$root/scripts/_environment.sh"
    # Seconds that torchrun leaves its processes to end a step and save.
    export TORCH_ELASTIC_SHUTDOWN_TIMEOUT="${TORCH_ELASTIC_SHUTDOWN_TIMEOUT:-600}"
    if ! $testing; then train; fi
fi
exec "${command[@]}"
