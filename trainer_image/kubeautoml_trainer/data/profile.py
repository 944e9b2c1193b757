"""What the first pod of a job found, stored for those that come later: the profile, the folds, and the digest that tells the same data."""

from __future__ import annotations

import hashlib
import io
import json

import numpy as np
import pandas as pd
import pyarrow as pa

from kubeautoml.api.pod import PodJob
from kubeautoml.storage import ObjectStore
from kubeautoml_trainer.data.base import Profile
from kubeautoml_trainer.data.schema import schema_from_json, schema_to_json
from kubeautoml_trainer.data.split import Assignment


def digest_of(raw: pd.DataFrame, test: pd.DataFrame | None) -> str:
    """SHA-256 over the values of all rows, as Arrow lays them out."""
    digest = hashlib.sha256()
    for frame in (raw,) if test is None else (raw, test):
        for name in frame.columns:
            column = frame[name].map(repr) if pd.api.types.is_object_dtype(frame[name].dtype) else frame[name]
            digest.update(str(name).encode())
            found = pa.array(column, from_pandas=True)
            chunks = found.chunks if isinstance(found, pa.ChunkedArray) else [found]
            # concatenated, so that the bytes do not depend on how a reader cut the file into blocks
            whole = pa.concat_arrays(chunks) if len(chunks) > 1 else chunks[0]
            for buffer in whole.buffers():
                digest.update(b"-" if buffer is None else buffer)
    return digest.hexdigest()


def stored_profile(store: ObjectStore, job: PodJob) -> tuple[Profile, Assignment] | None:
    """What the first pod of this job stored; None when this is the first."""
    if not store.exists(job.paths.profile):
        return None
    profile = profile_from_json(store.read(job.paths.profile).decode())
    table = pd.read_parquet(io.BytesIO(store.read(job.paths.folds)))
    holdout, fold = table["holdout"].to_numpy(dtype=bool), table["fold"].to_numpy(dtype=np.int16)
    return profile, Assignment(holdout, fold)


def store_profile(store: ObjectStore, job: PodJob, profile: Profile, assignment: Assignment) -> None:
    """Folds first: where there is a profile, there are folds."""
    rows = np.arange(len(assignment.fold))
    folds = pd.DataFrame({"row": rows, "fold": assignment.fold, "holdout": assignment.holdout})
    buffer = io.BytesIO()
    folds.to_parquet(buffer, index=False)
    store.write(job.paths.folds, buffer.getvalue())
    store.write(job.paths.profile, profile_to_json(profile).encode())


def profile_to_json(profile: Profile) -> str:
    """Text that `profile_from_json` reads."""
    body = {
        "rows": profile.rows,
        "holdout_rows": profile.holdout_rows,
        "folds": profile.folds,
        "sha256": profile.sha256,
        "warnings": list(profile.warnings),
        "schema": json.loads(schema_to_json(profile.schema)),
    }
    return json.dumps(body, indent=1, ensure_ascii=False)


def profile_from_json(text: str) -> Profile:
    """The profile in a text."""
    body = json.loads(text)
    return Profile(
        schema=schema_from_json(json.dumps(body["schema"])),
        rows=body["rows"],
        holdout_rows=body["holdout_rows"],
        folds=body["folds"],
        sha256=body["sha256"],
        warnings=tuple(body["warnings"]),
    )
