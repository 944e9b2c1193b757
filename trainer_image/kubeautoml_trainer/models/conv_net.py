"""Small residual networks for pictures, trained from scratch; their architecture is searched. Trained by torch, predicted by onnxruntime.

`torch_conv_fit` trains and is imported only in `fit`. Other columns of the table come in as numbers beside the picture's vector.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kubeautoml_trainer.data.base import Rows, Schema
from kubeautoml_trainer.features import fit_features
from kubeautoml_trainer.models.base import DataShape, FitContext
from kubeautoml_trainer.models.onnx_network import OnnxNetwork
from kubeautoml_trainer.models.picture_model import RECIPE, PictureModel, load_picture_model, picture_shape
from kubeautoml_trainer.models.picture_rows import picture_rows
from kubeautoml_trainer.models.pipeline import FittedPipeline
from kubeautoml_trainer.models.space import Choice, Float, Int, Parameters, Space
from kubeautoml_trainer.models.target import standard_target

_FEW_ROWS = 50  # below, nothing is learned from scratch that colours and edges do not say; a guess
_SMALL = 40  # pixels a side up to which pictures are small; larger ones are seen at 64 first
_SEEN = 200_000  # pictures that a training should see, the same one again and again; a guess
_LEAST_EPOCHS, _MOST_EPOCHS = 8, 40

DEFAULTS: Parameters = {
    "width": 16,
    "stages": 2,
    "blocks": 1,
    "kernel": 3,
    "norm": "batch",
    "activation": "relu",
    "dropout": 0.0,
    "pixels": 64,
    "epochs": 24,
    "batch_size": 64,
    "learning_rate": 0.004,
    "rate_by": "given",
    "weight_decay": 0.02,
    "optimiser": "adamw",
    "schedule": "one_cycle",
    "smoothing": 0.1,
    "flip": "auto",
    "shift": 0.07,
    "crop": 0.0,
    "rotation": 0.0,
    "shear": 0.0,
    "colour": 0.0,
    "cutout": 0.0,
    "mixup": 0.0,
    "cutmix": 0.0,
    "views": "none",
}
"""Of a small network for small pictures. Shifts help everywhere; the rest is switched on by the portfolio or the search."""


class ConvNet:
    """Residual convolutional networks."""

    name = "ConvNet"
    interpretable = False
    relative_cost = 40.0
    rounds_parameter = "epochs"

    def fits(self, shape: DataShape) -> bool:
        """One column of pictures, with or without others, and enough rows."""
        return shape.images == 1 and shape.rows >= _FEW_ROWS

    def space(self, shape: DataShape) -> Space:
        return {
            "width": Int(8, 64, step=8) if shape.accelerated else Int(8, 32, step=8),
            "stages": Int(2, 4),
            "blocks": Int(1, 2),
            "kernel": Choice((3, 5)),
            "norm": Choice(("batch", "group")),
            "activation": Choice(("relu", "gelu", "silu")),
            "dropout": Float(0.0, 0.5),
            "pixels": Choice((32, 64, 96, 128) if shape.side > _SMALL else (64,)),
            "batch_size": Choice((32, 64, 128, 256)),
            "rate_by": Choice(("given", "test")),
            "learning_rate": Float(0.0005, 0.02, log=True, when={"rate_by": "given"}),
            "weight_decay": Float(0.0005, 0.1, log=True),
            "optimiser": Choice(("adamw", "nesterov")),
            "schedule": Choice(("one_cycle", "cosine")),
            "smoothing": Float(0.0, 0.2),
            "flip": Choice(("auto", "yes", "no")),
            "shift": Float(0.0, 0.15),
            "crop": Float(0.0, 0.5),
            "rotation": Float(0.0, 20.0),
            "shear": Float(0.0, 10.0),
            "colour": Float(0.0, 0.4),
            "cutout": Float(0.0, 0.5),
            "mixup": Float(0.0, 0.5),
            "cutmix": Float(0.0, 0.5),
            "views": Choice(("none", "mirror", "shift")),
        }

    def portfolio(self, shape: DataShape) -> tuple[tuple[int, Parameters], ...]:
        """Behind the quickest of the other families where the picture is all there is, later where it is one column of many."""
        later = 0 if shape.features == shape.images else 6
        epochs = min(_MOST_EPOCHS, max(_LEAST_EPOCHS, _SEEN // max(1, shape.rows)))
        width = 64 if shape.accelerated else 16
        batch = 64 if shape.rows < 20_000 else 256
        of_size: Parameters = {"stages": 2} if shape.side <= _SMALL else {"stages": 3, "pixels": 64}
        start = {**of_size, "width": width, "epochs": epochs, "batch_size": batch}
        if shape.channels == 1:
            return (
                (2 + later, {**start, "rotation": 10.0, "shear": 5.0, "views": "shift"}),
                (
                    4 + later,
                    {
                        **start,
                        "width": width * 3 // 2,
                        "rotation": 12.0,
                        "crop": 0.2,
                        "cutout": 0.2,
                        "activation": "silu",
                    },
                ),
                (
                    6 + later,
                    {**start, "rotation": 8.0, "shear": 8.0, "optimiser": "nesterov", "mixup": 0.2, "dropout": 0.2},
                ),
                (
                    14 + later,
                    {**start, "width": 2 * width, "rotation": 10.0, "crop": 0.2, "cutmix": 0.3, "epochs": 2 * epochs},
                ),
            )
        return (
            (2 + later, {**start, "shift": 0.1, "cutout": 0.25, "views": "mirror"}),
            (
                4 + later,
                {**start, "width": width * 3 // 2, "crop": 0.3, "colour": 0.2, "activation": "silu", "views": "mirror"},
            ),
            (6 + later, {**start, "shift": 0.1, "optimiser": "nesterov", "cutmix": 0.4, "views": "mirror"}),
            (
                14 + later,
                {**start, "width": 2 * width, "crop": 0.3, "cutmix": 0.3, "epochs": 2 * epochs, "views": "mirror"},
            ),
        )

    def fit(
        self, train: Rows, valid: Rows | None, schema: Schema, parameters: Parameters, context: FitContext
    ) -> FittedPipeline:
        from kubeautoml_trainer.models.torch_conv_fit import fit

        settings: dict[str, Any] = {**DEFAULTS, **parameters}
        features, x = fit_features(RECIPE, train, schema, context.seed)
        shape, outputs = picture_shape(schema), context.task.outputs
        target = standard_target(train, schema, context.metric, bounded=True)
        learned, judged = picture_rows(features, x, train, valid)
        network, trained = fit(settings, shape, learned, judged, target, context)
        numbers = x.numbers.shape[1]
        model = PictureModel(OnnxNetwork(network), shape, numbers, outputs, target, trained.at_once)
        return FittedPipeline(self.name, dict(parameters), trained.epoch, features, model)

    def load(self, folder: Path) -> PictureModel:
        return load_picture_model(folder)
