# make smoke   sets up .venv and runs the main job on the embedded data: trains and compares three students
# make teacher-smoke   a stand-in for a language model annotates the embedded inputs, and a student learns from it
# make test    sets up what is missing and runs the tests
# make check   lint, format and types
# make docs    the docs as a site in build/docs/site, from docs/, the code's docstrings and --help
# make beam    an environment with Apache Beam in build/beam, for its pipeline and that pipeline's test
# make t5x     installs T5X's own trainer too: pinned commits from GitHub, or checkouts in the folder T5X_SRC
# make lock    requirements-hashed, -image, -gpu and -tpu.txt anew, after a change of requirements.txt or an extra
# make install, make install-test: the set-up alone

PYTHON ?= python3
VENV := .venv
TYPED := build/typed# links that give the package the form in which it installs, for mypy
BEAM := build/beam# its pins contradict ours
RUN ?= runs/smoke-$(shell date +%Y%m%d-%H%M%S)

.PHONY: smoke teacher-smoke test check docs beam t5x lock install install-test clean
.DELETE_ON_ERROR:

smoke: install
	launch/local.sh compare --gin_file=runs/smoke.gin --model_dir=$(RUN)

teacher-smoke: install-test
	$(VENV)/bin/python tests/teacher_smoke.py

test: install-test
	$(VENV)/bin/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

check: install-test
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	rm -rf $(TYPED) && mkdir -p $(TYPED)/dss_jax
	ln -s $(CURDIR)/dss_jax/* $(CURDIR)/tasks $(CURDIR)/launch $(TYPED)/dss_jax/
	cd $(TYPED) && $(CURDIR)/$(VENV)/bin/mypy --config-file $(CURDIR)/pyproject.toml --cache-dir $(CURDIR)/.mypy_cache -p dss_jax
	$(VENV)/bin/hadolint Dockerfile

lock: install
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check uv==0.13.9
	mkdir -p build
	$(call locked,requirements-hashed.txt,requirements.txt,--no-deps requirements.txt)
	$(call locked,requirements-image.txt,What the image and its build need besides,$(BESIDES) --extra teacher --extra report)
	$(call locked,requirements-gpu.txt,What a GPU needs besides,$(BESIDES) $(BUILDS) --extra gpu)
	$(call locked,requirements-tpu.txt,What a TPU needs besides,$(BESIDES) $(BUILDS) --extra tpu)

BESIDES = pyproject.toml --constraint requirements.txt --constraint requirements-test.txt \
  $$(sed -n 's/==.*//p' requirements.txt | sed 's/^/--no-emit-package=/')
BUILDS := --no-emit-package=setuptools --no-emit-package=wheel
# A file, its title, what it is made of. If uv fails, the file stays as it was.
define locked
{ echo '# $(2), with the SHA-256 of every file, for `pip install --require-hashes -r`; made by `make lock`.' && \
  $(VENV)/bin/uv pip compile --quiet --generate-hashes --no-annotate --no-header --python-version 3.11 \
    --python-platform x86_64-manylinux_2_31 $(3); } > build/lock && mv build/lock $(1)
endef

docs: install-test
	$(VENV)/bin/python docs/make
	$(VENV)/bin/zensical build --strict --clean 2>&1 | tee build/docs/log
	grep -q '^No issues found' build/docs/log && ! grep ERROR build/docs/log # of mkdocstrings, which --strict lets pass

beam: $(BEAM)/.installed

t5x: install
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --constraint requirements.txt --editable '.[t5x]'
	$(VENV)/bin/python -m dss_jax.launch.t5x_source

install: $(VENV)/.installed
install-test: $(VENV)/.installed-test

$(VENV)/.installed: requirements.txt setup.py pyproject.toml
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

$(VENV)/.installed-test: $(VENV)/.installed requirements-test.txt
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-test.txt
	touch $@

$(BEAM)/.installed: requirements-beam.txt
	test -x $(BEAM)/bin/python || $(PYTHON) -m venv $(BEAM)
	$(BEAM)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-beam.txt
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info
