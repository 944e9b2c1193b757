"""Augmentation of pictures, batched, on the device they are on: each picture is moved, bent and coloured by its own draw.

Pictures are float (n, channels, height, width) with values from 0 to 1. All that moves pixels (flip, shift, crop, rotation, shear) is one
affine map, so a batch is read once. Every draw comes from the generator given, which lives on the pictures' device.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

_GREY = (0.299, 0.587, 0.114)  # of red, green and blue, as ITU-R BT.601


@dataclass(frozen=True)
class Augmentation:
    """What is done to training pictures; 0 and False leave a thing out.

    flip: half of the pictures are mirrored. shift: most pixels, as a share of the side, that a picture moves. crop: most of its area that
    is cut away, what is left being enlarged. rotation, shear: most degrees. colour: most that brightness, contrast and saturation change,
    as a share. cutout: side of a square that is blanked, as a share. mixup, cutmix: share of the batches that are blended with, or get a
    piece of, other pictures.
    """

    flip: bool = False
    shift: float = 0.0
    crop: float = 0.0
    rotation: float = 0.0
    shear: float = 0.0
    colour: float = 0.0
    cutout: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0

    @property
    def moves(self) -> bool:
        """Whether pixels change their places."""
        return self.flip or any((self.shift, self.crop, self.rotation, self.shear))

    def blend(self, draw: float) -> str:
        """What a batch gets whose draw from 0 to 1 that is: "mixup", "cutmix" or ""."""
        if draw < self.mixup:
            return "mixup"
        return "cutmix" if draw < self.mixup + self.cutmix else ""


@dataclass(frozen=True)
class Blend:
    """Which other picture of the batch counts, and how much: int64 (n,), and a number from 0 to 1 that is the first one's share."""

    partner: Tensor
    share: Tensor


def augmented(x: Tensor, how: Augmentation, blend: str, generator: torch.Generator) -> tuple[Tensor, Blend | None]:
    """The pictures changed, and whose truths they then hold; blend as `Augmentation.blend` says it."""
    if how.moves:
        x = moved(x, affine_maps(len(x), how, generator, x.device))
    if how.colour:
        x = coloured(x, how.colour, generator)
    if how.cutout:
        x = cut_out(x, how.cutout, generator)
    if blend == "mixup":
        return mixed(x, generator)
    if blend == "cutmix":
        return pieced(x, generator)
    return x, None


def affine_maps(n: int, how: Augmentation, generator: torch.Generator, device: torch.device) -> Tensor:
    """Where each pixel comes from, float (n, 2, 3), as `affine_grid` takes them: coordinates run from -1 to 1."""

    def even(most: float) -> Tensor:
        return (torch.rand(n, generator=generator, device=device) * 2 - 1) * most

    angle = even(math.radians(how.rotation)) if how.rotation else torch.zeros(n, device=device)
    slant = torch.tan(even(math.radians(how.shear))) if how.shear else torch.zeros(n, device=device)
    zoom, room = torch.ones(n, device=device), torch.zeros(n, device=device)
    if how.crop:
        zoom = torch.sqrt(1 - how.crop * torch.rand(n, generator=generator, device=device))
        room = 1 - zoom  # how far the cut may lie from the middle
    across, down = even(1.0) * room, even(1.0) * room
    if how.shift:
        across, down = across + even(2 * how.shift), down + even(2 * how.shift)
    cos, sin = torch.cos(angle) * zoom, torch.sin(angle) * zoom
    first = torch.stack([cos, slant * cos - sin, across], dim=1)
    second = torch.stack([sin, slant * sin + cos, down], dim=1)
    if how.flip:
        sign = 1.0 - 2.0 * (torch.rand(n, generator=generator, device=device) < 0.5).float()
        first = first * torch.stack([sign, sign, torch.ones_like(sign)], dim=1)
    return torch.stack([first, second], dim=1)


def moved(x: Tensor, maps: Tensor) -> Tensor:
    """Each picture read through its map, between pixels in proportion; beyond the edge the edge goes on."""
    grid = functional.affine_grid(maps.to(x.dtype), list(x.shape), align_corners=False)
    return functional.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False)


def coloured(x: Tensor, most: float, generator: torch.Generator) -> Tensor:
    """Other brightness, contrast and (of colours) saturation, each by up to `most`; values stay from 0 to 1."""

    def factor() -> Tensor:
        draw = torch.rand(len(x), 1, 1, 1, generator=generator, device=x.device)
        return (1 + (draw * 2 - 1) * most).to(x.dtype)

    x = x * factor()
    middle = x.mean(dim=(1, 2, 3), keepdim=True)
    x = middle + (x - middle) * factor()
    if x.shape[1] == 3:
        red, green, blue = (share * x[:, k : k + 1] for k, share in enumerate(_GREY))
        grey = red + green + blue
        x = grey + (x - grey) * factor()
    return x.clamp(0, 1)


def cut_out(x: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """A square of each picture becomes its mean; it may reach beyond the edge (DeVries and Taylor 2017, arXiv:1708.04552)."""
    inside = _boxes(x, torch.full((len(x),), share, device=x.device), generator)
    return torch.where(inside, x.mean(dim=(2, 3), keepdim=True), x)


def mixed(x: Tensor, generator: torch.Generator) -> tuple[Tensor, Blend]:
    """Each picture blended with another one (Zhang et al. 2018, arXiv:1710.09412); shares are even from 0 to 1."""
    share = torch.rand((), generator=generator, device=x.device)
    partner = torch.randperm(len(x), generator=generator, device=x.device)
    return x * share.to(x.dtype) + x[partner] * (1 - share).to(x.dtype), Blend(partner, share)


def pieced(x: Tensor, generator: torch.Generator) -> tuple[Tensor, Blend]:
    """A rectangle of each picture taken from another one (Yun et al. 2019, arXiv:1905.04899): the same for the batch."""
    side = torch.sqrt(1 - torch.rand((), generator=generator, device=x.device))
    partner = torch.randperm(len(x), generator=generator, device=x.device)
    inside = _boxes(x[:1], side.reshape(1), generator)
    share = 1 - inside.float().mean()
    return torch.where(inside, x[partner], x), Blend(partner, share)


def _boxes(x: Tensor, side: Tensor, generator: torch.Generator) -> Tensor:
    """bool (n, 1, height, width): a box around a pixel of each picture, its sides the given shares (n,) of the picture's."""
    n, _, height, width = x.shape
    centre = torch.rand(n, 2, generator=generator, device=x.device)
    rows = (torch.arange(height, device=x.device) + 0.5) / height
    columns = (torch.arange(width, device=x.device) + 0.5) / width
    down = (rows[None, :] - centre[:, :1]).abs() < side[:, None] / 2
    across = (columns[None, :] - centre[:, 1:]).abs() < side[:, None] / 2
    return (down[:, :, None] & across[:, None, :])[:, None]
