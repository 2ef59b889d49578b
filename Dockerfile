# One image for the operator, the gateway and the collector.
#
# BASE is any Debian-like image with Python 3.11 or newer and its `venv`. The build needs no other image, so it also works
# without an image registry, from a base of one's own (see tests/e2e). Of the base only what Python needs gets into the image:
# no shell, no package manager.
ARG BASE=docker.io/library/python:3.13.9-slim-bookworm

FROM ${BASE} AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /src
COPY requirements-build.lock requirements-operator.lock ./
# Two environments: the tools stay behind in /tools, and what runs goes to /opt/penstock, which has no pip.
# Dependencies come before the sources, so that a change of the sources does not install them again.
# What is removed: tests that the wheel of cel-expr-python brings along, extensions of it that no expression of ours can
# use, descriptions of all AWS services but those that credentials come from, and what only type checkers and C compilers
# read.
RUN python3 -m venv /tools \
 && python3 -m venv --without-pip /opt/penstock \
 && /tools/bin/pip install --require-hashes --only-binary :all: -r requirements-build.lock \
 && /tools/bin/pip --python /opt/penstock/bin/python install --require-hashes --only-binary :all: --no-compile \
      -r requirements-operator.lock \
 && cd /opt/penstock \
 && rm -rf bin/[Aa]ctivate* include lib64 lib/python3*/site-packages/bazel-project \
      lib/python3*/site-packages/cel_expr_python/ext/ext_[!ms]*.so \
 && find lib/python3*/site-packages/botocore/data -mindepth 1 -maxdepth 1 -type d \
      ! -name s3 ! -name signin ! -name sso ! -name sso-oidc ! -name sts -exec rm -r {} + \
 && find lib -name '*.py[ix]' -delete -o -name '*.pxd' -delete -o -name '*.[ch]' -delete
COPY packaging/minimal_root.py ./
RUN python3 minimal_root.py /root-of-image /opt/penstock
COPY LICENSE README.md pyproject.toml ./
COPY operator operator
# The byte code is made here because the root file system is read-only when it runs. It is not checked against the sources:
# they do not change, and file times may, between builders. Lexers stay as they are: almost none is ever loaded.
# `--no-index`: what the lock file has not is an error here and not when it runs.
RUN /tools/bin/pip wheel --no-deps --no-build-isolation --no-index --wheel-dir /wheels . \
 && /tools/bin/pip --python /opt/penstock/bin/python install --no-index --no-compile \
      "$(echo /wheels/*.whl)[operator,gateway,history]" \
 && /opt/penstock/bin/python -m compileall -q -j 0 --invalidation-mode unchecked-hash \
      -x '/pygments/(lexers|styles)/' /opt/penstock/lib

FROM scratch
COPY --from=build /root-of-image /
COPY --from=build /opt/penstock /opt/penstock
# USER and HOME, because the user's number has no entry in /etc/passwd, whichever it is, and libraries ask (kopf names itself
# by it).
ENV PATH=/opt/penstock/bin:/usr/local/bin:/usr/bin:/bin \
    LANG=C.UTF-8 \
    USER=penstock \
    HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
# Fails the build if something that was left behind is needed.
RUN ["penstock", "--version"]
RUN ["python", "-c", "import cel_expr_python.cel, cel_expr_python.ext.ext_math, cel_expr_python.ext.ext_strings, penstock.kube.operator, ssl, sqlite3, ctypes, uvicorn, fastapi"]
LABEL org.opencontainers.image.title="penstock" \
      org.opencontainers.image.description="Pipelines of containers on Kubernetes" \
      org.opencontainers.image.licenses="Apache-2.0"
# A number and not a name, so that `runAsNonRoot` can be checked.
USER 65532:65532
WORKDIR /
ENTRYPOINT ["penstock"]
CMD ["--help"]
