# An image with dss_jax, for a GPU, a TPU VM or a CPU.
#
#   docker build --build-arg EXTRA=gpu -t dss_jax:gpu .     # or tpu, cpu
#   docker run --rm --gpus all -v "$PWD:/work" dss_jax:gpu train ...
#   sudo docker run --rm --privileged --net=host --user=root -v "$PWD:/work" dss_jax:tpu train ...
#
# The last is for a TPU VM, whose devices belong to root.
#
# CUDA comes with pip's wheels: the host needs the driver (580 or later) and NVIDIA's container
# toolkit alone. All that pip installs, what builds the package included, is pinned and checked by its
# SHA-256: `make lock` writes these files.
FROM python:3.11-slim-bookworm

ARG EXTRA=gpu
ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PYTHONDONTWRITEBYTECODE=1

WORKDIR /src
COPY requirements-hashed.txt requirements-image.txt requirements-gpu.txt requirements-tpu.txt ./
RUN case "$EXTRA" in \
      gpu|tpu) set -- --requirement "requirements-$EXTRA.txt" ;; \
      cpu) ;; \
      *) echo "EXTRA is gpu, tpu or cpu, not $EXTRA" >&2; exit 2 ;; \
    esac \
    && python -m pip install --require-hashes --no-deps --requirement requirements-image.txt "$@" \
    && python -m pip install --require-hashes --no-deps --no-build-isolation \
      --requirement requirements-hashed.txt

COPY setup.py pyproject.toml README.md LICENSE ./
COPY dss_jax dss_jax
COPY gin gin
COPY launch launch
COPY tasks tasks
RUN python -m pip install --no-deps --no-build-isolation --no-index . \
    && useradd --create-home --uid 1000 dss \
    && mkdir /work \
    && chown dss /work

USER 1000
WORKDIR /work
ENTRYPOINT ["dss"]
CMD ["--help"]
