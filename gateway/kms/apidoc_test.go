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

// apiDoc returns the text of docs/api.md. It lists every operation of KMS, supported or not, and
// every error.
func apiDoc() string {
	var b strings.Builder
	b.WriteString(`# The API

This page is generated from the gateway's tables. Do not edit it. To update it, run

    go test ./gateway/kms -run TestAPIDoc -update

## Operations

The gateway implements API version 2016-01-20, as in kms-20160120 v3.2.3 and v4.1.0.

- Send the parameters of an operation in the query or in a form. Send a list as ` + "`Name.1`" + `,
  ` + "`Name.2`" + `, … or as JSON.
- Wherever an operation takes a KeyId, it also takes an alias or an ARN of this region and account.
- The answer is JSON or XML, as the parameter ` + "`Format`" + ` says.
- Every operation obeys ` + "`DryRun=true`" + `.
- The answer for an operation that the gateway does not support is UnsupportedOperation.

| operation | supported | differences from Alibaba Cloud KMS |
|---|---|---|
`)
	rows := make(map[string]string)
	for _, name := range Unsupported {
		rows[name] = "no | "
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

Parameters in bold are always required. Some others are required in certain cases, which the
differences above name.

- The quota is the one that a shared listener charges ([serve.md](serve.md)).
- The timeout is how long the operation may take before the answer is 503. Making a key pair may
  take 10 s, or 25 s for RSA_3072 and RSA_4096.

| operation | quota | timeout | parameters |
|---|---|---|---|
`)
	for _, o := range Operations {
		if o.Door == RPC {
			fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", o.Name, o.Quota, seconds(o.Timeout), parameters(o))
		}
	}
	b.WriteString(`
## Errors

The answer to a failed request has the members HttpStatus, Code, Message, RequestId and HostId. Its
message may be longer than the table shows, to name the parameter or the reason.

| HTTP | Code | Message begins |
|---|---|---|
`)
	for _, e := range Errors() {
		fmt.Fprintf(&b, "| %d | %s | %s |\n", e.Status, e.Code, e.Message)
	}
	b.WriteString(`
## The native API

The native API is Protobuf over POST, as the KMS Instance SDK (dkms-gcs 0.2) speaks it: see
[native.proto](../gateway/nativepb/native.proto). The answer for any other ApiName is
UnsupportedOperation. The native API has no DryRun.

| ApiName | operation |
|---|---|
`)
	for _, o := range Operations {
		if o.Native != nil {
			fmt.Fprintf(&b, "| %s | %s |\n", o.Native.Name, cmp.Or(o.Native.Differences, "Like "+o.Name+"."))
		}
	}
	b.WriteString(`
The error for an unknown alias is Forbidden.KeyNotFound. The error for a body that the gateway
cannot parse is InvalidParameter. In addition to the errors above, the native API has these:

| HTTP | Code | Message begins |
|---|---|---|
`)
	for _, e := range NativeErrors() {
		fmt.Fprintf(&b, "| %d | %s | %s |\n", e.Status, e.Code, e.Message)
	}
	b.WriteString(`
## Precedence

If several errors apply to a request, the answer is the first of them in this order:

1. route and method
2. plain HTTP
3. size of the query
4. an Authorization header: incomplete, method, token, time
5. access key, unless it is in the form
6. size of the body, and room for it
7. access key in the form
8. a slot for its check
9. malformed parameters
10. a signature in the parameters: incomplete, method, token, time
11. the signature's value, nonce
12. a changed database, and the reserve of the audit log's disk
13. quota
14. action
15. single parameters
16. permission
17. existence of the alias, the key and the version
18. state
19. usage
20. whether algorithm and digest fit the key
21. limits
22. the token
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

// TestAPIDoc checks that docs/api.md matches the tables of operations and errors.
func TestAPIDoc(t *testing.T) {
	const path = "../../docs/api.md"
	want := apiDoc()
	if *update {
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil || string(got) != want {
		t.Errorf("%s differs from the tables (%v): run go test ./gateway/kms -run TestAPIDoc -update", path, err)
	}
}
