package dev

import (
	_ "embed"
	"fmt"
	"io"
	"strings"

	"github.com/kmsgate/kmsgate/internal/printable"
)

// callScript calls the gateway with only a shell, curl and openssl, and computes the request
// signature (version 1.0) itself. PrintBanner prints it for a newcomer to paste.
//
//go:embed call.sh
var callScript string

// PrintBanner prints what a newcomer needs next, and the notices. It prints no secret: the file
// envFile holds the secrets.
func (o *Options) PrintBanner(w io.Writer, envFile string, env Environment, notices []string) {
	keys := "alias/dev-rsa-2048 alias/dev-rsa-3072 alias/dev-ec-p256 alias/dev-ec-p256k alias/dev-ec-sm2"
	if o.Seed != nil {
		keys = fmt.Sprintf("%d from the seed", len(o.Seed.Keys))
	}
	clientKey := ""
	if file := env.Get("KMSGATE_CLIENT_KEY_FILE"); file != "" {
		clientKey = "\n  client key  " + file + " (the file below has its password)"
	}
	noted := ""
	for _, notice := range notices {
		noted += "  note        " + printable.Text(notice) + "\n"
	}
	quoted := printable.Shell(envFile)
	fmt.Fprintf(w, `kmsgate serves Alibaba Cloud KMS's signing API.

  endpoint    %s
  CA          %s
  access key  %s (the file below has its secret)%s
  keys        %s
%s
To use the gateway from a program, give Alibaba Cloud's SDK this endpoint, CA and
access key. They are also variables, in a file that a shell can source:

  . %s

`, env.Get("KMSGATE_ENDPOINT"), env.Get("KMSGATE_CA_FILE"), env.Get("KMSGATE_ACCESS_KEY_ID"), clientKey, keys, noted, quoted)
	if env.Get("KMSGATE_KEY_EC_P256") != "" {
		fmt.Fprintf(w, "To sign a digest now, paste this into a shell (it needs curl and openssl):\n\n. %s\n%s\n\n", quoted, strings.TrimSpace(callScript))
	}
	fmt.Fprintln(w, "Press Ctrl-C to stop the gateway.")
}
