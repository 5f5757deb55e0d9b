package dev

import (
	_ "embed"
	"fmt"
	"io"
	"strings"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/printable"
)

// call.sh is a call with nothing but a shell, curl and openssl: signature
// version 1.0 by hand. It is printed for a newcomer to paste.
//
//go:embed call.sh
var callScript string

// PrintBanner tells a newcomer what to do next. It shows no secret: those are in the file
// that it names.
func PrintBanner(w io.Writer, envFile string, env Environment) {
	fmt.Fprintf(w, `kmsgate is serving Alibaba Cloud KMS's signing API.

  endpoint    %s
  CA          %s
  access key  %s (the secret is in the file below)
  client key  %s (its password is there, too)
  keys        alias/dev-rsa-2048 alias/dev-rsa-3072 alias/dev-ec-p256 alias/dev-ec-p256k alias/dev-ec-sm2

To point a program that uses Alibaba Cloud's SDK at it, give the SDK that
endpoint, CA and access key. All of it is in a file for a shell to source:

  . %s

To make a call right now, paste this into a shell (it needs curl and openssl):

. %s
%s
Ctrl-C ends it.
`, env.Get("KMSGATE_ENDPOINT"), env.Get("KMSGATE_CA_FILE"), env.Get("KMSGATE_ACCESS_KEY_ID"), env.Get("KMSGATE_CLIENT_KEY_FILE"),
		printable.Shell(envFile), printable.Shell(envFile), strings.TrimSpace(callScript)+"\n")
}
