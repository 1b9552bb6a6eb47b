#!/usr/bin/env bash
# Stage one, style: bash code/train_style.sh [flags of b4m train-style; see b4m train-style --help]
# Environment: STYLE_DIR, PARTNER_DIRS (contents), OUTPUT_DIR, and what code/train.sh names. By default chalk.
set -euo pipefail
code="$(cd "$(dirname "$0")" && pwd)"
export PARTNER_DIRS="${PARTNER_DIRS:-$(cd "$code/.." && echo examples/references/partners/contents/*.png)}"
[ -n "${STYLE_DIR:-}" ] || set -- --style-class chalk "$@"
exec bash "$code/train.sh" train-style --style-dir "${STYLE_DIR:-examples/references/style/chalk}" \
  --output-dir "${OUTPUT_DIR:-outputs/style}" "$@"
