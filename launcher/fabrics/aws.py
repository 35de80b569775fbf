"""AWS instances with Elastic Fabric Adapters (EFA). The image brings libfabric and the aws-ofi-nccl plugin.

With libfabric 1.18 and aws-ofi-nccl 1.7, or newer, no variable is needed; older advice does harm.
"""

from __future__ import annotations

from launcher.fabrics.model import Bandwidth, Fabric, Forbidden

_PLUGIN = "https://github.com/aws/aws-ofi-nccl/blob"
_VARIABLES = f"{_PLUGIN}/518f4c6aba76d5ae5712ac9cb2f8779e05cc8915/doc/efa-env-var.md"
_NAMES = f"{_PLUGIN}/e7e78dac1b830efa2fb1d7cb5770e877dbc211de/src/nccl_ofi_interface_nvidia.cpp"
_SAMPLES = "https://github.com/aws-samples/awsome-distributed-training/blob"
_COUNTS = (
    f"{_SAMPLES}/23b53f64977b7ad2dc404bc23664fed77e5c668b/4.validation_and_observability/"
    "2.gpu-cluster-healthcheck/instance-profiles.conf"
)
_BENCHMARK = f"{_SAMPLES}/0162aacd5da07d424e13f44bef8dd2c4cfcc66e4/micro-benchmarks/nccl-tests"

_FORBIDDEN = (
    Forbidden("FI_PROVIDER", "only for aws-ofi-nccl 1.5 and older; the plugin picks EFA itself", _VARIABLES),
    Forbidden(
        "NCCL_PROTO", "only for aws-ofi-nccl 1.5 and older; it turns the faster protocols off", _VARIABLES
    ),
    Forbidden(
        "FI_EFA_USE_DEVICE_RDMA", "only for aws-ofi-nccl 1.6; newer ones decide themselves", _VARIABLES
    ),
    Forbidden("FI_EFA_FORK_SAFE", "the plugin sets it where it is needed", _VARIABLES),
    Forbidden("FI_EFA_ENABLE_SHM_TRANSFER", "the plugin turns it off in any case", _VARIABLES),
    Forbidden("RDMAV_*", "variables of rdma-core can break EFA on newer kernels", _VARIABLES),
    Forbidden("NCCL_SOCKET_NTHREADS", "EFA does not use NCCL's sockets", _VARIABLES),
    Forbidden("NCCL_NSOCKS_PERTHREAD", "EFA does not use NCCL's sockets", _VARIABLES),
    Forbidden("NCCL_BUFFSIZE", "AWS recommends the default", _VARIABLES),
)


def _efa(name: str, instances: str, adapters: int, bandwidth: Bandwidth | None = None) -> Fabric:
    return Fabric(
        name=name,
        title=f"AWS {instances}: {adapters} EFA adapters",
        sources=(_VARIABLES, _NAMES, _COUNTS, f"{_BENCHMARK}/kubernetes/nccl-tests.yaml"),
        # The name of the plugin's first versions. Those after 1.11 are called "Libfabric" and answer to this too.
        net="AWS Libfabric",
        owns=("FI_", "OFI_NCCL_", "RDMAV_"),
        forbidden=_FORBIDDEN,
        devices=("/dev/infiniband",),
        memlock=True,
        resources={"vpc.amazonaws.com/efa": adapters, "hugepages-2Mi": "5120Mi"},
        bandwidth=bandwidth,
    )


FABRICS = (
    _efa(
        "efa-p4d",
        "p4d and p4de",
        4,
        Bandwidth(78.33, hosts=2, size="2G", limit=False, source=f"{_BENCHMARK}/README.md"),
    ),
    _efa(
        "efa-p5",
        "p5 and p5e",
        32,
        Bandwidth(487.09, hosts=2, size="16G", limit=False, source=f"{_BENCHMARK}/README.md"),
    ),
    _efa("efa-p5en", "p5en", 16),
    _efa("efa-p6", "p6-b200", 8),
)
