package dev

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"

	"github.com/spf13/pflag"
)

// seedVariable is the environment variable with the path of a seed that need not exist. An image sets
// it, so that a file can be mounted there.
const seedVariable = "KMSGATE_SEED"

// AddFlags adds the flags that set options.
func (o *Options) AddFlags(flags *pflag.FlagSet) {
	flags.StringVar(&o.Dir, "dir", "", "`DIR` of the gateway's files (default: a temporary one, removed at the end)")
	flags.StringVar(&o.Listen, "listen", "127.0.0.1:8443", "`ADDRESS` (host:port) of the HTTPS server; port 0 takes a free one")
	flags.StringVar(&o.seedFile, "seed", "", "`FILE` with users, access keys, policies and keys with fixed ids (default: that of $"+seedVariable+", if it exists)")
	flags.StringVar(&o.CAFile, "ca-file", "", "`FILE` for the CA's certificate (default: DIR/ca.pem)")
	flags.StringSliceVar(&o.Names, "name", nil, "a `NAME` for the certificate, such as that of a container; can be repeated")
	flags.StringVar(&o.Instance, "instance", "", "`ID` of the instance: kst-… (default: a random one)")
	flags.StringVar(&o.Region, "region", "", "`REGION` in ARNs (default: "+regionId+")")
	flags.StringVar(&o.Account, "account", "", "`ACCOUNT` in ARNs: digits (default: "+accountId+")")
	flags.BoolVar(&o.AcceptAuditLoss, "accept-audit-loss", false, "continue without audit lines that are permanently lost; the log records that you did")
	flags.BoolVar(&o.AcceptStoreRollback, "accept-store-rollback", false, "continue with a database that lacks the last changes; the log records that you did")
	flags.BoolVar(&o.Verbose, "verbose", false, "log every request")
}

// Check returns an error about the options that AddFlags sets. It reads the seed.
func (o *Options) Check() (err error) {
	if host, _, err := net.SplitHostPort(o.Listen); err != nil || host == "" {
		return fmt.Errorf("--listen %q: must be host:port, such as 127.0.0.1:8443, or 0.0.0.0:8443 for all addresses", o.Listen)
	}
	if file := os.Getenv(seedVariable); o.seedFile == "" && file != "" {
		if _, err := os.Stat(file); !errors.Is(err, fs.ErrNotExist) {
			o.seedFile = file
		}
	}
	if o.seedFile != "" {
		o.Seed, err = LoadSeed(o.seedFile)
	}
	return err
}

// SetCommand sets the command from the arguments of a command line. dash is how many of them stand before
// --, or -1 if there is no --.
func (o *Options) SetCommand(args []string, dash int) error {
	switch {
	case len(args) == 0 && dash < 0:
		return nil
	case len(args) == 0:
		return errors.New("the command after -- is missing")
	case dash != 0:
		return fmt.Errorf("unexpected argument %q: write -- before a command", args[0])
	}
	o.Command = args
	_, err := exec.LookPath(args[0])
	return err
}
