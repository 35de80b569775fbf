"""Azure ND virtual machines: InfiniBand, with a topology file because the hypervisor hides the real one."""

from __future__ import annotations

from launcher.fabrics.generic import GID_INDEX
from launcher.fabrics.model import Bandwidth, Fabric, HostPath, Variable

_IMAGES = "https://github.com/Azure/azhpc-images/blob"
_V4 = f"{_IMAGES}/165013b0b904d97092a57c15126af9c0f54e7474/components/customizations/ndv4.sh"
_V5 = f"{_IMAGES}/5d346380ca295f36509828ae2a8ecf2e43d7fd3f/components/customizations/ndv5.sh"
_CHECKS = "https://github.com/Azure/azurehpc-health-checks/blob"
_CHECK_V4 = f"{_CHECKS}/120095246e74e58a4414650c77e6d851520a838f/conf/nd96asr_v4.conf"
_CHECK_V5 = f"{_CHECKS}/06114325109659ce3c260b56d46aeab436fcfc15/conf/nd96isr_h100_v5.conf"
_AKS = (
    "https://github.com/Azure/ai-infrastructure-on-azure/blob/116fd1c9f3275ef9082cafc009a1b8b44b634298/"
    "infrastructure_validations/aks/NCCL/helm/nccl-test/templates/mpijob.yaml"
)


def _variables(source: str) -> tuple[Variable, ...]:
    return (
        Variable(
            "NCCL_IB_PCI_RELAXED_ORDERING",
            "1",
            "without relaxed ordering a virtual machine's adapters are slow; 1 stops where it cannot be had",
            source,
        ),
        Variable(
            "NCCL_IGNORE_CPU_AFFINITY",
            "1",
            "NCCL's threads go near their GPU, whatever CPUs the launcher gave",
            source,
        ),
    )


def _vm(version: int, gpus: str, source: str, bandwidth: Bandwidth) -> Fabric:
    topology = f"/opt/microsoft/ndv{version}/topo.xml"
    return Fabric(
        name=f"azure-ndv{version}",
        title=f"Azure ND v{version} ({gpus}) with Azure's HPC image",
        sources=(source, bandwidth.source),
        schedulers=("local", "slurm"),
        variables=(
            *_variables(source),
            Variable(
                "NCCL_TOPO_FILE", topology, "which GPU is near which adapter; the guest cannot see it", source
            ),
        ),
        net="IB",
        owns=("NCCL_IB_",),
        forbidden=(GID_INDEX,),
        devices=("/dev/infiniband",),
        # The whole folder: the file is a link to one beside its own folder.
        mounts=(HostPath("/opt/microsoft", "/opt/microsoft"),),
        memlock=True,
        bandwidth=bandwidth,
    )


def _aks(version: int, gpus: str, source: str, bandwidth: Bandwidth) -> Fabric:
    return Fabric(
        name=f"azure-ndv{version}-aks",
        # The nodes of AKS have no topology file, and NCCL goes on without one it cannot find.
        title=f"Azure ND v{version} ({gpus}) on AKS; the image or a mount brings the file for NCCL_TOPO_FILE",
        sources=(source, _AKS, bandwidth.source),
        schedulers=("kubernetes",),
        variables=_variables(source),
        net="IB",
        owns=("NCCL_IB_",),
        forbidden=(GID_INDEX,),
        memlock=True,
        resources={"rdma/ib": 8},
        capabilities=("IPC_LOCK",),
        bandwidth=bandwidth,
    )


_BANDWIDTH_V4 = Bandwidth(228.0, hosts=1, size="8G", limit=True, source=_CHECK_V4)
_BANDWIDTH_V5 = Bandwidth(460.0, hosts=1, size="16G", limit=True, source=_CHECK_V5)

FABRICS = (
    _vm(4, "A100", _V4, _BANDWIDTH_V4),
    _vm(5, "H100", _V5, _BANDWIDTH_V5),
    _aks(4, "A100", _V4, _BANDWIDTH_V4),
    _aks(5, "H100", _V5, _BANDWIDTH_V5),
)
