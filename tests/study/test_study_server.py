"""The study server: killed in the middle of trials, without its database, with TLS and tokens, called wrongly."""

from __future__ import annotations

import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import optuna
import pytest
from optuna.trial import TrialState

from kubeautoml.api.errors import StudyError
from kubeautoml.api.trials import RetireTrial, StudyOrders
from kubeautoml.study import carry_out_orders, create_study, load_summary, open_study_storage
from kubeautoml.study.certificate import Certificate
from kubeautoml.study.database import open_backend
from kubeautoml.study.monitor import serve_http
from kubeautoml.study.remote import open_remote
from kubeautoml.study.server import StudyServer, main
from real.postgres import PostgresServer, running_postgres
from real.study_server import StudyServerProcess, running_study_server


@pytest.fixture
def server(tmp_path: Path) -> Iterator[StudyServer]:
    """A server in this process, in front of SQLite."""
    server = StudyServer(open_backend(f"sqlite:///{tmp_path}/study.db"), "127.0.0.1:0")
    server.start()
    yield server
    server.stop()


def run_trial(study: optuna.Study, number: int, after_each: Callable[[], None] = lambda: None) -> None:
    trial = study.ask()
    trial.set_user_attr("pod_uid", "uid-1")
    after_each()
    for index in range(4):
        trial.suggest_float(f"x{index}", 0, 1)
        after_each()
    trial.report(0.1, 0)
    after_each()
    study.tell(trial, float(number))


@pytest.mark.slow
@pytest.mark.postgres
def test_a_server_killed_in_the_middle_fails_no_trial(postgres_server: PostgresServer, name: str):
    """kill -9 and a start on the same port, twice, while a worker runs its trials: each is completed, none is doubled."""
    with running_study_server(postgres_server.create_database()) as server:
        study = create_study(open_study_storage(server.url), name, "maximize")
        errors: list[BaseException] = []
        worker = threading.Thread(target=_work, args=(study, 60, errors))
        worker.start()
        for reached in (5, 30):
            _wait_for_trials(server, study, reached)
            server.kill()
            server.start()
        worker.join(timeout=120)

        assert errors == []
        trials = study.get_trials()
        assert [(t.number, t.state) for t in trials] == [(n, TrialState.COMPLETE) for n in range(60)]


def _work(study: optuna.Study, trials: int, errors: list[BaseException]) -> None:
    try:
        for number in range(trials):
            run_trial(study, number)
    except BaseException as error:  # noqa: BLE001  # the test looks at it
        errors.append(error)


def _wait_for_trials(server: StudyServerProcess, study: optuna.Study, count: int) -> None:
    storage = open_study_storage(server.url)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        summary = load_summary(storage, study.study_name)
        if summary is not None and summary.completed >= count:
            return
        time.sleep(0.01)
    raise AssertionError(f"{count} trials were not reached")


class Unavailable(grpc.RpcError):  # type: ignore[misc]
    """What a client sees when the server dies after acting and before answering."""

    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.UNAVAILABLE

    def details(self) -> str:
        return "Socket closed"


def lose_answer(storage: Any, method: str) -> list[bool]:
    """Let the next call of a method act, and lose its answer; what is returned holds something once that has happened."""
    real: Callable[..., Any] = storage._stub.methods[method]
    lost: list[bool] = []

    def call(*args: Any, **kwargs: Any) -> Any:
        answer = real(*args, **kwargs)
        if not lost:
            lost.append(True)
            raise Unavailable
        return answer

    storage._stub.methods[method] = call
    return lost


@pytest.mark.parametrize("method", ["CreateTrial", "WriteTrial"])
@pytest.mark.parametrize("sends_together", [True, False])
def test_an_answer_that_was_lost_does_nothing_twice(server: StudyServer, name: str, method: str, sends_together: bool):
    """The repeated call finds what the first one did; whether a trial's writes leave together or one by one."""
    storage: Any = open_study_storage(f"grpc://127.0.0.1:{server.port}")
    study = create_study(storage, name, "maximize")
    lost = lose_answer(storage, method)

    run_trial(study, 7, after_each=lambda: None if sends_together else storage.flush())

    (trial,) = study.get_trials()
    assert (trial.state, trial.value, len(trial.params)) == (TrialState.COMPLETE, 7.0, 4)
    assert lost


def test_a_queued_trial_is_not_lost_with_the_answer_that_gave_it(server: StudyServer, name: str):
    """The repeated claim is told that the trial is its own; anybody else is told that it is taken."""
    storage: Any = open_study_storage(f"grpc://127.0.0.1:{server.port}")
    study = create_study(storage, name, "maximize")
    study.enqueue_trial({"x0": 0.5})
    lost = lose_answer(storage, "ClaimTrial")

    trial = study.ask()
    other_client = open_study_storage(f"grpc://127.0.0.1:{server.port}")
    other = other_client.set_trial_state_values(trial._trial_id, TrialState.RUNNING)

    assert lost
    assert (trial.number, other) == (0, False)
    assert trial.suggest_float("x0", 0, 1) == 0.5


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_optunas_own_client_works_with_our_server(server: StudyServer, name: str):
    """Beside ours, on the same study: what one writes the other reads, and a queued trial is taken once."""
    ours = create_study(open_study_storage(f"grpc://127.0.0.1:{server.port}"), name, "maximize")
    plain = optuna.load_study(
        storage=optuna.storages.GrpcStorageProxy(host="127.0.0.1", port=server.port), study_name=name
    )
    ours.enqueue_trial({"x0": 0.25})

    for number, study in enumerate((plain, ours, plain)):
        run_trial(study, number)

    assert [(t.number, t.value, len(t.params)) for t in ours.trials] == [(n, float(n), 4) for n in range(3)]
    assert [t.params for t in plain.trials] == [t.params for t in ours.trials]
    assert plain.trials[0].params["x0"] == 0.25
    assert plain.best_value == 2.0


def test_a_server_that_stays_away_is_named():
    """After the client's patience: address and what to check, in one line."""
    storage = open_remote("127.0.0.1:9", tls=False, token_file=None, ca_file=None, patience_seconds=0.3)

    with pytest.raises(StudyError, match=r"study server 127\.0\.0\.1:9 did not answer for 0 s .*check that it runs"):
        create_study(storage, "a", "maximize")


def test_the_time_of_trials_is_measured_by_how_they_ended(server: StudyServer):
    """Whoever ends one: a worker that tells a score, or the operator that retires it; once, also when it is told twice."""
    study = create_study(open_study_storage(f"grpc://127.0.0.1:{server.port}"), "a", "maximize")
    study.tell(study.ask(), 0.5)
    study.tell(study.ask(), state=TrialState.PRUNED)
    lost = study.ask()
    carry_out_orders(study._storage, "a", StudyOrders(retire=(RetireTrial(lost.number, 1, "Preempted", False),)))
    study.ask()

    def ended(state: str) -> float | None:
        name = "kubeautoml_study_trial_duration_seconds_count"
        return server.metrics.registry.get_sample_value(name, {"state": state})

    assert {s: ended(s) for s in ("Complete", "Pruned", "Fail", "Running")} == {
        "Complete": 1.0,
        "Pruned": 1.0,
        "Fail": 1.0,
        "Running": None,
    }


@pytest.mark.postgres
def test_without_its_database_the_server_says_try_again():
    """Calls are answered UNAVAILABLE, so that workers wait; readiness turns to no, liveness stays."""
    with running_postgres() as postgres:
        server = StudyServer(open_backend(postgres.create_database()), "127.0.0.1:0")
        server.start()
        http = serve_http("127.0.0.1", 0, server.metrics, server.is_ready)
        base = f"http://127.0.0.1:{http.server_address[1]}"
        storage = open_remote(f"127.0.0.1:{server.port}", False, None, None, patience_seconds=0.3)
        study = create_study(storage, "a", "maximize")
        before = _status(base + "/readyz"), _health(server, b"database")

    with pytest.raises(StudyError, match="the study database did not answer"):
        study.ask()
    after = _status(base + "/readyz"), _health(server, b"database")
    alive = _status(base + "/healthz"), _health(server, b"")
    metrics = urllib.request.urlopen(base + "/metrics").read().decode()
    http.shutdown()
    server.stop()

    assert (before, after, alive) == ((200, 1), (503, 2), (200, 1))
    assert 'kubeautoml_study_requests_total{code="OK",method="CreateNewStudy"} 1.0' in metrics
    assert 'code="UNAVAILABLE"' in metrics
    assert "kubeautoml_study_request_duration_seconds_bucket" in metrics


def _status(url: str) -> int:
    try:
        return int(urllib.request.urlopen(url).status)
    except urllib.error.HTTPError as error:
        return error.code


def _health(server: StudyServer, service: bytes) -> int:
    """The status that Kubernetes' gRPC probe would see: 1 is SERVING, 2 is NOT_SERVING."""
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        check = channel.unary_unary("/grpc.health.v1.Health/Check")
        request = b"\x0a" + bytes([len(service)]) + service if service else b""
        return int(check(request, timeout=10)[1])


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A self-signed certificate for 127.0.0.1, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    cert, key = folder / "tls.crt", folder / "tls.key"
    subject = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2", "-nodes"]
    new_key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-keyout", str(key), "-out", str(cert)]
    subprocess.run(["openssl", "req", "-x509", *new_key, *subject], check=True, capture_output=True)
    return cert, key


def test_tls_is_checked_against_the_authority(tmp_path: Path, certificate: tuple[Path, Path], name: str):
    """With the right authority the study opens; without it, or without TLS, it does not."""
    cert, key = certificate
    server = StudyServer(open_backend(f"sqlite:///{tmp_path}/study.db"), "127.0.0.1:0", Certificate(cert, key))
    server.start()
    target = f"127.0.0.1:{server.port}"

    study = create_study(open_study_storage(f"grpcs://{target}", ca_file=cert), name, "maximize")
    run_trial(study, 1)
    stored = len(study.trials)
    for wrong in ({"tls": True}, {"tls": False}):
        with pytest.raises(StudyError, match="did not answer"):
            create_study(
                open_remote(target, token_file=None, ca_file=None, patience_seconds=0.3, **wrong), name, "maximize"
            )
    server.stop()

    assert stored == 1


def test_the_token_is_sent_and_read_again_when_it_changes(server: StudyServer, tmp_path: Path, name: str):
    """As the kubelet rotates it; a missing file is named."""
    token = tmp_path / "token"
    token.write_text("first\n")
    storage: Any = open_study_storage(f"grpc://127.0.0.1:{server.port}", token_file=token)
    sent: list[Any] = []
    real = storage._stub.methods["GetStudyIdFromName"]
    storage._stub.methods["GetStudyIdFromName"] = lambda *args, **kwargs: (
        sent.append(kwargs["metadata"]),
        real(*args, **kwargs),
    )[1]
    create_study(storage, name, "maximize")
    token.with_suffix(".new").write_text("second-token")
    token.with_suffix(".new").replace(token)
    create_study(storage, name, "maximize")
    token.unlink()

    with pytest.raises(StudyError, match=r"study token file .*token cannot be read"):
        create_study(storage, name, "maximize")
    assert {m for call in sent for m in call} == {
        ("authorization", "Bearer first"),
        ("authorization", "Bearer second-token"),
    }


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--database-url", "sqlite:///{tmp}/s.db", "--listen", "nowhere"], 2, "--listen must be HOST:PORT"),
        (["--database-url", "journal:///{tmp}/s.log"], 2, "--database-url must be postgresql://... or sqlite:///path"),
        (["--database-url", "sqlite:///{tmp}/s.db", "--tls-cert", "c"], 2, "must be given together"),
        (
            ["--database-url", "postgresql://u:hidden@127.0.0.1:9/d", "--start-patience", "0"],
            1,
            "u:***@127.0.0.1:9/d cannot be opened",
        ),
        (["--database-url-file", "/nope"], 1, "--database-url-file /nope cannot be read"),
    ],
)
def test_a_wrong_call_is_explained_in_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, arguments: list[str], code: int, message: str
):
    """Exit code 2 for misuse, 1 for what cannot be served; no password in the line."""
    got = main([argument.replace("/{tmp}", str(tmp_path)) for argument in arguments])

    lines = capsys.readouterr().err.splitlines()
    assert (got, len(lines)) == (code, 1)
    assert message in lines[0]
    assert "hidden" not in lines[0]


def test_a_port_in_use_is_refused(server: StudyServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Two servers never share a port in silence."""
    code = main(["--database-url", f"sqlite://{tmp_path}/other.db", "--listen", f"127.0.0.1:{server.port}"])

    assert code == 1
    assert "choose a free port" in capsys.readouterr().err


def test_sigterm_stops_the_server_cleanly(tmp_path: Path):
    """Exit code 0."""
    with running_study_server(f"sqlite://{tmp_path}/study.db") as server:
        code = server.stop()

    assert code == 0
