"""Hosts made as Linux namespaces: an address, a name, processes and files of their own; they share a network only.

Each lacks the project's code, the caches and the temporary files of this machine, and has its Python packages.
"""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.clean_environment import ROOT, environment

NETWORK = "10.77.0"
HERE = f"{NETWORK}.1"
"""The address of this machine on the hosts' network."""
BRIDGE = "dd-net"
APART = ["unshare", "--mount", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc"]
MAKE = """
set -e
hostname "$1"; hidden=$2; shift 2
mount -t tmpfs none /mnt
for kept; do mkdir -p "/mnt$kept"; mount --bind "$kept" "/mnt$kept"; done
for folder in $hidden; do [ ! -d "$folder" ] || mount -t tmpfs none "$folder"; done
for kept; do mkdir -p "$kept"; mount --bind "/mnt$kept" "$kept"; done
echo ready
exec sleep infinity
"""


class Host:
    """A host that runs until it is lost."""

    def __init__(self, name: str, number: int, kept: Sequence[Path]) -> None:
        self.name, self.address, self._cable = name, f"{NETWORK}.{number}", f"dd-{name}"
        ip("netns", "add", self._cable)
        ip("link", "add", self._cable, "type", "veth", "peer", "name", "eth0", "netns", self._cable)
        ip("link", "set", self._cable, "master", BRIDGE, "up")
        setup = f"addr add {self.address}/24 dev eth0", "link set lo up", "link set eth0 up"
        for words in (*setup, f"route add default via {HERE}"):
            ip("-n", self._cable, *words.split())
        hidden = " ".join(["/tmp", "/dev/shm", str(Path.home()), *({str(ROOT)} if ROOT.exists() else ())])
        make = ["bash", "-c", MAKE, "make", name, hidden, *map(str, kept)]
        self._machine = subprocess.Popen(
            ["ip", "netns", "exec", self._cable, *APART, *make],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self._machine.stdout is not None
        assert self._machine.stdout.readline() == "ready\n"
        children = Path(f"/proc/{self._machine.pid}/task/{self._machine.pid}/children").read_text().split()
        self._first = children[0]

    def start(self, command: Sequence[str], **settings: str) -> subprocess.Popen[str]:
        """Starts a command on the host."""
        inside = ["nsenter", "--target", self._first, "--mount", "--uts", "--net", "--pid", "--wdns=/tmp"]
        return subprocess.Popen(
            [*inside, *command],
            env=environment() | settings,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, command: Sequence[str], **settings: str) -> str:
        """Runs a command on the host to its end; returns what it prints."""
        process = self.start(command, **settings)
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, out + err
        return out

    def lose(self) -> None:
        """Pulls its cable, so that no one hears of its end, and its plug."""
        ip("link", "set", self._cable, "down")
        self.end()

    def end(self) -> None:
        """Ends it with all that runs on it."""
        if self._machine.poll() is None:
            os.kill(int(self._first), signal.SIGKILL)
            self._machine.wait()
            ip("netns", "del", self._cable)


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@contextmanager
def network() -> Iterator[None]:
    """Makes the network of the hosts. Skips the test where that is not permitted."""
    if sys.platform != "linux" or os.geteuid() != 0 or not all(map(shutil.which, ("ip", "unshare", "nsenter"))):
        pytest.skip("hosts are made as namespaces by root, with iproute2 and util-linux")
    try:
        subprocess.run([*APART, "true"], check=True, capture_output=True)
        ip("link", "add", BRIDGE, "type", "bridge")
    except subprocess.CalledProcessError as error:
        pytest.skip(f"this machine does not permit namespaces: {error.stderr!r}")
    try:
        ip("addr", "add", f"{HERE}/24", "dev", BRIDGE)
        ip("link", "set", BRIDGE, "up")
        yield
    finally:
        ip("link", "del", BRIDGE)


@contextmanager
def hosts(*names: str, with_code: str) -> Iterator[list[Host]]:
    """Makes hosts, of which one has the project's code."""
    packages = sorted({Path(sys.prefix), Path(sys.base_prefix)})
    with network(), ExitStack() as stack:
        made = []
        for number, name in enumerate(names, start=2):
            made.append(Host(name, number, [*packages, *([ROOT] if name == with_code else [])]))
            stack.callback(made[-1].end)
        yield made
