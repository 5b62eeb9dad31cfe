# Everything that is built lands in $XDG_CACHE_HOME/gcs, keyed by the hash of its inputs;
# initramfs/recipes is the engine, this file is its list of names.

# Debian's own interpreter, not one that a version manager put first in PATH.
PYTHON := /usr/bin/python3
RECIPES := initramfs/bootstrap.sh && exec $(PYTHON) -m initramfs.recipes
BIN := .venv/bin
.DEFAULT_GOAL := help
# The targets below share one venv, one VM's worth of memory and two or more CPUs' worth of
# kernel build: they run one after the other, each with its own parallelism.
.NOTPARALLEL:

.PHONY: help
help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1|\2/p' $(MAKEFILE_LIST) \
	  | while IFS='|' read -r name text; do printf '  make %-14s %s\n' "$$name" "$$text"; done

.PHONY: run
run: ## from a fresh machine to a seven-layer container in a utility VM
	@$(RECIPES) run

.PHONY: test
test: setup kernel-check check test-fuzz test-root test-vm test-bench ## from a fresh machine to the whole suite, VM tests included

.PHONY: setup
setup: ## everything that run and test need, without running it
	@$(RECIPES) setup

.PHONY: deps
deps: ## install what is missing of the Debian packages
	@$(RECIPES) deps

.PHONY: venv
venv: ## .venv with the locked dependencies, and gcs in it as an editable package
	@$(RECIPES) venv

.PHONY: fmt
fmt: venv ## format, and apply the fixes that ruff is sure of
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

.PHONY: check
check: venv ## lint, types, unit and property tests: no root, no VM
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/pytest -n logical --dist worksteal tests/unit tests/property

.PHONY: test-fuzz
test-fuzz: venv ## fuzz both decoders for less than a minute
	$(BIN)/pytest tests/fuzz

# What was learned stays in the cache and is gone on from; a find is a crash-… file there.
FUZZ_SECONDS := 300
FUZZ_CORPUS = $${XDG_CACHE_HOME:-$$HOME/.cache}/gcs/fuzz
.PHONY: fuzz
fuzz: venv ## fuzz both decoders for FUZZ_SECONDS each (300), from where it last ended
	$(BIN)/python -m tests.fuzz guest --seconds $(FUZZ_SECONDS) --corpus "$(FUZZ_CORPUS)/guest"
	$(BIN)/python -m tests.fuzz host --seconds $(FUZZ_SECONDS) --corpus "$(FUZZ_CORPUS)/host"

.PHONY: test-root
test-root: venv ## tests on the real kernel, in name spaces of their own (needs root)
	$(if $(filter 0,$(shell id -u)),,sudo) $(BIN)/pytest -m root tests/root

# A VM waits for the host as often as the host for it, so two runs of a suite side by side take
# little more time than one; each module stays with one of them, and shares that one's VM.
.PHONY: test-vm
test-vm: setup ## tests that boot the VM; those of how fast something is run alone, at the end
	$(BIN)/pytest -m "vm and not alone" -n 2 --dist loadfile tests/vm
	$(BIN)/pytest -m "vm and alone" tests/vm

.PHONY: test-bench
test-bench: setup ## bench-check with few samples: some minutes
	$(BIN)/python -m tests.bench --check --quick

.PHONY: soak
soak: setup ## vm, root, fuzz and property tests at their full counts, half an hour to two; the result goes to docs/soak.md
	$(BIN)/python -m tests.soak

.PHONY: bench
bench: setup ## figures beside their floors, to docs/bench and docs/page-sharing.svg; BENCH="boot exec" for some
	$(BIN)/python -m tests.bench $(BENCH)

.PHONY: bench-check
bench-check: setup ## fail when a ratio to its floor is worse than the committed one by its tolerance
	$(BIN)/python -m tests.bench --check $(BENCH)

.PHONY: boot-profile
boot-profile: setup ## pictures of where the time of a boot goes, to docs/bench/boot-profile-FORM.svg
	$(BIN)/python -m tests.bench.bootprofile

.PHONY: kernel
kernel: ## build/kernel and build/vmlinux from kconfig/
	@$(RECIPES) kernel

.PHONY: kernel-debug
kernel-debug: ## build/vmlinux-debug: the same with kconfig/debug.config
	@$(RECIPES) kernel-debug

.PHONY: kernel-check
kernel-check: ## whether Kconfig takes kconfig/ as it is, debug.config included: minutes, no build
	@$(RECIPES) kernel-check

.PHONY: initrd
initrd: ## build/initrd and build/root-image: the guest's tree, laid together by LinuxKit
	@$(RECIPES) initrd

.PHONY: initrd-full
initrd-full: ## build/initrd-full and build/root-image-full: the same with chronyd, mkfs.xfs and cryptsetup
	@$(RECIPES) initrd-full

.PHONY: kernel-why
kernel-why: ## why the kernel has an option, and who needs it: OPTION=CONFIG_VIRTIO_PMEM
	@export OPTION="$(OPTION)"; $(RECIPES) kernel-why

.PHONY: sbom
sbom: ## build/sbom.spdx.json: packages, versions, licences and files of the guest
	@$(RECIPES) sbom

.PHONY: reproduce
reproduce: ## build initrd and root image twice, in different folders: the same bytes
	@$(RECIPES) reproduce

.PHONY: reproduce-kernel
reproduce-kernel: ## build the kernel once more, elsewhere: the bytes of the one in the cache
	@$(RECIPES) reproduce-kernel

.PHONY: images
images: ## build/nyancat, the seven-layer image, and build/toolbox: OCI layouts
	@$(RECIPES) images

.PHONY: tools
tools: ## build/vhost-device-vsock, where the kernel has no vhost-vsock
	@$(RECIPES) tools

.PHONY: lock
lock: ## pin the newest versions of what is downloaded (then review and commit)
	@$(RECIPES) lock

.PHONY: clean
clean: ## remove what this checkout holds of the build (the cache stays)
	rm -rf build .venv gcs.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis

.PHONY: distclean
distclean: clean ## remove the cache too
	rm -rf "$${XDG_CACHE_HOME:-$$HOME/.cache}/gcs"
