"""Networks for pictures: they learn, predict without torch what torch computed, and load only what they wrote."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pandas as pd
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from kubeautoml.api.errors import BundleError
from kubeautoml_trainer.models import EVERY_FAMILY, FAMILIES, family_named
from kubeautoml_trainer.models.conv_net import DEFAULTS, ConvNet
from kubeautoml_trainer.models.onnx_network import FILE, OnnxNetwork
from kubeautoml_trainer.models.pipeline import load_pipeline
from kubeautoml_trainer.models.space import Choice, Float, Int
from kubeautoml_trainer.models.torch_conv import Architecture, Normaliser, Scaler, Served, resizing
from kubeautoml_trainer.models.torch_conv import ConvNet as Net
from kubeautoml_trainer.models.torch_conv_fit import net_size, written
from kubeautoml_trainer.models.torch_pictures import Pictures
from models.picture_factories import (
    make_picture_context,
    make_picture_rows,
    make_picture_schema,
    make_picture_shape,
)

QUICK = {"epochs": 8, "batch_size": 16, "width": 8, "learning_rate": 0.01}
CPU = torch.device("cpu")
EVERY_TASK = pytest.mark.parametrize("classes", [0, 3], ids=["numbers", "three classes"])


def fit(classes: int = 3, parameters=None, rows=None, valid=None, schema=None, **context):
    schema = schema or make_picture_schema(classes)
    rows = rows or make_picture_rows(classes)
    return ConvNet().fit(rows, valid, schema, QUICK | (parameters or {}), make_picture_context(schema, **context))


@EVERY_TASK
def test_it_beats_the_constant_prediction(classes):
    """On fresh pictures, with another column beside them or without."""
    for beside in (False, True):
        schema = make_picture_schema(classes, beside=beside)
        train, valid, fresh = (make_picture_rows(classes, seed=s, beside=beside) for s in range(3))
        context = make_picture_context(schema)

        fitted = ConvNet().fit(train, valid, schema, QUICK, context)

        prediction = fitted.predict(fresh.frame)
        score = context.task.score("Accuracy" if classes else "R2", fresh.y, prediction, None)
        assert prediction.dtype == np.float32 and prediction.shape == (90, max(1, classes))
        assert score > (0.85 if classes else 0.6)
        assert fitted.best_iteration is not None and 1 <= fitted.best_iteration <= 8


@EVERY_TASK
def test_save_and_load_agree_to_the_last_bit(classes, tmp_path):
    """Pictures that are missing are black ones; no file holds a pickle."""
    schema = make_picture_schema(classes, beside=True)
    fitted = fit(classes, rows=make_picture_rows(classes, beside=True), schema=schema)
    fresh = make_picture_rows(classes, 20, seed=2, beside=True).frame
    fresh.loc[3, "photo"], fresh.loc[4, "colour"] = None, "violet"

    fitted.save(tmp_path)
    loaded = load_pipeline(tmp_path)

    assert np.array_equal(loaded.predict(fresh), fitted.predict(fresh))
    assert loaded.best_iteration == fitted.best_iteration
    names = sorted(p.name for p in tmp_path.rglob("*") if p.is_file())
    assert set(names) <= {"features.json", "features.safetensors", "network.json", FILE, "pipeline.json", "target.json"}


def test_quantiles_of_a_number_are_learned():
    """In order, and about four of five fresh values lie between the first and the ninth decile."""
    schema = replace(make_picture_schema(0), quantiles=(0.1, 0.5, 0.9))
    parts = [make_picture_rows(0, 240, seed=s) for s in range(3)]
    noise = np.random.default_rng(0).normal(scale=25.0, size=(3, 240))
    train, valid, fresh = (replace(r, y=r.y + n) for r, n in zip(parts, noise, strict=True))
    context = make_picture_context(schema, metric="PinballLoss")

    got = ConvNet().fit(train, valid, schema, QUICK, context).predict(fresh.frame)

    assert got.shape == (240, 3) and np.all(np.diff(got, axis=1) >= 0)
    assert np.mean((fresh.y >= got[:, 0]) & (fresh.y <= got[:, 2])) == pytest.approx(0.8, abs=0.15)


def test_the_same_seed_gives_the_same_model():
    """To the last bit."""
    fresh = make_picture_rows(seed=2).frame

    first, second, other = (fit(seed=s).predict(fresh) for s in (3, 3, 4))

    assert np.array_equal(first, second) and not np.array_equal(first, other)


def test_one_row_is_predicted_as_it_is_among_others():
    """With any number of threads."""
    fitted, frame = fit(), make_picture_rows(seed=2).frame

    alone = np.vstack([fitted.predict(frame.iloc[k : k + 1]) for k in range(5)])
    fitted.set_threads(2)

    assert np.allclose(alone, fitted.predict(frame)[:5], atol=1e-6)


def test_weights_of_rows_count():
    """Where one class weighs nothing, it is never said."""
    rows = make_picture_rows()
    weighted = replace(rows, weight=np.where(rows.y == 1, 1e-9, 1.5))

    told = fit(rows=weighted).predict(make_picture_rows(seed=2).frame).argmax(axis=1)

    assert 1 not in told


@pytest.mark.parametrize("views", ["none", "mirror", "shift"])
@pytest.mark.parametrize("stored", [(12, 12, 1), (24, 36, 3)], ids=["as it is", "smaller"])
def test_onnxruntime_computes_what_torch_does(views, stored):
    """Scaling, normalisation, the network with other columns, and the views of a picture: to 1e-5."""
    torch.manual_seed(0)
    height, width, channels = stored
    size = net_size(height, width, 12)
    net = Net(Architecture(channels, min(size), 2, 3, width=8, activation="silu"))
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.running_mean)
            torch.nn.init.uniform_(module.weight, 0.5, 2.0)
    served = Served(
        Scaler(height, width, *size), Normaliser(torch.full((channels,), 0.4), torch.full((channels,), 0.2)), net, views
    )
    pictures = np.random.default_rng(0).integers(0, 256, (7, *stored), dtype=np.uint8)
    numbers = np.random.default_rng(1).normal(size=(7, 2)).astype(np.float32)

    by_onnx = OnnxNetwork(written(served, stored, 2)).run({"pictures": pictures, "numbers": numbers})

    with torch.no_grad():
        by_torch = served(torch.from_numpy(pictures), torch.from_numpy(numbers)).numpy()
    assert np.abs(by_onnx - by_torch).max() < 1e-5 * max(1.0, np.abs(by_torch).max())


def test_training_sees_the_pixels_that_the_server_computes():
    """A picture scaled for training, as bytes, is what the network's own scaling gives."""
    pictures = make_picture_rows(n=5, side=24, channels=3).frame["photo"].to_numpy()
    scaler = Scaler(24, 24, 10, 10)

    (kept, _), *_ = Pictures(pictures, np.zeros((5, 0), np.float32), (24, 24, 3), scaler, CPU).batches(
        [torch.arange(5)]
    )

    assert kept.dtype == torch.uint8
    assert torch.equal(kept.float(), scaler(torch.from_numpy(np.stack(list(pictures)))))


def test_scaling_keeps_means_and_even_pictures():
    """A white picture stays white, and a ramp a ramp."""
    ramp = torch.linspace(0, 100, 64)

    small = resizing(64, 16) @ ramp

    assert torch.allclose(resizing(7, 20).sum(dim=1), torch.ones(20))
    assert torch.allclose(small.mean(), ramp.mean(), atol=0.5)
    assert torch.allclose(small[2:-1] - small[1:-2], torch.full((13,), float(small[8] - small[7])), atol=1e-3)


def test_pictures_that_do_not_fit_the_device_are_read_ahead():
    """The same batches in the same order; a reader that is left behind ends."""
    pictures = make_picture_rows(n=40, side=12).frame["photo"].to_numpy().copy()
    pictures[7] = None
    numbers, scaler = np.arange(80, dtype=np.float32).reshape(40, 2), Scaler(12, 12, 8, 8)
    orders = torch.randperm(40, generator=torch.Generator().manual_seed(0)).split(7)

    kept, read = (Pictures(pictures, numbers, (12, 12, 1), scaler, CPU, resident) for resident in (True, False))
    both = list(zip(kept.batches(orders), read.batches(orders), strict=True))

    assert kept.is_resident and not read.is_resident
    assert all(torch.equal(a, b) for one, other in both for a, b in zip(one, other, strict=True))
    assert [torch.allclose(a, b) for a, b in zip(kept.moments(), read.moments(), strict=True)] == [True, True]
    started = read.batches(orders)
    next(started)
    started.close()


def test_a_reader_that_fails_says_so_where_the_batch_is_wanted():
    """Not in a thread that nobody hears."""
    broken = make_picture_rows(n=4).frame["photo"].to_numpy().copy()
    broken[2] = np.zeros((5, 5, 1), dtype=np.uint8)
    pictures = Pictures(broken, np.zeros((4, 0), np.float32), (8, 8, 1), Scaler(8, 8, 8, 8), CPU, resident=False)

    with pytest.raises(ValueError, match="broadcast"):
        list(pictures.batches([torch.arange(4)]))


def fitted_folder(folder: Path) -> Path:
    fit(parameters={"epochs": 1}).save(folder)
    return folder


@pytest.mark.parametrize("damage", ["absent", "cut", "foreign", "other shape", "beside"])
def test_a_damaged_model_is_refused(damage, tmp_path):
    """One sentence that names the file; never an answer of something else."""
    path = fitted_folder(tmp_path) / FILE
    if damage == "absent":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:1000])
    elif damage == "foreign":
        path.write_bytes(b"\x80\x04no network")
    elif damage == "other shape":
        stored = json.loads((tmp_path / "network.json").read_text())
        (tmp_path / "network.json").write_text(json.dumps(stored | {"shape": [9, 9, 1]}))
    else:
        path.write_bytes(network_with_weights_elsewhere(tmp_path))

    with pytest.raises(BundleError, match=r"network.onnx .*train it again"):
        load_pipeline(tmp_path)


def network_with_weights_elsewhere(folder: Path) -> bytes:
    """Reads a file beside it, as ONNX allows."""
    (folder / "secret").write_bytes(np.ones(3, np.float32).tobytes())
    weights = numpy_helper.from_array(np.ones((1, 3), np.float32), "w")
    weights.ClearField("raw_data")
    weights.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "secret"), ("length", "12")):
        entry = weights.external_data.add()
        entry.key, entry.value = key, value
    nodes = [
        helper.make_node("Cast", ["pictures"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["f"], ["m"], axes=[1, 2, 3], keepdims=0),
        helper.make_node("Unsqueeze", ["m", "one"], ["u"]),
        helper.make_node("MatMul", ["u", "w"], ["out"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("pictures", TensorProto.UINT8, ["rows", 8, 8, 1])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, ["rows", 3])],
        [weights, numpy_helper.from_array(np.array([1]), "one")],
    )
    return onnx.helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]).SerializeToString()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("side", [8, 28, 128])
@pytest.mark.parametrize("accelerated", [False, True])
def test_portfolio_and_space_are_of_known_parameters(channels, side, accelerated):
    """Every name has a default; every choice is one that a network can be made of."""
    shape = make_picture_shape(make_picture_schema(side=side, channels=channels), accelerated=accelerated)
    space, portfolio = ConvNet().space(shape), ConvNet().portfolio(shape)

    assert set(space) <= set(DEFAULTS) and all(set(p) <= set(DEFAULTS) for _, p in portfolio)
    assert len({json.dumps(p, sort_keys=True) for _, p in portfolio}) == len(portfolio)
    extremes = [{n: _end(s, last) for n, s in space.items()} for last in (False, True)]
    for settings in (*extremes, *(p for _, p in portfolio)):
        chosen = {**DEFAULTS, **settings}
        seen = min(side, int(chosen["pixels"]))
        names = ("width", "stages", "blocks", "kernel", "norm", "activation", "dropout")
        net = Net(Architecture(channels, seen, 0, 3, **{n: chosen[n] for n in names})).eval()
        assert net(torch.zeros(1, channels, seen, seen), torch.zeros(1, 0)).shape == (1, 3)


def _end(spec: Float | Int | Choice, last: bool):
    if isinstance(spec, Choice):
        return spec.choices[-1 if last else 0]
    return spec.high if last else spec.low


def test_it_takes_tables_with_one_column_of_pictures():
    """And is no family for tables without."""
    schema = make_picture_schema()

    assert ConvNet().fits(make_picture_shape(schema))
    assert not ConvNet().fits(make_picture_shape(schema, images=0))
    assert not ConvNet().fits(make_picture_shape(schema, images=2))
    assert not ConvNet().fits(make_picture_shape(schema, rows=10))
    assert family_named("ConvNet") in EVERY_FAMILY and family_named("ConvNet") not in FAMILIES


def test_grey_pictures_are_mirrored_only_where_that_is_wanted():
    """Mirrored digits are no digits; photographs stay what they are."""
    from kubeautoml_trainer.models.torch_conv_fit import augmentation

    found = [augmentation({**DEFAULTS, "flip": f}, c).flip for f in ("auto", "yes", "no") for c in (1, 3)]

    assert found == [False, True, True, True, False, False]


def test_a_loaded_model_needs_no_torch(tmp_path):
    """The server does not have it."""
    folder = fitted_folder(tmp_path)
    script = f"""
import sys
sys.modules["torch"] = None
from pathlib import Path
from kubeautoml_trainer.models.pipeline import load_pipeline
from models.picture_factories import make_picture_rows
print(load_pipeline(Path({str(folder)!r})).predict(make_picture_rows(n=2).frame).shape)
"""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent.parent), *sys.path])}

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, env=env)

    assert (done.stdout.strip(), done.returncode) == ("(2, 3)", 0), done.stderr


def test_a_fit_imports_no_compiler():
    """Torch's takes longer to import than many a fit takes; neither training nor writing the network needs it."""
    script = """
import sys
from kubeautoml_trainer.models import family_named
from models.picture_factories import make_picture_context, make_picture_rows, make_picture_schema
schema = make_picture_schema()
context = make_picture_context(schema)
family_named("ConvNet").fit(make_picture_rows(), None, schema, {"epochs": 1, "width": 8, "optimiser": "nesterov"}, context)
print("torch._dynamo" in sys.modules, "onnxscript" in sys.modules)
"""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent.parent), *sys.path])}

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, env=env)

    assert (done.stdout.strip(), done.returncode) == ("False False", 0), done.stderr


def test_no_pictures_at_all_is_no_crash():
    """Every one missing: fitted, and predicted like any other."""
    rows = make_picture_rows(n=60)
    empty = pd.DataFrame({"photo": pd.Series([None] * 60, dtype=object)})

    assert np.isfinite(fit(rows=replace(rows, frame=empty)).predict(empty)).all()
