package integration

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/kmsgate/kmsgate/"

// mayImport is the architecture. It lists, for each package of the main module, the packages and
// modules that the package may import directly besides the standard library. A new import needs a
// reason here.
var mayImport = map[string][]string{
	// The interface of key backends. Verification in software needs curves that the standard
	// library lacks.
	"hsm":         {"github.com/decred/dcrd", "github.com/emmansun/gmsm", "golang.org/x/crypto"},
	"hsm/hsmtest": {"hsm", "hsm/privatekey"},
	// Private keys in memory, for tests.
	"hsm/privatekey": {"hsm", "github.com/decred/dcrd", "github.com/emmansun/gmsm"},
	// Keys in files, for tests. No kmsgate serve links it.
	"hsm/software": {"hsm", "hsm/privatekey", "internal/durable"},
	// Tokens of other vendors, and faults, for tests. They are processes and files, which the rig
	// watches with system calls that the standard library lacks.
	"hsm/hsmtest/rig": {"softhsm", "golang.org/x/sys"},
	"hsm/sealed":      {"hsm", "github.com/emmansun/gmsm"},
	// The only package that links C, together with its internal package, which calls the module.
	"hsm/token": {"hsm", "hsm/privatekey", "hsm/token/internal/p11", "internal/secret",
		"internal/durable", "golang.org/x/crypto", // the record of refused PINs, hashed by scrypt
		"github.com/miekg/pkcs11", "github.com/ThalesGroup/crypto11"},
	// Files that survive a crash intact, and locks. The standard library has the system call flock
	// only in its frozen package syscall.
	"internal/durable": {"golang.org/x/sys"},
	"hsm/token/internal/p11": {"github.com/miekg/pkcs11",
		"golang.org/x/sys"}, // descriptors that modules close
	// A type for PINs and passphrases, whose values no log can show.
	"internal/secret": {},
	// Pure functions of documents and requests.
	"policy": {},
	// Records contain an hsm.Key. Only this package imports bbolt.
	"store": {"hsm", "internal/durable", "store/bboltcheck", "go.etcd.io/bbolt", "github.com/tidwall/btree",
		"golang.org/x/sys/unix"}, // the time of a file's last change
	// Databases of tests, sealed by a fake token.
	"store/storetest": {"hsm/hsmtest", "store"},
	// A check whether bbolt can read a file without crashing. It locks the file during the check.
	"store/bboltcheck": {"internal/durable"},
	// The files of a SoftHSM token. The caller passes the function that initializes a token, so
	// that this package builds without C.
	"softhsm":     {"internal/durable", "golang.org/x/sys"},
	"gateway/acs": {"gateway/kms", "github.com/emmansun/gmsm"}, // how times are written; SM3, for ACS3-HMAC-SM3
	// The native API's messages.
	"gateway/nativepb": {"google.golang.org/protobuf"},
	// The API's vocabulary: requests, responses and errors. Responses contain hsm's KeySpecs and
	// surveys.
	"gateway/kms": {"hsm"},
	// Connections: their number, their owners, TLS, and the admin socket's peer.
	"gateway/front": {"gateway/limit", "internal/unixsocket"},
	// Unix sockets, whatever the length of their paths, and the identity of the other end.
	"internal/unixsocket":                {"golang.org/x/sys"},
	"internal/unixsocket/unixsockettest": {}, // sockets of other users, for tests
	// Which other users of this machine can change a file.
	"internal/ownership": {"golang.org/x/sys"},
	// A change of records and its audit line are one transaction.
	"gateway/journal": {"gateway/audit", "store"},
	// Whether this machine's clock can be believed.
	"gateway/clock": {},
	// Limits of the resources that one caller may use.
	"gateway/limit": {"gateway/kms", "internal/memlimit", "golang.org/x/time", "golang.org/x/sys"}, // sys: the machine's memory
	// The lifecycle of a key pair: creation, monitoring, tests and destruction.
	"gateway/keypair": {"gateway/audit", "gateway/identity", "gateway/journal", "gateway/kms", "hsm", "store",
		"github.com/google/uuid"},
	// The identity of a caller, and the caller's permissions.
	"gateway/identity": {"gateway/acs", "gateway/kms", "hsm", "policy", "store",
		"software.sslmate.com/src/go-pkcs12"}, // the format of client key files
	"gateway/audit": {"internal/durable", // a new file of the log must survive a power failure
		"internal/printable"}, // text that callers chose is inert in a line
	// A client of the admin door. It makes sure that the right gateway is there.
	"gateway/adminclient": {"gateway/kms", "internal/ownership", "internal/unixsocket"},
	// A client of the API. It reads the string to sign as the server does.
	"gateway/apiclient": {"gateway/acs", "gateway/kms", "internal/secret", "github.com/google/uuid"},
	// The service. Only its doors import Echo.
	"gateway": {"gateway/acs", "gateway/audit", "gateway/clock", "gateway/front", "gateway/identity", "gateway/journal",
		"gateway/keypair", "gateway/kms", "gateway/limit", "gateway/nativepb", "hsm", "policy", "store",
		"google.golang.org/protobuf", "github.com/labstack/echo", "github.com/google/uuid",
		"github.com/prometheus/client_golang"},
	// The configuration file, with the format of the log.
	"internal/config": {"internal/ca", "internal/logsink", "internal/ownership", "internal/secret", "internal/unixsocket",
		"go.yaml.in/yaml",
		"internal/servercert"}, // one check of an operator's certificate, for kmsgate config check and for a change
	// A log that never makes the gateway wait.
	"internal/logsink": {},
	// The memory limit of this process's cgroup, and whether its memory can be swapped out.
	"internal/memlimit": {},
	// How processes react to signals. The standard library cannot restore a handler that C code has
	// replaced.
	"internal/signals": {"golang.org/x/sys"},
	// The format of backups. Only this package imports age. Flushing all files at once needs a
	// system call that the standard library lacks.
	"cmd/kmsgate/internal/backup/archive": {"gateway/audit", "internal/secret", "filippo.io/age", "golang.org/x/sys"},
	// The CA that kmsgate init creates, as files.
	"internal/ca": {"internal/durable"},
	// The listeners' certificate, which changes while they serve.
	"internal/servercert":                {"internal/ca"},
	"internal/servercert/servercerttest": {}, // certificates of an operator, for tests
	"cmd/kmsgate/internal/version":       {},
	// Opens everything that a configuration names.
	"internal/appliance": {"internal/ca", "internal/config", "internal/logsink", "internal/servercert",
		"gateway", "gateway/audit", "gateway/clock", "gateway/keypair", "gateway/kms", "gateway/limit",
		"hsm", "hsm/privatekey", "hsm/sealed", "internal/durable", "store",
		"github.com/google/uuid",               // the audit log's key has an ID like those of key versions
		"github.com/prometheus/client_golang"}, // the metrics of the token and of the log
	// The PKCS#11 token of an appliance.
	"cmd/kmsgate/internal/hardware": {"internal/appliance", "internal/config", "internal/logsink", "internal/ownership",
		"hsm", "hsm/token", "softhsm",
		"github.com/prometheus/client_golang"},
	// An appliance with a token for tests.
	"cmd/kmsgate/internal/hardware/hardwaretest": {"cmd/kmsgate/internal/hardware", "internal/appliance", "internal/config"},
	// Listens, and serves an open appliance.
	"internal/serve": {"internal/appliance", "internal/config", "gateway", "gateway/front"},
	// Makes text that others chose harmless for a terminal.
	"internal/printable": {},
	// The files of an audit log: the engine of kmsgate audit.
	"cmd/kmsgate/internal/auditlog":              {"internal/printable", "gateway/audit"},
	"cmd/kmsgate/internal/auditlog/auditlogtest": {"gateway/audit"}, // logs for the tests of both
	// Creating and restoring backups. The standard library has the system call for a disk's free
	// space only in its frozen package syscall.
	"cmd/kmsgate/internal/backup": {"internal/appliance", "cmd/kmsgate/internal/backup/archive", "cmd/kmsgate/internal/hardware",
		"internal/config", "cmd/kmsgate/internal/version", "gateway", "gateway/audit", "gateway/keypair",
		"internal/durable", "internal/secret", "softhsm", "golang.org/x/sys"},
	// Calls the gateway that a command names, through its admin socket or by opening its appliance.
	"cmd/kmsgate/internal/target": {"internal/appliance", "cmd/kmsgate/internal/backup", "cmd/kmsgate/internal/hardware",
		"internal/config", "gateway/adminclient", "gateway/apiclient", "gateway/kms", "internal/secret"},
	// Signs and verifies files.
	"cmd/kmsgate/internal/signer": {"cmd/kmsgate/internal/target", "gateway/kms", "hsm",
		"github.com/emmansun/gmsm", // certificate requests and CMS, for SM2 as well
		"golang.org/x/crypto"},     // OpenSSH's keys and Keccak-256
	// Puts load on an endpoint, and measures. Its connections are raw, because a general client would
	// take processor time from the server that it measures. The library keeps latencies in bounded
	// memory.
	"cmd/kmsgate/internal/bench": {"gateway/apiclient", "gateway/kms", "hsm", "github.com/HdrHistogram/hdrhistogram-go",
		"golang.org/x/sys"}, // the processor time of a process, and exact waits
	// A gateway's attestation of a document, in files.
	"cmd/kmsgate/internal/attestation": {"cmd/kmsgate/internal/target", "gateway/audit", "gateway/kms", "internal/durable"},
	// Signs what a list names, and proves it. Flushing only a file's data needs a system call that
	// the standard library lacks.
	"cmd/kmsgate/internal/batch": {"cmd/kmsgate/internal/attestation", "cmd/kmsgate/internal/signer", "cmd/kmsgate/internal/target",
		"gateway/audit", "gateway/kms", "hsm", "internal/durable", "github.com/google/uuid", "golang.org/x/sys"},
	// Creates what a plan names, and proves it.
	"cmd/kmsgate/internal/ceremony": {"cmd/kmsgate/internal/attestation", "cmd/kmsgate/internal/target", "gateway/audit", "gateway/kms", "hsm",
		"internal/durable", "internal/strictyaml", "github.com/google/uuid"},
	// A gateway for the tests of what signs through one.
	"cmd/kmsgate/internal/signer/signertest": {"gateway/audit", "gateway/kms", "hsm", "hsm/hsmtest"},
	// Finds the problems of a gateway, its token and its records.
	"cmd/kmsgate/internal/doctor": {"internal/appliance", "internal/ca", "cmd/kmsgate/internal/hardware",
		"internal/config", "internal/ownership", "cmd/kmsgate/internal/target", "gateway/kms", "hsm", "softhsm"},
	// Client keys as files.
	"internal/clientkey": {"gateway/identity", "gateway/kms", "internal/durable"},
	// A gateway for development: everything in one directory.
	"internal/dev": {"internal/appliance", "internal/clientkey", "internal/config", "internal/ownership", "internal/printable",
		"internal/serve", "internal/signals", "internal/strictyaml", "gateway", "gateway/identity", "gateway/keypair", "gateway/kms", "policy", "golang.org/x/sys", "hsm", "hsm/privatekey", "internal/durable", "store",
		"github.com/google/uuid", "github.com/spf13/pflag"},
	// The same inside other people's tests.
	"kmsgatetest": {"internal/dev", "internal/softwarekeys"},
	// YAML that people write.
	"internal/strictyaml": {"go.yaml.in/yaml"},
	// The same with keys in software.
	"cmd/kmsgate-dev": {"internal/config", "internal/dev", "internal/logsink", "internal/signals", "internal/softwarekeys",
		"github.com/spf13/pflag"},
	// Keys in software for an appliance.
	"internal/softwarekeys": {"hsm", "hsm/software", "internal/appliance", "internal/config"},
	// How commands are built, and what they print.
	"cmd/kmsgate/internal/cli": {"internal/config", "internal/printable",
		"cmd/kmsgate/internal/target", "gateway/kms", "github.com/spf13/cobra", "github.com/spf13/pflag",
		"hsm",               // a failure has an exit status, a refused PIN a separate one
		"golang.org/x/sys"}, // the width of a terminal
	// Commands: flags, one call, and a table to print.
	"cmd/kmsgate": {"internal/appliance", "cmd/kmsgate/internal/auditlog", "cmd/kmsgate/internal/backup",
		"cmd/kmsgate/internal/batch", "cmd/kmsgate/internal/bench", "cmd/kmsgate/internal/ceremony",
		"cmd/kmsgate/internal/backup/archive", "cmd/kmsgate/internal/cli", "internal/clientkey",
		"internal/config", "internal/dev", "cmd/kmsgate/internal/doctor", "cmd/kmsgate/internal/hardware", "softhsm",
		"internal/logsink", "internal/memlimit", "internal/printable", "internal/serve", "internal/signals", "cmd/kmsgate/internal/signer", "cmd/kmsgate/internal/target",
		"cmd/kmsgate/internal/version",
		"gateway/apiclient", // the endpoint that kmsgate bench measures
		"gateway/audit", "gateway/kms", "hsm", "internal/durable", "internal/secret", "store",
		"policy", // warns of actions that match no operation
		"github.com/spf13/cobra",
		"golang.org/x/sys"}, // memory that no other process can read
}

// linksC are the packages that need a C compiler. All others build without one.
var linksC = []string{"hsm/token", "hsm/token/internal/p11", "cmd/kmsgate", "cmd/kmsgate/internal/hardware", "cmd/kmsgate/internal/hardware/hardwaretest",
	"cmd/kmsgate/internal/backup", "cmd/kmsgate/internal/target",
	"cmd/kmsgate/internal/doctor", "cmd/kmsgate/internal/cli", "cmd/kmsgate/internal/signer",
	"cmd/kmsgate/internal/batch", "cmd/kmsgate/internal/ceremony", "cmd/kmsgate/internal/attestation"}

// A pkg is a package in the output of go list.
type pkg struct {
	ImportPath string
	Imports    []string
	CgoFiles   []string
	Deps       []string
	Standard   bool
}

func goList(t *testing.T, args ...string) (pkgs []pkg) {
	t.Helper()
	cmd := exec.Command("go", append([]string{"list", "-json=ImportPath,Imports,CgoFiles,Deps,Standard"}, args...)...)
	cmd.Dir = ".."
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return pkgs
		} else if err != nil {
			t.Fatal(err)
		}
		pkgs = append(pkgs, p)
	}
}

// TestLayout checks that the imports of every package are those that mayImport allows.
func TestLayout(t *testing.T) {
	standard := make(map[string]bool)
	for _, p := range goList(t, "std") {
		standard[p.ImportPath] = true
	}
	ours := goList(t, "./...")
	for _, p := range ours {
		name := strings.TrimPrefix(p.ImportPath, module)
		allowed, ok := mayImport[name]
		if !ok {
			t.Errorf("package %s is missing from mayImport", name)
		}
		for _, imported := range p.Imports {
			if standard[imported] {
				continue
			}
			imported = strings.TrimPrefix(imported, module)
			if !slices.ContainsFunc(allowed, func(a string) bool {
				return imported == a || strings.Contains(a, ".") && strings.HasPrefix(imported, a+"/")
			}) {
				t.Errorf("package %s imports %s, which mayImport does not allow", name, imported)
			}
		}
		if needsC := slices.Contains(p.Deps, "github.com/miekg/pkcs11"); needsC != slices.Contains(linksC, name) {
			t.Errorf("package %s links C: got %v, want %v", name, needsC, !needsC)
		}
		if name == "cmd/kmsgate" && slices.Contains(p.Deps, module+"hsm/software") {
			t.Error("cmd/kmsgate links hsm/software, want only keys in a token")
		}
		if len(p.CgoFiles) > 0 {
			t.Errorf("package %s has cgo files %v, want none", name, p.CgoFiles)
		}
	}
	for name, allowed := range mayImport {
		if strings.HasPrefix(name, "gateway/") && slices.Contains(allowed, "gateway") {
			t.Errorf("mayImport lets %s import gateway, want the import in the other direction only", name)
		}
	}
	if len(ours) != len(mayImport) {
		t.Errorf("got %d packages, but mayImport has %d", len(ours), len(mayImport))
	}
}
