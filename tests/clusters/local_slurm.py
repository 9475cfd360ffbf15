"""A SLURM of one node on this machine's loopback, started and stopped by its user."""

import contextlib
import importlib.util
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.clusters.services import free_ports, service, wait_for

DAEMONS = ("munged", "slurmctld", "slurmd")
CONFIG = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=5
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
ReturnToService=2
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
KillWait=2
MinJobAge=3600
SchedulerParameters=sched_interval=2,batch_sched_delay=0
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory={memory} State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=60 PriorityTier=1 GraceTime=2 State=UP
PartitionName=urgent Nodes={host} Default=NO MaxTime=60 PriorityTier=2 State=UP
"""


def what_is_missing() -> str | None:
    """Why SLURM cannot be started here, or None where it can."""
    if os.name != "posix" or os.geteuid() != 0:
        return "only root can start SLURM's daemons"
    if importlib.util.find_spec("submitit") is None:
        return "no submitit here: pip install -e '.[slurm]'"
    missing = [daemon for daemon in DAEMONS if not _find(daemon)]
    return f"no {', '.join(missing)} here: apt-get install slurm-wlm munge" if missing else None


def _find(daemon: str) -> str:
    # Debian's lie outside an ordinary PATH.
    return shutil.which(daemon, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") or ""


@contextlib.contextmanager
def running(folder: Path, cpus: int = 2) -> Iterator[dict[str, str]]:
    """SLURM with so many CPUs; yields the environment in which its commands find it.

    The folder must be one that user ``munge`` may enter.
    """
    host = socket.gethostname().partition(".")[0]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20
    for name in ("munge", "state", "spool"):
        (folder / name).mkdir(parents=True)
    folder.chmod(0o755)
    key = folder / "munge" / "key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o600)
    for path in (folder / "munge", key):
        shutil.chown(path, "munge", "munge")
    (folder / "munge").chmod(0o755)
    config = folder / "slurm.conf"
    config.write_text(CONFIG.format(host=host, folder=folder, cpus=cpus, memory=memory, ports=free_ports(2)))
    (folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
    munge = [
        f"--key-file={key}",
        *(f"--{what}-file={folder}/munge/{what}" for what in ("pid", "seed", "log")),
        f"--socket={folder}/munge/socket",
    ]
    environment = os.environ | {"SLURM_CONF": str(config)}
    with contextlib.ExitStack() as started:
        started.enter_context(service([_find("munged"), "--foreground", *munge], folder, user="munge"))
        wait_for((folder / "munge" / "socket").exists, "munged is ready", folder)
        for daemon in ("slurmctld", "slurmd"):
            started.enter_context(service([_find(daemon), "-D", "-f", str(config)], folder))

        def idle() -> bool:
            words = ["sinfo", "--noheader", "--format=%T"]
            shown = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=30)
            return "idle" in shown.stdout

        wait_for(idle, "slurmctld and slurmd are ready", folder)
        yield environment
