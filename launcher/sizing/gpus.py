"""What each GPU type has: memory, peak arithmetic, and how fast it reaches memory, its neighbours and its host.

Owns the figures; leaves what a job makes of them to traffic.py and ladder.py.

    gpus.GPUS["h100-80gb"].memory -> bytes that torch.cuda reports as the device's total

A peak is the data sheet's dense rate of the 16-bit tensor cores with fp32 accumulation (half of a figure marked
"with sparsity"); a link's rate is one direction, half of the sheet's total. Memory is what CUDA error messages
show as the total capacity where one was at hand, else the sheet's decimal gigabytes, which is less.
"""

from __future__ import annotations

from typing import NamedTuple

_GIB = 2**30
_GB = 10**9
_TERA = 10**12


class Gpu(NamedTuple):
    """Bytes, floating point operations a second, and bytes a second."""

    name: str  # as nvidia-smi begins it
    memory: int
    flops: int  # dense, bf16 (fp16 where there is no bf16)
    bandwidth: int  # of its memory
    link: int  # to the other GPUs of its host, one direction: NVLink, or PCIe where there is none
    host: int  # to its host's memory, one direction
    capability: tuple[int, int]  # CUDA compute capability
    source: str


GPUS: dict[str, Gpu] = {
    "v100-16gb": Gpu(
        "Tesla V100",
        16 * _GB,
        125 * _TERA,
        900 * _GB,
        150 * _GB,
        16 * _GB,
        (7, 0),
        "https://images.nvidia.com/content/technologies/volta/pdf/volta-v100-datasheet-update-us-1165301-r5.pdf",
    ),
    "v100-32gb": Gpu(
        "Tesla V100",
        int(31.74 * _GIB),
        125 * _TERA,
        900 * _GB,
        150 * _GB,
        16 * _GB,
        (7, 0),
        "https://images.nvidia.com/content/technologies/volta/pdf/volta-v100-datasheet-update-us-1165301-r5.pdf",
    ),
    "a100-40gb": Gpu(
        "NVIDIA A100",
        int(39.39 * _GIB),
        312 * _TERA,
        1555 * _GB,
        300 * _GB,
        32 * _GB,
        (8, 0),
        "https://www.nvidia.com/content/dam/en-zz/Solutions/Data-Center/a100/pdf/nvidia-a100-datasheet-us-nvidia-1758950-r4-web.pdf",
    ),
    "a100-80gb": Gpu(
        "NVIDIA A100",
        int(79.15 * _GIB),
        312 * _TERA,
        2039 * _GB,
        300 * _GB,
        32 * _GB,
        (8, 0),
        "https://www.nvidia.com/content/dam/en-zz/Solutions/Data-Center/a100/pdf/nvidia-a100-datasheet-us-nvidia-1758950-r4-web.pdf",
    ),
    "a10g-24gb": Gpu(
        "NVIDIA A10G",
        int(22.0 * _GIB),
        70 * _TERA,
        600 * _GB,
        32 * _GB,
        32 * _GB,
        (8, 6),
        "https://d1.awsstatic.com/product-marketing/ec2/NVIDIA_AWS_A10G_DataSheet_FINAL_02_17_2022.pdf",
    ),
    "rtx4090-24gb": Gpu(
        "NVIDIA GeForce RTX 4090",
        int(23.52 * _GIB),
        165 * _TERA,
        1008 * _GB,
        32 * _GB,
        32 * _GB,
        (8, 9),
        "https://images.nvidia.com/aem-dam/Solutions/geforce/ada/nvidia-ada-gpu-architecture.pdf",
    ),
    "l4-24gb": Gpu(
        "NVIDIA L4",
        int(22.0 * _GIB),
        121 * _TERA,
        300 * _GB,
        32 * _GB,
        32 * _GB,
        (8, 9),
        "https://resources.nvidia.com/en-us-data-center-overview/l4-gpu-datasheet",
    ),
    "l40s-48gb": Gpu(
        "NVIDIA L40S",
        int(44.5 * _GIB),
        362 * _TERA,
        864 * _GB,
        32 * _GB,
        32 * _GB,
        (8, 9),
        "https://resources.nvidia.com/en-us-l40s/l40s-datasheet-28413",
    ),
    "h100-80gb": Gpu(
        "NVIDIA H100",
        int(79.11 * _GIB),
        989 * _TERA,
        3350 * _GB,
        450 * _GB,
        64 * _GB,
        (9, 0),
        "https://resources.nvidia.com/en-us-tensor-core/nvidia-tensor-core-gpu-datasheet",
    ),
    "h200-141gb": Gpu(
        "NVIDIA H200",
        141 * _GB,
        989 * _TERA,
        4800 * _GB,
        450 * _GB,
        64 * _GB,
        (9, 0),
        "https://resources.nvidia.com/en-us-gpu-resources/hpc-datasheet-sc23",
    ),
    "b200-180gb": Gpu(
        "NVIDIA B200",
        180 * _GB,
        2250 * _TERA,
        8000 * _GB,
        900 * _GB,
        64 * _GB,
        (10, 0),
        "https://resources.nvidia.com/en-us-dgx-systems/dgx-b200-datasheet",
    ),
    "gb200-186gb": Gpu(
        "NVIDIA GB200",
        186 * _GB,
        2500 * _TERA,
        8000 * _GB,
        900 * _GB,
        225 * _GB,  # NVLink-C2C: 900 GB/s both ways for the two GPUs of a superchip
        (10, 0),
        "https://www.nvidia.com/en-us/data-center/gb200-nvl72/",
    ),
}
