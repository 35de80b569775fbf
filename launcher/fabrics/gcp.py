"""Google Cloud: GPUDirect-TCPX (A3 High), GPUDirect-TCPXO (A3 Mega) and gIB, a RoCE plugin (A3 Ultra, A4).

The plugins are on the hosts and mounted into the container: /home/kubernetes/bin on GKE, where Google's installer
puts them, and /var/lib on the Slurm images of the Cluster Toolkit.
"""

from __future__ import annotations

import json

from launcher.fabrics.model import Fabric, Forbidden, HostPath, Sidecar, Variable, manual

_GKE = "https://github.com/GoogleCloudPlatform/container-engine-accelerators/blob"
_TCPX = f"{_GKE}/21ed6613d6bd40d90bbd0362982cfe24bea4191a/gpudirect-tcpx/nccl-config.yaml"
_TCPX_SOCKET = f"{_GKE}/0713f2e50a71e19ae8f3847cc4bd81021637d2cc/gpudirect-tcpx/config-with-env.yaml"
_TCPX_POD = f"{_GKE}/0e5609b09f8daaa066be44cc3aaf49b11e1ea488/gpudirect-tcpx/nccl-test-latest.yaml"
_TCPX_NET = (
    "https://github.com/GoogleCloudPlatform/cluster-toolkit/blob/7174ca3ec7006c6fde9e1cc5820d138fe1e11def/"
    "examples/machine-learning/a3-highgpu-8g/nccl-tests/run-nccl-tests.sh"
)
_TCPXO = f"{_GKE}/0a2b482ede2c659a85c7a1a1345e09ea709d10d0/gpudirect-tcpxo/README.md"
_TCPXO_POD = f"{_GKE}/089e022496faec95606d663eda8767078d347e34/gpudirect-tcpxo/nccl-test-latest.yaml"
_TCPXO_ADVICE = f"{_GKE}/3aa66cbe8011f3d6c893eed7bbe441cb796fc656/gpudirect-tcpxo/best-practice.md"
_GIB_POD = f"{_GKE}/155bfa49b7459a55c2352495d3eeb46a55637be6/gpudirect-rdma/nccl-test-a4.yaml"
_GIB_A4 = (
    "https://github.com/AI-Hypercomputer/gpu-recipes/blob/280f358d3c3f67bacbf8eb00926c4e4e0a896d81/"
    "src/helm-charts/a4/jobset/templates/workload-jobset.yaml"
)
_TOOLKIT = "https://github.com/GoogleCloudPlatform/cluster-toolkit/blob"
_TCPXO_SLURM = (
    f"{_TOOLKIT}/2452d0dc718a82ec3e76da57d0c007fefeebc119/examples/machine-learning/a3-megagpu-8g/"
    "nccl-tests/run-nccl-tests.sh"
)
_GIB_SLURM = (
    f"{_TOOLKIT}/2123ba50d7a0ed5d82f7fbf95a818aaf92860b67/examples/machine-learning/a3-ultragpu-8g/"
    "nccl-tests/run-nccl-tests.sh"
)

_OWNS_TCPXO = ("NCCL_FASTRAK_", "NCCL_SHIMNET_", "NCCL_TUNER_CONFIG_PATH")
_OWNS_GIB = ("NCCL_IB_", "NCCL_SHIMNET_", "NCCL_TUNER_CONFIG_PATH")


def _libraries(*folders: str) -> str:
    """The shell line that puts a host's libraries before those of the image."""
    return f'export LD_LIBRARY_PATH="{":".join(folders)}${{LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}}"'


def _interfaces(networks: dict[str, str]) -> dict[str, str]:
    """Annotations that give a pod one interface for each GKE network."""
    wanted = [{"interfaceName": name, "network": network} for name, network in networks.items()]
    return {
        "networking.gke.io/default-interface": "eth0",
        "networking.gke.io/interfaces": json.dumps(wanted),
    }


def _devices(*more: str) -> str:
    """The GPU devices that a daemon's container is given without asking for GPUs."""
    paths = [f"/dev/nvidia{number}" for number in range(8)] + ["/dev/nvidiactl", "/dev/nvidia-uvm", *more]
    return "".join(f"- path: {path}\n" for path in paths)


def _gpu_networks(count: int) -> dict[str, str]:
    return {"eth0": "default", **{f"eth{number}": f"vpc{number}" for number in range(1, count + 1)}}


def _rdma_networks(**more: str) -> dict[str, str]:
    return {"eth0": "default", **more, **{f"eth{number + 2}": f"rdma-{number}" for number in range(8)}}


def _tcpx(name: str, value: str, why: str) -> Variable:
    return Variable(name, value, why, _TCPX)


_TCPX_VARIABLES = (
    _tcpx("NCCL_SOCKET_IFNAME", "eth0", "bootstrap over the pod's first network"),
    _tcpx("NCCL_GPUDIRECTTCPX_CTRL_DEV", "eth0", "control messages stay off the GPU networks"),
    _tcpx("NCCL_GPUDIRECTTCPX_SOCKET_IFNAME", "eth1,eth2,eth3,eth4", "the four GPU networks"),
    _tcpx(
        "NCCL_GPUDIRECTTCPX_TX_BINDINGS",
        "eth1:8-21,112-125;eth2:8-21,112-125;eth3:60-73,164-177;eth4:60-73,164-177",
        "CPUs that send: those of the adapter's NUMA node",
    ),
    _tcpx(
        "NCCL_GPUDIRECTTCPX_RX_BINDINGS",
        "eth1:22-35,126-139;eth2:22-35,126-139;eth3:74-87,178-191;eth4:74-87,178-191",
        "CPUs that receive: those of the adapter's NUMA node",
    ),
    _tcpx(
        "NCCL_GPUDIRECTTCPX_PROGRAM_FLOW_STEERING_WAIT_MICROS",
        "500000",
        "time to wait for the flow steering of a new connection",
    ),
    Variable(
        "NCCL_GPUDIRECTTCPX_UNIX_CLIENT_PREFIX",
        "/run/tcpx",
        "where the daemon's sockets are mounted",
        _TCPX_SOCKET,
    ),
    _tcpx("NCCL_CROSS_NIC", "0", "an adapter talks to its like: each is on a network of its own"),
    _tcpx("NCCL_NET_GDR_LEVEL", "PIX", "straight to GPU memory only below one PCIe switch"),
    _tcpx("NCCL_P2P_PXN_LEVEL", "0", "send and receive without a detour over another GPU"),
    _tcpx("NCCL_ALGO", "Ring", "Google's choice for this plugin"),
    _tcpx("NCCL_PROTO", "Simple", "LL and LL128 are not for this plugin"),
    _tcpx("NCCL_NSOCKS_PERTHREAD", "4", "four connections for each thread"),
    _tcpx("NCCL_SOCKET_NTHREADS", "1", "one thread for each connection of NCCL"),
    _tcpx("NCCL_BUFFSIZE", "4194304", "buffers of 4 MiB"),
    _tcpx("NCCL_DYNAMIC_CHUNK_SIZE", "524288", "messages of 512 KiB (a setting of Google's NCCL)"),
    _tcpx("NCCL_P2P_NET_CHUNKSIZE", "524288", "messages of 512 KiB"),
    _tcpx("NCCL_P2P_PCI_CHUNKSIZE", "524288", "messages of 512 KiB"),
    _tcpx("NCCL_P2P_NVL_CHUNKSIZE", "1048576", "messages of 1 MiB over NVLink"),
)

_TCPX_DAEMON = Sidecar(
    name="tcpx-daemon",
    image="us-docker.pkg.dev/gce-ai-infra/gpudirect-tcpx/tcpgpudmarxd-dev:v2.0.12",
    command=(
        *("/tcpgpudmarxd/build/app/tcpgpudmarxd", "--gpu_nic_preset", "a3vm", "--gpu_shmem_type", "fd"),
        *("--uds_path", "/run/tcpx", "--setup_param", "--verbose 128 2 0 "),
    ),
    environment=(("LD_LIBRARY_PATH", "/usr/local/nvidia/lib64"),),
    mounts=(
        HostPath("/home/kubernetes/bin/nvidia/lib64", "/usr/local/nvidia/lib64"),
        HostPath("/run/tcpx", "/run/tcpx", readonly=False),
        HostPath("/sys", "/hostsysfs", readonly=False),
        HostPath("/proc/sys", "/hostprocsysfs", readonly=False),
    ),
    capabilities=("NET_ADMIN",),
    source=_TCPX_POD,
)

_TCPXO_DAEMON = Sidecar(
    name="tcpxo-daemon",
    image="us-docker.pkg.dev/gce-ai-infra/gpudirect-tcpxo/tcpgpudmarxd-dev:v1.0.21",
    command=(
        *("/bin/sh", "-c"),
        "set -ex; chmod 755 /fts/entrypoint_rxdm_container.sh; "
        "exec /fts/entrypoint_rxdm_container.sh --num_hops=2 --num_nics=8",
    ),
    environment=(("LD_LIBRARY_PATH", "/usr/local/nvidia/lib64"),),
    mounts=(
        HostPath("/home/kubernetes/bin/nvidia", "/usr/local/nvidia"),
        HostPath("/sys", "/hostsysfs", readonly=False),
        HostPath("/proc/sys", "/hostprocsysfs", readonly=False),
    ),
    capabilities=("NET_ADMIN", "NET_BIND_SERVICE"),
    source=_TCPXO,
)

_TCPXO_FORBIDDEN = (
    Forbidden("NCCL_ALGO", "Google's tuner chooses, and its check reports the variable", _TCPXO),
    Forbidden("NCCL_PROTO", "nccl-env-profile.sh sets it together with the tuner's file", _TCPXO_ADVICE),
)

_LLCM = Variable(
    "NCCL_FASTRAK_LLCM_DEVICE_DIRECTORY",
    "/dev/aperture_devices",
    "where the aperture devices of the adapters are mounted",
    _TCPXO_POD,
)


def _tcpxo_slurm(name: str, value: str, why: str) -> Variable:
    return Variable(name, value, why, _TCPXO_SLURM)


FABRICS = (
    Fabric(
        name="gcp-tcpx",
        title="Google A3 High (a3-highgpu-8g) on GKE, GPUDirect-TCPX",
        sources=(_TCPX, _TCPX_SOCKET, _TCPX_POD, _TCPX_NET),
        schedulers=("kubernetes",),
        script=(_libraries("/usr/local/nvidia/lib64"),),
        variables=_TCPX_VARIABLES,
        net="GPUDirectTCPX_v7",
        owns=("NCCL_GPUDIRECTTCPX_", "NCCL_DYNAMIC_CHUNK_SIZE"),
        mounts=(
            HostPath("/home/kubernetes/bin/nvidia/lib64", "/usr/local/nvidia/lib64"),
            HostPath("/run/tcpx", "/run/tcpx", readonly=False),
        ),
        annotations={**_interfaces(_gpu_networks(4)), "devices.gke.io/container.tcpx-daemon": _devices()},
        capabilities=("IPC_LOCK",),
        sidecars=(_TCPX_DAEMON,),
    ),
    Fabric(
        name="gcp-tcpxo",
        title="Google A3 Mega (a3-megagpu-8g) on GKE, GPUDirect-TCPXO",
        sources=(_TCPXO, _TCPXO_POD, _TCPXO_ADVICE),
        schedulers=("kubernetes",),
        script=(
            _libraries("/usr/local/nvidia/lib64"),
            "export NCCL_LIB_DIR=/usr/local/nvidia/lib64",
            '. "$NCCL_LIB_DIR/nccl-env-profile.sh"',
        ),
        variables=(_LLCM,),
        owns=_OWNS_TCPXO,
        forbidden=_TCPXO_FORBIDDEN,
        mounts=(
            HostPath("/home/kubernetes/bin/nvidia", "/usr/local/nvidia"),
            HostPath("/dev/aperture_devices", "/dev/aperture_devices", readonly=False),
        ),
        annotations={
            **_interfaces(_gpu_networks(8)),
            "devices.gke.io/container.tcpxo-daemon": _devices("/dev/dmabuf_import_helper"),
        },
        sidecars=(_TCPXO_DAEMON,),
    ),
    Fabric(
        name="gcp-tcpxo-slurm",
        title="Google A3 Mega on Slurm (Cluster Toolkit, whose prolog starts the daemon), GPUDirect-TCPXO",
        sources=(_TCPXO_SLURM, _TCPXO),
        schedulers=("slurm",),
        script=(
            _libraries("/var/lib/tcpxo/lib64"),
            "export NCCL_LIB_DIR=/var/lib/tcpxo/lib64",
            '. "$NCCL_LIB_DIR/nccl-env-profile.sh"',
        ),
        variables=(
            _tcpxo_slurm(
                "NCCL_SOCKET_IFNAME", "enp0s12", "bootstrap over the virtual machine's first network"
            ),
            _tcpxo_slurm("NCCL_FASTRAK_CTRL_DEV", "enp0s12", "control messages stay off the GPU networks"),
            _tcpxo_slurm(
                "NCCL_FASTRAK_IFNAME",
                "enp6s0,enp7s0,enp13s0,enp14s0,enp134s0,enp135s0,enp141s0,enp142s0",
                "the eight GPU networks",
            ),
            _LLCM,
        ),
        owns=_OWNS_TCPXO,
        forbidden=_TCPXO_FORBIDDEN,
        devices=("/dev/aperture_devices",),
        mounts=(HostPath("/var/lib/tcpxo/lib64", "/var/lib/tcpxo/lib64"),),
    ),
    Fabric(
        name="gcp-gib",
        title="Google A3 Ultra (a3-ultragpu-8g) on GKE, RoCE with the gIB plugin",
        sources=(_GIB_POD, _GIB_SLURM),
        schedulers=("kubernetes",),
        script=(
            _libraries("/usr/local/gib/lib64", "/usr/local/nvidia/lib64"),
            ". /usr/local/gib/scripts/set_nccl_env.sh",
        ),
        net="gIB",
        owns=_OWNS_GIB,
        mounts=(
            HostPath("/home/kubernetes/bin/nvidia", "/usr/local/nvidia"),
            HostPath("/home/kubernetes/bin/gib", "/usr/local/gib"),
        ),
        annotations=_interfaces(_rdma_networks()),
    ),
    Fabric(
        name="gcp-gib-a4",
        title="Google A4 (a4-highgpu-8g) on GKE, RoCE with the gIB plugin",
        sources=(_GIB_A4, _GIB_POD),
        schedulers=("kubernetes",),
        script=(
            _libraries("/usr/local/gib/lib64", "/usr/local/nvidia/lib64"),
            ". /usr/local/gib/scripts/set_nccl_env.sh",
        ),
        variables=(
            Variable("NCCL_SOCKET_IFNAME", "eth0,eth1", "bootstrap over the two general networks", _GIB_A4),
            Variable(
                "NCCL_TUNER_CONFIG_PATH",
                "/usr/local/gib/configs/tuner_config_a4.txtpb",
                "Google's tuning for this machine type",
                _GIB_A4,
            ),
        ),
        net="gIB",
        owns=_OWNS_GIB,
        mounts=(
            HostPath("/home/kubernetes/bin/nvidia", "/usr/local/nvidia"),
            HostPath("/home/kubernetes/bin/gib", "/usr/local/gib"),
        ),
        annotations=_interfaces(_rdma_networks(eth1="gvnic-1")),
    ),
    Fabric(
        name="gcp-gib-slurm",
        title="Google A3 Ultra on Slurm (Cluster Toolkit), RoCE with the gIB plugin",
        sources=(_GIB_SLURM, manual("NCCL_NET")),
        schedulers=("slurm",),
        script=(_libraries("/var/lib/gib/lib64"), ". /var/lib/gib/scripts/set_nccl_env.sh"),
        variables=(
            Variable(
                "NCCL_SOCKET_IFNAME", "enp0s19,enp192s20", "bootstrap over the general networks", _GIB_SLURM
            ),
            Variable(
                "NCCL_SHIMNET_GUEST_CONFIG_CHECKER_CONFIG_FILE",
                "/var/lib/gib/configs/guest_config.txtpb",
                "Google's check of the settings",
                _GIB_SLURM,
            ),
            Variable(
                "NCCL_TUNER_CONFIG_PATH",
                "/var/lib/gib/configs/tuner_config.txtpb",
                "Google's tuning for this machine type",
                _GIB_SLURM,
            ),
        ),
        net="gIB",
        owns=_OWNS_GIB,
        devices=("/dev/infiniband",),
        mounts=(HostPath("/var/lib/gib", "/var/lib/gib"),),
        memlock=True,
    ),
)
