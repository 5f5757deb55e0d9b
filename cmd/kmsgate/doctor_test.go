package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/cli"
	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/doctor"
	"github.com/kmsgate/kmsgate/gateway/kms"
)

// aPatient answers as a gateway with nothing wrong does.
func aPatient() *fakeGateway {
	return &fakeGateway{answers: map[string]string{
		"DescribeToken":    aSurvey,
		"ListTokenObjects": `{"Objects":{"Object":[]},"Deviations":{"Deviation":[]}}`,
		"ListKeys":         `{"Keys":{"Key":[{"KeyId":"k"}]},"TotalCount":1}`,
		"ListKeyVersions":  `{"KeyVersions":{"KeyVersion":[{"KeyId":"k","KeyVersionId":"v"}]},"TotalCount":1}`,
		"TestKeyVersion":   `{"KeyId":"k","KeyVersionId":"v"}`,
		"ListClientKeys":   clientKeyUntil(time.Now().AddDate(5, 0, 0)),
	}, refuse: make(map[string]error)}
}

// danglingReferences sets up an access point without client keys, whose permission policy names
// rules. Only the rule office exists.
func danglingReferences(g *fakeGateway, rules ...string) {
	text, err := json.Marshal(map[string][]string{"NetworkRules": rules})
	if err == nil {
		text, err = json.Marshal(string(text))
	}
	if err != nil {
		panic(err)
	}
	g.answers["ListNetworkRules"] = `{"NetworkRules":{"NetworkRule":[{"Name":"office"}]},"TotalCount":1}`
	g.answers["ListPolicies"] = `{"Policies":{"Policy":[{"Name":"sign"}]},"TotalCount":1}`
	g.answers["DescribePolicy"] = `{"Name":"sign","AccessControlRules":` + string(text) + `}`
	g.answers["ListApplicationAccessPoints"] = `{"ApplicationAccessPoints":{"ApplicationAccessPoint":[{"Name":"app"}]},"TotalCount":1}`
	g.answers["DescribeApplicationAccessPoint"] = `{"Name":"app","Policies":"[\"sign\"]"}`
	g.answers["ListClientKeys"] = `{"ClientKeys":[]}`
}

func clientKeyUntil(t time.Time) string {
	return `{"ClientKeys":[{"ClientKeyId":"KAAP.1","AapName":"app","NotAfter":"` + t.UTC().Format(time.RFC3339) + `"}]}`
}

const (
	anAuditKey = `{"Handle":1,"Class":"private key","KeySpec":"EC_P256","Label":"kmsgate","ObjectId":"aa","Use":"audit key","Aliases":{"Alias":[]}}`

	aStray = `{"Handle":18446744073709551615,"Class":"private key","KeySpec":"EC_P256","Label":"kmsgate","ObjectId":"ab","Use":"stray","Aliases":{"Alias":[]}}`
)

func deviations(items string) string {
	return `{"Objects":{"Object":[]},"Deviations":{"Deviation":[` + items + `]}}`
}

func objects(items string) string {
	return `{"Objects":{"Object":[` + items + `]},"Deviations":{"Deviation":[]}}`
}

// TestDoctor tests one problem at a time: the doctor reports it, with advice.
func TestDoctor(t *testing.T) {
	for name, tc := range map[string]struct {
		spoil   func(g *fakeGateway)
		problem bool
		want    []string
	}{
		"nothing": {func(*fakeGateway) {}, false, []string{"No problems were found.", "RSA_2048  yes", "note: The token cannot create keys of KeySpec EC_P256K: no such curve."}},
		"token away": {func(g *fakeGateway) {
			g.refuse["DescribeToken"] = &kms.Error{Status: 503, Code: "ServiceUnavailableTemporary", Message: "x"}
		}, true,
			[]string{"problem: The token does not answer: 503", "do: check that the token is connected"}},
		"stray": {func(g *fakeGateway) { g.answers["ListTokenObjects"] = objects(anAuditKey + "," + aStray) }, true,
			[]string{`problem: An object in the token has no record: a private key with label "kmsgate" and CKA_ID ab, EC_P256.`, "doctor --repair", "restored from a backup"}},
		"more strays than keys": {func(g *fakeGateway) {
			g.answers["ListTokenObjects"] = objects(anAuditKey + "," + aStray + "," + aStray)
		}, true,
			[]string{"problem: The token has 2 private keys without a record and 1 with one, so the database seems to be outdated", "    also: An object in the token has no record: a private key", "do: put the right database back"}},
		"half an object": {func(g *fakeGateway) {
			g.answers["ListTokenObjects"] = objects(`{"Class":"public key","Label":"kmsgate","Use":"stray"}`)
		}, true, []string{`a public key with label "kmsgate" and no CKA_ID`}},
		"unfinished": {func(g *fakeGateway) { g.answers["ListTokenObjects"] = objects(`{"Class":"other","Use":"stray"}`) }, true,
			[]string{"problem: An object in the token has no record: an incompletely created object."}},
		"another's": {func(g *fakeGateway) { g.answers["ListTokenObjects"] = objects(`{"Class":"other","Use":"another's"}`) }, false,
			[]string{"note: Objects in the token without kmsgate's label, which the gateway leaves alone: 1."}},
		"other public key": {func(g *fakeGateway) {
			g.answers["ListTokenObjects"] = objects(`{"Class":"public key","Use":"key version","KeyId":"k","KeyVersionId":"v","OtherPublicKey":true}`)
		}, true, []string{"problem: The token's public key with the id of version v of key k differs from the recorded public key."}},
		"missing": {func(g *fakeGateway) {
			g.answers["ListTokenObjects"] = deviations(`{"Use":"key version","KeyId":"k","KeyVersionId":"v","KeyState":"Enabled","KeySpec":"EC_P256","Aliases":{"Alias":["alias/x"]}}`)
			g.refuse["TestKeyVersion"] = errors.New("409 asked although it is known to be missing")
		}, true, []string{"problem: The private key of version v of key k (EC_P256, Enabled, alias/x) is not in the token.", "do: restore the token from a backup", "kmsgate key create-version k"}},
		"twice": {func(g *fakeGateway) {
			g.answers["ListTokenObjects"] = deviations(`{"Use":"key version","KeyId":"k","KeyVersionId":"v","PrivateKeys":2}`)
		}, true, []string{"problem: The token has 2 private keys with the id of version v of key k", "with the token's tools"}},
		"audit key": {func(g *fakeGateway) { g.answers["ListTokenObjects"] = deviations(`{"Use":"audit key"}`) }, true,
			[]string{"problem: The audit log's private key is not in the token"}},
		"wrong key": {func(g *fakeGateway) {
			g.refuse["TestKeyVersion"] = &kms.Error{Status: 409, Code: "Rejected.Unavailable", Message: "its signature does not verify"}
		}, true, []string{"problem: Version v of key k failed its test signature: 409 Rejected.Unavailable: its signature does not verify."}},
		"key policy": {func(g *fakeGateway) {
			g.refuse["TestKeyVersion"] = &kms.Error{Status: 403, Code: "Forbidden.NoPermission", Message: "x"}
		}, false, []string{"note: Version v of key k could not be tested"}},
		"deleted": {func(g *fakeGateway) {
			g.refuse["TestKeyVersion"] = &kms.Error{Status: 404, Code: "Forbidden.KeyNotFound", Message: "x"}
		}, false, []string{"No problems were found."}},
		"overloaded": {func(g *fakeGateway) {
			g.refuse["TestKeyVersion"] = &kms.Error{Status: 503, Code: "ServiceUnavailableTemporary", Message: "x"}
		}, true, []string{"problem: Version v of key k could not be tested"}},
		"forbidden": {func(g *fakeGateway) {
			g.refuse["ListKmsInstances"] = &kms.Error{Status: 403, Code: "Forbidden.NoPermission", Message: "x"}
		}, true, []string{"problem: The gateway does not answer your requests, because you are neither root nor the gateway's user: 403", "do: run it as root: sudo kmsgate doctor"}},
		"no audit log": {func(g *fakeGateway) { g.refuse["ListKmsInstances"] = kms.ErrAuditLog }, true,
			[]string{"problem: The gateway refuses every request: 503 ServiceUnavailableTemporary"}},
		"no list": {func(g *fakeGateway) {
			g.refuse["ListTokenObjects"] = &kms.Error{Status: 503, Code: "ServiceUnavailableTemporary", Message: "x"}
		}, true, []string{"problem: The token could not be compared with the records: 503 ServiceUnavailableTemporary: x."}},
		"no keys": {func(g *fakeGateway) {
			g.refuse["ListKeys"] = &kms.Error{Status: 503, Code: "ServiceUnavailableTemporary", Message: "x"}
		}, true, []string{"problem: The keys could not be listed: 503 ServiceUnavailableTemporary: x."}},
		"client key that expires": {func(g *fakeGateway) { g.answers["ListClientKeys"] = clientKeyUntil(time.Now().AddDate(0, 0, 29)) }, false,
			[]string{"note: The client key KAAP.1 of access point app expires at", "kmsgate clientkey create"}},
		"client key that expired": {func(g *fakeGateway) { g.answers["ListClientKeys"] = clientKeyUntil(time.Now().Add(-time.Second)) }, false,
			[]string{"note: The client key KAAP.1 of access point app expired at"}},
		"no client keys": {func(g *fakeGateway) {
			g.refuse["ListClientKeys"] = &kms.Error{Status: 503, Code: "ServiceUnavailableTemporary", Message: "x"}
		}, true, []string{"problem: The client keys could not be listed: 503 ServiceUnavailableTemporary: x."}},
		"client key of never": {func(g *fakeGateway) { g.answers["ListClientKeys"] = `{"ClientKeys":[{"ClientKeyId":"KAAP.1"}]}` }, true, []string{"problem: The client key KAAP.1 of access point  has an unreadable expiry date"}},
		"rules gone": {func(g *fakeGateway) { danglingReferences(g, "office", "gone") }, false,
			[]string{"note: The permission policy sign names deleted network rules (gone), so it admits fewer addresses.", "do: name existing rules with kmsgate aap permission update sign --rule RULE, admit all addresses with --any-source"}},
		"all rules gone": {func(g *fakeGateway) { danglingReferences(g, "gone", "away") }, false,
			[]string{"note: The permission policy sign names deleted network rules (gone, away), so it admits no address."}},
		"policies gone": {func(g *fakeGateway) {
			danglingReferences(g)
			g.answers["DescribeApplicationAccessPoint"] = `{"Name":"app","Policies":"[\"sign\",\"lost\"]"}`
		}, false, []string{"note: The access point app names deleted permission policies (lost), so its client keys may do less.", "do: name existing policies with kmsgate aap update app --permission NAME"}},
		"all policies gone": {func(g *fakeGateway) {
			danglingReferences(g)
			g.answers["DescribeApplicationAccessPoint"] = `{"Name":"app","Policies":"[\"lost\"]"}`
		}, false, []string{"note: The access point app names deleted permission policies (lost), so its client keys may do nothing."}},
		"policy deleted in between": {func(g *fakeGateway) {
			danglingReferences(g)
			g.refuse["DescribePolicy"] = &kms.Error{Status: 404, Code: "Forbidden.ResourceNotFound", Message: "x"}
			g.refuse["DescribeApplicationAccessPoint"] = g.refuse["DescribePolicy"]
		}, false, []string{"No problems were found."}},
		"no rules": {func(g *fakeGateway) {
			g.refuse["ListNetworkRules"] = &kms.Error{Status: 503, Code: "ServiceUnavailableTemporary", Message: "x"}
		}, true, []string{"problem: The access points could not be examined: 503 ServiceUnavailableTemporary: x."}},
		"no policies": {func(g *fakeGateway) {
			danglingReferences(g)
			g.refuse["DescribePolicy"] = &kms.Error{Status: 503, Code: "ServiceUnavailableTemporary", Message: "x"}
		}, true, []string{"problem: The access points could not be examined: 503 ServiceUnavailableTemporary: x."}},
		"PIN locked": {func(g *fakeGateway) {
			g.answers["DescribeToken"] = `{"Survey":{"Sealing":"x","Token":{"Flags":["RNG","USER_PIN_LOCKED"]}}}`
		}, true, []string{"problem: The token's user PIN is locked"}},
		"seals nothing":    {func(g *fakeGateway) { g.answers["DescribeToken"] = `{"Survey":{}}` }, true, []string{"problem: The token cannot seal secrets.", "CKM_AES_GCM"}},
		"no configuration": {func(g *fakeGateway) {}, false, []string{"note: The configuration and the files were not examined.", "--config"}},
	} {
		g := aPatient()
		tc.spoil(g)
		stdout, stderr, err := g.kmsgate("", "doctor")
		if (err != nil) != tc.problem || stderr != "" || g.closed != 1 {
			t.Errorf("%s: %v, stderr %q, closed %d times", name, err, stderr, g.closed)
		}
		if !strings.HasPrefix(stdout, fmt.Sprintf("You are uid %d", os.Getuid())) {
			t.Errorf("%s: the first line is not about the user:\n%s", name, stdout)
		}
		for _, want := range tc.want {
			if !strings.Contains(stdout, want) {
				t.Errorf("%s: %q is not in\n%s", name, want, stdout)
			}
		}
		stdout, _, _ = g.kmsgate("", "doctor", "-o", "json") // the error is the same
		var d doctor.Diagnosis
		if err := json.Unmarshal([]byte(stdout), &d); err != nil || d.Findings == nil || d.Offers == nil || d.UID != os.Getuid() || (d.Problems() > 0) != tc.problem {
			t.Errorf("%s: %v, %+v", name, err, d)
		}
	}
}

// TestDoctorDangling finds nothing where nothing dangles, and not having client keys
// is nothing.
func TestDoctorDangling(t *testing.T) {
	for _, rules := range [][]string{nil, {"office"}} {
		g := aPatient()
		danglingReferences(g, rules...)
		if stdout, _, err := g.kmsgate("", "doctor"); err != nil || strings.Contains(stdout, "access point") || strings.Contains(stdout, "policy") {
			t.Errorf("with %q: %v, %s", rules, err, stdout)
		}
		for _, call := range []string{"DescribePolicy Name=sign", "DescribeApplicationAccessPoint Name=app"} {
			if !slices.Contains(g.calls, call) {
				t.Errorf("it did not ask for %s", call)
			}
		}
	}
}

// TestDoctorRepairs destroys strays when that is confirmed, and nothing else.
func TestDoctorRepairs(t *testing.T) {
	both := objects(aStray + `,{"Handle":2,"Class":"private key","Label":"kmsgate","Use":"key version","KeyId":"k","KeyVersionId":"v"}`)
	const asked = "DestroyTokenObject Class=private key Handle=18446744073709551615 Label=kmsgate ObjectId=ab"
	for input, args := range map[string][]string{"y\n": {"doctor", "--repair"}, "": {"doctor", "--repair", "--yes"}} {
		g := aPatient()
		g.answers["ListTokenObjects"] = both
		stdout, stderr, err := g.kmsgate(input, args...)
		if err == nil { // the fake's list stays as it is
			t.Errorf("%v: what is left is no problem", args)
		}
		if !strings.Contains(strings.Join(g.calls, "\n"), asked) || strings.Count(strings.Join(g.calls, "\n"), "DestroyTokenObject") != 1 {
			t.Errorf("%v: the gateway was asked for %q", args, g.calls)
		}
		if !strings.Contains(stderr, `  - a private key with label "kmsgate" and CKA_ID ab, EC_P256`) || !strings.Contains(stdout, "Destroyed a private key") {
			t.Errorf("%v: it said %q and printed %q", args, stderr, stdout)
		}
	}
	g := aPatient()
	g.answers["ListTokenObjects"] = objects(anAuditKey + "," + aStray + "," + aStray)
	if stdout, stderr, err := g.kmsgate("", "doctor", "--repair", "--yes"); err == nil || stderr != "" || strings.Contains(strings.Join(g.calls, "\n"), "Destroy") || !strings.Contains(stdout, "kmsgate restore") {
		t.Errorf("the database is an older one: %v, said %q, printed %q, asked for %q", err, stderr, stdout, g.calls)
	}
	g = aPatient()
	g.answers["ListTokenObjects"] = both
	stdout, _, err := g.kmsgate("n\n", "doctor", "--repair")
	if !errors.Is(err, cli.ErrNotConfirmed) || stdout != "" || strings.Contains(strings.Join(g.calls, "\n"), "Destroy") {
		t.Errorf("refused: %v, printed %q, asked for %q", err, stdout, g.calls)
	}
	g.refuse["DestroyTokenObject"] = &kms.Error{Status: 404, Code: "EntityNotExist.TokenObject", Message: "gone"}
	if stdout, _, _ := g.kmsgate("", "doctor", "--repair", "--yes"); !strings.Contains(stdout, "Destroyed a private key") {
		t.Errorf("an object that is gone already is reported: %q", stdout)
	}
	g.refuse["DestroyTokenObject"] = &kms.Error{Status: 409, Code: "DeleteConflict.TokenObject", Message: "no"}
	if _, _, err := g.kmsgate("", "doctor", "--repair", "--yes"); err == nil || !strings.Contains(err.Error(), "DeleteConflict.TokenObject") {
		t.Errorf("the gateway refuses: %v", err)
	}
}

// TestTokenTestFails lists what fails at the end, and says so by its status.
func TestTokenTestFails(t *testing.T) {
	g := aPatient()
	g.refuse["TestKeyVersion"] = &kms.Error{Status: 409, Code: "Rejected.Unavailable", Message: "gone"}
	stdout, _, err := g.kmsgate("", "token", "test")
	if err == nil || !strings.Contains(err.Error(), "1 of 1 key versions") || !strings.Contains(stdout, "409 Rejected.Unavailable: gone") {
		t.Errorf("%v, printed %q", err, stdout)
	}
}
