"""Names of files that never travel with the user's code: keys, passwords, and what belongs to version control.

Owns the names; none of these files is needed to run a program, whoever tracks it.
"""

from __future__ import annotations

import fnmatch

SECRETS = (
    *(".env", ".env.*", "*.pem", "*.key", "*.p12", "*.pfx", "*.jks", "*.kdbx", "*.ppk"),
    *("id_rsa", "id_dsa", "id_ecdsa", "id_ed25519", ".netrc", ".pypirc", ".pgpass", ".git-credentials"),
    *("credentials.json", "service-account*.json", ".vault-token", "kubeconfig", ".htpasswd"),
)
_HARMLESS = (".env.example", ".env.sample", ".env.template")
_SECRET_FOLDERS = {".ssh", ".aws", ".gnupg", ".kube", ".azure", ".docker", ".secrets"}
VERSIONS = {".git", ".hg", ".svn"}


def reason(path: str) -> str:
    """Why a file does not travel by its name; '' when it does."""
    *folders, name = path.split("/")
    if VERSIONS & {*folders, name}:
        return "of version control"
    if _SECRET_FOLDERS & set(folders):
        return "looks like a secret"
    if name not in _HARMLESS and any(fnmatch.fnmatchcase(name.lower(), pattern) for pattern in SECRETS):
        return "looks like a secret"
    return ""
