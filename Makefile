# make tutorial   set up, then run every notebook on the built-in faces
# make test       set up, then run the tests
# make lab        set up, then open the notebooks in JupyterLab
# make notebooks  run every notebook in place, storing its outputs

PYTHON ?= python3
BIN := .venv/bin
NOTEBOOKS := $(sort $(wildcard notebooks/0*.ipynb))
# Quieter logs; TensorFlow's own chatter would end up in the notebooks.
export TF_CPP_MIN_LOG_LEVEL := 3
export PYDEVD_DISABLE_FILE_VALIDATION := 1

.PHONY: tutorial test lab notebooks

tutorial: .venv/installed
	mkdir -p build
	@for notebook in $(NOTEBOOKS); do \
	  $(BIN)/papermill $$notebook build/$$(basename $$notebook) || exit 1; \
	done
	@echo
	@echo "The executed notebooks are in build/. Their pictures:"
	@find build -name '*.png' | sort

test: .venv/installed
	$(BIN)/python -m pytest

lab: .venv/installed
	$(BIN)/jupyter lab notebooks

notebooks: .venv/installed
	@for notebook in $(NOTEBOOKS); do \
	  $(BIN)/jupyter nbconvert --to notebook --execute --inplace \
	    --coalesce-streams $$notebook || exit 1; \
	done

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt \
	  --editable '.[dev]'
	touch $@
