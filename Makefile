# What a contributor runs; each makes .venv first, where it is missing. `make quality test` is what CI runs.
SHELL := bash
IN := source code/environment.sh "[dev]" &&

.PHONY: quality style test slow browser bench

quality:  # style, imports between rooms, types; changes nothing
	$(IN) ruff check . && ruff format --check . && lint-imports && pyrefly check

style:  # put right what can be put right
	$(IN) ruff check --fix . && ruff format .

test:  # minutes; no GPU, no network
	bash code/test.sh

slow:  # the long tier: hours
	bash code/test.sh -m slow

browser:  # the studio's page in Chromium: minutes
	bash code/test.sh -m browser

bench:  # a training step on this machine, ours beside others
	$(IN) b4m bench --size small --output outputs/bench.json
