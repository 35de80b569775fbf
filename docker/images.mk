# Targets of the images; the top Makefile includes this file. Settings are variables: make image TARGET=inference
#
#   TARGET=train|inference  FLAVOUR=cuda|cpu  ENGINE=docker|podman|buildah (default: the first that is there)
#   BASE_IMAGE= RUNTIME_IMAGE=     other bases; BASE_IMAGE=local makes them here, from Debian's packages and PyPI
#   DS_OPS= TORCH_CUDA_ARCH_LIST= TORCH_VERSION= TORCH_CUDA= DEEPSPEED_VERSION= CPU_MARCH= CPU_SIMD= MAX_JOBS=
#   COMPILER=yes (g++ in the image, for torch.compile and Triton)  FABRIC=verbs|efa  NCCL_TESTS=yes
#   REGISTRY= (image-push)  OUT=dist (sqsh, sif, bundle, wheels)
#   IMAGE= (facts, push, sqsh, sif, bundle: another image than the one of this revision)
#
# make hands variables of its command line and of the environment on to the programs; defaults are theirs.
PYTHON ?= python3
IMAGEBUILD = PYTHONPATH=docker $(PYTHON) -m imagebuild

.PHONY: image image-check image-facts image-push image-lint image-test image-clean sqsh sif bundle wheels lock

image: ## build an image (TARGET, FLAVOUR, BASE_IMAGE, ENGINE, …: docker/README.md)
	@$(IMAGEBUILD).build

image-check: ## say in a second what is wrong with the image that is asked for
	@$(IMAGEBUILD).build --check

image-facts: ## print what the image holds, for the launcher: make -s image-facts > jobs/clusters/NAME.image.json
	@$(IMAGEBUILD).export facts

image-push: ## push the image to REGISTRY
	@$(IMAGEBUILD).export push

sqsh: ## the image as one squashfs file, for Pyxis/enroot and charliecloud
	@$(IMAGEBUILD).export sqsh

sif: ## the image as one SIF file, for Apptainer
	@$(IMAGEBUILD).export sif

bundle: ## the image as an OCI bundle, for Slurm's own srun --container
	@$(IMAGEBUILD).export bundle

wheels: ## the op wheel for the cards at hand, and all other wheels, for clusters without internet
	@$(IMAGEBUILD).wheels

image-clean: ## remove the images that this project built
	@$(IMAGEBUILD).export clean

image-lint: install ## lint the Dockerfile and its shell scripts
	$(BIN)/hadolint --config docker/hadolint.yaml docker/Dockerfile docker/serve.Dockerfile
	$(BIN)/shellcheck docker/local/*.sh

image-test: install ## build the cpu flavour for real and run it
	$(BIN)/python -m pytest -m image tests/real/image

# The markers keep one lock for every Python from 3.11 on. Needs uv (pip install uv).
LOCK = uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate \
  --custom-compile-command 'make lock'
IN_LOCK = sed -n 's/^$(1)==\([^ ]*\).*/\1/p' docker/requirements/$(2)

lock: ## write the lock files anew (TORCH_VERSION, of FLAVOUR=cuda|cpu, and DEEPSPEED_VERSION: other versions than now)
	@for flavour in cuda cpu; do \
	  torch=$$($(call IN_LOCK,torch,train-$$flavour.txt)); \
	  if [ "$${FLAVOUR:-cuda}" = $$flavour ]; then torch=$${TORCH_VERSION:-$$torch}; fi; \
	  for target in train inference; do \
	    echo "torch==$$torch" \
	      | (cd docker/requirements && $(LOCK) - "$$target-$$flavour.in" -o "$$target-$$flavour.txt"); done; done
	@echo "deepspeed==$${DEEPSPEED_VERSION:-$$($(call IN_LOCK,deepspeed,deepspeed.txt))}" \
	  | (cd docker/requirements && $(LOCK) --no-deps --no-binary deepspeed - -o deepspeed.txt)
	@cd docker/requirements && $(LOCK) build.in -o build.txt
	@cd docker/local && $(LOCK) toolkit.in -o toolkit.txt
