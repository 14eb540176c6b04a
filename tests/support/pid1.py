"""A unit of ours under a real systemd, which is process 1 of namespaces made for it. Needs root.

Its root folder is made of what the machine has in /usr, read-only, and of empty folders; /proc/sys is read-only, and no
other unit is started. It has a control group of its own below the machine's, and the machine's network.
"""

from __future__ import annotations

import os
import pty
import secrets
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import exclave

_SOURCES = Path(exclave.__file__).parents[1]
_DROP_IN = """[Unit]
DefaultDependencies=no
[Service]
StandardOutput=tty
StandardError=tty
TTYPath=/dev/console
"""
_SCRIPT = """set -eu
mount --make-rprivate /
mount -t tmpfs -o mode=755 root {root}
cd {root}
mkdir -p usr etc/systemd/system/{unit}.d etc/sysusers.d proc sys dev run tmp var/lib srv opt/exclave/bin old
for name in bin sbin lib lib32 lib64 libx32; do [ -e /usr/$name ] && ln -s usr/$name $name; done
show() {{ mkdir -p ".$2"; mount --rbind "$1" ".$2"; mount -o remount,bind,ro ".$2"; }}
show /usr /usr
{shows}
mount -t proc proc proc
mount --bind proc/sys proc/sys
mount -o remount,bind,ro proc/sys
mount -t sysfs sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mkdir sys/fs/cgroup/{group}
echo $$ > sys/fs/cgroup/{group}/cgroup.procs
mount -t tmpfs -o mode=755 dev dev
mkdir dev/pts dev/shm dev/mqueue dev/hugepages
for name in null zero full random urandom tty; do touch dev/$name; mount --bind /dev/$name dev/$name; done
touch dev/console
mount --bind "$(tty)" dev/console
mount --bind /dev/pts dev/pts
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
mount -t tmpfs run run
mount -t tmpfs tmp tmp
: > etc/machine-id
cp {units}/*.service etc/systemd/system/
for file in {units}/*.sysusers; do cp $file etc/sysusers.d/$(basename $file .sysusers).conf; done
cp {folder}/drop-in etc/systemd/system/{unit}.d/test.conf
printf '[Unit]\\nDefaultDependencies=no\\nRequires={unit}\\n' > etc/systemd/system/only.target
cp {folder}/exclave opt/exclave/bin/exclave
cp -r {place} .{home}
pivot_root . old
cd /
umount -l old
systemd-sysusers
chown -R {user}:{user} {home}
chmod 700 {home}
exec env -i container=test PATH=/usr/bin:/usr/sbin /usr/lib/systemd/systemd --system --unit=only.target \\
    --log-target=console --log-level=info --show-status=no
"""


@dataclass(slots=True)
class Console:
    """What systemd and the unit say."""

    text: str = ""
    more: threading.Condition = field(default_factory=threading.Condition)

    def wait_for(self, word: str, *, seconds: float = 120) -> str:
        """All that was said until a line with ``word`` was whole."""
        with self.more:
            found = self.more.wait_for(lambda: any(word in line for line in self.text.split("\n")[:-1]), seconds)
            assert found, self.text
            return self.text


def _shown() -> dict[str, str]:
    """Folders of this Python and this code, and where the unit finds them: it sees no home."""
    packages = [path for path in sys.path if path.endswith("site-packages")]
    return {sys.base_prefix: "/opt/python", str(_SOURCES): "/opt/exclave/src"} | {
        path: f"/opt/exclave/lib{number}" for number, path in enumerate(packages)
    }


def _launcher(shown: Mapping[str, str]) -> str:
    """What stands for the installed command."""
    program = Path(os.path.realpath(sys.executable)).relative_to(sys.base_prefix)
    path = ":".join(at for at in shown.values() if at.startswith("/opt/exclave"))
    return (
        f"#!/bin/sh\nexport LD_LIBRARY_PATH=/opt/python/lib PYTHONDONTWRITEBYTECODE=1 PYTHONPATH={path}\n"
        f"exec /opt/python/{program}"
        " -c 'import sys; from exclave.cli.main import main; sys.exit(main())' \"$@\"\n"
    )


@contextmanager
def under_systemd(units: Path, unit: str, user: str, home: str, place: Path, folder: Path) -> Iterator[Console]:
    """``unit`` of the folder ``units`` as systemd runs it, ``place`` copied to ``home``; ``folder`` is for scratch."""
    (folder / "root").mkdir()
    (folder / "drop-in").write_text(_DROP_IN)
    shown = _shown()
    (folder / "exclave").write_text(_launcher(shown))
    (folder / "exclave").chmod(0o755)
    group = f"exclave-{secrets.token_hex(6)}"
    values: Mapping[str, object] = {
        "root": folder / "root", "unit": unit, "units": units, "user": user, "home": home, "place": place,
        "folder": folder, "group": group,
        "shows": "\n".join(f"show {shlex.quote(path)} {at}" for path, at in shown.items()),
    }  # fmt: skip
    (folder / "start").write_text(_SCRIPT.format_map(values))
    ours, theirs = pty.openpty()
    console = Console()
    flags = ["--mount", "--pid", "--kill-child", "--fork", "--uts", "--ipc"]
    process = subprocess.Popen(
        ["unshare", *flags, "sh", str(folder / "start")], stdin=theirs, stdout=theirs, stderr=theirs,
        start_new_session=True,
    )  # fmt: skip
    os.close(theirs)

    def read() -> None:
        try:
            while data := os.read(ours, 4096):
                with console.more:
                    console.text += data.decode("utf-8", "replace").replace("\r", "")
                    console.more.notify_all()
        except OSError:
            pass  # the terminal's other end is gone

    reader = threading.Thread(target=read)
    reader.start()
    try:
        yield console
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait(60)
        reader.join(60)
        os.close(ours)
        _remove_group(group, folder)


def _remove_group(group: str, folder: Path) -> None:
    """The control groups that systemd made; nothing runs in them any more."""
    mounted = folder / "groups"
    mounted.mkdir()
    at = f"{mounted}/{group}"
    emptied = (
        f"for n in 1 2 3 4 5 6 7 8 9; do [ -e {at} ] || exit 0; find {at} -depth -type d -exec rmdir {{}} \\; ; done"
    )
    script = f"mount -t cgroup2 cgroup2 {mounted} && {emptied}"
    subprocess.run(["unshare", "--mount", "sh", "-c", script], check=False, capture_output=True, timeout=60)
