#!/usr/bin/env bash
# Shows what a run prints.
# shellcheck source=common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

usage() {
  cat <<END
usage: logs.sh [options] [RUN_ID]
Shows the end of a run's log on worker 0, then whether the run is alive or how it ended; without RUN_ID
of the run that is alive, or else the last.
  --all        of all workers, each line with its worker's number
  --worker=N   of worker N
  --lines=N    default 50
  --follow     go on until the run ends; the exit status is then the run's
$(common_usage)
END
}

run_id='' all=0 only=0 lines=50 follow=0
while (($#)); do
  case $1 in
    --all) all=1 ;;
    --worker=*) only=${1#*=} && whole_number --worker "$only" ;;
    --lines=*) lines=${1#*=} && whole_number --lines "$lines" ;;
    --follow) follow=1 ;;
    -*) common_option "$1" ;;
    *)
      [[ -z $run_id ]] || common_option "$1"
      run_id=$1
      ;;
  esac
  shift
done
load_workers
((only < TORL_WORKERS)) || refuse "--worker=$only: there are $TORL_WORKERS workers, from 0"

prefixed() { # WORKER
  local line
  while IFS= read -r line || [[ -n $line ]]; do printf 'worker %s: %s\n' "$1" "$line"; done
}

follow_one() { # WORKER: both its outputs with its number, and its exit status
  trap - INT
  set +e # with it, the status of an eval in a pipe is 1 whatever it was
  eval "{ $(command_for "$1" "${call[@]}"); } 2>&1" | prefixed "$1"
  return "${PIPESTATUS[0]}"
}

call=(worker_logs "$run_id" "$lines" "$follow")
if ((DRY_RUN)); then
  for ((worker = all ? 0 : only; worker <= (all ? TORL_WORKERS - 1 : only); worker++)); do
    printf '%s\n' "$(command_for "$worker" "${call[@]}")"
  done
elif ((all)); then
  set +o pipefail
  for ((worker = 0; worker < TORL_WORKERS; worker++)); do
    follow_one "$worker" </dev/null &
    JOBS[worker]=$!
  done
  worst=0
  for job in "${JOBS[@]}"; do wait "$job" || worst=$?; done
  exit "$worst"
else
  set +o pipefail
  eval "$(command_for "$only" "${call[@]}")"
fi
