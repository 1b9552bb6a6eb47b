#!/usr/bin/env bash
# Stage one, style: bash code/train_style.sh [flags of b4m train-style; see b4m train-style --help]
# Environment: STYLE_DIR, PARTNER_DIRS (contents), OUTPUT_DIR, and what code/train.sh names. With none of your own:
# watercolour, beside the drawn world's contents.
set -euo pipefail
code="$(cd "$(dirname "$0")" && pwd)"
case "${STYLE_DIR:+own} $*" in
  *--config*) ;;
  own* | *--style[-_]dir*) : "${OUTPUT_DIR:=outputs/style}" ;;
  *)
    : "${OUTPUT_DIR:=outputs/style}" "${STYLE_DIR:=examples/references/style/watercolour}"
    export PARTNER_DIRS="${PARTNER_DIRS:-$(cd "$code/.." && echo examples/references/partners/contents/*.png)}"
    set -- --style-class watercolour "$@"
    ;;
esac
exec bash "$code/train.sh" train-style ${STYLE_DIR:+--style-dir "$STYLE_DIR"} \
  ${OUTPUT_DIR:+--output-dir "$OUTPUT_DIR"} "$@"
