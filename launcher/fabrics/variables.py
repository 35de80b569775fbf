"""The names that NCCL, PyTorch and gloo read from the environment, and what is known of some.

Owns the lists and rules; `launcher.fabrics.lint` applies them.

NCCL's names are those of its user guide as of 2.32
(https://github.com/NVIDIA/nccl/blob/0186f08dfbceff4e54d8250c005f6e89fdf666f6/docs/userguide/source/env.rst), in
its two sections, and those that its library 2.29.7 reads besides. The latter come from the PyPI wheel
nvidia-nccl-cu13 2.29.7, `strings -n 6 libnccl.so.2 | grep -x 'NCCL_[A-Z0-9_]*'`, without the names of log levels,
log subsystems and enumerations. PyTorch's are in ProcessGroupNCCL.hpp and libtorch of 2.13.
"""

from __future__ import annotations

_GUIDE = "https://docs.nvidia.com/deeplearning/nccl/user-guide/docs/env.html"


def _names(prefix: str, words: str) -> frozenset[str]:
    return frozenset(prefix + word for word in words.split())


SYSTEM = _names(
    "NCCL_",
    """
    COLLNET_ENABLE COLLNET_NODE_THRESHOLD CONF_FILE CROSS_NIC CTA_POLICY DEBUG DEBUG_FILE DEBUG_LEVELS
    DEBUG_SUBSYS DEBUG_TIMESTAMP_FORMAT DEBUG_TIMESTAMP_LEVELS ENV_PLUGIN GIN_PLUGIN IB_ADDR_FAMILY
    IB_ADDR_RANGE IB_EVENT_BASED_LB IB_FIFO_TC IB_GID_INDEX IB_HCA IB_PKEY IB_PKEY_VALUE IB_RAIL_POLICY
    IB_RETRY_CNT IB_RETURN_ASYNC_EVENTS IB_ROCE_VERSION_NUM IB_SL IB_TC IB_TIMEOUT IGNORE_CPU_AFFINITY
    MULTI_RANK_GPU_ENABLE NET NETDEVS_POLICY NET_PLUGIN NSOCKS_PERTHREAD OOB_NET_ENABLE OOB_NET_IFNAME
    PROFILER_PLUGIN PSK RMA_PLUGIN SET_THREAD_NAME SOCKET_FAMILY SOCKET_IFNAME SOCKET_MAGIC SOCKET_NTHREADS
    SOCKET_POLL_TIMEOUT_MSEC SOCKET_RETRY_CNT SOCKET_RETRY_SLEEP_MSEC TOPO_DUMP_FILE TOPO_FILE TUNER_PLUGIN
    UID_STAGGER_RATE UID_STAGGER_THRESHOLD
    """,
)

# The guide's section "Debugging": fine for experiments, but NCCL then no longer chooses by itself.
EXPERIMENTS = _names(
    "NCCL_",
    """
    ALGO ALLOC_P2P_NET_LL_BUFFERS BUFFSIZE CGA_CLUSTER_SIZE CHECK_MODE CHECK_POINTERS COMM_BLOCKING
    CUMEM_ENABLE CUMEM_HOST_ENABLE DMABUF_ENABLE GDRCOPY_ENABLE GDRCOPY_FIFO_ENABLE GDRCOPY_FLUSH_ENABLE
    GDRCOPY_SYNC_ENABLE GRAPH_MIXING_SUPPORT GRAPH_REGISTER GRAPH_STREAM_ORDERING IB_ADAPTIVE_ROUTING
    IB_AR_THRESHOLD IB_DISABLE IB_ECE_ENABLE IB_MERGE_NICS IB_OOO_RQ IB_PCI_RELAXED_ORDERING
    IB_QPS_PER_CONNECTION IB_SPLIT_DATA_ON_QPS IGNORE_COLLNET_MISMATCH IGNORE_NET_MISMATCH
    IPC_USE_ABSTRACT_SOCKET LAUNCH_MODE LAUNCH_ORDER_IMPLICIT LAUNCH_RACE_FATAL LEGACY_CUDA_REGISTER
    LOCAL_REGISTER MAX_CTAS MAX_NCHANNELS MEM_SYNC_DOMAIN MIN_CTAS MIN_NCHANNELS MNNVL_CLIQUE_ID
    MNNVL_ENABLE MNNVL_UUID NET_GDR_C2C NET_GDR_LEVEL NET_GDR_READ NET_MERGE_POLICY NET_SHARED_BUFFERS
    NET_SHARED_COMMS NTHREADS NVB_DISABLE NVLS_ENABLE P2P_DIRECT_DISABLE P2P_DISABLE P2P_LEVEL
    P2P_LL_THRESHOLD P2P_NET_CHUNKSIZE P2P_PXN_LEVEL PROTO PXN_C2C PXN_DISABLE RAS_ADDR RAS_ENABLE
    RAS_TIMEOUT_FACTOR RMA_EAGER_INIT RUNTIME_CONNECT SET_STACK_SIZE SHM_DISABLE SYM_GIN_KERNELS_ENABLE
    WIN_ENABLE
    """,
)

_UNDOCUMENTED = _names(
    "NCCL_",
    """
    ALLGATHERV_ENABLE CHUNK_SIZE COMM_ID COMM_SHRINK_SHARE_RESOURCES COMM_SPLIT_SHARE_RESOURCES
    CONNECT_ROUND_MAX_PEERS CREATE_THREAD_CONTEXT DISABLE_MEM_MANAGER ENABLE_VERSION_CHECK
    GDAKI_USE_RELIABLE_DB GDR_FLUSH_DISABLE GIN_COUNTER_POOL_SIZE GIN_ENABLE GIN_ERROR_QUERY_SEC
    GIN_EXCLUSIVE_CONTEXTS GIN_GDAKI_NIC_HANDLER GIN_GDAKI_QP_DEPTH GIN_NCONNECTIONS GIN_NCONTEXTS
    GIN_PROXY_QUEUE_SIZE GIN_SIGNAL_POOL_SIZE GIN_TYPE GRAPH_DUMP_FILE GRAPH_DUMP_FILE_RANK GRAPH_FILE
    GRAPH_HELPER_DISABLE GROUP_CUDA_STREAM HOSTID IB_DATA_DIRECT IB_DEVICE_PCI_ORDER IB_MERGE_VFS
    IB_MQP_RETRY_ALL IB_MQP_RETRY_CNT IB_MQP_RETRY_SLEEP_MSEC IB_PREPOST_RECEIVE_WORK_REQUESTS
    IB_RECEIVER_SIDE_MATCHING_SCHEME IB_RESILIENCY_PORT_FAILOVER IB_RESILIENCY_PORT_FAILOVER_MAX_ATTEMPTS
    IB_RESILIENCY_PORT_FAILOVER_PROBE_DELAY IB_ROUTABLE_FLID_GID_INDEX IB_USE_INLINE IB_WARN_RAIL_LOCAL
    IGNORE_DISABLED_P2P L1_SHARED_MEMORY_CARVEOUT LL128_BUFFSIZE LL128_C2C LL128_NTHREADS LL_BUFFSIZE
    LSA_TEAM_SIZE MAX_P2P_NCHANNELS MIN_P2P_NCHANNELS MNNVL_RAIL_PER_HOST MNNVL_SCATTER_NETS_ENABLE
    MULTI_SEGMENT_REGISTER NCHANNELS_PER_NET_PEER NET_DISABLE_INTRA NET_FORCE_FLUSH NET_FORCE_MERGE
    NET_MERGE_LEVEL NET_OPTIONAL_RECV_COMPLETION NET_OVERHEAD NO_CACHE NUM_RMA_CTX NVB_PRECONNECT
    NVLINK_UTIL_CENTRIC_SCHED_ENABLE NVLSTREE_MAX_CHUNKSIZE NVLS_CHUNKSIZE NVLS_NCHANNELS NVTX_DISABLE
    P2P_EPOCH_ENABLE P2P_NVL_CHUNKSIZE P2P_PCI_CHUNKSIZE P2P_PER_CHANNEL_NET_BW P2P_READ_ENABLE
    P2P_SCHEDULE_GROUP_SIZE P2P_USE_CUDA_MEMCPY PAT_ENABLE PROGRESS_APPENDOP_FREQ PROXY_APPEND_BATCH_SIZE
    PROXY_CPUSET PROXY_DUMP_SIGNAL REPORT_CONNECT_PROGRESS RMA_PROXY_DUMP_SIGNAL RMA_PROXY_QUEUE_SIZE
    SET_CPU_STACK_SIZE SHM_LOCALITY SHM_MEMCPY_MODE SHM_USE_CUDA_MEMCPY SINGLE_PROC_MEM_REG_ENABLE
    SOCKET_INLINE SOCKET_MIN_TASKSIZE SOCKET_RCVBUF SOCKET_SNDBUF SYM_CE_THRESHOLD SYM_CTAS SYM_KERNEL
    SYM_NOWIN_ENABLE THREAD_THRESHOLDS TOPO_DUMP_FILE_RANK UNPACK_DOUBLE_NCHANNELS WARN_ENABLE_DEBUG_INFO
    WIN_STRIDE WORK_ARGS_BYTES WORK_FIFO_BYTES
    """,
)

# Read by images and scripts around NCCL, or by its plugins: NVIDIA's CUDA images say NCCL_VERSION.
_AROUND = _names("NCCL_", "VERSION LIB_DIR HOME PLUGIN_PATH DYNAMIC_CHUNK_SIZE TUNER_CONFIG_PATH")
_PLUGINS = ("NCCL_FASTRAK_", "NCCL_GPUDIRECTTCPX_", "NCCL_SHIMNET_", "NCCL_SHARP_", "NCCL_IBEXT_")

_TORCH = _names(
    "TORCH_NCCL_",
    """
    ASYNC_ERROR_HANDLING AVOID_RECORD_STREAMS BCAST_UNIQUEID BLOCKING_WAIT COORD_CHECK_MILSEC
    CUDA_EVENT_CACHE DEBUG_INFO_PIPE_FILE DEBUG_INFO_TEMP_FILE DESYNC_DEBUG DUMP_ON_TIMEOUT ENABLE_MONITORING
    ENABLE_TIMING EXTRA_DUMP_ON_EXEC HEARTBEAT_TIMEOUT_SEC HIGH_PRIORITY
    LOG_CPP_STACK_ON_UNCLEAN_SHUTDOWN NAN_CHECK PROPAGATE_ERROR RANKS_PER_ROOT RETHROW_CUDA_ERRORS
    SHOW_EAGER_INIT_P2P_SERIALIZATION_WARNING TRACE_BUFFER_SIZE TRACE_CPP_STACK
    USE_COMM_NONBLOCKING USE_TENSOR_REGISTER_ALLOCATOR_HOOK WAIT_TIMEOUT_DUMP_MILSEC
    """,
)
_GLOO = _names(
    "GLOO_",
    "DEVICE_TRANSPORT DISABLE_CONNECTION_RETRIES ENABLE_RANK_AS_SEQUENCE_NUMBER ENABLE_STORE_V2_API LOG_LEVEL "
    "SOCKET_IFNAME",
)

# Complete enough for a name outside them to be a mistake. libfabric's FI_* are too many and too open.
KNOWN = {"TORCH_NCCL_": _TORCH, "NCCL_": SYSTEM | EXPERIMENTS | _UNDOCUMENTED | _AROUND, "GLOO_": _GLOO}


def is_known(name: str) -> bool:
    """Whether something reads `name`. True too for names of families that are not listed here."""
    if name in OLD or name.startswith(_PLUGINS):
        return True
    family = next((prefix for prefix in KNOWN if name.startswith(prefix)), None)
    return family is None or name in KNOWN[family]


# Names that are read no longer, or only for old scripts: what to do instead.
OLD = {
    "NCCL_ASYNC_ERROR_HANDLING": "use TORCH_NCCL_ASYNC_ERROR_HANDLING, or nothing: the default is right",
    "NCCL_BLOCKING_WAIT": "use TORCH_NCCL_BLOCKING_WAIT",
    "NCCL_DESYNC_DEBUG": "use TORCH_NCCL_DESYNC_DEBUG",
    "NCCL_ENABLE_TIMING": "use TORCH_NCCL_ENABLE_TIMING",
    "NCCL_USE_TENSOR_REGISTER_ALLOCATOR_HOOK": "use TORCH_NCCL_USE_TENSOR_REGISTER_ALLOCATOR_HOOK",
    "NCCL_CHECKS_DISABLE": "NCCL has not read it since 2.2.12",
    "NCCL_IB_CUDA_SUPPORT": "gone in NCCL 2.4; NCCL_NET_GDR_LEVEL took its place",
    "NCCL_IB_GDR_LEVEL": "renamed in NCCL 2.4: NCCL_NET_GDR_LEVEL",
    "NCCL_LL_THRESHOLD": "gone in NCCL 2.5",
    "NCCL_MAX_NRINGS": "renamed: NCCL_MAX_CTAS",
    "NCCL_MIN_NRINGS": "renamed: NCCL_MIN_CTAS",
    "NCCL_SINGLE_RING_THRESHOLD": "gone in NCCL 2.3",
    "NCCL_TREE_THRESHOLD": "gone in NCCL 2.5",
}

_RANK = "the node entry gives each rank its own"
_HOST = "the scheduler numbers the hosts with it"
# No job can give these a value, and why. DeepSpeed's per-node launcher sets the first for each rank:
# https://github.com/deepspeedai/DeepSpeed/blob/v0.19.8/deepspeed/launcher/launch.py#L174-L215
RESERVED = {
    **dict.fromkeys(("RANK", "LOCAL_RANK", "CROSS_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"), _RANK),
    **dict.fromkeys(("LOCAL_SIZE", "CROSS_SIZE", "MASTER_ADDR", "MASTER_PORT"), _RANK),
    **dict.fromkeys(("SLURM_NODEID", "JOB_COMPLETION_INDEX", "LWS_WORKER_INDEX"), _HOST),
    **dict.fromkeys(("PET_NODE_RANK", "NODE_RANK"), _HOST),
    "CUDA_VISIBLE_DEVICES": "the scheduler chooses a host's GPUs",
    "RUN_DIR": "it is the run's folder",
    "DEEPSPEED_CONFIG": "it is the configuration that `deepspeed:` makes",
}

# A variable, the values that make it harmful in production (in capitals), why, and who says so.
HARMFUL: dict[str, tuple[frozenset[str], str, str]] = {
    name: (frozenset(values.split()), why, source)
    for name, values, why, source in (
        ("NCCL_DEBUG", "TRACE", "writes a line for every call; use WARN, or INFO for a short run", _GUIDE),
        ("NCCL_P2P_DISABLE", "1", "turns NVLink and PCIe copies between GPUs off", _GUIDE),
        ("NCCL_P2P_LEVEL", "LOC 0", "turns NVLink and PCIe copies between GPUs off", _GUIDE),
        ("NCCL_P2P_DIRECT_DISABLE", "1", "forbids direct access to buffers of other GPUs", _GUIDE),
        ("NCCL_SHM_DISABLE", "1", "sends traffic inside a host over the network", _GUIDE),
        ("NCCL_NVB_DISABLE", "1", "turns NVLink routes over a third GPU off", _GUIDE),
        (
            "NCCL_NET_GDR_LEVEL",
            "LOC 0",
            "turns GPUDirect RDMA off: all traffic goes through host memory",
            _GUIDE,
        ),
        ("NCCL_RAS_ENABLE", "0", "turns NCCL's own health queries off", _GUIDE),
        (
            "TORCH_DISTRIBUTED_DEBUG",
            "DETAIL",
            "checks every collective on all ranks first, which is slow",
            "https://docs.pytorch.org/docs/stable/distributed.html#torch-distributed-debug",
        ),
        (
            "TORCH_NCCL_ASYNC_ERROR_HANDLING",
            "0",
            "a rank whose collective fails then waits for ever instead of ending the job",
            "https://docs.pytorch.org/docs/stable/torch_nccl_environment_variables.html",
        ),
        (
            "CUDA_LAUNCH_BLOCKING",
            "1",
            "runs one kernel at a time, for debugging only",
            "https://docs.nvidia.com/cuda/cuda-c-programming-guide/#cuda-environment-variables",
        ),
    )
}
