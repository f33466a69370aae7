# Sluice: every target is explained by `make help`. Go alone is needed for run, build and test.
SHELL := /bin/sh
.DEFAULT_GOAL := help

export GOTOOLCHAIN := local
export CGO_ENABLED ?= 0

GO      ?= go
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS := -s -w -X main.version=$(VERSION)
GOBUILD := $(GO) build -buildvcs=false -trimpath -ldflags "$(LDFLAGS)"

FUZZTIME  ?= 10s
BENCHTIME ?= 1s
ARGS      ?=

.PHONY: help run build test check generate interop perf-check perf-instructions bench profile compare fuzz cluster chaos clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "make %-17s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## build bin/sluice: one static, stripped binary
	@mkdir -p bin
	$(GOBUILD) -o bin/sluice ./cmd/sluice

run: build ## build and start one node with the default configuration, data in ./data (ARGS="--set key=value")
	exec ./bin/sluice start $(ARGS)

cluster: build ## build and start three nodes of one cluster on this machine, data in CLUSTER=./cluster-data, until Ctrl-C; NODE=2: that one alone, again
	exec ./tools/cluster.sh ./bin/sluice $(or $(CLUSTER),./cluster-data) $(NODE)

chaos: ## FAULTS=500 faults of all kinds, one behind the other, in three nodes and between them, while clients of both protocols run (ARGS="-chaos.seed N -chaos.only cut")
	$(GO) test ./test/cluster -run TestChaos -v -count=1 -timeout 0 -chaos.faults $(or $(FAULTS),500) $(ARGS)

bin/testrun: $(wildcard internal/testrun/*.go)
	@mkdir -p bin
	@$(GO) build -buildvcs=false -o $@ ./internal/testrun

test: bin/testrun ## gofmt, vet and every test; needs Go alone; ends with "N passed, N failed, N skipped"
	@./bin/testrun $(ARGS)

check: bin/testrun ## what test leaves out: race detector, lint, generated files clean; names what it skips and why
	@./bin/testrun -check

generate: ## write the generated files anew (docs/configuration.md, cli.md, mqtt-conformance.md, operate/control.md; control/api, control/openapi.json; deps.txt)
	cd tools && $(GO) run ./protogen ../control/api # compiles *.proto without protoc; the modules of tools/go.mod are needed
	$(GO) run ./config/gen
	$(GO) run ./internal/conformance/gen
	$(GO) test -count=1 -run 'UpToDate' ./cmd/sluice -args -update
	$(GO) test -count=1 -run 'UpToDate' ./internal/arch -args -update
	$(GO) test -count=1 -run 'UpToDate' ./server -args -update
	$(GO) test -count=1 -run 'UpToDate' ./control -args -update

interop: build ## foreign clients and suites against bin/sluice; installs them; writes a dated report
	@if [ -x test/interop/run ]; then exec test/interop/run $(ARGS); \
	else echo "skipped interop: test/interop/run is not in this tree"; fi

perf-check: bin/testrun ## what must hold per message, delivery, request and idle connection: counts, which repeat on a busy machine; and proof that they are seen
	@./bin/testrun -run 'Alloc|Budget|Mutant' -no-static ./...

perf-instructions: ## what the node executes for a message of each kind, by valgrind (ARGS="-test.run Instructions/connect", profiles in bin/callgrind)
	@mkdir -p bin
	$(GO) test -c -vet=off -o bin/perf.test ./perf # with its symbols
	cd perf && ../bin/perf.test -test.run Instructions -test.v -instructions -profiles ../bin/callgrind $(ARGS)

bench: ## every micro-benchmark (BENCHTIME=1s, ARGS="-bench NAME"); load from outside is `sluice bench`
	$(GO) test -run '^$$' -bench . -benchmem -benchtime $(BENCHTIME) $(ARGS) ./...

profile: build ## a node under KIND=cpu|mem|heap|mutex|block|trace, driven by SCENARIO='pairs --qos 1'; profile in bin/profile (ARGS="--set key=value")
	@test -n "$(SCENARIO)" || { echo "make profile SCENARIO='pairs --qos 1' [KIND=cpu]: a scenario of sluice bench with its flags"; exit 2; }
	$(GO) run ./perf/serve --out bin/profile --profile $(or $(KIND),cpu) --scenario '$(SCENARIO)' $(ARGS)

compare: build ## ours and PEER=mosquitto, flashmq, nats, kafka (PROTOCOL=kafka) or 'NAME=command {port} {dir}' in turn: ratios (ROUNDS=3, ROWS='QoS 0;QoS 1')
	@test -n "$(PEER)" || { $(GO) run ./perf/compare -h 2>&1 | head -n 40; echo "make compare PEER=..."; exit 2; }
	$(GO) run ./perf/compare --protocol $(or $(PROTOCOL),$(if $(findstring kafka,$(PEER)),kafka,mqtt)) --rounds $(or $(ROUNDS),3) \
		$(if $(ROWS),--only '$(ROWS)') --start ours --start '$(PEER)' $(ARGS)

fuzz: bin/testrun ## each fuzz target in turn for FUZZTIME=10s
	@./bin/testrun -fuzz $(FUZZTIME)

clean: ## remove what was built
	rm -rf bin dist
