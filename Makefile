# The commands for people and for CI. Versions of tools are pinned here.
GOLANGCI_LINT_VERSION := v2.15.0
WORKFLOWCHECK_VERSION := v0.6.0
BENCHSTAT_VERSION     := v0.0.0-20260908200009-22c9c6c9d4da

VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS := -s -w -X main.version=$(VERSION)
BIN     := $(CURDIR)/bin
TOOLS   := $(CURDIR)/.bin

# Packages with goroutines or locks of their own: the race detector is for them.
RACE    := ./activities/local ./activities/xen ./machine ./remote ./starter ./step/... ./tree ./worker
# More often than with -short, and with real helpers.
EC2LABS := ^TestHelper|Killed|VolumeByHelper|VolumeResumes|VolumeNotLetIn
TIMES   := $(TOOLS)/times
# Make lint vets as well.
GOTEST  := $(TOOLS)/gotest $(TIMES) -timeout 60m -vet off

export MORGANA_BIN := $(BIN)

.PHONY: help demo build test test-all lint bench deps deps-test clean xenlab xenlab-down ec2lab xapilab

help: ## list the targets (default)
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: build ## deploy examples/hello from source to a machine booted in QEMU
	@scripts/demo.sh

build: deps ## bin/morgana, bin/morgana-worker, bin/morgana-carrier, bin/morgana-devserver
	@mkdir -p $(BIN)
	@sh devserver/build.sh $(BIN)/morgana-devserver
	CGO_ENABLED=0 go build -trimpath -ldflags '$(LDFLAGS)' -o $(BIN)/morgana ./starter
	CGO_ENABLED=0 go build -trimpath -ldflags '$(LDFLAGS)' -o $(BIN)/morgana-worker ./worker
	CGO_ENABLED=0 GOARCH=amd64 go build -trimpath -ldflags '-s -w -buildid=' -o $(BIN)/morgana-carrier ./carrier/init

test: $(TOOLS)/gotest deps-test build ## every test that needs no lab: real QEMU, a real Temporal server
	@rm -f $(TIMES)
	$(GOTEST) -short -race $(RACE)
	$(GOTEST) -short -p 3 -parallel 4 ./e2e $$(go list ./... | grep -vxF "$$(go list $(RACE))")
	cd devserver && CGO_ENABLED=0 $(GOTEST) -trimpath ./... # with the flags of the build, to use its cache

test-all: test ## every test: those on a real Xen as well
	$(GOTEST) -count 1 ./activities/xen ./xenlab # the cache does not know that a lab has changed
	$(GOTEST) -count 1 -p 2 -run '^TestXen|^TestQEMU$$|$(EC2LABS)' ./e2e ./ec2lab ./xapilab ./activities/ec2
	@echo 'The ten slowest:'; sort -rn $(TIMES) | head -n 10

lint: $(TOOLS)/golangci-lint $(TOOLS)/workflowcheck ## golangci-lint and workflowcheck
	$(TOOLS)/golangci-lint run ./...
	cd devserver && GOFLAGS=-trimpath CGO_ENABLED=0 $(TOOLS)/golangci-lint run ./...
	$(TOOLS)/workflowcheck -config workflowcheck.yaml ./workflows/...

bench: build $(TOOLS)/benchstat ## figures, and ratios to peers: the engine, boot, images, the store, EC2, XenServer, the carrier, Xen
	scripts/bench.sh $(TOOLS)

deps: ## install the missing tools (Debian), or print the command
	@scripts/deps.sh

deps-test:
	@scripts/deps.sh test

xenlab: ## start a real Xen in QEMU on this machine, to deploy to (docs/targets/xen.md)
	@scripts/deps.sh lab
	go run ./xenlab/lab up

xenlab-down: ## stop that Xen
	go run ./xenlab/lab down

ec2lab: ## run an EC2 on loopback until Ctrl-C, to deploy to (docs/targets/ec2.md)
	@scripts/deps.sh lab
	@go run ./ec2lab/lab

xapilab: ## run a XenAPI on loopback until Ctrl-C, to deploy to (docs/targets/xenserver.md)
	@scripts/deps.sh lab
	@go run ./xapilab/lab

clean: ## remove bin/ and .bin/
	rm -rf $(BIN) $(TOOLS)

$(TOOLS)/gotest: scripts/gotest/main.go
	@mkdir -p $(TOOLS)
	go build -o $@ ./scripts/gotest

# The version is in the stamp's name, so that a new pin installs anew.
$(TOOLS)/golangci-lint: $(TOOLS)/.golangci-lint-$(GOLANGCI_LINT_VERSION)
$(TOOLS)/.golangci-lint-$(GOLANGCI_LINT_VERSION): of := github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_LINT_VERSION)
$(TOOLS)/workflowcheck: $(TOOLS)/.workflowcheck-$(WORKFLOWCHECK_VERSION)
$(TOOLS)/.workflowcheck-$(WORKFLOWCHECK_VERSION): of := go.temporal.io/sdk/contrib/tools/workflowcheck@$(WORKFLOWCHECK_VERSION)
$(TOOLS)/benchstat: $(TOOLS)/.benchstat-$(BENCHSTAT_VERSION)
$(TOOLS)/.benchstat-$(BENCHSTAT_VERSION): of := golang.org/x/perf/cmd/benchstat@$(BENCHSTAT_VERSION)
$(TOOLS)/.%:
	@echo "building $(of): a minute or two, once"
	@mkdir -p $(TOOLS)
	GOBIN=$(TOOLS) go install $(of)
	@touch $@
