"""Specs that nobody would write, as hypothesis strategies: made from the CRD's schema, and by damaging good manifests.

`jobs` gives an AutoMLJob's whole manifest with metadata that an API server could hold; its spec may be any JSON. `profiles`
gives an AutoMLProfile's spec, and `statuses` what somebody else may have written into a status.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from hypothesis import strategies as st

from factories import UID, make_manifest
from kubeautoml.api.crd import KINDS, definition
from kubeautoml.api.metrics import METRICS

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
Json = Any
Place = tuple[str | int, ...]

ODD_TEXT = (
    "",
    " ",
    "\n",
    "two\nlines",
    "tab\there",
    "\u2028",
    "\x00",
    "\x1b[31mred",
    "\N{RIGHT-TO-LEFT OVERRIDE}",
    "日本語",
    "\N{GRINNING FACE}" * 50,
    "x" * 300,
    "x" * 5000,
    "null",
    "true",
    "1e400",
    "-0",
    "0x10",
    "NaN",
    "Infinity",
    "1_000",
    "\N{ARABIC-INDIC DIGIT ONE}",
    "-1",
    "1.5",
    "99999999999999999999",
    "s3://",
    "s3:///",
    "s3://b/../../x",
    "file:///../../etc/passwd",
    "s3://b/*/[",
    "S3://b/k",
    "../..",
    "a/b",
    "{{ .Values }}",
    "$(HOME)",
    "%s%n",
    "'; drop table trials; --",
    "a.b.c",
    "-a-",
    "nvidia.com/gpu",
)

JUNK: st.SearchStrategy[Json] = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.sampled_from([2**31 - 1, 2**31, 2**53 + 1, 2**63, -(2**63) - 1, 10**40, 0.5, -0.0, 1e308, 5e-324]),
    st.sampled_from(ODD_TEXT),
    st.text(max_size=12),
    st.lists(st.sampled_from(["", 0, None, "a", [], {}]), max_size=3),
    st.dictionaries(st.sampled_from(["", "a", "name", "type", "\n"]), st.sampled_from(["", 0, None, []]), max_size=2),
)

WORDS: dict[str, tuple[str, ...]] = {
    "metric": tuple(METRICS),
    "include": ("LightGBM", "XGBoost", "Linear", "Dummy", "Nonsense"),
    "exclude": ("LightGBM", "Linear", "Nonsense"),
    "testFraction": ("0.2", "0.05", "0.5", "0.04", "1e-1", "0", "7"),
    "uri": ("s3://lake/a.csv", "s3://lake/x/*.parquet", "file:///data/a.csv", "s3://b"),
    "url": ("grpc://study:13000", "grpcs://study.example:1", "postgresql://db/x"),
    "endpointUrl": ("https://s3.example", "http://10.0.0.1:8333"),
    "cidr": ("10.0.0.0/8", "fd00::/8", "10.0.0.0/33"),
    "cpu": ("1", "500m", "0", "64"),
    "dataPrefixes": ("s3://lake/", "file:///data"),
    "outputPrefixes": ("s3://models",),
}
"""Values that mean something, by field: a pattern alone hardly ever makes one."""

KEYS: dict[str, tuple[str, ...]] = {
    "requests": ("cpu", "memory", "nvidia.com/gpu", "ephemeral-storage", "disk", "a/b/c"),
    "limits": ("cpu", "memory", "nvidia.com/gpu", "hugepages-2Mi"),
    "maxResources": ("cpu", "memory", "nvidia.com/gpu"),
    "when": ("family", "booster"),
}


@cache
def schema_of(kind: str) -> dict[str, Any]:
    """The structural schema of a kind, as an API server gets it."""
    found = next(k for k in KINDS if k.name == kind)
    schema: dict[str, Any] = definition(found)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return schema


@st.composite
def from_schema(draw: st.DrawFn, kind: str, part: str, junk_in: int = 0) -> Json:
    """The spec or status of a kind as its schema has it; with `junk_in`, one of so many nodes is anything instead."""
    return _value(draw, schema_of(kind)["properties"][part], "", junk_in)


FEW = st.integers(0, 3)
TRUTH = st.booleans()


def _value(draw: st.DrawFn, schema: dict[str, Any], name: str, junk_in: int) -> Json:
    if junk_in and draw(_one_of_so_many(junk_in)):
        return draw(JUNK)
    if "enum" in schema:
        return draw(st.sampled_from(schema["enum"]))
    match schema["type"]:
        case "object":
            return _object(draw, schema, name, junk_in)
        case "array":
            least = schema.get("minItems", 0)
            count = min(least + draw(FEW), schema.get("maxItems", 3))
            return [_value(draw, schema["items"], name, junk_in) for _ in range(count)]
        case "integer":
            return draw(_integers(schema.get("minimum", -(2**40)), schema.get("maximum", 2**40)))
        case "boolean":
            return draw(TRUTH)
        case _:
            return draw(
                _texts(name, schema.get("pattern", ""), schema.get("minLength", 0), schema.get("maxLength", 64))
            )


def _object(draw: st.DrawFn, schema: dict[str, Any], name: str, junk_in: int) -> dict[str, Json]:
    made = {}
    for key, inner in schema.get("properties", {}).items():
        if key in schema.get("required", ()) or draw(FEW) == 3:
            made[key] = _value(draw, inner, key, junk_in)
    more = schema.get("additionalProperties")
    if isinstance(more, dict):
        for key in {draw(_keys(name)) for _ in range(draw(FEW))}:
            made[key] = _value(draw, more, key, junk_in)
    if junk_in and draw(_one_of_so_many(junk_in)):
        made[draw(ODD_KEYS)] = draw(JUNK)
    return made


ASCII = st.characters(min_codepoint=32, max_codepoint=126)
ODD_KEYS = st.sampled_from(["uri ", "Type", "parallellism", "", "a.b", "x\ny", "name"])


@cache
def _one_of_so_many(number: int) -> st.SearchStrategy[bool]:
    return st.integers(0, number).map(lambda n: n == number)


@cache
def _integers(low: int, high: int) -> st.SearchStrategy[int]:
    return st.sampled_from([low, high]) | st.integers(low, min(high, low + 50))


@cache
def _keys(name: str) -> st.SearchStrategy[str]:
    return st.sampled_from(KEYS.get(name, ("pool", "team", "example.com/pool", "x")))


@cache
def _texts(name: str, pattern: str, least: int, most: int) -> st.SearchStrategy[str]:
    fitting: list[st.SearchStrategy[str]] = []
    if name in WORDS:
        fitting += [st.sampled_from(WORDS[name])] * 4
    if pattern:
        fitting.append(st.from_regex(pattern, fullmatch=True, alphabet=ASCII).map(lambda s: s[:most]))
    else:
        fitting += [
            st.sampled_from(["a", "churned", "c" * min(most, 256)]),
            st.text(min_size=least, max_size=min(most, 8)),
        ]
    return st.one_of(fitting)


def places(value: Json, at: Place = ()) -> Iterator[Place]:
    """Where something stands in a value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in inner:
        yield (*at, key)
        yield from places(each, (*at, key))


@st.composite
def damaged(draw: st.DrawFn) -> Json:
    """A good spec with one to four things done to it."""
    value = deepcopy(draw(st.sampled_from(good_specs())))
    for _ in range(draw(st.integers(1, 4))):
        known = list(places(value))
        if known:
            _damage(draw, value, draw(st.sampled_from(known)), known)
    return value


def _damage(draw: st.DrawFn, value: Json, place: Place, known: list[Place]) -> None:
    *way, last = place
    holder = value
    for part in way:
        holder = holder[part]
    old = holder[last]
    match draw(st.sampled_from(["drop", "junk", "wrap", "copy", "rename", "more", "quote", "scale"])):
        case "drop":
            del holder[last]
        case "junk":
            holder[last] = draw(JUNK)
        case "wrap":
            holder[last] = [old] if draw(st.booleans()) else {"value": old}
        case "copy":
            other: Json = value
            for part in draw(st.sampled_from(known)):
                other = other[part]
            holder[last] = deepcopy(other)
        case "rename" if isinstance(holder, dict):
            name = str(last)
            turned = draw(st.sampled_from([name.lower(), name.upper(), name[:-1], f"{name}s", f"{name}\n", ""]))
            holder[turned] = holder.pop(last)
        case "more" if isinstance(holder, list):
            holder += [deepcopy(old)] * draw(st.sampled_from([1, 2, 1100]))
        case "quote":
            holder[last] = (
                str(old) if not isinstance(old, str) else (int(old) if old.isdecimal() and len(old) < 20 else old)
            )
        case "scale" if isinstance(old, int | float) and not isinstance(old, bool):
            holder[last] = old * draw(st.sampled_from([-1, 0, 2, 10**9, 0.5]))
        case _:
            holder[last] = None


@cache
def good_specs() -> tuple[dict[str, Any], ...]:
    """Specs of the examples, and one that says almost everything."""
    examples = [yaml.safe_load(p.read_text())["spec"] for p in sorted(EXAMPLES.glob("*.yaml"))]
    return (*examples, make_manifest()["spec"], RICH)


RICH: dict[str, Any] = {
    "suspend": False,
    "profileRef": {"name": "default"},
    "task": {"type": "TabularClassification", "target": "churned", "positiveClass": "yes"},
    "dataset": {
        "train": {"uri": "s3://lake/churn/*.parquet", "format": "Parquet", "secretRef": {"name": "lake-ro"}},
        "test": {"uri": "s3://lake/test.csv", "secretRef": {"name": "lake-ro"}},
        "split": {"type": "Group", "testFraction": "0.2", "groupColumn": "household", "folds": 4},
        "columns": {"types": {"zip": "Category"}, "ignore": ["id"], "weight": "w"},
    },
    "objective": {"metric": "RocAuc"},
    "constraints": [{"metric": "PredictLatencyP99Ms", "max": "20"}],
    "search": {
        "preset": "Best",
        "sampler": {"type": "Tpe"},
        "pruner": {"type": "Wilcoxon"},
        "families": {"include": ["LightGBM", "Linear"]},
        "parameters": [
            {
                "name": "learning_rate",
                "when": {"family": "LightGBM"},
                "float": {"min": "0.01", "max": "0.3", "log": True},
            },
            {"name": "num_leaves", "when": {"family": "LightGBM"}, "int": {"min": 4, "max": 64, "step": 4}},
        ],
        "warmStartFrom": [{"name": "churn-old"}],
        "seed": 7,
    },
    "budget": {
        "maxTrials": 50,
        "maxDurationSeconds": 3600,
        "maxAcceleratorSeconds": 7200,
        "targetValue": "0.99",
        "maxFailedTrials": 5,
        "patienceTrials": 20,
    },
    "workers": {
        "parallelism": 4,
        "minParallelism": 2,
        "resources": {"requests": {"cpu": "2"}, "limits": {"memory": "8Gi", "nvidia.com/gpu": "1"}},
        "placement": {
            "nodeSelector": {"pool": "ml"},
            "tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}],
            "priorityClassName": "low",
        },
        "serviceAccountName": "trainer",
    },
    "output": {"uri": "s3://models", "secretRef": {"name": "models-rw"}},
    "serving": {
        "replicas": 2,
        "gate": {"metric": "RocAuc", "min": "0.5"},
        "autoscaling": {"minReplicas": 2, "maxReplicas": 4, "targetCpuUtilizationPercentage": 60},
    },
    "retention": {"ttlSecondsAfterFinished": 3600, "keepTrialArtifacts": 3, "model": "Retain"},
}

specs: st.SearchStrategy[Json] = st.one_of(
    from_schema("AutoMLJob", "spec"),
    from_schema("AutoMLJob", "spec", junk_in=40),
    damaged(),
    damaged(),
)
"""Specs by the schema, by the schema with junk in it, and damaged good ones."""

profiles: st.SearchStrategy[Json] = from_schema("AutoMLProfile", "spec")

_NAMES = st.sampled_from(["churn", "a", "c" * 63, "c" * 64, "1a", "a.b", "x-" * 40 + "x"])
_LABELS = st.dictionaries(
    st.sampled_from(["kueue.x-k8s.io/queue-name", "kueue.x-k8s.io/priority-class", "kubeautoml.dev/job-uid", "team"]),
    st.sampled_from(["", "team-a", "A_b.c"]),
    max_size=2,
)


@st.composite
def jobs(draw: st.DrawFn) -> dict[str, Any]:
    """An AutoMLJob as an API server without a schema for it would store it."""
    metadata = {"name": draw(_NAMES) if draw(st.integers(0, 9)) == 9 else "churn", "namespace": "team-a", "uid": UID}
    labels = draw(_LABELS) if draw(st.integers(0, 4)) == 4 else {}
    return {
        "apiVersion": "kubeautoml.dev/v1alpha1",
        "kind": "AutoMLJob",
        "metadata": {**metadata, "labels": labels},
        "spec": draw(specs),
    }


statuses: st.SearchStrategy[Json] = st.one_of(
    from_schema("AutoMLJob", "status", junk_in=15), from_schema("AutoMLJob", "status"), JUNK
).map(lambda status: _listed(status))


def _listed(status: Json) -> Json:
    """With conditions that a list with keys can hold: objects with a type, each type once."""
    if not isinstance(status, dict) or not isinstance(status.get("conditions"), list):
        return status
    typed = {str(c.get("type")): c for c in status["conditions"] if isinstance(c, dict)}
    return {**status, "conditions": [{**c, "type": name} for name, c in typed.items()]}
