"""Bytes to pixels: formats, modes, sizes, and everything that is no image."""

from __future__ import annotations

import base64
import io
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from images.image_factories import encoded, make_picture
from kubeautoml.api.dataset import ColumnType
from kubeautoml.api.errors import PredictionError
from kubeautoml_trainer.data.base import Column
from kubeautoml_trainer.data.images import MAX_PIXELS, ImageError, decode, fitted, from_array, size_of, typed_images

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")
"""About metadata; pytest sets aside what the module itself ignores."""

COLOUR = Image.fromarray(make_picture())
GREY = COLOUR.convert("L")
SIXTEEN = Image.fromarray(np.asarray(GREY).astype(np.uint16) * 257)


def cut(data: bytes) -> bytes:
    return data[: len(data) * 2 // 3]


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM", "WEBP"])
def test_colours_come_back_as_they_are(kind: str):
    """What is stored without loss is read without loss, whatever the format."""
    options = {"lossless": True} if kind == "WEBP" else {}

    assert (decode(encoded(COLOUR, kind, **options)) == np.asarray(COLOUR)).all()


@pytest.mark.parametrize(
    ("image", "kind", "expected"),
    [
        (GREY, "PNG", np.asarray(GREY)[:, :, None]),
        (SIXTEEN, "PNG", np.asarray(GREY)[:, :, None]),
        (SIXTEEN, "TIFF", np.asarray(GREY)[:, :, None]),
        (GREY.convert("P"), "PNG", np.asarray(GREY)[:, :, None]),
        (GREY.convert("1"), "PNG", np.asarray(GREY.convert("1").convert("L"))[:, :, None]),
        (GREY.convert("LA"), "PNG", np.asarray(GREY)[:, :, None]),
        (COLOUR.convert("RGBA"), "PNG", np.asarray(COLOUR)),
        (COLOUR.convert("P"), "PNG", np.asarray(COLOUR.convert("P").convert("RGB"))),
        (COLOUR.convert("CMYK"), "TIFF", np.asarray(COLOUR.convert("CMYK").convert("RGB"))),
    ],
    ids=["grey", "sixteen", "sixteen-tiff", "grey-palette", "bits", "grey-opacity", "opacity", "palette", "cmyk"],
)
def test_every_kind_of_pixel_becomes_grey_or_colour(image: Image.Image, kind: str, expected: np.ndarray):
    """One channel for grey, three for colours; the head of the file says the same."""
    data = encoded(image, kind)

    found = decode(data)

    assert found.dtype == np.uint8
    assert found.flags.c_contiguous
    assert (found == expected).all()
    assert size_of(data) == expected.shape


def test_what_is_transparent_is_white():
    """Opacity lies over white, half of it half."""
    pixels = np.zeros((1, 3, 4), dtype=np.uint8)
    pixels[0, :, 3] = (0, 128, 255)

    assert decode(encoded(Image.fromarray(pixels)))[0, :, 0].tolist() == [255, 127, 0]


def test_a_photograph_stands_as_its_exif_data_says():
    """Orientation 6 is a quarter to the right; height and width change places."""
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(COLOUR, "JPEG", exif=exif.tobytes(), quality=100)

    assert size_of(data) == (10, 12, 3)
    assert decode(data).shape == (10, 12, 3)
    assert (decode(data) == np.rot90(decode(encoded(COLOUR, "JPEG", quality=100)), -1)).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_turned_back(orientation: int):
    """As Pillow itself does it; the head of the file tells the size that comes of it."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(COLOUR, "PNG", exif=exif.tobytes())

    assert (decode(data) == np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))).all()
    assert size_of(data) == decode(data).shape


def test_damaged_exif_data_is_not_looked_at():
    """The picture is there all the same."""
    data = encoded(COLOUR, "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")

    assert decode(data).shape == size_of(data) == (12, 10, 3)


def test_an_animation_is_its_first_frame():
    """The others are not looked at."""
    frames = [Image.new("L", (6, 4), shade) for shade in (40, 200)]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])

    assert decode(data).shape == (4, 6, 1)
    assert (decode(data) == 40).all()


def test_a_huge_jpeg_file_is_read_smaller():
    """20,000 pixels a side are 400 million; JPEG files can be read at a quarter of their size without more memory."""
    data = encoded(Image.new("L", (20_000, 20_000), 7), "JPEG")

    assert size_of(data) == (5_000, 5_000, 1)
    assert decode(data).shape == (5_000, 5_000, 1)
    assert MAX_PIXELS >= 5_000**2


FLOATS = Image.fromarray(np.zeros((2, 2), dtype=np.float32))
BAD = {
    "empty": (b"", "is empty (0 bytes)"),
    "text": (b"hello", "is not a PNG, JPEG, WebP, GIF, BMP or TIFF file, or a damaged one (unknown format)"),
    "cut off": (cut(encoded(COLOUR)), "is damaged or cut off (image file is truncated)"),
    "huge": (
        encoded(Image.new("1", (20_000, 20_000))),
        "must have at most 50,000,000 pixels, got 20,000 x 20,000; make it smaller",
    ),
    "floats": (encoded(FLOATS, "TIFF"), "must have 8 or 16 bits a pixel, has floating-point numbers"),
    "postscript": (
        encoded(COLOUR, "EPS"),
        "is not a PNG, JPEG, WebP, GIF, BMP or TIFF file, or a damaged one (unknown format)",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_image_is_refused_in_a_few_words(name: str):
    """The words follow the name of the file."""
    data, words = BAD[name]

    with pytest.raises(ImageError) as caught:
        decode(data)

    assert str(caught.value) == words


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF"])
def test_a_file_that_is_cut_off_is_damaged(kind: str):
    """Never a picture half of which is grey."""
    with pytest.raises(ImageError, match="damaged"):
        decode(cut(encoded(Image.fromarray(make_picture(height=60, width=60)), kind)))


def test_arrays_are_images_too():
    """Grey with and without its axis, colours, and opacity."""
    pixels = make_picture()

    assert from_array(pixels[:, :, 0]).shape == (12, 10, 1)
    assert (from_array(pixels) == pixels).all()
    assert from_array(np.zeros((2, 2, 4), dtype=np.uint8)).tolist() == [[[255] * 3] * 2] * 2
    with pytest.raises(ImageError, match=r"shape \(height, width\), or .* got \(2, 2, 5\)"):
        from_array(np.zeros((2, 2, 5), dtype=np.uint8))
    with pytest.raises(ImageError, match=r"uint8.*got float64"):
        from_array(np.zeros((2, 2)))


def test_fitting_changes_size_and_channels():
    """Grey by luminance, colour by repeating; an image that fits already is the same array."""
    pixels = make_picture(channels=3)
    grey = fitted(pixels, 12, 10, 1)

    assert fitted(pixels, 12, 10, 3) is pixels
    assert (grey[:, :, 0] == np.asarray(Image.fromarray(pixels).convert("L"))).all()
    assert (fitted(grey, 12, 10, 3) == np.repeat(grey, 3, axis=2)).all()
    assert fitted(pixels, 5, 7, 3).shape == (5, 7, 3)


COLUMN = Column("photo", ColumnType.IMAGE, height=6, width=5, channels=3)


def test_every_spelling_of_an_image_gives_the_same_pixels():
    """Bytes, base64, a data: URL, what Parquet files of images hold, and an array; nothing is missing."""
    pixels = make_picture(height=6, width=5)
    data = encoded(pixels)
    text = base64.b64encode(data).decode()
    values: list[Any] = [data, text, f"data:image/png;base64,{text}", {"bytes": data, "path": None}, pixels, None, ""]

    found = typed_images(pd.Series(values, dtype=object), COLUMN)

    assert all((v == pixels).all() for v in found[:5])
    assert found[5] is None
    assert found[6] is None


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("%%%", "is no base64: '%%%'"),
        ("aGVsbG8=", "is not a PNG, JPEG, WebP, GIF, BMP or TIFF file, or a damaged one (unknown format): 'aGVsbG8='"),
        ("data:text/plain,x", "is a data: URL, but not of the form data:image/png;base64,...: 'data:text/plain,x'"),
        (7, "must be the base64 of a PNG, JPEG, WebP, GIF, BMP or TIFF file"),
    ],
)
def test_a_value_that_is_no_image_is_named_by_column_and_row(value: Any, words: str):
    """One sentence: column, rule, row, reason."""
    with pytest.raises(PredictionError) as caught:
        typed_images(pd.Series([None, value], dtype=object), COLUMN)

    rule = "column 'photo' must be an image (PNG, JPEG, WebP, GIF, BMP or TIFF, as base64), the one in row 1 "
    assert str(caught.value) == rule + words


def test_pictures_of_a_notebook_are_images():
    """Pillow's own, as it opened them; a path is not looked for."""
    found = typed_images(pd.Series([COLOUR, SIXTEEN], dtype=object), COLUMN)

    assert (found[0] == fitted(np.asarray(COLOUR), 6, 5, 3)).all()
    assert found[1].shape == (6, 5, 3)
    with pytest.raises(PredictionError, match=r"is no base64; of a file give the bytes: 'cat\.png'"):
        typed_images(pd.Series(["cat.png"], dtype=object), COLUMN)


def test_a_request_of_too_many_pixels_is_refused(monkeypatch: pytest.MonkeyPatch):
    """Files of a few bytes can hold images that take seconds."""
    monkeypatch.setattr("kubeautoml_trainer.data.images.MAX_TOGETHER", 250)

    with pytest.raises(PredictionError, match="the one in row 2 is more than 250 pixels together with those before it"):
        typed_images(pd.Series([encoded(COLOUR)] * 3, dtype=object), COLUMN)


def test_a_photograph_is_read_as_small_as_it_may_be():
    """Twice what is needed: the same picture but for rounding, in training and in a request alike."""
    smooth = Image.fromarray(make_picture(height=30, width=40)).resize((1600, 1200), Image.Resampling.BICUBIC)
    data = encoded(smooth, "JPEG", quality=95)

    small, whole = decode(data, side=60), decode(data)
    typed = typed_images(pd.Series([data], dtype=object), replace(COLUMN, height=45, width=60))[0]

    assert (small.shape, whole.shape) == ((150, 200, 3), (1200, 1600, 3))
    assert np.abs(fitted(small, 45, 60, 3).astype(int) - fitted(whole, 45, 60, 3)).mean() < 2
    assert (typed == fitted(small, 45, 60, 3)).all()


WHOLE = [
    encoded(Image.fromarray(make_picture(height=20, width=20)), k)
    for k in ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "PPM")
]


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(
    data=st.sampled_from(WHOLE),
    changes=st.lists(st.tuples(st.integers(0, 2**16), st.integers(0, 255)), max_size=12),
    end=st.integers(0, 2**16),
)
def test_whatever_the_bytes_are_there_is_a_picture_or_a_reason(data: bytes, changes: list[tuple[int, int]], end: int):
    """Files with wrong bytes, and with too few of them."""
    changed = bytearray(data)
    for place, byte in changes:
        changed[place % len(changed)] = byte
    try:
        found = decode(bytes(changed[: end % (2 * len(changed))]))
    except ImageError as error:
        assert "\n" not in str(error)
    else:
        assert found.dtype == np.uint8
        assert found.shape[2] in (1, 3)
        assert found.size
