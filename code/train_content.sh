#!/usr/bin/env bash
# Stage one, content: bash code/train_content.sh [flags of b4m train-content; see b4m train-content --help]
# Environment: CONTENT_DIR, PARTNER_DIRS (styles), OUTPUT_DIR, and what code/train.sh names. With none of your own: the
# car, beside the drawn world's styles.
set -euo pipefail
code="$(cd "$(dirname "$0")" && pwd)"
case "${CONTENT_DIR:+own} $*" in
  *--config*) ;;
  own* | *--content[-_]dir*) : "${OUTPUT_DIR:=outputs/content}" ;;
  *)
    : "${OUTPUT_DIR:=outputs/content}" "${CONTENT_DIR:=examples/references/content/car}"
    export PARTNER_DIRS="${PARTNER_DIRS:-$(cd "$code/.." && echo examples/references/partners/styles/*.png)}"
    set -- --content-class car "$@"
    ;;
esac
exec bash "$code/train.sh" train-content ${CONTENT_DIR:+--content-dir "$CONTENT_DIR"} \
  ${OUTPUT_DIR:+--output-dir "$OUTPUT_DIR"} "$@"
