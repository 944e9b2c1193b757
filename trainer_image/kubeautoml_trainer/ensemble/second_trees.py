"""Small LightGBM trees as the second level: they see the first level's predictions and the row itself. Called by `ensemble.stacking`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from kubeautoml_trainer.features import Recipe, fit_features
from kubeautoml_trainer.models.leaf_values import KEPT, lightgbm_leaves
from kubeautoml_trainer.models.prediction_only import lightgbm_text
from kubeautoml_trainer.models.second_level import SecondLevel, added_columns, margins, mean_margin, tree_columns

if TYPE_CHECKING:
    from kubeautoml_trainer.ensemble.stacking import FirstLevel, Split

_ROUNDS = (5, 10, 20, 35, 50, 75, 100, 150, 200)
"""Degrees of complexity; trees that start from a good ensemble soon have nothing more to add."""
_MOST_TREES = 600  # more than two classes take a tree each a round; a guess
_LOSSES = {"Mae": "regression_l1", "MedianAbsoluteError": "regression_l1", "Mape": "mape"}


class Trees:
    """Boosting that starts from the greedy mean."""

    name = "Trees"

    def path(self, data: FirstLevel, split: Split, most: int | None) -> list[SecondLevel]:
        """One level a number of rounds."""
        import lightgbm as lgb

        if time.monotonic() > data.deadline:
            raise TimeoutError
        rows, first = data.rows.take(split.learned), data.first[:, split.learned]
        features, encoded = fit_features(Recipe(categories="joined"), rows, data.schema, data.seed, data.deadline)
        mean = mean_margin(first, split.base, data.scale)
        x = tree_columns(added_columns(first, mean, data.scale), encoded.numbers)
        codes = encoded.codes.shape[1]
        classes = data.scale == "probabilities"
        dataset = lgb.Dataset(
            x,
            rows.y if classes else margins(rows.y[:, None], data.scale)[:, 0],
            weight=rows.weight,
            init_score=mean.ravel(order="F"),
            categorical_feature=list(range(x.shape[1] - codes, x.shape[1])),
            params={"verbosity": -1, "num_threads": data.threads},
        )
        booster = lgb.Booster(_settings(data, len(rows)), dataset)
        made: list[SecondLevel] = []
        done = 0
        a_round = data.task.outputs if data.task.outputs > 2 else 1
        for rounds in [r for r in _ROUNDS if r * a_round <= _MOST_TREES][:most]:
            while done < rounds:
                if time.monotonic() > data.deadline:
                    raise TimeoutError
                booster.update()
                done += 1
            text = lightgbm_leaves(lightgbm_text(booster.model_to_string(num_iteration=rounds)), KEPT)
            level = SecondLevel(split.base, data.scale, trees=text, features=features)
            level.set_threads(data.threads)
            made.append(level)
        return made


def _settings(data: FirstLevel, rows: int) -> dict[str, Any]:
    """Shallow, slow and held back: there is little left to learn. Guesses, but for the loss."""
    if data.scale == "probabilities":
        outputs = data.task.outputs
        loss = {"objective": "binary"} if outputs == 2 else {"objective": "multiclass", "num_class": outputs}
    else:
        loss = {"objective": _LOSSES.get(data.metric, "regression")}
    return loss | {
        "learning_rate": 0.05,
        "num_leaves": 8,
        "min_data_in_leaf": max(20, rows // 100),
        "feature_fraction": 0.7,
        "bagging_fraction": 0.8,
        "bagging_freq": 1,
        "lambda_l2": 10.0,
        "boost_from_average": False,
        "metric": "None",
        "seed": data.seed % 2**31,
        "num_threads": data.threads,
        "deterministic": True,
        "force_col_wise": True,
        "verbosity": -1,
    }
