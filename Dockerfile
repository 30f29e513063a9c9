# An image with dss_jax, for a GPU, a TPU VM or a CPU.
#
#   docker build --build-arg EXTRA=gpu -t dss_jax:gpu .     # or tpu, cpu
#   docker run --rm --gpus all -v "$PWD:/work" dss_jax:gpu train ...
#   sudo docker run --rm --privileged --net=host --user=root -v "$PWD:/work" dss_jax:tpu train ...
#
# The last is for a TPU VM, whose devices belong to root.
#
# CUDA comes with pip's wheels: the host needs the driver (580 or later) and NVIDIA's container
# toolkit alone. Dependencies are those of requirements-hashed.txt, checked by their SHA-256; what the
# device adds (CUDA's libraries, libtpu) is of the version that jax asks for.
FROM python:3.11-slim-bookworm

ARG EXTRA=gpu
ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PYTHONDONTWRITEBYTECODE=1

WORKDIR /src
COPY requirements.txt requirements-hashed.txt ./
RUN python -m pip install --require-hashes --no-deps --requirement requirements-hashed.txt

COPY setup.py pyproject.toml README.md LICENSE ./
COPY dss_jax dss_jax
COPY gin gin
COPY launch launch
COPY tasks tasks
RUN case "$EXTRA" in \
      gpu|tpu) python -m pip install --constraint requirements.txt ".[$EXTRA,teacher,report]" ;; \
      cpu) python -m pip install --constraint requirements.txt ".[teacher,report]" ;; \
      *) echo "EXTRA is gpu, tpu or cpu, not $EXTRA" >&2; exit 2 ;; \
    esac \
    && useradd --create-home --uid 1000 dss \
    && mkdir /work \
    && chown dss /work

USER 1000
WORKDIR /work
ENTRYPOINT ["dss"]
CMD ["--help"]
