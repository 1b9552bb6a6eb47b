#!/usr/bin/env bash
# Stage one, content: bash code/train_content.sh [flags of b4m train-content; see b4m train-content --help]
# Environment: CONTENT_DIR, PARTNER_DIRS (styles), OUTPUT_DIR, and what code/train.sh names. By default the car.
set -euo pipefail
code="$(cd "$(dirname "$0")" && pwd)"
export PARTNER_DIRS="${PARTNER_DIRS:-$(cd "$code/.." && echo examples/references/partners/styles/*.png)}"
[ -n "${CONTENT_DIR:-}" ] || set -- --content-class car "$@"
exec bash "$code/train.sh" train-content --content-dir "${CONTENT_DIR:-examples/references/content/car}" \
  --output-dir "${OUTPUT_DIR:-outputs/content}" "$@"
