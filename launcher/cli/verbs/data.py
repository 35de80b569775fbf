"""data: the prepared texts of a cache that runs share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from launcher.cli.streams import say
from launcher.cli.verbs.shared import OK

if TYPE_CHECKING:
    from pathlib import Path

    from launcher.cli import options


def data(given: options.Data) -> int:
    """list, show KEY, remove KEY."""
    from launcher.errors import SpecError

    if (given.key is None) != (given.action == "list"):
        what = "takes no KEY" if given.key else "needs a KEY"
        raise SpecError(f"data {given.action} {what}", hint="`python -m launcher data list` shows the keys")
    caches = _caches(given)
    return {"list": _list, "show": _show, "remove": _remove}[given.action](given, caches)


def _caches(given: options.Data) -> list[Path]:
    """The caches to look in: what is named, else DATA_CACHE, else what each run keeps in its own folder."""
    import os
    from pathlib import Path

    from launcher.errors import SpecError
    from launcher.planning import data_cache, workspace

    if given.cache:
        if not Path(given.cache).is_dir():
            raise SpecError(f"--cache {given.cache}: there is no such folder", hint="check the path")
        return [Path(given.cache)]
    if given.cluster:
        from launcher.files import load

        folder = data_cache.on_host(load.load_cluster(given.cluster))
        if folder is None:
            hint = "add it, or name the folder with --cache"
            raise SpecError(f"cluster {given.cluster} has no data_cache on a path of hosts", hint=hint)
        return [Path(folder)]
    if named := os.environ.get(data_cache.VARIABLE):
        return [Path(named)]
    return sorted(path for path in workspace.runs().glob("*/data") if not path.is_symlink())


def _list(given: options.Data, caches: list[Path]) -> int:
    from launcher.reports import prepared_tables
    from launcher.runs import prepared

    texts = prepared.listed(caches)
    if given.json:
        print(prepared_tables.as_json([prepared_tables.data(text) for text in texts]))
    elif texts:
        print(prepared_tables.table(texts))
    else:
        where = ", ".join(map(str, caches[:5])) or "the folders of runs here"
        print(f"no prepared texts in {where}")
        print("--cache DIR or --cluster NAME says where else; `workload: prepare` makes them")
    return OK


def _show(given: options.Data, caches: list[Path]) -> int:
    from launcher.reports import prepared_tables
    from launcher.runs import prepared

    text = prepared.find(caches, given.key or "")
    shown = prepared_tables.as_json(prepared_tables.data(text)) if given.json else prepared_tables.one(text)
    print(shown)
    return OK


def _remove(given: options.Data, caches: list[Path]) -> int:
    from launcher import units
    from launcher.reports import prepared_tables
    from launcher.runs import prepared

    text = prepared.find(caches, given.key or "")
    prepared.remove(text)
    if given.json:
        print(prepared_tables.as_json(prepared_tables.data(text)))
    else:
        say(f"{text.key}: removed, {units.gigabytes(text.bytes)} of {text.folder.parent}")
    return OK
