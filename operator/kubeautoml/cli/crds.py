"""`kubeautoml crds`: print the CustomResourceDefinitions, or write them to a folder."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from kubeautoml.api.crd import render_crds


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="kubeautoml crds", description=__doc__)
    parser.add_argument("--output", metavar="DIR", help="write one file a kind into this folder instead of printing")
    args = parser.parse_args(argv)
    files = render_crds()
    if args.output:
        folder = Path(args.output)
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (folder / name).write_text(text, encoding="utf-8")
    else:
        sys.stdout.write("---\n".join(files.values()))
    return 0
