# The three commands of the README are demo, test and run. All of them install
# what is missing (Debian packages, through sudo where that is needed).

GO ?= go
# Where the listener of `make run` is, and what else `kmsgate dev` shall be told.
RUN ?=

# Tests kill processes, never the machine, so nothing they show needs a disk: their
# files are in memory where there is room and programs may be run from there.
# On a disk that takes 30 ms to flush they take four times as long.
TESTS_TMP := $(shell [ "$$(df -Pk /dev/shm 2>/dev/null | awk 'NR==2 {print $$4}')" -gt 1048576 ] 2>/dev/null && \
	f=$$(mktemp -p /dev/shm) && cp /bin/true $$f && chmod +x $$f && $$f && echo /dev/shm || echo $${TMPDIR:-/tmp}; rm -f $$f)
# What is built is not: it is large. A test would put its files beside that
# (testing.T.TempDir obeys GOTMPDIR), so it is not told.
GO_TEST = GOTMPDIR=$${TMPDIR:-/tmp} TMPDIR=$(TESTS_TMP) GOFLAGS="$$GOFLAGS '-exec=env -u GOTMPDIR'" $(GO)

# Packages that must build without a C compiler: all but these.
LINKS_C := /hsm/token(/internal/p11)?$$|/cmd/kmsgate$$|/cmd/kmsgate/internal/(appliance|serve|backup|target|doctor|dev|cli)$$

.PHONY: build demo run test setup setup-test check generate unit integration fuzz bench soak image-test clean

build: bin/kmsgate

.PHONY: bin/kmsgate
bin/kmsgate:
	$(GO) build -trimpath -o $@ ./cmd/kmsgate

demo: setup build
	$(GO) -C integration build -o ../bin/demo ./demo
	bin/demo bin/kmsgate

run: setup build
	bin/kmsgate dev $(RUN)

test: setup-test check unit integration

# Installs the Debian packages named in $$missing.
INSTALL = [ -n "$$missing" ] || exit 0; \
	if ! command -v apt-get >/dev/null; then \
		echo "make: please install$$missing: there is no apt-get to do it with" >&2; exit 1; fi; \
	if [ "$$(id -u)" = 0 ]; then sudo=; elif command -v sudo >/dev/null; then sudo=sudo; else \
		echo "make: please run as root: apt-get install$$missing" >&2; exit 1; fi; \
	echo "Installing$$missing …"; \
	export DEBIAN_FRONTEND=noninteractive; \
	{ $$sudo apt-get update -qq && $$sudo apt-get install -y -qq --no-install-recommends $$missing >/dev/null; } || { \
		echo "make: installing$$missing failed: please install it and try again" >&2; exit 1; }

# Installs what the gateway and the demonstration need from Debian's packages.
setup:
	@missing=; \
	[ -n "$$SOFTHSM2_MODULE" ] || [ -e /usr/lib/softhsm/libsofthsm2.so ] || missing="$$missing softhsm2"; \
	command -v openssl >/dev/null || missing="$$missing openssl"; \
	command -v curl >/dev/null || missing="$$missing curl"; \
	$(INSTALL)

# Installs protobuf's compiler and the other tokens that the tests run on. Opencryptoki's package starts its
# daemon where there is an init system; in a container it leaves that to the tests.
setup-test: setup
	@missing=; has() { ls /usr/lib/*/$$1 >/dev/null 2>&1; }; \
	[ -x /usr/bin/p11-kit ] || missing="$$missing p11-kit"; \
	has pkcs11/p11-kit-client.so || missing="$$missing p11-kit-modules"; \
	command -v protoc >/dev/null || missing="$$missing protobuf-compiler"; \
	[ -x /usr/sbin/pkcsslotd ] && has opencryptoki/libopencryptoki.so.0 || missing="$$missing opencryptoki"; \
	$(INSTALL)

check: setup-test bin/staticcheck
	@unformatted=$$(gofmt -l .); [ -z "$$unformatted" ] || { echo "not formatted: $$unformatted" >&2; exit 1; }
	$(GO) vet ./...
	$(GO) -C integration vet ./...
	bin/staticcheck ./...
	cd integration && ../bin/staticcheck ./...
	CGO_ENABLED=0 $(GO) build $$($(GO) list ./... | grep -vE '$(LINKS_C)')
	@mkdir -p bin/_generated; $(PROTOC)bin/_generated
	@grep -v '^// *protoc  *v' $(NATIVEPB).pb.go >bin/_generated/have; grep -v '^// *protoc  *v' bin/_generated/$(NATIVEPB).pb.go >bin/_generated/want; \
		cmp bin/_generated/have bin/_generated/want || { echo "$(NATIVEPB).pb.go is not what $(NATIVEPB).proto makes: make generate" >&2; exit 1; }

bin/staticcheck: integration/go.mod
	$(GO) -C integration build -o ../bin/staticcheck honnef.co/go/tools/cmd/staticcheck

# What protobuf's generator makes of the native API's messages.
NATIVEPB := gateway/nativepb/native
PROTOC = $(GO) build -o bin/protoc-gen-go google.golang.org/protobuf/cmd/protoc-gen-go && \
	protoc --plugin=bin/protoc-gen-go --go_opt=paths=source_relative $(NATIVEPB).proto --go_out=

generate: setup-test
	$(PROTOC).

unit:
	$(GO_TEST) test -race -parallel 8 -timeout 15m ./...

integration:
	# Not from the cache: it does not know that the binary is built of ../cmd.
	$(GO_TEST) -C integration test -race -count=1 -timeout 15m ./...

# Fuzzes every target for FUZZTIME each, which is not to be spent on making inputs
# small: those that touch files never look the same twice. `make test` runs their seeds.
FUZZTIME ?= 30s
fuzz:
	for target in ./hsm:FuzzSignatureDER ./hsm:FuzzPublicKeyDER ./policy:FuzzMatch ./policy:FuzzParse ./policy:FuzzKeyPolicy ./policy:FuzzDecide ./cmd/kmsgate/internal/config:FuzzParse \
		./gateway/acs:FuzzParse ./gateway/acs:FuzzNative ./gateway/kms:FuzzDecode ./gateway:FuzzNativeDoor ./cmd/kmsgate/internal/backup/archive:FuzzExtract; do \
		$(GO) test $${target%%:*} -run '^$$' -fuzz "^$${target##*:}$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 20x || exit 1; \
	done

# The figures of docs/performance.md.
KEYS ?= 10000
bench: setup
	$(GO_TEST) test ./gateway ./gateway/audit -run '^$$' -bench . -benchtime 500x
	$(GO_TEST) test ./hsm/token -run '^$$' -bench Keys -benchtime 1000x -timeout 1h -args -keys $(KEYS)
	$(GO_TEST) test ./hsm/token -run '^$$' -bench Sign -benchtime 500ms -count 8
	$(GO_TEST) -C integration test -run '^TestManyKeys$$' -count=1 -v -timeout 1h . -args -plain -keys $(KEYS)

# Goes on with each of the long tests for SOAK: a gateway that is killed at random
# moments, on a disk, and one whose token fails in every way that there is. What a
# failure prints is the SEED that makes the same choices again.
SOAK ?= 30m
SEED ?= 0
SOAK_TMP ?= /var/tmp
soak: setup-test
	TMPDIR=$(SOAK_TMP) $(GO) -C integration test -race -count=1 -v -timeout 48h \
		-run '^(TestKilledAtAnyMoment|TestFaultsUnderLoad)$$' . -args -soak $(SOAK) -seed $(SEED)
	$(GO) -C integration test -race -count=1 -v -timeout 1h -run '^TestManyKeys$$' . -args -keys $(KEYS)

# Builds the image with buildah on a base that debootstrap makes, and runs it.
image-test:
	integration/image-test.sh

clean:
	rm -rf bin
