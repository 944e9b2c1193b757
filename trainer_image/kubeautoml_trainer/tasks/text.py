"""Texts to classes or numbers: tables whose point is a text column. Other columns count, too."""

from __future__ import annotations

TEXT_FAMILIES = (
    "Dummy",
    "Linear",
    "NaiveBayesSvm",
    "TextEncoder",
    "TextNet",
    "LightGBM",
    "XGBoost",
    "SupportVectors",
    "NearestNeighbors",
)
"""Families that are worth their time on the counts of many words; the others need minutes to find what a line finds in a second."""
