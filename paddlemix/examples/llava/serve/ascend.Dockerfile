# paddlemix serve on Ascend cards; the host has their driver, this image CANN and Python. From the root:
#   docker build -f paddlemix/examples/llava/serve/ascend.Dockerfile -t paddlemix-serve:ascend .
# On ARM add `--build-arg ARCH=aarch64`. No weights are inside. docs/en/ascend.md has the releases that match.
ARG ARCH=x86_64
FROM ccr-2vdh3abv-pub.cnc.bj.baidubce.com/device/paddle-npu:3.0.0-cann800-ubuntu20-npu-910b-${ARCH}-gcc84-py310
LABEL org.opencontainers.image.title="paddlemix serve (Ascend)" org.opencontainers.image.licenses="Apache-2.0"
ARG PADDLE=3.0.0.dev20250527
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
COPY requirements*.txt ./
# Both must be of one date. Serving needs none of the packages of training.
RUN python -m pip install --pre "paddlepaddle==${PADDLE}" -i https://www.paddlepaddle.org.cn/packages/nightly/cpu/ \
    && python -m pip install --pre "paddle-custom-npu==${PADDLE}" -i https://www.paddlepaddle.org.cn/packages/nightly/npu/ \
    && grep -Ev '^(paddlepaddle|paddlenlp|aistudio-sdk|datasets|pyarrow|matplotlib)' requirements.txt > serving.txt \
    && python -m pip install -r serving.txt -r requirements-serve.txt -r requirements-structured.txt
COPY setup.py pyproject.toml README.md ./
COPY paddlemix paddlemix
RUN python -m pip install --no-deps . \
    && useradd --system --uid 10001 --no-create-home paddlemix \
    && install -d -o 10001 -g 10001 /cache
ENV HOME=/tmp PADDLEMIX_CACHE=/cache HF_HOME=/cache/huggingface
USER 10001:10001
WORKDIR /tmp
VOLUME /cache
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=5s --start-period=20m --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health', timeout=4)"]
ENTRYPOINT ["paddlemix", "serve", "--host", "0.0.0.0", "--port", "8000", "--device", "npu"]
CMD ["--model-path", "/models/model"]
