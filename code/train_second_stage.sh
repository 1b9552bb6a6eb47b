#!/usr/bin/env bash
# Second stage: bash code/train_second_stage.sh [flags of b4m second-stage; see b4m second-stage --help]
# Environment: BASE_MODEL, VAE, CONTENT_DIR, STYLE_DIR, CONTENT_FILE, STYLE_FILE, OUTPUT_DIR, PRESET, PROCESSES.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ -x .venv/bin/python ]; then PATH="$PWD/.venv/bin:$PATH"; fi
export PYTHONPATH="$PWD/src${PYTHONPATH:+:$PYTHONPATH}"
options=(
  --content-dir "${CONTENT_DIR:-examples/references/content/car}" --style-dir "${STYLE_DIR:-examples/references/style/chalk}"
  --content-file "${CONTENT_FILE:-outputs/content/content.safetensors}"
  --style-file "${STYLE_FILE:-outputs/style/style.safetensors}" --output-dir "${OUTPUT_DIR:-outputs/second_stage}"
)
[ -z "${PRESET:-}" ] || options+=(--preset "$PRESET")
[ -z "${BASE_MODEL:-}" ] || options+=(--base-model "$BASE_MODEL")  # and with it the sdxl preset, unless PRESET is set
[ -z "${VAE:-}" ] || options+=(--vae "$VAE")
python -m b4m second-stage "${options[@]}" "$@" --dry-run > /dev/null  # bad input ends here, in one line
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-$(getconf _NPROCESSORS_ONLN)}"
# One process needs no launcher: it gets our signals, and its exit status (2, 130, 143) is ours. The launcher's is 1.
[ "${PROCESSES:-1}" != 1 ] || exec python -m b4m second-stage "${options[@]}" "$@"
exec accelerate launch --quiet --num_processes "$PROCESSES" --num_machines 1 --mixed_precision no --dynamo_backend no \
  --num_cpu_threads_per_process "$OMP_NUM_THREADS" --module b4m second-stage "${options[@]}" "$@"
