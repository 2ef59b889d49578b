# One image for the operator, the gateway and the collector.
#
# BASE is any Debian-like image with Python 3.11 or newer and its `venv`. The build needs no other image, so it also works
# without an image registry, from a base of one's own (see tests/e2e).
ARG BASE=docker.io/library/python:3.13.9-slim-bookworm

FROM ${BASE} AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /src
COPY requirements-build.lock requirements-operator.lock ./
# Two environments: the tools stay behind in /tools, and what runs goes to /opt/penstock, which has no pip.
# Dependencies come before the sources, so that a change of the sources does not install them again.
RUN python3 -m venv /tools \
 && python3 -m venv --without-pip /opt/penstock \
 && /tools/bin/pip install --require-hashes --only-binary :all: -r requirements-build.lock \
 && /tools/bin/pip --python /opt/penstock/bin/python install --require-hashes --only-binary :all: --no-compile \
      -r requirements-operator.lock
COPY LICENSE README.md pyproject.toml ./
COPY operator operator
# The byte code is made here because the root file system is read-only when it runs. It is not checked against the sources:
# they do not change, and file times may, between builders. The Kubernetes client's classes, one for each type, stay as they
# are: almost none is ever loaded, and their byte code alone would be 60 MB.
# `--no-index`: what the lock file has not is an error here and not when it runs.
RUN /tools/bin/pip wheel --no-deps --no-build-isolation --no-index --wheel-dir /wheels . \
 && /tools/bin/pip --python /opt/penstock/bin/python install --no-index --no-compile \
      "$(echo /wheels/*.whl)[operator,gateway]" \
 && rm -rf /opt/penstock/bin/[Aa]ctivate* \
 && /opt/penstock/bin/python -m compileall -q -j 0 --invalidation-mode unchecked-hash \
      -x '/kubernetes/(aio|client/(api|models))/' /opt/penstock/lib \
 && /opt/penstock/bin/penstock --version

FROM ${BASE}
# What installs packages has no use in a container that never does.
RUN for tool in pip setuptools wheel; do \
      rm -rf /usr/local/lib/python3*/site-packages/$tool /usr/local/lib/python3*/site-packages/$tool-*.dist-info; \
    done \
 && rm -rf /usr/local/bin/pip* /usr/local/lib/python3*/ensurepip /usr/lib/python3*/ensurepip /usr/share/python-wheels
COPY --from=build /opt/penstock /opt/penstock
# USER and HOME, because the user's number has no entry in /etc/passwd, whichever it is, and libraries ask (kopf names itself
# by it).
ENV PATH=/opt/penstock/bin:/usr/local/bin:/usr/bin:/bin \
    USER=penstock \
    HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
LABEL org.opencontainers.image.title="penstock" \
      org.opencontainers.image.description="Pipelines of containers on Kubernetes" \
      org.opencontainers.image.licenses="Apache-2.0"
# A number and not a name, so that `runAsNonRoot` can be checked.
USER 65532:65532
WORKDIR /
ENTRYPOINT ["penstock"]
CMD ["--help"]
