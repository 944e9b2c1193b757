"""scikit-learn's HistGradientBoosting with its defaults: what no AutoML system may be worse than."""

from __future__ import annotations

import pickle

from rival import Fitted, Task, run


def fit(task: Task) -> Fitted:
    from sklearn.compose import make_column_transformer
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OrdinalEncoder

    encode = make_column_transformer(
        (
            OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=float("nan"), max_categories=255),
            task.words,
        ),
        remainder="passthrough",
    )
    kind = HistGradientBoostingRegressor if task.kind == "regression" else HistGradientBoostingClassifier
    model = make_pipeline(encode, kind(categorical_features=list(range(len(task.words))), random_state=task.seed))
    model.fit(task.features, task.y)
    size = len(pickle.dumps(model))
    if task.kind == "regression":
        return Fitted(model.predict, size_bytes=size)
    return Fitted(model.predict_proba, list(model.classes_), size)


if __name__ == "__main__":
    run("scikit-learn", fit)
