"""A real Kubernetes control plane for tests: etcd, kube-apiserver and kube-controller-manager on free ports.

Everything lives in a temporary folder and is ended by process id. There is no scheduler: the test kubelet is the only
node and binds pods itself. Custom resources are installed before the controller manager starts, since its garbage
collector looks for new kinds only every 30 seconds.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import urllib3
import yaml

from kubeautoml.api.rights import OPERATOR_ACCOUNT, OPERATOR_NAMESPACE, role_objects
from real.binaries import Binaries, find_binaries
from real.process import end, free_ports, start
from real.rest import ApiError, Json, Rest
from real.strip import strip

ADMIN_TOKEN = "admin-token"
READY_SECONDS = 60.0
CONTROLLER_MANAGER_STARTS = 5


class ServerEnded(RuntimeError):
    """A server of the control plane ended by itself."""


@dataclass(frozen=True)
class Server:
    """One process of the control plane."""

    process: subprocess.Popen[bytes]
    log: Path

    @property
    def last_words(self) -> str:
        return self.log.read_text(errors="replace")[-2000:]


class ApiServer:
    """The API server's process, which a test may kill and start again: same port, same store, nothing else remembered."""

    def __init__(self, command: list[str], log: Path) -> None:
        self._command, self._log = command, log
        self.server = Server(start(command, log), log)

    def kill(self) -> None:
        """At once."""
        end(self.server.process)

    def start_again(self) -> None:
        """After `kill`; the caller waits until it answers."""
        self.server = Server(start(self._command, self._log), self._log)


@dataclass(frozen=True)
class ControlPlane:
    """A running API server, and how to reach it."""

    server: str
    """URL."""
    folder: Path
    """Certificates, logs and kubeconfigs; gone after the test session."""
    version: tuple[int, int, int]
    admin: Rest
    """May do everything."""
    etcd_url: str
    """Without credentials."""
    api_server: ApiServer

    @property
    def ca_file(self) -> Path:
        return self.folder / "certs" / "apiserver.crt"

    @property
    def kubeconfig(self) -> Path:
        """Of the admin."""
        return self.kubeconfig_for("admin", ADMIN_TOKEN)

    @property
    def has_cel(self) -> bool:
        """Whether CRDs may carry CEL rules that are evaluated (generally available since 1.29)."""
        return self.version >= (1, 29, 0)

    def kubeconfig_for(self, user: str, token: str, namespace: str = "default") -> Path:
        """Write (once) a kubeconfig of somebody else."""
        path = self.folder / f"{user}.{namespace}.kubeconfig"
        if not path.exists():
            path.write_text(json.dumps(_kubeconfig(self.server, self.ca_file, user, token, namespace)))
        return path

    def operator_kubeconfig(self) -> Path:
        """Of the operator's service account, in its own namespace, with the rights of its role and no more."""
        token = self.token(OPERATOR_NAMESPACE, OPERATOR_ACCOUNT)
        return self.kubeconfig_for(OPERATOR_ACCOUNT, token, OPERATOR_NAMESPACE)

    def token(self, namespace: str, account: str, audiences: Sequence[str] = ()) -> str:
        """A token of a service account, as TokenRequest gives it."""
        request: Json = {"spec": {"expirationSeconds": 7200, **({"audiences": list(audiences)} if audiences else {})}}
        answer = self.admin.post(f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token", request)
        return str(answer["status"]["token"])

    def forget_history(self) -> None:
        """Compact etcd: watches from an older resourceVersion are refused (at once for Events, which are not cached)."""
        revision = self.admin.get("/api/v1/namespaces")["metadata"]["resourceVersion"]
        body = json.dumps({"revision": revision, "physical": True})
        answer = urllib3.request("POST", f"{self.etcd_url}/v3/kv/compaction", body=body, retries=False)
        if answer.status != 200:
            raise RuntimeError(f"etcd must compact its history, but answered {answer.status}: {answer.data[:200]!r}")

    def restart_api_server(self) -> None:
        """Kill it, start it again, and wait until it is ready."""
        self.api_server.kill()
        self.api_server.start_again()
        self.wait_until_ready()

    def wait_until_ready(self, *others: Server) -> None:
        """Until the API server says that it is ready.

        Raises:
            ServerEnded: it, or one of the others, ended instead.
        """

        def is_ready() -> bool:
            return self.ca_file.exists() and _answers(f"{self.server}/readyz", self.ca_file)

        _wait(is_ready, "the API server to be ready", *others, self.api_server.server)

    def create_namespace(self, name: str) -> None:
        """A namespace in which pods can be created at once: its default service account is there."""
        self.admin.ensure("/api/v1/namespaces", {"metadata": {"name": name}})
        _wait(lambda: _has_default_account(self, name), f"the default service account of namespace {name}")
        # each test's operators are elected among themselves, so their lease is in the test's namespace
        for manifest in role_objects(lease_namespace=name):
            if manifest["metadata"]["name"].endswith("-lease"):
                self.admin.ensure(collection_of(manifest), manifest)


@contextmanager
def running_control_plane(crds: Path | None = None, *, with_operator_account: bool = True) -> Iterator[ControlPlane]:
    """Start one, with the custom resources of a folder; stop it at the end, also after a failing test or Ctrl-C.

    Args:
        with_operator_account: with accounts and roles, as `kubeautoml rbac` prints them; False for an empty cluster.

    Raises:
        MissingBinaries: this machine has none; says how to get them.
    """
    binaries = find_binaries()
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="kubeautoml-controlplane-"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        plane = _start_api_server(binaries, folder, stack)
        install_crds(plane, crds)
        _start_controller_manager(binaries, plane, stack)
        if with_operator_account:
            _create_operator_account(plane)
        yield plane


def install_crds(plane: ControlPlane, folder: Path | None) -> None:
    """Create the CRDs of a folder of YAML files, less what an old server does not know, and wait until they are served."""
    path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    files = sorted(folder.glob("*.yaml")) if folder else []
    crds = [crd for file in files for crd in yaml.safe_load_all(file.read_text()) if crd]
    for crd in crds:
        plane.admin.ensure(path, strip(crd, plane.version))
    for crd in crds:
        name = crd["metadata"]["name"]
        _wait(lambda name=name: _is_served(plane.admin.get(f"{path}/{name}")), f"CRD {name} to be served")


def _is_served(crd: Json) -> bool:
    conditions = crd.get("status", {}).get("conditions", [])
    return any(c["type"] == "Established" and c["status"] == "True" for c in conditions or ())


def _start_api_server(binaries: Binaries, folder: Path, stack: ExitStack) -> ControlPlane:
    etcd_port, peer_port, port = free_ports(3)
    _write_keys(folder)
    server, ca_file = f"https://127.0.0.1:{port}", folder / "certs" / "apiserver.crt"
    admin = Rest(server, ca_file, ADMIN_TOKEN)
    etcd = _run(binaries.etcd, _etcd_flags(folder, etcd_port, peer_port), folder, stack)
    command = [str(binaries.apiserver), *_apiserver_flags(folder, etcd_port, port)]
    api = ApiServer(command, folder / f"{binaries.apiserver.name}.log")
    stack.callback(api.kill)
    plane = ControlPlane(server, folder, binaries.version(), admin, f"http://127.0.0.1:{etcd_port}", api)
    plane.wait_until_ready(etcd)
    return plane


def _start_controller_manager(binaries: Binaries, plane: ControlPlane, stack: ExitStack) -> None:
    """Its port may be taken between our choice and its start, as another session may be starting, too: then try another."""
    for attempt in range(CONTROLLER_MANAGER_STARTS):
        (port,) = free_ports(1)
        flags = _controller_manager_flags(plane, port)
        process = _run(binaries.controller_manager, flags, plane.folder, stack)
        try:
            _wait(lambda port=port: _answers(f"https://127.0.0.1:{port}/healthz"), "the controller manager", process)
            return
        except ServerEnded:
            if attempt == CONTROLLER_MANAGER_STARTS - 1:
                raise


def _run(binary: Path, flags: list[str], folder: Path, stack: ExitStack) -> Server:
    log = folder / f"{binary.name}.log"
    process = start([str(binary), *flags], log)
    stack.callback(end, process)
    return Server(process, log)


def _etcd_flags(folder: Path, port: int, peer_port: int) -> list[str]:
    url = f"http://127.0.0.1:{port}"
    return [
        f"--data-dir={folder / 'etcd'}",
        f"--listen-client-urls={url}",
        f"--advertise-client-urls={url}",
        f"--listen-peer-urls=http://127.0.0.1:{peer_port}",
        "--unsafe-no-fsync",
    ]


def _apiserver_flags(folder: Path, etcd_port: int, port: int) -> list[str]:
    return [
        f"--etcd-servers=http://127.0.0.1:{etcd_port}",
        f"--secure-port={port}",
        "--bind-address=127.0.0.1",
        f"--cert-dir={folder / 'certs'}",
        f"--service-account-key-file={folder / 'sa.pub'}",
        f"--service-account-signing-key-file={folder / 'sa.key'}",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--token-auth-file={folder / 'tokens.csv'}",
        "--authorization-mode=RBAC",
        "--service-cluster-ip-range=10.0.0.0/24",
        "--allow-privileged=true",
    ]


def _controller_manager_flags(plane: ControlPlane, port: int) -> list[str]:
    """The node controllers stay off: the kubelet sends no heartbeats, which would only be noise in API counts."""
    # Before 1.24 there is a second, insecure port, the same for everybody, and taken when two sessions run side by side.
    insecure = ["--port=0"] if plane.version < (1, 24, 0) else []
    return [
        *insecure,
        f"--kubeconfig={plane.kubeconfig}",
        f"--service-account-private-key-file={plane.folder / 'sa.key'}",
        f"--root-ca-file={plane.ca_file}",
        "--use-service-account-credentials=true",
        "--leader-elect=false",
        f"--secure-port={port}",
        "--bind-address=127.0.0.1",
        f"--cert-dir={plane.folder / 'kcm'}",
        "--kube-api-qps=200",
        "--kube-api-burst=400",
        "--controllers=*,-nodelifecycle,-nodeipam,-cloud-node-lifecycle,-route,-service,-attachdetach,"
        "-persistentvolume-binder,-persistentvolume-expander",
    ]


def _write_keys(folder: Path) -> None:
    (folder / "tokens.csv").write_text(f"{ADMIN_TOKEN},admin,admin,system:masters\n")
    openssl = shutil.which("openssl")
    if openssl is None:
        raise RuntimeError(
            "tests marked controlplane need the command openssl; install it with: apt-get install openssl"
        )
    key, public = folder / "sa.key", folder / "sa.pub"
    subprocess.run([openssl, "genrsa", "-out", key, "2048"], check=True, capture_output=True)
    subprocess.run([openssl, "rsa", "-in", key, "-pubout", "-out", public], check=True, capture_output=True)


def _kubeconfig(server: str, ca_file: Path, user: str, token: str, namespace: str) -> Json:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": user,
        "contexts": [{"name": user, "context": {"cluster": "test", "user": user, "namespace": namespace}}],
        "clusters": [{"name": "test", "cluster": {"server": server, "certificate-authority": str(ca_file)}}],
        "users": [{"name": user, "user": {"token": token}}],
    }


def _create_operator_account(plane: ControlPlane) -> None:
    """With exactly the rights that `kubeautoml rbac` prints."""
    plane.admin.ensure("/api/v1/namespaces", {"metadata": {"name": OPERATOR_NAMESPACE}})
    for manifest in role_objects():
        plane.admin.ensure(collection_of(manifest), manifest)


def collection_of(manifest: Json) -> str:
    """URL path of where an object of RBAC is created."""
    namespace = manifest["metadata"].get("namespace")
    prefix = "/api/v1" if manifest["kind"] == "ServiceAccount" else f"/apis/{manifest['apiVersion']}"
    return f"{prefix}{f'/namespaces/{namespace}' if namespace else ''}/{manifest['kind'].lower()}s"


def _has_default_account(plane: ControlPlane, namespace: str) -> bool:
    """Before 1.24 admission refuses pods until the account has a token secret, too."""
    account = plane.admin.find(f"/api/v1/namespaces/{namespace}/serviceaccounts/default")
    return account is not None and (plane.version >= (1, 24, 0) or bool(account.get("secrets")))


def _answers(url: str, ca_file: Path | None = None) -> bool:
    trust = {"ca_certs": str(ca_file)} if ca_file else {"cert_reqs": "CERT_NONE", "assert_hostname": False}
    try:
        with warnings.catch_warnings(), urllib3.PoolManager(retries=False, **trust) as pool:
            warnings.simplefilter("ignore", urllib3.exceptions.InsecureRequestWarning)
            headers = {"Authorization": f"Bearer {ADMIN_TOKEN}"}
            return bool(pool.request("GET", url, headers=headers, timeout=2).status == 200)
    except (urllib3.exceptions.HTTPError, OSError):
        return False


def _wait(holds: Callable[[], bool], what: str, *servers: Server) -> None:
    """Until it holds; a server that ended meanwhile, or too long a wait, is an error with the servers' last words."""
    deadline = time.monotonic() + READY_SECONDS
    while True:
        try:
            if holds():
                return
        except ApiError as error:
            if error.status < 500 and error.status != 404:
                raise
        for server in servers:
            if server.process.poll() is not None:
                raise ServerEnded(f"{server.log.stem} ended with {server.process.returncode}: {server.last_words}")
        if time.monotonic() > deadline:
            words = "\n".join(server.last_words for server in servers)
            raise RuntimeError(f"waited {READY_SECONDS:.0f} s for {what}; {words}")
        time.sleep(0.05)
