# SonoDistill: every command bootstraps .venv by itself.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

# What the command line may set; any other variable is refused. Values may hold blanks. RUN is one folder or a list as a
# shell reads it, blanks in quotes; ARGS are further options of the command, as a shell reads them.
EXP ?= srkd
DATA ?= phantom
ARGS ?=
CKPT ?=
# weights and prompts of your own; HC18_ROOT, PLANES_ROOT, SHARDS, TABLE and IMAGES say where data are (docs/reproduce.md, docs/own-data.md)
TEACHER ?=
STUDENT ?=
PROTOCOL ?=
SUITE ?= main
SEEDS ?= 1,2,3
SWEEP ?= decay
COUNT ?=
JOBS ?=
SWEEP_NAME ?=
ID ?=
TEST_JOBS ?= 2
FUZZ_EXAMPLES ?= 10000
QUICK ?=
ROOT ?=
IMAGES ?=
PIXEL_SIZE ?=
OUT ?=
FROM ?=
PACKAGE ?=
RUN ?=
EXPORT ?=
BASE ?=
FOLDERS := HC18_ROOT PLANES_ROOT SHARDS TABLE IMAGES
ROOMS := losses metrics figures models datamodules lightning_modules callbacks export experiments

UV ?= $(shell command -v uv 2>/dev/null || echo .uv/bin/uv)
GET_UV = command -v "$(UV)" >/dev/null 2>&1 || { echo "uv is not installed; putting it into .uv"; \
  python3 -m venv .uv && .uv/bin/python -m pip install --quiet uv; }
PY := .venv/bin/python
READY := .venv/.ready
# What .venv was made with, until one of them is set again: "python=3.11 torch=cpu". TORCH_BACKEND is uv's
# --torch-backend (cpu, cu128, ...); empty or auto is what the platform's default is.
MADE := $(or $(shell cat $(READY) 2>/dev/null),python=3.11 torch=)
PYTHON_VERSION ?= $(patsubst python=%,%,$(filter python=%,$(MADE)))
TORCH_BACKEND ?= $(patsubst torch=%,%,$(filter torch=%,$(MADE)))
WANTED := python=$(PYTHON_VERSION) torch=$(TORCH_BACKEND)
# A value as one word of the shell; an option with it, where it is given; a value that a target cannot do without.
q = '$(subst ','\'',$(1))'
option = $(if $($(2)),--$(1)=$(call q,$($(2))))
# Only as an argument of make: an exported TABLE says what to train on, not what else to write.
typed = $(if $(filter command,$(origin $(2))),$(call option,$(1),$(2)))
need = $(call q,$(or $($(1)),$(error $@ needs $(1)=$(2))))
GIVEN = $(call option,teacher,TEACHER) $(call option,student,STUDENT) $(call option,protocol,PROTOCOL)
BOUNDED = $(if $(filter-out 0 false False no off,$(QUICK)),--quick=true)
# A command that goes on without what was meant, as in EXPORT="$(ls ...)" of nothing, would do something else.
REFUSE_EMPTY = $(foreach name,$(1),$(if $($(name)),,$(if $(filter command,$(origin $(name))),$(error $@: $(name)= is empty))))

ifeq ($(wildcard experiments/__main__.py),)
$(error run make in the repository: make -C $(call q,$(patsubst %/Makefile,%,$(strip $(MAKEFILE_LIST)))) $(MAKECMDGOALS))
endif
KNOWN := $(FOLDERS) $(shell sed -nE 's/^(export )?([A-Z0-9_]+) \?=.*/\2/p' Makefile)
NEAREST := import difflib, sys; name, *known = sys.argv[1:]; name = name.upper(); \
  near = [k for k in known if name.startswith(k) or k.startswith(name)] or difflib.get_close_matches(name, known, 1, 0.55); \
  print(*(f"did you mean {k}=?" for k in near[:1]))
$(foreach name,$(filter-out $(KNOWN),$(foreach v,$(.VARIABLES),$(if $(filter command,$(origin $(v))),$(v)))),\
  $(error $(strip $(name)=: no such variable; $(shell python3 -c $(call q,$(NEAREST)) $(call q,$(name)) $(KNOWN)) \
  options of a command go into ARGS="--option=value")))

# A failed command has said why. Make adds no "*** [...] Error" where a recipe's exit status 1 means "not up to date", as
# it does under -q; + runs the recipe all the same, so every line of a recipe begins with $(DO). A dry run (-n) stays one.
ifeq ($(findstring n,$(firstword -$(MAKEFLAGS))),)
MAKEFLAGS += -q
unexport MAKEFLAGS
DO := +@
else
DO := @
endif

export $(FOLDERS)
export NO_ALBUMENTATIONS_UPDATE := 1
# glibc allocates each large tensor afresh and gives it back at once, which a CPU pays with page faults.
export MALLOC_MMAP_MAX_ ?= 0
export MALLOC_TRIM_THRESHOLD_ ?= 8000000000
# Without cached bytecode every start costs half a minute of compiling.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup add train evaluate predict reproduce compare-paper table check-data shards import-protocol export latency demo sweep sweep-agent sweep-report report test test-faults test-fuzz test-slow lint types check audit sbom docs bench bench-compare gpu-check lock clean remake

EDITABLE = "$(UV)" pip install --quiet --python .venv --no-deps --config-settings editable_mode=compat --editable .

help:  ## print this list
	$(DO)grep -hE '^[a-z-]+:.*## ' Makefile | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 16

setup: $(READY)  ## make .venv with everything pinned (TORCH_BACKEND=cpu for the small torch)

$(READY): requirements.txt $(if $(filter-out $(MADE),$(WANTED)),remake)
	$(DO)$(GET_UV)
	$(DO)echo "setup: making .venv with $(WANTED) (about half a minute when packages are cached)"
	$(DO)"$(UV)" venv --quiet --clear --python $(PYTHON_VERSION) .venv
	$(DO)"$(UV)" pip install --quiet --python .venv $(if $(TORCH_BACKEND),--torch-backend=$(TORCH_BACKEND)) -r requirements.txt
	$(DO)$(EDITABLE)
	$(DO)echo "$(WANTED)" > $@

add: $(READY)  ## install a further package or extra: make add PACKAGE='.[litert]'
	$(DO)$(GET_UV)
	$(DO)"$(UV)" pip install --quiet --python .venv $(call need,PACKAGE,'.[litert]')
	$(DO)$(if $(filter .%,$(PACKAGE)),$(EDITABLE),true)  # an extra of this project has installed a copy of it

train: $(READY)  ## train EXP on DATA and evaluate it: make train EXP=srkd DATA=phantom (QUICK=1: does everything run, in a minute)
	$(DO)$(PY) -m experiments train $(EXP) $(DATA) $(GIVEN) $(BOUNDED) $(ARGS)

# EXP's default is an experiment to train, nothing to evaluate.
evaluate: $(READY)  ## evaluate a checkpoint: make evaluate CKPT=outputs/.../best.ckpt DATA=phantom (or EXP=teacher)
	$(DO)$(PY) -m experiments evaluate $(DATA) $(or $(if $(CKPT),$(call q,$(CKPT))),$(if $(filter-out file,$(origin EXP)),$(EXP))) $(GIVEN) $(BOUNDED) $(ARGS)

predict: $(READY)  ## ask a checkpoint or an export about images: make predict CKPT=... IMAGES=folder PIXEL_SIZE=0.2
	$(DO)$(PY) -m experiments predict $(call need,CKPT,path/to/student.ckpt or an export folder) $(call need,IMAGES,folder or table) $(call option,pixel_size,PIXEL_SIZE) $(call option,protocol,PROTOCOL) $(call option,out,OUT) $(ARGS)

reproduce: $(READY)  ## run the paper's experiments, going on where it stopped: make reproduce SUITE=main SEEDS=1,2,3 JOBS=1 DATA=phantom
	$(DO)$(PY) -m experiments reproduce $(SUITE) $(DATA) --seeds=$(SEEDS) $(call option,jobs,JOBS) $(GIVEN) $(BOUNDED) $(ARGS)

compare-paper: $(READY)  ## published models and CKPT beside the paper: make compare-paper TEACHER=... STUDENT=... PROTOCOL=... CKPT=...
	$(DO)$(PY) -m experiments reproduce published $(GIVEN) $(call option,ckpt,CKPT) $(ARGS)

table: $(READY)  ## our results beside the paper's, as Markdown, CSV, LaTeX and plot: make table DATA=phantom
	$(DO)$(PY) -m experiments table $(DATA) $(ARGS)

check-data: $(READY)  ## is a corpus whole, readable and free of leaks: make check-data DATA=hc18 ROOT=/data/HC18 (or DATA=table TABLE=...)
	$(DO)$(PY) -m experiments data check $(patsubst table%,table,$(DATA)) $(if $(filter table%,$(DATA)),$(call need,TABLE,table) $(call option,images,IMAGES),$(call need,ROOT,the corpus's folder)) $(ARGS)

shards: $(READY)  ## build a pre-training corpus from the public sets and a table: make shards ROOT=/data TABLE=... OUT=/data/shards
	$(DO)$(PY) -m experiments data shards $(if $(call typed,table,TABLE),$(if $(ROOT),$(call q,$(ROOT))),$(call need,ROOT,folder of the public sets)) $(call need,OUT,folder) $(call typed,table,TABLE) $(call typed,images,IMAGES) $(ARGS)

import-protocol: $(READY)  ## read the official prompts out of a checkout: make import-protocol FROM=../FetalCLIP OUT=protocol.json
	$(DO)$(PY) -m experiments import-protocol $(call need,FROM,a checkout of FetalCLIP) $(call option,out,OUT) $(ARGS)

sweep: $(READY)  ## search hyper-parameters, on W&B when logged in, else here: make sweep SWEEP=decay COUNT=20 JOBS=1 DATA=phantom
	$(DO)$(PY) -m experiments sweep run $(call q,$(SWEEP)) $(call option,count,COUNT) $(call option,jobs,JOBS) $(call option,name,SWEEP_NAME) --data $(DATA) -- $(GIVEN) $(BOUNDED) $(ARGS)

sweep-agent: $(READY)  ## work on a W&B sweep made elsewhere: make sweep-agent ID=entity/project/id
	$(DO)$(PY) -m experiments sweep agent $(call need,ID,entity/project/id as make sweep printed it) $(call option,count,COUNT) $(call option,jobs,JOBS)

sweep-report: $(READY)  ## trials best first, plots and the best command of a local sweep: make sweep-report SWEEP=decay
	$(DO)$(PY) -m experiments sweep report $(call q,$(or $(SWEEP_NAME),$(SWEEP)))

report: $(READY)  ## one HTML file about finished runs: make report RUN="outputs/srkd/... outputs/no-kd/..." (OUT=file)
	$(DO)$(PY) -m experiments report $(if $(shell test -e $(call need,RUN,"outputs/EXP/RUN ...") && echo one),$(call q,$(RUN)),$(RUN)) $(call option,out,OUT) $(ARGS)

# One thread a process: threads of several processes that spin on the same cores starve each other.
test: $(READY)  ## run the test suite (minutes; TEST_JOBS=0 for one process, as a debugger needs)
	$(DO)OMP_NUM_THREADS=1 $(PY) -m pytest -q -n $(TEST_JOBS) $(ARGS)

test-faults: $(READY)  ## damaged files, kill -9, SLURM and torchrun (20 minutes; docs/reliability.md)
	$(DO)OMP_NUM_THREADS=1 $(PY) -m pytest -q -m faults $(ARGS)

test-fuzz: $(READY)  ## random inputs for the readers of files, FUZZ_EXAMPLES of each kind
	$(DO)FUZZ_EXAMPLES=$(FUZZ_EXAMPLES) $(PY) -m pytest -q -m fuzz $(ARGS)

test-slow: $(READY)  ## run the slow checks
	$(DO)$(PY) -m pytest -q -m slow $(ARGS)

lint: $(READY)  ## ruff and mypy
	$(DO)$(PY) -m ruff check . && $(PY) -m ruff format --check .
	$(DO)$(PY) -m mypy $(ROOMS)

types: $(READY)
	$(DO)$(PY) -m mypy $(ROOMS)

check: lint test  ## lint, types and tests: run it before a pull request

# --strict: a package of which PyPI tells nothing is a failure; without it none may have been looked at, with exit status 0.
audit:  ## unsafe patterns in our code, known vulnerabilities of the pinned packages (asks PyPI)
	$(DO)$(GET_UV)
	$(DO)"$(UV)" tool run --from "bandit[toml]==1.9.4" bandit -q -c pyproject.toml -r $(ROOMS) sonodistill benchmarks setup.py
	$(DO)PIP_AUDIT_LOGLEVEL=ERROR "$(UV)" tool run pip-audit@2.10.1 --strict --requirement requirements.txt --no-deps --disable-pip

sbom:  ## list the pinned packages as a CycloneDX file: make sbom OUT=sonodistill.cdx.json
	$(DO)$(GET_UV)
	$(DO)"$(UV)" tool run --from cyclonedx-bom==7.5.0 cyclonedx-py requirements requirements.txt --pyproject pyproject.toml --of JSON -o $(call need,OUT,file)

docs: $(READY)  ## build the documentation site into build/site
	$(DO)NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict  # with --quiet it would not fail on a broken link

# Without DATA on the command line the corpus is the one of the checkpoint's own run.
export: $(READY)  ## write ONNX, LiteRT and Core ML files, proven: make export CKPT=outputs/.../best.ckpt (or random:MobileCLIP2-S0) DATA=hc18
	$(DO)$(PY) -m experiments export $(call need,CKPT,path/to/student.ckpt) $(if $(filter-out file undefined,$(origin DATA)),--preset=$(DATA)) $(call option,protocol,PROTOCOL) $(ARGS)

latency: $(READY)  ## time CKPT=... or EXPORT=outputs/.../export against its budget
	$(if $(and $(EXPORT),$(CKPT)),$(error latency times one thing: CKPT=... or EXPORT=..., not both))$(call REFUSE_EMPTY,EXPORT CKPT)$(DO)$(PY) -m experiments latency $(if $(EXPORT)$(CKPT),$(call q,$(or $(EXPORT),$(CKPT)))) $(ARGS)

demo: $(READY)  ## open a page on which a student reads frames in the browser: make demo CKPT=... or EXPORT=... (ARGS=--build=FOLDER)
	$(if $(and $(EXPORT),$(CKPT)),$(error demo shows one student: CKPT=... or EXPORT=..., not both))$(call REFUSE_EMPTY,EXPORT CKPT)$(DO)$(PY) -m experiments demo $(if $(EXPORT)$(CKPT),$(call q,$(or $(EXPORT),$(CKPT)))) $(ARGS)

bench: $(READY)  ## measure every stage against its baseline, side by side
	$(DO)$(PY) -m experiments bench $(ARGS)

gpu-check: $(READY)  ## test and measure a CUDA card in 8 minutes (QUICK=1: the same code on the CPU, small)
	$(DO)$(PY) -m benchmarks gpu $(if $(BOUNDED),--quick) $(call option,out,OUT) $(ARGS)

bench-compare: $(READY)  ## tell a regression from noise: make bench-compare BASE=commit (ARGS="loss_speed --rounds=5")
	$(DO)$(PY) -m benchmarks._compare $(call need,BASE,a commit) $(ARGS)

# CUDA's own packages stay unpinned: they come with whichever torch TORCH_BACKEND chooses.
lock:  ## compile requirements.txt from pyproject.toml
	$(DO)$(GET_UV)
	$(DO)"$(UV)" pip compile pyproject.toml --extra export --extra sweep --extra dicom --extra s3 --extra dev --quiet --universal --upgrade \
	  --python-version 3.11 --no-emit-index-url --no-annotate --no-header --output-file requirements.all
	$(DO)grep -vE '^(nvidia-|triton|cuda-)' requirements.all > requirements.txt; rm requirements.all

clean:  ## remove caches and build folders (keeps data/ and outputs/)
	$(DO)rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	$(DO)find . -name __pycache__ -not -path './.venv/*' -type d -prune -exec rm -rf {} +
