"""Augmentation: what each switch does to a picture that is known."""

import torch

from kubeautoml_trainer.models.torch_augment import (
    Augmentation,
    affine_maps,
    augmented,
    coloured,
    cut_out,
    mixed,
    moved,
    pieced,
)


def make_generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make_dot(row: int, column: int, n: int = 64, side: int = 9) -> torch.Tensor:
    """n grey pictures with one white pixel each."""
    x = torch.zeros(n, 1, side, side)
    x[:, 0, row, column] = 1.0
    return x


def places(x: torch.Tensor) -> torch.Tensor:
    """Where each picture is lightest, int (n, 2)."""
    flat = x[:, 0].flatten(1).argmax(dim=1)
    return torch.stack([flat // x.shape[3], flat % x.shape[3]], dim=1)


def change(x: torch.Tensor, **how) -> torch.Tensor:
    return augmented(x, Augmentation(**how), "", make_generator())[0]


def test_nothing_wanted_is_nothing_done():
    """The very pictures."""
    x = torch.rand(3, 3, 8, 8)

    out, blend = augmented(x, Augmentation(), "", make_generator())

    assert torch.equal(out, x) and blend is None


def test_a_flip_mirrors_about_half_of_the_pictures():
    """Exactly: a pixel at column 2 of nine comes to column 6, its row stays."""
    found = places(change(make_dot(3, 2), flip=True))

    assert set(found[:, 0].tolist()) == {3}
    assert set(found[:, 1].tolist()) == {2, 6}
    assert 16 < int((found[:, 1] == 6).sum()) < 48


def test_a_map_of_a_whole_pixel_moves_by_a_whole_pixel():
    """Between -1 and 1 a side of nine pixels has steps of 2 / 9; the picture goes the other way than the place it is read from."""
    to_the_right = torch.tensor([[[1.0, 0.0, -2 / 9], [0.0, 1.0, 0.0]]])

    out = moved(make_dot(4, 4, n=1), to_the_right)

    assert torch.allclose(out, make_dot(4, 5, n=1), atol=1e-5)


def test_a_shift_moves_both_ways_and_not_too_far():
    """At most two of nine pixels, in all directions."""
    found = places(change(make_dot(4, 4, n=256), shift=2 / 9)) - 4

    assert int(found.abs().max()) == 2
    assert all((found[:, k] < 0).any() and (found[:, k] > 0).any() for k in (0, 1))


def test_a_rotation_keeps_the_middle_and_turns_the_rest():
    """The dot beside the middle goes round it; the one in the middle stays."""
    still, turned = places(change(make_dot(4, 4), rotation=90.0)), places(change(make_dot(4, 8), rotation=90.0))

    assert set(map(tuple, still.tolist())) == {(4, 4)}
    assert len(set(map(tuple, turned.tolist()))) > 4


def test_a_shear_moves_rows_against_each_other():
    """The first row and the last go different ways, the middle stays."""
    bar = torch.zeros(64, 1, 9, 9)
    bar[:, 0, :, 4] = 1.0

    out = change(bar, shear=45.0)

    top, middle, bottom = (out[:, 0, row].argmax(dim=1) - 4 for row in (0, 4, 8))
    assert int(middle.abs().max()) == 0
    assert int(top.abs().max()) >= 2 and torch.equal(
        top.sign() * bottom.sign(), -top.sign().abs() * bottom.sign().abs()
    )


def test_a_crop_enlarges_what_is_left():
    """A square of nine pixels grows, and never shrinks."""
    square = torch.zeros(64, 1, 9, 9)
    square[:, 0, 3:6, 3:6] = 1.0

    sums = change(square, crop=0.5).sum(dim=(1, 2, 3))

    assert float(sums.min()) >= 8.5 and float(sums.max()) > 14


def test_the_edge_goes_on_beyond_the_edge():
    """White pictures stay white however they are moved."""
    out = change(torch.ones(16, 1, 9, 9), shift=0.3, rotation=30.0, crop=0.3, shear=10.0)

    assert torch.allclose(out, torch.ones_like(out), atol=1e-5)


def test_colours_change_within_their_bounds():
    """Brightness, contrast and saturation; grey stays grey, values stay from 0 to 1, each picture has its own draw."""
    grey = torch.full((32, 3, 4, 4), 0.5)

    out = coloured(grey, 0.3, make_generator())

    assert torch.allclose(out[:, 0], out[:, 1], atol=1e-5) and torch.allclose(out[:, 1], out[:, 2], atol=1e-5)
    assert float(out.min()) >= 0.35 - 1e-5 and float(out.max()) <= 0.65 + 1e-5
    assert len(torch.unique(out[:, 0, 0, 0])) > 16
    wild = coloured(torch.rand(32, 3, 4, 4), 0.9, make_generator())
    assert float(wild.min()) >= 0.0 and float(wild.max()) <= 1.0


def test_saturation_moves_colours_from_and_to_grey():
    """The grey value of a red picture stays, its distance from grey changes."""
    red = torch.zeros(64, 3, 2, 2)
    red[:, 0] = 0.5

    out = coloured(red, 0.3, make_generator())

    spread = (out[:, 0] - out[:, 1])[:, 0, 0]
    assert float(spread.min()) < 0.45 and float(spread.max()) > 0.5


def test_a_cutout_blanks_a_square_of_each_picture():
    """Its side is the share wanted where it lies inside, and what is blank has the picture's mean."""
    ramp = torch.linspace(0, 1, 100).reshape(1, 1, 10, 10).repeat(64, 1, 1, 1)

    out = cut_out(ramp, 0.4, make_generator())

    changed = (out != ramp).flatten(1).sum(dim=1)
    assert int(changed.max()) <= 25 and int(changed.float().median()) >= 8
    assert torch.allclose(out[out != ramp], torch.tensor(0.5), atol=1e-5)


def test_mixup_blends_pictures_with_their_partners():
    """Each is share times itself plus the rest of its partner."""
    x = torch.arange(8.0).reshape(8, 1, 1, 1).expand(8, 1, 2, 2)

    out, blend = mixed(x, make_generator())

    expected = blend.share * torch.arange(8.0) + (1 - blend.share) * blend.partner.float()
    assert torch.allclose(out[:, 0, 0, 0], expected)
    assert 0 < float(blend.share) < 1


def test_cutmix_takes_a_rectangle_of_the_partner():
    """Pixels are of one or the other picture, in the share that is said."""
    x = torch.arange(8.0).reshape(8, 1, 1, 1).expand(8, 1, 10, 10).contiguous()

    for seed in range(5):
        out, blend = pieced(x, make_generator(seed))
        own = (out == x).float().mean(dim=(1, 2, 3))
        others = blend.partner != torch.arange(8)
        assert torch.allclose(own[others], blend.share.expand(8)[others])
        assert torch.equal(torch.where(out == x, x, x[blend.partner]), out)


def test_a_share_of_the_batches_is_blended():
    """Mixup and cutmix each as often as wanted."""
    how = Augmentation(mixup=0.5, cutmix=0.3)

    kinds = [how.blend(draw) for draw in torch.rand(400, generator=make_generator()).tolist()]

    assert 0.4 < kinds.count("mixup") / 400 < 0.6
    assert 0.2 < kinds.count("cutmix") / 400 < 0.4
    x, generator = torch.rand(4, 1, 6, 6), make_generator()
    assert {kind: augmented(x, how, kind, generator)[1] is not None for kind in set(kinds)} == {
        "mixup": True,
        "cutmix": True,
        "": False,
    }


def test_the_same_generator_gives_the_same_pictures():
    """To the last bit."""
    x, how = torch.rand(8, 3, 12, 12), Augmentation(True, 0.1, 0.2, 10.0, 5.0, 0.2, 0.3, 0.5, 0.5)

    first, second = (augmented(x, how, "cutmix", make_generator(3))[0] for _ in range(2))

    assert torch.equal(first, second)
    assert affine_maps(8, how, make_generator(1), x.device).shape == (8, 2, 3)
