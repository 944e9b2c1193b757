"""A torch module as ONNX."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kubeautoml_trainer.models.onnx_network import ROWS

OPSET = 17
"""Of 2022: everything that networks here need, and every onnxruntime that is still kept."""


@torch.no_grad()
def to_onnx(net: nn.Module, inputs: Sequence[Tensor], names: Sequence[str]) -> bytes:
    """The module as a file, weights included; the first axis of every input and of the output is free.

    By tracing: the other way that torch has imports its compiler and takes many times as long. So the module may not branch on values.

    Args:
        inputs: examples, on the CPU, with two rows.
    """
    file = io.BytesIO()
    with warnings.catch_warnings():
        # that this way is old, and that tracing sees no branches: tests compare what comes out with torch
        warnings.simplefilter("ignore")
        torch.onnx.export(
            net.eval(),
            tuple(inputs),
            file,  # type: ignore[arg-type]  # any file will do
            dynamo=False,
            opset_version=OPSET,
            input_names=list(names),
            output_names=["out"],
            dynamic_axes={name: {0: ROWS} for name in (*names, "out")},
        )
    return file.getvalue()
