"""`make bench`: all benchmarks, one after the other, then one table: figure, value, range, ok.

    python benchmarks/run.py [study controller serving ...]

Ends with 1 when a benchmark fails, or a figure leaves its range in ranges.toml.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from figures import FIGURES_ENV, Judged, judge, read_figures, read_ranges, table

ALL = (
    "study",
    "controller",
    "operator_failover",
    "operator_scale",
    "operator_trials",
    "scaling",
    "serving",
    "memory",
    "many_rows",
    "budget",
    "variants",
    "reliability",
    "quality",
    "images",
    "texts",
    "tabular_shootout",
    "gpu",
)
ON_A_GPU = ("gpu",)
"""Left out of `make bench` where there is none."""


def main(names: list[str]) -> int:
    unknown = [name for name in names if name not in ALL]
    if unknown:
        print(f"benchmarks must be some of {', '.join(ALL)}, got {', '.join(unknown)}", file=sys.stderr)
        return 2
    ranges, judged, failed = read_ranges(), list[Judged](), []
    for name in names or [name for name in ALL if name not in ON_A_GPU or has_gpu()]:
        print(f"\n=== {name} ===", flush=True)
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "figures"
            command = [sys.executable, str(Path(__file__).parent / f"{name}.py")]
            if subprocess.run(command, check=False, env={**os.environ, FIGURES_ENV: str(file)}).returncode:
                failed.append(name)
            judged += judge(name, read_figures(file), ranges.get(name, {}))
        print(f"{name} took {time.monotonic() - began:.0f} s", flush=True)
    print(f"\n{table(judged)}")
    missed = [j for j in judged if not j.is_ok]
    if failed:
        print(f"\nfailed: {', '.join(failed)}", file=sys.stderr)
    if missed:
        print(f"\n{len(missed)} of {len(judged)} figures are not in their range", file=sys.stderr)
    return 1 if failed or missed else 0


def has_gpu() -> bool:
    """Whether torch finds one; says so where not."""
    import torch

    if not torch.cuda.is_available():
        print(f"left out, for want of a CUDA device: {', '.join(ON_A_GPU)}")
    return bool(torch.cuda.is_available())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
