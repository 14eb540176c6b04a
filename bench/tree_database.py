"""Tree (b): a PostgreSQL data directory of about 2 GB, the server stopped, before and after pgbench.

Made by initdb and pgbench -i. Changed state: the same directory after pgbench transactions that write about one page
in a hundred, stopped again. It has the times and the identifier that initdb chose, so it is another on each machine.
"""

from __future__ import annotations

import filecmp
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from treefiles import SEED, Tree, TreeImpossible, copy, copy_folder, relative_files

DATABASE_SCALE = 122  # pgbench -s; one unit is about 15 MB with its index
DATABASE_TRANSACTIONS = 1_200  # each writes about two pages of 8 KiB: together about 1 % of the pages


def make(tree: Tree) -> None:
    """initdb, pgbench -i, stop, copy; then transactions, stop, and keep the files that differ."""
    programs = _postgres_programs()
    # PostgreSQL refuses root, and its own user may not reach the repository: the cluster is made outside.
    owner = "postgres" if os.geteuid() == 0 else None
    with tempfile.TemporaryDirectory(prefix="bench-postgres-", dir="/var/tmp") as folder:
        if owner is not None:
            shutil.chown(folder, owner, owner)
        data = Path(folder) / "data"

        def run(program: str, *arguments: str) -> None:
            _run_as(owner, [str(programs / program), *arguments], folder)

        run("initdb", "-D", str(data), "-U", "bench", "-A", "trust", "--no-locale", "-E", "UTF8")
        with (data / "postgresql.conf").open("a") as configuration:
            # Little write-ahead log is kept, so that the size is that of the tables; nothing runs by itself.
            configuration.write(f"listen_addresses = ''\nunix_socket_directories = '{folder}'\n")
            configuration.write("autovacuum = off\nmax_wal_size = 128MB\n")
        start = ("pg_ctl", "-D", str(data), "-l", f"{folder}/log", "-w", "start")
        stop = ("pg_ctl", "-D", str(data), "-m", "fast", "-w", "stop")
        connection = ("-h", folder, "-U", "bench", "postgres")
        run(*start)
        try:
            run("pgbench", "-i", "-q", "-s", str(max(1, int(DATABASE_SCALE * tree.scale))), *connection)
        finally:
            run(*stop)
        copy_folder(data, tree.path)
        run(*start)
        try:
            amount = ("-t", str(max(10, int(DATABASE_TRANSACTIONS * tree.scale))), "-c", "1", f"--random-seed={SEED}")
            run("pgbench", "-n", *amount, *connection)
        finally:
            run(*stop)
        _keep_differences(tree, data)


def _postgres_programs() -> Path:
    """The folder with the newest initdb, pg_ctl and pgbench of this machine."""
    found = Path("/usr/lib/postgresql").glob("*/bin")
    folders = sorted(found, key=lambda path: path.parent.name.zfill(3), reverse=True)
    if (installed := shutil.which("initdb")) is not None:
        folders.append(Path(installed).resolve().parent)
    for folder in folders:
        if all((folder / program).exists() for program in ("initdb", "pg_ctl", "pgbench")):
            return folder
    raise TreeImpossible("no PostgreSQL with initdb, pg_ctl and pgbench (Debian package postgresql)")


def _run_as(owner: str | None, argv: list[str], folder: str) -> None:
    # Output goes to a file: a server that pg_ctl starts would keep a pipe open for ever.
    with tempfile.TemporaryFile() as said:
        done = subprocess.run(
            argv, user=owner, group=owner, extra_groups=None if owner is None else [], cwd=folder,
            stdin=subprocess.DEVNULL, stdout=said, stderr=said, check=False,
        )  # fmt: skip
        if done.returncode != 0:
            said.seek(0)
            end = said.read().decode(errors="replace").strip().splitlines()[-3:]
            raise TreeImpossible(f"{Path(argv[0]).name} failed ({done.returncode}): {' / '.join(end)}")


def _keep_differences(tree: Tree, changed: Path) -> None:
    """Fill original/ and changed/ with the files that differ between the saved tree and the folder `changed`."""
    before, after = relative_files(tree.path), relative_files(changed)
    for relative in sorted(before | after):
        old, new = tree.path / relative, changed / relative
        if relative in before and relative in after and filecmp.cmp(old, new, shallow=False):
            continue
        if relative in before:
            copy(old, tree.folder / "original" / relative)
        if relative in after:
            copy(new, tree.folder / "changed" / relative)
