# Two commands do all the set-up on a machine with Python and make: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Two processes, a test file at a time: each takes up to 9 GB.
PARALLEL ?= -n 2 --dist loadfile
.PHONY: demo test test-slow lint clean help

help:
	@echo "make demo       set up, train a small SN-GAN on emoji faces, export it, show samples"
	@echo "make test       set up, run the tests (make test-slow: the slow ones too)"
	@echo "make lint       check the code's form with ruff"

$(STAMP): setup.cfg pyproject.toml constraints.txt requirements-nodeps.txt
	$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(None if (3, 11) <= v < (3, 14) else f"Python 3.11 to 3.13 is needed. Received: {sys.version}. Try: make PYTHON=python3.11 $(MAKECMDGOALS)")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[serve,test,benchmarks,dev]'
	$(BIN)/python -m pip install --quiet --no-deps --requirement requirements-nodeps.txt
	touch $@

demo: $(STAMP)
	$(BIN)/python -m training.fit --recipe emoji-faces-small --name emoji-faces

test: $(STAMP)
	$(BIN)/python -m pytest -m "not slow" $(PARALLEL)

test-slow: $(STAMP)
	$(BIN)/python -m pytest $(PARALLEL)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

clean:
	rm -rf $(VENV) build *.egg-info
