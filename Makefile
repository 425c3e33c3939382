# Databus: every command that a developer needs. `make help` lists them.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# The modules of the workspace as directories; tools is apart, so that what it needs never reaches a service.
MODULES := $(shell sed -n 's/^[[:space:]]*\(\.\/[^ ]*\)$$/\1/p' go.work)
PACKAGES := $(addsuffix /...,$(MODULES))
BIN := $(CURDIR)/.bin

.PHONY: help
help: ## this list
	@sed -n 's/^\([a-z][a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 24

.PHONY: demo
demo: ## the whole main job on embedded parts, ending in a printed result
	go run ./cmd/databus demo

.PHONY: test
test: lint check-generated check-modules ## everything, real servers included
	go test -timeout 15m $(filter-out ./test/...,$(PACKAGES))
	go run ./test/servers/cmd/servers run -- go test -tags servers -timeout 40m -p 1 ./test/...

.PHONY: test-fast
test-fast: ## what needs no server: unit tests and tests on embedded parts
	go test -timeout 10m $(PACKAGES)

.PHONY: servers
servers: ## start Kafka, Apicurio, Cassandra and versitygw on this machine, print their addresses, wait
	go run ./test/servers/cmd/servers

.PHONY: lint
lint: $(BIN)/staticcheck ## gofmt, go vet and staticcheck over every module
	@files=$$(gofmt -l $(MODULES)); if [ -n "$$files" ]; then echo "not formatted, run gofmt -w on: $$files"; exit 1; fi
	go vet $(PACKAGES)
	go vet -tags servers ./test/...
	$(BIN)/staticcheck -tags servers $(PACKAGES)

$(BIN)/staticcheck: tools/go.mod tools/go.sum
	cd tools && GOWORK=off go build -o $@ honnef.co/go/tools/cmd/staticcheck

.PHONY: generate
generate: ## regenerate the event types and the generated parts of the documents
	cd schemas && go generate ./...
	go run ./cmd/databus topology --write ARCHITECTURE.md

.PHONY: check-generated
check-generated: ## fail if generated code or documents are stale
	@cp schemas/event/event.gen.go $(CURDIR)/.gen.before; trap 'rm -f $(CURDIR)/.gen.before' EXIT; \
	(cd schemas && go generate ./...); \
	cmp -s schemas/event/event.gen.go $(CURDIR)/.gen.before || { echo "schemas/event is stale: it has been regenerated, commit it"; exit 1; }
	go run ./cmd/databus topology --check ARCHITECTURE.md

.PHONY: check-modules
check-modules: ## every module builds by itself, outside of the workspace
	@for m in $(MODULES); do (cd $$m && GOWORK=off go build ./...) || { echo "$$m does not build by itself"; exit 1; }; done

# Proofs and benchmarks at full size. Each ends in lines "figure: NAME VALUE UNIT (goal GOAL)". A proof that fails ends with
# a non-zero code; a benchmark does so where a result is wrong, not where a goal is missed.

.PHONY: prove-usage
prove-usage: ## the usage half is killed 600 times, three brokers ten times, 200,000 events of history are added; a model of its own recomputes it
	cd test && go test -tags servers,prove -timeout 300m -count 1 -v -run TestProve ./usage -args -full

.PHONY: prove-ingest
prove-ingest: ## two instances of ingest are killed 260 times under load; tables, evidence and answers must equal a model; precision and recall on FEBRL 4; no plaintext
	cd test && go test -tags servers -timeout 120m -count 1 -v -run TestProve ./ingest -args -full
	$(MAKE) prove-plaintext

.PHONY: prove-archive
prove-archive: ## archivers are killed 300 times, S3 fails in 96 ways, all objects are made again: each offset is archived once
	cd test && go test -tags servers -timeout 120m -count 1 -v -run 'TestProve|TestArchiverOnRealServers' ./archiver -args -full

.PHONY: prove-plaintext
prove-plaintext: ## 1,000 subjects on real servers: nothing of theirs in any byte at rest, nothing of 100 shredded ones opens
	cd test && go test -tags servers -timeout 60m -count 1 -v -run TestNoPlaintextOnRealServers ./e2e -args -full

.PHONY: prove-state
prove-state: ## the power fails at 10,000 writes of state, unsynced data lost in part: it opens or is restored, never wrong
	go test -tags prove -timeout 120m -count 1 -v -run 'TestCrashAtWrites|TestPowerFailures' ./pkg/state ./pkg/stream

.PHONY: bench-aggregator
bench-aggregator: ## usage-aggregator against Kafka Streams on one broker: CPU, memory, restarts, latency
	cd test && go run ./bench/cmd/bench-aggregator

.PHONY: bench-archiver
bench-archiver: ## the archiver against Kafka Connect with Iceberg and a consumer in Java: rows per CPU second, memory, sizes
	cd test && go run ./bench/cmd/bench-archiver

.PHONY: bench-refusal
bench-refusal: ## from the call that uses up a limit to the first 429, end to end at 2,000 requests/s, and the overshoot
	cd test && go run ./bench/cmd/bench-refusal

.PHONY: bench-ingest
bench-ingest: ## records/s from HTTP batch to applied row beside the driver alone; latency of single calls at 200/s
	cd test && go run ./bench/cmd/bench-ingest

.PHONY: bench-seal
bench-seal: ## records opened a second on two cores, what a key costs in memory, a graph of ten million identifiers: build, size, look-ups
	cd test && go run ./bench/cmd/bench-seal

.PHONY: bench-limits
bench-limits: ## one decision of the limits view with 100,000 accounts
	cd test && go run ./bench/cmd/bench-limits
