"""Holds a command of the documentation to what it claims: that the program, the verb, the flags and the files are there."""

from __future__ import annotations

import io
import re
import shlex
import subprocess
import tomllib
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr
from functools import cache
from itertools import dropwhile, pairwise
from pathlib import Path

from scripts.reference.commands import BY_ENVIRONMENT, parsed

from docs.manifest_rules import values_trouble
from docs.markdown_files import ROOT
from kubeautoml.api.crd import KINDS
from kubeautoml.api.errors import UsageError
from kubeautoml.cli.main import VERBS

OPERATORS = {"|", "||", "&&", ";", "&", "(", ")", "{", "}", ";;"}
SHELL = {
    "cd", "echo", "export", "source", "for", "in", "do", "done", "while", "if", "then", "fi", "until", "wait", "kill", "trap", "set",
    "cat", "ls", "head", "tail", "sort", "uniq", "wc", "grep", "sed", "awk", "cut", "tr", "printf", "base64", "sleep", "mkdir", "cp",
    "mv", "rm", "chmod", "find", "xargs", "sha256sum", "jq", "column", "tee", "test", "tar", "open", "xdg-open", "sudo", "curl",
    "unset", "env",
}  # fmt: skip
"""What any machine with a shell has; their arguments are not looked at, but files that curl sends are."""

ELSEWHERE = {
    "aws": "writes to somebody's bucket; tests do the same by another tool",
    "docker": "needs a container engine; `make images` builds the same recipe by buildah",
    "git": "needs a forge",
    "pg_dump": "tests/study/test_study_backup.py runs it, with a database",
    "psql": "likewise",
}
"""Programs that the tests do not run or parse, with the reason. Whoever names another one adds it here, or a rule for it below."""

NOT_YET_THERE = {
    "churn.yaml","job.yaml", "my-job.yaml", "values.yaml", "my-values.yaml", "record.json", "rows.json", "rows.csv", "digit.png",
                 "profile.yaml", "backup.yaml", "credentials.env", "predictions.csv", "sample.json", "my-backbone", "values.schema.json",
                 "ca.crt"}  # fmt: skip
"""Names that stand for a file of the reader's."""

CORE_KINDS = {
    "all", "namespace", "namespaces", "ns", "pod", "pods", "po", "node", "nodes", "secret", "secrets", "configmap", "configmaps", "cm",
    "service", "services", "svc", "deployment", "deployments", "deploy", "job", "jobs", "event", "events", "lease", "leases", "crd",
    "crds", "customresourcedefinitions", "customresourcedefinition", "networkpolicy", "networkpolicies", "netpol", "hpa", "pdb",
    "horizontalpodautoscaler", "horizontalpodautoscalers", "poddisruptionbudget", "poddisruptionbudgets", "serviceaccount",
    "serviceaccounts", "sa", "role", "roles", "rolebinding", "rolebindings", "clusterrole", "clusterroles", "clusterrolebinding",
    "clusterrolebindings", "pvc", "persistentvolumeclaims", "workload", "workloads", "workloads.kueue.x-k8s.io", "localqueue",
    "localqueues", "ingress", "replicasets", "rs", "statefulset", "statefulsets", "sts", "storageclass", "quota", "resourcequota",
    "leases.coordination.k8s.io", "tokenreviews.authentication.k8s.io", "applications", "helmreleases", "helmrelease", "application",
}  # fmt: skip
OUR_KINDS = {
    name
    for k in KINDS
    for name in (k.plural, k.short, k.name.lower(), f"{k.plural}.kubeautoml.dev", f"{k.name.lower()}.kubeautoml.dev")
}


def commands(script: str) -> Iterator[list[str]]:
    """The simple commands of a script, those in `$(...)` and behind pipes among them.

    Raises:
        ValueError: it is not a script; says where.
    """
    quiet = re.sub(r"\d?>&\d|&>", " > ", _without_heredocs(script))
    joined = re.sub(r"\\\n\s*", " ", quiet).replace("$(", " ; ( ").replace("<(", " ; ( ")
    for line in _logical_lines(joined):
        lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;()")
        lexer.whitespace_split = True
        lexer.commenters = "#"
        words: list[str] = []
        for token in [*lexer, ";"]:
            if token in OPERATORS or set(token) <= set("|&;()"):
                if found := _without_assignments(words):
                    yield found
                words = []
            else:
                words.append(token)


def _without_heredocs(script: str) -> str:
    return re.sub(r"<<-?\s*['\"]?(\w+)['\"]?([^\n]*)\n.*?^\s*\1$", r"\2", script, flags=re.MULTILINE | re.DOTALL)


def _logical_lines(script: str) -> Iterator[str]:
    """Lines, joined where a quotation goes on in the next one."""
    pending = ""
    for line in script.splitlines():
        pending = f"{pending}\n{line}" if pending else line
        try:
            shlex.split(pending, comments=True)
        except ValueError:
            continue
        yield pending
        pending = ""
    if pending:
        raise ValueError(f"a quotation is not closed: {pending}")


def _without_assignments(words: list[str]) -> list[str]:
    kept = list(words)
    while kept and (
        re.match(r"^\w+=", kept[0]) or kept[0] in ("export", "sudo", "do", "then", "!", "time", "xargs", "env", "watch")
    ):
        if kept.pop(0) == "xargs":
            kept = list(dropwhile(lambda word: word.startswith("-"), kept))
    cut = next((i for i, w in enumerate(kept) if re.match(r"^\d?>", w)), len(kept))
    return kept[:cut]


def command_trouble(words: list[str]) -> str | None:
    """What is wrong with a command, or None."""
    program, *rest = words
    if program in ELSEWHERE or program in SHELL:
        return _curl(rest) if program == "curl" else None
    rule = RULES.get(program)
    if rule is not None:
        return rule(rest)
    if program.startswith(("scripts/", "./", "benchmarks/", "examples/")):
        return None if (ROOT / program).exists() else f"there is no {program}"
    return f"no rule for {program!r}: add one here, or to ELSEWHERE with the reason"


def _kubeautoml(words: list[str]) -> str | None:
    verb, *rest = words or ["--help"]
    if verb in ("--version", "--help", "VERB"):
        return None
    if verb not in VERBS:
        return f"{verb} is no verb"
    if verb in BY_ENVIRONMENT:
        return f"{verb} takes no arguments" if rest else None
    said = io.StringIO()
    try:
        with redirect_stderr(said):
            parsed(verb, rest)
    except UsageError as error:
        return str(error)
    except SystemExit as left:
        return None if left.code == 0 else said.getvalue().strip().splitlines()[-1]
    return _files(rest)


def _files(words: list[str]) -> str | None:
    """Files after -f, and folders after -k, must be there."""
    for flag, value in pairwise(words):
        if flag in ("-f", "--filename", "-k") and (said := _missing(value)):
            return said
    return next((s for w in words if (m := re.match(r"--?f(?:ilename)?=(.+)", w)) and (s := _missing(m[1]))), None)


def _missing(name: str) -> str | None:
    if (
        name in ("-", "FILE")
        or name.startswith(("http://", "https://", "$", "demo/"))
        or Path(name).name in NOT_YET_THERE
    ):
        return None
    return None if (ROOT / name).exists() else f"there is no file {name}"


def _kubectl(words: list[str]) -> str | None:
    rest = list(words)
    while rest and rest[0].startswith("-"):
        flag = rest.pop(0)
        if flag not in GLOBAL_FLAGS and flag.partition("=")[0] not in GLOBAL_FLAGS:
            return f"kubectl has no flag {flag}"
        if "=" not in flag:
            rest.pop(0)
    if not rest:
        return "kubectl needs a verb"
    verb, *after = rest
    if verb == "automl":
        return _kubeautoml(after)
    if verb in ("config", "create", "rollout", "auth", "top", "set") and after and not after[0].startswith("-"):
        verb = f"{verb} {after.pop(0)}"
        if verb == "create secret":
            verb = f"{verb} {after.pop(0)}"
    flags = kubectl_flags(verb)
    if flags is None:
        return f"kubectl has no verb {verb}"
    if "--" in after:
        after = after[: after.index("--")]
    for word in after:
        if word.startswith("-") and word != "-" and word.partition("=")[0] not in flags | GLOBAL_FLAGS:
            return f"kubectl {verb} has no flag {word}"
    return _files(after) or _kinds(verb, after, flags)


GLOBAL_FLAGS = {
    "-n",
    "--namespace",
    "--context",
    "--kubeconfig",
    "-h",
    "--help",
    "--as",
    "--request-timeout",
    "--server",
    "-s",
}


@cache
def kubectl_flags(verb: str) -> set[str] | None:
    """Flags of a verb of kubectl, from its own help; None where there is no such verb."""
    done = subprocess.run(["kubectl", *verb.split(), "--help"], capture_output=True, text=True)
    if done.returncode or "Usage:" not in done.stdout:
        return None
    usage = done.stdout.rpartition("Usage:")[2]
    if f"kubectl {verb.removesuffix('s')}" not in usage:  # "top pods" is another name of "top pod"
        return None
    return {f for names in re.findall(r"^ {4}(-[^:]*?)=", done.stdout, re.MULTILINE) for f in names.split(", ")}


def _kinds(verb: str, words: list[str], flags: set[str]) -> str | None:
    """Kinds that a verb is given must be known: ours, or of Kubernetes."""
    if verb not in ("get", "describe", "delete", "label", "annotate", "explain", "wait", "edit", "patch"):
        return None
    with_value = {
        "-n",
        "--namespace",
        "-l",
        "-o",
        "--selector",
        "-f",
        "--type",
        "-p",
        "--sort-by",
        "--context",
        "--raw",
        "--patch",
    }
    plain, skip = [], False
    for word in words:
        if skip or word.startswith("-"):
            skip = not skip and word in with_value
            continue
        plain.append(word)
    if not plain:
        return None
    for kind in plain[0].split("/")[0].split(","):
        if kind == "KIND":
            continue
        if (
            kind.partition(".")[0] not in OUR_KINDS | CORE_KINDS
            and kind not in OUR_KINDS | CORE_KINDS
            and not kind.startswith("$")
        ):
            return f"{kind} is no kind that this test knows"
    return None


def _make(words: list[str]) -> str | None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = {name for names in re.findall(r"^([\w -]+):", makefile, re.MULTILINE) for name in names.split()}
    asked = {w for w in words if "=" not in w and not w.startswith("-")}
    return f"the Makefile has no {', '.join(sorted(asked - targets))}" if asked - targets else None


def _python(words: list[str]) -> str | None:
    if not words or words[0] == "-c":
        return None
    if words[0] == "-m":
        return (
            None
            if words[1] in ("venv", "pip", "http.server", "scripts.reference", "pytest")
            else f"no module {words[1]}"
        )
    if words[0] == "examples/NAME.py":
        return None
    return None if (ROOT / words[0]).exists() else f"there is no {words[0]}"


def _pip(words: list[str]) -> str | None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    for word in words:
        found = re.match(r"^kubeautoml\[(.*)\]$", word)
        if found and (unknown := set(found[1].split(",")) - set(extras)):
            return f"kubeautoml has no extra {', '.join(sorted(unknown))}"
    return None


HELM_VERBS = {
    "install": "install", "upgrade": "upgrade", "uninstall": "", "template": "install", "lint": "", "test": "", "show": "",
    "rollback": "", "status": "", "history": "", "get": "", "list": "", "repo": "", "pull": "", "package": "", "push": "",
}  # fmt: skip


HELM_FLAGS = {
    "-n", "--namespace", "--create-namespace", "--set", "--set-string", "--set-json", "--set-file", "-f", "--values", "--version", "--wait",
    "--timeout", "--reuse-values", "--reset-then-reuse-values", "--atomic", "--dry-run", "--install", "--include-crds", "--skip-crds",
    "--kube-context", "-A", "-o", "--output", "--logs", "--no-hooks", "--api-versions", "--kube-version", "--show-only", "-s",
}  # fmt: skip


def _helm(words: list[str]) -> str | None:
    verb, *rest = words
    if verb not in HELM_VERBS:
        return f"helm has no verb {verb}"
    for word in rest:
        if word.startswith("-") and word.partition("=")[0] not in HELM_FLAGS:
            return f"helm {verb} has no flag {word} that this test knows"
        if word.startswith("helm/") and not (ROOT / word).exists():
            return f"there is no chart {word}"
        if word.startswith("oci://ghcr.io/") and "kubeautoml/charts/kubeautoml" not in word:
            return f"{word} is not where the chart is published"
    for flag, value in pairwise(rest):
        if flag in ("-f", "--values") and (said := _missing(value)):
            return said
        if flag in ("--set", "--set-string", "--set-json", "--set-file"):
            for pair in re.split(r"(?<!\\),(?=[\w.\[\]\\-]+=)", value):
                if said := values_trouble(nested(pair.partition("=")[0])):
                    return said
    return None


def nested(path: str) -> dict[str, object]:
    """{"a": {"b": None}} for "a.b"; an index ends it, as lists may hold anything."""
    first, dot, rest = path.partition(".")
    name, bracket, _ = first.partition("[")
    return {name: nested(rest) if dot and not bracket else None}


def _curl(words: list[str]) -> str | None:
    """Files that are sent must be there, or be made by what comes before."""
    for flag, value in pairwise(words):
        if flag in ("-d", "--data", "--data-binary") and value.startswith("@") and (said := _missing(value[1:])):
            return said
    return None


RULES: dict[str, Callable[[list[str]], str | None]] = {
    "kubeautoml": _kubeautoml,
    "kubectl": _kubectl,
    "kubectl-automl": _kubeautoml,
    "make": _make,
    "python": _python,
    "python3": _python,
    "pip": _pip,
    "helm": _helm,
}
