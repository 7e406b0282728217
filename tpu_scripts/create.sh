#!/usr/bin/env bash
# Asks for a TPU slice and waits until it is there.
# shellcheck source=common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

usage() {
  cat <<END
usage: create.sh [options]
Asks for the TPU slice of the env file as a queued resource, and waits until it is ACTIVE.
Called again, it goes on waiting; Ctrl-C only ends the waiting.
  --poll=SECONDS   how often to look; default 30
$(common_usage)
END
}

poll=30
while (($#)); do
  case $1 in
    --poll=*) poll=${1#*=} && whole_number --poll "$poll" ;;
    *) common_option "$1" ;;
  esac
  shift
done
load_env
need TORL_NAME TORL_PROJECT TORL_ZONE TORL_ACCELERATOR TORL_RUNTIME TORL_WORKERS

where=(--project="$TORL_PROJECT" --zone="$TORL_ZONE" --quiet)
resources=(gcloud compute tpus queued-resources)
describe=("${resources[@]}" describe "$TORL_NAME" "${where[@]}" --format='value(state.state)')
hosts=(gcloud compute tpus tpu-vm describe "$TORL_NAME" "${where[@]}"
  --format='value(networkEndpoints.len())')
read -ra flags <<<"${TORL_CREATE_FLAGS:-}"
case $TORL_TIER in
  on-demand) ;;
  spot | reserved) flags+=(--"$TORL_TIER") ;;
  *) refuse "TORL_TIER=$TORL_TIER in $ENV_FILE: on-demand, spot or reserved expected" ;;
esac
create=("${resources[@]}" create "$TORL_NAME" --node-id="$TORL_NAME" "${where[@]}"
  --accelerator-type="$TORL_ACCELERATOR" --runtime-version="$TORL_RUNTIME" "${flags[@]}")

if ((DRY_RUN)); then
  run "${create[@]}"
  run "${describe[@]}"
  run "${hosts[@]}"
  exit
fi

if state=$("${describe[@]}" 2>/dev/null) && [[ -n $state ]]; then
  say "$TORL_NAME is there already"
else
  "${create[@]}" >&2 || fail "$TORL_NAME could not be asked for (see above)"
fi

said=
while true; do
  state=$("${describe[@]}") || fail "the state of $TORL_NAME could not be read (see above)"
  if [[ $state != "$said" ]]; then
    said=$state
    say "$(date +%H:%M:%S) $TORL_NAME: $state"
  fi
  case $state in
    ACTIVE) break ;;
    FAILED | DELETING | SUSPENDING | SUSPENDED)
      fail "$TORL_NAME is $state and will not come back: delete.sh, then create.sh"
      ;;
  esac
  sleep "$poll"
done

count=$("${hosts[@]}") || fail "the hosts of $TORL_NAME could not be counted (see above)"
((count == TORL_WORKERS)) ||
  refuse "$TORL_NAME has $count hosts, but TORL_WORKERS=$TORL_WORKERS in $ENV_FILE"
