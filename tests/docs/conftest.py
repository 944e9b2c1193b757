"""Lets these tests import the makers of the reference, which are no part of the package."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2]))
