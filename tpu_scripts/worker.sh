# shellcheck shell=bash
# The worker's half. It is sent to `bash -s` on a worker, followed by one call of a function below,
# and by that function's stdin. Each function is safe to call twice, and says "torl: ..." when done.
#
#   ~/torl_worker/src      the code, as setup.sh has sent it; the folder in which a run works
#   ~/torl_worker/venv     its virtual environment
#   ~/torl_worker/commit   what src is: commit, digest of what was sent. Absent while it changes
#   ~/torl_runs/RUN_ID     record, pid, log, and exit when the command has ended
set -euo pipefail

PLACE=$HOME/torl_worker
RUNS=$HOME/torl_runs
BOOT=/proc/sys/kernel/random/boot_id
INSTALLED=installed

answer() { printf '\ntorl: %s\n' "$*"; }

refuse() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}

lock() { # one change at a time; the kernel lets go with the process
  mkdir -p "$PLACE" "$RUNS"
  exec 9>"$PLACE/lock"
  flock -w 60 9 || refuse "another setup or launch is at work here"
}

# ---- processes ----

process() { # PID: sets STATE, SESSION and START (ticks since boot); false where there is none
  local line='' fields
  IFS= read -r -d '' line 2>/dev/null <"/proc/$1/stat" || true
  [[ -n $line ]] || return 1
  read -ra fields <<<"${line##*) }" # its name, in brackets, may hold anything
  STATE=${fields[0]} SESSION=${fields[3]} START=${fields[19]}
}

# members RUN: MEMBERS becomes the process ids of the run's session. Its number alone proves nothing,
# since it may be another's by now: either the leader began when the record says, or a process
# carries the run's id. False where there are none.
members() {
  local leader start boot path pid ours='' found=()
  MEMBERS=()
  { read -r leader start boot <"$RUNS/$1/pid"; } 2>/dev/null || return 1
  [[ $boot == "$(<"$BOOT")" ]] || return 1
  for path in /proc/[0-9]*; do
    pid=${path#/proc/}
    process "$pid" || continue
    [[ $SESSION == "$leader" && $STATE != [ZX] ]] || continue
    found+=("$pid")
    if [[ -n $ours || $pid == "$leader" && $START == "$start" ]] ||
      grep -qzxF -- "TORL_RUN_ID=$1" "/proc/$pid/environ" 2>/dev/null; then
      ours=1
    fi
  done
  [[ -z $ours ]] || MEMBERS=("${found[@]}")
  [[ -n $ours ]]
}

alive() { # the ids of runs that are alive here
  local path run
  for path in "$RUNS"/*/pid; do
    [[ -e $path && ! -e ${path%pid}exit ]] || continue
    run=$(basename -- "$(dirname -- "$path")")
    if members "$run"; then printf '%s\n' "$run"; fi
  done
}

refuse_alive() {
  local run
  run=$(alive)
  [[ -z $run ]] || refuse "run ${run//$'\n'/, } is alive here; stop.sh ends it"
}

state() { # RUN
  if members "$1"; then
    printf 'run %s is alive' "$1"
  elif [[ -e $RUNS/$1/exit ]]; then
    printf 'run %s ended with exit status %s' "$1" "$(<"$RUNS/$1/exit")"
  else
    printf 'run %s is gone without an exit status (killed, or the host restarted)' "$1"
  fi
}

# ---- setup.sh ----

worker_setup() { # COMMIT PYTHON EXTRA PREPARE, the code as tar.gz on stdin
  local commit=$1 python=$2 extra=$3 prepare=$4 digest version
  lock
  refuse_alive
  PART=$(mktemp -d "$PLACE/part.XXXXXX")
  trap 'rm -rf -- "$PART"' EXIT
  cat >"$PART/code.tar.gz"
  mkdir "$PART/src"
  tar -xzf "$PART/code.tar.gz" -C "$PART/src" || refuse "the code has not arrived whole"
  digest=$(sha256sum <"$PART/code.tar.gz")
  rm -f "$PLACE/commit"
  replace_code
  check_python "$python" "$prepare"
  version=$("$python" -c 'import platform; print(platform.python_version())')
  make_venv "$python" "$version" "$extra"
  printf '%s %s\n' "$commit" "${digest%% *}" >"$PLACE/commit"
  answer "commit ${commit::12}${commit:40}, Python $version, packages $INSTALLED"
}

# Takes away the files that an earlier setup has brought and this one has not, then puts the new ones
# in their places. All else in src stays: a run may have written there (--workdir=runs/...).
replace_code() {
  local src=$PLACE/src name
  mkdir -p "$src"
  (cd "$PART/src" && find . ! -type d -print0 | LC_ALL=C sort -z) >"$PART/files"
  if [[ -e $PLACE/files ]]; then
    while IFS= read -r -d '' name; do
      rm -f -- "$src/$name"
      (cd "$src" && rmdir -p -- "$(dirname -- "$name")" 2>/dev/null) || true # those now empty
    done < <(LC_ALL=C comm -z -23 "$PLACE/files" "$PART/files")
  fi
  cp -- "$PART/files" "$PLACE/files" # before they are there: what is cut off here is known next time
  cp -a --remove-destination -- "$PART/src/." "$src/"
}

check_python() { # PYTHON PREPARE
  local test='import sys, ensurepip; sys.exit(sys.version_info < (3, 11))'
  if ! "$1" -c "$test" 2>/dev/null && [[ -n $2 ]]; then
    bash -c "$2" >&2 </dev/null || refuse "TORL_PREPARE has failed: $2"
  fi
  "$1" -c "$test" 2>/dev/null || refuse "no Python 3.11 or newer with venv is called $1 here \
($("$1" --version 2>&1 | tail -n 1)): set TORL_PYTHON, or TORL_PREPARE to install it"
}

make_venv() { # PYTHON VERSION EXTRA: as `make setup`, where anything has changed since the last time
  local venv=$PLACE/venv made
  cd "$PLACE/src"
  made="$2 $3 $(cat constraints.txt setup.cfg | sha256sum)"
  if [[ -e $venv/made && $(<"$venv/made") == "$made" ]]; then
    INSTALLED=unchanged
    return
  fi
  "$1" -m venv --clear "$venv" >&2
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    --constraint constraints.txt --editable ".[$3]" >&2 </dev/null
  printf '%s\n' "$made" >"$venv/made"
}

# ---- launch.sh ----

worker_check() { # RUN: may it start here? Answers what the code is
  mkdir -p "$RUNS"
  [[ -e $PLACE/commit ]] || refuse "no code here, or half of it: setup.sh"
  refuse_alive
  [[ ! -e $RUNS/$1 ]] || refuse "there has been a run $1 here; choose another --run-id"
  answer "$(<"$PLACE/commit")"
}

# RUN COMMIT SECRETS (how many bytes of them are on stdin) WORKERS COORDINATOR COMMAND...
worker_launch() {
  local run=$1 commit=$2 secrets=$3 workers=$4 coordinator=$5
  shift 5
  local folder=$RUNS/$run mask
  lock
  worker_check "$run" >/dev/null
  mask=$(umask)
  umask 077
  mkdir -- "$folder"
  head -c "$secrets" >"$folder/secrets"
  if (($(wc -c <"$folder/secrets") != secrets)); then
    rm -f -- "$folder/secrets"
    refuse "the secrets have not arrived whole"
  fi
  printf '%s\n' "run_id $run" "commit $commit" "worker $WORKER of $workers" "code $(<"$PLACE/commit")" \
    "started $(date -u +%Y-%m-%dT%H:%M:%SZ)" "log $folder/log" "command ${*@Q}" >"$folder/record"
  write_program "$folder" "$@"
  # Python begins the session, and gives back what a shell or ssh may have left ignored: without
  # SIGINT a run could not be asked to save.
  "$PLACE/venv/bin/python" -c '
import os, signal, sys
for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGPIPE, signal.SIGTERM):
    signal.signal(number, signal.SIG_DFL)
os.setsid()
os.execvp(sys.argv[1], sys.argv[1:])
' bash "$folder/program.sh" </dev/null >>"$folder/log" 2>&1 9>&- &
  await_start "$folder"
}

write_program() { # FOLDER COMMAND...: what leads the run's session
  local folder=$1
  shift
  {
    printf 'set -uo pipefail\n'
    declare -p PLACE RUNS BOOT
    declare -f process members supervise read_secrets end_rest
    printf 'export TORL_RUN_ID=%q TORL_COMMIT=%q\n' "$run" "$commit"
    if [[ -n $coordinator ]]; then
      printf 'export TORL_COORDINATOR=%q TORL_PROCESS_COUNT=%q TORL_PROCESS_ID=%q\n' \
        "$coordinator" "$workers" "$WORKER"
    fi
    printf 'umask %s\n' "$mask" # what the run writes elsewhere is not for us to hide
    printf 'supervise %q %q %s\n' "$run" "$folder" "${*@Q}"
  } >"$folder/program.sh"
}

supervise() { # RUN FOLDER COMMAND...: runs it, notes how it ends, leaves no process of it behind
  local run=$1 folder=$2 status=0
  shift 2
  process $$
  printf '%s %s %s\n' $$ "$START" "$(<"$BOOT")" >"$folder/pid.new"
  mv -- "$folder/pid.new" "$folder/pid"
  trap : INT TERM HUP # they are for the command, in the same group
  read_secrets "$folder/secrets"
  cd -- "$PLACE/src" || exit
  export PATH=$PLACE/venv/bin:$PATH PYTHONUNBUFFERED=1
  env -- "$@" || status=$?
  end_rest "$run"
  printf '%s\n' "$status" >"$folder/exit.new"
  mv -- "$folder/exit.new" "$folder/exit"
}

read_secrets() { # FILE: into the environment; the file goes
  local line
  while IFS= read -r line || [[ -n $line ]]; do
    [[ $line =~ ^[A-Za-z_][A-Za-z0-9_]*= ]] && export "${line?}"
  done <"$1"
  rm -f -- "$1"
}

end_rest() { # RUN: a process that is left would hold the chips: the next run could not have them
  local round pid rest
  for round in TERM TERM TERM TERM TERM TERM KILL KILL KILL KILL KILL KILL; do
    members "$1"
    rest=()
    for pid in "${MEMBERS[@]}"; do ((pid == $$)) || rest+=("$pid"); done
    ((${#rest[@]})) || return 0
    kill -"$round" -- "${rest[@]}" 2>/dev/null
    sleep 0.5
  done
}

await_start() { # FOLDER: answers when the command runs, or has ended well
  local tries
  for ((tries = 0; tries < 300; tries++)); do
    [[ ! -e $1/pid ]] || break
    sleep 0.1
  done
  if [[ ! -e $1/pid ]]; then
    rm -f -- "$1/secrets"
    refuse "nothing has started within 30 s; see $1/log"
  fi
  # A slip in the command shows at once.
  for ((tries = 0; tries < 30; tries++)); do
    [[ ! -e $1/exit ]] || break
    sleep 0.1
  done
  if [[ -e $1/exit && $(<"$1/exit") != 0 ]]; then
    refuse "the command ended at once with exit status $(<"$1/exit"): $(tail -n 1 "$1/log")"
  fi
  answer "started, process $(cut -d ' ' -f 1 "$1/pid"), log $1/log"
}

# ---- logs.sh and stop.sh ----

newest() { # the run that is alive, or the last that was started; nothing where there is none
  local runs
  runs=$(alive)
  [[ -n $runs ]] || runs=$(cd "$RUNS" 2>/dev/null && find . -mindepth 2 -maxdepth 2 -name record \
    -printf '%T@ %h\n' | sort -n | tail -n 1 | cut -d / -f 2-) || true
  printf '%s' "${runs%%$'\n'*}"
}

worker_logs() { # RUN ('' is the newest) LINES FOLLOW: following, ends with the run, and as it did
  local run=${1:-$(newest)} leader='' log
  [[ -n $run && -e $RUNS/$run/log ]] || refuse "no log of ${run:-any run} here"
  log=$RUNS/$run/log
  if (($3)) && members "$run"; then
    leader=$(cut -d ' ' -f 1 "$RUNS/$run/pid")
    tail -n "$2" --pid="$leader" -f -- "$log"
  else
    tail -n "$2" -- "$log"
  fi
  printf '%s\n' "$(state "$run")" >&2
  if (($3)) && ! members "$run"; then
    exit "$(cat "$RUNS/$run/exit" 2>/dev/null || printf 1)"
  fi
}

# RUN ('' is the one alive) SAVE TERM: SIGINT, on which the trainer saves and ends; after SAVE
# seconds SIGTERM, after TERM more SIGKILL.
worker_stop() {
  local run=${1:-$(alive)} signal seconds leader
  if [[ -z $run || ! -e $RUNS/$run/record ]]; then
    answer "no run${run:+ $run} here"
    return
  fi
  if members "$run"; then
    leader=$(cut -d ' ' -f 1 "$RUNS/$run/pid")
    for signal in INT TERM KILL KILL; do
      case $signal in INT) seconds=$2 ;; TERM) seconds=$3 ;; KILL) seconds=10 ;; esac
      signal_run "$run" "$signal" "$leader"
      if await_end "$run" "$seconds"; then break; fi
    done
  fi
  if members "$run"; then refuse "run $run does not end; its processes: ${MEMBERS[*]}"; fi
  answer "$(state "$run")"
}

# INT and TERM go to the group once, as Ctrl-C does: for the trainer a second one means "at once".
# KILL spares the leader while there are others: by it they are known, and it notes their end.
signal_run() { # RUN SIGNAL LEADER
  local pid rest=()
  members "$1" || return 0
  if [[ $2 != KILL ]] && kill -"$2" -- -"$3" 2>/dev/null; then return; fi
  for pid in "${MEMBERS[@]}"; do ((pid == $3)) || rest+=("$pid"); done
  ((${#rest[@]})) || rest=("$3")
  kill -"$2" -- "${rest[@]}" 2>/dev/null || true
}

await_end() { # RUN SECONDS: true when it has ended
  local until=$((SECONDS + $2))
  while members "$1"; do
    ((SECONDS < until)) || return 1
    sleep 0.3
  done
}
