"""Everything strange that a folder of documents may hold: what careless backups lose or stumble over."""

from __future__ import annotations

import errno
import os
import unicodedata
from datetime import date

from exclave.demo.files import make_folder, office_hours, stamp, write_file
from exclave.demo.words import KNOWN_PHRASE, seeded

SPARSE_BYTES = 16 << 20
SPARSE_ISLANDS = (0, 5 << 20, (16 << 20) - 4096)
"""Where the sparse file has 4 KiB of data; the rest is holes."""

ATTRIBUTE = ("user.exclave.demo", b"checked \x00\xff by the clerk")
OUTSIDE = "/etc/hosts"
"""Where the absolute link points: a file of the machine that is no part of the register."""

_DAY = date(2025, 12, 30).toordinal()


def write_oddities(folder: str, seed: int) -> bool:
    """Fills ``folder`` (made here); says whether the file system took the extended attribute.

    An empty folder, an empty file, a sparse file, a FIFO; links that dangle, leave the register or point to a folder;
    modes 0400 and 0751, a setgid folder; names that are not UTF-8, hold a line feed, are 255 bytes long, or differ
    only in Unicode normal form; an extended attribute.
    """
    rng = seeded(seed, "oddities")
    moment = office_hours(_DAY, rng)
    text = f"Märkus: {KNOWN_PHRASE}.\n".encode()
    make_folder(folder)

    def inside(name: str) -> str:
        return os.path.join(folder, name)

    make_folder(inside("tühi kaust"), mode=0o750)
    make_folder(inside("shared"), mode=0o2775)
    write_file(inside("shared/minutes.txt"), text, moment + 1)
    write_file(inside("empty.txt"), b"", moment + 2)
    write_file(inside("sealed-note.txt"), text, moment + 3, mode=0o400)
    write_file(inside("print.sh"), b'#!/bin/sh\nexec lpr -P gazette "$@"\n', moment + 4, mode=0o751)
    write_file(inside('two lines\nand "quotes"; $HOME.txt'), text, moment + 5)
    write_file(inside("õ" * 127 + "x"), text, moment + 6)
    for form in ("NFC", "NFD"):
        write_file(inside(unicodedata.normalize(form, "Üürileping Õisu.txt")), form.encode(), moment + 7)
    write_file(os.fsencode(folder) + b"/avis-l\xe9gal-1994.txt", "Avis légal\n".encode("latin-1"), moment + 8)
    for name, target in (
        ("dangling", "../acts/1918/0001/v1.txt"),
        ("outside", OUTSIDE),
        ("newest-year", "../acts/2025"),
    ):
        os.symlink(target, inside(name))
        stamp(inside(name), moment + 9)
    os.mkfifo(inside("inbox"))
    os.chmod(inside("inbox"), 0o620)
    stamp(inside("inbox"), moment + 10)
    _write_sparse(inside("scan.img"), seed, moment + 11)
    attribute = _write_marked(inside("marked.txt"), text, moment + 12)
    for name in ("tühi kaust", "shared", ""):
        stamp(inside(name), moment + 13)
    return attribute


def _write_sparse(path: str, seed: int, time_ns: int) -> None:
    """16 MiB of which three times 4 KiB are written."""
    rng = seeded(seed, "oddities:sparse")
    write_file(path, b"", time_ns)
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.ftruncate(descriptor, SPARSE_BYTES)
        for offset in SPARSE_ISLANDS:
            os.pwrite(descriptor, rng.randbytes(4096), offset)
        os.utime(descriptor, ns=(time_ns, time_ns))
    finally:
        os.close(descriptor)


def _write_marked(path: str, text: bytes, time_ns: int) -> bool:
    write_file(path, text, time_ns)
    try:
        os.setxattr(path, *ATTRIBUTE)
    except OSError as error:
        # Some file systems have none (tmpfs before Linux 6.6, many network ones); the rest is still worth testing.
        if error.errno not in (errno.ENOTSUP, errno.EPERM):
            raise
        return False
    stamp(path, time_ns)
    return True
