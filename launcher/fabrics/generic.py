"""Networks that belong to no cloud: one machine, Ethernet, InfiniBand, RoCE."""

from __future__ import annotations

from launcher.fabrics.model import Fabric, Forbidden, Variable, manual

_GUIDE = "https://docs.nvidia.com/deeplearning/nccl/user-guide/docs/env.html"
_TORCH = "https://docs.pytorch.org/docs/stable/distributed.html#choosing-the-network-interface-to-use"
# Pinned memory in containers: NCCL's guide, "Troubleshooting".
_CONTAINERS = "https://docs.nvidia.com/deeplearning/nccl/user-guide/docs/troubleshooting.html"

GID_INDEX = Forbidden(
    "NCCL_IB_GID_INDEX",
    "the index differs between hosts and sites; since NCCL 2.21 the right one is found by itself",
    manual("NCCL_IB_ADDR_FAMILY"),
)

FABRICS = (
    Fabric(
        name="none",
        title="nothing is set: one host, or a site whose image or /etc/nccl.conf says it all",
        sources=(_GUIDE,),
    ),
    Fabric(
        name="loopback",
        title="one machine whose ranks talk over lo",
        sources=(_GUIDE, _TORCH),
        variables=(
            Variable(
                "GLOO_SOCKET_IFNAME",
                "lo",
                "gloo otherwise takes the address of the machine's own name, which may be none or one that moves",
                _TORCH,
            ),
            Variable(
                "NCCL_SOCKET_IFNAME",
                "lo",
                "NCCL skips lo unless it is named or the only interface",
                manual("NCCL_SOCKET_IFNAME"),
            ),
        ),
    ),
    Fabric(
        name="tcp",
        title="Ethernet without RDMA",
        # NCCL_NET=Socket is left out: hosts with better devices than their owner knows of then use them.
        sources=(_GUIDE,),
    ),
    Fabric(
        name="infiniband",
        title="InfiniBand with Mellanox/NVIDIA adapters",
        sources=(_GUIDE, _CONTAINERS),
        net="IB",
        owns=("NCCL_IB_",),
        forbidden=(GID_INDEX,),
        devices=("/dev/infiniband",),
        memlock=True,
        capabilities=("IPC_LOCK",),
    ),
    Fabric(
        name="roce",
        title="RDMA over Ethernet (RoCE v2); the site gives its traffic class as NCCL_IB_TC",
        sources=(_GUIDE, _CONTAINERS),
        net="IB",
        owns=("NCCL_IB_",),
        forbidden=(GID_INDEX,),
        devices=("/dev/infiniband",),
        memlock=True,
        capabilities=("IPC_LOCK",),
    ),
)
