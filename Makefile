# make lab        set up, then open the notebooks in JupyterLab
# make smile PHOTO=me.jpg
#                 set up, then find the face in a photo, align it, and write a
#                 row of smiles and an animation beside the photo
# make tutorial   set up, then run every notebook on drawn faces
# make test       set up, check the style, then run the tests
# make test-fast  the tests without the slow ones: less than 90 seconds
# make lint       check the style alone: ruff's rules and format
# make notebooks  make tutorial, run the solutions, and store all outputs in
#                 notebooks/; the pictures and the drawn faces' VAE that ships
#                 come from that run

PYTHON ?= python3
BIN := .venv/bin
NOTEBOOKS := $(sort $(wildcard notebooks/0*.ipynb))
SOLUTIONS := $(sort $(wildcard notebooks/solutions/0*.ipynb))
# Where notebooks write that are opened in JupyterLab, too.
BUILD := notebooks/build
# Keeps TensorFlow's own chatter out of the notebooks.
export TF_CPP_MIN_LOG_LEVEL := 3
# Fast convolutions, which TensorFlow leaves off on a processor without AVX-512.
export TF_ENABLE_ONEDNN_OPTS ?= 1
export IPYTHONDIR := $(CURDIR)/.ipython
export PYDEVD_DISABLE_FILE_VALIDATION := 1

.PHONY: smile tutorial test test-fast lint lab notebooks

tutorial: .venv/installed
	mkdir -p $(BUILD)
	cp -r notebooks/images $(BUILD)
	@for notebook in $(NOTEBOOKS); do \
	  $(BIN)/papermill --cwd notebooks $$notebook \
	    $(BUILD)/$$(basename $$notebook) || exit 1; \
	done
	@$(BIN)/jupyter nbconvert --to notebook --inplace --coalesce-streams \
	  --log-level ERROR $(BUILD)/0*.ipynb
	@echo
	@echo "The executed notebooks are in $(BUILD)/. Their pictures:"
	@find $(BUILD) -path '*/images' -prune -o \
	  \( -name '*.png' -o -name '*.webp' \) -print | sort

test: lint
	$(BIN)/python -m pytest

test-fast: .venv/installed
	$(BIN)/python -m pytest -m "not slow and not exhaustive"

lint: .venv/installed
	$(BIN)/ruff check
	$(BIN)/ruff format --check

smile: .venv/installed
	@test -f "$(PHOTO)" || { echo "make smile PHOTO=me.jpg: no file '$(PHOTO)'"; exit 1; }
	@mkdir -p $(BUILD)
	$(BIN)/papermill notebooks/04_your_own_photo.ipynb $(BUILD)/smile.ipynb \
	  -p photos "$(PHOTO)" -p results "$$(dirname "$(PHOTO)")" \
	  -p run_dir $(BUILD)

# From the root, so that links to docs/ and data/ work in JupyterLab, too.
lab: .venv/installed
	$(BIN)/jupyter lab --LabApp.default_url=/lab/tree/notebooks

notebooks: tutorial
	$(BIN)/python recipes/store_notebooks.py $(BUILD)/0*.ipynb notebooks
	mkdir -p $(BUILD)/solutions
	@for solution in $(SOLUTIONS); do \
	  $(BIN)/papermill --cwd notebooks/solutions $$solution \
	    $(BUILD)/solutions/$$(basename $$solution) || exit 1; \
	done
	@$(BIN)/jupyter nbconvert --to notebook --inplace --coalesce-streams \
	  --log-level ERROR $(BUILD)/solutions/0*.ipynb
	$(BIN)/python recipes/store_notebooks.py $(BUILD)/solutions/0*.ipynb \
	  notebooks/solutions
	cp $(BUILD)/0*.png $(BUILD)/*smile.webp notebooks/images/
	$(BIN)/python recipes/ship.py $(BUILD) drawn_faces

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt \
	  --editable '.[dev]'
	touch $@
