"""What schedulers say, as tests give it to `cluster discover`: Slurm's commands by release, five clouds' nodes.

Owns the raw answers; what must become of them is golden (tests/golden/clusters/), written by `make golden`.
"""

from __future__ import annotations

import functools
from typing import Any

from launcher.discovery import cluster_file, kubernetes
from launcher.discovery import slurm_output as output
from launcher.discovery.facts import Lack, Machine, Slurm
from launcher.errors import Problem
from launcher.schedulers.kubernetes import api

# Release → what its commands print: https://slurm.schedmd.com/archive/
SLURM: dict[str, dict[str, str]] = {
    # Debian's package, no accounting, GRES without a type; scontrol has no TRES line yet
    "21.08": {
        "version": "slurm-wlm 21.08.5",
        "sinfo": "batch|4|32|128000|gpu:4\nbatch|2|64|256000|(null)\n",
        "partition": "PartitionName=batch AllowGroups=ALL AllowAccounts=ALL AllowQos=ALL AllocNodes=ALL Default=YES"
        " QoS=N/A DefaultTime=NONE DisableRootJobs=NO ExclusiveUser=NO GraceTime=0 Hidden=NO MaxNodes=UNLIMITED"
        " MaxTime=UNLIMITED MinNodes=0 LLN=NO MaxCPUsPerNode=UNLIMITED Nodes=g[1-4],c[1-2] PriorityTier=1"
        " RootOnly=NO ReqResv=NO OverSubscribe=NO PreemptMode=OFF State=UP TotalCPUs=256 TotalNodes=6\n",
        "config": "Configuration data as of 2024-01-01T00:00:00\nAccountingStorageType   = accounting_storage/none\n"
        "ClusterName             = old\nJobRequeue              = 1\nPreemptMode             = OFF\n"
        "PreemptType             = preempt/none\nTopologyPlugin          = topology/none\n",
    },
    # Types as AutoDetect=nvml names them, sockets behind the counts, limits in the partition and in QOS
    "23.11": {
        "version": "slurm 23.11.10",
        "sinfo": "gpu|16|112|2000000|gpu:nvidia_h100_80gb_hbm3:8(S:0-1)\n"
        "gpu|8|128|1000000|gpu:nvidia_a100-sxm4-80gb:8(S:0-3)\n"
        "debug|1|112|2000000|gpu:nvidia_h100_80gb_hbm3:8(S:0-1)\n",
        "partition": "PartitionName=gpu AllowAccounts=nlp,vision Default=NO QoS=part-gpu MaxNodes=8"
        " MaxTime=2-00:00:00 PreemptMode=REQUEUE State=UP TRES=cpu=2816\n"
        "PartitionName=debug AllowAccounts=ALL Default=YES QoS=N/A MaxNodes=1 MaxTime=00:30:00 PreemptMode=OFF"
        " State=UP\n",
        "config": "AccountingStorageType   = accounting_storage/slurmdbd\nClusterName             = h100\n"
        "JobRequeue              = 0\nPreemptMode             = REQUEUE\nPreemptType             = preempt/qos\n"
        "TopologyPlugin          = topology/tree\n",
        "accounts": "nlp\nvision\nnlp\n",
        "qos": "normal|1-00:00:00||gres/gpu=64|\nurgent|04:00:00|node=2||gres/gpu=128\n",
    },
    # One host with two types, a MIG slice, a partition that is down
    "25.05": {
        "version": "slurm 25.05.1",
        "sinfo": "mixed|1|64|512000|gpu:l40s:4(S:0),gpu:l4:2(S:1),nvme:1\n"
        "slices|2|64|512000|gpu:nvidia_a100_1g.10gb:28(S:0-1)\n",
        "partition": "PartitionName=mixed AllowAccounts=ALL Default=YES QoS=N/A MaxNodes=UNLIMITED"
        " MaxTime=1-00:00:00 Topology=default PreemptMode=OFF State=UP\n"
        "PartitionName=slices Default=NO MaxTime=1-00:00:00 MaxNodes=UNLIMITED PreemptMode=OFF State=DRAIN\n",
        "config": "AccountingStorageType   = accounting_storage/slurmdbd\nClusterName             = small\n"
        "JobRequeue              = 1\nPreemptMode             = OFF\nPreemptType             = preempt/none\n"
        "TopologyPlugin          = topology/flat\n",
        "accounts": "lab\n",
        "qos": "normal||||\n",
    },
}


def slurm(release: str) -> Slurm:
    """The facts of one of SLURM."""
    said = SLURM[release]
    config = output.config(said["config"])
    return Slurm(
        name=config["ClusterName"],
        version=output.version(said["version"]),
        hosts=tuple(output.hosts(said["sinfo"])),
        partitions=tuple(output.partitions(said["partition"])),
        accounts=tuple(output.accounts(said.get("accounts", ""))),
        qos=tuple(output.qos(said.get("qos", ""))),
        accounting=config["AccountingStorageType"].endswith("slurmdbd"),
        preempt_type=config["PreemptType"],
        preempt_mode=config["PreemptMode"],
        requeue=config["JobRequeue"] == "1",
        topology=config["TopologyPlugin"],
        containers=(("pyxis", "srun has --container-image"),) if release == "23.11" else (),
    )


Object = dict[str, Any]


def node(labels: Object, taints: tuple[Object, ...] = (), **amounts: str) -> Object:
    """A node with `amounts` allocatable; `__` in a name stands for `/`, `_` for `.` before it."""
    named = {
        ("/".join((n.partition("__")[0].replace("_", "."), n.partition("__")[2])) if "__" in n else n): amount
        for n, amount in amounts.items()
    }
    held = {"pods": "110", "ephemeral-storage": "95551679124", "hugepages-2Mi": "0", **named}
    return {"metadata": {"labels": labels}, "spec": {"taints": list(taints)}, "status": {"allocatable": held}}


GPU_TAINT = {"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}
_H100 = {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3", "nvidia.com/gpu.memory": "81559"}
CLOUDS: dict[str, list[Object]] = {
    "aws": [
        node(
            {
                **_H100,
                "node.kubernetes.io/instance-type": "p5.48xlarge",
                "topology.k8s.aws/network-node-layer-3": f"nn-{n}",
            },
            cpu="191450m",
            memory="2089Gi",
            nvidia_com__gpu="8",
            vpc_amazonaws_com__efa="32",
        )
        for n in range(4)
    ],
    "gcp": [
        node(
            {
                "cloud.google.com/gke-accelerator": "nvidia-h100-mega-80gb",
                "node.kubernetes.io/instance-type": "a3-megagpu-8g",
                "cloud.google.com/gce-topology-block": "b1",
            },
            (GPU_TAINT,),
            cpu="206",
            memory="1800Gi",
            nvidia_com__gpu="8",
        )
    ],
    "azure": [
        node(
            {
                "nvidia.com/gpu.product": "NVIDIA-H200",
                "node.kubernetes.io/instance-type": "Standard_ND96isr_H200_v5",
                "ib/torset": "t1",
            },
            ({"key": "sku", "value": "gpu", "effect": "NoSchedule"},),
            cpu="95",
            memory="1850Gi",
            nvidia_com__gpu="8",
            rdma__ib="8",
        )
    ],
    "oci": [
        node(
            {
                "nvidia.com/gpu.product": "NVIDIA-A100-SXM4-80GB",
                "node.kubernetes.io/instance-type": "BM.GPU.A100-v2.8",
                "oci.oraclecloud.com/rdma.local_block_id": "x",
            },
            (GPU_TAINT,),
            cpu="255",
            memory="1980Gi",
            nvidia_com__gpu="8",
            **{"nvidia_com__rdma-vf": "16"},
        ),
        node({"node.kubernetes.io/instance-type": "VM.Standard.E5.Flex"}, cpu="15", memory="60Gi"),
    ],
    "coreweave": [
        node(
            {
                "nvidia.com/gpu.product": "NVIDIA-GB200",
                "node.kubernetes.io/instance-type": "gb200-4x",
                "nvidia.com/gpu.clique": "c.1",
                "kubernetes.io/arch": "arm64",
            },
            cpu="143",
            memory="900Gi",
            nvidia_com__gpu="4",
            rdma__ib="1",
        ),
        node(
            {**_H100, "node.kubernetes.io/instance-type": "gd-8xh100ib-i128"},
            cpu="126",
            memory="1900Gi",
            nvidia_com__gpu="8",
            rdma__ib="1",
        ),
    ],
}
_KUEUE = {"name": "kueue.x-k8s.io", "versions": [{"groupVersion": "kueue.x-k8s.io/v1beta2"}]}
_GROUPS = {
    "batch": "batch/v1",
    "jobset": "jobset.x-k8s.io/v1alpha2",
    "mpi": "kubeflow.org/v2beta1",
    "volcano": "scheduling.volcano.sh/v1beta1",
}


class Answers(api.Server):
    """A server that says what a test gives it, and refuses the paths that it lacks; it allows all but `denied`."""

    def __init__(self, answers: Object, denied: tuple[str, ...] = ()) -> None:
        self.answers, self.denied, self.context, self.namespace = answers, denied, "prod", "nlp"

    def call(
        self, method: str, path: str, body: Any = None, content: str = "", **query: Any
    ) -> tuple[Object, list[str]]:
        if path.endswith("/selfsubjectaccessreviews"):
            asked = body["spec"]["resourceAttributes"]
            return {"status": {"allowed": f"{asked['verb']} {asked['resource']}" not in self.denied}}, []
        if path not in self.answers:
            raise api.Refusal(403, "Forbidden", Problem(f"the API server refused (403): cannot list {path}"))
        return self.answers[path], []


def server(cloud: str) -> Answers:
    """The API server of one of CLOUDS; GCP's user may not see nodes, and lacks a right."""
    kueue = {"coreweave": [], "aws": [_KUEUE | {"preferredVersion": _KUEUE["versions"][0]}]}
    installed = {"aws": ("batch", "jobset"), "azure": ("batch", "volcano"), "oci": ("batch", "mpi")}
    groups = [
        {"name": api_.partition("/")[0], "versions": [{"groupVersion": api_}]}
        for name, api_ in _GROUPS.items()
        if name in installed.get(cloud, ("batch",))
    ]
    claim = {"spec": {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "10Ti"}}}}
    own = {"spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Ti"}}}}
    core = "/api/v1/namespaces/nlp"
    found: Object = {
        "/version": {"gitVersion": "v1.34.1"},
        core: {
            "metadata": {
                "labels": {"pod-security.kubernetes.io/enforce": "restricted"} if cloud == "aws" else {}
            }
        },
        "/apis": {"groups": groups + kueue.get(cloud, [])},
        "/apis/kueue.x-k8s.io/v1beta2/namespaces/nlp/localqueues": {
            "items": [{"metadata": {"name": "research"}}]
        },
        "/apis/storage.k8s.io/v1/storageclasses": {
            "items": [{"metadata": {"name": "efs"}, "provisioner": "efs.csi.aws.com"}]
            if cloud == "aws"
            else []
        },
        f"{core}/persistentvolumeclaims": {
            "items": [{"metadata": {"name": "runs"}, **claim}, {"metadata": {"name": "home"}, **own}]
            if cloud in {"aws", "oci"}
            else []
        },
        f"{core}/resourcequotas": {
            "items": [
                {
                    "status": {
                        "hard": {"requests.nvidia.com/gpu": "16"},
                        "used": {"requests.nvidia.com/gpu": "8"},
                    }
                }
            ]
            if cloud == "azure"
            else []
        },
    }
    if cloud != "gcp-user":
        found["/api/v1/nodes"] = {"items": CLOUDS[cloud]}
    return Answers(found, ("create jobs",) if cloud == "gcp-user" else ())


@functools.cache
def rendered() -> dict[str, str]:
    """File name → cluster file of every answer above."""
    made = {f"slurm-{release}.yaml": cluster_file.of_slurm(slurm(release)) for release in SLURM}
    made["slurm-23.11-gpu.yaml"] = cluster_file.of_slurm(slurm("23.11"), "gpu")
    made["slurm-half.yaml"] = cluster_file.of_slurm(
        Slurm("", "", slurm("23.11").hosts, lacks=(Lack("accounts", "sacctmgr: not running", "`sacctmgr`"),))
    )
    for cloud in (*CLOUDS, "gcp-user"):
        made[f"kubernetes-{cloud}.yaml"] = cluster_file.of_kubernetes(kubernetes.look(server(cloud), "nlp"))
    gpu = (("a100-80gb", "NVIDIA A100-SXM4-80GB", 8),)
    machine = Machine(cpus=128, memory=2**40, cpu_level="x86-64-v4", cards=gpu, disks=(("/tmp", 2**40),))
    made["local-gpus.yaml"] = cluster_file.of_machine(machine._replace(containers=("docker",)))
    two = (*gpu, ("{name: x, memory: 8.0GiB, capability: 8.6}", "NVIDIA X", 1))
    made["local-two-kinds.yaml"] = cluster_file.of_machine(machine._replace(cards=two))
    made["local-cpu.yaml"] = cluster_file.of_machine(machine._replace(cards=(), disks=()))
    return made
