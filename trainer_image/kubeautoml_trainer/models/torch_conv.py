"""A small residual network for pictures, and what surrounds it: bringing pictures to its size, and views of a picture at prediction.

After ResNet-9 and airbench (Jordan 2024, arXiv:2404.00498): convolutions that double in width as the picture halves, a residual pair in
each stage, the greatest value of each channel at the end, and a linear layer. Other columns of the row come in as numbers beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

_OF_NUMBERS = 32  # units for the row's other columns; a guess
_SMALLEST = 4  # a stage does not halve a picture of fewer pixels a side
_STEM_SIDE = 40  # wider pictures are halved once more at the start, and once more beyond twice that


@dataclass(frozen=True)
class Architecture:
    """What the network is made of.

    channels: of the pictures. side: pixels of the shorter side. numbers: other columns. width: channels of the first convolution; each
    stage has twice those of the one before. blocks: residual pairs a stage. kernel: pixels. norm: "batch" or "group".
    """

    channels: int
    side: int
    numbers: int
    outputs: int
    width: int = 16
    stages: int = 2
    blocks: int = 1
    kernel: int = 3
    norm: str = "batch"
    activation: str = "relu"
    dropout: float = 0.0


ACTIVATIONS: Mapping[str, type[nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU}


class ConvNet(nn.Module):
    """float (n, channels, height, width) near 0, float (n, numbers) -> float (n, outputs)."""

    def __init__(self, net: Architecture) -> None:
        super().__init__()
        layers: list[nn.Module] = [_Convolution(net, net.channels, net.width, stride=2 if net.side > _STEM_SIDE else 1)]
        side = net.side // (2 if net.side > _STEM_SIDE else 1)
        halvings = 1 if side >= 16 else 0
        halvings += 1 if side > _STEM_SIDE else 0
        for _ in range(halvings):
            layers.append(nn.MaxPool2d(2))
            side //= 2
        width = net.width
        for stage in range(net.stages):
            if stage and side >= 2 * _SMALLEST - 1:
                layers.append(nn.MaxPool2d(2))
                side //= 2
            layers.append(_Convolution(net, width, 2 * width))
            width *= 2
            layers += [_Residual(net, width) for _ in range(net.blocks)]
        self.body = nn.Sequential(*layers)
        self.beside = nn.Sequential(nn.Linear(net.numbers, _OF_NUMBERS), nn.ReLU()) if net.numbers else None
        self.drop = nn.Dropout(net.dropout)
        self.head = nn.Linear(width + (_OF_NUMBERS if net.numbers else 0), net.outputs)

    def forward(self, pictures: Tensor, numbers: Tensor) -> Tensor:
        seen = self.body(pictures).amax(dim=(2, 3))
        if self.beside is not None:
            seen = torch.cat([seen, self.beside(numbers)], dim=1)
        out: Tensor = self.head(self.drop(seen))
        return out


class _Convolution(nn.Sequential):
    """Convolution, normalisation, activation."""

    def __init__(self, net: Architecture, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, net.kernel, stride, net.kernel // 2, bias=False),
            _norm(net, outputs),
            ACTIVATIONS[net.activation](),
        )


class _Residual(nn.Module):
    """Two convolutions whose result is added; it begins as nothing, so that depth costs no start."""

    def __init__(self, net: Architecture, width: int) -> None:
        super().__init__()
        self.first, self.second = _Convolution(net, width, width), _Convolution(net, width, width)
        last = self.second[1].weight
        assert isinstance(last, Tensor)
        nn.init.zeros_(last)

    def forward(self, x: Tensor) -> Tensor:
        added: Tensor = x + self.second(self.first(x))
        return added


def _norm(net: Architecture, width: int) -> nn.Module:
    if net.norm == "group":
        return nn.GroupNorm(max(1, width // 8), width)
    return nn.BatchNorm2d(width)


class Scaler(nn.Module):
    """uint8 (n, height, width, channels) -> float (n, channels, height, width) of the wanted size, whole numbers from 0 to 255.

    Each pixel is the mean of what it covers, or lies between its neighbours where a picture grows: two matrix products, the same in
    training, in torch and in ONNX. Rounded, so that what training keeps as bytes is what the server computes.
    """

    down: Tensor
    across: Tensor

    def __init__(self, height: int, width: int, to_height: int, to_width: int) -> None:
        super().__init__()
        self.changes = (height, width) != (to_height, to_width)
        if self.changes:
            self.register_buffer("down", resizing(height, to_height))
            self.register_buffer("across", resizing(width, to_width).T.contiguous())

    def forward(self, pictures: Tensor) -> Tensor:
        x = pictures.permute(0, 3, 1, 2).float()
        if self.changes:
            x = torch.round(torch.matmul(torch.matmul(self.down, x), self.across)).clamp(0.0, 255.0)
        return x


def resizing(pixels: int, wanted: int) -> Tensor:
    """Weights of a line's pixels in each pixel of the resized line, float32 (wanted, pixels); rows sum to 1: a triangle as wide as the
    larger of the two kinds of pixel, which is bilinear with antialiasing.

    >>> resizing(4, 2)
    tensor([[0.4286, 0.4286, 0.1429, 0.0000],
            [0.0000, 0.1429, 0.4286, 0.4286]])
    """
    scale = pixels / wanted
    reach = max(1.0, scale)
    centres = (torch.arange(wanted, dtype=torch.float64) + 0.5) * scale
    places = torch.arange(pixels, dtype=torch.float64) + 0.5
    weights = (1 - (places[None, :] - centres[:, None]).abs() / reach).clamp_min(0.0)
    return (weights / weights.sum(dim=1, keepdim=True)).float()


class Normaliser(nn.Module):
    """Values from 0 to 1 to mean 0 and deviation 1 by channel."""

    mean: Tensor
    scale: Tensor

    def __init__(self, mean: Tensor, deviation: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean.float().reshape(1, -1, 1, 1))
        self.register_buffer("scale", 1.0 / deviation.float().clamp_min(1e-3).reshape(1, -1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        normal: Tensor = (x - self.mean) * self.scale
        return normal


def views_of(x: Tensor, kind: str) -> list[Tensor]:
    """Views of a picture whose predictions are averaged, each float (n, channels, height, width): itself alone ("none"); with its mirror
    image ("mirror"); with itself moved by a pixel each way ("shift")."""
    if kind == "mirror":
        return [x, torch.flip(x, dims=[3])]
    if kind == "shift":
        height, width = x.shape[2], x.shape[3]
        wide = functional.pad(x, (1, 1, 1, 1), mode="replicate")
        places = ((1, 1), (0, 1), (2, 1), (1, 0), (1, 2))
        return [wide[:, :, a : a + height, b : b + width] for a, b in places]
    return [x]


class Served(nn.Module):
    """All that lies between stored pixels and the network's outputs: what is written as ONNX.

    uint8 (n, height, width, channels), float32 (n, numbers) -> float32 (n, outputs), the mean over the views.
    """

    def __init__(self, scaler: nn.Module, normaliser: nn.Module, net: nn.Module, views: str) -> None:
        super().__init__()
        self.scaler, self.normaliser, self.net, self.views = scaler, normaliser, net, views

    def forward(self, pictures: Tensor, numbers: Tensor) -> Tensor:
        x = self.normaliser(self.scaler(pictures) * (1.0 / 255.0))
        outs = [self.net(view, numbers) for view in views_of(x, self.views)]
        mean: Tensor = outs[0] if len(outs) == 1 else torch.stack(outs).mean(dim=0)
        return mean
