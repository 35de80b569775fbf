"""One job file, three places to run it: this machine, Slurm, Kubernetes.

Owns the version and where the project's own files lie; everything else is in the modules of this package.
"""

from pathlib import Path

__version__ = "0.1.0"

_HERE = Path(__file__).resolve().parent
# In a checkout the files lie beside the package; an installed wheel carries them inside it.
ROOT = _HERE.parent if (_HERE.parent / "templates").is_dir() else _HERE / "_data"
