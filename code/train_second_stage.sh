#!/usr/bin/env bash
# Second stage: bash code/train_second_stage.sh [flags of b4m second-stage; see b4m second-stage --help]
# Environment: CONTENT_DIR, STYLE_DIR, CONTENT_FILE, STYLE_FILE, OUTPUT_DIR, and what code/train.sh names. The files are
# those that the other two scripts write, if none are named; with nothing of your own, the car in watercolour.
set -euo pipefail
own="${CONTENT_DIR:-}${STYLE_DIR:-}${CONTENT_FILE:-}${STYLE_FILE:-}"
case "${own:+own} $*" in
  *--config*) ;;
  own* | *--content[-_]dir* | *--style[-_]dir* | *--content[-_]file* | *--style[-_]file*) ;;
  *) CONTENT_DIR=examples/references/content/car STYLE_DIR=examples/references/style/watercolour ;;
esac
if [[ " $*" != *" --config"* ]]; then
  : "${CONTENT_FILE:=outputs/content/content.safetensors}" "${STYLE_FILE:=outputs/style/style.safetensors}"
  : "${OUTPUT_DIR:=outputs/second_stage}"
fi
exec bash "$(dirname "$0")/train.sh" second-stage \
  ${CONTENT_DIR:+--content-dir "$CONTENT_DIR"} ${STYLE_DIR:+--style-dir "$STYLE_DIR"} \
  ${CONTENT_FILE:+--content-file "$CONTENT_FILE"} ${STYLE_FILE:+--style-file "$STYLE_FILE"} \
  ${OUTPUT_DIR:+--output-dir "$OUTPUT_DIR"} "$@"
