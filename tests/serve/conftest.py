"""Models that the tests of the server share, trained once a session."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from fastapi.testclient import TestClient

from kubeautoml_trainer.serve.app import create_app
from serve.bundles import Trained, train_every_type

Train = Callable[[str, bool], Trained]


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Train:
    """(family, whether the target is a class) -> a model of that family on every column type."""
    made: dict[tuple[str, bool], Trained] = {}

    def get(family: str, classes: bool) -> Trained:
        if (family, classes) not in made:
            folder = tmp_path_factory.mktemp(family)
            made[family, classes] = train_every_type(folder, [family], classes=classes)
        return made[family, classes]

    return get


@pytest.fixture(scope="session")
def churn(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A classifier of two members on every column type."""
    return train_every_type(tmp_path_factory.mktemp("churn"), ["Linear", "LightGBM"], classes=True)


@pytest.fixture(scope="session")
def client(churn: Trained) -> Iterator[TestClient]:
    """The server of `churn`, in this process; errors come as a client sees them."""
    app = create_app(churn.model, name="churn", version="v3", sha256=churn.sha256)
    with TestClient(app, raise_server_exceptions=False) as made:
        yield made
