"""A cluster of one node of one's own: SLURM's daemons as they are, on free ports, without anything in /etc."""

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

DAEMONS = ("munged", "slurmctld", "slurmd")
SYSTEM = "/usr/sbin:/sbin"  # where daemons are, not on every PATH

CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CryptoType=crypto/munge
AuthInfo=socket={home}/munge.socket,cred_expire=5
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
StateSaveLocation={home}/state
SlurmdSpoolDir={home}/spool
SlurmctldPidFile={home}/slurmctld.pid
SlurmdPidFile={home}/slurmd.pid
SlurmctldLogFile={home}/slurmctld.log
SlurmdLogFile={home}/slurmd.log
SlurmdParameters=config_overrides
SlurmctldParameters=preempt_send_user_signal
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
ReturnToService=2
SchedulerParameters=bf_interval=1,sched_interval=1,batch_sched_delay=0,sched_min_interval=2
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
NodeName=localhost NodeHostname={host} NodeAddr=127.0.0.1 CPUs=8 State=UNKNOWN
PartitionName=main Nodes=localhost Default=YES State=UP GraceTime=20 PriorityTier=1
PartitionName=high Nodes=localhost State=UP PriorityTier=10
"""

# Accounting needs a database; whoever asks for it is told of the queue, which remembers for a while.
SACCT = "#!/bin/sh\necho 'JobID|State|NodeList'\nexec squeue -a -r -h -t all -o '%i|%T|%N'\n"


def installed() -> bool:
    """Whether the daemons are on this machine."""
    return all(shutil.which(name, path=f"{os.environ['PATH']}:{SYSTEM}") for name in (*DAEMONS, "sbatch"))


@contextlib.contextmanager
def cluster(home: Path) -> Iterator[dict[str, str]]:
    """Yields the environment in which ``sbatch`` and the like reach it."""
    environment = _prepared(home)
    quiet = {"env": environment, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    started = [
        subprocess.Popen(
            ["munged", "-F", f"--socket={home}/munge.socket", f"--key-file={home}/munge.key",
             f"--pid-file={home}/munged.pid", f"--seed-file={home}/munged.seed", f"--log-file={home}/munged.log",
             "--force"],
            **quiet,
        )
    ]  # fmt: skip
    try:
        _until(lambda: (home / "munge.socket").exists())
        started += [subprocess.Popen([name, "-D"], **quiet) for name in ("slurmctld", "slurmd")]
        _until(lambda: "idle" in told(environment, "sinfo", "-h", "-o", "%T"))
        yield environment
    finally:
        told(environment, "scancel", f"--user={_user()}")
        with contextlib.suppress(TimeoutError):
            _until(lambda: not told(environment, "squeue", "-h"))
        for process in reversed(started):
            process.terminate()
        for process in started:
            process.wait(timeout=120)


def told(environment: dict[str, str], *command: str) -> str:
    """Output of a command in the environment of the cluster."""
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120).stdout


def _prepared(home: Path) -> dict[str, str]:
    """Its files; the environment."""
    for name in ("state", "spool", "bin"):
        (home / name).mkdir(parents=True)
    home.chmod(0o755)
    key = home / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o600)
    (home / "bin" / "sacct").write_text(SACCT)
    (home / "bin" / "sacct").chmod(0o755)
    text = CONFIGURATION.format(home=home, host=socket.gethostname().split(".")[0], user=_user(), ports=_free_ports(2))
    (home / "slurm.conf").write_text(text)
    path = f"{home / 'bin'}:{os.environ['PATH']}:{SYSTEM}"
    return os.environ | {"SLURM_CONF": str(home / "slurm.conf"), "PATH": path}


def _user() -> str:
    import pwd

    return pwd.getpwuid(os.getuid()).pw_name


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _until(condition, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError("the cluster did not come up")
        time.sleep(0.1)
