# Three images. `docker build .` makes the web server with a trained bundle and no TensorFlow: train first (`make pipeline`).
# `docker build --target training .` makes what runs the pipeline, `--target train-gpu` the same on an NVIDIA GPU, with JAX. `--target server` is the web server without a model,
# for `python3 app.py --model URL --model-sha256 …`.
FROM python:3.12-slim-bookworm AS python

FROM python AS serving-packages
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /build
COPY requirements-serve.txt .
RUN python3 -m venv --without-pip /opt/venv && pip --python /opt/venv/bin/python3 install -r requirements-serve.txt

FROM python AS training-packages
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /build
COPY requirements.txt .
RUN python3 -m venv --without-pip /opt/venv && pip --python /opt/venv/bin/python3 install -r requirements.txt

FROM python AS gpu-packages
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /build
COPY requirements-jax.txt requirements-gpu.txt ./
RUN python3 -m venv --without-pip /opt/venv && pip --python /opt/venv/bin/python3 install -r requirements-jax.txt -r requirements-gpu.txt

FROM python AS base
# The packages come compiled, and the program's few files aren't worth a writable folder.
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOST=0.0.0.0
RUN useradd --uid 10001 --user-group --create-home app
WORKDIR /app

FROM base AS training
COPY --from=training-packages /opt/venv /opt/venv
COPY --chown=app:app . .
# The folders that volumes are mounted on: a new volume takes the owner of what it covers.
RUN dvc config --local core.no_scm true && mkdir -p artifacts data /home/app/.cache /home/app/mlflow \
    && chown -R app:app /app /home/app
USER 10001:10001
CMD ["dvc", "repro"]

FROM base AS train-gpu
# The CUDA libraries are packages; the driver and the GPU are the host's (`docker run --gpus all`).
ENV KERAS_BACKEND=jax NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=gpu-packages /opt/venv /opt/venv
COPY --chown=app:app . .
RUN dvc config --local core.no_scm true && mkdir -p artifacts data /home/app/.cache /home/app/mlflow \
    && chown -R app:app /app /home/app
USER 10001:10001
CMD ["dvc", "repro"]

FROM base AS server
COPY --from=serving-packages /opt/venv /opt/venv
COPY app.py params.yaml ./
COPY config config
COPY templates templates
COPY src src
USER 10001:10001
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python3", "-c", "import os, urllib.request as web; web.urlopen(f\"http://127.0.0.1:{os.environ.get('PORT') or 8080}/readyz\", timeout=4)"]
CMD ["python3", "app.py"]

FROM server AS serving
# The bundle, and, where it stands, what says that it may calculate in int8; .dockerignore lets nothing else through.
COPY artifacts artifacts
ARG REVISION=unknown
ARG MODEL_SHA256=unknown
LABEL org.opencontainers.image.title="chest-ct" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.revision="${REVISION}" \
      model.sha256="${MODEL_SHA256}"
