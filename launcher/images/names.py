"""What an image can be called: `registry.example.com:5000/team/name:tag@sha256:…`.

Owns the grammar, https://github.com/distribution/reference/blob/v0.6.0/reference.go; which runtime takes a path instead
is said where its command line is written.
"""

from __future__ import annotations

import re

_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
_DOMAIN = rf"(?P<domain>{_LABEL}(?:\.{_LABEL})*)(?::(?P<port>[0-9]{{1,5}}))?"
_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_TAG = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}"
_DIGEST = r"[a-z0-9]+:[0-9a-fA-F]{32,}"
_REFERENCE = re.compile(rf"(?:{_DOMAIN}/)?(?P<path>{_PART}(?:/{_PART})*)(?::{_TAG})?(?:@{_DIGEST})?")


def is_reference(text: str) -> bool:
    """Whether `text` names an image of a registry."""
    match = _REFERENCE.fullmatch(text)
    if not match or len(text) > 512:
        return False
    domain, port = match["domain"], match["port"]
    # without a dot or a port the first part is a folder of Docker Hub, in lower case like the rest
    is_folder = domain and not port and "." not in domain and domain != "localhost"
    return not (is_folder and not re.fullmatch(_PART, domain)) and int(port or 1) in range(1, 65536)
