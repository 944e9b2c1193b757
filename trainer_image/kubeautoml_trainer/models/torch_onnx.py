"""A torch module as ONNX."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from kubeautoml_trainer.models.onnx_network import ROWS

OPSET = 17
"""Of 2022: everything that networks here need, and every onnxruntime that is still kept."""

_GREAT = 1_024  # numbers of a tensor that are worth it


@torch.no_grad()
def to_onnx(
    net: nn.Module, inputs: Sequence[Tensor], names: Sequence[str], free: Mapping[str, Mapping[int, str]] | None = None
) -> bytes:
    """The module as a file, weights included; the first axis of every input and of the output is free.

    By tracing: the other way that torch has imports its compiler and takes many times as long. So the module may not branch on values.

    Args:
        inputs: examples, on the CPU, with two rows.
        free: by input, names of other axes that are free too.
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
            dynamic_axes={name: {0: ROWS, **(free or {}).get(name, {})} for name in (*names, "out")},
        )
    return file.getvalue()


def halved(data: bytes) -> bytes:
    """The same network with its greater weights stored in 16 bits: half the file. They are computed with in 32 bits all the same."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    model = onnx.load_model_from_string(data)
    graph, casts = model.graph, []
    for place, tensor in enumerate(graph.initializer):
        if tensor.data_type != TensorProto.FLOAT:
            continue
        values = numpy_helper.to_array(tensor)
        if values.size < _GREAT or np.abs(values).max() > np.finfo(np.float16).max:
            continue
        name = f"{tensor.name}_half"
        casts.append(helper.make_node("Cast", [name], [tensor.name], to=TensorProto.FLOAT))
        graph.initializer[place].CopyFrom(numpy_helper.from_array(values.astype(np.float16), name))
    for node in reversed(casts):
        graph.node.insert(0, node)
    stored: bytes = model.SerializeToString()
    return stored
