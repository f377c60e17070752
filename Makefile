# make tutorial   set up, then run every notebook on the built-in faces
# make test       set up, then run the tests
# make lab        set up, then open the notebooks in JupyterLab
# make notebooks  run every notebook in place, storing its outputs; what ships
#                 in data/pretrained/ and the pictures come from this run

PYTHON ?= python3
BIN := .venv/bin
NOTEBOOKS := $(sort $(wildcard notebooks/0*.ipynb))
# Keeps TensorFlow's own chatter out of the notebooks.
export TF_CPP_MIN_LOG_LEVEL := 3
export IPYTHONDIR := $(CURDIR)/.ipython
export PYDEVD_DISABLE_FILE_VALIDATION := 1

.PHONY: tutorial test lab notebooks

tutorial: .venv/installed
	mkdir -p build
	cp -r notebooks/images build/
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
	rm -rf notebooks/build
	@for notebook in $(NOTEBOOKS); do \
	  $(BIN)/jupyter nbconvert --to notebook --execute --inplace \
	    --coalesce-streams $$notebook || exit 1; \
	done
	mkdir -p notebooks/images data/pretrained
	cp notebooks/build/0*.png notebooks/images/
	cp notebooks/build/vae.keras data/pretrained/drawn_faces.keras
	cp notebooks/build/attribute_vectors.h5 data/pretrained/drawn_faces.h5

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt \
	  --editable '.[dev]'
	touch $@
