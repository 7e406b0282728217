#!/usr/bin/env bash
# Ends a run on all workers.
# shellcheck source=common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

usage() {
  cat <<END
usage: stop.sh [options] [RUN_ID]
Ends a run on every worker; without RUN_ID the one that is alive. First SIGINT: the trainer saves and
ends. What has not ended after SECONDS gets SIGTERM, then SIGKILL. Only the run's own session of
processes is touched: number and start time are those recorded.
  --save=SECONDS   time after SIGINT; default 900
  --term=SECONDS   time after SIGTERM; default 30
$(common_usage)
END
}

run_id='' save=900 term=30
while (($#)); do
  case $1 in
    --save=*) save=${1#*=} && whole_number --save "$save" ;;
    --term=*) term=${1#*=} && whole_number --term "$term" ;;
    -*) common_option "$1" ;;
    *)
      [[ -z $run_id ]] || common_option "$1"
      run_id=$1
      ;;
  esac
  shift
done
load_workers
((DRY_RUN)) || say "asked to save and end; at most $save s, then $term s to end without saving"
on_workers worker_stop "$run_id" "$save" "$term" || fail "not ended everywhere"
((!DRY_RUN)) || exit 0
for answer in "${ANSWERS[@]}"; do [[ $answer == "no run"* ]] || exit 0; done
fail "no run${run_id:+ $run_id} on any worker"
