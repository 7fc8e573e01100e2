# Images that run tiers: a job's `container:`, or the base of a self-hosted runner (docs/gpu-runners.md).
#
#   docker build --target cpu  --tag ml-tests:cpu .
#   docker build --target cuda --tag ml-tests:cuda --build-arg TORCH="torch==2.8.0" .
#
# Your own project goes on top: `FROM ml-tests:cuda`, then `RUN python -m pip install -r requirements.txt`.
ARG CPU_BASE=docker.io/library/debian:bookworm-20250520-slim
# torch's wheels bring their own CUDA libraries; of the base only the driver's hooks are needed. NVIDIA keeps its tags.
ARG CUDA_BASE=docker.io/nvidia/cuda:12.8.1-base-ubuntu24.04

# The two wheels, which are pure Python: they fit whatever Python the other stages have.
FROM ${CPU_BASE} AS wheels
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates python3 python3-venv \
    && rm -rf /var/lib/apt/lists/* \
    && python3 -m venv /build
COPY . /source
RUN /build/bin/python -m pip wheel --no-cache-dir --no-deps --wheel-dir /wheels /source /source/plugin \
    && cp /source/requirements/action.txt /source/docker/install.sh /wheels/

FROM ${CPU_BASE} AS cpu
# What `pip install` is told beside it ("torch==2.8.0"), and the index that has it. Empty: your own image adds torch.
ARG TORCH=""
ARG TORCH_INDEX="https://download.pytorch.org/whl/cpu"
# GitHub's own runners use 1001: what a container job writes into the workspace belongs to whom the next step expects.
ARG RUNNER_UID=1001
COPY --from=wheels /wheels /wheels
RUN sh /wheels/install.sh
ENV PATH=/opt/tests/bin:$PATH PYTHONUNBUFFERED=1
USER runner
WORKDIR /home/runner
# An init process reaps what killed tests leave behind. Actions replaces the entry point of a job's container: there,
# `container: {options: --init}` does it.
ENTRYPOINT ["/usr/bin/tini", "--"]
CMD ["mltiers", "--help"]

FROM ${CUDA_BASE} AS cuda
ARG TORCH=""
ARG TORCH_INDEX="https://download.pytorch.org/whl/cu128"
ARG RUNNER_UID=1001
COPY --from=wheels /wheels /wheels
RUN sh /wheels/install.sh
ENV PATH=/opt/tests/bin:$PATH PYTHONUNBUFFERED=1 NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER runner
WORKDIR /home/runner
ENTRYPOINT ["/usr/bin/tini", "--"]
CMD ["mltiers", "--help"]
