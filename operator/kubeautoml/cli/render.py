"""`kubeautoml render`: print every object that the operator would apply over the job's life, as YAML."""

from __future__ import annotations

import sys

from kubeautoml.cli.manifests import read_manifests, the_job, the_profile, to_yaml
from kubeautoml.cli.parser import VerbParser
from kubeautoml.plan.base import Settings
from kubeautoml.plan.preview import preview

DEFAULT_STUDY_URL = "grpc://kubeautoml-study-server.kubeautoml-system.svc:13000"


def parser() -> VerbParser:
    made = VerbParser("render", __doc__, "kubeautoml render -f churn.yaml", program="kubeautoml")
    made.add_argument("-f", "--filename", required=True, help="manifest, or - for standard input")
    made.add_argument("--study-url", default=DEFAULT_STUDY_URL, help="study URL that pods are told")
    return made


def main(argv: list[str]) -> int:
    args = parser().parse_args(argv)
    documents = read_manifests(args.filename)
    manifest = the_job(documents, args.filename)
    objects = preview(manifest, the_profile(documents, manifest), Settings(study_url=args.study_url))
    sys.stdout.write("---\n".join(to_yaml(o) for o in objects))
    return 0
