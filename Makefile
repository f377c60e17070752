# make lab        set up, then open the notebooks in JupyterLab
# make smile PHOTO=me.jpg
#                 set up, then find the face in a photo, align it, and write a
#                 row of smiles and an animation beside the photo
# make tutorial   set up, then run every notebook on drawn faces
# make test       set up, check the style, then run the tests
# make test-fast  the tests without the slow ones: less than 90 seconds
# make lint       check the style alone: ruff's rules and format
# make notebooks  make tutorial, and store its outputs in notebooks/; what ships
#                 in facevae_keras/pretrained/ and the pictures come from that run

PYTHON ?= python3
BIN := .venv/bin
NOTEBOOKS := $(sort $(wildcard notebooks/0*.ipynb))
# Keeps TensorFlow's own chatter out of the notebooks.
export TF_CPP_MIN_LOG_LEVEL := 3
export IPYTHONDIR := $(CURDIR)/.ipython
export PYDEVD_DISABLE_FILE_VALIDATION := 1

.PHONY: smile tutorial test test-fast lint lab notebooks

tutorial: .venv/installed
	mkdir -p build
	cp -r notebooks/images build/
	@for notebook in $(NOTEBOOKS); do \
	  $(BIN)/papermill $$notebook build/$$(basename $$notebook) || exit 1; \
	done
	@$(BIN)/jupyter nbconvert --to notebook --inplace --coalesce-streams \
	  --log-level ERROR build/0*.ipynb
	@echo
	@echo "The executed notebooks are in build/. Their pictures:"
	@find build -name '*.png' -not -path '*/images/*' | sort

test: lint
	$(BIN)/python -m pytest

test-fast: .venv/installed
	$(BIN)/python -m pytest -m "not slow and not exhaustive"

lint: .venv/installed
	$(BIN)/ruff check
	$(BIN)/ruff format --check

smile: .venv/installed
	@test -f "$(PHOTO)" || { echo "make smile PHOTO=me.jpg: no file '$(PHOTO)'"; exit 1; }
	@mkdir -p build
	$(BIN)/papermill notebooks/04_your_own_photo.ipynb build/smile.ipynb \
	  -p photos "$(PHOTO)" -p results "$$(dirname "$(PHOTO)")"

# From the root, so that links to docs/ and data/ work in JupyterLab, too.
lab: .venv/installed
	$(BIN)/jupyter lab --LabApp.default_url=/lab/tree/notebooks

notebooks: tutorial
	$(BIN)/python recipes/store_notebooks.py build/0*.ipynb notebooks
	mkdir -p notebooks/images
	cp build/0*.png build/*smile.webp notebooks/images/
	$(BIN)/python recipes/ship.py build drawn_faces

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt \
	  --editable '.[dev]'
	touch $@
