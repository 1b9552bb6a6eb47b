#!/usr/bin/env bash
# From a fresh clone to a picture of a held-out content in a held-out style, on the embedded base: see README.md.
set -euo pipefail
source "$(dirname "$0")/environment.sh" ""  # else it would read our own arguments
exec python "$root/examples/quickstart.py" "$@"
