"""Debian's Slurm on this one machine, on loopback, for as long as a block lasts.

Root's work: packages are installed, `/etc/slurm/slurm.conf` is written (and removed at the end).
The daemons are children of this process, in the foreground, and end with it however it ends.
"""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

PACKAGES = ("munge", "slurmctld", "slurmd", "slurm-client")
# srun inside a job reads no other path, whatever SLURM_CONF says
CONF = Path("/etc/slurm/slurm.conf")
MADE_HERE = "# A test of desi-fits-to-parquet wrote this, and removes it.\n"
MUNGE_RUN = Path("/run/munge")
PATIENCE_S = 60


def why_not() -> str:
    """Say in a sentence why Slurm cannot be started here; empty where it can."""
    if os.geteuid() != 0:
        return "installing and starting Slurm is root's work, and this is not root"
    os_release = Path("/etc/os-release")
    if not (os_release.is_file() and "debian" in os_release.read_text()):
        return "Slurm is installed from Debian's packages, and this is not Debian"
    if CONF.exists() and not CONF.read_text().startswith(MADE_HERE):
        return f"{CONF} exists: this machine has a Slurm of its own"
    return ""


def install() -> None:
    """Install Debian's Slurm where it is missing.

    Raises
    ------
    subprocess.CalledProcessError
        Where a package cannot be installed; apt's own message is on stderr.
    """
    if all(shutil.which(program) for program in ("munged", "slurmctld", "slurmd", "sbatch")):
        return
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    subprocess.run(["apt-get", "update", "-qq"], check=True, env=quiet)
    subprocess.run(
        ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *PACKAGES],
        check=True, env=quiet, stdout=subprocess.DEVNULL,
    )  # fmt: skip


@contextmanager
def slurm_on_this_machine(folder: Path) -> Iterator[None]:
    """Run a Slurm of one node with all cores; its state and logs go into a folder.

    Raises
    ------
    RuntimeError
        Where a daemon does not come up within a minute; the message holds the end of its log.
    """
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True)
    with ExitStack() as stack:
        if subprocess.run(["munge", "-n"], capture_output=True, check=False).returncode:
            # not started by the package, as it is with systemd
            shutil.rmtree(MUNGE_RUN, ignore_errors=True)
            MUNGE_RUN.mkdir(mode=0o755)
            shutil.chown(MUNGE_RUN, "munge", "munge")
            stack.callback(shutil.rmtree, MUNGE_RUN, ignore_errors=True)
            as_munge = ["--reuid=munge", "--regid=munge", "--clear-groups"]  # it refuses to be root
            stack.enter_context(_daemon(folder, "munged", "--foreground", privileges=as_munge))
            _wait(folder, "munged", ["munge", "-n"])
        CONF.parent.mkdir(exist_ok=True)
        CONF.write_text(_configuration(folder))
        stack.callback(CONF.unlink)
        stack.enter_context(_daemon(folder, "slurmctld", "-D"))
        stack.enter_context(_daemon(folder, "slurmd", "-D"))
        _wait(folder, "slurmd", ["sinfo", "--noheader", "--format=%T"], "idle")
        stack.callback(_cancel_all)
        yield


def _configuration(folder: Path) -> str:
    host = socket.gethostname().split(".")[0]
    memory_mb = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2**20 * 9 // 10
    return f"""\
{MADE_HERE}ClusterName=one-node
SlurmctldHost={host}(127.0.0.1)
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
SlurmUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/pgid
MpiDefault=none
ReturnToService=2
EnforcePartLimits=ALL
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
MinJobAge=3600
NodeName={host} NodeAddr=127.0.0.1 CPUs={os.cpu_count()} RealMemory={memory_mb}
PartitionName=main Nodes={host} Default=YES State=UP
"""


@contextmanager
def _daemon(
    folder: Path, program: str, *arguments: str, privileges: list[str] | None = None
) -> Iterator[None]:
    """Run a daemon in the foreground until the block ends."""
    # a session of its own, so that Ctrl-C does not stop it before the run; the signal for when
    # this process is killed and can stop nothing
    command = ["setpriv", *(privileges or []), "--pdeathsig=KILL", program, *arguments]
    with (
        (folder / f"{program}.log").open("w") as log,
        subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True) as process,
    ):
        try:
            yield
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()


def _wait(folder: Path, program: str, command: list[str], answer: str = "") -> None:
    """Wait until a command succeeds and prints an answer."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == 0 and answer in done.stdout:
            return
        time.sleep(0.2)
    logs = {log.name: log.read_text()[-2000:] for log in folder.glob("*.log")}
    raise RuntimeError(f"{program} did not come up: {' '.join(command)} says {done}; {logs}")


def _cancel_all() -> None:
    """Cancel what still runs, and wait until its processes are gone."""
    subprocess.run(["scancel", "--user=root"], check=False)
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        left = subprocess.run(["squeue", "--noheader"], capture_output=True, text=True, check=False)
        if not left.stdout.strip():
            return
        time.sleep(0.5)
