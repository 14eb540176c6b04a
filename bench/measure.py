"""Run one command and print what it cost, as JSON: the small process between the benchmark and the measured tool.

    python -I -S bench/measure.py FD ARGV...     the figures go to the file descriptor FD

Linux starts a new program's peak memory at that of the process that began it, so a tool begun by the benchmark itself
(which holds lists of whole trees) would be shown with the benchmark's memory. This process has about 10 MB.

Peak memory is the largest resident set of one process as the kernel counts it, or, if the command has several at once,
the largest sum of their proportional sets (shared pages counted once) as looked up ten times a second.
"""

import json
import os
import signal
import sys
import threading
import time

EVERY_S = 0.1


def main() -> int:
    """Run the command to its end; the exit code is the command's, or 128 and more after a signal."""
    figures_fd, argv = int(sys.argv[1]), sys.argv[2:]
    os.set_inheritable(figures_fd, False)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    over, together = threading.Event(), [0]
    started = time.monotonic()
    pid = os.posix_spawnp(argv[0], argv, os.environ)
    watcher = threading.Thread(target=_watch, args=(pid, over, together), daemon=True)
    watcher.start()
    _, status, usage = os.wait4(pid, 0)
    wall_s = time.monotonic() - started
    over.set()
    watcher.join()
    peak_kib = max(usage.ru_maxrss, together[0])
    figures = {"wall_s": wall_s, "user_s": usage.ru_utime, "system_s": usage.ru_stime, "peak_kib": peak_kib}
    os.write(figures_fd, json.dumps(figures).encode())
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _watch(pid: int, over: threading.Event, together: list[int]) -> None:
    while not over.wait(EVERY_S):
        family = _family(pid)
        if len(family) > 1:
            together[0] = max(together[0], sum(_proportional_kib(member) for member in family))


def _family(pid: int) -> list[int]:
    """The process and all that descend from it."""
    found, asked = [pid], 0
    while asked < len(found):
        try:
            for thread in os.listdir(f"/proc/{found[asked]}/task"):
                with open(f"/proc/{found[asked]}/task/{thread}/children") as children:
                    found += [int(child) for child in children.read().split()]
        except OSError:
            pass  # ended meanwhile
        asked += 1
    return found


def _proportional_kib(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/smaps_rollup") as lines:
            return next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)
    except OSError:
        return 0


if __name__ == "__main__":
    sys.exit(main())
