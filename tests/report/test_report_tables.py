"""What an explainable model learned, on the page: the terms' names and sizes, the tables as the model has them, all escaped."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from kubeautoml.api.dataset import ColumnType
from kubeautoml_trainer.data.base import Column, Rows, Schema
from kubeautoml_trainer.models import family_named
from kubeautoml_trainer.report.page import report_page
from kubeautoml_trainer.report.tables import read_tables
from models.models_factories import make_context
from report.test_report_page import EVIL, Balanced, make_facts

COLUMNS = (
    Column("age", ColumnType.NUMBER, missing_fraction=0.2),
    Column(EVIL.strip(), ColumnType.CATEGORY),
)


def make_rows(n: int = 400) -> Rows:
    rng = np.random.default_rng(0)
    age, city = rng.integers(18, 80, n).astype(float), rng.choice(np.array(["a<b", "Ulm", None], dtype=object), n)
    y = 100 * (age > 50) + 40 * (city == "Ulm") + rng.normal(size=n)
    age[:80] = np.nan
    return Rows(pd.DataFrame({"age": age, COLUMNS[1].name: pd.Series(city, dtype=object)}), y)


@pytest.fixture(scope="module")
def fitted():
    rows, schema = make_rows(), Schema("price", COLUMNS, ())
    return family_named("ExplainableBoosting").fit(rows, None, schema, {"smoothing_rounds": 5}, make_context(schema))


def test_tables_say_what_each_value_adds_in_the_targets_unit(fitted):
    """The steps of a number and the bars of a category are the model's own contributions."""
    tables = read_tables(fitted, "price", ())
    rows = make_rows().frame
    added = fitted.model.contributions(fitted.features.transform(rows))[:, :, 0] * fitted.model.target.scale

    by_name = {t.name: (t, added[:, [m.name for m in fitted.model.terms].index(t.name)]) for t in tables.terms}
    age, of_age = by_name["age"]
    city, of_city = by_name[COLUMNS[1].name]

    assert tables.unit == "price" and [t.importance for t in tables.terms] == sorted(
        (t.importance for t in tables.terms), reverse=True
    )
    known = rows["age"].notna().to_numpy()
    place = np.searchsorted(age.edges, rows["age"][known], side="right") - 1
    np.testing.assert_allclose(age.scores[place], of_age[known])
    np.testing.assert_allclose(of_age[~known], age.missing)
    assert age.importance == pytest.approx(np.abs(of_age).mean())
    np.testing.assert_allclose(city.scores[city.labels.index("Ulm")], of_city[rows[city.name] == "Ulm"])
    assert city.missing is not None and set(city.labels) == {"a<b", "Ulm"}


def test_the_page_shows_and_escapes_them(fitted):
    """With drawings and without; nothing where no model of the ensemble is explainable."""
    tables = read_tables(fitted, "price", ())
    facts = replace(make_facts(()), tables=tables)

    for with_plots in (True, False):
        page = report_page(facts, with_plots=with_plots)
        Balanced().feed(page)
        assert "What the explainable model learned" in page and "in price" in page
        assert "<img src=x" not in page and "a<b" not in page
        assert ("What age adds" in page) == with_plots
    assert "explainable" not in report_page(make_facts(()))


def test_terms_that_cannot_be_drawn_are_listed():
    """Of three classes each has its own table; the unit names the class where there are two."""
    rows = make_rows()
    for classes in (("x", "y"), ("x", "y", "z")):
        schema = Schema("kind", COLUMNS, classes)
        y = np.searchsorted(np.quantile(rows.y, np.arange(1, len(classes)) / len(classes)), rows.y)
        pipeline = family_named("ExplainableBoosting").fit(
            replace(rows, y=y), None, schema, {"smoothing_rounds": 0}, make_context(schema)
        )

        tables = read_tables(pipeline, "kind", classes)

        assert tables.unit == ("log odds of y" if len(classes) == 2 else "log odds")
        assert [len(t.scores) > 0 for t in tables.terms if " & " not in t.name] == [len(classes) == 2] * 2
    linear = family_named("Linear").fit(
        rows, None, Schema("price", COLUMNS, ()), {}, make_context(Schema("price", COLUMNS, ()))
    )
    assert read_tables(linear, "price", ()) is None
