# Three images of one version: operator (study server too), trainer (worker, finalizer) and server.
#
#   docker build --target operator -t ghcr.io/kubeautoml/kubeautoml-operator:0.1.0 .
#   docker build --target trainer  -t ghcr.io/kubeautoml/kubeautoml-trainer:0.1.0 .
#   docker build --target trainer  -t ghcr.io/kubeautoml/kubeautoml-trainer:0.1.0-cuda --build-arg TORCH_VARIANT=cu130 .
#   docker build --target server   -t ghcr.io/kubeautoml/kubeautoml-server:0.1.0 .
#
# With buildah add --format docker: the OCI format has no HEALTHCHECK. `make images` builds and tries all of them.
# Every package is the one that constraints.txt names. --timestamp 1577836800 (docker: SOURCE_DATE_EPOCH, rewrite-timestamp=true) makes
# two builds equal; for that pin PYTHON_IMAGE by digest, too: --build-arg PYTHON_IMAGE=docker.io/library/python:3.11-slim-bookworm@sha256:...

ARG PYTHON_IMAGE=docker.io/library/python:3.11-slim-bookworm
ARG VERSION=0.1.0

# Wheels from a folder in place of an index: --build-context wheels=FOLDER, with --build-arg PIP_NO_INDEX=1 and from nowhere else.
FROM scratch AS wheels

# ------------------------------------------------------------------ what all images stand on
FROM ${PYTHON_IMAGE} AS root
SHELL ["/bin/sh", "-euc"]
# LightGBM needs the OpenMP runtime. Debian's newest security fixes, so no version is named; a digest of PYTHON_IMAGE pins the rest.
# hadolint ignore=DL3008
RUN apt-get update -qq \
    && apt-get upgrade -y -qq \
    && apt-get install -y -qq --no-install-recommends libgomp1 ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && echo 'kubeautoml:x:65532:65532:KubeAutoML:/tmp:/usr/sbin/nologin' >> /etc/passwd \
    && echo 'kubeautoml:x:65532:' >> /etc/group
COPY scripts/slim /tmp/slim
RUN python3 /tmp/slim root

# As one layer: what was removed above takes no room, and no layer below holds it.
FROM scratch AS base
# hadolint ignore=DL3067
COPY --from=root / /
# Some libraries ask for the user's name, which a cluster that chooses its own user ids (OpenShift) has not in /etc/passwd.
ENV PATH=/opt/kubeautoml/bin:/usr/local/bin:/usr/bin:/bin \
    LANG=C.UTF-8 \
    HOME=/tmp \
    USER=kubeautoml \
    LOGNAME=kubeautoml \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    MPLCONFIGDIR=/tmp/matplotlib
WORKDIR /tmp
USER 65532:65532
ENTRYPOINT ["kubeautoml"]

# ------------------------------------------------------------------ the wheel
FROM ${PYTHON_IMAGE} AS build
SHELL ["/bin/sh", "-euc"]
# hadolint ignore=DL3008
RUN apt-get update -qq \
    && apt-get install -y -qq --no-install-recommends binutils \
    && rm -rf /var/lib/apt/lists/*
ARG PIP_NO_INDEX=
ARG PIP_INDEX_URL=
ENV PIP_NO_INDEX=${PIP_NO_INDEX} \
    PIP_INDEX_URL=${PIP_INDEX_URL} \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_ROOT_USER_ACTION=ignore \
    PIP_ONLY_BINARY=:all: \
    PIP_CONSTRAINT=/src/constraints.txt \
    PIP_FIND_LINKS=/wheels \
    PYTHONHASHSEED=0 \
    SOURCE_DATE_EPOCH=1577836800
WORKDIR /src
COPY constraints.txt ./
RUN --mount=type=bind,from=wheels,target=/wheels \
    mkdir -p /wheels \
    && python3 -m venv --without-pip /opt/tools \
    && python3 -m venv --without-pip /opt/kubeautoml \
    && python3 -m pip --python /opt/tools/bin/python install -q cyclonedx-bom
COPY pyproject.toml README.md ./
COPY operator operator
COPY trainer_image trainer_image
RUN --mount=type=bind,from=wheels,target=/wheels \
    python3 -m pip wheel -q --no-deps --wheel-dir /dist .
COPY scripts/slim scripts/sbom /usr/local/bin/

# Each leaves its packages in /opt/kubeautoml, and our own, which change more often, in /opt/own: two layers of the image.
FROM build AS operator-packages
RUN --mount=type=bind,from=wheels,target=/wheels \
    --mount=type=bind,from=root,source=/var/lib/dpkg,target=/dpkg \
    python3 -m pip --python /opt/kubeautoml/bin/python install -q --no-compile "$(echo /dist/*.whl)[operator]" \
    && slim packages /opt/kubeautoml operator \
    && sbom kubeautoml-operator /opt/kubeautoml /dpkg/status /opt/own/usr/share/sbom/kubeautoml-operator.cdx.json \
    && slim own /opt/kubeautoml /opt/own

FROM build AS server-packages
RUN --mount=type=bind,from=wheels,target=/wheels \
    --mount=type=bind,from=root,source=/var/lib/dpkg,target=/dpkg \
    python3 -m pip --python /opt/kubeautoml/bin/python install -q --no-compile "$(echo /dist/*.whl)[serve]" \
    && slim packages /opt/kubeautoml server \
    && sbom kubeautoml-server /opt/kubeautoml /dpkg/status /opt/own/usr/share/sbom/kubeautoml-server.cdx.json \
    && slim own /opt/kubeautoml /opt/own

# A version with +cpu or +cu130 is newer than the one without it, so of two indexes the second one's torch is taken.
FROM build AS trainer-packages
ARG TORCH_VARIANT=cpu
ARG TORCH_INDEX=https://download.pytorch.org/whl
RUN --mount=type=bind,from=wheels,target=/wheels \
    --mount=type=bind,from=root,source=/var/lib/dpkg,target=/dpkg \
    python3 -m pip --python /opt/kubeautoml/bin/python install -q --no-compile \
        --extra-index-url "$TORCH_INDEX/$TORCH_VARIANT" "$(echo /dist/*.whl)[trainer]" \
    && /opt/kubeautoml/bin/python -c 'import sys, torch; sys.exit((torch.version.cuda is None) != (sys.argv[1] == "cpu"))' \
        "$TORCH_VARIANT" \
    && slim packages /opt/kubeautoml trainer \
    && sbom kubeautoml-trainer /opt/kubeautoml /dpkg/status /opt/own/usr/share/sbom/kubeautoml-trainer.cdx.json \
    && slim own /opt/kubeautoml /opt/own

# ------------------------------------------------------------------ the images
FROM base AS operator
COPY --from=operator-packages /opt/kubeautoml /opt/kubeautoml
COPY --from=operator-packages /opt/own /
ARG VERSION
ARG REVISION=unknown
ARG CREATED=1970-01-01T00:00:00Z
LABEL org.opencontainers.image.title="KubeAutoML operator" \
    org.opencontainers.image.description="The operator of KubeAutoML, and its study server." \
    org.opencontainers.image.source="https://github.com/kubeautoml/kubeautoml" \
    org.opencontainers.image.licenses="Apache-2.0" \
    org.opencontainers.image.version="$VERSION" \
    org.opencontainers.image.revision="$REVISION" \
    org.opencontainers.image.created="$CREATED"
EXPOSE 8081 8082
HEALTHCHECK --interval=20s --timeout=3s --start-period=20s \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8082/healthz', timeout=2)"]
CMD ["operator"]

FROM base AS trainer
COPY --from=trainer-packages /opt/kubeautoml /opt/kubeautoml
COPY --from=trainer-packages /opt/own /
ARG VERSION
ARG REVISION=unknown
ARG CREATED=1970-01-01T00:00:00Z
LABEL org.opencontainers.image.title="KubeAutoML trainer" \
    org.opencontainers.image.description="Workers and finalizers of KubeAutoML: they train models." \
    org.opencontainers.image.source="https://github.com/kubeautoml/kubeautoml" \
    org.opencontainers.image.licenses="Apache-2.0" \
    org.opencontainers.image.version="$VERSION" \
    org.opencontainers.image.revision="$REVISION" \
    org.opencontainers.image.created="$CREATED"
# It runs to its end and listens to nobody: there is nothing to ask whether it is well.
HEALTHCHECK NONE
CMD ["--help"]

FROM base AS server
COPY --from=server-packages /opt/kubeautoml /opt/kubeautoml
COPY --from=server-packages /opt/own /
ARG VERSION
ARG REVISION=unknown
ARG CREATED=1970-01-01T00:00:00Z
LABEL org.opencontainers.image.title="KubeAutoML server" \
    org.opencontainers.image.description="Serves models of KubeAutoML over HTTP." \
    org.opencontainers.image.source="https://github.com/kubeautoml/kubeautoml" \
    org.opencontainers.image.licenses="Apache-2.0" \
    org.opencontainers.image.version="$VERSION" \
    org.opencontainers.image.revision="$REVISION" \
    org.opencontainers.image.created="$CREATED"
EXPOSE 8080
HEALTHCHECK --interval=20s --timeout=3s --start-period=60s \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8080/v2/health/live', timeout=2)"]
CMD ["--help"]
