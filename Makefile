# A verb per stage and per habit. Everything runs in .venv, which `make install` builds; `make help` lists the verbs.
#
# Variables of the stage targets (all optional):
#   IMAGES=folder|list|tar|COCO json   RUN=run folder        RECIPE=cuts3d|cuts3d_rounds|localcut_importance|localcut|maskcut
#   FEATURES=preset|file               DEPTH=name|file       MOTION=name|maps:folder (of clips)   DEVICE=auto|cpu|cuda
#   SHARD_SIZE=n   BATCH=n             SET="local_cut.tau_knn=0.05 rounds.n=4"
#   RAY=1 (Ray on this machine)        ADDRESS=auto|host:6379 (on a cluster)      WORKERS=n (at most, on Ray)
# Of submit, the same, and: ADDRESS=http://head:8265 (its job server)   WAIT=1 (until the job ends); RUN is a URL or absolute
# Of train: RUN="run folder …"   CONFIG=name|file   WORK=folder   RESUME=1   AMP=1   BACKBONE=file|random   ITERATIONS=n
#           DEVICE, SET, ADDRESS, RAY and WORKERS as above
# Of self-train: RUN, CONFIG, WORK and ITERATIONS as of train   CHECKPOINT=detector.safetensors   ROUNDS=n
# Of train-semantic: IMAGES, OUT=folder   RECIPE=see cuts3d semantic-recipes   CLUSTERS=n   ITERATIONS=n   SEARCH=n   RESUME=1
#           AMP=1   INPUTS=folder (of another training, in place of IMAGES); FEATURES, DEPTH, DEVICE, SET, ADDRESS, RAY and WORKERS as above
# Of eval-detector: CHECKPOINT   TRUTH="[format:]path …"   OUT=metrics.json   COMPARE=detector.safetensors   Of predict: IMAGES="photo folder video …"
#   CHECKPOINT   OUT=folder   EVERY=n (of a video, each n-th frame)   MIN_SCORE=x
# Of compare: RECIPES=name,name,…   TRUTH, OUT, and IMAGES, FEATURES, DEPTH, DEVICE, SHARD_SIZE, BATCH, SET as above (SET="recipe.stage.option=value")
# Of cups-demo: CLIPS=cityscapes:folder|kitti:folder|clips:file   MOTION=see cuts3d recipes motion   OUT, CLUSTERS
# Of evaluate-semantic: TRUTH=format:path   CLASSES=n   COMPARE=run   ASSIGNMENT=file   OUT=scores.json
# Of evaluate-panoptic: the same, RUN or a folder of predictions, and VOID=panopticapi|forgiven
# Of bench, besides IMAGES, FEATURES, DEPTH and DEVICE: COUNT=photos   THREADS=cores   OUT=file.csv
# Of bench-compare: BASE=commit   RECIPE=name,name,…   TURNS=n, SET, and those of bench
# Of gpu-bundle: ASSETS=folder with weights/ and coco/images/

PYTHON ?= python3.11
RUN ?= runs/default
WORK ?= runs/training
BIN := .venv/bin
# A test process per core, one thread each: two that thread on two cores take twice as long.
PYTEST := OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest
PARALLEL := --numprocesses auto --maxprocesses 4 --dist worksteal
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

RUN_OPTIONS = --out $(RUN) $(if $(RECIPE),--recipe $(RECIPE)) \
	$(if $(IMAGES),--images $(IMAGES)) $(if $(FEATURES),--features $(FEATURES)) $(if $(DEPTH),--depth $(DEPTH)) \
	$(if $(MOTION),--motion $(MOTION)) $(if $(DEVICE),--device $(DEVICE)) $(if $(SHARD_SIZE),--shard-size $(SHARD_SIZE)) $(if $(BATCH),--batch-size $(BATCH)) \
	$(foreach option,$(SET),--set $(option)) $(if $(WORKERS),--workers $(WORKERS))
ON_RAY = $(if $(ADDRESS),--ray $(ADDRESS),$(if $(RAY),--ray))

.PHONY: help install install-test install-detector install-mmcv demo pseudo-masks depth features ncut localcut confidence refine export gallery compare evaluate evaluate-semantic evaluate-panoptic status verify \
	submit train train-semantic semantic-demo cups-demo self-train eval-detector predict test test-fast soak lint types bench bench-compare gpu-bundle clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z][a-z -]*:.*## /{printf "%-17s %s\n", $$1, $$2}' Makefile

# --- environment: each stamp is newer than what it was made from, so an unchanged install is a no-op -----------------

install: .venv/.base  ## .venv with what the main job needs
install-detector: .venv/.detector  ## the same, and MMDetection, for the detector
install-test: .venv/.test  ## the same, and what tests, lint and types need
install-mmcv: .venv/.mmcv  ## install-detector, and mmcv's own operators: compiled, once, for models beyond ours

.venv/.base: setup.cfg pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "no $(PYTHON) here: install Python 3.11, or make PYTHON=/path/to/python3.11"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "installing into .venv: 5 GB, a few minutes"
	$(PIP) --editable '.[demo,cluster]'
	$(BIN)/python -c 'import pipeline.system_check as check; check.main()'
	@touch $@

# mmcv-lite and the compiled mmcv of `make install-mmcv` own the same folder: one goes before the other comes.
UNINSTALL_MMCV = $(if $(wildcard .venv/lib/python*/site-packages/mmcv-[0-9]*.dist-info),$(BIN)/python -m pip uninstall --quiet --yes mmcv)
INSTALL_OPERATORS = $(if $(wildcard .venv/.mmcv),sh scripts/install_mmcv.sh $(BIN)/python,@$(BIN)/python -m detector.operators)

.venv/.detector: .venv/.base
	$(UNINSTALL_MMCV)
	$(PIP) --editable '.[detector]'
	$(INSTALL_OPERATORS)
	@touch $@

.venv/.test: .venv/.base
	$(UNINSTALL_MMCV)
	$(PIP) --editable '.[demo,cluster,s3,detector,test]'
	$(INSTALL_OPERATORS)
	@touch .venv/.detector $@

.venv/.mmcv: .venv/.detector scripts/install_mmcv.sh
	sh scripts/install_mmcv.sh $(BIN)/python
	@touch $@

# --- the main job -----------------------------------------------------------------------------------------------------

demo: install  ## photos in, pictures out, in OUT=demo: the cuts3d recipe on sample photos, or IMAGES=folder
	$(BIN)/cuts3d demo --out $(or $(OUT),demo) $(if $(IMAGES),--images $(IMAGES)) $(if $(RECIPE),--recipe $(RECIPE))

pseudo-masks: install  ## all stages fused, only the pseudo-masks are kept
	$(BIN)/cuts3d run $(ON_RAY) $(RUN_OPTIONS)

depth features ncut localcut confidence refine: install  ## up to and including this stage, whose output is kept
	$(BIN)/cuts3d run $(ON_RAY) $(RUN_OPTIONS) --until $@

submit: install  ## pseudo-masks as a job of the Ray cluster at ADDRESS=http://head:8265, with this source
	$(BIN)/cuts3d submit $(if $(ADDRESS),--address $(ADDRESS)) $(if $(WAIT),--wait) -- run $(RUN_OPTIONS)

export: install  ## RUN's pseudo-masks as COCO JSON, and overlay PNGs
	$(BIN)/cuts3d export $(RUN) --coco $(RUN)/pseudo_masks.json --overlays $(RUN)/overlays

compare: install  ## RECIPES=maskcut,cuts3d on the same IMAGES, as table and page in OUT=compare; scored if TRUTH=instances.json
	$(BIN)/cuts3d compare --recipes $(or $(RECIPES),maskcut,cuts3d_rounds,cuts3d) --images $(IMAGES) --out $(or $(OUT),compare) \
		$(if $(TRUTH),--truth $(TRUTH)) $(if $(FEATURES),--features $(FEATURES)) $(if $(DEPTH),--depth $(DEPTH)) \
		$(if $(MOTION),--motion $(MOTION)) $(if $(DEVICE),--device $(DEVICE)) $(if $(SHARD_SIZE),--shard-size $(SHARD_SIZE)) $(if $(BATCH),--batch-size $(BATCH)) \
		$(foreach option,$(SET),--set $(option))

gallery: install  ## RUN as one HTML page to sort, filter and look into
	$(BIN)/cuts3d gallery $(RUN) --out $(RUN)/gallery.html

evaluate: install  ## score RUN against TRUTH=instances.json, beside COMPARE=run if given
	$(BIN)/cuts3d evaluate $(RUN) --truth $(TRUTH) $(if $(COMPARE),--compare $(COMPARE))

evaluate-semantic: install  ## score RUN's labels against TRUTH=cityscapes:folder, its CLASSES=27, beside COMPARE=run if given
	$(BIN)/cuts3d evaluate-semantic $(RUN) --truth $(TRUTH) $(if $(CLASSES),--classes $(CLASSES)) \
		$(if $(COMPARE),--compare $(COMPARE)) $(if $(ASSIGNMENT),--assignment $(ASSIGNMENT)) $(if $(OUT),--json $(OUT))

evaluate-panoptic: install  ## PQ of RUN's panoptic labels against TRUTH=cityscapes:folder, its CLASSES=27, beside COMPARE=run if given
	$(BIN)/cuts3d evaluate-panoptic $(RUN) --truth $(TRUTH) $(if $(CLASSES),--classes $(CLASSES)) \
		$(if $(VOID),--void $(VOID)) $(if $(COMPARE),--compare $(COMPARE)) \
		$(if $(ASSIGNMENT),--assignment $(ASSIGNMENT)) $(if $(OUT),--json $(OUT))

status: install  ## what is done and what is missing of RUN
	$(BIN)/cuts3d status $(RUN)

verify: install  ## every checksum, offset and mask of RUN
	$(BIN)/cuts3d verify $(RUN)

# --- semantic labels --------------------------------------------------------------------------------------------------

train-semantic: install  ## clusters of IMAGES without labels, by RECIPE (depthg), into OUT=runs/semantic; RESUME=1 resumes
	$(BIN)/cuts3d train-semantic $(ON_RAY) --out $(or $(OUT),runs/semantic) $(if $(IMAGES),--images $(IMAGES)) \
		$(if $(INPUTS),--inputs $(INPUTS)) $(if $(RECIPE),--recipe $(RECIPE)) $(if $(FEATURES),--features $(FEATURES)) \
		$(if $(DEPTH),--depth $(DEPTH)) $(if $(CLUSTERS),--clusters $(CLUSTERS)) $(if $(ITERATIONS),--iterations $(ITERATIONS)) \
		$(if $(SEARCH),--search $(SEARCH)) $(if $(DEVICE),--device $(DEVICE)) $(foreach option,$(SET),--set $(option)) \
		$(if $(WORKERS),--workers $(WORKERS)) $(if $(RESUME),--resume) $(if $(AMP),--amp)

semantic-demo: install  ## sample photos, or IMAGES=folder, labelled without labels: clusters as picture and page in OUT=semantic-demo
	$(BIN)/cuts3d semantic-demo --out $(or $(OUT),semantic-demo) $(if $(IMAGES),--images $(IMAGES)) \
		$(if $(CLUSTERS),--clusters $(CLUSTERS)) $(if $(ITERATIONS),--iterations $(ITERATIONS))

cups-demo: install  ## a drawn street, or CLIPS=kitti:folder: what moves and what all else is, as pictures and page in OUT=cups-demo
	$(BIN)/cuts3d cups-demo --out $(or $(OUT),cups-demo) $(if $(CLIPS),--images $(CLIPS)) $(if $(MOTION),--motion $(MOTION)) \
		$(if $(CLUSTERS),--clusters $(CLUSTERS))

# --- the detector -----------------------------------------------------------------------------------------------------

train: install-detector  ## the detector on the masks of RUN, by CONFIG (tiny: minutes on two cores), in WORK; RESUME=1 resumes
	$(BIN)/cuts3d train $(ON_RAY) $(foreach run,$(RUN),--run $(run)) --work-dir $(WORK) $(if $(CONFIG),--config $(CONFIG)) \
		$(if $(DEVICE),--device $(DEVICE)) $(foreach option,$(SET),--set $(option)) $(if $(WORKERS),--workers $(WORKERS)) \
		$(if $(RESUME),--resume) $(if $(AMP),--amp) $(if $(BACKBONE),--backbone $(BACKBONE)) \
		$(if $(ITERATIONS),--iterations $(ITERATIONS))

PREDICTING = --checkpoint $(CHECKPOINT) $(if $(DEVICE),--device $(DEVICE)) $(if $(BATCH),--batch-size $(BATCH)) \
	$(if $(AMP),--amp) $(if $(WORKERS),--workers $(WORKERS))

self-train: install-detector  ## ROUNDS of predicting on the images of RUN with CHECKPOINT and training on it, in WORK
	$(BIN)/cuts3d self-train $(ON_RAY) --run $(RUN) --work-dir $(WORK) $(if $(CONFIG),--config $(CONFIG)) \
		$(if $(ROUNDS),--rounds $(ROUNDS)) $(if $(ITERATIONS),--iterations $(ITERATIONS)) $(foreach option,$(SET),--set $(option)) $(filter-out --amp,$(PREDICTING)) \
		$(if $(AMP),--train-amp)

eval-detector: install-detector  ## score CHECKPOINT against TRUTH as the papers do, into OUT=metrics.json, beside COMPARE if given
	$(BIN)/cuts3d evaluate-detector $(ON_RAY) $(PREDICTING) $(foreach truth,$(TRUTH),--truth $(truth)) \
		--out $(or $(OUT),metrics.json) $(if $(COMPARE),--compare $(COMPARE))

predict: install-detector  ## CHECKPOINT on IMAGES: overlays, COCO JSON and videos in OUT=predictions
	$(BIN)/cuts3d predict $(IMAGES) $(ON_RAY) $(PREDICTING) --out $(or $(OUT),predictions) \
		$(if $(EVERY),--every $(EVERY)) $(if $(MIN_SCORE),--min-score $(MIN_SCORE))

# --- habits -----------------------------------------------------------------------------------------------------------

# Those that start Ray wait more than they work: two files at a time, longest first, beside all others, but for the one
# that fills the memory, which comes last and alone. The last lines say what was skipped.
LAST := tests/cluster/test_ray_memory.py
RAY_LOG := .pytest_cache/ray.log
test: export CUTS3D_TEST_SKIPS = $(CURDIR)/.pytest_cache/skips
test: DURATION = $(if $(DURATIONS),--durations $(DURATIONS))
test: install-test  ## all tests; DURATIONS=60: and the 60 slowest
	@mkdir -p .pytest_cache && rm -f $(CUTS3D_TEST_SKIPS)
	@$(PYTEST) --numprocesses 2 --dist loadfile --no-loadscope-reorder $(DURATION) -m ray --deselect $(LAST) \
		$$(grep --recursive --files-with-matches --include='test_*.py' 'mark\.ray' tests) >$(RAY_LOG) 2>&1 & ray=$$!; \
	trap 'kill $$ray 2>/dev/null' EXIT; trap 'exit 130' INT TERM; \
	$(PYTEST) $(PARALLEL) $(DURATION) -m "not ray"; others=$$?; \
	wait $$ray; with_ray=$$?; cat $(RAY_LOG); exit $$((others | with_ray))
	$(PYTEST) $(DURATION) -m ray $(LAST)

test-fast: install-test  ## the tests that are not slow
	$(PYTEST) $(PARALLEL)

soak: install-test  ## a run on Ray whose processes are killed for MINUTES=20, and its ledger afterwards
	$(BIN)/python benchmarks/soak.py --minutes $(or $(MINUTES),20)

lint: install-test  ## ruff, and the contracts on who imports whom
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: install-test  ## mypy
	$(BIN)/mypy

bench: install-test  ## seconds a stage, masks and memory beside a transcription of MaskCut, on sample photos or IMAGES
	$(BIN)/python benchmarks/bench.py $(if $(IMAGES),--images $(IMAGES)) $(if $(COUNT),--count $(COUNT)) \
		$(if $(FEATURES),--features $(FEATURES)) $(if $(DEPTH),--depth $(DEPTH)) $(if $(DEVICE),--device $(DEVICE)) \
		$(if $(THREADS),--threads $(THREADS)) $(if $(OUT),--out $(OUT))

bench-compare: install-test  ## images per second of RECIPE (cuts3d) beside commit BASE, on sample photos or IMAGES, and whether the masks are the same
	$(BIN)/python benchmarks/bench_compare.py --base $(BASE) $(if $(RECIPE),--recipe $(RECIPE)) $(if $(IMAGES),--images $(IMAGES)) \
		$(if $(COUNT),--count $(COUNT)) $(if $(TURNS),--turns $(TURNS)) $(if $(THREADS),--threads $(THREADS)) \
		$(if $(FEATURES),--features $(FEATURES)) $(if $(DEPTH),--depth $(DEPTH)) $(if $(DEVICE),--device $(DEVICE)) \
		$(foreach option,$(SET),--set $(option)) $(if $(OUT),--out $(OUT))

gpu-bundle: install  ## what a machine with a GPU needs for benchmarks/gpu.py, in .gpu: packages, weights and photos, below 64 MiB
	$(BIN)/python benchmarks/gpu_bundle.py $(if $(ASSETS),--assets $(ASSETS))

clean:  ## remove caches and builds, not .venv and not runs
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
