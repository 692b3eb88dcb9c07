# Kijabi. `make` lists the targets; each is a few lines of shell.
SHELL := /bin/sh
.DEFAULT_GOAL := help

BIN     := $(CURDIR)/bin
TOOLS   := $(CURDIR)/.cache/tools
# The version of all that is released together: archives, tags and labels of images.
VERSION ?= 0.1.0
# What kubectl calls its own version; it cannot be set in Go.
LDFLAGS := -s -w -X k8s.io/component-base/version.gitVersion=v1.37.2+kijabi.0.1 \
	-X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=37 \
	-X kijabi.dev/platform/lifecycle.release=$(VERSION)
# The architecture that images are made for: amd64 or arm64.
ARCH    ?= $(or $(GOARCH),$(shell go env GOARCH))
# Architectures of `make bundle`.
BUNDLE_ARCHES ?= amd64 arm64
MODULES := $(shell sed -n 's|^[[:space:]]*\./||p' go.work)
# Only what needs root asks for it; nothing asks when already root.
SUDO    := $(if $(filter 0,$(shell id -u)),,sudo --preserve-env=HOME,PATH,CGO_ENABLED,GOFLAGS,GOPROXY,GOCACHE,GOMODCACHE)
# The same settings for programs, tests and linters: what one compiles, all use.
export GOFLAGS := -buildvcs=false -trimpath
export CGO_ENABLED := 0

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

## Building

.PHONY: build
build: deps components node-programs pod-images ## build everything into bin/

.PHONY: deps
deps: ## install missing build packages (NO_INSTALL=1 only prints the command)
	@sh deploy/deps.sh

.PHONY: components
components: ## build our own programs into bin/
	@mkdir -p $(BIN)
	@echo "build: components"
	@set -e; for p in apiserver scheduler controller-manager cloud-controller-manager kubelet kube-proxy cli addons; do \
		(cd $$p && go build -ldflags '$(LDFLAGS)' -o $(BIN)/ ./cmd/...); done

.PHONY: node-programs
node-programs: ## build containerd, runc and the CNI plugins into bin/
	@sh deploy/bundle/build.sh $(BIN)

.PHONY: pod-images
pod-images: ## build the images that every machine carries: pause, guestbook, toolbox
	@VERSION=$(VERSION) ARCH=$(ARCH) sh deploy/images/build.sh $(BIN)/images
	@VERSION=$(VERSION) ARCH=$(ARCH) sh examples/images.sh $(BIN)/images

.PHONY: images
images: ## make a container image of each component in bin/container-images/, after make build
	@VERSION=$(VERSION) ARCH=$(ARCH) sh deploy/images/images.sh $(BIN) $(BIN)/container-images

.PHONY: bundle
bundle: ## make the signed release archives in bin/bundle (BUNDLE_ARCHES="amd64", KIJABI_SIGNING_KEY=FILE)
	@sh deploy/deps.sh bundle $(BUNDLE_ARCHES)
	@set -e; for arch in $(BUNDLE_ARCHES); do \
		out=$(BIN); [ $$arch = $$(go env GOHOSTARCH) ] || out=$(BIN)/linux-$$arch; \
		$(MAKE) --no-print-directory components node-programs pod-images BIN=$$out GOARCH=$$arch; \
		sh deploy/bundle/pack.sh $(VERSION) $$arch $$out $(BIN)/bundle; done

## Running

.PHONY: up
up: build ## build, start 3 masters and 2 nodes on this host, print next steps
	@$(BIN)/kijabi up $(UP_FLAGS)

.PHONY: down
down: ## stop the cluster of `make up` and remove all of it
	@$(BIN)/kijabi down

.PHONY: status
status: ## describe the cluster of `make up`
	@$(BIN)/kijabi status

.PHONY: compose-up
compose-up: ## start the compose demo on the Docker engine, print next steps (COMPOSE_FLAGS)
	@[ -e $(BIN)/kijabi ] && [ -e $(BIN)/container-images/kijabi.docker.tar ] || $(MAKE) build images
	@$(BIN)/kijabi compose up --file deploy/compose/docker-compose.yaml --images $(BIN)/container-images $(COMPOSE_FLAGS)

.PHONY: compose-down
compose-down: ## remove the compose demo and all that belongs to it
	@[ -e $(BIN)/kijabi ] || $(MAKE) components
	@$(BIN)/kijabi compose down

## Testing

# Tests that make network namespaces, mounts and cgroups need root.
UNIT_MODULES := $(filter-out test,$(MODULES))

.PHONY: test
test: test-deps build test-unit test-e2e test-faults ## unit, integration and end-to-end tests, faults for 3 minutes

.PHONY: test-deps
test-deps: ## install missing packages that tests use (NO_INSTALL=1 only prints the command)
	@sh deploy/deps.sh test

.PHONY: test-unit
test-unit: test-deps node-programs pod-images ## unit and integration tests of every module
	@set -e; for m in $(UNIT_MODULES); do echo "test: $$m"; (cd $$m && $(SUDO) env KIJABI_BIN=$(BIN) go test -timeout 15m ./...); done

.PHONY: test-race
test-race: node-programs pod-images ## the same with the race detector
	@set -e; for m in $(UNIT_MODULES); do (cd $$m && $(SUDO) env KIJABI_BIN=$(BIN) CGO_ENABLED=1 go test -race -timeout 30m ./...); done

.PHONY: test-e2e
test-e2e: test-deps build ## end-to-end tests against a real cluster of 3 masters and 2 nodes
	@cd test && $(SUDO) env KIJABI_BIN=$(BIN) go test -count=1 -p 1 -timeout 30m -v ./harness ./e2e ./loops ./options ./vm ./deploy

# How long each target of `make fuzz` looks for new input.
FUZZTIME ?= 30s

.PHONY: fuzz
fuzz: ## look for input that breaks decoders, patches, selectors, tokens (FUZZTIME=30s for each target)
	@set -e; for file in $$(git grep -l '^func Fuzz' -- '*_test.go'); do \
		for target in $$(sed -n 's/^func \(Fuzz[A-Za-z0-9]*\)(.*/\1/p' $$file); do \
			echo "fuzz: $$(dirname $$file) $$target"; \
			(cd $$(dirname $$file) && go test -run "^$$target$$" -fuzz "^$$target$$" -fuzztime $(FUZZTIME) -parallel 1 .); \
		done; done

.PHONY: test-vm
test-vm: ## install the release archive on a Debian virtual machine with systemd (slow; not part of `make test`)
	@sh deploy/deps.sh vm
	@$(MAKE) --no-print-directory bundle BUNDLE_ARCHES=amd64
	@cd test && $(SUDO) go run ./debian -bundle $(BIN)/bundle/kijabi-$(VERSION)-linux-amd64.tar.gz -work $(CURDIR)/.cache/vm

.PHONY: test-compose
test-compose: build images ## images and the compose demo on the Docker engine of this host: start, drills, end
	@cd test && $(SUDO) env KIJABI_BIN=$(BIN) go test -count=1 -p 1 -timeout 20m -v ./images ./compose

.PHONY: test-clients
test-clients: test-deps build ## unmodified kubectl, helm, client-go, kwok, CoreDNS and Prometheus against a real cluster
	@sh test/clients/programs/build.sh $(BIN)/test-clients kubectl kubectl-previous helm3 helm4 kwok coredns prometheus
	@cd test && $(SUDO) env KIJABI_BIN=$(BIN) KIJABI_DEBIAN_KUBECTL=$$KIJABI_DEBIAN_KUBECTL go test -count=1 -timeout 40m -v ./clients

.PHONY: test-clients-quick
test-clients-quick: test-deps build ## of these, those that are quick to build and to run
	@sh test/clients/programs/build.sh $(BIN)/test-clients kubectl helm4
	@cd test && $(SUDO) env KIJABI_BIN=$(BIN) go test -short -count=1 -timeout 20m -v ./clients

# Where the counts of campaigns add up, and which faults and masters they have.
CAMPAIGN      ?= $(CURDIR)/.cache/faults.jsonl
FAULT_MASTERS ?= 3
RUN_FAULTS     = cd test && $(SUDO) env KIJABI_BIN=$(BIN) go run ./faults -masters $(FAULT_MASTERS) -campaign $(CAMPAIGN)

.PHONY: test-faults
test-faults: test-deps build ## break a cluster of masters for 3 minutes and check what it promises
	@$(RUN_FAULTS) -duration 3m -faults F1/apiserver,F2,F10,F12

.PHONY: faults
faults: test-deps build ## the same for 15 minutes, with more kinds of faults (FAULT_MASTERS=5)
	@$(RUN_FAULTS) -duration 15m -faults F1,F2,F3,F4,F6,F7,F10,F11,F12,F13,F14,F15,F20,F21,F22,F25

# The hours that `make soak` takes.
HOURS ?= 8

.PHONY: soak
soak: test-deps build ## the same for HOURS=8; may be stopped, its counts add up with those of earlier runs
	@$(RUN_FAULTS) -duration $(HOURS)h -faults F1,F2,F3,F4,F5,F6,F7,F9,F10,F11,F12,F13,F14,F15,F19,F20,F21,F22,F25,calm

.PHONY: faults-report
faults-report: ## print the sums of all campaigns so far
	@cd test && go run ./faults -campaign $(CAMPAIGN) -report

.PHONY: faults-mutants
faults-mutants: test-deps build ## build apiservers with a known mistake; the suite must find each
	@sh test/faults/mutants.sh $(BIN) $(CURDIR)/.cache/mutants

.PHONY: bench
bench: build ## measure; prints tables with ratios to the floors of the same run
	@cd test && $(SUDO) env KIJABI_BIN=$(BIN) go run ./bench

## Verifying

.PHONY: verify
verify: verify-format verify-tidy verify-deps verify-build verify-generate verify-arch verify-lint ## everything but the tests

.PHONY: fix
fix: fix-format fix-tidy generate ## fix what verify finds, where a program can

.PHONY: verify-format
verify-format:
	@echo "verify: format"
	@files=$$(git ls-files '*.go' | grep -v '/gen/' | xargs gofmt -l); \
	[ -z "$$files" ] || { echo "not formatted, run 'make fix-format':"; echo "$$files"; exit 1; }

.PHONY: fix-format
fix-format:
	@git ls-files '*.go' | xargs gofmt -w

.PHONY: verify-tidy
verify-tidy:
	@echo "verify: tidy"
	@set -e; for m in $(MODULES); do (cd $$m && GOWORK=off go mod tidy -diff || { echo "$$m/go.mod is not tidy, run 'make fix-tidy'"; exit 1; }); done

.PHONY: fix-tidy
fix-tidy:
	@set -e; for m in $(MODULES); do (cd $$m && GOWORK=off go mod tidy); done
	@sh tools/versions.sh --fix $(MODULES)

.PHONY: verify-deps
verify-deps:
	@echo "verify: one version of each dependency"
	@sh tools/versions.sh $(MODULES)

.PHONY: verify-build
verify-build:
	@echo "verify: each module by itself"
	@set -e; for m in $(MODULES); do (cd $$m && GOWORK=off go vet ./...); done

.PHONY: verify-generate
verify-generate:
	@echo "verify: generated code"
	@sh proto/generate.sh
	@git diff --exit-code --stat -- proto || { echo "generated code differs, run 'make generate' and commit"; exit 1; }
	@[ -z "$$(git ls-files --others --exclude-standard proto)" ] || { echo "generated files are not committed:"; git ls-files --others --exclude-standard proto; exit 1; }

.PHONY: verify-arch
verify-arch:
	@echo "verify: import directions"
	@cd tools && go test -count=1 ./archtest # it reads other modules, which the cache does not see

.PHONY: verify-lint
verify-lint: $(TOOLS)/golangci-lint
	@echo "verify: lint"
	@set -e; for m in $(MODULES); do (cd $$m && $(TOOLS)/golangci-lint run --config $(CURDIR)/.golangci.yml ./...); done

.PHONY: lint
lint: verify-lint ## lint every module

.PHONY: generate
generate: ## regenerate Go and descriptor sets from the protos
	@sh proto/generate.sh

$(TOOLS)/golangci-lint: tools/golangci/go.mod
	@mkdir -p $(TOOLS)
	@echo "build: golangci-lint"
	@cd tools/golangci && GOWORK=off go build -o $@ github.com/golangci/golangci-lint/v2/cmd/golangci-lint

.PHONY: bump
bump: ## one version of a dependency everywhere: make bump DEP=module VERSION=v1.2.3
	@set -e; for m in $(MODULES); do (cd $$m && ! grep -q '$(DEP) ' go.mod || GOWORK=off go get $(DEP)@$(VERSION)); done; $(MAKE) fix-tidy

.PHONY: clean
clean: ## remove bin/ and .cache/
	@rm -rf bin .cache
