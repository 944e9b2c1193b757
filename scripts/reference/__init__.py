"""The pages of docs/reference that follow from the code: fields, commands, metrics, environment, families,
reasons, values of the chart.

    python -m scripts.reference          # writes them anew; `make docs` does so

A page is made from the very objects that the program uses, so it cannot say anything else; a test compares them.
"""

from collections.abc import Callable, Iterator

from scripts.reference.commands import commands_page
from scripts.reference.environment import environment_page
from scripts.reference.families import families_page
from scripts.reference.fields import job_page, model_page, profile_page
from scripts.reference.measures import measures_page
from scripts.reference.values import values_page

from kubeautoml.api.reasons import reference_page

PAGES: dict[str, Callable[[], str]] = {
    "automljob.md": job_page,
    "automlmodel.md": model_page,
    "automlprofile.md": profile_page,
    "conditions.md": reference_page,
    "commands.md": commands_page,
    "environment.md": environment_page,
    "families.md": families_page,
    "prometheus.md": measures_page,
    "values.md": values_page,
}
"""Maker by file name, in docs/reference."""


def pages() -> Iterator[tuple[str, str]]:
    """File name and text of every page."""
    for name, make in PAGES.items():
        yield name, make()
