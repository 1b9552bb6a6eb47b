#!/usr/bin/env bash
# What the train_*.sh share: bash code/train.sh COMMAND [flags of b4m COMMAND]. Relative paths start where you stand.
# Environment: BASE_MODEL (with it the sdxl preset, unless PRESET is set), PRESET, VAE, PROCESSES, PARTNER_DIRS (one
# path, or several: separated by colons or newlines where there are any, else by spaces; C:\ is no separator).
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
if [ -x "$root/.venv/bin/python" ]; then PATH="$root/.venv/bin:$PATH"; fi
export PYTHONPATH="$root/src${PYTHONPATH:+:$PYTHONPATH}" PYTHONSAFEPATH=1  # no modules from where you stand
command="$1" partners="${PARTNER_DIRS:-}" preset="${PRESET:-${BASE_MODEL:+sdxl}}" drive=$'\001'
shift
if [ -n "$partners" ] && [ "$command" != second-stage ]; then
  marked="$(sed -E 's#(^|[: ])([A-Za-z]):([\\/])#\1\2'"$drive"'\3#g; s# ([A-Za-z]'"$drive"')#:\1#g' <<< "$partners")"
  if [ -e "$partners" ]; then IFS=; marked="$partners"
  elif [[ "$marked" == *[:$'\n'"$drive"]* ]]; then IFS=$':\n'; else IFS=' '; fi
  set -f; paths=($marked); set +f; unset IFS
  set -- --partner-dirs "${paths[@]//$drive/:}" "$@"
fi
set -- ${preset:+--preset "$preset"} ${BASE_MODEL:+--base-model "$BASE_MODEL"} ${VAE:+--vae "$VAE"} "$@"
python -m b4m "$command" "$@" --dry-run > /dev/null  # bad input ends here, in one line
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-$(getconf _NPROCESSORS_ONLN)}"
# One process needs no launcher: it gets our signals, and its exit status (2, 130, 143) is ours. The launcher's is 1.
[ "${PROCESSES:-1}" != 1 ] || exec python -m b4m "$command" "$@"
exec accelerate launch --quiet --num_processes "$PROCESSES" --num_machines 1 --mixed_precision no \
  --dynamo_backend no --num_cpu_threads_per_process "$OMP_NUM_THREADS" --module b4m "$command" "$@"
