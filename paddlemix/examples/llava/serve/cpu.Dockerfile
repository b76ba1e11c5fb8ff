# paddlemix serve on a CPU. From the root of the repository:
#   docker build -f paddlemix/examples/llava/serve/cpu.Dockerfile -t paddlemix-serve:cpu .
# No weights are inside: mount a model folder at /models/model. See compose.yaml for a hardened start.
FROM python:3.11.11-slim-bookworm AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
COPY requirements*.txt ./
# Serving needs none of the packages of training.
RUN python -m venv /opt/paddlemix \
    && grep -Ev '^(paddlenlp|aistudio-sdk|datasets|pyarrow|matplotlib)' requirements.txt > serving.txt \
    && /opt/paddlemix/bin/pip install -r serving.txt -r requirements-cpu.txt -r requirements-serve.txt -r requirements-structured.txt
COPY setup.py pyproject.toml README.md ./
COPY paddlemix paddlemix
RUN /opt/paddlemix/bin/pip install --no-deps .

FROM python:3.11.11-slim-bookworm
LABEL org.opencontainers.image.title="paddlemix serve (CPU)" org.opencontainers.image.licenses="Apache-2.0"
# paddle's matrix products need libgomp.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends libgomp1 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --no-create-home paddlemix \
    && install -d -o 10001 -g 10001 /cache
COPY --from=build /opt/paddlemix /opt/paddlemix
ENV PATH=/opt/paddlemix/bin:$PATH HOME=/tmp PADDLEMIX_CACHE=/cache HF_HOME=/cache/huggingface NUMBA_CACHE_DIR=/tmp/numba
USER 10001:10001
WORKDIR /tmp
VOLUME /cache
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=5s --start-period=10m --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health', timeout=4)"]
ENTRYPOINT ["paddlemix", "serve", "--host", "0.0.0.0", "--port", "8000"]
CMD ["--model-path", "/models/model"]
