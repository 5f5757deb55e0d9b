// Package target finds the gateway that a command addresses and calls it: through the
// admin socket if the gateway is running, otherwise by opening its appliance in this
// process.
package target

import (
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/backup"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/hardware"
	"github.com/kmsgate/kmsgate/gateway/adminclient"
	"github.com/kmsgate/kmsgate/gateway/apiclient"
	"github.com/kmsgate/kmsgate/gateway/kms"
	"github.com/kmsgate/kmsgate/internal/appliance"
	"github.com/kmsgate/kmsgate/internal/config"
	"github.com/kmsgate/kmsgate/internal/secret"
)

// A Caller calls operations of a gateway as its local administrator.
type Caller interface {
	// Call calls one operation. The answer is decoded into answer, a pointer to a struct, or
	// dropped if that is nil. A refusal of the gateway is a *kms.Error.
	Call(ctx context.Context, action string, parameters map[string]string, answer any) error
	// Do is like Call, for a request that can be on behalf of a user.
	Do(ctx context.Context, request kms.AdminRequest, answer any) error
	// Stream calls one operation that answers with octets, and writes them to w. If it
	// returns nil, they are complete.
	Stream(ctx context.Context, action string, parameters map[string]string, w io.Writer) error
	Close() error
}

// ErrUnreachable means that no gateway answers.
var ErrUnreachable = errors.New("no gateway answers")

// ErrNoTarget means that nothing addresses a gateway.
var ErrNoTarget = errors.New("which gateway? Give --config FILE, or --socket PATH of a running one (or " + SocketVariable + "), or --dir DIR of a kmsgate dev")

// A Target addresses one gateway, by one of its paths or by an endpoint. If all are empty,
// SocketVariable in the environment addresses it.
type Target struct {
	// Socket is the admin socket of a running gateway. Its instance and its user are unknown, so the
	// gateway must belong to root or to this process's user. See [adminclient.Gateway].
	Socket string

	Config string // the configuration file of a gateway, running or stopped
	Dir    string // the directory of a `kmsgate dev`, running or stopped

	// InsistOnPIN makes Dial use the PIN of a stopped gateway although the token refused it
	// before, or is about to lock.
	InsistOnPIN bool

	Endpoint string // the API endpoint of a gateway, or of KMS, elsewhere: host or host:port
	CAFile   string // the certificates to trust at Endpoint, in PEM; empty: those of the system
}

// SocketVariable is the environment variable with the path of the admin socket. It is read
// if no flag addresses a gateway.
const SocketVariable = "KMSGATE_ADMIN_SOCKET"

// configFile returns the path of the configuration, or "" if the target names none.
func (t Target) configFile() string {
	if t.Dir != "" {
		return filepath.Join(t.Dir, config.FileName)
	}
	return t.Config
}

// Configuration loads the target's configuration. It returns nil if the target names
// none.
func (t Target) Configuration() (*config.Config, error) {
	path := t.configFile()
	if path == "" {
		return nil, nil
	}
	return config.Load(path)
}

// AuditFiles returns the paths of the audit log and of its public key, if the target names
// a configuration.
func (t Target) AuditFiles() (log, key string, err error) {
	c, err := t.Configuration()
	if c == nil {
		return "", "", err
	}
	return c.Audit.File, c.AuditPublicKeyFile(), nil
}

// Dial returns a caller of the gateway. It opens the gateway's appliance in this process if
// the gateway is stopped; the appliance logs to log.
func (t Target) Dial(ctx context.Context, log io.Writer) (Caller, error) {
	if t.Endpoint != "" {
		return t.dialEndpoint()
	}
	if path := t.configFile(); t.Socket == "" && path != "" {
		return dialConfig(ctx, path, appliance.Options{InsistOnPIN: t.InsistOnPIN}, log)
	}
	return t.DialRunning()
}

// DialRunning returns a caller of the gateway if it is running, else ErrUnreachable.
func (t Target) DialRunning() (Caller, error) {
	if path := t.configFile(); t.Socket == "" && path != "" {
		c, err := config.Load(path)
		if err != nil {
			return nil, err
		}
		return dialSocket(context.Background(), gatewayOf(c))
	}
	socket := cmp.Or(t.Socket, os.Getenv(SocketVariable))
	if socket == "" {
		return nil, ErrNoTarget
	}
	return dialSocket(context.Background(), adminclient.Gateway{Socket: socket})
}

// The environment variables with the credential for an endpoint, as Alibaba Cloud's SDKs read
// them.
const (
	accessKeyIdVariable     = "ALIBABA_CLOUD_ACCESS_KEY_ID"
	accessKeySecretVariable = "ALIBABA_CLOUD_ACCESS_KEY_SECRET"
	securityTokenVariable   = "ALIBABA_CLOUD_SECURITY_TOKEN"
)

// EndpointConfig returns what a client of the endpoint needs. getenv, such as os.Getenv, returns the
// variables that hold the access key.
func (t Target) EndpointConfig(getenv func(name string) string) (apiclient.Config, error) {
	c := apiclient.Config{Endpoint: t.Endpoint, AccessKeyId: getenv(accessKeyIdVariable), AccessKeySecret: secret.Text(getenv(accessKeySecretVariable))}
	if c.AccessKeyId == "" || c.AccessKeySecret == "" {
		return c, fmt.Errorf("no access key for %s: set %s and %s in the environment", t.Endpoint, accessKeyIdVariable, accessKeySecretVariable)
	}
	if getenv(securityTokenVariable) != "" {
		return c, fmt.Errorf("temporary credentials are not supported: unset %s, and set an access key of a user", securityTokenVariable)
	}
	if t.CAFile != "" {
		text, err := os.ReadFile(t.CAFile)
		if err != nil {
			return c, fmt.Errorf("reading the CA of %s: %w", t.Endpoint, err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(text) {
			return c, fmt.Errorf("reading the CA of %s: %q has no certificate in PEM", t.Endpoint, t.CAFile)
		}
	}
	return c, nil
}

// dialEndpoint returns a caller of the endpoint. It connects only when it calls an operation.
func (t Target) dialEndpoint() (Caller, error) {
	c, err := t.EndpointConfig(os.Getenv)
	if err != nil {
		return nil, err
	}
	return apiclient.New(c)
}

// gatewayOf returns what the configuration says about a running gateway.
func gatewayOf(c *config.Config) adminclient.Gateway {
	owner, err := ownerOf(c.Directory)
	if err != nil {
		owner = 0 // nobody runs a gateway in a directory that is missing
	}
	return adminclient.Gateway{Socket: c.Admin.Socket, Owner: owner, Instance: c.Instance.ID}
}

func dialSocket(ctx context.Context, g adminclient.Gateway) (Caller, error) {
	client := adminclient.New(g)
	switch err := client.Probe(ctx); {
	case errors.Is(err, adminclient.ErrUntrusted):
		return nil, err
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("opening the admin socket %s as uid %d: run as root or as the gateway's user (%w)", g.Socket, os.Getuid(), err)
	case err != nil:
		return nil, fmt.Errorf("%w at the admin socket %s: is it running? (%w)", ErrUnreachable, g.Socket, err)
	}
	return client, nil
}

func dialConfig(ctx context.Context, path string, o appliance.Options, log io.Writer) (Caller, error) {
	c, err := config.Load(path)
	if err != nil {
		return nil, err
	}
	running, err := dialSocket(ctx, gatewayOf(c))
	if err == nil || !errors.Is(err, ErrUnreachable) {
		return running, err
	}
	// Before the files: another user may read none of them, which is no mistake of theirs.
	if err := CheckOwner(c.Directory); err != nil {
		return nil, err
	}
	if err := c.Check(); err != nil {
		return nil, err
	}
	o.Archiver, o.Logger = backup.NewArchiver, c.Log.Quiet(log)
	a, err := hardware.Open(ctx, c, o)
	if errors.Is(err, appliance.ErrInUse) {
		return nil, fmt.Errorf("%w at the admin socket %s, but another kmsgate process has the instance open: wait until it ends, or give the gateway's socket with --socket", ErrUnreachable, c.Admin.Socket)
	}
	if err != nil {
		return nil, err
	}
	return inProcess{a}, nil
}

// An OwnerError means that the gateway's directory belongs to another user. While the gateway is
// stopped, only that user can open the instance.
type OwnerError struct {
	Dir string
	UID int // the owner of Dir
}

func (e *OwnerError) Error() string {
	return fmt.Sprintf("opening the instance in %q: the directory belongs to uid %d (run as that user: setpriv --reuid %[2]d --clear-groups, or sudo -u '#%[2]d')", e.Dir, e.UID)
}

// CheckOwner returns an OwnerError unless the directory belongs to this process's user. Without it,
// root would leave files that the service cannot open.
func CheckOwner(dir string) error {
	owner, err := ownerOf(dir)
	if err == nil && owner != os.Getuid() {
		return &OwnerError{dir, owner}
	}
	return err
}

// ownerOf returns the uid of a directory's owner.
func ownerOf(dir string) (int, error) {
	info, err := os.Stat(dir)
	if err != nil {
		return 0, err
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, fmt.Errorf("the owner of %q is unknown", dir)
	}
	return int(owner.Uid), nil
}

// inProcess calls an appliance that is open in this process, as the user that the process
// runs as.
type inProcess struct{ appliance *appliance.Appliance }

func (p inProcess) Call(ctx context.Context, action string, parameters map[string]string, answer any) error {
	return p.appliance.Server.Call(ctx, action, parameters, answer)
}

func (p inProcess) Do(ctx context.Context, request kms.AdminRequest, answer any) error {
	return p.appliance.Server.Do(ctx, request, answer)
}

func (p inProcess) Stream(ctx context.Context, action string, parameters map[string]string, w io.Writer) error {
	return p.appliance.Server.Stream(ctx, action, parameters, w)
}

func (p inProcess) Close() error { return p.appliance.Close() }
