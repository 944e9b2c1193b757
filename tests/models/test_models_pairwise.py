"""Probabilities of many classes from scores of pairs: exact where pairs agree, calibrated where they do not."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import load_digits
from sklearn.metrics import log_loss
from sklearn.model_selection import cross_val_predict, train_test_split
from sklearn.svm import SVC

from kubeautoml_trainer.models.pairwise import class_scores, fit_coupling, neutral


@pytest.mark.parametrize("k", [2, 3, 7])
def test_pairs_that_agree_give_back_the_probabilities_they_come_from(k):
    """r_ij = p_i / (p_i + p_j) has one solution."""
    p = np.random.default_rng(0).dirichlet(np.ones(k), size=50)
    i, j = np.triu_indices(k, 1)
    logit = np.log(p[:, i]) - np.log(p[:, j])

    found = neutral(k).probabilities(logit)

    assert found == pytest.approx(p, abs=1e-6)


@pytest.mark.parametrize("sure", [1e3, 1e-3, 0.0])
def test_any_scores_give_probabilities(sure):
    """Pairs that are all sure, hardly sure or silent; no rows at all."""
    score = sure * np.random.default_rng(1).normal(size=(40, 10))

    found = neutral(5).probabilities(score)

    assert np.isfinite(found).all()
    assert found.sum(axis=1) == pytest.approx(np.ones(40))
    assert class_scores(np.zeros((0, 10)), 5).shape == (0, 5)


def test_digits_get_better_probabilities_than_the_library_gives():
    """The same machine; the calibration is learned from rows it has not seen."""
    x, y = load_digits(return_X_y=True)
    x, test, y, truth = train_test_split(x / 16, y, test_size=0.5, random_state=0, stratify=y)
    machine = SVC(C=10, gamma="scale", decision_function_shape="ovo")
    seen = cross_val_predict(machine, x, y, cv=3, method="decision_function")
    fitted = machine.fit(x, y)

    coupling = fit_coupling(seen, y, np.ones(len(y)), 10)

    ours = log_loss(truth, coupling.probabilities(fitted.decision_function(test)))
    library = CalibratedClassifierCV(SVC(C=10, gamma="scale"), cv=3, ensemble=False).fit(x, y)
    assert ours < 0.9 * log_loss(truth, library.predict_proba(test))
