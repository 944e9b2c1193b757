"""Images to classes or numbers: tables whose point is a column of images. Other columns count, too."""

from __future__ import annotations

IMAGE_FAMILIES = ("Dummy", "Linear", "LightGBM", "SupportVectors", "ConvNet", "ImageEncoder")
"""Families that are worth their time on images, quick ones on colours and edges (`features.images`) first: what they reach is the
floor that a network must beat. Those that need weights take part where a job names some."""
