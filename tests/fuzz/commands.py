"""Whole inputs of the launcher: words, files, environment, streams, and what other programs answer.

Owns what a command line is made of, from one seed and one number; the same two give the same input.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any

from tests.fuzz import files, records, values

if TYPE_CHECKING:
    from collections.abc import Callable

FABRICS = ("", "loopback", "infiniband", "efa", "roce", "nope", "..", "x" * 300)
# programs that are asked: what they may answer, with exit code 0 or another
ANSWERS = {
    "sbatch": ("Submitted batch job 7\n", "", "7;cluster\n", "sbatch: error: no\n", "²\n"),
    "squeue": (
        "36|RUNNING|N/A|None\n",
        "36_0|PENDING|2024-01-01T00:00:00|Priority\n",
        "x\n",
        "|||\n",
        "36\n",
        "\0",
    ),
    "sacct": ("36|COMPLETED\n", "36|CANCELLED by 0\n", "36|FAILED|x\n", "\n", "36\n", "|\n"),
    "scontrol": ("host1\nhost2\n", "JobState=RUNNING Requeue=1\n", ""),
    "scancel": ("",),
    "nvidia-smi": ("GPU 0: x\nGPU 1: x\n", "", "é"),
    "git": ("a" * 40 + "\n" + "b" * 40 + "\n",),
    "skopeo": ('{"Labels": null}', '{"Labels": {"deepspeed-job.ops": "x"}}', "[", "[" * 100_000, "{}", '"x"'),
}
ENVIRONMENT: dict[str, Callable[[Random], str]] = {
    "LAUNCHER_RUNS": lambda r: r.choice(
        ("", "runs", "file", "loop", "a,b:c", "x" * 300, "~/x", "/nope/x", "nowhere")
    ),
    "SLURM_JOB_NODELIST": lambda r: hostlist(r),
    "SLURM_GPUS_ON_NODE": lambda r: r.choice(("8", "0", "-1", "gpu:8", "9" * 5000, "²", "", "8(x2)", "1e3")),
    "SLURM_JOB_ID": lambda r: values.word(r),
    "COLUMNS": lambda r: r.choice(("1", "0", "-5", "x", "100000", "9" * 5000)),
    "LANG": lambda r: r.choice(("C", "tr_TR.UTF-8", "x")),
    "KUBECONFIG": lambda r: r.choice(("config", "config", "config", "absent", "", "job.yaml", ":", "runs")),
    "HOME": lambda r: r.choice(("", "/nope", "x" * 300)),
    "PYTORCH_CUDA_ALLOC_CONF": lambda r: values.word(r),
    "PYTORCH_ALLOC_CONF": lambda r: values.word(r),
    "XDG_STATE_HOME": lambda r: r.choice(("", "file", "state", "/nope")),
    "TERM": lambda r: r.choice(("dumb", "xterm", "")),
}
OPTIONS: dict[str, Callable[[Random], tuple[str, ...]]] = {
    "--cluster": lambda r: (
        "--cluster",
        r.choice(("here.yaml", "laptop", "h100-infiniband", "", "nope", "folder")),
    ),
    "--cluster=": lambda _: ("--cluster=",),
    "--strict": lambda _: ("--strict",),
    "--name": lambda r: ("--name", r.choice(("a", "a-1", "", "-", "A", "x" * 300, values.word(r)))),
    "--dry-run": lambda _: ("--dry-run",),
    "-o": lambda r: ("-o", r.choice(("out", "out/deep", "", "file", "folder", "x" * 300, "link"))),
    "--force": lambda _: ("--force",),
    "--wait": lambda _: ("--wait",),
    "--after": lambda r: ("--after", run(r)),
    "--exclude-bad": lambda _: ("--exclude-bad",),
    "--sweep": lambda r: ("--sweep", sweep(r)),
    "--server-dry-run": lambda _: ("--server-dry-run",),
    "--json": lambda _: ("--json",),
    "--max-model": lambda r: ("--max-model", r.choice(("llama", "gpt", "mixtral", "", "nope", "x" * 300))),
    "--min-nodes": lambda _: ("--min-nodes",),
    "--html": lambda r: ("--html", picture(r, "html")),
    "--png": lambda r: ("--png", picture(r, "png")),
    "--state": lambda r: ("--state", r.choice(("RUNNING", "failed", "", "x"))),
    "--rank": lambda r: ("--rank", r.choice(("0", "-1", "3", "9" * 5000, "x", "²", "1_0"))),
    "--host": lambda r: ("--host", r.choice(("127.0.0.1", "node1", "", "x" * 300))),
    "-f": lambda _: ("-f",),
    "--debug": lambda _: ("--debug",),
    "--on": lambda r: ("--on", r.choice(("local", "slurm", "kubernetes", "k8s", "", "x"))),
    "--all": lambda _: ("--all",),
    "--verify": lambda _: ("--verify",),
    "--keep": lambda r: ("--keep", r.choice(("1", "2", "0", "-1", "9" * 400, "x", ""))),
    "--ranks": lambda r: (
        "--ranks",
        r.choice(("0", "all", "0-1", "", "1-0", "x", "0-" + "9" * 20, "²", "-1")),
    ),
    "--steps": lambda r: ("--steps", number(r)),
    "--kills": lambda r: ("--kills", number(r)),
    "--most": lambda r: ("--most", number(r)),
    "--nodes": lambda r: ("--nodes", number(r)),
    "--limit": lambda r: ("--limit", duration(r)),
    "--timeout": lambda r: ("--timeout", duration(r)),
    "--space": lambda r: ("--space", space(r)),
    "--from": lambda r: ("--from", run(r)),
    "--plot": lambda r: ("--plot", picture(r, "html")),
}
FILE_OPTIONS = ("--cluster", "--cluster=", "--strict")
JOB_OPTIONS = (*FILE_OPTIONS, "--name")
RUN_VERBS = (
    *("list", "status", "status", "logs", "report", "report", "cancel", "resume", "rerun", "rerun"),
    *("compare", "compare", "shell", "checkpoints", "checkpoints", "fetch", "fetch", "profile", "measured"),
)
PLACES = (
    ".",
    "logs",
    "logs/job.log",
    "",
    "..",
    "/etc",
    "run.json/x",
    "x" * 300,
    "\udcff",
    "checkpoints/../..",
)
LAUNCH = (*JOB_OPTIONS, "--force", "--wait", "--after")
TUNE = (*JOB_OPTIONS, "--on", "--space", "--steps", "--limit", "--most", "--wait", "-o", "--json", "--plot")
PROVE = (*JOB_OPTIONS, "--on", "--kills", "--steps", "--force", "--json")
PLAN = (*JOB_OPTIONS, "--json", "--json", "--max-model", "--min-nodes", "--min-nodes", "--html", "--png")


@dataclass(frozen=True)
class Input:
    """One call of the launcher. `stdin` None is closed; `streams` are what stdout and stderr are joined to."""

    words: tuple[str, ...]
    files: dict[str, bytes] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    answers: dict[str, tuple[int, str]] = field(default_factory=dict)
    stdin: bytes | None = b""
    streams: tuple[str, str] = ("file", "file")


def make(seed: int, number: int) -> Input:
    """Input `number` of `seed`."""
    random = Random(f"{seed}:{number}")
    build = random.choices((_of_jobs, _of_runs, _of_cache, _small), (68, 23, 3, 6))[0]
    words, made = build(random)
    environment = _environment(random)
    if environment.get("KUBECONFIG") == "config":
        config = values.mutated(random, files.KUBECONFIG) if random.random() < 0.5 else files.KUBECONFIG
        made |= {"config": values.text(config).encode("utf-8", "surrogatepass")}
    if random.random() < 0.02:
        words = (*words, values.word(random))
    return Input(
        tuple(word.replace("\0", "") for word in words),
        made,
        {"link": "/nope", "loop": "loop", "nowhere": "/nope/nope"} if random.random() < 0.3 else {},
        environment,
        {
            name: (random.choice((0, 0, 0, 1)), random.choice(ANSWERS[name]))
            for name in ANSWERS
            if random.random() < 0.15
        },
        random.choices((b"", None, b"node[1-4]\n", b"\xff\0", b"a\n" * 1000), (85, 3, 5, 4, 3))[0],
        (
            random.choices(("file", "closed", "full", "gone"), (97, 1, 1, 1))[0],
            random.choices(("file", "closed", "full", "gone"), (97, 1, 1, 1))[0],
        ),
    )


def _environment(random: Random) -> dict[str, str]:
    names = [name for name in ENVIRONMENT if random.random() < (0.15 if name == "KUBECONFIG" else 0.015)]
    return {name: ENVIRONMENT[name](random).replace("\0", "") for name in names}


def _of_jobs(random: Random) -> tuple[tuple[str, ...], dict[str, bytes]]:
    """plan, check, a dry run or a submission of a job or pipeline, with the files that it reads."""
    # mostly one thing is wrong, so that what comes after the first check is reached
    where = random.choice(
        ("nowhere", "job", "job", "cluster", "setting", "setting", "option", "text", "everywhere")
    )
    hurt = {name: where in {name, "everywhere"} for name in ("job", "cluster", "setting", "option", "text")}
    job = values.lines(files.job(random, hurt["job"]))
    made = {
        "here.yaml": values.lines(files.cluster(random, hurt["cluster"])),
        "job.yaml": job,
        "file": "in the way\n",
    }
    if random.random() < 0.15:
        made["chain.yaml"] = values.lines(files.pipeline(random, hurt["setting"] or hurt["text"]))
    for name, data, share in (
        ("model/config.json", files.MODEL, 0.15),
        ("here.image.json", files.FACTS, 0.1),
    ):
        if random.random() < share or (name.startswith("model") and "./model" in job):
            for _ in range(random.choice((0, 0, 1, 2))):
                data = values.mutated(random, data, "json")
            made[name] = values.text(data)
    written = {name: text.encode("utf-8", "surrogatepass") for name, text in made.items()}
    if hurt["text"]:
        name = random.choice(sorted(made))
        written[name] = values.damaged(random, made[name])
    file = (
        "chain.yaml"
        if "chain.yaml" in made
        else random.choice(("job.yaml",) * 60 + ("folder", "nope.yaml", "", "/dev/null"))
    )
    written["folder/x"] = b""
    verbs = ("plan", "check", "local", "slurm", "kubernetes", "diff", "tune", "prove")
    verb = random.choices(verbs, (30, 22, 16, 18, 16, 4, 5, 2))[0]
    if random.random() < 0.1:
        written |= {f"runs/{name}": content for name, content in records.folders(random).items()}
    return (
        verb,
        file,
        *_settings(random, hurt["setting"]),
        *_job_options(random, verb, hurt["option"]),
    ), written


def _settings(random: Random, hurt: bool) -> tuple[str, ...]:
    words: tuple[str, ...] = ()
    for _ in range(random.choice((1, 1, 2, 3) if hurt else (0, 0, 0, 1))):
        key, value = files.setting(random, hurt)
        bare = isinstance(value, str) and random.random() < 0.7
        words += ("--set", f"{key}={value if bare else values.text(value)}")
    if hurt and random.random() < 0.1:
        words += (
            "--set",
            random.choice(("", "=", "a", ".=1", "args" + ".a" * 990 + "=1", "nodes.0=1", "\udcff=1")),
        )
    return words


def _job_options(random: Random, verb: str, hurt: bool) -> tuple[str, ...]:
    known = {
        "plan": PLAN,
        "check": (*FILE_OPTIONS, "--on"),
        "diff": (*JOB_OPTIONS, "--on", "--on"),
        "local": (*LAUNCH, "--debug"),
        "tune": TUNE,
        "prove": PROVE,
    }.get(verb, LAUNCH)
    chosen = [name for name in known if random.random() < (0.2 if hurt else 0.02)]
    if verb == "tune" and random.random() < 0.8:
        chosen.append("--dry-run")
    if verb in {"local", "slurm", "kubernetes"}:
        pick = random.random()
        chosen += ["--dry-run"] if pick < 0.75 else ["-o"] if pick < 0.9 else []
        if verb == "slurm" and random.random() < 0.1:
            chosen = [name for name in chosen if name not in {"--dry-run", "-o"}] + [
                "--sweep"
            ] * random.choice((1, 1, 2, 12))
        if random.random() < 0.05:
            chosen.append({"kubernetes": "--server-dry-run"}.get(verb, "--exclude-bad"))
    return tuple(word for name in chosen for word in OPTIONS[name](random))


def _of_runs(random: Random) -> tuple[tuple[str, ...], dict[str, bytes]]:
    """A verb that reads what runs have left."""
    verb = random.choice(RUN_VERBS)
    options = {
        "list": ("--json", "--state", "--all"),
        "status": ("--json",),
        "logs": ("-f", "--rank", "--host"),
        "report": ("--json", "--html", "--png"),
        "resume": ("--exclude-bad",),
        "rerun": ("--force",),
        "compare": ("--json",),
        "shell": ("--rank", "--host"),
        "checkpoints": ("--json", "--verify", "--keep"),
        "fetch": ("--force",),
        "profile": ("--steps", "--ranks", "--timeout", "--json"),
        "measured": ("--from", "--from"),
    }.get(verb, ())
    recorded = verb in {"rerun", "compare", "shell"} and random.random() < 0.9
    one = (lambda r: r.choice(records.RUNS[:2])) if recorded else run
    words = [verb, *([] if verb == "list" else [one(random)])]
    if verb == "fetch":
        words += [random.choice(PLACES), random.choice(("dest", "", "runs", "x" * 300, "/dev/null", "a/b"))]
    if verb == "measured":
        words = [
            "cluster",
            "measured",
            *random.choice(((), ("laptop",), ("nope",), ("",), ("h100-infiniband",))),
        ]
    if random.random() < {"report": 0.3, "compare": 0.97}.get(verb, 0):
        words.append(records.RUNS[1] if recorded else run(random))
    for name in options:
        if random.random() < (0.03 if name == "--png" else 0.25):
            words += OPTIONS[name](random)
    left = records.folders(random, recorded)
    return tuple(words), {f"runs/{name}": content for name, content in left.items()}


def _of_cache(random: Random) -> tuple[tuple[str, ...], dict[str, bytes]]:
    """`data`, of a cache with texts in it or without."""
    odd = ("01", "fedcba9876543210", "", "..", "/", "x" * 300)
    action = random.choice(("list", "show", "show", "remove", "remove", "x"))
    given = random.random() < (0.1 if action == "list" else 0.95)
    key = (random.choice(odd) if random.random() < 0.3 else random.choice(records.KEYS),) if given else ()
    places = (("--cache", ""), ("--cache", "loop"), ("--cluster", "laptop"), ())
    where = random.choice(places) if random.random() < 0.3 else ("--cache", "cache")
    json = ("--json",) if random.random() < 0.4 else ()
    files_ = {f"cache/{name}": content for name, content in records.cache(random).items()}
    return ("data", action, *key, *where, *json), files_


def _small(random: Random) -> tuple[tuple[str, ...], dict[str, bytes]]:
    """The verbs without a job, and command lines that are none."""
    slots: tuple[str, ...] = ("--slots", random.choice(("2", "0", "-1", "10000", "9" * 5000, "x")))
    slots = slots if random.random() < 0.6 else ()
    json = ("--json",) if random.random() < 0.5 else ()
    some: list[Any] = [
        ("hostfile", hostlist(random), *slots),
        ("hostfile", hostlist(random), *slots),
        ("hostfile", *(("-",) if random.random() < 0.6 else ()), *slots),
        ("env", random.choice(FABRICS), *json),
        ("cluster", "probe", random.choice(("", "nope", "laptop", "folder")), *OPTIONS["--nodes"](random)),
        ("cluster", "rbac", *OPTIONS["--cluster"](random)),
        ("schema", random.choice(("job", "cluster", "pipeline", "x"))),
        ("doctor", *json),
        ("doctor", *OPTIONS["--cluster"](random), *json),
        ("completion", random.choice(("bash", "zsh", "fish", "x", ""))),
        tuple(values.word(random) for _ in range(random.choice((0, 1, 2, 5)))),
        (
            random.choice(("plan", "status", "--help", "--version", "-h")),
            random.choice(("--help", "--vers", "-")),
        ),
    ]
    return random.choice(some), {}


def run(random: Random) -> str:
    some = (
        *records.RUNS,
        "demo",
        "demo-sweep-1",
        "demo-pipeline-1",
        "",
        "..",
        "/",
        "runs/demo-16fb92",
        "x" * 300,
        "*",
        "[",
    )
    return random.choice((*records.RUNS, *some))


def number(random: Random) -> str:
    return random.choice(("1", "3", "0", "-1", "9" * 5000, "1e3", "x", "²", ""))


def duration(random: Random) -> str:
    return random.choice(("1s", "10m", "0", "-1m", "", "x", "9" * 400 + "h", "1e9d", "inf", "nan", "²s"))


def space(random: Random) -> str:
    some = (
        "micro=1,2",
        "preset=zero1,zero3",
        "micro=",
        "=",
        "",
        "nope=1",
        "micro=x",
        "micro=0",
        "preset=auto",
    )
    return random.choice((*some, "micro=" + "9" * 5000, "buckets=1e400", "hpz=-1", "overlap=true,false"))


def picture(random: Random, ending: str) -> str:
    return random.choice((f"x.{ending}", "", "folder", "nope/x", "/dev/full", "x" * 300, "job.yaml"))


def sweep(random: Random) -> str:
    some = (
        "args.lr=1e-4,3e-4",
        "batch.micro=1,2",
        "nodes=1,x",
        "x",
        "=",
        "a=,",
        "args.x=" + ",".join("abcdefghijklmnopqrstuvwxyz"),
    )
    return random.choice((*some, "deepspeed=zero1,[1,2]", "nodes=1,2"))


def hostlist(random: Random) -> str:
    some = (
        "node[1-4,7]",
        "a",
        "",
        "a[1-65536]",
        "a[1-99999]",
        "a[01-3]b[1-2]",
        "a[",
        "a]",
        "a[1",
        "a[3-1]",
        "a[x]",
        "a,a",
        "é",
        "-b",
    )
    one = random.choice(
        (*some, "a[1-65536]" * 3, "a[" + "9" * 5000 + "]", "a[²-٣]", "a[1-3]," * 500, values.word(random))
    )
    return one * random.choice((1, 1, 1, 400)) if len(one) < 300 else one
