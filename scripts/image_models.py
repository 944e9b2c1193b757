"""Train a model of every family (of those that need weights the text encoder, with small ones made here), and write bundles, rows and the
trainer's own predictions for them.

    python image_models.py TESTS OUTPUT

`scripts/images` runs it in the trainer's image and asks the server's image for the same predictions. TESTS is the folder tests/, whose
made tables it takes.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, sys.argv[1])

import base64

from images.image_factories import make_table
from kubeautoml_trainer.models import FAMILIES, PICTURE_FAMILIES, TEXT_FAMILIES, bound_families
from models.encoder_factories import write_encoder
from serve.bundles import Trained, every_type, train

TYPES = {
    "age": "Number", "balance": "Number", "plan": "Category", "active": "Boolean", "since": "Datetime", "note": "Text"
}  # fmt: skip


def write(trained: Trained, folder: Path) -> None:
    """Rows as a client sends them, and what must come back."""
    rows = trained.raw.drop(columns=trained.schema.target)
    if "photo" in rows:
        rows["photo"] = [base64.b64encode(photo).decode() for photo in rows["photo"]]
    records = json.loads(rows.to_json(orient="records", date_format="iso"))
    (folder / "records.json").write_text(json.dumps(records), encoding="utf-8")
    trained.expected.to_json(folder / "expected.json", orient="records", double_precision=15)


def main(output: Path) -> None:
    tables = [f.name for f in FAMILIES]
    pictures = [f.name for f in (*PICTURE_FAMILIES, *TEXT_FAMILIES)]
    for name, raw, target, families, types in (
        ("classes", every_type(True), "target", [*tables, "TextNet"], TYPES),
        ("numbers", every_type(False), "target", tables, TYPES),
        ("pictures", make_table(), "label", ["Linear", *pictures], {"note": "Text"}),
    ):
        write(train(output / name, raw, target, families, types=types), output / name)
        print(f"{name}: {', '.join(families)}", flush=True)
    (encoder,) = bound_families({"TextEncoder": write_encoder(output / "weights")})
    texts = [(encoder, {"tuning": "frozen"}), (encoder, {"tuning": "fine", "tuning_epochs": 1})]
    notes = every_type(True)[["note", "target"]]
    write(train(output / "texts", notes, "target", texts, types={"note": "Text"}), output / "texts")
    print("texts: TextEncoder, frozen and fine-tuned", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[2]))
