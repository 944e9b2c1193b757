"""Questions to a chat bot, and the topic of each: what intent is it? Writes train.csv and sample.json.

python examples/questions.py FOLDER
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pandas as pd
import yaml
from tables import main

LEAST = 20
"""Questions that a topic needs."""


def questions(language: str = "english") -> pd.DataFrame:
    """650 short questions in English, and 10 topics from AI to trivia; the package holds 25 more languages."""
    package = importlib.util.find_spec("chatterbot_corpus")
    if package is None or package.submodule_search_locations is None:
        raise SystemExit(
            "error: the data lies in the package chatterbot-corpus; install it: pip install --no-deps chatterbot-corpus==1.3.3"
        )
    topics = sorted((Path(package.submodule_search_locations[0]) / "data" / language).glob("*.yml"))
    rows = pd.DataFrame(
        [
            {"question": " ".join(str(said[0]).split()), "topic": topic.stem}
            for topic in topics
            for said in yaml.safe_load(topic.read_text(encoding="utf-8"))["conversations"]
        ]
    ).drop_duplicates("question")
    return rows[rows.groupby("topic")["topic"].transform("size") >= LEAST].reset_index(drop=True)


if __name__ == "__main__":
    main(questions, "topic")
