"""`make bench`: all benchmarks, one after the other, each a table.

python benchmarks/run.py [study controller serving quality ...]
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ALL = ("study", "controller", "serving", "quality")


def main(names: list[str]) -> int:
    failed = []
    for name in names or ALL:
        print(f"\n=== {name} ===", flush=True)
        if subprocess.run([sys.executable, str(Path(__file__).parent / f"{name}.py")], check=False).returncode:
            failed.append(name)
    if failed:
        print(f"\nfailed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
