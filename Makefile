# Run `make` for a list of the targets. CI runs the same ones.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c

STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
GOVULNCHECK := golang.org/x/vuln/cmd/govulncheck@v1.9.0

# The race detector needs cgo, so a C compiler.
RACE := $(shell command -v "$$(go env CC | cut -d' ' -f1)" >/dev/null 2>&1 && echo -race)
ifeq ($(TRIVET_REQUIRE_SERVERS)$(RACE),1)
$(error TRIVET_REQUIRE_SERVERS is set and there is no C compiler for the race detector)
endif
export CGO_ENABLED := $(if $(RACE),1,0)

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

.PHONY: test
test: lint imports standalone ## everything that must pass: lint, import rules, all tests of both modules
	go test -shuffle=on $(RACE) -timeout 8m ./...
	cd examples && go test -shuffle=on $(RACE) -timeout 8m ./...

.PHONY: lint
lint: ## gofmt, go vet, staticcheck, and vet for a 32-bit platform
	@unformatted=$$(git ls-files '*.go' | xargs gofmt -l); \
	if [ -n "$$unformatted" ]; then echo "gofmt would change:"; echo "$$unformatted"; exit 1; fi
	go vet ./...
	cd examples && go vet ./...
	go run $(STATICCHECK) ./...
	cd examples && go run $(STATICCHECK) ./...
	GOARCH=386 CGO_ENABLED=0 go vet ./...

.PHONY: imports
imports: ## check that the packages stay independent of each other
	@.ci/imports

.PHONY: standalone
standalone: ## build and vet the root module as a stranger's build sees it, without go.work
	GOWORK=off go build ./...
	GOWORK=off go vet ./...

.PHONY: vuln
vuln: ## govulncheck (needs the vulnerability database)
	go run $(GOVULNCHECK) ./...
	cd examples && go run $(GOVULNCHECK) ./...
