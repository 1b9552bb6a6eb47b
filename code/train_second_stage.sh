#!/usr/bin/env bash
# Second stage: bash code/train_second_stage.sh [flags of b4m second-stage; see b4m second-stage --help]
# Environment: CONTENT_DIR, STYLE_DIR, CONTENT_FILE, STYLE_FILE, OUTPUT_DIR, and what code/train.sh names. By default
# the car in chalk, from the files that the other two scripts write.
set -euo pipefail
exec bash "$(dirname "$0")/train.sh" second-stage \
  --content-dir "${CONTENT_DIR:-examples/references/content/car}" \
  --style-dir "${STYLE_DIR:-examples/references/style/chalk}" \
  --content-file "${CONTENT_FILE:-outputs/content/content.safetensors}" \
  --style-file "${STYLE_FILE:-outputs/style/style.safetensors}" \
  --output-dir "${OUTPUT_DIR:-outputs/second_stage}" "$@"
