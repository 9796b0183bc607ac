# syntax=docker/dockerfile:1
# The command `igerg` in an image, for CPUs, NVIDIA GPUs or TPUs:
#
#   docker build -t igerg .                              # CPU
#   docker build -t igerg:gpu --build-arg DEVICE=gpu .   # docker run --gpus=all …
#   docker build -t igerg:tpu --build-arg DEVICE=tpu .   # on a TPU VM: --privileged --network=host
#
# docs/docker.md says how to run it.
FROM python:3.12-slim-bookworm

# cpu, gpu or tpu: the pinned packages for it are in requirements-DEVICE.txt.
ARG DEVICE=cpu
SHELL ["/bin/bash", "-o", "pipefail", "-c"]

# First what changes rarely: another commit of the code does not install the packages again.
WORKDIR /opt/igerg_jax
COPY requirements.txt requirements-demo.txt requirements-gcs.txt requirements-gpu.txt \
    requirements-tpu.txt ./
RUN pip install --no-cache-dir -r requirements.txt -r requirements-demo.txt -r requirements-gcs.txt
RUN case "$DEVICE" in \
        cpu) ;; \
        gpu | tpu) pip install --no-cache-dir -r "requirements-$DEVICE.txt" -c requirements.txt ;; \
        *) echo "DEVICE=$DEVICE is not cpu, gpu or tpu" >&2; exit 2 ;; \
    esac

COPY . .
RUN pip install --no-cache-dir --no-deps . \
    && useradd --create-home --home-dir /igerg --uid 1000 igerg

# Runs are written to /igerg/runs; data and compiled programs are kept in /igerg/.cache.
USER 1000
ENV HOME=/igerg
WORKDIR /igerg
ENTRYPOINT ["igerg"]
CMD ["--help"]
