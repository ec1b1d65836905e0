# Everything runs in .venv, on the real ComfyUI in .cache. `make setup` is a no-op when nothing changed.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
RUN := .venv/bin/python
OUT ?= demo_output
# Two processes of one thread are faster here than one of two; more would need more memory than CI has.
TESTS := OMP_NUM_THREADS=1 $(RUN) -m pytest -q -n 2 --dist loadscope --no-loadscope-reorder

.PHONY: setup demo test test-full lint bench clean
.DEFAULT_GOAL := setup

setup: $(RUN)
	@$(RUN) -m harness.setup

$(RUN):
	@$(PYTHON) -m venv .venv

# make demo [IMAGE=my.jpg] [UPSCALE=4] [OUT=demo_output] [TRAIN=1: learn the people anew]
demo: $(RUN)
	@$(RUN) -m harness.demo --out "$(OUT)" $(if $(IMAGE),--image "$(IMAGE)") $(if $(UPSCALE),--upscale "$(UPSCALE)") \
		$(if $(TRAIN),--train)

test: setup
	@$(TESTS) -m "not full"

# Also the tests marked full: minutes instead of seconds each.
test-full: setup
	@$(TESTS)

lint: setup
	@$(RUN) -m ruff check .
	@$(RUN) -m pyright

bench: setup
	@$(RUN) -m lab benchmark

clean:
	rm -rf .venv .cache demo_output .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
