#!/bin/bash
# End the cluster that start.sh started: its jobs first, then its daemons, each by its id.
#   stop.sh FOLDER
set -u
ROOT=$(realpath -m "${1:?which FOLDER?}")
[ -s "$ROOT/pids" ] || { echo "nothing runs in $ROOT"; exit 0; }
. "$ROOT/env"
gone() { local p; for p in "$@"; do kill -0 "$p" 2>/dev/null && return 1; done; return 0; }
wait_gone() {
  local end=$((SECONDS + $1)); shift
  until gone "$@"; do [ $SECONDS -lt $end ] || return 1; sleep .1; done
}

# Jobs: SIGKILL, so that none lingers for KillWait; nothing may be requeued behind our back.
if timeout 5 scontrol ping >/dev/null 2>&1; then
  jobs=$(timeout 5 squeue -h -o %A | sort -u)
  for j in $jobs; do scontrol update jobid="$j" requeue=0 2>/dev/null; done
  # shellcheck disable=SC2086
  [ -z "$jobs" ] || { scancel --signal=KILL --full $jobs; scancel $jobs; } 2>/dev/null
  end=$((SECONDS + 15))
  while [ -n "$(timeout 5 squeue -h -o %A)" ] && [ $SECONDS -lt $end ]; do sleep .3; done
fi
# What the nodes started and would outlive them: slurmstepd with our SLURM_CONF.
for p in $(pgrep -x slurmstepd -u "$(id -u)"); do
  tr '\0' '\n' 2>/dev/null < /proc/"$p"/environ | grep -qx "SLURM_CONF=$SLURM_CONF" && kill -KILL "$p"
done
end_all() {  # pattern of names: SIGTERM to all of them at once, SIGKILL to who stays
  local ids='' p name
  while read -r p name; do
    # only while the id still belongs to that program
    case $name in $1)
      tr '\0' ' ' 2>/dev/null < /proc/"$p"/cmdline | grep -q "${name%%-*}" && ids="$ids $p" ;;
    esac
  done < "$ROOT/pids"
  # shellcheck disable=SC2086
  [ -z "$ids" ] || {
    kill -CONT $ids  # one that a test has stopped
    kill $ids
    wait_gone 10 $ids || { echo "SIGKILL for$ids"; kill -KILL $ids 2>/dev/null; wait_gone 5 $ids; }
  }
}
end_all 'slurm*'
end_all munged
rm -f "$ROOT/pids"
echo "stopped in $SECONDS s; the logs are in $ROOT/log"
