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

// mayImport is the architecture: which package of ours imports which, directly,
// and which modules besides the standard library. A new arrow needs a reason
// here.
var mayImport = map[string][]string{
	// What a key backend is: verification in software needs the curves that the
	// standard library has not.
	"hsm":         {"github.com/decred/dcrd", "github.com/emmansun/gmsm", "golang.org/x/crypto"},
	"hsm/hsmtest": {"hsm", "github.com/decred/dcrd", "github.com/emmansun/gmsm"},
	// Tokens of other makers and faults, for tests: processes and files, which are
	// watched with system calls that the standard library has not.
	"hsm/hsmtest/rig": {"softhsm", "golang.org/x/sys"},
	"hsm/sealed":      {"hsm", "github.com/emmansun/gmsm"},
	// The only package that links C, with the one inside it that calls the module.
	"hsm/token": {"hsm", "hsm/token/internal/p11", "internal/secret", "github.com/miekg/pkcs11", "github.com/ThalesGroup/crypto11"},
	// Files that survive a crash whole, and locks: flock is a system call that the
	// standard library keeps in the frozen syscall.
	"internal/durable": {"golang.org/x/sys"},
	"hsm/token/internal/p11": {"github.com/miekg/pkcs11",
		"golang.org/x/sys"}, // descriptors that modules close
	// A type whose values no log can show, for PINs and passphrases.
	"internal/secret": {},
	// Pure functions of documents and requests.
	"policy": {},
	// Records hold an hsm.Key. bbolt is seen here only.
	"store": {"hsm", "internal/durable", "store/bboltcheck", "go.etcd.io/bbolt", "github.com/tidwall/btree"},
	// Whether bbolt can read a file and survive. It locks the file meanwhile.
	"store/bboltcheck": {"internal/durable"},
	// Files of a SoftHSM token. How a token is initialized is handed in, so that
	// this builds without C.
	"softhsm":     {"internal/durable", "golang.org/x/sys"},
	"gateway/acs": {"gateway/kms", "github.com/emmansun/gmsm"}, // how times are written; SM3, for ACS3-HMAC-SM3
	// The native API's messages.
	"gateway/nativepb": {"google.golang.org/protobuf"},
	// The API's vocabulary: what clients and the gateway say to each other. Answers have
	// hsm's KeySpecs and surveys.
	"gateway/kms": {"hsm"},
	// Connections: how many, whose, TLS or not; and who is at the admin socket's other end.
	"gateway/front": {"gateway/limit", "golang.org/x/sys"},
	// A change of records and its audit line are one transaction.
	"gateway/journal": {"gateway/audit", "store"},
	// How much one caller may take from the others.
	"gateway/limit": {"gateway/kms", "golang.org/x/time"},
	// The life of a key pair: made, watched, tested, destroyed.
	"gateway/keypair": {"gateway/audit", "gateway/identity", "gateway/journal", "gateway/kms", "hsm", "store", "github.com/google/uuid"},
	// Who a caller is, and what the caller may do.
	"gateway/identity": {"gateway/acs", "gateway/kms", "hsm", "policy", "store",
		"software.sslmate.com/src/go-pkcs12"}, // what a client key is handed over in
	"gateway/audit": {"internal/durable"}, // a new file of the log has to survive a power failure
	// A client of the admin door.
	"gateway/adminclient": {"gateway/kms"},
	// The service. Echo is seen here only, in the doors.
	"gateway": {"gateway/acs", "gateway/audit", "gateway/front", "gateway/identity", "gateway/journal", "gateway/keypair", "gateway/kms", "gateway/limit", "gateway/nativepb", "hsm", "policy", "store", "google.golang.org/protobuf",
		"github.com/labstack/echo", "github.com/google/uuid", "github.com/prometheus/client_golang"},
	// The one file that everything is told by.
	"cmd/kmsgate/internal/config": {"internal/secret", "go.yaml.in/yaml"},
	// Backups as files: age is seen here only, and one flush for all files takes a
	// system call that the standard library has not.
	"cmd/kmsgate/internal/backup/archive": {"gateway/audit", "internal/secret", "filippo.io/age", "golang.org/x/sys"},
	// The CA that init makes, in files.
	"cmd/kmsgate/internal/ca":      {"internal/durable"},
	"cmd/kmsgate/internal/version": {},
	// Where everything that a configuration names is put together.
	"cmd/kmsgate/internal/appliance": {"cmd/kmsgate/internal/ca", "cmd/kmsgate/internal/config", "gateway", "gateway/audit", "gateway/keypair", "gateway/kms", "gateway/limit",
		"hsm", "hsm/sealed", "hsm/token", "internal/durable", "softhsm", "store",
		"github.com/google/uuid",               // the audit log's key has an id as key versions have
		"github.com/prometheus/client_golang"}, // the token's metrics
	// Connections are counted with netutil.
	"cmd/kmsgate/internal/serve": {"cmd/kmsgate/internal/appliance", "cmd/kmsgate/internal/config", "gateway", "gateway/front", "golang.org/x/net"},
	// What others chose, made harmless for a terminal: for all that is printed.
	"cmd/kmsgate/internal/printable": {},
	// An audit log's files, for an operator: the engine of kmsgate audit.
	"cmd/kmsgate/internal/auditlog":              {"cmd/kmsgate/internal/printable", "gateway/audit"},
	"cmd/kmsgate/internal/auditlog/auditlogtest": {"gateway/audit"}, // logs for the tests of both
	// Taking and restoring backups. How much room a disk has is a system call that the
	// standard library keeps in the frozen syscall.
	"cmd/kmsgate/internal/backup": {"cmd/kmsgate/internal/appliance", "cmd/kmsgate/internal/backup/archive", "cmd/kmsgate/internal/config",
		"cmd/kmsgate/internal/version", "gateway", "gateway/audit", "gateway/keypair", "internal/durable", "internal/secret", "softhsm", "golang.org/x/sys"},
	// The gateway that a command means, called: its admin socket, or its appliance opened here.
	"cmd/kmsgate/internal/target": {"cmd/kmsgate/internal/appliance", "cmd/kmsgate/internal/backup", "cmd/kmsgate/internal/config", "gateway/adminclient", "gateway/kms"},
	// What is wrong with a gateway, its token and its records.
	"cmd/kmsgate/internal/doctor": {"cmd/kmsgate/internal/appliance", "cmd/kmsgate/internal/ca", "cmd/kmsgate/internal/config", "cmd/kmsgate/internal/target",
		"gateway/kms", "hsm", "softhsm"},
	// Client keys as files.
	"cmd/kmsgate/internal/clientkey": {"gateway/identity", "gateway/kms", "internal/durable"},
	// kmsgate dev: everything in one directory.
	"cmd/kmsgate/internal/dev": {"cmd/kmsgate/internal/appliance", "cmd/kmsgate/internal/backup", "cmd/kmsgate/internal/clientkey", "cmd/kmsgate/internal/config",
		"cmd/kmsgate/internal/printable", "cmd/kmsgate/internal/serve", "gateway/kms", "hsm", "internal/durable", "softhsm", "store"},
	// How commands are made, and what they print.
	"cmd/kmsgate/internal/cli": {"cmd/kmsgate/internal/config", "cmd/kmsgate/internal/printable", "cmd/kmsgate/internal/target", "gateway/kms",
		"github.com/spf13/cobra",
		"golang.org/x/sys"}, // whether a person reads the output
	// Commands: flags, one call, and a table to print.
	"cmd/kmsgate": {"cmd/kmsgate/internal/appliance", "cmd/kmsgate/internal/auditlog", "cmd/kmsgate/internal/backup", "cmd/kmsgate/internal/backup/archive",
		"cmd/kmsgate/internal/cli", "cmd/kmsgate/internal/clientkey", "cmd/kmsgate/internal/config", "cmd/kmsgate/internal/dev",
		"cmd/kmsgate/internal/doctor", "cmd/kmsgate/internal/printable", "cmd/kmsgate/internal/serve", "cmd/kmsgate/internal/target", "cmd/kmsgate/internal/version",
		"gateway/audit", "gateway/kms", "hsm", "internal/durable", "internal/secret", "store",
		"hsm/token", // a PIN that is refused has an exit status of its own
		"github.com/spf13/cobra",
		"golang.org/x/sys"}, // memory that nobody else reads
}

// linksC are the packages that need a C compiler; all others build without.
var linksC = []string{"hsm/token", "hsm/token/internal/p11", "cmd/kmsgate", "cmd/kmsgate/internal/appliance", "cmd/kmsgate/internal/serve", "cmd/kmsgate/internal/backup", "cmd/kmsgate/internal/target", "cmd/kmsgate/internal/doctor", "cmd/kmsgate/internal/dev", "cmd/kmsgate/internal/cli"}

// A pkg is what go list says of a package.
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

// TestLayout holds the code to the picture of the architecture.
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
			t.Errorf("%s is not in the table of who may import what", name)
		}
		for _, imported := range p.Imports {
			if standard[imported] {
				continue
			}
			imported = strings.TrimPrefix(imported, module)
			if !slices.ContainsFunc(allowed, func(a string) bool {
				return imported == a || strings.Contains(a, ".") && strings.HasPrefix(imported, a+"/")
			}) {
				t.Errorf("%s imports %s, which the table does not allow", name, imported)
			}
		}
		if needsC := slices.Contains(p.Deps, "github.com/miekg/pkcs11"); needsC != slices.Contains(linksC, name) {
			t.Errorf("%s links C: %v", name, needsC)
		}
		if len(p.CgoFiles) > 0 {
			t.Errorf("%s has C of its own: %v", name, p.CgoFiles)
		}
	}
	for name, allowed := range mayImport {
		if strings.HasPrefix(name, "gateway/") && slices.Contains(allowed, "gateway") {
			t.Errorf("%s is a room beside the corridor and may not import it: the arrow would run back up", name)
		}
	}
	if len(ours) != len(mayImport) {
		t.Errorf("there are %d packages, the table has %d", len(ours), len(mayImport))
	}
}
