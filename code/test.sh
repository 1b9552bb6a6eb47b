#!/usr/bin/env bash
# Install what is needed, check that no room imports from a floor above it, run the tests; arguments go to pytest
# (for instance: -m slow).
set -euo pipefail
source "$(dirname "$0")/environment.sh" "[dev]"
cd "$root"
lint-imports
exec python -m pytest "$@"
