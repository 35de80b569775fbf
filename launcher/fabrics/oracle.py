"""Oracle Cloud (OCI): RoCE v2 on bare-metal shapes, whose adapters for storage and management must be left out."""

from __future__ import annotations

from launcher.fabrics.model import Fabric, Variable, manual

_REPOSITORY = "https://github.com/oracle-quickstart/oci-hpc-oke/blob"
_TABLE = (
    f"{_REPOSITORY}/1153fe42d4992ee37f3169dec5bab47d53c4469d/terraform/via-provider-nccl-rccl-configmap.tf"
)
_HOST_NETWORK = (
    f"{_REPOSITORY}/4197cedd2fc87a49125b507a237bbced000bb464/manifests/nccl-tests/host-network/kueue/"
    "BM.GPU.H100.8.yaml"
)
_FUNCTIONS = (
    f"{_REPOSITORY}/ad725bd99826d9d8ce044be0ac97c37ba4bbbd38/manifests/nccl-tests/virtual-functions/"
    "mpi-operator/BM.GPU.H100.8.yaml"
)

_ALL = (
    Variable("NCCL_IB_GID_INDEX", "3", "the RoCE v2 address of every adapter on OCI's images", _TABLE),
    Variable("NCCL_IB_TC", "41", "OCI's traffic class for RDMA", _TABLE),
    Variable("NCCL_IB_SL", "0", "OCI's service level", _TABLE),
    Variable("NCCL_IB_TIMEOUT", "22", "OCI waits 17 s for an answer, not 4 s", _TABLE),
    Variable("NCCL_IB_SPLIT_DATA_ON_QPS", "0", "queue pairs in turn, the default since NCCL 2.20", _TABLE),
)
_A100 = (
    Variable(
        "NCCL_IB_QPS_PER_CONNECTION", "4", "four queue pairs, for more paths through the switches", _TABLE
    ),
)
_HOPPER = (
    Variable("NCCL_CUMEM_ENABLE", "0", "OCI's choice for these shapes", _TABLE),
    Variable(
        "NCCL_IGNORE_CPU_AFFINITY",
        "1",
        "NCCL's threads go near their GPU, whatever CPUs the launcher gave",
        _TABLE,
    ),
    Variable("NCCL_SOCKET_IFNAME", "eth0", "the interface of the virtual network", _TABLE),
)


def _adapters(value: str, why: str) -> Variable:
    return Variable("NCCL_IB_HCA", value, why, _TABLE)


def _shape(name: str, shape: str, adapters: tuple[int, ...], extra: tuple[Variable, ...]) -> Fabric:
    exact = "=" + ",".join(f"mlx5_{number}" for number in adapters)
    why = "the adapters of the cluster network; the others carry storage and management"
    return Fabric(
        name=name,
        title=f"OCI {shape}, network of the host",
        sources=(_TABLE, _HOST_NETWORK, manual("NCCL_IB_HCA")),
        variables=(_adapters(exact, why), *_ALL, *extra),
        net="IB",
        owns=("NCCL_IB_",),
        devices=("/dev/infiniband",),
        memlock=True,
        capabilities=("IPC_LOCK",),
        host_network=True,
        privileged=True,
    )


_EIGHT = (0, 3, 4, 5, 6, 9, 10, 11)

FABRICS = (
    Fabric(
        name="oci",
        title="OCI with SR-IOV: pods ask for nvidia.com/rdma-vf, as many as their shape has adapters",
        sources=(_TABLE, _FUNCTIONS, manual("NCCL_IB_HCA")),
        schedulers=("kubernetes",),
        variables=(
            _adapters("mlx5", "a pod gets only adapters of the cluster network, under new names"),
            *_ALL,
        ),
        net="IB",
        owns=("NCCL_IB_",),
        devices=("/dev/infiniband",),
        memlock=True,
        capabilities=("IPC_LOCK",),
        privileged=True,
    ),
    _shape("oci-a100", "BM.GPU.A100-v2.8", (1, 2, 3, 4, 5, 6, 7, 8, 14, 15, 16, 17, 9, 10, 11, 12), _A100),
    _shape("oci-h100", "BM.GPU.H100.8", (0, 1, 3, 4, 5, 6, 7, 8, 9, 10, 12, 13, 14, 15, 16, 17), _HOPPER),
    _shape("oci-h200", "BM.GPU.H200.8", _EIGHT, _HOPPER),
    _shape("oci-b200", "BM.GPU.B200.8", _EIGHT, _HOPPER),
)
