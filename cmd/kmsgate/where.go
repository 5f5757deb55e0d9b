package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/appliance"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/backup"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/config"
	"github.com/kmsgate/kmsgate/gateway"
)

// where is which gateway a command line means.
type where struct{ socket, config, dir string }

func (w *where) register(cmd *cobra.Command) {
	flags := cmd.PersistentFlags()
	flags.StringVar(&w.socket, "socket", "", "the admin socket of a gateway that runs (default: $KMSGATE_ADMIN_SOCKET)")
	flags.StringVar(&w.config, "config", "", "the configuration of a gateway, whether it runs or not")
	flags.StringVar(&w.dir, "dir", "", "the directory of a kmsgate dev, whether it runs or not")
	cmd.MarkFlagsMutuallyExclusive("socket", "config", "dir")
}

// dial finds the gateway: through its socket if it runs, and by opening its
// files if it does not.
func (w *where) dial(cmd *cobra.Command) (caller, error) {
	switch {
	case w.socket != "":
		return dialSocket(w.socket)
	case w.config != "":
		return dialConfig(cmd, w.config)
	case w.dir != "":
		return dialConfig(cmd, filepath.Join(w.dir, config.FileName))
	}
	if socket := os.Getenv("KMSGATE_ADMIN_SOCKET"); socket != "" {
		return dialSocket(socket)
	}
	return nil, errors.New("which gateway? Name the socket of one that runs with --socket or KMSGATE_ADMIN_SOCKET, or its configuration with --config, or the directory of a `kmsgate dev` with --dir")
}

func (w *where) auditFiles() (log, key string, err error) {
	c, err := w.configuration()
	if c == nil {
		return "", "", err
	}
	return c.Audit.File, c.AuditPublicKeyFile(), nil
}

func (w *where) configuration() (*config.Config, error) {
	path := w.config
	if w.dir != "" {
		path = filepath.Join(w.dir, config.FileName)
	}
	if path == "" {
		return nil, nil
	}
	return config.Load(path)
}

func dialSocket(path string) (caller, error) {
	conn, err := net.Dial("unix", path)
	if err != nil {
		return nil, fmt.Errorf("no gateway answers at the admin socket %s: does it run, and are you root or whom it runs as? (%w)", path, err)
	}
	if err := conn.Close(); err != nil {
		return nil, err
	}
	return gateway.DialAdmin(path), nil
}

// A stopped gateway is worked on in this process.
type stopped struct{ *appliance.Appliance }

func dialConfig(cmd *cobra.Command, path string) (caller, error) {
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
	if err := ownedByUs(c.Directory); err != nil {
		return nil, err
	}
	a, err := appliance.Open(cmd.Context(), c, appliance.Options{Archiver: backup.NewArchiver, Logger: c.Log.Quiet(cmd.ErrOrStderr())})
	if errors.Is(err, appliance.ErrInUse) {
		return nil, fmt.Errorf("the gateway runs, and does not answer at its admin socket %s: ask it where it is, with --socket, or stop it", c.Admin.Socket)
	}
	if err != nil {
		return nil, err
	}
	return stopped{a}, nil
}

// Call does an operation as the user whom this process runs as.
func (s stopped) Call(ctx context.Context, action string, parameters map[string]string, resp any) error {
	return s.Server.Call(ctx, action, parameters, resp)
}

// Stream is Call for an operation that answers with octets.
func (s stopped) Stream(ctx context.Context, action string, parameters map[string]string, w io.Writer) error {
	return s.Server.Stream(ctx, action, parameters, w)
}

// ownedByUs keeps root from leaving files that the service cannot open.
func ownedByUs(dir string) error {
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	if owner, ok := info.Sys().(*syscall.Stat_t); ok && int(owner.Uid) != os.Getuid() {
		return fmt.Errorf("the gateway does not run, and %s belongs to uid %d: to work on its files be that user (setpriv --reuid %[2]d --clear-groups, or sudo -u '#%[2]d')", dir, owner.Uid)
	}
	return nil
}
