"""`kubeautoml validate`: check manifests with the same rules as the cluster; exit 1 and one line a problem."""

from __future__ import annotations

import sys

from kubeautoml.api.check import check_job
from kubeautoml.api.form import parse_job, problems
from kubeautoml.cli.manifests import read_manifests, the_job, the_profile
from kubeautoml.cli.parser import VerbParser


def parser() -> VerbParser:
    made = VerbParser("validate", __doc__, "kubeautoml validate -f churn.yaml", program="kubeautoml")
    made.add_argument("-f", "--filename", required=True, help="manifest, or - for standard input")
    return made


def main(argv: list[str]) -> int:
    args = parser().parse_args(argv)
    documents = read_manifests(args.filename)
    manifest = the_job(documents, args.filename)
    found = list(problems(manifest))
    if not found:
        found = list(check_job(parse_job(manifest), the_profile(documents, manifest)))
    for problem in found:
        print(f"{args.filename}: {problem.message}", file=sys.stderr)
    if not found:
        print(f"{args.filename}: AutoMLJob {manifest['metadata']['name']} is valid")
    return 1 if found else 0
