# Two commands for a newcomer: `make demo` and `make test`; both set up what they need in .venv first.
VENV ?= .venv
PYTHON ?= python3
# What to pass on: make demo ARGS="--accounts 50", make test ARGS="-k journal".
ARGS ?=
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: install kafka arrow flower demo test check bench docs clean

install: $(STAMP)

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --editable '.[dev]'
	touch $@

# Apache Kafka for the streaming tests: its jars, to ~/.cache/recunlearn/kafka. Needs a JDK 17 and Maven.
kafka:
	mvn --batch-mode --quiet --file tests/brokers/pom.xml dependency:copy-dependencies

# Arrow for examples/java: its jars, to ~/.cache/recunlearn/arrow. Needs a JDK 17 and Maven.
arrow:
	mvn --batch-mode --quiet --file examples/java/pom.xml dependency:copy-dependencies

# Flower for the test of secure sums over it, in an environment of its own: it holds back what else is here.
flower: $(VENV)/flower/.installed

$(VENV)/flower/.installed: pyproject.toml | $(STAMP)
	$(PYTHON) -m venv $(VENV)/flower
	$(VENV)/flower/bin/pip install --quiet --editable '.[federated]'
	touch $@

demo: $(STAMP)
	@$(BIN)/recunlearn demo $(ARGS)

test: $(STAMP)
	OPENBLAS_NUM_THREADS=1 OMP_WAIT_POLICY=passive $(BIN)/pytest -n 2 --dist loadgroup $(ARGS)

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/basedpyright --pythonpath $(BIN)/python

bench: $(STAMP)
	$(BIN)/recunlearn bench $(ARGS)

docs: $(STAMP)
	$(BIN)/python docs/build.py

clean:
	rm -rf $(VENV) build dist site *.egg-info demo-output .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
