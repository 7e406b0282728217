# shellcheck shell=bash
# Sourced by the scripts beside it: options, the env file, and one call on all workers at once.
set -euo pipefail

HERE=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
REPO=$(dirname -- "$HERE")
ENV_FILE=$HERE/env
DRY_RUN=0
VARIABLES=(TORL_NAME TORL_PROJECT TORL_ZONE TORL_ACCELERATOR TORL_RUNTIME TORL_WORKERS TORL_TIER
  TORL_CREATE_FLAGS TORL_SSH_FLAGS TORL_PYTHON TORL_PREPARE TORL_EXTRA TORL_SECRETS TORL_REMOTE
  TORL_HOSTS TORL_COORDINATOR)
say() { printf '%s\n' "$*" >&2; }

fail() { # what went wrong out there
  say "error: $*"
  exit 1
}

refuse() { # what the user has to mend
  say "error: $*"
  exit 2
}

if ((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] < 404)); then
  refuse "bash $BASH_VERSION found, 4.4 or newer needed"
fi

common_usage() {
  cat <<END
  --env=FILE   the variables; default: tpu_scripts/env
  --dry-run    print every command and run none
  --help
END
}

common_option() { # takes an option that every script has, and no other
  case $1 in
    --help | -h) usage && exit 0 ;;
    --dry-run) DRY_RUN=1 ;;
    --env=*) ENV_FILE=${1#*=} ;;
    -*) refuse "unknown option $1; see --help" ;;
    *) refuse "unexpected argument $1; see --help" ;;
  esac
}

whole_number() { # OPTION VALUE
  [[ $2 =~ ^(0|[1-9][0-9]{0,8})$ ]] || refuse "$1=$2: a whole number expected"
}

quoted() { # WORD...: as bash would read them again
  local word words=()
  for word; do
    if [[ $word =~ ^[A-Za-z0-9_./:=@%+,-]+$ ]]; then words+=("$word"); else words+=("${word@Q}"); fi
  done
  printf '%s' "${words[*]}"
}

run() { # COMMAND...: runs it, or prints it
  if ((DRY_RUN)); then printf '%s\n' "$(quoted "$@")"; else "$@"; fi
}

# ---- the env file ----

load_env() { # reads the env file
  [[ -f $ENV_FILE && -r $ENV_FILE ]] ||
    refuse "no file $ENV_FILE: cp $HERE/env.example $ENV_FILE, and edit it"
  local name
  # What the shell happens to export must not stand in for a line that is missing.
  for name in "${!TORL_@}"; do unset "$name"; done
  # shellcheck source=env.example
  source "$ENV_FILE"
  for name in "${!TORL_@}"; do
    [[ " ${VARIABLES[*]} " == *" $name "* ]] ||
      refuse "unknown variable $name in $ENV_FILE; known: ${VARIABLES[*]}"
  done
  TORL_REMOTE=${TORL_REMOTE:-gcloud} TORL_TIER=${TORL_TIER:-on-demand}
  TORL_PYTHON=${TORL_PYTHON:-python3} TORL_EXTRA=${TORL_EXTRA:-tpu}
}

need() { # NAME...
  local name
  for name; do [[ -n ${!name:-} ]] || refuse "$name is not set in $ENV_FILE"; done
}

load_workers() { # the env file, and what is needed to reach the workers
  load_env
  read -ra SSH_FLAGS <<<"${TORL_SSH_FLAGS:-}"
  case $TORL_REMOTE in
    ssh)
      need TORL_HOSTS
      read -ra HOSTS <<<"$TORL_HOSTS"
      TORL_WORKERS=${TORL_WORKERS:-${#HOSTS[@]}}
      ((${#HOSTS[@]} == TORL_WORKERS)) ||
        refuse "TORL_WORKERS=$TORL_WORKERS, but TORL_HOSTS has ${#HOSTS[@]} hosts ($ENV_FILE)"
      ;;
    gcloud) need TORL_NAME TORL_PROJECT TORL_ZONE TORL_WORKERS ;;
    *) need TORL_WORKERS ;;
  esac
  [[ $TORL_WORKERS =~ ^[1-9][0-9]{0,3}$ ]] ||
    refuse "TORL_WORKERS=$TORL_WORKERS in $ENV_FILE: a number from 1 expected"
}

# ---- the checkout ----

checkout_commit() {
  git -C "$REPO" rev-parse --verify HEAD || refuse "$REPO is no git checkout with a commit"
}

checkout_changes() { # nothing where all is committed
  git -C "$REPO" status --porcelain
}

# ---- the workers ----

remote() { # WORKER: the command that runs its stdin by bash there
  case $TORL_REMOTE in
    gcloud)
      quoted gcloud compute tpus tpu-vm ssh "$TORL_NAME" --project="$TORL_PROJECT" \
        --zone="$TORL_ZONE" --worker="$1" --quiet --ssh-flag='-o ServerAliveInterval=30' \
        "${SSH_FLAGS[@]}" --command='bash -s'
      ;;
    ssh) quoted ssh -o BatchMode=yes -o ServerAliveInterval=30 "${SSH_FLAGS[@]}" "${HOSTS[$1]}" 'bash -s' ;;
    *) quoted "$TORL_REMOTE" "$1" 'bash -s' ;;
  esac
}

# command WORKER FUNCTION ARGUMENT...: a line of bash that calls a function of worker.sh there.
# PAYLOAD, a line of bash too, writes what the function finds on its stdin. The braces keep a call
# that arrives in part from being run; nothing of it stands on the worker's command line.
PAYLOAD=
command_for() {
  local worker=$1 call
  shift
  call="{ WORKER=$worker; $(quoted "$@"); exit; }"
  printf '{ cat %s; printf %s %s; %s} | %s' "$(quoted "$HERE/worker.sh")" "'%s\\n'" \
    "$(quoted "$call")" "${PAYLOAD:+$PAYLOAD; }" "$(remote "$worker")"
}

start_on() { # WORKER COMMAND: in the background, output into files
  # An asynchronous command ignores Ctrl-C unless told not to; without pipefail the status is the
  # remote shell's alone: it may rightly answer before it has read everything.
  (
    trap - INT
    set +o pipefail
    eval "$2"
  ) >"$SCRATCH/$1.out" 2>"$SCRATCH/$1.err" </dev/null &
  JOBS[$1]=$!
}

scratch() { # a private folder, gone with the script
  [[ -n ${SCRATCH:-} ]] && return
  SCRATCH=$(mktemp -d)
  trap 'rm -rf -- "$SCRATCH"' EXIT
  trap 'say interrupted; exit 130' INT
}

# on_workers FUNCTION ARGUMENT...: calls a function of worker.sh on all workers at the same time
# and prints a line for each (not where QUIET=1 and all is well). False where one has failed.
# A worker has done it when it says so: ANSWERS[i] is what it says. An exit status of 0 is not
# enough, since gcloud calls again after a lost connection, with a stdin that is used up.
QUIET=0
on_workers() {
  local worker status answer failed=0
  if ((DRY_RUN)); then
    for ((worker = 0; worker < TORL_WORKERS; worker++)); do
      printf '%s\n' "$(command_for "$worker" "$@")"
    done
    return
  fi
  scratch
  ANSWERS=() JOBS=()
  for ((worker = 0; worker < TORL_WORKERS; worker++)); do
    start_on "$worker" "$(command_for "$worker" "$@")"
  done
  for ((worker = 0; worker < TORL_WORKERS; worker++)); do
    status=0
    wait "${JOBS[worker]}" || status=$?
    answer=$(tail -n 1 "$SCRATCH/$worker.out")
    if ((status == 0)) && [[ $answer == 'torl: '* ]]; then
      ANSWERS[worker]=${answer#torl: }
      ((QUIET)) || say "worker $worker: ${ANSWERS[worker]}"
    else
      failed=1
      report "$worker" "$status"
    fi
  done
  return "$failed"
}

report() { # WORKER STATUS: why it has failed, in one line where the worker itself can tell
  local error
  error=$(grep '^error: ' "$SCRATCH/$1.err" | tail -n 1) || true
  if [[ -n $error ]]; then
    say "worker $1: $error"
  else
    say "worker $1: failed with exit status $2, and said:"
    tail -n 15 "$SCRATCH/$1.err" | sed "s/^/worker $1:   /" >&2
  fi
}
