#!/usr/bin/env bash
# Install what is needed, check that no room imports from a floor above it, run the tests; arguments go to pytest
# (for instance: -m slow; -m ray; -m browser needs Chromium, on Debian: apt-get install chromium). Each file of tests
# stays in one process, so that what its tests share is made once.
set -euo pipefail
case " $* " in *" browser "*) extras="[dev,browser]" ;; *" ray "*) extras="[dev,ray]" ;; *) extras="[dev]" ;; esac
source "$(dirname "$0")/environment.sh" "$extras"
cd "$root"
lint-imports
exec python -m pytest --numprocesses logical --maxprocesses 8 --dist loadfile "$@"
