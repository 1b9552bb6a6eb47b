# What a contributor runs; each makes .venv first, where it is missing. `make quality test` is what CI runs.
SHELL := bash
IN := source code/environment.sh "[dev]" &&

.PHONY: quality style test slow browser ray bench

quality:  # style, imports between rooms, types; changes nothing
	$(IN) ruff check . && ruff format --check . && lint-imports && pyrefly check

style:  # put right what can be put right
	$(IN) ruff check --fix . && ruff format .

test:  # minutes; no GPU, no network
	bash code/test.sh

slow:  # the long tier: hours
	bash code/test.sh -m slow

browser:  # pages in the Chromium that is installed; skipped where none is
	bash code/test.sh -m browser

ray:  # a Ray cluster of two nodes on this machine; installs Ray
	bash code/test.sh -m ray

bench:  # a training step on this machine, ours beside others
	$(IN) b4m bench --size small --output outputs/bench.json
