"""Files of a run folder, asked of a real docker/sender.py: whole or not at all, and never over what is there."""

from __future__ import annotations

import io
import json
import os
import sys
from typing import TYPE_CHECKING, Any

import pytest

from launcher.cli import main
from launcher.errors import PlanError, RunNotFoundError, SpecError, SubmitError
from launcher.runs import receiving
from launcher.schedulers import child, inside
from launcher.submission import fetching

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """A run folder with what may be in one."""
    home = tmp_path / "run"
    (home / "export" / "deep" / "empty").mkdir(parents=True)
    (home / "export" / "config.json").write_text("{}\n")
    (home / "export" / "deep" / "weights").write_bytes(os.urandom(3_000_000))
    (home / "export" / "deep" / "none").touch()
    (home / "export" / "tool.sh").write_text("exit\n")
    (home / "export" / "tool.sh").chmod(0o755)
    (home / "export" / "it's \n here").write_text("a\n")
    os.close(os.open(os.fsencode(home / "export") + b"/\xff", os.O_CREAT | os.O_WRONLY))
    (home / "secret").write_text("not asked for\n")
    return home


def take(home: Path, dest: Path, path: str = "export", force: bool = False) -> receiving.Received:
    words, text = inside.sender(str(home), path)
    with child.Child([sys.executable, *words]) as line:
        line.write(text)
        return receiving.receive(line, dest, path=path, force=force, watch=lambda *_: None)


def contents(folder: Path) -> dict[str, Any]:
    """Path → bytes of a file, or the target of a link."""
    return {
        str(path.relative_to(folder)): str(path.readlink()) if path.is_symlink() else path.read_bytes()
        for path in folder.rglob("*")
        if path.is_symlink() or path.is_file()
    }


def test_what_is_in_a_folder_comes_once(run_folder: Path, tmp_path: Path) -> None:
    dest = tmp_path / "new" / "dest"
    received = take(run_folder, dest)
    assert contents(dest) == contents(run_folder / "export")
    assert (dest / "tool.sh").stat().st_mode & 0o777 == 0o777 & ~_umask()
    assert (dest / "config.json").stat().st_mtime == (run_folder / "export" / "config.json").stat().st_mtime
    assert received.bytes == 3_000_000 + 3 + 5 + 2
    (dest / "deep" / "weights").unlink()
    again = take(run_folder, dest)
    assert (again.written, len(again.same)) == (["deep/weights"], 5)


def _umask() -> int:
    now = os.umask(0)
    os.umask(now)
    return now


def test_one_file_comes(run_folder: Path, tmp_path: Path) -> None:
    assert take(run_folder, tmp_path / "dest", "export/config.json").written == ["config.json"]
    assert contents(tmp_path / "dest") == {"config.json": b"{}\n"}


def test_what_differs_is_overwritten_only_by_force(run_folder: Path, tmp_path: Path) -> None:
    dest = tmp_path / "dest"
    take(run_folder, dest)
    (dest / "config.json").write_text("[]\n")  # as long
    (dest / "tool.sh").write_text("longer than it was\n")
    before = contents(dest)
    with pytest.raises(SpecError) as caught:
        take(run_folder, dest)
    assert [problem.message for problem in caught.value.problems] == [
        f"{dest}/tool.sh is there and differs",
        f"{dest}/config.json is there and differs",
    ]
    assert contents(dest) == before
    take(run_folder, dest, force=True)
    assert contents(dest) == contents(run_folder / "export")


@pytest.mark.parametrize("target", ["weights", "../config.json", "../deep/../deep/weights"])
def test_links_that_stay_inside_come_last(target: str, run_folder: Path, tmp_path: Path) -> None:
    (run_folder / "export" / "deep" / "link").symlink_to(target)
    received = take(run_folder, tmp_path / "dest")
    if target.count("deep"):  # `deep` may be a link elsewhere
        assert received.left_out == [f"deep/link: a link to {target}, outside of what is fetched"]
        return
    assert received.written[-1] == "deep/link"
    assert os.readlink(tmp_path / "dest" / "deep" / "link") == target  # noqa: PTH115
    assert take(run_folder, tmp_path / "dest").written == []


@pytest.mark.parametrize("target", ["/etc/passwd", "../../secret", "../../../x", "..", "."])
def test_links_that_lead_out_are_left_out(target: str, run_folder: Path, tmp_path: Path) -> None:
    (run_folder / "export" / "link").symlink_to(target)
    os.mkfifo(run_folder / "export" / "pipe")
    received = take(run_folder, tmp_path / "dest")
    left_out = {name.partition(":")[0] for name in received.left_out}
    assert left_out == ({"pipe"} if target == "." else {"pipe", "link"})
    assert "pipe" not in contents(tmp_path / "dest")


@pytest.mark.parametrize("path", ["nothing", "export/nothing", "../secret", "/etc", "export/../../secret"])
def test_what_is_not_in_the_run_folder_is_not_there(path: str, run_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(RunNotFoundError, match="it holds export, secret"):
        take(run_folder, tmp_path / "dest", path)
    assert not (tmp_path / "dest").exists()


def test_nothing_is_written_through_a_link_of_dest(run_folder: Path, tmp_path: Path) -> None:
    dest, elsewhere = tmp_path / "dest", tmp_path / "elsewhere"
    dest.mkdir()
    elsewhere.mkdir()
    (dest / "deep").symlink_to(elsewhere)
    for force in (False, True):
        with pytest.raises(SpecError, match="deep is in the way of deep/none"):
            take(run_folder, dest, force=force)
    assert not list(elsewhere.iterdir())
    (dest / "deep").unlink()
    (dest / "config.json").symlink_to(elsewhere / "new")
    take(run_folder, dest, force=True)
    assert not list(elsewhere.iterdir())
    (tmp_path / "file").touch()
    with pytest.raises(SpecError, match="is not a folder"):
        take(run_folder, tmp_path / "file")


class Told:
    """A line whose other end says what it likes."""

    def __init__(self, said: dict[str, Any], stream: bytes = b"") -> None:
        lines = [{"odd": [], "beside": [], "kind": "folder", **said}, {}]
        self.file = io.BytesIO(
            b"\n\n" + b"".join(json.dumps(line).encode() + b"\n" for line in lines) + stream
        )
        self.read, self.readline = self.file.read, self.file.readline

    def write(self, data: bytes) -> None: ...

    def finish(self) -> str:
        return ""


def told(tmp_path: Path, said: dict[str, Any], stream: bytes = b"") -> receiving.Received:
    dest = tmp_path / "in" / "dest"
    return receiving.receive(Told(said, stream), dest, path=".", force=True, watch=lambda *_: None)


@pytest.mark.parametrize("name", ["../up", "/etc/x", "a/../../b", "a//b", "", ".", "a/.", "a\0b"])
def test_no_name_leads_out_of_dest(name: str, tmp_path: Path) -> None:
    with pytest.raises(SubmitError, match="nothing was written"):
        told(tmp_path, {"entries": [["fine", 0, None], [name, 3, None]]})
    assert not list(tmp_path.iterdir())


def stream(*files: tuple[Any, bytes], end: bytes = b"[]\n") -> bytes:
    """Files as docker/sender.py sends them: (what is said of one, its bytes)."""
    return b"".join(json.dumps(head).encode() + b"\n" + content for head, content in files) + end


def head(place: int = 0, size: int = 3) -> list[float]:
    return [place, size, 0o644, 1.7e9]


@pytest.mark.parametrize(
    "sent",
    [
        stream((head(1), b"abc")),
        stream((head(-1), b"abc")),
        stream((head(size=4), b"abcd")),
        stream((head(size=-1), b"")),
        stream((head(size=2**62), b"abc")),
        stream((["../../x", 3, 0o644, 1.7e9], b"abc")),
        stream(([0, 3], b"abc")),
        stream((None, b"")),
        stream(({"place": 0}, b"abc")),
        stream(([0, 1e400, 0, 0], b"abc")),
        stream((head(), b"ab"), end=b""),
        b"[" * 100_000 + b"\n",
        b"no such stream",
        b"\n\n\n",
        b"",
    ],
)
def test_a_stream_that_is_none_leaves_nothing(sent: bytes, tmp_path: Path) -> None:
    with pytest.raises(SubmitError, match="did not all come"):
        told(tmp_path, {"entries": [["a", 3, None]]}, sent)
    assert not [path for path in tmp_path.rglob("*") if not path.is_dir()]


def test_a_file_comes_once(tmp_path: Path) -> None:
    with pytest.raises(SubmitError, match="not asked for"):
        told(tmp_path, {"entries": [["a", 3, None]]}, stream((head(), b"abc"), (head(), b"def")))
    assert (tmp_path / "in" / "dest" / "a").read_bytes() == b"abc"


@pytest.mark.parametrize("time", [1e300, -1e300, 0, 253402300800 * 100])
def test_any_time_of_a_file_is_taken(time: float, tmp_path: Path) -> None:
    said = {"entries": [["a", 3, None]]}
    assert told(tmp_path, said, stream(([0, 3, 0o644, time], b"abc"))).written == ["a"]


def test_no_link_that_came_before_leads_another_out_of_dest(tmp_path: Path) -> None:
    """d/x is dest, so that d/x/y would be dest/y, and lead out of it."""
    entries = [["d/x", 0, ".."], ["d/x/y", 0, "../.."], ["d/x/y/evil", 0, "in"]]
    with pytest.raises(SubmitError, match="which is no folder"):
        told(tmp_path, {"entries": entries}, stream())
    assert {path.name for path in tmp_path.rglob("*")} == {"in", "dest", "d", "x"}


def test_no_file_stands_below_another(tmp_path: Path) -> None:
    entries = [["a", 3, None], ["a/b", 3, None]]
    with pytest.raises(SubmitError, match="which is no folder"):
        told(tmp_path, {"entries": entries}, stream((head(), b"abc"), (head(1), b"abc")))


@pytest.mark.parametrize(
    "said",
    [
        [],
        None,
        "folder",
        {"entries": None},
        {"entries": [["a", "x", None]]},
        {"entries": [["a", 1e400, None]]},
        {"entries": [["a"]]},
        {"odd": 3},
        {"entries": [["\ud800", 3, None]]},
        {"entries": [["a", 0, "\ud800"]]},
    ],
)
def test_what_the_other_end_says_may_be_anything(said: Any, tmp_path: Path) -> None:
    line = Told({})
    whole = {"kind": "folder", "odd": [], "beside": [], "entries": [], **said} if type(said) is dict else said
    line.readline = io.BytesIO(json.dumps(whole).encode() + b"\n{}\n[]\n").readline
    with pytest.raises(SubmitError):
        receiving.receive(line, tmp_path / "dest", path=".", force=True, watch=lambda *_: None)
    assert not list(tmp_path.iterdir())


def test_a_line_without_an_end_is_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("launcher.runs.unpacking._MOST", 2**20)
    words = [sys.executable, "-c", "while True: print('[' * 9999, end='')"]
    with child.Child(words) as line, pytest.raises(SubmitError, match="cannot be read"):
        receiving.receive(line, tmp_path / "d", path=".", force=False, watch=lambda *_: None)


def test_a_log_that_grows_comes_as_long_as_it_was(tmp_path: Path) -> None:
    home = tmp_path / "run"
    home.mkdir()
    (home / "log").write_text("one\n")
    words, text = inside.sender(str(home), ".")
    with child.Child([sys.executable, *words]) as line:
        line.write(text)
        said = line.readline(2**20)
        assert b'"log", 4' in said
        (home / "log").write_text("one\ntwo\n")
        line.write(b'{"send": ["log"]}\n')
        assert json.loads(line.readline(99))[:2] == [0, 4]
        assert line.read(7) == b"one\n[]\n"
        assert line.finish() == ""


def test_a_file_that_was_deleted_meanwhile_is_told(tmp_path: Path) -> None:
    entries = [["a", 3, None], ["b", 3, None]]
    received = told(tmp_path, {"entries": entries}, stream((head(1), b"abc")))
    assert (received.written, received.gone, received.bytes) == (["b"], ["a"], 3)


def test_without_room_nothing_comes(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000})())
    with pytest.raises(PlanError, match=r"3.0 MB are to come, and .* has room for 1.0 kB"):
        take(run_folder, tmp_path / "dest")
    assert not (tmp_path / "dest").exists()


def test_a_sender_that_cannot_read_says_why(tmp_path: Path) -> None:
    said = pytest.raises(SubmitError, match="cannot be read: no such thing")
    with child.Child([sys.executable, "-c", "raise SystemExit('no such thing')"]) as line, said:
        receiving.receive(line, tmp_path / "d", path=".", force=False, watch=lambda *_: None)
    with pytest.raises(SubmitError, match="did not start"):
        child.Child([str(tmp_path / "absent")])


def checkpoint(folder: Path) -> None:
    """A complete checkpoint of one file."""
    import xxhash

    folder.mkdir(parents=True)
    (folder / "part").write_bytes(b"weights")
    identity = {"model": "m", "model_fingerprint": "", "tokenizer": "", "tokenizer_fingerprint": ""}
    marker = {
        "files": {"part": 7},
        "progress": {"step": 1, "samples": 1, "tokens": 1},
        "identity": {**identity, "world_size": 1, "zero_stage": 0, "precision": "bf16"},
        "xxh3_128": {"part": xxhash.xxh3_128(b"weights").hexdigest()},
    }
    (folder / "complete.json").write_text(json.dumps(marker))


def test_a_checkpoint_is_compared_with_its_digests(tmp_path: Path) -> None:
    saved = tmp_path / "run" / "checkpoints" / "step-1"
    checkpoint(saved)
    received = take(tmp_path / "run", tmp_path / "dest", ".")
    fetching.require_sound(tmp_path / "dest", received.written, print)
    (saved / "part").write_bytes(b"Weights")
    received = take(tmp_path / "run", tmp_path / "dest", ".", force=True)
    assert received.written == ["checkpoints/step-1/part"]
    with pytest.raises(PlanError, match="part has other bytes than were written"):
        fetching.require_sound(tmp_path / "dest", [*received.written, *received.same], print)
    received = take(tmp_path / "run", tmp_path / "one", "checkpoints/step-1/complete.json")
    fetching.require_sound(tmp_path / "one", received.written, print)


@pytest.mark.heavy
def test_of_a_run_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The verb: a run whose folder is on this machine."""
    monkeypatch.setenv("LAUNCHER_RUNS", str(tmp_path / "runs"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.py").write_text("import os\nopen(os.environ['RUN_DIR'] + '/made', 'w').write('x')\n")
    (tmp_path / "here.yaml").write_text("slots: 1\nfabric: loopback\n")
    (tmp_path / "job.yaml").write_text(
        "name: own\nworkload: ./train.py\ncluster: here.yaml\nbatch: {micro: 1}\n"
    )
    assert main.main(["local", "job.yaml", "--wait"]) == 0, capsys.readouterr().err
    assert main.main(["fetch", "own", "made", "dest"]) == 0
    assert "1 files, 1 B, from own-" in capsys.readouterr().err
    assert contents(tmp_path / "dest") == {"made": b"x"}
    for path, code in (("/etc", 2), ("../job.yaml", 2), ("absent", 5)):
        assert main.main(["fetch", "own", path, "dest"]) == code
    (tmp_path / "dest" / "made").write_text("y")
    assert main.main(["fetch", "own", "made", "dest"]) == 2
