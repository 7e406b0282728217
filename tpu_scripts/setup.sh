#!/usr/bin/env bash
# Brings the code and a virtual environment to every worker.
# shellcheck source=common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

usage() {
  cat <<END
usage: setup.sh [options]
Sends this checkout's last commit to every worker and makes a virtual environment there from
constraints.txt. Safe to repeat: packages are left alone where nothing has changed. Refused where
a run is alive.
  --working-tree   send the files as they are, uncommitted and untracked ones too
$(common_usage)
END
}

tree=commit
while (($#)); do
  case $1 in
    --working-tree) tree=working ;;
    *) common_option "$1" ;;
  esac
  shift
done
load_workers

repo=$(quoted "$REPO")
commit=$(checkout_commit)
changes=$(checkout_changes)
if [[ $tree == working ]]; then
  # A tree object by way of an index of its own: the user's stays as it is.
  write="CODE=\$(GIT_INDEX_FILE=\$(mktemp -u) && export GIT_INDEX_FILE && \
git -C $repo read-tree HEAD && git -C $repo add --all && git -C $repo write-tree && \
rm -- \"\$GIT_INDEX_FILE\")"
  if ((DRY_RUN)); then printf '%s\n' "$write"; else eval "$write"; fi
  PAYLOAD="git -C $repo archive --format=tar.gz \"\$CODE\""
  [[ -z $changes ]] || commit+=-dirty
else
  [[ -z $changes ]] || say "uncommitted changes stay here; --working-tree sends them"
  PAYLOAD="git -C $repo archive --format=tar.gz $commit"
fi
on_workers worker_setup "$commit" "$TORL_PYTHON" "$TORL_EXTRA" "${TORL_PREPARE:-}"
