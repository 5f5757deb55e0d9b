package dev

import (
	"fmt"
	"net"

	"github.com/spf13/pflag"
)

// AddFlags adds the flags that set options.
func (o *Options) AddFlags(flags *pflag.FlagSet) {
	flags.StringVar(&o.Dir, "dir", "", "`DIR` of the gateway's files (default: a temporary one, removed at the end)")
	flags.StringVar(&o.Listen, "listen", "127.0.0.1:8443", "`ADDRESS` (host:port) of the HTTPS server; port 0 takes a free one")
	flags.StringSliceVar(&o.Names, "name", nil, "a `NAME` for the certificate, such as that of a container; can be repeated")
	flags.StringVar(&o.Instance, "instance", "", "`ID` of the instance: kst-… (default: a random one)")
	flags.StringVar(&o.Region, "region", "", "`REGION` in ARNs (default: "+regionId+")")
	flags.StringVar(&o.Account, "account", "", "`ACCOUNT` in ARNs: digits (default: "+accountId+")")
	flags.BoolVar(&o.Verbose, "verbose", false, "log every request")
}

// Check returns an error about the options that AddFlags sets.
func (o *Options) Check() error {
	if host, _, err := net.SplitHostPort(o.Listen); err != nil || host == "" {
		return fmt.Errorf("--listen %q: must be host:port, such as 127.0.0.1:8443, or 0.0.0.0:8443 for all addresses", o.Listen)
	}
	return nil
}
