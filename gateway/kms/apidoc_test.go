package kms

import (
	"cmp"
	"flag"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// apiDoc writes docs/api.md: every operation of KMS, supported or not, and every
// error. A test holds the file to it.
func apiDoc() string {
	var b strings.Builder
	b.WriteString(`# The API

Made from the gateway's own tables: do not edit, but run ` + "`go test ./gateway/kms -run TestAPIDoc -update`" + `.

## Operations

Of API version 2016-01-20, as in kms-20160120 v3.2.3 and v4.1.0. Every operation obeys ` + "`DryRun=true`" + `, takes its parameters in the query
or a form, lists as ` + "`Name.1`" + ` or as JSON, and answers in JSON or XML as ` + "`Format`" + ` says. Wherever a KeyId is taken, an alias or an ARN of this region and account
is, too.

| operation | supported | differences from Alibaba Cloud KMS |
|---|---|---|
`)
	rows := make(map[string]string)
	for _, name := range Unsupported {
		rows[name] = "no | UnsupportedOperation"
	}
	for _, o := range Operations {
		if o.Door == RPC {
			rows[o.Name] = "yes | " + o.Differences
		}
	}
	for _, name := range slices.Sorted(maps.Keys(rows)) {
		fmt.Fprintf(&b, "| %s | %s |\n", name, rows[name])
	}
	b.WriteString(`
## Parameters

Parameters in bold are always required; the differences above name those required in some cases. The quota is the one that a shared listener charges ([serve.md](serve.md)).
The time is how long the operation may take before the answer is 503. Making a key pair may take 10 s, or 25 s for RSA_3072 and RSA_4096.

| operation | quota | time | parameters |
|---|---|---|---|
`)
	for _, o := range Operations {
		if o.Door == RPC {
			fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", o.Name, o.Quota, seconds(o.Timeout), parameters(o))
		}
	}
	b.WriteString(`
## Errors

Answers have HttpStatus, Code, Message, RequestId and HostId. Messages of answers go on, to name the parameter or the reason.

| HTTP | Code | Message begins |
|---|---|---|
`)
	for _, e := range Errors() {
		fmt.Fprintf(&b, "| %d | %s | %s |\n", e.Status, e.Code, e.Message)
	}
	b.WriteString(`
## The native API

Protobuf over POST, as the KMS Instance SDK (dkms-gcs 0.2) speaks it: see [native.proto](../gateway/nativepb/native.proto). Other ApiNames answer
UnsupportedOperation. DryRun is not known there.

| ApiName | |
|---|---|
`)
	for _, o := range Operations {
		if o.Native != nil {
			fmt.Fprintf(&b, "| %s | %s |\n", o.Native.Name, cmp.Or(o.Native.Differences, "as "+o.Name))
		}
	}
	b.WriteString(`
An unknown alias is Forbidden.KeyNotFound, a body that cannot be read InvalidParameter. Besides the errors above it has

| HTTP | Code | Message begins |
|---|---|---|
`)
	for _, e := range NativeErrors() {
		fmt.Fprintf(&b, "| %d | %s | %s |\n", e.Status, e.Code, e.Message)
	}
	b.WriteString(`
## Precedence

Of several that a request deserves it gets the first, in this order: route and method, plain HTTP, size, malformed parameters,
signature (incomplete, method, token, time, access key, value, nonce), action, quota, single parameters, permission, existence of alias, key and
version, state, usage, fitness of algorithm and digest, limits, the token.
`)
	return b.String()
}

func seconds(d time.Duration) string {
	if d == 0 {
		return ""
	}
	return strconv.FormatFloat(d.Seconds(), 'f', -1, 64) + " s"
}

func parameters(o Operation) string {
	var all []string
	for _, p := range o.Parameters() {
		text := p.Name
		if p.Required || p.Sent {
			text = "**" + text + "**"
		}
		note := strings.TrimSpace(p.Limits())
		if p.Kind != Text {
			note = strings.TrimSuffix(string(p.Kind)+", "+note, ", ")
		}
		if note != "" {
			text += " (" + note + ")"
		}
		all = append(all, text)
	}
	return strings.Join(all, ", ")
}

var update = flag.Bool("update", false, "write docs/api.md")

// TestAPIDoc holds docs/api.md to the tables of operations and errors.
func TestAPIDoc(t *testing.T) {
	const path = "../../docs/api.md"
	want := apiDoc()
	if *update {
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	have, err := os.ReadFile(path)
	if err != nil || string(have) != want {
		t.Errorf("%s is not what the tables make (%v): go test ./gateway/kms -run TestAPIDoc -update", path, err)
	}
}
