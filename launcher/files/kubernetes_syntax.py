"""What Kubernetes takes as a name, a label and a quantity: the rules that only its API server checks.

Owns the rules and the words for what breaks them; which field follows which rule is said in cluster.py.
Each function returns its argument, or raises ValueError with a message for a person.

https://kubernetes.io/docs/concepts/overview/working-with-objects/names/
https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#syntax-and-character-set
https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/
"""

from __future__ import annotations

import re

_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?")
_QUANTITY = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)([KMGTPE]i|[munkMGTPE]|[eE][-+]?[0-9]+)?")
_STANDARD = ("cpu", "memory", "ephemeral-storage")
_LARGEST = 2**63 - 1  # of a quantity
_SUFFIXES = {"": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
_SUFFIXES |= {letter: 1000.0**power for power, letter in enumerate("kMGTPE", 1)}
_SUFFIXES |= {f"{letter}i": 1024.0**power for power, letter in enumerate("KMGTPE", 1)}


def label(text: str) -> str:
    """A DNS label (RFC 1123): what hosts, containers and volumes are named by."""
    return _labels(text, [text], 63, "digits and '-'")


def subdomain(text: str) -> str:
    """DNS labels with dots between them: the name of an object."""
    return _labels(text, text.split("."), 253, "digits, '-' and '.'")


def _labels(text: str, parts: list[str], longest: int, characters: str) -> str:
    if len(text) > longest:
        raise ValueError(f"{_shown(text)} has {len(text)} characters; {longest} is the most")
    if not all(map(_LABEL.fullmatch, parts)):
        raise ValueError(
            f"{_shown(text)} is not a Kubernetes name; use lower case letters, {characters}, "
            "with a letter or digit at both ends"
        )
    return text


def value(text: str) -> str:
    """A label's value; it may be empty."""
    if len(text) > 63:
        raise ValueError(f"label value {_shown(text)} has {len(text)} characters; 63 is the most")
    if not _VALUE.fullmatch(text):
        raise ValueError(
            f"{_shown(text)} is not a label value; use letters, digits, '-', '_' and '.', "
            "with a letter or digit at both ends"
        )
    return text


def key(text: str) -> str:
    """The key of a label, an annotation, a taint or a resource: `name` or `domain/name`."""
    domain, slash, name = text.rpartition("/")
    if not name or len(name) > 63 or not _VALUE.fullmatch(name) or (slash and not domain):
        raise ValueError(f"{_shown(text)} is not a key of Kubernetes; write name or domain.example/name")
    if slash:
        subdomain(domain)
    return text


def quantity(text: str) -> str:
    """An amount such as `500m`, `2`, `1.5` or `64Gi`. It stays text: as a number YAML would change it."""
    if not _QUANTITY.fullmatch(text):
        raise ValueError(f"{_shown(text)} is not a quantity; write 2, 500m, 64Gi or 64G")
    return text


def resource(name: str, amount: str) -> str:
    """The amount of resource `name`. Devices and huge pages are whole: `nvidia.com/gpu: 8`."""
    quantity(amount)
    # https://kubernetes.io/docs/concepts/configuration/manage-resources-containers/#resource-types
    if "/" not in name and name not in _STANDARD and not name.startswith("hugepages-"):
        raise ValueError(
            f"{_shown(name)} is no resource of Kubernetes; write domain.example/name for a device"
        )
    if name.startswith("requests."):
        raise ValueError(f"{_shown(name)} is a quota's word; leave `requests.` out")
    if number(amount) > _LARGEST:
        raise ValueError(f"{_shown(amount)} of {name} is more than there can be")
    if "/" in name and not re.fullmatch("[0-9]+", amount):
        raise ValueError(f"{name} is counted in whole devices, not {_shown(amount)}")
    if name.startswith("hugepages-"):
        _pages(name, amount)
    return amount


def _pages(name: str, amount: str) -> None:
    """Raise ValueError for what is no whole number of huge pages.

    https://kubernetes.io/docs/tasks/manage-hugepages/scheduling-hugepages/
    """
    size = name.removeprefix("hugepages-")
    if not _QUANTITY.fullmatch(size) or not number(size):
        raise ValueError(f"{_shown(name)} names no size of a page; write hugepages-2Mi or hugepages-1Gi")
    if number(amount) % number(size):
        raise ValueError(f"{_shown(amount)} of {name} is no whole number of pages")


def data_key(text: str) -> str:
    """A key of a Secret's or ConfigMap's data: a file's name."""
    if len(text) > 253 or not re.fullmatch(r"[-._A-Za-z0-9]+", text) or text == "." or text.startswith(".."):
        raise ValueError(
            f"{_shown(text)} is not a key of a Secret; use up to 253 letters, digits, '-', '_' and '.'"
        )
    return text


def http_path(text: str) -> str:
    """The path of a probe's URL."""
    if not text.startswith("/") or not text.isprintable() or " " in text:
        raise ValueError(
            f"{_shown(text)} does not start with '/', or has a blank in it; write it as in a URL"
        )
    return text


def number(amount: str) -> float:
    """The number that a valid quantity stands for."""
    match = _QUANTITY.fullmatch(amount)
    assert match
    suffix = match[2] or ""
    return float(match[1]) * _SUFFIXES[suffix] if suffix in _SUFFIXES else float(match[1] + suffix)


def _shown(text: str) -> str:
    return repr(text if len(text) <= 70 else f"{text[:67]}...")
