# Everything a newcomer types. `make demo` and `make test` need only Python 3.11 or newer, git and make.
.DEFAULT_GOAL := help
SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= python3

.PHONY: help env reference lsdb torch slurm explorer check-explorer demo status test test-reference test-lsdb test-torch test-httpfs test-faults test-servers test-slurm test-browser screenshots fuzz benchmark-fusion benchmark-transfer benchmark-scale benchmark-query benchmark-training benchmark-run benchmark-explorer benchmark-endurance paper measured lint format lock clean benchmark-voids docs
.PHONY: report-pdf
.PHONY: config-readme dist test-wheel

help:  ## say what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## /\1\t/' | expand -t 22

env: $(VENV)/.installed  ## make the environment in .venv from requirements.lock

# A changed lock or pyproject.toml installs again; the stamp is written last, so a failed install is not taken for one.
$(VENV)/.installed: requirements.lock pyproject.toml envs/make-venv.sh
	@bash envs/make-venv.sh "$(PYTHON)" "$(VENV)" requirements.lock

# What the field reads these files with (desispec, specutils, fitsio, redrock): some tests compare with it.
reference: env $(VENV)/.reference  ## add the reference readers that some tests compare with

$(VENV)/.reference: requirements-reference.lock $(VENV)/.installed
	@$(BIN)/python -m pip install --quiet --require-hashes -r requirements-reference.lock
	@touch $@

lsdb: env $(VENV)/.lsdb  ## add LSDB, in which some tests open the collection

$(VENV)/.lsdb: requirements-lsdb.lock $(VENV)/.installed
	@$(BIN)/python -m pip install --quiet --require-hashes -r requirements-lsdb.lock
	@touch $@

torch: env $(VENV)/.torch  ## add PyTorch, for training, and what its benchmark compares with

# Which build of PyTorch (CPU, CUDA, ROCm) is the machine's choice, so it stands in no lock: pip takes what its indexes
# offer. On Linux PyPI's is that for CUDA, 3 GB; PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu gives a small one.
TORCH := torch==2.13.0
$(VENV)/.torch: requirements-peers.lock $(VENV)/.installed
	@$(BIN)/python -m pip install --quiet --require-hashes -r requirements-peers.lock
	@$(BIN)/python -m pip install --quiet $(TORCH)
	@touch $@

slurm: env $(VENV)/.slurm  ## add what profiles/slurm needs

$(VENV)/.slurm: requirements-slurm.lock $(VENV)/.installed
	@$(BIN)/python -m pip install --quiet --require-hashes -r requirements-slurm.lock
	@touch $@

# Two S3 servers beside moto's: s3rver from npm, Swift from PyPI.
$(VENV)/.servers: requirements-servers.lock $(VENV)/.installed tests/servers/package-lock.json
	@npm ci --prefix tests/servers --ignore-scripts --no-audit --no-fund --silent
	@$(BIN)/python -m pip install --quiet --require-hashes -r requirements-servers.lock
	@touch $@

$(VENV)/.browser: requirements-browser.lock $(VENV)/.installed
	@$(BIN)/python -m pip install --quiet --require-hashes -r requirements-browser.lock
	@touch $@

$(VENV)/.release: requirements-release.lock $(VENV)/.installed
	@$(BIN)/python -m pip install --quiet --require-hashes -r requirements-release.lock
	@touch $@

$(VENV)/.fuzz: requirements-fuzz.lock $(VENV)/.installed
	@$(BIN)/python -m pip install --quiet --require-hashes -r requirements-fuzz.lock
	@touch $@

demo: env  ## simulate a small archive, serve it on this machine and convert it (LAYOUT=uniqpix: one as from DR3)
	@$(BIN)/python -m desi_fits_to_parquet.simulate.demo $(if $(LAYOUT),--layout $(LAYOUT))

config-readme: env  ## write config/README.md from config/schema.yaml
	@$(BIN)/python -m desi_fits_to_parquet.settings_page

explorer/node_modules/.installed: explorer/package-lock.json
	@cd explorer && npm ci --silent && touch node_modules/.installed

explorer: explorer/node_modules/.installed  ## build the explorer's page from explorer/ (needs npm)
	@cd explorer && npm run --silent build

check-explorer: explorer/node_modules/.installed  ## see that the page in the package is what explorer/ gives
	@built=$$(mktemp -d) && trap 'rm -rf "$$built"' EXIT && cd explorer && node build.mjs "$$built" && \
	    diff -rq "$$built" ../src/desi_fits_to_parquet/explorer/static || \
	    { echo "The explorer's page is not what explorer/ gives: make explorer, then commit both"; exit 1; }

# Without `env` before it: nothing is installed anew while a run goes on.
status:  ## say how far a run is, also from another shell (RESULTS=folder if it is not results)
	@$(BIN)/python -m desi_fits_to_parquet.run.status $(RESULTS)

report-pdf: env  ## print the report as PDF, A4, with an installed Chromium or Chrome (RESULTS=folder if it is not results)
	@$(BIN)/python -m desi_fits_to_parquet.report.pdf $(or $(RESULTS),results)

test: env  ## run the whole test suite
	@$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder

test-reference: reference  ## run the tests that compare with the reference readers
	@$(BIN)/python -m pytest -m reference

test-lsdb: lsdb  ## run the tests that open the collection in LSDB
	@$(BIN)/python -m pytest -m lsdb

test-torch: torch  ## run the tests of what reads for PyTorch
	@$(BIN)/python -m pytest -m torch

# DuckDB's extension is for one version of DuckDB, another one than the lock's: in an environment of its own.
$(VENV)/httpfs/.installed: requirements-httpfs.lock $(VENV)/.installed
	@$(BIN)/python -m venv $(VENV)/httpfs
	@$(VENV)/httpfs/bin/python -m pip install --quiet --require-hashes -r requirements-httpfs.lock
	@touch $@

test-httpfs: env $(VENV)/httpfs/.installed  ## run the test of DuckDB alone on S3 and HTTP
	@$(BIN)/python -m pytest tests/test_publish.py -k duckdb

test-faults: env  ## a thousand seeded runs under random faults, forty kills (a quarter of an hour)
	@DESI_FAULT_RUNS=1000 DESI_KILLS=40 $(BIN)/python -m pytest tests/test_faults.py tests/test_kill.py \
	    -k "random or again_and_again" --timeout 3000 -o junit_family=xunit1 \
	    --junitxml=results/test-faults.xml

test-servers: env $(VENV)/.servers  ## run the workflow over S3 servers of other kinds: s3rver, Swift (needs Node.js 17)
	@$(BIN)/python -m pytest tests/servers/check_servers.py

dist: env $(VENV)/.release  ## build wheel and sdist in dist/ and check them
	@rm -rf dist && $(BIN)/python -m build --no-isolation && $(BIN)/twine check --strict dist/*

test-wheel: env $(VENV)/.release  ## build wheel and sdist; the demo, the command and the reader from the wheel alone
	@$(BIN)/python -m pytest tests/wheel/check_wheel.py

test-slurm: slurm  ## run the workflow on a real Slurm, which it installs and stops (root on Debian)
	@$(BIN)/python -m pytest tests/slurm/check_slurm.py

# Chromium is Debian's package, which root gets where it is missing.
test-browser: env $(VENV)/.browser demo  ## open what the demo made in headless Chromium: the explorer, the report
	@$(BIN)/python -m pytest tests/browser/check_*.py

screenshots: env $(VENV)/.browser demo  ## take the pictures of docs/images from the demo
	@$(BIN)/python tests/browser/screenshots.py

fuzz: env $(VENV)/.fuzz  ## feed broken files to the readers of FITS and HDF5 (Linux; FUZZ_SECONDS=120)
	@$(BIN)/python tests/fuzz/fuzz_readers.py all --seconds $(or $(FUZZ_SECONDS),120)

benchmark-fusion: env  ## measure fusing and the size of its files (two minutes)
	@$(BIN)/python benchmarks/fusion.py

benchmark-transfer: env  ## measure fetching over an emulated far link (seven minutes, needs nginx)
	@$(BIN)/python benchmarks/transfer.py

benchmark-scale: env  ## measure the workflow at the size of DR1 (three quarters of an hour)
	@$(BIN)/python benchmarks/scale.py

benchmark-query: env  ## measure building and asking a catalogue of the size of DR1 (a quarter of an hour, needs nginx)
	@$(BIN)/python benchmarks/query.py

benchmark-run: env  ## measure the whole workflow over an emulated far link (a quarter of an hour, needs nginx)
	@$(BIN)/python benchmarks/run.py

benchmark-training: torch  ## measure spectra for PyTorch, beside Hugging Face datasets and astropy (five minutes)
	@$(BIN)/python benchmarks/training.py

benchmark-explorer: env $(VENV)/.browser demo  ## measure the explorer over 1.5 and 5 million targets (some minutes, needs Chromium)
	@$(BIN)/python benchmarks/explorer.py

benchmark-endurance: env  ## convert 500 tiles under all faults, kills and outages at once (half an hour)
	@$(BIN)/python benchmarks/endurance.py

$(VENV)/.docs: requirements-docs.lock $(VENV)/.installed
	@$(BIN)/python -m pip install --quiet --require-hashes -r requirements-docs.lock
	@touch $@

# The tutorials run on what the demo and examples/voids leave.
docs: env $(VENV)/.docs  ## build the documentation's site in results/docs and check its links (a minute)
	@[ -f results/demo/collection.properties ] || $(MAKE) --no-print-directory demo
	@[ -f results/demo-galaxies/collection.properties ] || $(BIN)/python examples/voids/run.py
	@$(BIN)/python -m sphinx --quiet --fail-on-warning --keep-going -b html -d results/docs-doctrees docs results/docs
	@$(BIN)/python docs/check_links.py results/docs

benchmark-voids: env  ## measure matching 1.5 million objects with voids (two minutes)
	@$(BIN)/python benchmarks/voids.py

paper: env  ## fill the paper's figures and numbers from what was measured, render its PDF (needs Debian's pandoc and weasyprint)
	@$(BIN)/python paper/build.py

measured: env  ## keep what benchmarks and demo measured last as what the paper says (results/ to paper/measured/)
	@mkdir -p paper/measured
	@for name in transfer fusion run; do cp results/benchmark/$$name.json paper/measured/; done
	@cp results/demo/report/summary.json paper/measured/demo.json

lint: env  ## formatters and linters, as CI runs them
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/snakefmt --check Snakefile rules workflow
	@$(BIN)/mypy
	@$(BIN)/snakemake --lint
	@$(BIN)/reuse lint --quiet

format: env  ## rewrite the code in the project's style
	@$(BIN)/ruff format . && $(BIN)/ruff check --fix . && $(BIN)/snakefmt Snakefile rules workflow

lock:  ## resolve the dependencies again (needs uv and npm)
	uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header --no-annotate \
	    --python-version 3.11 --extra test pyproject.toml -o requirements.lock
	uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header --no-annotate \
	    --python-version 3.11 --extra test --extra reference -c requirements.lock \
	    pyproject.toml -o requirements-reference.lock
	uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header --no-annotate \
	    --python-version 3.11 --extra test --extra lsdb -c requirements.lock pyproject.toml -o requirements-lsdb.lock
	uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header --no-annotate \
	    --python-version 3.11 --extra test --extra peers -c requirements.lock pyproject.toml -o requirements-peers.lock
	@# alone, for it asks for another DuckDB than the lock has
	echo "duckdb-extension-httpfs>=1.5.5,<1.6" | uv pip compile --quiet --universal --generate-hashes \
	    --no-emit-index-url --no-header --no-annotate --python-version 3.11 - -o requirements-httpfs.lock
	uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header --no-annotate \
	    --python-version 3.11 --extra slurm -c requirements.lock pyproject.toml -o requirements-slurm.lock
	uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header --no-annotate \
	    --python-version 3.11 --extra fuzz -c requirements.lock pyproject.toml -o requirements-fuzz.lock
	uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header --no-annotate \
	    --python-version 3.11 --extra servers -c requirements.lock pyproject.toml -o requirements-servers.lock
	uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header --no-annotate \
	    --python-version 3.11 --extra browser -c requirements.lock pyproject.toml -o requirements-browser.lock
	uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header --no-annotate \
	    --python-version 3.11 --extra release -c requirements.lock pyproject.toml -o requirements-release.lock
	uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header --no-annotate \
	    --python-version 3.11 --extra test --extra docs -c requirements.lock pyproject.toml -o requirements-docs.lock
	npm install --prefix tests/servers --package-lock-only --omit-lockfile-registry-resolved --ignore-scripts

clean:  ## remove the environment and what the demo wrote
	rm -rf $(VENV) results/demo .snakemake
