"""H2O AutoML, on a Java virtual machine of its own that ends with the script."""

from __future__ import annotations

import os
from pathlib import Path

import pandas as pd
from rival import Fitted, Task, run

MEMORY = "6G"


def fit(task: Task) -> Fitted:
    import h2o
    from h2o.automl import H2OAutoML

    h2o.init(nthreads=task.cores, max_mem_size=MEMORY, bind_to_localhost=True, name=f"shootout-{os.getpid()}")
    h2o.no_progress()
    kinds = {c: "enum" if c in task.words else "numeric" for c in task.rows.columns}

    def frame(rows: pd.DataFrame, extra: dict[str, str]) -> h2o.H2OFrame:
        return h2o.H2OFrame(rows.astype(dict.fromkeys(task.words, "object")), column_types={**kinds, **extra})

    target_kind = "numeric" if task.kind == "regression" else "enum"
    train = frame(task.train, {task.target: target_kind})
    model = H2OAutoML(
        max_runtime_secs=task.budget,
        seed=task.seed + 1,
        sort_metric=task.pick("AUC", "logloss", "RMSE"),
        stopping_metric=task.pick("AUC", "logloss", "RMSE"),
    )
    model.train(y=task.target, training_frame=train)
    leader = model.leader
    size = Path(h2o.save_model(leader, path=str(task.folder / "h2o"))).stat().st_size

    def predict(rows: pd.DataFrame) -> object:
        answer = leader.predict(frame(rows, {})).as_data_frame()
        return answer["predict"].to_numpy() if task.kind == "regression" else answer.iloc[:, 1:].to_numpy()

    classes = [] if task.kind == "regression" else train[task.target].levels()[0]
    return Fitted(predict, classes, size, leader.model_id)


if __name__ == "__main__":
    run("h2o", fit)
