"""Pretrained vision backbones with a head for the task: frozen features first, then fine-tuned with a learning rate for each layer.

Takes part only where a job names weights (`spec.search.pretrained`): a folder that transformers' save_pretrained wrote, with any of its
vision models. A fitted model holds backbone and head as one ONNX file.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kubeautoml.api.errors import UsageError
from kubeautoml_trainer.data.base import Rows, Schema
from kubeautoml_trainer.features import fit_features
from kubeautoml_trainer.models.base import DataShape, FitContext
from kubeautoml_trainer.models.picture_model import RECIPE, PictureModel, load_picture_model, picture_shape
from kubeautoml_trainer.models.picture_rows import picture_rows
from kubeautoml_trainer.models.pipeline import FittedPipeline
from kubeautoml_trainer.models.space import Choice, Float, Int, Parameters, Space
from kubeautoml_trainer.models.target import standard_target

_FEW_ROWS = 10
_SMALL = 40  # pixels a side up to which pictures are shown to a backbone at its least useful size

DEFAULTS: Parameters = {
    "tuning": "frozen",
    "pixels": 128,
    "head": "linear",
    "epochs": 60,
    "tuning_epochs": 8,
    "batch_size": 64,
    "head_rate": 0.002,
    "rate_by": "given",
    "learning_rate": 0.0003,
    "layer_decay": 0.8,
    "weight_decay": 0.02,
    "dropout": 0.2,
    "smoothing": 0.1,
    "flip": "auto",
    "shift": 0.05,
    "crop": 0.2,
    "rotation": 0.0,
    "shear": 0.0,
    "colour": 0.1,
    "cutout": 0.0,
    "mixup": 0.0,
    "cutmix": 0.0,
    "views": "none",
}


@dataclass
class ImageEncoder:
    """A vision backbone by folder. folder: where its weights lie; None without any."""

    folder: Path | None = None
    name: str = "ImageEncoder"
    interpretable: bool = False
    relative_cost: float = 40.0

    def bound(self, folder: Path) -> ImageEncoder:
        """This family with the backbone in a folder.

        Raises:
            BundleError: it is none that can be used; says what must be there.
        """
        from kubeautoml_trainer.models.torch_encoder import check_backbone, load_backbone

        check_backbone(folder)
        load_backbone(folder)
        return ImageEncoder(folder)

    def fits(self, shape: DataShape) -> bool:
        """With weights, on a table with one column of pictures."""
        return self.folder is not None and shape.images == 1 and shape.rows >= _FEW_ROWS

    def space(self, shape: DataShape) -> Space:
        """Sizes count only for backbones that take any."""
        return {
            "tuning": Choice(("frozen", "fine")),
            "pixels": Choice((64, 96, 128, 160, 224)),
            "head": Choice(("linear", "hidden")),
            "head_rate": Float(0.0003, 0.02, log=True),
            "weight_decay": Float(0.001, 0.3, log=True),
            "dropout": Float(0.0, 0.6),
            "smoothing": Float(0.0, 0.2),
            "rate_by": Choice(("given", "test"), when={"tuning": "fine"}),
            "learning_rate": Float(0.00005, 0.002, log=True, when={"tuning": "fine", "rate_by": "given"}),
            "layer_decay": Float(0.5, 1.0, when={"tuning": "fine"}),
            "tuning_epochs": Int(2, 16, when={"tuning": "fine"}),
            "batch_size": Choice((32, 64, 128)),
            "crop": Float(0.0, 0.5, when={"tuning": "fine"}),
            "colour": Float(0.0, 0.4, when={"tuning": "fine"}),
            "cutmix": Float(0.0, 0.5, when={"tuning": "fine"}),
            "views": Choice(("none", "mirror")),
        }

    def portfolio(self, shape: DataShape) -> tuple[tuple[int, Parameters], ...]:
        """Frozen features early: they are looked at once, and then a head takes seconds. Fine-tuning early with an accelerator only."""
        later = 0 if shape.features == shape.images else 4
        small, large = (96, 128) if shape.side <= _SMALL else (128, 160)
        fine = 3 if shape.accelerated else 12
        return (
            (1 + later, {"pixels": small}),
            (5 + later, {"pixels": small, "head": "hidden", "dropout": 0.4}),
            (7 + later, {"pixels": large}),
            (fine + later, {"pixels": small, "tuning": "fine", "views": "mirror"}),
        )

    def fit(
        self, train: Rows, valid: Rows | None, schema: Schema, parameters: Parameters, context: FitContext
    ) -> FittedPipeline:
        """Raises UsageError without weights."""
        if self.folder is None:
            raise UsageError("ImageEncoder needs weights; name them in spec.search.pretrained")
        from kubeautoml_trainer.models.torch_encoder_fit import fit

        settings: dict[str, Any] = {**DEFAULTS, **parameters}
        features, x = fit_features(RECIPE, train, schema, context.seed)
        shape, outputs = picture_shape(schema), context.task.outputs
        target = standard_target(train, schema, context.metric, bounded=True)
        learned, judged = picture_rows(features, x, train, valid)
        network, trained, quick = fit(self.folder, settings, shape, learned, judged, target, context)
        numbers = x.numbers.shape[1]
        model = PictureModel(network, shape, numbers, outputs, target, trained.at_once, quick)
        return FittedPipeline(self.name, dict(parameters), trained.epoch, features, model)

    def load(self, folder: Path) -> PictureModel:
        return load_picture_model(folder)
