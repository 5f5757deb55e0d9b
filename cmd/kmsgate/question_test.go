package main

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/kmsgate/kmsgate/cmd/kmsgate/internal/cli"
	"github.com/kmsgate/kmsgate/gateway/kms"
)

// TestQuestions asks before what cannot be undone: without a yes, nothing is changed.
func TestQuestions(t *testing.T) {
	file := filepath.Join(t.TempDir(), "document.json")
	if err := os.WriteFile(file, []byte(aDocument), 0o600); err != nil {
		t.Fatal(err)
	}
	answers := map[string]string{
		"ListUsers":      `{"Users":{"User":[{"UserName":"alice"}]}}`,
		"ListAccessKeys": `{"AccessKeys":{"AccessKey":[{"AccessKeyId":"A","LastUsedDate":"e"},{"AccessKeyId":"B"}]}}`,
		"ListClientKeys": `{"ClientKeys":[{"ClientKeyId":"KAAP.1","CreateTime":"c"}]}`,
		"DescribeKey":    aKey,
	}
	for line, question := range map[string]string{
		"user delete alice":                 "This deletes user alice\n  - and access key A, last used e\n  - and access key B, last used never\n",
		"accesskey delete A":                "This deletes access key A. The gateway then refuses programs that still use it.\n",
		"clientkey delete KAAP.1":           "This deletes client key KAAP.1. The gateway then refuses programs that still use it.\n",
		"policy delete p":                   "This deletes policy p and its document.\n",
		"policy update p --file {FILE}":     "This replaces the document of policy p, which is lost (kmsgate policy show prints it).\n",
		"key policy update k --file {FILE}": "This replaces the policy of key k, which is lost (kmsgate key policy show prints it).\n",
		"alias delete alias/x":              "This deletes alias/x. The gateway then refuses programs that still use it.\n",
		"alias update alias/x --key k":      "alias/x now names key k-1. After this change, programs that use the alias get signatures of k.\n",
		"aap delete app":                    "This deletes access point app\n  - and client key KAAP.1, created c\n",
		"aap permission delete p":           "This deletes permission policy p. Client keys may no longer do what only it permits.\n",
		"aap rule delete r":                 "This deletes network rule r. A permission policy that names no other rule then permits no address.\n",
	} {
		for answer, agreed := range map[string]bool{"y\n": true, "n\n": false, "": false} {
			g := &fakeGateway{answers: answers}
			stdout, stderr, err := g.kmsgate(answer, strings.Fields(strings.ReplaceAll(line, "{FILE}", file))...)
			want := question + "Continue? [y/N] "
			if answer == "" {
				want += "\n" // the input ends without a line break
			}
			if stderr != want {
				t.Errorf("%s, answered %q: asked %q, want %q", line, answer, stderr, want)
			}
			changed := slices.ContainsFunc(g.calls, func(call string) bool {
				return strings.HasPrefix(call, "Delete") || strings.HasPrefix(call, "Update") || strings.HasPrefix(call, "Set")
			})
			if changed != agreed || errors.Is(err, cli.ErrNotConfirmed) == agreed || (stdout != "") != agreed {
				t.Errorf("%s, answered %q: got %v, printed %q, called %q", line, answer, err, stdout, g.calls)
			}
		}
	}
	g := &fakeGateway{answers: answers}
	if _, stderr, err := g.kmsgate("y\n", "user", "delete", "bob"); !errors.Is(err, kms.ErrUserNotFound) || stderr != "" {
		t.Errorf("deleting a user who does not exist: got %v, asked %q", err, stderr)
	}
}

// TestCompletion asks as a shell does.
func TestCompletion(t *testing.T) {
	answers := map[string]string{
		"ListUsers":       `{"Users":{"User":[{"UserName":"alice"},{"UserName":"bob"},{"UserName":"ali\u001bas"}]}}`,
		"ListAliases":     `{"Aliases":{"Alias":[{"AliasName":"alias/x"}]},"TotalCount":1}`,
		"ListKeys":        `{"Keys":{"Key":[{"KeyId":"k-1"}]},"TotalCount":1}`,
		"ListRamPolicies": `{"Policies":{"Policy":[{"PolicyName":"p"},{"PolicyName":"q"}]}}`,
	}
	for line, want := range map[string]string{
		"user list -o ":                    "table\njson\n:4\n",
		"key create --spec ":               "RSA_2048\nRSA_3072\nRSA_4096\nEC_P256\nEC_P256K\nEC_SM2\n:4\n",
		"key list --state ":                "Enabled\nDisabled\nPendingDeletion\n:4\n",
		"audit export --output ":           "json\ncsv\n:4\n",
		"policy create p --file ":          ":0\n", // the shell completes files
		"policy list ":                     ":4\n", // and not here
		"audit verify ":                    ":0\n",
		"audit verify --audit-public-key ": ":0\n",
		"key show ":                        "alias/x\nk-1\n:4\n",
		"key show k":                       "k-1\n:4\n",
		"key show k-1 ":                    ":4\n",
		"alias create alias/y --key a":     "alias/x\n:4\n",
		"policy attach ":                   "--user\tthe user that the policy is for\np\nq\n:4\n", // cobra offers required flags as well
		"policy attach p --user ali":       "alice\n:4\n",
	} {
		stdout, _, err := (&fakeGateway{answers: answers}).kmsgate("", append([]string{cobra.ShellCompRequestCmd}, strings.Split(line, " ")...)...)
		if err != nil || stdout != want {
			t.Errorf("%q: got %q, %v, want %q", line, stdout, err, want)
		}
	}
}
