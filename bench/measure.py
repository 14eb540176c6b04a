"""Run one command and print what it cost, as JSON: the small process between the benchmark and the measured tool.

    python -I -S bench/measure.py FD ARGV...     the figures go to the file descriptor FD

Linux starts a new program's peak memory at that of the process that began it, so a tool begun by the benchmark itself
(which holds lists of whole trees) would be shown with the benchmark's memory. This process has about 10 MB.
"""

import json
import os
import sys
import time


def main() -> int:
    """Run the command to its end; the exit code is the command's, or 128 and more after a signal."""
    figures_fd, argv = int(sys.argv[1]), sys.argv[2:]
    os.set_inheritable(figures_fd, False)
    started = time.monotonic()
    pid = os.posix_spawnp(argv[0], argv, os.environ)
    _, status, usage = os.wait4(pid, 0)
    wall_s = time.monotonic() - started
    figures = {"wall_s": wall_s, "user_s": usage.ru_utime, "system_s": usage.ru_stime, "peak_kib": usage.ru_maxrss}
    os.write(figures_fd, json.dumps(figures).encode())
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main())
