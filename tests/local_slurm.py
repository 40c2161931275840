"""A Slurm on this machine: munge, a controller and two nodes of one core on the loopback, all files in one folder.

    python tests/local_slurm.py start FOLDER    prints what to export, then sbatch, squeue and scancel work
    python tests/local_slurm.py stop FOLDER

It needs root, and Debian's slurm-wlm and munge (apt-get install slurm-wlm munge). Nothing outside the folder is
written, and a Slurm or munge that runs already stays as it is. Ended by the ids in the folder's pid files.
"""

import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import psutil

DAEMONS = ("munged", "slurmctld", "slurmd")
MEMORY = 6000  # MB of each node
CONF = """\
ClusterName=loopback
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
SlurmctldPort={ports[0]}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmdLogFile={folder}/slurmd-%n.log
SlurmdSpoolDir={folder}/spool-%n
StateSaveLocation={folder}/state
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=1500
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=2
JobAcctGatherParams=OverMemoryKill
SchedulerParameters=sched_interval=2,bf_interval=2,batch_sched_delay=0
KillWait=10
MessageTimeout=10
ReturnToService=2
GresTypes=gpu
NodeName=n[1-2] NodeHostname={host} NodeAddr=127.0.0.1 Port=[{ports[1]}-{ports[2]}] CPUs=1 RealMemory={memory} \
Feature=old Gres=gpu:drawn:2
PartitionName=main Nodes=n[1-2] Default=YES MaxTime=INFINITE
JobSubmitPlugins=lua
"""
# Accounts are known to a data base; what it would say of one is said by a script here, as on many clusters.
ACCOUNTS = """\
function slurm_job_submit(job, partitions, user)
  if job.account == "theirs" then return slurm.ESLURM_INVALID_ACCOUNT end
  return slurm.SUCCESS
end
function slurm_job_modify(job, request, partitions, user) return slurm.SUCCESS end
"""
GRES = "Name=gpu Type=drawn File={folder}/gpu[0-1]\n"


def missing():
    """What has to be installed, in words, or ""."""
    absent = [name for name in (*DAEMONS, "sbatch", "squeue", "scancel") if find(name) is None]
    if absent:
        return f"no {', '.join(absent)} here; as root: apt-get install slurm-wlm munge"
    if os.geteuid() != 0:
        return "only root can start nodes that run jobs"
    return ""


def find(name):
    """The path of a program; daemons are where only root looks."""
    return shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")


def start(folder):
    """Bring it up → the variables that its commands need. Waits until both nodes are idle."""
    folder = Path(folder).resolve()
    (folder / "state").mkdir(parents=True)
    for name in ("gpu0", "gpu1"):  # Slurm wants devices; it only counts and hides them
        os.mknod(folder / name, 0o600 | stat.S_IFCHR, os.makedev(1, 3))
    facts = {"folder": folder, "host": socket.gethostname().partition(".")[0]}
    (folder / "slurm.conf").write_text(CONF.format(**facts, ports=free_ports(), memory=MEMORY))
    (folder / "gres.conf").write_text(GRES.format(**facts))
    (folder / "job_submit.lua").write_text(ACCOUNTS)
    start_munge(folder)
    start_controller(folder)
    for node in ("n1", "n2"):
        start_node(folder, node)
    wait_until(lambda: states(folder) == ["idle", "idle"], folder)
    return variables(folder)


def variables(folder):
    """What the commands of Slurm, and with them weaktr, have to find in their environment."""
    return {"SLURM_CONF": str(Path(folder).resolve() / "slurm.conf")}


def free_ports():
    """Three ports that follow each other, nobody's at the moment."""
    for first in range(21817, 32000, 10):
        with socket.socket() as one, socket.socket() as two, socket.socket() as three:
            try:
                for number, port in enumerate((one, two, three)):
                    port.bind(("127.0.0.1", first + number))
            except OSError:
                continue
            return first, first + 1, first + 2
    raise OSError("no three free ports on the loopback")


def start_munge(folder):
    """A munge of our own, with a key of our own."""
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    files = {"socket": "socket", "log-file": "log", "pid-file": "pid", "seed-file": "seed"}
    options = [f"--{option}={folder}/munge.{ending}" for option, ending in files.items()]
    run(folder, "munged", "--force", f"--key-file={key}", *options)


def start_controller(folder):
    """Also after `end(folder, "slurmctld")`: it goes on with the jobs that it knew."""
    run(folder, "slurmctld")


def start_node(folder, node, hidden=None):
    """hidden: a folder that this node does not have, in a mount name space of its own."""
    if hidden is None:
        run(folder, "slurmd", "-N", node)
    else:
        hide = f"mount -t tmpfs none {hidden} && exec {find('slurmd')} -N {node}"
        run(folder, "unshare", "--mount", "sh", "-c", hide)


def run(folder, program, *arguments):
    """A program that goes into the background by itself."""
    environment = os.environ | variables(folder)
    subprocess.run([find(program), *arguments], env=environment, check=True, timeout=60)


def states(folder):
    """The state of each node."""
    question = ["sinfo", "-h", "-N", "-p", "main", "-o", "%t"]
    asked = subprocess.run(question, capture_output=True, text=True, env=os.environ | variables(folder))
    return asked.stdout.split()


def wait_until(ready, folder, seconds=60):
    """Raises TimeoutError with the controller's last lines."""
    deadline = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > deadline:
            log = (folder / "slurmctld.log").read_text().splitlines()
            raise TimeoutError("\n".join(log[-20:]))
        time.sleep(0.2)


def end(folder, name):
    """End the daemons whose pid file begins with `name`, and wait for that."""
    found = []
    for path in Path(folder).glob(f"{name}*.pid"):
        try:
            process = psutil.Process(int(path.read_text()))
        except (ValueError, psutil.NoSuchProcess):
            continue
        process.send_signal(signal.SIGTERM)
        found.append(process)
    _, alive = psutil.wait_procs(found, timeout=20)
    for process in alive:
        process.kill()


def stop(folder):
    """End all daemons; the folder stays."""
    for name in ("slurmd-", "slurmctld", "munge"):
        end(folder, name)


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in ("start", "stop"):
        sys.exit(__doc__)
    if sys.argv[1] == "stop":
        stop(sys.argv[2])
    elif missing():
        sys.exit(missing())
    else:
        for variable, value in start(sys.argv[2]).items():
            print(f"export {variable}={value}")
