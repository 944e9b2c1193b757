"""An environment for each rival, since no two of them agree on their dependencies.

python benchmarks/tabular/environments.py flaml autogluon     # below .cache/rivals; about 1 to 3 GB each
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import venv
from pathlib import Path

TORCH = "torch==2.13.0"
REQUIREMENTS = {
    "flaml": ["flaml[automl]==2.7.0"],
    "autogluon": [TORCH, "autogluon.tabular[lightgbm,catboost,xgboost,fastai,tabm,ray]==1.6.3"],
    "h2o": ["h2o==3.46.0.12", "pandas==2.3.3"],
    "mljar": ["mljar-supervised==1.3.2"],
    "tpot": ["tpot==1.1.0"],
    "lightautoml": [TORCH, "lightautoml==0.4.2"],
}
"""What is installed; H2O needs Java 8 to 17 on the PATH as well."""
OWN = ("kubeautoml", "histgb")
"""These run in the project's own environment."""
ALL = (*OWN, *REQUIREMENTS)
DEFAULT = Path(__file__).resolve().parents[2] / ".cache" / "rivals"


def interpreter(rival: str, folder: Path) -> Path:
    """The Python that runs a rival's script.

    Raises:
        SystemExit: its environment has not been made.
    """
    if rival in OWN:
        return Path(sys.executable)
    python = folder / rival / "bin" / "python"
    if not python.exists():
        raise SystemExit(
            f"no environment for {rival} at {folder}: run python benchmarks/tabular/environments.py {rival}"
        )
    return python


def make(rival: str, folder: Path) -> None:
    """Does nothing where the environment is complete; torch first, so that a CPU wheel at hand is taken."""
    done = folder / rival / "requirements.txt"
    wanted = "\n".join(REQUIREMENTS[rival])
    if done.exists() and done.read_text() == wanted:
        return
    venv.create(folder / rival, with_pip=True, clear=True)
    install = [str(folder / rival / "bin" / "python"), "-m", "pip", "install", "--quiet"]
    if TORCH in REQUIREMENTS[rival]:
        subprocess.run([*install, TORCH], check=True)
    subprocess.run([*install, *REQUIREMENTS[rival]], check=True)
    done.write_text(wanted)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rivals", nargs="+", choices=sorted(REQUIREMENTS))
    parser.add_argument("--environments", type=Path, default=DEFAULT)
    args = parser.parse_args()
    for rival in args.rivals:
        print(f"{rival}: {', '.join(REQUIREMENTS[rival])}", flush=True)
        make(rival, args.environments)


if __name__ == "__main__":
    main()
