#!/usr/bin/env bash
# Install what is needed, then run the tests; arguments go to pytest (for instance: -m slow).
set -euo pipefail
source "$(dirname "$0")/environment.sh" "[dev]"
exec python -m pytest "$@"
