"""Runs every benchmark in a process of its own, so that none warms caches for the next.

`python -m benchmarks` runs all of them, `python -m benchmarks writes rebuild` runs
`bench_writes.py` and `bench_rebuild.py`. Each prints its own figures.
"""

import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parent
PREFIX = "bench_"


def main(wanted: list[str]) -> int:
    """Run the wanted benchmarks, or all, and return how many failed."""
    known = sorted(path.stem.removeprefix(PREFIX) for path in FOLDER.glob(f"{PREFIX}*.py"))
    unknown = sorted(set(wanted) - set(known))
    if unknown or not known:
        print(f"Unknown: {unknown}. The benchmarks here are {known}.", file=sys.stderr)
        return 1
    failed = 0
    for name in wanted or known:
        print(f"== {name}", flush=True)
        command = [sys.executable, "-m", f"{FOLDER.name}.{PREFIX}{name}"]
        failed += subprocess.run(command, cwd=FOLDER.parent, check=False).returncode != 0
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
