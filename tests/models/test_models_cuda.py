"""The networks on a CUDA device: as good as on the CPU, repeatable, in time, and a saved model needs no device.

Run it where there is one: `pytest -m gpu tests/models/test_models_cuda.py`; on a machine that has only pytest, torch,
numpy, pandas with pyarrow, pydantic, safetensors and zstandard:

    PYTHONPATH=operator:trainer_image:tests python -m pytest -c /dev/null --rootdir=. --noconftest tests/models/test_models_cuda.py
"""

import time

import numpy as np
import pandas as pd
import pytest
import torch

from kubeautoml.api.dataset import ColumnType
from kubeautoml.api.metrics import TaskType
from kubeautoml_trainer.data.base import Column, Rows, Schema
from kubeautoml_trainer.models import (
    family_named,
    in_context,
    neural_network,
    tabm,
    torch_in_context,
    torch_net,
    torch_tabm,
)
from kubeautoml_trainer.models.base import DataShape, FitContext
from kubeautoml_trainer.models.pipeline import load_pipeline
from kubeautoml_trainer.tasks import task_for

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device: torch.cuda.is_available() is false"),
]
CLS, REG = TaskType.TABULAR_CLASSIFICATION, TaskType.TABULAR_REGRESSION
QUICK = {
    "NeuralNetwork": {"epochs": 24, "width": 128, "batch_size": 128},
    "TabM": {"members": 8, "layers": 2, "width": 64, "bins": 16, "embedding": 8, "epochs": 24, "learning_rate": 0.004},
}
ENDLESS = {"NeuralNetwork": {"epochs": 10**6}, "TabM": {"epochs": 10**6}}
EVERY_NETWORK = pytest.mark.parametrize("name", sorted(QUICK))
EVERY_TASK = pytest.mark.parametrize("classes", [0, 2, 3], ids=["numbers", "two classes", "three classes"])


def make_schema(classes: int, quantiles: tuple[float, ...] = ()) -> Schema:
    columns = (
        *(Column(f"x{k}", ColumnType.NUMBER) for k in range(6)),
        Column("gappy", ColumnType.NUMBER, missing_fraction=0.2),
        Column("colour", ColumnType.CATEGORY),
        Column("city", ColumnType.CATEGORY),
    )
    return Schema("t", columns, tuple("abc"[:classes]), quantiles=quantiles)


def make_rows(classes: int, n: int = 3000, seed: int = 0) -> Rows:
    """A target of numbers, a few colours and thirty cities, with noise."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 6))
    gappy = np.where(rng.random(n) < 0.2, np.nan, rng.normal(size=n))
    colour = rng.choice(np.array(["red", "green", "blue"], dtype=object), n)
    city = rng.integers(0, 30, n)
    signal = x[:, 0] * x[:, 1] + np.sin(2 * x[:, 2]) + (colour == "red") + 0.1 * city + 0.3 * rng.normal(size=n)
    frame = pd.DataFrame({f"x{k}": x[:, k] for k in range(6)})
    frame["gappy"] = gappy
    frame["colour"] = pd.Series(colour, dtype=object)
    frame["city"] = pd.Series([f"city {c}" for c in city], dtype=object)
    y = signal if not classes else np.searchsorted(np.quantile(signal, np.arange(1, classes) / classes), signal)
    return Rows(frame, y.astype(np.int64) if classes else y)


def fit(name: str, classes: int, parameters=None, quantiles: tuple[float, ...] = (), **changes):
    schema = make_schema(classes, quantiles)
    task = task_for(CLS if classes else REG, schema)
    metric = "LogLoss" if classes else "PinballLoss" if quantiles else "Rmse"
    values = {"task": task, "metric": metric, "seed": 5, "threads": 4, "deadline": time.monotonic() + 300}
    chosen = QUICK[name] if parameters is None else parameters
    rows = changes.pop("rows", None) or make_rows(classes)
    context = FitContext(**(values | changes))
    return family_named(name).fit(rows, make_rows(classes, 1000, 1), schema, chosen, context), task


@EVERY_NETWORK
@EVERY_TASK
def test_a_fit_on_the_device_is_as_good_as_one_on_the_cpu(name, classes, monkeypatch):
    """The objective on fresh rows differs by a tenth at most; and the device was used."""
    fresh, metric = make_rows(classes, 2000, 2), "LogLoss" if classes else "Rmse"
    torch.cuda.reset_peak_memory_stats()
    fast, task = fit(name, classes)
    used = torch.cuda.max_memory_allocated()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    on_cpu, _ = fit(name, classes)

    device, cpu = (task.score(metric, fresh.y, p.predict(fresh.frame), None) for p in (fast, on_cpu))

    assert used > 0
    assert device < 1.1 * cpu
    floor = task.score(metric, fresh.y, np.tile(task.prior(fresh.y, None), (len(fresh), 1)), None)
    assert device < 0.8 * floor


@EVERY_NETWORK
@EVERY_TASK
def test_a_saved_model_predicts_with_numpy_what_the_device_computes(name, classes, tmp_path):
    """Within 1e-4 of the weights run by torch on the device; on rows with levels that training never had."""
    fitted, _ = fit(name, classes)
    fresh = make_rows(classes, 500, 3)
    fresh.frame.loc[:20, "city"] = "Atlantis"
    fitted.save(tmp_path)

    by_numpy = load_pipeline(tmp_path).predict(fresh.frame)

    by_device = DEVICE_PREDICTIONS[name](fitted.model, fitted.features.transform(fresh.frame))
    assert np.abs(by_numpy - by_device).max() < 1e-4 * max(1.0, float(np.abs(by_numpy).max()))


def on_device(weights, x) -> tuple:
    """Weights, numbers and codes as tensors on the device."""
    numbers = torch.as_tensor(x.numbers, dtype=torch.float32, device="cuda")
    codes = torch.as_tensor(x.codes, dtype=torch.int64, device="cuda")
    return {name: torch.as_tensor(a, device="cuda") for name, a in weights.items()}, numbers, codes


def network_predictions(model, x) -> np.ndarray:
    out = neural_network.forward(torch_net.TORCH, model.net, *on_device(model.weights, x))
    return neural_network.prediction(out.cpu().numpy(), model.target)


def tabm_predictions(model, x) -> np.ndarray:
    out = tabm.forward(torch_tabm.TORCH, model.net, *on_device(model.weights, x))
    return tabm.decoded(tabm.members_mean(out.cpu().numpy(), model.target is None), model.target)


DEVICE_PREDICTIONS = {"NeuralNetwork": network_predictions, "TabM": tabm_predictions}


@EVERY_NETWORK
@EVERY_TASK
def test_the_same_seed_twice_gives_the_same_predictions(name, classes):
    """To the last bit, on one device."""
    fresh = make_rows(classes, 500, 4).frame

    first, second = (fit(name, classes)[0].predict(fresh) for _ in range(2))

    assert np.array_equal(first, second)


@EVERY_NETWORK
def test_a_deadline_is_kept_on_the_device(name):
    """A fit without end returns a usable model about when it must."""
    fit(name, 2)  # the device's start is not what is measured
    started = time.monotonic()

    fitted, task = fit(name, 2, ENDLESS[name], rows=make_rows(2, 50_000), deadline=started + 4.0)
    took = time.monotonic() - started

    fresh = make_rows(2, 2000, 2)
    assert took < 4.0 + 2.0
    assert task.score("RocAuc", fresh.y, fitted.predict(fresh.frame), None) > 0.8


@EVERY_NETWORK
def test_quantiles_are_learned_on_the_device(name):
    """Four of five fresh values lie between the first and the ninth decile."""
    fresh = make_rows(0, 2000, 2)
    fitted, _ = fit(name, 0, quantiles=(0.1, 0.5, 0.9))

    got = fitted.predict(fresh.frame)

    assert np.all(np.diff(got, axis=1) >= 0)
    assert 0.7 < np.mean((fresh.y >= got[:, 0]) & (fresh.y <= got[:, 2])) < 0.9


@pytest.mark.parametrize("classes", [0, 3], ids=["numbers", "three classes"])
def test_the_whole_tabm_runs_on_the_device(classes):
    """The portfolio's first entry for accelerators, 32 members of 512 units: better than the small one, or as good."""
    fresh, metric = make_rows(classes, 2000, 2), "LogLoss" if classes else "Rmse"
    shape = DataShape(CLS if classes else REG, 3000, 9, 2, 0, max(1, classes), accelerated=True)
    first = family_named("TabM").portfolio(shape)[0][1]

    (whole, task), (small, _) = fit("TabM", classes, dict(first)), fit("TabM", classes)

    large, little = (task.score(metric, fresh.y, p.predict(fresh.frame), None) for p in (whole, small))
    assert large < 1.1 * little


@pytest.mark.parametrize("head", ["class", "number"])
def test_the_in_context_network_answers_on_the_device_as_in_numpy(head):
    """Within 1e-4, by the function that a fit gives its model where there is a device."""
    from models.foundation_factories import TINY, make_network

    rng, network = np.random.default_rng(0), make_network()
    x, asked = rng.normal(size=(150, 10)).astype(np.float32), rng.normal(size=(300, 10)).astype(np.float32)
    y = rng.integers(0, 3, 150).astype(np.float32)

    by_device = torch_in_context.on_device(network, x, y, head)(asked)

    memory = in_context.remember(in_context.NUMPY, TINY, network.weights, x, y)
    by_numpy = in_context.answer(in_context.NUMPY, TINY, network.weights, memory, asked, head)
    assert torch_in_context.has_device()
    assert np.abs(by_device - by_numpy).max() < 1e-4


def fit_pictures(parameters=None, classes: int = 3, n: int = 600, **changes):
    from models.picture_factories import make_picture_context, make_picture_rows, make_picture_schema

    schema = make_picture_schema(classes, 16, 3)
    context = make_picture_context(schema, threads=4, **changes)
    quick = {"epochs": 8, "batch_size": 64, "learning_rate": 0.01, **(parameters or {})}
    train, valid = (make_picture_rows(classes, n, 16, 3, seed=s) for s in (0, 1))
    return family_named("ConvNet").fit(train, valid, schema, quick, context), context.task


@pytest.mark.parametrize("classes", [0, 3], ids=["numbers", "three classes"])
def test_a_network_for_pictures_learns_on_the_device(classes, tmp_path):
    """bfloat16 and channels last; what is saved answers on the CPU as it was learned."""
    from models.picture_factories import make_picture_rows

    fresh = make_picture_rows(classes, 300, 16, 3, seed=2)
    torch.cuda.reset_peak_memory_stats()

    fitted, task = fit_pictures(classes=classes)

    assert torch.cuda.max_memory_allocated() > 0
    fitted.save(tmp_path)
    told = load_pipeline(tmp_path).predict(fresh.frame)
    assert task.score("Accuracy" if classes else "R2", fresh.y, told, None) > (0.95 if classes else 0.8)


def test_a_network_for_pictures_is_the_same_with_the_same_seed():
    """To the last bit, on one device, all augmentations on."""
    from models.picture_factories import make_picture_rows

    fresh = make_picture_rows(3, 100, 16, 3, seed=2).frame
    how = {"rotation": 10.0, "crop": 0.2, "colour": 0.2, "cutout": 0.2, "mixup": 0.3, "cutmix": 0.3, "dropout": 0.2}

    first, second = (fit_pictures(how)[0].predict(fresh) for _ in range(2))

    assert np.array_equal(first, second)


def test_memory_of_the_device_that_is_too_small_is_found(monkeypatch):
    """The estimate is switched off, and most of the memory taken: the batch is computed in parts."""
    from kubeautoml_trainer.models import torch_loop, torch_memory

    monkeypatch.setattr(torch_memory, "_found", {})
    monkeypatch.setattr(torch_loop, "fitting_rows", lambda batch, *rest: batch)
    torch.cuda.set_per_process_memory_fraction(2e9 / torch.cuda.mem_get_info()[1])
    try:
        fitted, _ = fit_pictures({"batch_size": 16384, "width": 64, "epochs": 1}, n=16384)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()

    assert fitted.model.at_once < 16384


def test_recorded_steps_are_the_steps(monkeypatch):
    """With all that draws or blends: the predictions are those of a training that records nothing."""
    from kubeautoml_trainer.models import torch_recorded
    from models.picture_factories import make_picture_rows

    fresh, counted = make_picture_rows(3, 200, 16, 3, seed=2).frame, []
    record = torch_recorded.RecordedSteps._record
    monkeypatch.setattr(
        torch_recorded.RecordedSteps, "_record", lambda self, *step: counted.append(step[2]) or record(self, *step)
    )
    how = {
        "epochs": 12,
        "rotation": 10.0,
        "crop": 0.2,
        "colour": 0.2,
        "cutout": 0.2,
        "mixup": 0.3,
        "cutmix": 0.3,
        "dropout": 0.2,
    }

    played, computed = [], []
    for optimiser in ("adamw", "nesterov"):
        monkeypatch.setattr(torch_recorded, "_MOST", 8)
        played.append(fit_pictures({**how, "optimiser": optimiser})[0].predict(fresh))
        monkeypatch.setattr(torch_recorded, "_MOST", 0)
        computed.append(fit_pictures({**how, "optimiser": optimiser})[0].predict(fresh))

    assert {"", "mixup", "cutmix"} == set(counted)
    np.testing.assert_allclose(played, computed, atol=1e-3)


def test_steps_that_cannot_be_recorded_are_computed(monkeypatch, caplog):
    """An augmentation that reads a number back from the device: said, and trained all the same."""
    from kubeautoml_trainer.models import torch_conv_fit
    from models.picture_factories import make_picture_rows

    fresh, augment = make_picture_rows(3, 300, 16, 3, seed=2), torch_conv_fit.Prepared.augment

    def reading(self, raw, generator, kind):
        assert float(raw[0].float().mean()) >= 0
        return augment(self, raw, generator, kind)

    monkeypatch.setattr(torch_conv_fit.Prepared, "augment", reading)
    with caplog.at_level("WARNING"):
        fitted, task = fit_pictures({"dropout": 0.1, "shift": 0.05})

    assert "steps are not recorded" in caplog.text
    assert task.score("Accuracy", fresh.y, fitted.predict(fresh.frame), None) > 0.95


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_several_devices_train_one_network():
    """By DistributedDataParallel over nccl: as good as one."""
    from models.picture_factories import make_picture_rows

    fresh = make_picture_rows(3, 300, 16, 3, seed=2)

    fitted, task = fit_pictures()

    assert task.score("Accuracy", fresh.y, fitted.predict(fresh.frame), None) > 0.95


def test_text_encoders_are_read_and_tuned_on_the_device(tmp_path):
    """Frozen vectors as onnxruntime says them; a fine-tuned one predicts on the CPU as well as on the device it was trained on."""
    for library in ("transformers", "onnxruntime"):
        pytest.importorskip(library, reason=f"needs {library}: make setup installs it")
    from kubeautoml_trainer.models import bound_families
    from models.encoder_factories import TEXTS, write_encoder

    (family,) = bound_families({"TextEncoder": write_encoder(tmp_path / "bert")})
    encoder = family.encoder
    fast, slow = encoder.encode(list(TEXTS)), encoder._session
    assert encoder._compute is not None
    one = encoder.tokens.of([TEXTS[0]])[0][None]
    vector = slow.run(None, {"ids": one})[0][0]
    np.testing.assert_allclose(fast[0], vector / np.linalg.norm(vector), atol=1e-3)

    schema = Schema("y", (Column("text", ColumnType.TEXT),), ("n", "p"))
    y = np.arange(200) % 2
    words = np.where(y == 1, "good movie bad film", "bad film good movie")
    rows = Rows(pd.DataFrame({"text": pd.Series(list(words), dtype=object)}), y.astype(np.int64))
    context = FitContext(task_for(TaskType.TEXT_CLASSIFICATION, schema), "Accuracy", 0, 4, time.monotonic() + 120)
    fitted = family.fit(rows, rows, schema, {"tuning": "fine", "learning_rate": 0.003, "tuning_epochs": 8}, context)
    fitted.save(tmp_path / "fitted")
    assert (load_pipeline(tmp_path / "fitted").predict(rows.frame).argmax(axis=1) == y).mean() > 0.95
