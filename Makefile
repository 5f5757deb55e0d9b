# The README's three commands are demo, test and run. Each of them installs the Debian packages
# that are missing, through sudo if the user is not root.

GO ?= go
# go.mod names a Go without known vulnerabilities, which go downloads. Where it cannot, the installed
# one is used.
export GOTOOLCHAIN := $(shell GOTOOLCHAIN=auto $(GO) version >/dev/null 2>&1 && echo auto || echo local)
# More arguments of `kmsgate dev` for `make run`, such as --listen ADDRESS.
RUN ?=

# Tests kill processes, never the machine, so they need no disk. Their files are in memory if
# /dev/shm has 1 GiB free and allows execution. On a disk that takes 30 ms to flush, the tests
# take four times as long.
TESTS_TMP := $(shell [ "$$(df -Pk /dev/shm 2>/dev/null | awk 'NR==2 {print $$4}')" -gt 1048576 ] 2>/dev/null && \
	f=$$(mktemp -p /dev/shm) && cp /bin/true $$f && chmod +x $$f && $$f && \
	echo /dev/shm || echo $${TMPDIR:-/tmp}; rm -f $$f)
# The builds are large and stay on the disk: GOTMPDIR says where. The tests run without GOTMPDIR,
# because testing.T.TempDir would create their files there too.
GO_TEST = GOTMPDIR=$${TMPDIR:-/tmp} TMPDIR=$(TESTS_TMP) GOFLAGS="$$GOFLAGS '-exec=env -u GOTMPDIR'" $(GO)

# The packages that link C. All others must build without a C compiler.
LINKS_C := /hsm/token(/internal/p11)?$$|/cmd/kmsgate$$
LINKS_C := $(LINKS_C)|/cmd/kmsgate/internal/(hardware|hardware/hardwaretest|backup|target|doctor|cli|signer|batch|ceremony|attestation)$$

.PHONY: vendor build demo run test setup setup-test check vuln generate unit integration fuzz soak
.PHONY: bench bench-parts floor-table
.PHONY: examples example-go example-python example-node example-java full darwin image-test clean

build: bin/kmsgate bin/kmsgate-dev

# The program is loaded at a random address, and its linkage tables are read-only once it runs.
HARDENED := -buildmode=pie -ldflags '-extldflags "-Wl,-z,relro,-z,now"'
# The file to build kmsgate as: make bin/kmsgate KMSGATE=FILE.
KMSGATE := bin/kmsgate

.PHONY: bin/kmsgate bin/kmsgate-dev
bin/kmsgate:
	$(GO) build -trimpath $(HARDENED) -o $(KMSGATE) ./cmd/kmsgate

bin/kmsgate-dev:
	CGO_ENABLED=0 $(GO) build -trimpath -o $@ ./cmd/kmsgate-dev

demo: setup build
	$(GO) -C integration build -o ../bin/demo ./demo
	bin/demo bin/kmsgate

run: setup build
	bin/kmsgate dev $(RUN)

test: setup-test check unit integration example-go floor-table

# Installs the Debian packages named in $$missing.
INSTALL = [ -n "$$missing" ] || exit 0; \
	if ! command -v apt-get >/dev/null; then \
		echo "make: apt-get not found: install$$missing and try again" >&2; exit 1; fi; \
	if [ "$$(id -u)" = 0 ]; then sudo=; elif command -v sudo >/dev/null; then sudo=sudo; else \
		echo "make: neither root nor sudo: run as root: apt-get install$$missing" >&2; exit 1; fi; \
	echo "Installing$$missing …"; \
	export DEBIAN_FRONTEND=noninteractive; \
	{ $$sudo apt-get update -qq && \
		$$sudo apt-get install -y -qq --no-install-recommends $$missing >/dev/null; } || { \
		echo "make: installing$$missing failed: install it and try again" >&2; exit 1; }

# Installs the Debian packages that the gateway and the demonstration need.
setup:
	@missing=; \
	[ -n "$$SOFTHSM2_MODULE" ] || [ -e /usr/lib/softhsm/libsofthsm2.so ] || missing="$$missing softhsm2"; \
	command -v openssl >/dev/null || missing="$$missing openssl"; \
	command -v curl >/dev/null || missing="$$missing curl"; \
	$(INSTALL)

# Installs protobuf's compiler and the other tokens that the tests run on. Opencryptoki's package
# starts its daemon only on a machine with an init system; in a container, the tests start it.
setup-test: setup
	@missing=; has() { ls /usr/lib/*/$$1 >/dev/null 2>&1; }; \
	[ -x /usr/bin/p11-kit ] || missing="$$missing p11-kit"; \
	has pkcs11/p11-kit-client.so || missing="$$missing p11-kit-modules"; \
	command -v protoc >/dev/null || missing="$$missing protobuf-compiler"; \
	command -v ssh-keygen >/dev/null || missing="$$missing openssh-client"; \
	[ -x /usr/sbin/pkcsslotd ] && has opencryptoki/libopencryptoki.so.0 || missing="$$missing opencryptoki"; \
	$(INSTALL)

# With -race, vet and staticcheck use the compiled packages of the tests.
check: setup-test bin/staticcheck
	@unformatted=$$(gofmt -l .); [ -z "$$unformatted" ] || { echo "not formatted: $$unformatted" >&2; exit 1; }
	$(GO) vet -race ./...
	$(GO) -C integration vet -race ./...
	GOFLAGS="$$GOFLAGS -race" bin/staticcheck ./...
	cd integration && GOFLAGS="$$GOFLAGS -race" ../bin/staticcheck ./...
	$(GO) -C integration run ./words ..
	CGO_ENABLED=0 $(GO) build -trimpath $$($(GO) list ./... | grep -vE '$(LINKS_C)')
	@mkdir -p bin/_generated; $(PROTOC)bin/_generated
	@grep -v '^// *protoc  *v' $(NATIVEPB).pb.go >bin/_generated/have; \
		grep -v '^// *protoc  *v' bin/_generated/$(NATIVEPB).pb.go >bin/_generated/want; \
		cmp bin/_generated/have bin/_generated/want || { \
		echo "$(NATIVEPB).pb.go does not match $(NATIVEPB).proto: run make generate" >&2; exit 1; }
	@$(MAKE) --no-print-directory vuln

# Fails if the program can reach code with a known vulnerability. The database must be reachable for
# that; VULNDB names a copy, by https:// or file://.
VULNDB ?= https://vuln.go.dev
vuln: setup
	@if ! curl -fsS --max-time 20 -o /dev/null $(VULNDB)/index/db.json 2>/dev/null; then \
		echo "make: $(VULNDB) cannot be reached, so nothing was checked for known vulnerabilities" >&2; \
	else $(MAKE) --no-print-directory bin/govulncheck && bin/govulncheck -db $(VULNDB) ./...; fi

bin/staticcheck: integration/go.mod
	$(GO) -C integration build -o ../bin/staticcheck honnef.co/go/tools/cmd/staticcheck

bin/govulncheck: integration/go.mod
	$(GO) -C integration build -o ../bin/govulncheck golang.org/x/vuln/cmd/govulncheck

# protoc generates $(NATIVEPB).pb.go, the native API's messages, from $(NATIVEPB).proto.
NATIVEPB := gateway/nativepb/native
PROTOC = $(GO) build -o bin/protoc-gen-go google.golang.org/protobuf/cmd/protoc-gen-go && \
	protoc --plugin=bin/protoc-gen-go --go_opt=paths=source_relative $(NATIVEPB).proto --go_out=

generate: setup-test
	$(PROTOC).

# -p: the tests of several packages mostly wait.
unit:
	$(GO_TEST) test -race -p 4 -parallel 8 -timeout 15m ./...

integration:
	# -count=1: the test cache does not know that the tests build ../cmd/kmsgate. -parallel: most of
	# the parallel tests wait for a fault to pass.
	$(GO_TEST) -C integration test -race -count=1 -parallel 6 -timeout 15m ./...

# Fuzzes each target for FUZZTIME. The limit of 20 executions keeps the fuzzer from spending that
# time on minimizing inputs: targets that touch files never behave the same way twice.
# `make test` runs the seeds of all targets.
FUZZTIME ?= 30s
fuzz:
	for target in ./hsm:FuzzSignatureDER ./hsm:FuzzPublicKeyDER \
		./policy:FuzzMatch ./policy:FuzzParse ./policy:FuzzKeyPolicy ./policy:FuzzDecide \
		./gateway/acs:FuzzParse ./gateway/acs:FuzzParameters ./gateway/acs:FuzzNative ./gateway/kms:FuzzDecode ./gateway:FuzzNativeDoor \
		./gateway/audit:FuzzEncodeEntry ./gateway/audit:FuzzDecodeEntryLine \
		./internal/config:FuzzParse ./cmd/kmsgate/internal/ceremony:FuzzParsePlan ./cmd/kmsgate/internal/batch:FuzzJournal ./internal/dev:FuzzParseSeed ./cmd/kmsgate/internal/backup/archive:FuzzExtract; do \
		$(GO) test $${target%%:*} -run '^$$' -fuzz "^$${target##*:}$$" \
			-fuzztime $(FUZZTIME) -fuzzminimizetime 20x || exit 1; \
	done

# Measures the gateway, the floor and the bare token with kmsgate bench, in about ten minutes, and
# writes the tables of docs/performance.md. With ROWS, a pattern such as 'sign EC_P256, 32', it
# measures only some rows, and leaves the page alone.
ROWS ?=
BENCH_TMP ?= /var/tmp
BENCH = bin/bench -kmsgate $(KMSGATE) -floor bin/floor -dir $(BENCH_TMP)
bench: setup bin/kmsgate bin/floor bin/bench
	$(BENCH) $(if $(ROWS),-rows '$(ROWS)',-write docs/performance.md)

# Prints how the gateway compares with the floor, for information: no figure makes it fail.
floor-table: setup bin/kmsgate bin/floor bin/bench
	@$(BENCH) -rows '(sign|publickey) EC_P256, 32' -rounds 1 -time 1s -warm-up 500ms

# With the flags of bin/kmsgate, so that the compiled packages of both are the same.
.PHONY: bin/floor bin/bench
bin/floor bin/bench:
	$(GO) -C integration build -trimpath $(HARDENED) -o ../$@ ./$(notdir $@)

# Measures the parts of the gateway, in about seven minutes.
KEYS ?= 10000
bench-parts: setup
	$(GO_TEST) test ./gateway ./gateway/audit -run '^$$' -bench . -benchtime 500x
	$(GO_TEST) test ./hsm/token -run '^$$' -bench Keys -benchtime 1000x -timeout 1h -args -keys $(KEYS)
	$(GO_TEST) test ./hsm/token -run '^$$' -bench Sign -benchtime 500ms -count 8
	$(GO_TEST) -C integration test -run '^TestManyKeys$$' -count=1 -v -timeout 1h . -args -plain -keys $(KEYS)

# Runs the long tests, several of them for SOAK each, with their files on a disk: gateways that are
# killed at random moments, whose token, system calls, clock, processor or power fails, and that get
# the largest requests; one whose memory must stay flat, for 27 minutes at least; and one against a
# model of its records. A test that fails prints the SEED that repeats its random choices. The last
# test creates KEYS keys. The tests need root, and a loop device. They run one at a time, because one
# of them takes the processors away.
SOAK ?= 30m
SEED ?= 0
SOAK_TMP ?= /var/tmp
SOAK_TESTS := TestKilledAtAnyMoment|TestFaultsUnderLoad|TestSystemCallsFail|TestStandsStill|TestLogStalls
SOAK_TESTS := $(SOAK_TESTS)|TestSlowGeneration|TestClockSteps|TestResourcesReturn|TestPowerLoss|TestPowerLossOnDevice
SOAK_TESTS := $(SOAK_TESTS)|TestMemoryIsFlat
soak: setup-test
	TMPDIR=$(SOAK_TMP) $(GO) -C integration test -race -count=1 -parallel 1 -v -timeout 48h \
		-run '^($(SOAK_TESTS))$$' . -args -soak $(SOAK) -seed $(SEED)
	$(GO_TEST) test ./gateway -race -count=1 -v -timeout 48h -run '^TestModel$$' \
		-args -soak $(SOAK) -rapid.checks 500 -rapid.seed $(SEED)
	$(GO) -C integration test -race -count=1 -v -timeout 1h -run '^TestManyKeys$$' . -args -keys $(KEYS)

# Runs the examples, each against a new gateway. `make test` runs the one in Go.
EXAMPLE = bin/kmsgate-dev --seed examples/seed.yaml --listen 127.0.0.1:0 --
examples: example-go example-python example-node example-java

# With -race, the build uses the compiled packages of the tests.
example-go: bin/kmsgate-dev
	$(GO) -C examples/go build -race -o ../../bin/example-go .
	$(EXAMPLE) bin/example-go

example-python: bin/kmsgate-dev
	python3 -m venv bin/_python && bin/_python/bin/pip install -q -r examples/python/requirements.txt
	$(EXAMPLE) bin/_python/bin/python examples/python/main.py

example-node: bin/kmsgate-dev
	@mkdir -p bin/_node && cp examples/node/* bin/_node
	npm ci --prefix bin/_node --no-audit --no-fund --loglevel=error
	$(EXAMPLE) sh -c 'NODE_EXTRA_CA_CERTS=$$KMSGATE_CA_FILE node bin/_node/main.js'

example-java: bin/kmsgate-dev
	mvn -q -f examples/java compile
	$(EXAMPLE) mvn -q -f examples/java exec:java

# What takes too long for `make test`, and is run before a release.
full: image-test examples fuzz darwin

# Checks what kmsgate dev compiles on macOS.
darwin:
	CGO_ENABLED=0 GOOS=darwin $(GO) vet ./cmd/kmsgate-dev

# Builds the image with buildah on a base made by debootstrap, and runs the image.
image-test:
	integration/image-test.sh

# Writes bin/kmsgate-src.tar.gz: the sources of the last commit with all modules that the program
# needs. They build without a network: make bin/kmsgate
vendor:
	@rm -rf bin/_vendor && mkdir -p bin/_vendor/kmsgate
	git archive HEAD | tar -x -C bin/_vendor/kmsgate
	$(GO) -C bin/_vendor/kmsgate mod vendor
	tar -C bin/_vendor -czf bin/kmsgate-src.tar.gz kmsgate
	@rm -rf bin/_vendor

clean:
	rm -rf bin
