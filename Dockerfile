# docker build -t medseg .                                                        on a plain Python base
# docker build -t medseg --build-arg BASE=nvidia/cuda:12.6.3-runtime-ubuntu24.04 . on a CUDA base
# docker run --rm --user "$(id -u):$(id -g)" -v "$PWD":/data medseg run pipelines/ct_lung.yaml     results are yours
# A smaller image without CUDA: --build-arg TORCH_OPTIONS="--index-url ADDRESS" with the PyTorch project's CPU index.
ARG BASE=python:3.11-slim-bookworm
FROM ${BASE}

# A CUDA base has no Python of its own; the Python base has it already.
RUN command -v python3 >/dev/null || \
    (apt-get update && apt-get install -y --no-install-recommends python3 python3-venv && rm -rf /var/lib/apt/lists/*)

ARG TORCH_OPTIONS=""
ENV VIRTUAL_ENV=/opt/medseg PATH=/opt/medseg/bin:$PATH PIP_NO_CACHE_DIR=1 PYTHONDONTWRITEBYTECODE=1 \
    MLFLOW_DISABLE_TELEMETRY=true MPLCONFIGDIR=/tmp/matplotlib NUMBA_CACHE_DIR=/tmp
RUN python3 -m venv $VIRTUAL_ENV && pip install "torch>=2.8,<2.14" ${TORCH_OPTIONS}

COPY pyproject.toml README.md LICENSE /src/
COPY medseg /src/medseg
COPY pipelines /src/pipelines
COPY configs /src/configs
COPY data_manifests /src/data_manifests
RUN pip install /src && rm -rf /src

# Any user id works, also one without a name or a home: nothing is written outside the run folder and /tmp.
ENV HOME=/tmp LOGNAME=medseg
RUN useradd --create-home --uid 10001 medseg
USER medseg
WORKDIR /data
ENTRYPOINT ["medseg"]
CMD ["--help"]
