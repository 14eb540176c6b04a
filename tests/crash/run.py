"""The complete crash matrix: ``python tests/crash/run.py [VERB…]``, or ``make crash``. Takes many minutes."""

from __future__ import annotations

import collections
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.crashing import VERBS, cases, play
from support.faults import Faults


def main(wanted: list[str]) -> int:
    """Prints every failure as it comes and a table in the end; 1 if there was any."""
    failures = 0
    table: list[str] = []
    for kind in VERBS:
        if wanted and kind.name not in wanted:
            continue
        with tempfile.TemporaryDirectory(prefix="exclave-crash-") as name:
            verb = kind(Path(name))
            verb.reset()
            with Faults(Path(name), verb.roots) as faults:
                calls = faults.run(verb.command()).calls
                todo, began, ended = cases(calls), time.monotonic(), collections.Counter[int]()
                print(f"{kind.name}: {len(calls)} durable calls, {len(todo)} cases", flush=True)
                for number, (case, outcome, problem) in enumerate(play(verb, faults, todo), 1):
                    ended[outcome.code] += 1
                    if number % 100 == 0:
                        print(f"  {number} after {time.monotonic() - began:.0f} s", flush=True)
                    if problem:
                        failures += 1
                        place = case.call.path.removeprefix(name)
                        print(f"FAILED {kind.name} {case.mode.name} at {case.call.number} {case.call.what} {place}")
                        print(f"  {problem}", flush=True)
        codes = ", ".join(f"{code}: {count}" for code, count in sorted(ended.items()))
        table.append(f"{kind.name}: {len(calls)} calls, {len(todo)} cases; exit codes {codes}")
    print("\n".join(table))
    print(f"{failures} failures")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
