#!/usr/bin/env bash
# Stage one, content: bash code/train_content.sh [flags of b4m train-content; see b4m train-content --help]
# Environment: BASE_MODEL, VAE, CONTENT_DIR, PARTNER_DIRS (styles; separated by spaces or colons), OUTPUT_DIR, PRESET, PROCESSES.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ -x .venv/bin/python ]; then PATH="$PWD/.venv/bin:$PATH"; fi
export PYTHONPATH="$PWD/src${PYTHONPATH:+:$PYTHONPATH}"
options=(--output-dir "${OUTPUT_DIR:-outputs/content}")
if [ -n "${CONTENT_DIR:-}" ]; then options+=(--content-dir "$CONTENT_DIR"); else
  options+=(--content-dir examples/references/content/car --content-class car)
fi
IFS=' :' read -ra partners <<< "${PARTNER_DIRS:-$(echo examples/references/partners/styles/*.png)}"
options+=(--partner-dirs "${partners[@]}")
[ -z "${PRESET:-}" ] || options+=(--preset "$PRESET")
[ -z "${BASE_MODEL:-}" ] || options+=(--base-model "$BASE_MODEL")  # and with it the sdxl preset, unless PRESET is set
[ -z "${VAE:-}" ] || options+=(--vae "$VAE")
python -m b4m train-content "${options[@]}" "$@" --dry-run > /dev/null  # bad input ends here, in one line
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-$(getconf _NPROCESSORS_ONLN)}"
# One process needs no launcher: it gets our signals, and its exit status (2, 130, 143) is ours. The launcher's is 1.
[ "${PROCESSES:-1}" != 1 ] || exec python -m b4m train-content "${options[@]}" "$@"
exec accelerate launch --quiet --num_processes "$PROCESSES" --num_machines 1 --mixed_precision no --dynamo_backend no \
  --num_cpu_threads_per_process "$OMP_NUM_THREADS" --module b4m train-content "${options[@]}" "$@"
