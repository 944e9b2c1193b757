"""Networks as ONNX: written once by whoever trained them, run by onnxruntime on the CPU, here and in the server alike; no torch.

A file holds weights, preprocessing and everything else; one that points to files beside it is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from kubeautoml.api.errors import BundleError

FILE = "network.onnx"
ROWS = "rows"


@dataclass
class OnnxNetwork:
    """A network in ONNX, with float32 (rows, outputs) as its only output.

    data: the file's bytes. at_once: rows run together, which bounds the memory.
    """

    data: bytes = field(repr=False)
    at_once: int = 256
    _sessions: dict[int, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def run(self, inputs: Mapping[str, np.ndarray], threads: int = 1) -> np.ndarray:
        """float32 (n, outputs) of inputs whose first axis is n, 1 or more."""
        session = self._session(threads)
        n = len(next(iter(inputs.values())))
        parts = [
            session.run(None, {k: a[first : first + self.at_once] for k, a in inputs.items()})[0]
            for first in range(0, n, self.at_once)
        ]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    @property
    def inputs(self) -> dict[str, tuple[int | str, ...]]:
        """Shape of each input by name; a word stands for a number that is free."""
        return {i.name: tuple(i.shape) for i in self._session(1).get_inputs()}

    @property
    def outputs(self) -> int:
        """Columns of a prediction."""
        return int(self._session(1).get_outputs()[0].shape[1])

    def save(self, folder: Path) -> None:
        (folder / FILE).write_bytes(self.data)

    def _session(self, threads: int) -> Any:
        if threads not in self._sessions:
            import onnxruntime

            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
            options.log_severity_level = 4  # what it would print, its exceptions say, too
            # threads that spin while they wait take the cores from the other pods of a node
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
            self._sessions[threads] = onnxruntime.InferenceSession(
                self.data, options, providers=["CPUExecutionProvider"]
            )
        return self._sessions[threads]


def load_network(
    folder: Path, inputs: Mapping[str, Sequence[int | str]], outputs: int, *, at_once: int = 256
) -> OnnxNetwork:
    """Read a network that must have exactly these inputs (their shapes without the first axis; a word for one that is free) and so many
    outputs.

    Raises:
        BundleError: absent, damaged, or another network.
    """
    path = folder / FILE
    try:
        network = OnnxNetwork(path.read_bytes(), at_once)
        found, width = network.inputs, network.outputs
    except Exception as error:
        raise BundleError(f"{path} cannot be read: {str(error)[:300]}; the model is damaged, train it again") from error
    expected = {name: tuple(shape) for name, shape in inputs.items()}
    if {name: tuple(shape[1:]) for name, shape in found.items()} != expected or width != outputs:
        raise BundleError(
            f"{path} must have the inputs {expected} and {outputs} outputs, got {found} and {width}; the model is damaged, train it again"
        )
    return network
