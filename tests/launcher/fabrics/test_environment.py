"""Fabrics say where every value comes from, their text is what a shell reads, and the linter finds what is wrong."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from datetime import date
from pathlib import Path
from urllib.parse import urlparse

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launcher import ROOT, errors
from launcher.fabrics import FABRICS, environment, lint, model
from launcher.fabrics import variables as fabrics_variables

NAMES = sorted(FABRICS)
EVERY = pytest.mark.parametrize("name", NAMES)


def exported(shell: str, script: str, folder: Path) -> dict[str, str]:
    """The environment of a shell that has read `script` and had none before."""
    path = folder / "environment.sh"
    path.write_bytes(script.encode())
    env = shutil.which("env")
    command = [shell, "-euc", f'. "$0"; exec {env} -0', str(path)]
    done = subprocess.run(command, env={}, capture_output=True, check=True)
    assert done.stderr == b""
    entries = done.stdout.decode().split("\0")[:-1]
    return dict(entry.split("=", 1) for entry in entries)


def found(given: dict[str, str], fabric: str) -> list[tuple[str, str]]:
    return [(f.severity, f.message) for f in lint.lint(given, FABRICS[fabric])]


# The table


def test_the_fabrics_people_ask_for_are_there() -> None:
    assert set(NAMES) >= {
        *("none", "loopback", "tcp", "infiniband", "roce", "efa-p4d", "efa-p5", "efa-p5en", "efa-p6"),
        *("gcp-tcpx", "gcp-tcpxo", "gcp-gib", "azure-ndv4", "azure-ndv5", "oci"),
        # NVLink between hosts: AWS, GCP, Azure, OCI, CoreWeave
        *("efa-p6e-gb200", "gcp-gib-a4x", "azure-ndv6", "oci-gb200", "oci-gb300", "coreweave-gb200"),
        *("efa-p6-b300", "oci-b300", "azure-ndv5-h200", "gcp-tcpx-slurm", "gcp-gib-slurm"),
        *("infiniband-sharp", "slingshot", "coreweave", "alibaba-erdma", "spectrum-x"),
        # AMD's GPUs
        *("oci-mi300x", "oci-mi355x", "oci-mi355x-v1", "azure-mi300x", "pollara"),
    }


@EVERY
def test_every_value_has_a_reason_and_a_source(name: str) -> None:
    fabric = FABRICS[name]
    assert fabric.name == name
    assert fabric.title
    assert fabric.sources
    reasoned: list[tuple[str, str]] = [(v.why, v.source) for v in fabric.variables]
    reasoned += [(f.why, f.source) for f in fabric.forbidden]
    assert all(why for why, _ in reasoned)
    links = {*fabric.sources, *(source for _, source in reasoned), *(s.source for s in fabric.sidecars)}
    links |= {fabric.device_class.source} if fabric.device_class else set()
    if fabric.bandwidth:
        links.add(fabric.bandwidth.source)
    for link in links:
        assert urlparse(link).scheme == "https", link
        # A branch would show something else tomorrow.
        if "github.com" in link:
            assert re.search("/blob/[0-9a-f]{40}/", link), link


@EVERY
def test_no_name_twice_and_every_name_is_read_by_something(name: str) -> None:
    fabric = FABRICS[name]
    for gpu in (True, False):
        for interface in (None, "eth7", "^docker"):
            names = [v.name for v in environment.environment(fabric, gpu=gpu, interface=interface)]
            assert len(names) == len(set(names))
            assert [n for n in names if not fabrics_variables.is_known(n)] == []
    assert len({v.name for v in fabric.variables}) == len(fabric.variables)


@EVERY
def test_a_fabric_does_not_forbid_or_disown_what_it_sets(name: str) -> None:
    fabric = FABRICS[name]
    own = {v.name: v.value for v in environment.environment(fabric, gpu=True, interface=None)}
    assert lint.lint(own, fabric) == []
    assert not any(entry.matches(v) for entry in fabric.forbidden for v in own)


@EVERY
def test_paths_are_absolute_and_annotations_are_json(name: str) -> None:
    fabric = FABRICS[name]
    mounts = [*fabric.mounts, *(m for s in fabric.sidecars for m in s.mounts)]
    assert all(Path(p).is_absolute() for m in mounts for p in (m.host, m.inside))
    assert all(device.startswith("/dev/") for device in fabric.devices)
    if interfaces := fabric.annotations.get("networking.gke.io/interfaces"):
        assert json.loads(interfaces)[0] == {"interfaceName": "eth0", "network": "default"}
    daemons = {f"devices.gke.io/container.{s.name}" for s in fabric.sidecars}
    assert {key for key in fabric.annotations if key.startswith("devices.gke.io")} == daemons


@pytest.mark.parametrize("file", sorted((ROOT / "launcher" / "fabrics").glob("*.json")), ids=lambda p: p.stem)
def test_every_source_has_a_date_and_is_used(file: Path) -> None:
    table = json.loads(file.read_text(encoding="utf-8"))
    if "fabrics" not in table:
        return
    assert date.fromisoformat(table["checked"])
    text = json.dumps(table["fabrics"])
    for name, (address, of) in table["links"].items():
        assert urlparse(address).scheme == "https"
        # of a commit its day, of a manual its release, of a page without either the day on which it was read
        assert re.fullmatch(r"(read )?\d{4}-\d\d-\d\d|[A-Za-z-]+ \d+\.\d+", of), (name, of)
        assert f'"{name}"' in text, f"nothing cites {name}"
    assert all(FABRICS[name].checked == table["checked"] for name in table["fabrics"])


def test_hosts_joined_by_nvlink_get_a_domain_on_kubernetes() -> None:
    """Where NCCL must not go on without NVLink between hosts, a pod must have a channel, or NCCL stops."""
    for fabric in FABRICS.values():
        required = any(v.name == "NCCL_MNNVL_ENABLE" and v.value == "1" for v in fabric.variables)
        by_itself = any(v.name == "NVIDIA_IMEX_CHANNELS" for v in fabric.variables)  # CoreWeave's
        if required and not by_itself and "slurm" not in fabric.schedulers:
            assert fabric.compute_domain, fabric.name


def test_the_adapters_of_instances() -> None:
    counts = {n: FABRICS[n].resources["vpc.amazonaws.com/efa"] for n in NAMES if n.startswith("efa-")}
    assert counts == {
        **{"efa-p4d": 4, "efa-p5": 32, "efa-p5en": 16, "efa-p6": 8},
        **{"efa-p6-b300": 16, "efa-p6e-gb200": 4},
    }


@EVERY
def test_what_a_driver_hands_out_is_counted_by_a_plugin_too(name: str) -> None:
    given = FABRICS[name].device_class
    assert given is None or int(FABRICS[name].resources[given.instead_of]) > 0


@EVERY
def test_whose_gpus_a_fabric_is_for(name: str) -> None:
    """What is described for one vendor's GPUs says nothing of another's."""
    fabric = FABRICS[name]
    assert set(fabric.vendors) <= {"nvidia", "amd", "intel"}
    only = any(v.name.startswith(("RCCL_", "HSA_")) or "anp" in v.value for v in fabric.variables)
    assert (fabric.vendors == ("amd",)) >= only
    if "intel" in fabric.vendors:
        assert fabric.net is None


def test_a_topology_file_is_mounted_where_the_variable_points() -> None:
    for version in (4, 5):
        fabric = FABRICS[f"azure-ndv{version}"]
        topology = next(v.value for v in fabric.variables if v.name == "NCCL_TOPO_FILE")
        assert any(Path(topology).is_relative_to(m.inside) for m in fabric.mounts)


def test_a_fabric_of_another_scheduler_is_refused_with_the_right_one() -> None:
    environment.require(FABRICS["infiniband"], "kubernetes")
    environment.require(FABRICS["gcp-gib"], "kubernetes")
    with pytest.raises(
        errors.PlanError, match=r"'gcp-tcpxo' is for kubernetes.*use `fabric: gcp-tcpxo-slurm`"
    ):
        environment.require(FABRICS["gcp-tcpxo"], "slurm")
    with pytest.raises(errors.PlanError, match="use `fabric: azure-ndv5-aks`"):
        environment.require(FABRICS["azure-ndv5"], "kubernetes")
    with pytest.raises(errors.PlanError, match="do not describe it for slurm"):
        environment.require(FABRICS["alibaba-erdma"], "slurm")


# The environment


def values(fabric: str, *, gpu: bool = True, interface: str | None = None) -> dict[str, str]:
    return {v.name: v.value for v in environment.environment(FABRICS[fabric], gpu=gpu, interface=interface)}


def test_defaults_are_left_alone() -> None:
    assert values("tcp") == {"NCCL_DEBUG": "WARN"}
    assert values("tcp", gpu=False) == {}
    assert values("infiniband") == {"NCCL_DEBUG": "WARN", "NCCL_NET": "IB"}
    assert values("efa-p5") == {"NCCL_DEBUG": "WARN", "NCCL_NET": "AWS Libfabric"}


def test_ranks_without_gpus_get_gloo_alone() -> None:
    assert values("loopback", gpu=False) == {"GLOO_SOCKET_IFNAME": "lo"}
    assert values("infiniband", gpu=False, interface="eth0") == {"GLOO_SOCKET_IFNAME": "eth0"}


@pytest.mark.parametrize(
    ("interface", "for_nccl", "for_gloo"),
    [
        ("eth1", "=eth1", "eth1"),  # a bare eth1 would match eth10
        ("eth0,eth1", "=eth0,eth1", "eth0,eth1"),
        ("=eth0", "=eth0", "eth0"),
        ("^docker,lo", "^docker,lo", None),
    ],
)
def test_the_interface_in_the_notation_of_each(interface: str, for_nccl: str, for_gloo: str | None) -> None:
    given = values("tcp", interface=interface)
    assert given["NCCL_SOCKET_IFNAME"] == for_nccl
    assert given.get("GLOO_SOCKET_IFNAME") == for_gloo


def test_the_clusters_interface_replaces_the_fabrics() -> None:
    assert values("gcp-tcpx")["NCCL_SOCKET_IFNAME"] == "eth0"
    assert values("gcp-tcpx", interface="eth9")["NCCL_SOCKET_IFNAME"] == "=eth9"


# The text

ANY_TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
VARIABLES = st.dictionaries(
    st.from_regex("X_[A-Za-z0-9_]{0,9}", fullmatch=True), st.tuples(ANY_TEXT, ANY_TEXT)
)


@settings(max_examples=60, deadline=None)
@given(chosen=VARIABLES, shell=st.sampled_from(["bash", "sh"]))
def test_a_shell_reads_exactly_the_values(
    chosen: dict[str, tuple[str, str]], shell: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    variables = [model.Variable(name, value, why, why) for name, (value, why) in chosen.items()]
    seen = exported(_program(shell), environment.text(variables), tmp_path_factory.mktemp("text"))
    assert {name: seen[name] for name in chosen} == {name: value for name, (value, _) in chosen.items()}
    assert {name for name in seen if name.startswith("X_")} == set(chosen)


@pytest.mark.parametrize(
    "value",
    ["it's $HOME", "`id` $(id)", 'a"b\\c', "#no comment", "two\nlines\n", "a  b\t", "", "*", "~", "é…"],
)
def test_values_are_data(value: str, tmp_path: Path) -> None:
    script = environment.text([model.Variable("X", value, "a reason\nexport X=broken", "")])
    assert exported(_program("bash"), script, tmp_path)["X"] == value


@EVERY
def test_the_text_of_a_fabric_is_its_environment(name: str, tmp_path: Path) -> None:
    variables = environment.environment(FABRICS[name], gpu=True, interface="eth0")
    seen = exported(_program("bash"), environment.text(variables), tmp_path)
    assert {v.name: seen[v.name] for v in variables} == {v.name: v.value for v in variables}
    assert {n for n in seen if "NCCL" in n or "GLOO" in n} <= {v.name for v in variables}


def test_every_line_says_why() -> None:
    lines = environment.text(
        environment.environment(FABRICS["efa-p5"], gpu=True, interface=None)
    ).splitlines()
    assert lines[1].startswith("export NCCL_NET='AWS Libfabric'  # stop when this network cannot be used")
    assert lines[1].endswith("env.html#nccl-net)")


@pytest.mark.parametrize("name", [n for n in NAMES if FABRICS[n].script])
def test_the_clouds_profile_script_runs_first(name: str, tmp_path: Path) -> None:
    """The script is the cloud's, here one in its place that sets what the fabric sets too."""
    fabric = FABRICS[name]
    profile = tmp_path / "profile.sh"
    profile.write_text("export NCCL_SOCKET_IFNAME=theirs NCCL_FROM_PROFILE=$LD_LIBRARY_PATH\n")
    script = [re.sub(r"^\. \S+$", f'. "{profile}"', line) for line in fabric.script]
    variables = environment.environment(fabric, gpu=True, interface=None)
    seen = exported(_program("bash"), environment.text(variables, script), tmp_path)
    assert {v.name: seen[v.name] for v in variables} == {v.name: v.value for v in variables}
    assert all(Path(folder).is_absolute() for folder in seen["LD_LIBRARY_PATH"].split(":"))
    if any(line.startswith(". ") for line in script):
        assert seen["NCCL_FROM_PROFILE"] == seen["LD_LIBRARY_PATH"]


def test_libraries_of_the_image_stay_reachable(tmp_path: Path) -> None:
    line = FABRICS["gcp-gib"].script[0]
    seen = exported(_program("bash"), f"LD_LIBRARY_PATH=/opt/mine\n{line}\n", tmp_path)
    assert seen["LD_LIBRARY_PATH"] == "/usr/local/gib/lib64:/usr/local/nvidia/lib64:/opt/mine"


@pytest.mark.parametrize("name", ["A-B", "1A", "", "A B", "A=B", "A;id", "A\n"])
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(errors.SpecError, match="cannot be the name of an environment variable"):
        environment.text([model.Variable(name, "1", "", "")])


def test_what_no_environment_can_hold_is_refused() -> None:
    with pytest.raises(errors.SpecError, match="the value of A has a NUL character"):
        environment.text([model.Variable("A", "x\0y", "", "")])


# The linter


@pytest.mark.parametrize(
    ("fabric", "name", "value", "severity", "says"),
    [
        ("infiniband", "MASTER_ADDR", "n1", "error", "the node entry gives each rank its own"),
        ("infiniband", "RANK", "0", "error", "the node entry gives each rank its own"),
        ("infiniband", "NCCL_IB_DISABLE", "1", "error", "disables the network of fabric 'infiniband'"),
        ("gcp-gib", "NCCL_IB_DISABLE", "1", "error", "disables the network of fabric 'gcp-gib'"),
        ("tcp", "NCCL_SOCKET_IFNAME", "lo", "error", "cannot be reached over lo"),
        ("roce", "GLOO_SOCKET_IFNAME", "lo", "error", "cannot be reached over lo"),
        ("infiniband", "NCCL_IB_GID_INDEX", "3", "warning", "since NCCL 2.21 the right one is found"),
        ("efa-p5", "FI_PROVIDER", "efa", "warning", "only for aws-ofi-nccl 1.5 and older"),
        ("efa-p5", "NCCL_PROTO", "simple", "warning", "only for aws-ofi-nccl 1.5 and older"),
        ("efa-p4d", "FI_EFA_USE_DEVICE_RDMA", "1", "warning", "only for aws-ofi-nccl 1.6"),
        ("efa-p5", "RDMAV_FORK_SAFE", "1", "warning", "can break EFA"),
        ("gcp-tcpxo", "NCCL_ALGO", "Ring", "warning", "Google's tuner chooses"),
        ("infiniband", "NCCL_FASTRAK_IFNAME", "eth1", "warning", "is for gcp-tcpxo, gcp-tcpxo-slurm:"),
        ("infiniband", "FI_PROVIDER", "efa", "warning", "is for slingshot, efa-p4d, efa-p5 and others"),
        ("tcp", "NCCL_IB_HCA", "mlx5", "warning", "is for infiniband, roce, infiniband-sharp and others"),
        ("infiniband", "NCCL_NET", "gIB", "warning", "not the network of 'infiniband', which is 'IB'"),
        ("tcp", "NCCL_NET", "IB", "warning", "stops the job on 'tcp'"),
        ("infiniband", "NCCL_DEBUG", "trace", "warning", "a line for every call"),
        ("infiniband", "NCCL_P2P_DISABLE", "1", "warning", "turns NVLink and PCIe copies between GPUs off"),
        ("infiniband", "NCCL_SHM_DISABLE", "1", "warning", "over the network"),
        ("infiniband", "NCCL_NET_GDR_LEVEL", "LOC", "warning", "turns GPUDirect RDMA off"),
        ("infiniband", "CUDA_LAUNCH_BLOCKING", "1", "warning", "one kernel at a time"),
        ("infiniband", "NCCL_ASYNC_ERROR_HANDLING", "1", "warning", "use TORCH_NCCL_ASYNC_ERROR_HANDLING"),
        ("infiniband", "NCCL_IB_CUDA_SUPPORT", "1", "warning", "gone in NCCL 2.4"),
        ("infiniband", "NCCL_SOCKET_IFNAMES", "eth0", "warning", "did you mean NCCL_SOCKET_IFNAME?"),
        ("infiniband", "NCCL_IB_TIMOUT", "22", "warning", "did you mean NCCL_IB_TIMEOUT?"),
        ("infiniband", "GLOO_SOCKET_IFACE", "eth0", "warning", "did you mean GLOO_SOCKET_IFNAME?"),
        (
            "infiniband",
            "TORCH_NCCL_HEARTBEAT_TIMEOUT",
            "9",
            "warning",
            "did you mean TORCH_NCCL_HEARTBEAT_TIMEOUT_SEC?",
        ),
        ("infiniband", "NCCL_ALGO", "Ring", "note", "lists it for debugging"),
        ("azure-ndv5", "NCCL_COLLNET_ENABLE", "1", "warning", "use `fabric: infiniband-sharp`"),
        ("infiniband", "NCCL_MAX_NCHANNELS", "8", "note", "deprecated: NCCL_MAX_CTAS since 2.17"),
        ("infiniband", "NCCL_LAUNCH_MODE", "GROUP", "note", "deprecated: only PARALLEL"),
        ("infiniband", "NCCL_LAUNCH_MODE", "PARALLEL", "note", "lists it for debugging"),
    ],
)
def test_what_is_wrong_is_found(fabric: str, name: str, value: str, severity: str, says: str) -> None:
    [(grade, message)] = found({name: value}, fabric)
    assert (grade, says in message) == (severity, True), message
    assert name in message


@pytest.mark.parametrize(
    ("fabric", "given"),
    [
        ("infiniband", {"NCCL_IB_HCA": "=mlx5_0,mlx5_1", "NCCL_IB_TIMEOUT": "23", "NCCL_DEBUG": "INFO"}),
        ("roce", {"NCCL_IB_TC": "106", "NCCL_IB_ADDR_RANGE": "10.0.0.0/8", "NCCL_NET": "ib"}),
        ("efa-p5", {"FI_EFA_USE_HUGE_PAGE": "0", "NCCL_NET": "Libfabric", "OFI_NCCL_PROTOCOL": "RDMA"}),
        ("tcp", {"NCCL_SOCKET_IFNAME": "^docker,lo", "NCCL_SOCKET_NTHREADS": "4", "NCCL_NET": "Socket"}),
        ("loopback", {"NCCL_SOCKET_IFNAME": "=lo"}),
        (
            "infiniband-sharp",
            {"NCCL_COLLNET_ENABLE": "1", "NCCL_NET": "IBext_v11", "SHARP_COLL_LOG_LEVEL": "3"},
        ),
        (
            "infiniband",
            {"NCCL_NET": "IBext_v9", "NCCL_COLLNET_ENABLE": "0", "NCCL_IB_SUBNET_PREFIX_LEN": "64"},
        ),
        (
            "infiniband",
            {"NCCL_TUNER_CONFIG_FILE": "/x", "NCCL_INSPECTOR_ENABLE": "1", "NCCL_PLUGIN_P2P": "ucx"},
        ),
        ("infiniband", {"NCCL_UCX_TLS": "rc_x"}),
        ("gcp-gib", {"NCCL_IB_TC": "52", "NCCL_SHIMNET_GUEST_CONFIG_CHECKER_CONFIG_FILE": "/x"}),
        ("none", {"NCCL_IB_HCA": "mlx5", "FI_PROVIDER": "cxi", "NCCL_NET": "AWS Libfabric"}),
        (
            "infiniband",
            {"NCCL_IB_SUBNET_AWARE_ROUTING": "1", "NCCL_IBVERBS_LIB": "/l", "NCCL_RMA_DISABLE": "1"},
        ),
        (
            "tcp",
            {"NCCL_VERSION": "2.29.7", "HF_HOME": "/data", "OMP_NUM_THREADS": "8", "WANDB_MODE": "offline"},
        ),
    ],
)
def test_what_is_right_is_left_in_peace(fabric: str, given: dict[str, str]) -> None:
    assert found(given, fabric) == []


def test_a_strange_name_gets_no_wild_guess() -> None:
    assert found({"NCCL_QQQQ_WWWW": "1"}, "tcp") == [("warning", "nothing reads NCCL_QQQQ_WWWW")]


def test_one_finding_for_each_variable_in_their_order() -> None:
    given = {"RANK": "0", "NCCL_SOCKET_IFNAME": "eth0", "NCCL_PROTO": "LL128", "NCCL_P2P_DISABLE": "1"}
    assert [f.name for f in lint.lint(given, FABRICS["efa-p5"])] == [
        "RANK",
        "NCCL_PROTO",
        "NCCL_P2P_DISABLE",
    ]


def test_a_copied_value_of_the_fabric_itself_is_right_and_another_is_not() -> None:
    assert found({"NCCL_ALGO": "Ring,Tree"}, "gcp-tcpx") == []
    assert [grade for grade, _ in found({"NCCL_ALGO": "Tree"}, "gcp-tcpx")] == ["note"]


def test_lists_of_names_do_not_overlap() -> None:
    table = json.loads((ROOT / "launcher" / "fabrics" / "variables.json").read_text(encoding="utf-8"))
    system = {f"NCCL_{word}" for word in table["names"]["NCCL_"]["system"]}
    assert not system & fabrics_variables.experiments()
    assert not set(table["renamed"]) & (system | fabrics_variables.experiments())
    assert all(fabrics_variables.is_known(name) for name in table["harmful"])


def test_forbidden_names_end_where_they_end() -> None:
    assert model.Forbidden("RDMAV_*", "", "").matches("RDMAV_FORK_SAFE")
    assert not model.Forbidden("FI_PROVIDER", "", "").matches("FI_PROVIDER_PATH")


def test_only_the_standard_library_is_imported() -> None:
    program = "import sys, launcher.fabrics.lint; print(*{name.split('.')[0] for name in sys.modules})"
    root = Path(__file__).parents[3]
    # -S: without site-packages, an import of anything else fails.
    done = subprocess.run(
        [sys.executable, "-S", "-c", program], cwd=root, text=True, capture_output=True, check=True
    )
    ours = set(done.stdout.split()) - set(sys.stdlib_module_names) - {"__main__"}
    assert ours == {"launcher"}


def _program(name: str) -> str:
    path = shutil.which(name)
    assert path, f"{name} is missing"
    return path
