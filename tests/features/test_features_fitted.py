"""Features: learned from the training rows alone, the same after a round trip, and right on values worked out by
hand.
"""

import json
from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pytest

from kubeautoml.api.dataset import ColumnType
from kubeautoml.api.errors import BundleError
from kubeautoml_trainer.data.base import Column, Rows, Schema
from kubeautoml_trainer.features import Recipe, fit_features, load_features
from kubeautoml_trainer.features.categories import fit_levels
from kubeautoml_trainer.features.datetimes import datetime_parts
from kubeautoml_trainer.features.numbers import fit_scaling
from kubeautoml_trainer.features.target_means import fit_out_of_fold, inner_folds
from kubeautoml_trainer.features.texts import fit_text, terms


def make_schema(**types: ColumnType) -> Schema:
    return Schema("t", tuple(Column(name, kind) for name, kind in types.items()), ("a", "b"))


def make_rows(**columns) -> Rows:
    n = len(next(iter(columns.values())))
    series = {
        k: pd.Series(v, dtype=object if any(isinstance(x, str) for x in v) else float) for k, v in columns.items()
    }
    return Rows(pd.DataFrame(series), np.arange(n) % 2)


def test_codes_tell_missing_rare_and_unseen_from_levels():
    """0 no value, 1 a rare or unseen one, then the levels by frequency."""
    values = np.array(["b", "a", "a", "b", "a", None, "once"], dtype=object)

    levels = fit_levels(values, max_levels=10, min_rows=2)

    assert (levels.levels, levels.gaps, levels.others) == (("a", "b"), True, True)
    assert levels.codes(np.array([None, "once", "new", "a", "b", np.nan], dtype=object)).tolist() == [0, 1, 1, 2, 3, 0]


def test_numbers_are_filled_with_the_training_median_and_flagged():
    """Test rows change nothing of what was learned."""
    schema = make_schema(x=ColumnType.NUMBER)
    features, train = fit_features(Recipe("standard"), make_rows(x=[0.0, 2.0, 4.0, np.nan]), schema, seed=0)

    fresh = features.transform(make_rows(x=[np.nan, 1000.0]).frame).numbers

    assert train.numbers[3].tolist() == [0.0, 1.0] and fresh[0].tolist() == [0.0, 1.0]
    assert fresh[1].tolist() == [998 / np.sqrt(2), 0.0]


@pytest.mark.parametrize("kind", ["standard", "robust", "quantile", "skew"])
def test_scaled_numbers_are_near_zero_and_one(kind):
    """Whatever their unit and skew; robust ones stay within 3, constant ones become 0."""
    rng = np.random.default_rng(0)
    x = np.stack([1e6 + 1e3 * rng.normal(size=500), rng.lognormal(0, 2, 500), np.full(500, 5.1)], axis=1)

    out = fit_scaling(x, kind).apply(x)

    assert np.abs(np.median(out, axis=0)).max() < 0.5 and (out[:, 2] == 0).all()
    assert np.abs(out).max() < {"standard": 25, "robust": 3, "quantile": 4, "skew": 4}[kind]


def test_normal_scores_keep_the_order_and_ties():
    """Equal numbers stay equal, greater ones greater."""
    x = np.repeat(np.arange(10.0), 20)[:, None]

    out = fit_scaling(x, "quantile").apply(np.array([[3.0], [3.0], [4.0], [99.0]]))[:, 0]

    assert out[0] == out[1] < out[2] < out[3]


def test_dates_become_their_parts():
    """Against the standard library's calendar, missing dates stay missing."""
    moments = [datetime(2024, 2, 29, 18, 30, tzinfo=UTC), datetime(1969, 12, 31, tzinfo=UTC)]
    seconds = np.array([[m.timestamp()] for m in moments] + [[np.nan]])

    parts = datetime_parts(seconds, np.array([0.0]), cyclic=False)

    assert parts[:2].tolist() == [
        [m.year, m.month, m.day, m.weekday(), m.hour + m.minute / 60, m.timestamp() / 86_400] for m in moments
    ]
    assert np.isnan(parts[2]).all()


def test_target_means_of_training_rows_come_from_other_rows():
    """An identifier-like column predicts nothing out of fold, however well it fits in it."""
    y = np.random.default_rng(0).integers(0, 2, 400)
    codes = np.arange(400, dtype=np.int32)

    fold = inner_folds(400, None, seed=0)
    own = fit_out_of_fold(codes[:, None], [0], [400], y[:, None].astype(float), np.ones(400), 10.0, fold)
    means = own.apply(codes[:, None], slice(None))

    assert abs(np.corrcoef(means[:, 0], y)[0, 1]) < 0.2


def test_terms_are_words_and_pairs_of_any_script():
    """No language's stop words are dropped; scripts without spaces fall into characters."""
    assert list(terms("The Straße, l’été!")) == ["the", "strasse", "l’été", "the strasse", "strasse l’été"]
    assert list(terms("東京 2024")) == ["東", "京", "2024", "東 京", "京 2024"]


def test_text_numbers_tell_topics_apart():
    """The reduction learned from training texts separates fresh ones; unknown words and gaps give zeros."""
    cats, dogs = ["the cat sat", "a cat slept", "cat and cat"] * 10, ["the dog ran", "a dog barked", "dog and dog"] * 10
    text = fit_text(np.array(cats + dogs, dtype=object), reduce=True, seed=0)

    cat, dog, nothing, gap = text.numbers(np.array(["cat cat slept", "dog barked", "zebra", None], dtype=object))

    assert cat @ dog < 0.5 * np.linalg.norm(cat) * np.linalg.norm(dog)
    assert not nothing.any() and not gap.any()


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(),
        Recipe("skew", "onehot", text="sparse", target_means_above=1, cyclic=True),
        Recipe("robust", "codes"),
        Recipe(categories="strings"),
    ],
    ids=["trees", "linear", "net", "catboost"],
)
def test_features_survive_a_round_trip(recipe, tmp_path):
    """Saved and loaded features encode to the last bit alike."""
    schema = make_schema(
        x=ColumnType.NUMBER, c=ColumnType.CATEGORY, d=ColumnType.DATETIME, w=ColumnType.TEXT, b=ColumnType.BOOLEAN
    )
    rng = np.random.default_rng(0)
    rows = make_rows(
        x=rng.normal(size=60),
        c=rng.choice(["u", "v", "ü"], 60),
        d=rng.uniform(0, 2e9, 60),
        w=rng.choice(["red fox", "blue whale swims"], 60),
        b=[1.0, 0.0, np.nan] * 20,
    )
    features, _ = fit_features(recipe, rows, schema, seed=0)

    features.save(tmp_path)
    loaded = load_features(tmp_path)

    before, after = features.transform(rows.frame), loaded.transform(rows.frame)
    assert np.array_equal(before.numbers, after.numbers, equal_nan=True) and np.array_equal(before.codes, after.codes)
    assert (before.strings is None and after.strings is None) or np.array_equal(before.strings, after.strings)
    assert (before.sparse is None and after.sparse is None) or (before.sparse != after.sparse).nnz == 0


def test_features_of_another_format_are_refused(tmp_path):
    """A newer format is named, not guessed at."""
    features, _ = fit_features(Recipe(), make_rows(x=[1.0, 2.0]), make_schema(x=ColumnType.NUMBER), seed=0)
    features.save(tmp_path)
    stored = json.loads((tmp_path / "features.json").read_text())
    (tmp_path / "features.json").write_text(json.dumps(stored | {"format": 99}))

    with pytest.raises(BundleError, match="format must be 3, got 99; upgrade"):
        load_features(tmp_path)
