#!/usr/bin/env bash
# Starts one command on all workers.
# shellcheck source=common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

usage() {
  cat <<END
usage: launch.sh [options] -- COMMAND...
Starts COMMAND on every worker, in the code that setup.sh has sent and with its Python, and leaves
it running. All start or none: refused where a run is alive or the workers' code is not this
checkout's commit. Prints the run's id. The command finds TORL_RUN_ID and TORL_COMMIT in its environment.
  --run-id=ID      default: the time and a random number
  --allow-dirty    although there are uncommitted changes; what runs is what setup.sh has sent
$(common_usage)
Example: launch.sh -- python -m torl_jax.train --distributed --config=configs/torl_7b.py
             --workdir=gs://my-bucket/torl_7b
END
}

run_id=$(date -u +%Y%m%d-%H%M%S)-$(printf '%04x' "$RANDOM")
allow_dirty=0
while (($#)); do
  case $1 in
    --run-id=*) run_id=${1#*=} ;;
    --allow-dirty) allow_dirty=1 ;;
    --) shift && break ;;
    *) common_option "$1" ;;
  esac
  shift
done
(($#)) || refuse "no command: launch.sh [options] -- COMMAND..."
[[ $run_id =~ ^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$ ]] ||
  refuse "--run-id=$run_id: letters, digits, '.', '_' and '-' expected, 64 at most"
load_workers

# ---- secrets ----

check_secrets() { # COMMAND...: the file is private and can be read; the command holds none of it
  local file=$TORL_SECRETS line value number=0 word others
  [[ -f $file && -r $file ]] || refuse "TORL_SECRETS=$file in $ENV_FILE: no such file"
  others=(-perm -040 -o -perm -020 -o -perm -010 -o -perm -004 -o -perm -002 -o -perm -001)
  [[ -z $(find -L "$file" -prune \( "${others[@]}" \)) ]] || refuse "others may read $file: chmod 600"
  while IFS= read -r line || [[ -n $line ]]; do
    number=$((number + 1))
    [[ -n $line && $line != '#'* ]] || continue
    [[ $line =~ ^[A-Za-z_][A-Za-z0-9_]*=. ]] || refuse "$file, line $number: NAME=VALUE expected"
    value=${line#*=}
    for word; do
      [[ ${#value} -lt 8 || $word != *"$value"* ]] ||
        refuse "the command holds the value of ${line%%=*}, a secret; the process finds it in its environment"
    done
  done <"$file"
}

secrets=0
if [[ -n ${TORL_SECRETS:-} ]]; then
  check_secrets "$@"
  secrets=$(($(wc -c <"$TORL_SECRETS")))
fi
for word; do
  [[ ! $word =~ ^(HF_TOKEN|WANDB_API_KEY|SANDBOX_TOKEN)= ]] ||
    refuse "${word%%=*} stands in the command, which is recorded; put it into TORL_SECRETS ($ENV_FILE)"
done

# ---- the commit ----

commit=$(checkout_commit)
changes=$(checkout_changes)
dirty=${changes:+-dirty}
if [[ -n $dirty ]] && ((!allow_dirty)); then
  refuse "uncommitted changes in $REPO: commit them and run setup.sh, or --allow-dirty"
fi

same_code() { # from the workers' answers: "COMMIT DIGEST"
  local worker sent
  for ((worker = 0; worker < TORL_WORKERS; worker++)); do
    sent=${ANSWERS[worker]}
    [[ $sent == "${ANSWERS[0]}" ]] ||
      fail "worker $worker has other code than worker 0 ($sent; ${ANSWERS[0]}): setup.sh"
  done
  sent=${sent%% *}
  [[ ${sent%-dirty} == "$commit" ]] ||
    fail "the workers have commit ${sent::12}, this checkout is at ${commit::12}: setup.sh"
  if [[ $sent == *-dirty ]]; then
    dirty=-dirty
    ((allow_dirty)) || refuse "the workers have uncommitted changes of setup.sh: --allow-dirty"
  fi
}

# ---- all or none ----

QUIET=1
on_workers worker_check "$run_id" || fail "nothing is started"
((DRY_RUN)) || same_code

QUIET=0
if ((secrets)); then PAYLOAD="cat $(quoted "$TORL_SECRETS")"; fi
launch=(worker_launch "$run_id" "$commit$dirty" "$secrets" "$TORL_WORKERS" "${TORL_COORDINATOR:-}")
if ! on_workers "${launch[@]}" "$@"; then
  PAYLOAD=
  say "ending it where it has started"
  on_workers worker_stop "$run_id" 30 10 || true
  fail "run $run_id is not started"
fi
if ((!DRY_RUN)); then
  say "run $run_id on $TORL_WORKERS workers, commit $commit$dirty; next: logs.sh --follow, stop.sh"
  printf '%s\n' "$run_id"
fi
