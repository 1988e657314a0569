# Everything that this project does with itself. Go, git and make are all that must be there.

SHELL         := /bin/bash
.SHELLFLAGS   := -euo pipefail -c
.DEFAULT_GOAL := help

# Outside of the checkout: tools, and the mirror of etcd releases.
CACHE := $(or $(ETCDADM_CACHE),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/etcdadm)

# What the binary says of itself. The date is that of the commit, so that the same commit gives the same binary.
VERSION := $(shell git describe --tags --match 'v[0-9]*' --dirty 2>/dev/null)
COMMIT  := $(shell git describe --always --abbrev=40 --exclude '*' --dirty 2>/dev/null)
EPOCH   := $(or $(SOURCE_DATE_EPOCH),$(shell git log -1 --format=%ct 2>/dev/null))
DATE    := $(if $(EPOCH),$(shell date -u -d @$(EPOCH) +%Y-%m-%dT%H:%M:%SZ))
SAY     := -X etcdadm/pkg/version

GO       := GOFLAGS=-buildvcs=false go
GO_BUILD := CGO_ENABLED=0 $(GO) build -trimpath -tags grpcnotrace -ldflags "-s -w $(SAY).gitVersion=$(VERSION) $(SAY).gitCommit=$(COMMIT) $(SAY).buildDate=$(DATE)"

LINT_VERSION := v2.15.0
LINT         := $(CACHE)/tools/golangci-lint-$(LINT_VERSION)/golangci-lint

.PHONY: help build demo test lab power soak sweep bench mirror lint docs verify clean

help: ## Show this help
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## Build the static binary bin/etcdadm
	@mkdir -p bin
	$(GO_BUILD) -o bin/etcdadm ./cmd/etcdadm

demo: build ## Play the life of a three-member cluster of real etcd on this machine
	$(GO) run ./test/demo

test: build mirror ## Run every test, the stories with real etcd included
	$(GO) test $$($(GO) list ./... | grep -v '^etcdadm/test')
	$(GO) test -count=1 -timeout 40m ./test/lab ./test/crash ./test/... # the longest ones first
	cd test/robustness && $(GO) test -count=1 -timeout 40m ./...

lab: mirror ## Play the stories that need real hosts: several Debians with systemd, on this machine, as root
	LAB=required $(GO) test -count=1 -timeout 40m -v ./test/lab

power: mirror ## Cut the power of a host at every call of init, join, reset, restore, renewal and new settings; goes on where it ended
	POWER_ALL=1 LAB=required $(GO) test -count=1 -timeout 12h -v -run 'TestPowerOffAnywhere$$' ./test/lab

soak: build mirror ## Let etcd's model judge N clusters with random operations and faults, from SEED on; with LAB=1 on hosts
	cd test/robustness && $(GO) run ./soak -n $(or $(N),10) $(if $(SEED),-seed $(SEED)) $(if $(LAB),-lab)

sweep: mirror ## Kill etcdadm before each system call of STORY (N: that call only; FOR=1h), and go on where it was stopped
	cd test/crash && SWEEP=$(or $(N),all) SWEEP_FOR=$(FOR) $(GO) test -count=1 -timeout 0 -parallel $(or $(PARALLEL),4) \
		-run 'TestKilledBeforeAnyCall$$/$(STORY)'

bench: build mirror ## Measure init, join, install and the binary against bare etcd, here and on the hosts of the lab
	$(GO) run ./test/bench
	$(GO) test -run '^$$' -bench Hosts -benchtime 1x -timeout 30m ./test/lab

mirror: ## Build real etcd releases from Go modules; the last line is the path of the mirror
	@$(GO) run ./test/mirror

lint: $(LINT) ## Run the linters of .golangci.yml
	GOLANGCI_LINT_CACHE=$(CACHE)/golangci-lint $(LINT) run ./...
	cd test/robustness && GOLANGCI_LINT_CACHE=$(CACHE)/golangci-lint $(LINT) run -c ../../.golangci.yml ./...

$(LINT):
	GOFLAGS= GOBIN=$(@D) go install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(LINT_VERSION)

docs: ## Generate the man pages and the command reference
	$(GO) run ./docs/internal/gen

verify: lint ## Check format, vet, lint, go.mod, generated files and the floors
	@unformatted=$$(gofmt -l $$(git ls-files '*.go')); [ -z "$$unformatted" ] || { echo "not formatted: $$unformatted"; exit 1; }
	$(GO) vet ./...
	$(GO) mod tidy -diff
	cd test/robustness && $(GO) vet ./... && $(GO) mod tidy -diff
	$(GO) mod verify
	$(GO) run ./docs/internal/gen -check
	@before=$$(sha256sum */*_gen.go); $(GO) generate ./binary ./service; \
	[ "$$before" = "$$(sha256sum */*_gen.go)" ] || { echo "the generated tables were not in step; they are now"; exit 1; }
	$(GO) test ./test/floors

clean: ## Remove what was built here; the cache stays
	rm -rf bin demo
