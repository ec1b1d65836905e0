#!/bin/bash
# Gather what the check needs in .gpu/check of a set-up project: bash lab/gpu/prepare.sh [PYTHON_VERSION]
set -eu
cd "$(dirname "$0")/../.."
python=${1:-3.12} to=.gpu/check
rm -rf "$to" && mkdir -p "$to/whl" "$to/project/harness" "$to/project/lab"
cp lab/gpu/go.sh "$to/"
cp -r pfstorer_core nodes __init__.py "$to/project/"
cp lab/__init__.py "$to/project/lab/"
cp -r lab/gpu "$to/project/lab/"
cp harness/__init__.py harness/stand_in_adapter.py "$to/project/harness/"
git log -1 --format=%H > "$to/project/COMMIT"
# The real host without its web page and extra nodes.
tar czf "$to/comfy.tar.gz" --exclude="comfy/text_encoders/*_tokenizer/*" --exclude="__pycache__" -C "${COMFYUI_PATH:-.cache/ComfyUI}" \
  comfy comfy_api comfy_config comfy_execution app api_server alembic_db middleware utils server.py requirements.txt \
  pyproject.toml protocol.py nodes.py node_helpers.py main.py latent_preview.py hook_breaker_ac10a0.py folder_paths.py \
  execution.py cuda_malloc.py comfyui_version.py alembic.ini
# What the host and the core need beside torch, numpy, Pillow, scipy, safetensors and what the usual images for
# training bring. PyAV is too large: stubs/av stands in for it.
platforms=$(for p in 2_28 2_27 2_24 2_17; do printf -- '--platform manylinux_%s_x86_64 ' $p; done)
platforms="$platforms --platform manylinux2014_x86_64 --platform manylinux2010_x86_64"
download() { .venv/bin/python -m pip download -q --no-deps --only-binary=:all: -d "$to/whl" "$@"; }
# shellcheck disable=SC2086 # each is an option
download --python-version "$python" --implementation cp $platforms \
  alembic annotated-types blake3 comfy-aimdo==0.4.11 greenlet mako pydantic pydantic-core==2.50.5 pydantic-settings \
  python-dotenv simpleeval spandrel sqlalchemy torchsde trampoline typing-extensions typing-inspection \
  einops kornia kornia-rs
download --platform any comfy-kitchen==0.2.26
find "$to" -name __pycache__ -prune -exec rm -rf {} +
du -sh "$to"
