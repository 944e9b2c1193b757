"""`kubeautoml operator` whose client takes out of manifests what an old test server does not know. For tests only.

python operator_for_any_server.py MAJOR.MINOR.PATCH [arguments of kubeautoml operator]
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from kubeautoml.cli.main import main
from kubeautoml.cluster import kube
from real.filtered import filtered

if __name__ == "__main__":
    kube.KubeCluster = filtered(tuple(int(n) for n in sys.argv[1].split(".")))  # type: ignore[misc]
    sys.exit(main(["operator", *sys.argv[2:]]))
