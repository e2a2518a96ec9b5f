#!/bin/bash
# A real SLURM cluster on this machine, on the loopback address alone, for tests:
# munged, slurmctld, and two nodes (two slurmd).
#   start.sh FOLDER    everything it writes is in FOLDER: new, or one that holds a stopped cluster;
#                      a short path (sockets), with folders above it that all may enter (munged)
# Then `. FOLDER/env` gives SLURM_CONF, all that sbatch, srun, squeue and scontrol need.
# Needs Debian's slurmctld, slurmd, slurm-client and munge; root or not; no systemd, no cgroups,
# no database, nothing in /etc. stop.sh ends exactly the processes that FOLDER/pids lists.
set -eu
ROOT=${1:?which FOLDER?}
GRACE=${GRACE:-20}               # seconds between the warning of a preempted job and its end, in
                                 # the partition kill-shared; kill-exclusive gives none
SEND_SIGNAL=${SEND_SIGNAL:-}     # not empty: a preemption sends what `sbatch --signal` asks for
KILL_WAIT=${KILL_WAIT:-10}       # seconds between SIGTERM and SIGKILL (30 by SLURM's own default)
REQUEUE_WAIT=${REQUEUE_WAIT:-5}  # seconds until a requeued job starts again (120, too)
CPUS=${CPUS:-8}                  # that a node says it has, so that small jobs fit side by side
PORT=${PORT:-}                   # of slurmctld; the nodes take the next two; by default free ones
HOST=$(hostname -s)              # slurmctld refuses to run when no SlurmctldHost is this name
ME=$(id -un)

PATH=$PATH:/usr/sbin
for tool in munged slurmctld slurmd sbatch; do
  command -v $tool >/dev/null && continue
  echo "not installed: $tool (apt-get install slurmctld slurmd slurm-client munge)" >&2
  exit 2
done
if [ -s "$ROOT/pids" ]; then echo "a cluster runs in $ROOT: stop it first" >&2; exit 1; fi
if [ -d "$ROOT" ] && [ -n "$(ls -A "$ROOT")" ] && [ ! -e "$ROOT/slurm.conf" ]; then
  echo "$ROOT is neither empty nor of a stopped cluster" >&2
  exit 1
fi
ROOT=$(realpath -m "$ROOT")
rm -rf "${ROOT:?}"/*
mkdir -p "$ROOT"/{munge,state,spool/n1,spool/n2,log,gpu}
chmod 755 "$ROOT" "$ROOT/munge"  # munged wants its socket's folder open to all
chmod 700 "$ROOT/state"

answers() { (: < "/dev/tcp/127.0.0.1/$1") 2>/dev/null; }
while [ -z "$PORT" ]; do  # below the range that the system gives to those who name no port
  PORT=$((20000 + 3*((RANDOM*32768 + RANDOM) % 4000)))
  for port in $PORT $((PORT + 1)) $((PORT + 2)); do if answers $port; then PORT=; break; fi; done
done

# A key and a socket of our own: the system's munge, if there is one, is left alone.
( umask 077; head -c 128 /dev/urandom > "$ROOT/munge/key" )

cat > "$ROOT/slurm.conf" <<CONF
ClusterName=test
SlurmctldHost=$HOST(127.0.0.1)
SlurmUser=$ME
SlurmdUser=$ME
AuthType=auth/munge
# cred_expire is also how long a requeued job waits before it starts again
AuthInfo=socket=$ROOT/munge/socket,cred_expire=$REQUEUE_WAIT
CredType=cred/munge
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
SlurmctldPort=$PORT
SlurmctldPidFile=$ROOT/slurmctld.pid
SlurmctldLogFile=$ROOT/log/slurmctld.log
${SEND_SIGNAL:+SlurmctldParameters=preempt_send_user_signal}
StateSaveLocation=$ROOT/state
SlurmdPidFile=$ROOT/slurmd-%n.pid
SlurmdLogFile=$ROOT/log/slurmd-%n.log
SlurmdSpoolDir=$ROOT/spool/%n
SlurmdParameters=config_overrides
# no cgroups, no accounting
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/filetxt
JobCompLoc=$ROOT/log/jobcomp.txt
MpiDefault=none
# scheduling, quick for tests
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,bf_interval=2,batch_sched_delay=1
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
EnforcePartLimits=ALL
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
KillWait=$KILL_WAIT
ReturnToService=2
MinJobAge=3600
MaxArraySize=1001
MailProg=/bin/true
GresTypes=gpu
DefMemPerNode=512
NodeName=n[1-2] NodeHostname=$HOST NodeAddr=127.0.0.1 Port=[$((PORT + 1))-$((PORT + 2))] CPUs=$CPUS RealMemory=64000 Gres=gpu:NV-A30:2,gpu:NV-V100-SXM2:2,gpu:nvidia_h200_nvl:2 State=UNKNOWN
PartitionName=DEFAULT Nodes=n[1-2] DefaultTime=1 MaxTime=3-00:00:00 PriorityTier=10 PreemptMode=OFF
PartitionName=sandbox Default=YES MaxTime=4:00:00
PartitionName=shared MaxNodes=1
PartitionName=gpu MaxNodes=1
PartitionName=kill-shared MaxNodes=1 PriorityTier=1 PreemptMode=REQUEUE GraceTime=$GRACE
PartitionName=kill-exclusive PriorityTier=1 PreemptMode=REQUEUE GraceTime=0
CONF

# Pretended GPUs: each needs a device file (a node that names none reports 0 GPUs and is drained);
# it is never opened.
for i in 0 1 2 3 4 5; do ln -s /dev/null "$ROOT/gpu/$i"; done
cat > "$ROOT/gres.conf" <<CONF
AutoDetect=off
Name=gpu Type=NV-A30 File=$ROOT/gpu/[0-1]
Name=gpu Type=NV-V100-SXM2 File=$ROOT/gpu/[2-3]
Name=gpu Type=nvidia_h200_nvl File=$ROOT/gpu/[4-5]
CONF

echo "export SLURM_CONF=$ROOT/slurm.conf" > "$ROOT/env"
. "$ROOT/env"

start() {  # name command...: in the background, in a session of its own, its id noted
  local name=$1; shift
  setsid nohup "$@" </dev/null >"$ROOT/log/$name.out" 2>&1 &
  last=$!
  echo "$last $name" >> "$ROOT/pids"
}
fail() {
  echo "$1" >&2
  tail -n 20 "$ROOT"/log/* >&2
  "$(dirname "$0")/stop.sh" "$ROOT" >&2 || true
  exit 1
}
wait_for() {  # seconds what command...
  local end=$((SECONDS + $1)) what=$2; shift 2
  until "$@" >/dev/null 2>&1; do
    kill -0 $last 2>/dev/null && [ $SECONDS -lt $end ] || fail "$what did not start"
    sleep .1
  done
}
nodes_up() { [ "$(sinfo -h -N -p sandbox -t idle -o %N | sort -u | wc -l)" = 2 ]; }

start munged munged --foreground --key-file="$ROOT/munge/key" --socket="$ROOT/munge/socket" \
  --pid-file="$ROOT/munge/pid" --log-file="$ROOT/log/munged.log" --seed-file="$ROOT/munge/seed" \
  --num-threads=2
wait_for 20 munged test -S "$ROOT/munge/socket"
start slurmctld slurmctld -D -i
wait_for 30 slurmctld scontrol ping
for node in n1 n2; do start slurmd-$node slurmd -D -N $node; done
wait_for 30 'the nodes' nodes_up
echo "SLURM $(slurmctld -V | cut -d' ' -f2) is up after $SECONDS s:  . $ROOT/env"
