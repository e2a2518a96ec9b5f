# `make demo` and `make test` set everything up by themselves, once.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed
export PATH := $(CURDIR)/$(BIN):$(PATH)
# Threads that wait sleep: two processes with two threads each must not spin against each other.
export OMP_WAIT_POLICY := passive

.PHONY: demo test bench lab book notebooks readme clean

demo: $(INSTALLED)  ## the whole road in miniature: render, fine-tune, evaluate
	synthdepth demo

test: $(INSTALLED)  ## notebooks, linter, tests
	ruff check .
	SYNTHDEPTH_FIGURES="$$(mktemp -d)" nbdev_test --n_workers 2
	python -m pytest -n 2 --dist loadfile

bench: $(INSTALLED)  ## speed, as ratios against named baselines
	for f in tests/bench_*.py; do echo "== $$f"; python $$f || exit 1; done

lab: $(INSTALLED)  ## JupyterLab on the notebooks
	jupyter lab nbs

book: $(INSTALLED)  ## the notebooks as a website in _book, with search and reference; a broken link fails it
	sphinx-build --quiet --fail-on-warning --keep-going nbs _book/html
	@echo 'open _book/html/index.html'

notebooks: $(INSTALLED)  ## after editing: export, run and clean every notebook, renew README.md
	nbdev_export
	for n in nbs/[0-9]*/*.ipynb nbs/*.ipynb; do jupyter nbconvert --to notebook --execute --inplace $$n || exit 1; done
	nbdev_clean
	$(MAKE) readme

readme: $(INSTALLED)
	jupyter nbconvert --to markdown --no-input --stdout nbs/index.ipynb | sed -e 's#(\.\./#(#g' -e 's#](\([0-9]\)#](nbs/\1#g' > README.md.part
	mv README.md.part README.md

$(INSTALLED): settings.ini setup.py pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@# Mitsuba renders about twice as fast with LLVM 17 or newer; without it, it renders all the same.
	@if ! ldconfig -p 2>/dev/null | grep -qE 'libLLVM[-.a-z]*(1[7-9]|2[0-9])'; then \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    (apt-get update -qq && apt-get install -y -qq libllvm19) >/dev/null 2>&1 || echo 'libllvm19 could not be installed; rendering will be slower'; \
	  else echo 'No LLVM 17 or newer found: rendering will be slower (Debian, Ubuntu: install libllvm19)'; fi; fi
	@# The inspector is tested in a real browser; without one those tests are skipped.
	@if ! command -v chromium >/dev/null && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  (apt-get update -qq && apt-get install -y -qq chromium) >/dev/null 2>&1 || echo 'chromium could not be installed; browser tests are skipped'; fi
	@# Jobs are tested on a real SLURM that the tests start; without it those tests are skipped.
	@if ! PATH="$$PATH:/usr/sbin" command -v slurmctld >/dev/null && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  (apt-get update -qq && apt-get install -y -qq slurmctld slurmd slurm-client munge) >/dev/null 2>&1 || echo 'SLURM could not be installed; its tests are skipped'; fi
	@touch $@

clean:  ## remove what the demo and the tests made
	rm -rf data/demo _book nbs/api build *.egg-info .pytest_cache .ruff_cache
