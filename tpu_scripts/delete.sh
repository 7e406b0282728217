#!/usr/bin/env bash
# Gives a TPU slice back.
# shellcheck source=common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

usage() {
  cat <<END
usage: delete.sh [options]
Deletes the queued resource and the node named in the env file, with the disks of its hosts.
  --yes        do not ask
$(common_usage)
END
}

yes=0
while (($#)); do
  case $1 in
    --yes) yes=1 ;;
    *) common_option "$1" ;;
  esac
  shift
done
load_env
need TORL_NAME TORL_PROJECT TORL_ZONE

if ((!yes && !DRY_RUN)); then
  printf 'Delete %s in %s of project %s, with all that is on its hosts? Type its name: ' \
    "$TORL_NAME" "$TORL_ZONE" "$TORL_PROJECT" >&2
  read -r name || true
  [[ ${name:-} == "$TORL_NAME" ]] || fail "not confirmed; nothing is deleted"
fi
run gcloud compute tpus queued-resources delete "$TORL_NAME" \
  --project="$TORL_PROJECT" --zone="$TORL_ZONE" --force --quiet
