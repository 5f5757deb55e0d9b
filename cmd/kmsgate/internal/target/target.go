// Package target finds the gateway that a command addresses and calls it: through the
// admin socket if the gateway is running, otherwise by opening its appliance in this
// process.
package target

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"syscall"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/appliance"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/backup"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/config"
	"github.com/kmsgate/kmsgate/gateway/adminclient"
)

// A Caller does operations of a gateway, as its local administrator.
type Caller interface {
	// Call does one operation. answer is a pointer to a struct that the answer is
	// decoded into, or nil. A refusal of the gateway is a *kms.Error.
	Call(ctx context.Context, action string, parameters map[string]string, answer any) error
	// Stream does one operation that answers with octets, and writes them to w. Without
	// an error they are complete.
	Stream(ctx context.Context, action string, parameters map[string]string, w io.Writer) error
	Close() error
}

// A Target says which gateway is meant: one of its fields does, or SocketVariable in the
// environment if all are empty.
type Target struct {
	Socket string // the admin socket of one that runs
	Config string // its configuration file, whether it runs or not
	Dir    string // the directory of a `kmsgate dev`, whether it runs or not
}

// SocketVariable is the environment variable with the admin socket of the gateway that is
// meant where nothing else is said.
const SocketVariable = "KMSGATE_ADMIN_SOCKET"

// configFile returns the path of the configuration, empty if there is none.
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

// AuditFiles returns where the audit log and its public key are, if the target names a
// configuration.
func (t Target) AuditFiles() (log, key string, err error) {
	c, err := t.Configuration()
	if c == nil {
		return "", "", err
	}
	return c.Audit.File, c.AuditPublicKeyFile(), nil
}

// Dial returns a caller of the gateway. What an appliance that is opened here has to tell
// goes to log.
func (t Target) Dial(ctx context.Context, log io.Writer) (Caller, error) {
	switch path := t.configFile(); {
	case t.Socket != "":
		return dialSocket(t.Socket)
	case path != "":
		return dialConfig(ctx, path, log)
	}
	if socket := os.Getenv(SocketVariable); socket != "" {
		return dialSocket(socket)
	}
	return nil, errors.New("which gateway? Name the socket of one that runs with --socket or " + SocketVariable +
		", or its configuration with --config, or the directory of a `kmsgate dev` with --dir")
}

func dialSocket(path string) (Caller, error) {
	conn, err := net.Dial("unix", path)
	if err != nil {
		return nil, fmt.Errorf("no gateway answers at the admin socket %s: does it run, and are you root or whom it runs as? (%w)", path, err)
	}
	if err := conn.Close(); err != nil {
		return nil, err
	}
	return adminclient.Dial(path), nil
}

func dialConfig(ctx context.Context, path string, log io.Writer) (Caller, error) {
	c, err := config.Load(path)
	if err != nil {
		return nil, err
	}
	if running, err := dialSocket(c.Admin.Socket); err == nil {
		return running, nil
	}
	if err := c.Check(); err != nil {
		return nil, err
	}
	if err := checkOwner(c.Directory); err != nil {
		return nil, err
	}
	a, err := appliance.Open(ctx, c, appliance.Options{Archiver: backup.NewArchiver, Logger: c.Log.Quiet(log)})
	if errors.Is(err, appliance.ErrInUse) {
		return nil, fmt.Errorf("the gateway runs, and does not answer at its admin socket %s: ask it where it is, with --socket, or stop it", c.Admin.Socket)
	}
	if err != nil {
		return nil, err
	}
	return inProcess{a}, nil
}

// checkOwner keeps root from leaving files that the service cannot open.
func checkOwner(dir string) error {
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	if owner, ok := info.Sys().(*syscall.Stat_t); ok && int(owner.Uid) != os.Getuid() {
		return fmt.Errorf("the gateway does not run, and %s belongs to uid %d: to work on its files be that user (setpriv --reuid %[2]d --clear-groups, or sudo -u '#%[2]d')", dir, owner.Uid)
	}
	return nil
}

// inProcess calls an appliance that is open in this process, as the user whom the process
// runs as.
type inProcess struct{ appliance *appliance.Appliance }

func (p inProcess) Call(ctx context.Context, action string, parameters map[string]string, answer any) error {
	return p.appliance.Server.Call(ctx, action, parameters, answer)
}

func (p inProcess) Stream(ctx context.Context, action string, parameters map[string]string, w io.Writer) error {
	return p.appliance.Server.Stream(ctx, action, parameters, w)
}

func (p inProcess) Close() error { return p.appliance.Close() }
