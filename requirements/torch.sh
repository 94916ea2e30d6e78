#!/usr/bin/env bash
# Install the pinned torch into a virtual environment: torch.sh VENV
#
# On Linux, PyPI's torch brings several gigabytes of CUDA libraries. Without an NVIDIA GPU the CPU build is
# installed instead, by uv, which knows where it is published. Where that place cannot be reached, pip takes
# what its own indexes offer.
set -euo pipefail
venv=$1
torch=$(grep '^torch==' "$(dirname "$0")/constraints.txt")

if "$venv/bin/python" -c "import torch; assert torch.__version__.split('+')[0] == '${torch#torch==}'" 2>/dev/null; then
  exit 0
fi
if ! command -v nvidia-smi >/dev/null; then
  "$venv/bin/python" -m pip install -qq uv==0.13.9
  if UV_HTTP_RETRIES=1 UV_HTTP_TIMEOUT=30 \
    "$venv/bin/uv" pip install -qq --python "$venv/bin/python" --torch-backend=cpu "$torch" 2>"$venv/uv.log"; then
    exit 0
  fi
  echo "the CPU build's home cannot be reached (see $venv/uv.log); trying pip's own indexes"
fi
"$venv/bin/python" -m pip install -qq "$torch"
