"""Write the pages of docs/reference that follow from the code."""

from pathlib import Path

from scripts.reference import pages

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "reference"

for name, text in pages():
    (FOLDER / name).write_text(text, encoding="utf-8")
