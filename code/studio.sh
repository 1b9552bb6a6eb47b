#!/usr/bin/env bash
# The studio's page, from a fresh clone: installs what is pinned on the first call; arguments go to `b4m studio`.
set -euo pipefail
source "$(dirname "$0")/environment.sh" "[studio]"
exec b4m studio "$@"
