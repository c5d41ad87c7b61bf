# Every command of the project. `make` alone lists them.
# The first supported Python that runs; PYTHON=PROGRAM takes another.
ifndef PYTHON
PYTHON := $(shell for version in 3.11 3.12 3.13; do python$$version -c '' 2> /dev/null && echo python$$version && break; done)
endif
VENV   ?= .venv
BIN    := $(VENV)/bin
# Index for torch. Empty uses pip's default index, which on Linux usually serves a CUDA build of several GB;
# `make setup TORCH_INDEX=https://download.pytorch.org/whl/cpu` installs the CPU build.
TORCH_INDEX ?=
TORCH_RANGE := torch>=2.9,<3

# Tests start hundreds of processes, so modules must be compiled once, whatever the caller's shell sets.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup proto proto-release docs dashboards site diagrams pictures fmt lint types imports protos budget test test-fast test-lowest test-faults test-all fuzz test-cluster bench bench-competitors bench-gpu demo experiment evidence up down check k8s-check dist locks images test-containers compose-up compose-down clean

help:  ## list the commands
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'
	@echo
	@echo "  The first command that needs it creates $(VENV) from PyPI: demo, experiment, up and down download 0.35 GB with a CPU"
	@echo "  torch (3 GB more with a CUDA one), every other command 0.4 GB of tools besides. TORCH_INDEX=URL takes torch from"
	@echo "  another index."

setup: $(VENV)/.ready  ## create the environment for development (PYTHON=python3.12, TORCH_INDEX=URL)

# Versions are those of deploy/constraints.txt; torch's alone is free, as its build is. pip would compile every file of every
# package; a run imports a fifth of them, which the imports compile.
INSTALL := $(BIN)/pip install -q --no-compile -c deploy/constraints.txt

$(VENV)/.ready-local: pyproject.toml deploy/constraints.txt
	@test -n "$(PYTHON)" && $(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' || { \
	  echo "vfmalign needs Python 3.11, 3.12 or 3.13, and $(or $(PYTHON),none of them) runs here: install one, or set PYTHON to its program" >&2; exit 1; }
	@echo "Downloading torch, monai and about 80 further packages from PyPI into $(VENV) (0.35 GB with a CPU torch) ..."
	$(PYTHON) -m venv $(VENV)
	$(if $(TORCH_INDEX),$(BIN)/pip install -q --index-url $(TORCH_INDEX) '$(TORCH_RANGE)')
	$(INSTALL) -e '.[local]'
	$(BIN)/python -c "import vfmalign.cli.commands.api.watch, vfmalign.cli.demo.check_demo, vfmalign.features.__main__, vfmalign.finetuning.__main__, vfmalign.mmd.__main__; \
	  import torch._dynamo, vfmalign.training.job"
	@touch $@

$(VENV)/.ready: $(VENV)/.ready-local
	@echo "Adding the tools of development: triton, pytest, mypy, buf, PostgreSQL and about 60 further packages (0.4 GB) ..."
	$(INSTALL) -e '.[dev]'
	$(BIN)/python -c "import pytest"
	@touch $@

# Records are generated from the stubs, and so in a second run.
PROTOC  := PATH=$(abspath $(BIN)):$$PATH $(BIN)/python -m grpc_tools.protoc -Iproto
STUBS    = --python_out=$(1) --pyi_out=$(1) --grpc_python_out=$(1) --mypy_grpc_out=quiet:$(1) proto/vfmalign/v1/*.proto
RECORDS  = --plugin=protoc-gen-records=proto/generate_records.py --records_out=$(1) proto/vfmalign/v1/*.proto

proto: setup  ## generate the stubs (services/vfmalign/v1) and records (client/messages/generated) from proto/
	$(PROTOC) $(call STUBS,services)
	$(PROTOC) $(call RECORDS,services)

proto-release: setup  ## record the protos as the released API that `make protos` compares with
	$(BIN)/buf build proto --exclude-source-info -o proto/released.binpb

docs: setup dashboards  ## write the references of settings, metrics and audit events in docs/, dashboards and rules
	$(BIN)/python docs/generate_settings_reference.py docs/settings-reference.md
	$(BIN)/python docs/generate_metrics_reference.py docs/metrics-reference.md
	$(BIN)/python docs/generate_audit_reference.py docs/audit-reference.md

dashboards: setup  ## write the dashboards, and the rules of objectives and alerts, for Compose and Kubernetes
	$(BIN)/python -m deploy.observability

diagrams: setup  ## draw the diagrams of docs/ with this version's ports and calls
	$(BIN)/python docs/pictures/diagrams.py docs/images

pictures: diagrams $(VENV)/.ready-local  ## also record the demo: its terminal and its report (needs Chromium; 3 minutes)
	$(BIN)/python docs/pictures/record.py docs/images

site: setup  ## build docs/ as a site into build/site, without network, and check its links and pages
	$(BIN)/python docs/generate_api_reference.py proto docs/api-reference.md
	rm -rf build/site  # Sphinx leaves pages of documents that are gone
	$(BIN)/python -m sphinx --builder html --quiet --fail-on-warning --conf-dir docs . build/site
	$(BIN)/pytest -q tests/site
	@echo "open build/site/index.html"

fmt: setup  ## format the code
	$(BIN)/ruff format services tests bench docs deploy proto
	$(BIN)/ruff check --fix-only -q services tests bench docs deploy proto
	$(BIN)/buf format -w proto

lint: setup  ## ruff, hadolint
	$(BIN)/ruff format --check services tests bench docs deploy proto
	$(BIN)/ruff check services tests bench docs deploy proto
	$(BIN)/hadolint deploy/Dockerfile

types: setup  ## mypy --strict
	$(BIN)/mypy

imports: setup  ## import contracts between and within packages
	$(BIN)/lint-imports

protos: setup  ## buf lint, format, breaking changes, and drift between protos and stubs
	$(BIN)/buf lint proto
	$(BIN)/buf format -d --exit-code proto
	$(BIN)/buf breaking proto --against proto/released.binpb
	@tmp=$$(mktemp -d) && trap 'rm -rf $$tmp' EXIT && \
	$(PROTOC) $(call STUBS,$$tmp) && $(PROTOC) $(call RECORDS,$$tmp) && \
	for part in v1 client/messages/generated; do \
	  diff -r -x __init__.py -x __pycache__ $$tmp/vfmalign/$$part services/vfmalign/$$part || exit 1; \
	done && echo "stubs and records match the protos"

# BENCH passes options: make bench BENCH='--only one_mmd --repeats 5 --competitors torch_plain,torch_cdist'
bench: setup  ## the MMD engine beside its competitors on this CPU (BENCH='--only one_mmd --slow')
	$(BIN)/python -m bench run $(BENCH)

bench-competitors: setup  ## install the competitors in environments under .bench/ (4 GB with a CPU torch)
	$(BIN)/python -m bench competitors $(BENCH)

bench-gpu: setup  ## the MMD engine on a CUDA device, with both backends
	$(BIN)/python -m bench gpu $(BENCH)

# DEMO passes options: make demo DEMO='--seed 3 --task super_resolution'
demo: $(VENV)/.ready-local  ## the whole system and one alignment check on phantoms (DEMO='--seed 3')
	$(BIN)/vfmalign demo $(DEMO)

# EXPERIMENT passes options: make experiment EXPERIMENT='--data DIR --encoders DIR' (docs/experiments.md)
experiment: $(VENV)/.ready-local  ## models × tasks on phantoms, resumable
	$(BIN)/python -m bench.evidence $(EXPERIMENT)

evidence: $(VENV)/.ready-local  ## the results in docs/evidence.md, from docs/evidence/report.json
	$(BIN)/python docs/generate_evidence.py docs/evidence.md docs/evidence

up: $(VENV)/.ready-local  ## start a local stack: object storage and the services (state and logs in .vfmalign/)
	$(BIN)/vfmalign up --detach

down: $(VENV)/.ready-local  ## stop the local stack; its data stay
	$(BIN)/vfmalign down

# Most integration tests wait for a process, so more workers than cores keep the cores busy. OpenMP threads of several processes
# must not spin while they wait, and small tensors need one thread.
WORKERS ?= 4
BESIDE  := -n $(WORKERS) --dist loadscope --no-loadscope-reorder

budget: setup  ## compare the size of the repository with budget.toml
	@$(BIN)/python -m tests.budget

check: lint types imports protos budget  ## formatting, lint, types, import contracts, protos and size

k8s-check: setup  ## render the manifests of k8s/, validate them and check them against a policy (needs kubectl)
	@command -v kubectl > /dev/null || { \
	  echo "kubectl is not there: apt-get install kubectl (Debian, as root), or see https://kubernetes.io/docs/tasks/tools/" >&2; exit 1; }
	$(BIN)/pytest $(BESIDE) tests/k8s

SUITES  := tests/e2e tests/tutorials tests/pacs tests/integration tests/gpu tests/unit
FAULTS  := tests/faults tests/hostile
# FAULT_RUNS=50 takes ten minutes on two cores.
FAULT_RUNS ?= 2
RUN     := FAULT_RUNS=$(FAULT_RUNS) OMP_WAIT_POLICY=PASSIVE OMP_NUM_THREADS=1 $(BIN)/pytest $(BESIDE)

test: setup  ## unit, integration and end-to-end tests, with real S3, databases and processes (WORKERS=4)
	$(RUN) $(SUITES) --durations=20

test-faults: setup  ## lost objects, an unreachable store, a full disk, hostile clients, and processes killed at random (FAULT_RUNS=2)
	$(RUN) $(FAULTS) --durations=10

test-all: setup  ## test and test-faults as one run: tests compute while others wait for a fault
	$(RUN) $(SUITES) $(FAULTS) --durations=40

# SECONDS is the time of each target, FUZZ names targets: make fuzz SECONDS=60 FUZZ='cards programs --jobs 2'
SECONDS ?= 600
$(VENV)/.ready-fuzz: $(VENV)/.ready
	$(INSTALL) -e '.[fuzz]'
	@touch $@

fuzz: $(VENV)/.ready-fuzz  ## hostile input at every entry point until SECONDS per target are over (SECONDS=600)
	nice -n 19 $(BIN)/python -m tests.fuzz --seconds $(SECONDS) $(FUZZ)

test-fast: setup  ## the tests without the end-to-end ones
	$(BIN)/pytest -m "not e2e"

# torch is not lowered: its oldest builds are several GB.
LOWEST := $(VENV)/lowest
test-lowest: setup  ## the unit tests of core, client and command line with the lowest versions that pyproject.toml allows
	$(BIN)/pip install -q uv
	printf 'torch\ntriton\n' > $(VENV)/apart.txt
	$(BIN)/uv pip compile -q --resolution lowest-direct --python $(BIN)/python --no-annotate --no-header --excludes $(VENV)/apart.txt \
	  pyproject.toml --extra local -o $(LOWEST).txt
	$(PYTHON) -m venv --clear $(LOWEST)
	$(LOWEST)/bin/pip install -q --no-compile $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) -r $(LOWEST).txt -e '.[local]' \
	  dnslib pytest pytest-asyncio pytest-timeout pytest-xdist hypothesis trustme
	@# Old releases emit deprecation warnings for newer ones.
	$(LOWEST)/bin/python -m pytest -W default tests/unit/core tests/unit/cli $(wildcard tests/unit/client)

# --- containers; WHEELS=DIR is a folder of wheels beside PyPI, BASE a base image of a mirror, TORCH=cuda takes torch from PyPI ---
VERSION     := $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
BASE        ?= python:3.11-slim
TORCH       ?= cpu
WHEELS      ?= $(PIP_FIND_LINKS)
IMAGE_INDEX ?= $(if $(WHEELS),,$(if $(filter cpu,$(TORCH)),https://download.pytorch.org/whl/cpu))
IMAGES      ?= features mmd training finetuning finetuning-local monitoring cli cli-imaging dicom-gateway s3 postgres prometheus

# Without the environment for development, which a release does not need.
dist:  ## build the wheel and the source distribution into dist/
	rm -rf build/dist dist && $(PYTHON) -m venv build/dist
	build/dist/bin/pip install -q --require-hashes -r deploy/locks/build.txt
	build/dist/bin/pip install -q -c deploy/constraints.txt build
	build/dist/bin/python -m build --no-isolation --outdir dist

locks: setup  ## deploy/locks: every package of every image with its sha256 (needs network; WHEELS or an index for the CPU torch)
	$(BIN)/pip install -q uv
	PATH=$(abspath $(BIN)):$$PATH deploy/lock $(WHEELS)

images:  ## build every image as vfmalign/<name>:VERSION (needs docker; BASE=, TORCH=cpu or cuda, WHEELS=DIR, IMAGES=)
	@docker info > /dev/null 2>&1 || { \
	  echo "images need a running Docker engine: apt-get install docker.io docker-cli docker-buildx (Debian 13, as root) and start dockerd"; \
	  exit 1; }
	@$(MAKE) --no-print-directory --jobs 2 $(IMAGES:%=image-%)
	@docker images --filter reference='vfmalign/*:$(VERSION)' --format 'table {{.Repository}}\t{{.Size}}'

# Two at a time: an installation uses one core, and stages that images share are built once.
image-%:
	@echo "building vfmalign/$*:$(VERSION) ..."
	@docker buildx build --quiet --load -f deploy/Dockerfile --target $* -t vfmalign/$*:$(VERSION) \
	  $(if $(WHEELS),--build-context wheels=$(WHEELS)) --build-arg BASE=$(BASE) --build-arg TORCH=$(TORCH) \
	  --build-arg TORCH_INDEX=$(IMAGE_INDEX) --build-arg VERSION=$(VERSION) \
	  --build-arg REVISION=$$(git rev-parse HEAD 2>/dev/null || echo unknown) .

test-containers: setup images  ## build the images and run a check in containers, each of which is killed once
	$(BIN)/pytest -n 2 --dist loadscope --no-loadscope-reorder tests/containers --durations=10

compose-up: images deploy/.env  ## start the whole system in containers (deploy/compose.yaml)
	docker compose -f deploy/compose.yaml up --detach --wait
	docker compose -f deploy/compose.yaml run --rm cli store init
	docker compose -f deploy/compose.yaml cp credentials:/data/owner/token deploy/owner.token

compose-down:  ## stop the containers; their volumes stay
	docker compose -f deploy/compose.yaml down

deploy/.env:
	umask 077 && deploy/draw-credentials > $@.partial && mv $@.partial $@

# Deploys the overlay into the cluster of KUBECONFIG and removes it again; never part of `make test`.
OVERLAY        ?= k8s/overlays/local
CLUSTER_EPOCHS ?= 40
GPUS           ?= 1
test-cluster: setup  ## one check on the cluster of KUBECONFIG, with pods deleted meanwhile (OVERLAY=, CLUSTER_EPOCHS=40, GPUS=1 or 2)
	@test -n "$$KUBECONFIG" || { echo "set KUBECONFIG to the file of a cluster that may be littered"; exit 2; }
	OVERLAY=$(OVERLAY) CLUSTER_EPOCHS=$(CLUSTER_EPOCHS) GPUS=$(GPUS) $(BIN)/pytest tests/cluster -rs -s

clean:  ## remove the environment and caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache build dist
