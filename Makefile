# Run `make` for a list of the targets. CI runs the same ones.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c

STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
GOVULNCHECK := golang.org/x/vuln/cmd/govulncheck@v1.9.0

# What `make bench` and `make fuzz` take: make bench BENCH=Pick BENCHTIME=3s, make fuzz FUZZTIME=5m
BENCH ?= .
BENCHTIME ?= 1s
COUNT ?= 1
FUZZTIME ?= 30s

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
test: ## everything that must pass: all that follows, up to conformance
	@$(MAKE) --no-print-directory -j2 suite lint imports standalone consumer norace conformance

# The packages that take longest come first. lint vets them.
.PHONY: suite
suite: ## all tests of both modules, with the race detector
	go test -shuffle=on $(RACE) -vet=off -timeout 20m ./examples/... ./...

.PHONY: norace
norace: ## the tests that are not built with the race detector
	$(if $(RACE),go test -shuffle=on -vet=off -timeout 20m -run "$$(.ci/norace tests)" $$(.ci/norace packages))

# On a 32-bit platform the compiler says something else of constants, and vet of shifts; of the rest it says the same.
.PHONY: lint
lint: ## gofmt, go vet, staticcheck, vet for a 32-bit platform, the width of lines, and docs/faults.md beside the tests
	@unformatted=$$(git ls-files -co --exclude-standard '*.go' | xargs gofmt -l); \
	if [ -n "$$unformatted" ]; then echo "gofmt would change:"; echo "$$unformatted"; exit 1; fi
	@.ci/columns
	@.ci/faults
	go vet ./... ./examples/...
	go run $(STATICCHECK) ./... ./examples/...
	GOARCH=386 CGO_ENABLED=0 go vet -shift -gcflags='-N -l' ./...

.PHONY: imports
imports: ## check that the packages stay independent of each other
	@.ci/imports

.PHONY: standalone
standalone: ## build and vet the root module as a stranger's build sees it, without go.work
	GOWORK=off go build ./...
	GOWORK=off go vet -shift ./...

.PHONY: consumer
consumer: ## build and run README's programs in a module of their own
	@.ci/consumer

.PHONY: bench
bench: ## run the benchmarks, and those beside rivals in benchmarks/ (BENCH, BENCHTIME, COUNT)
	go test -run '^$$' -bench '$(BENCH)' -benchtime $(BENCHTIME) -count $(COUNT) -timeout 1h ./...
	cd benchmarks && GOWORK=off go test -run '^$$' -bench '$(BENCH)' -benchtime $(BENCHTIME) -count $(COUNT) -timeout 1h ./...

.PHONY: conformance
conformance: ## the public suite of tests for HTTP caches, in Node (SUITE=DIR: a checkout of it; ARGS='-id=ID': one test)
	cd benchmarks && GOWORK=off go test -count=1 -v -timeout 30m ./conformance -args $(if $(SUITE),-suite='$(abspath $(SUITE))') $(ARGS)

.PHONY: endtoend
endtoend: ## what a request costs through the gateway beside other proxies (Linux; taskset, wrk, nginx, haproxy, caddy, varnish)
	go build -o bin/gateway ./examples/gateway
	cd benchmarks && GOWORK=off go build -o ../bin/endtoend ./endtoend
	bin/endtoend -gateway bin/gateway

.PHONY: golden
golden: ## write the golden table of the balancer's simulation anew, from its fast part (balancer/testdata/sim.golden.txt)
	go test -count=1 -run '^TestSimulationFast$$' ./balancer -update

.PHONY: simulate
simulate: ## write testdata of balancer (the golden table, sim.md) and versioning (rollout.md) anew from the whole simulations (10 minutes of two processors)
	go test -count=1 -run '^TestSimulation(Fast|All)$$' -timeout 2h ./balancer -update -sim
	go test -count=1 -run '^TestSimulationOfRollouts$$' -timeout 2h ./versioning -sim

.PHONY: fuzz
fuzz: ## run each fuzz target of both modules for FUZZTIME (30s)
	@for module in . examples; do ( cd $$module; \
	  for dir in $$(git ls-files '*_test.go' | { grep -v '^\(examples\|benchmarks\)/' || true; } | xargs -r grep -lE '^func Fuzz' | xargs -r -n1 dirname | sort -u); do \
	    for target in $$(grep -hoE '^func Fuzz\w+' $$dir/*_test.go | cut -d' ' -f2 | sort -u); do \
	      echo "== $$module/$$dir $$target"; \
	      go test -run '^$$' -fuzz "^$$target$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 1s ./$$dir; \
	    done; \
	  done ); \
	done

.PHONY: soak
soak: ## run all tests with TRIVET_SOAK=1, under which the soaks among them take their full time
	TRIVET_SOAK=1 go test -count=1 $(RACE) -timeout 6h ./...
	cd examples && TRIVET_SOAK=1 go test -count=1 $(RACE) -timeout 6h ./...

.PHONY: vuln
vuln: ## govulncheck of both modules (needs the vulnerability database)
	go run $(GOVULNCHECK) ./...
	cd examples && go run $(GOVULNCHECK) ./...
