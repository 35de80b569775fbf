# The image of the workload serve: vLLM's own, with the node entry and the workloads of this folder. vLLM pins its torch
# to the last digit, so it cannot be in the other images.
#
#   docker build -f docker/serve.Dockerfile -t registry.example.com/vllm-serve:0.33.0 docker
# Its images are tagged v and the release. v0.32.0 was seen in use by others; this tag was not (README.md).
ARG VLLM_IMAGE=vllm/vllm-openai:v0.33.0
FROM ${VLLM_IMAGE}
# Where launcher/rendering/containers.py looks for Python.
RUN [ -x /opt/venv/bin/python ] || { install -d /opt/venv/bin; ln -s "$(command -v python3)" /opt/venv/bin/python; }
ENV PYTHONPATH=/opt/job PYTHONUNBUFFERED=1 HOME=/tmp USER=serve HF_HOME=/tmp/cache/huggingface \
    VLLM_CACHE_ROOT=/tmp/cache/vllm
COPY --chmod=755 *.py exit_codes.json limits.json frames.json /opt/job/
COPY --chmod=755 workloads /opt/job/workloads
USER 10001:10001
WORKDIR /tmp
ENTRYPOINT []
CMD ["vllm", "--version"]
