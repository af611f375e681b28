# The targets of everyday work; CI runs "setup" and "check". "make" prints them.

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2

TESTTIME ?= 5m  # bound on one package's tests
FUZZTIME ?= 10s # for each fuzz target
SOAK ?= 10m     # how long "soak" and "soak-tests" repeat: 90s, 10m, 1h30m
SEED ?= 1       # of the first run of "soak"
BENCH ?= .      # which benchmarks
COUNT ?= 6      # runs of each, enough for benchstat
RUNS ?= 3       # of each benchmark of the system

.PHONY: help setup build test check demo fuzz bench bench-storage bench-system bench-peers soak soak-tests chaos-controls lint fmt fmt-check arrows chaos-short mod-check

help: ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' Makefile

setup: ## install what building and testing need; may be repeated
	@if ! command -v gcc >/dev/null && ! command -v clang >/dev/null; then \
		echo "a C compiler is needed for go test -race: installing gcc"; \
		apt-get update -q && apt-get install -y -q gcc libc6-dev; \
	fi
	go mod download
	go run $(STATICCHECK) -version

build: ## compile bin/roomlog
	go build -trimpath -ldflags "-X main.version=$(VERSION)" -o bin/roomlog ./cmd/roomlog

test: ## all tests, with the race detector
	go test -race -timeout $(strip $(TESTTIME)) ./internal/clustertest ./... # the longest first

check: fmt-check lint test chaos-short mod-check ## what CI runs; changes no file

demo: build ## three nodes, real chat, a leader killed half-way: nothing lost, doubled or reordered
	go run ./internal/demo -binary bin/roomlog

fuzz: ## every fuzz target, FUZZTIME each
	@grep -rlE --include='*_test.go' '^func Fuzz' . | xargs -r -n1 dirname | sort -u | while read -r dir; do \
		listed=$$(go test -list '^Fuzz' "$$dir" </dev/null); \
		for target in $$(grep '^Fuzz' <<<"$$listed"); do \
			echo "fuzz $$dir $$target"; \
			go test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(strip $(FUZZTIME)) "$$dir" </dev/null; \
		done; \
	done

bench: ## benchmarks into out/, for benchstat
	@mkdir -p out
	go test -run '^$$' -bench '$(strip $(BENCH))' -benchmem -count $(strip $(COUNT)) -timeout 1h ./... | tee out/bench-$(VERSION).txt

bench-storage: ## what lies on disk: the log stores side by side, bytes written, restart, rooms, catch-up
	@mkdir -p out
	@{ \
	go test -run '^$$' -bench 'StoreLogs|Library' -benchmem -benchtime 1000x -count 5 ./raftlog/segment && \
	go test -run '^$$' -bench 'Read$$' -benchtime 5x -count 5 ./raftlog/segment && \
	go test -run '^$$' -bench 'Written$$' -benchtime 4000000x -count 3 ./internal/clustertest && \
	go test -run '^$$' -bench 'Restart$$' -benchtime 10000000x ./internal/clustertest && \
	go test -run '^$$' -bench 'IdleRooms$$' -benchtime 1000000x ./internal/clustertest && \
	go test -run '^$$' -bench 'CatchUp$$' -benchtime 2000000x -count 3 ./internal/clustertest; \
	} | tee out/bench-storage-$(VERSION).txt

bench-system: build ## the whole system under load: medians of RUNS runs into out/ (BENCH=fanout: only those)
	@mkdir -p out
	go run ./internal/bench/system -binary bin/roomlog -runs $(strip $(RUNS)) -only '$(filter-out .,$(strip $(BENCH)))' \
		-keep out/bench-system-$(VERSION).jsonl | tee out/bench-system-$(VERSION).md

bench-peers: ## NATS JetStream in the shapes of bench-system: medians of RUNS runs into out/ (BENCH=e2e: only those)
	@mkdir -p out
	go build -C internal/bench/peers -trimpath -o $(CURDIR)/bin/ github.com/nats-io/nats-server/v2 .
	bin/peers -server bin/nats-server -runs $(strip $(RUNS)) -only '$(filter-out .,$(strip $(BENCH)))' \
		-keep out/bench-peers-$(VERSION).jsonl | tee out/bench-peers-$(VERSION).md

SECONDS_OF_SOAK = $$(( $$(echo '$(strip $(SOAK))' | sed -E 's/([0-9]+)s?$$/+\1/; s/([0-9]+)m/+\1*60/; s/([0-9]+)h/+\1*3600/') ))

soak: build ## chaos runs of three and five nodes for SOAK, with one seed after the other from SEED on
	@mkdir -p out/soak
	@seconds=$(SECONDS_OF_SOAK); seed=$(strip $(SEED)); SECONDS=0; \
	while [ $$SECONDS -lt $$seconds ]; do \
		bin/roomlog chaos run --seed $$seed --nodes $$((seed % 4 ? 3 : 5)) --duration 2m --history out/soak/chaos-$$seed.jsonl.gz -o json; \
		echo "soak: seed $$seed passed, $$SECONDS of $$seconds s"; seed=$$((seed + 1)); \
	done

soak-tests: ## repeat the tests with real processes for SOAK, each with 50 power cuts
	@mkdir -p out
	go test -race -c -o out/clustertest.test ./internal/clustertest
	@seconds=$(SECONDS_OF_SOAK); runs=0; SECONDS=0; \
	while [ $$SECONDS -lt $$seconds ]; do \
		(cd internal/clustertest && ROOMLOG_POWERCUT_ROUNDS=50 ../../out/clustertest.test -test.run '^TestProcesses' -test.timeout 15m); \
		runs=$$((runs + 1)); echo "soak: run $$runs passed, $$SECONDS of $$seconds s"; \
	done

chaos-controls: ## bugs that are built in on purpose: chaos must find each, by its proper name
	go test -tags controls -count=1 -v -timeout 40m -run '^TestControls$$' ./internal/chaos

lint: arrows ## go vet, staticcheck, import arrows
	go vet ./...
	go vet -tags controls ./...
	go run $(STATICCHECK) ./...

fmt: ## gofmt and go mod tidy
	gofmt -w .
	go mod tidy

fmt-check:
	@files=$$(gofmt -l .); if [ -n "$$files" ]; then echo "gofmt would change:"; echo "$$files"; exit 1; fi

arrows:
	go test -count=1 ./internal/arrows

chaos-short: build # faults against real processes, a short round
	@mkdir -p out
	timeout -s INT 4m bin/roomlog chaos run --seed 1 --duration 75s --history out/chaos-1.jsonl.gz -o json
	timeout -s INT 2m bin/roomlog chaos run --seed 2 --duration 15s --nodes 5 --history out/chaos-2.jsonl.gz -o json

mod-check:
	go mod verify
	go mod tidy -diff
