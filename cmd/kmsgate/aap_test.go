package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestAapMistakes: mistakes in what flags are there are told in the words of the
// command line, and before a gateway is asked.
func TestAapMistakes(t *testing.T) {
	mistakes(t, map[string]string{
		"aap create app": `required flag(s) "policy" not set`,
		"aap create app --policy a --policy b --policy c --policy d": "--policy is given 4 times: at most 3 are possible",
		"aap update app":                         "--policy or --description is missing: kmsgate aap update NAME [flags]",
		"aap policy create p":                    "--key or --all-keys is missing: kmsgate aap policy create NAME [flags]",
		"aap policy create p --key k --all-keys": "--key and --all-keys cannot be given together",
		"aap policy create p --all-keys=false":   "--all-keys=false says nothing: leave it out",
		"aap policy create p --all-keys" + strings.Repeat(" --rule r", 101): "--rule is given 101 times: at most 100 are possible",
		"aap policy create p" + strings.Repeat(" --key k", 101):             "--key is given 101 times: at most 100 are possible",
		"aap policy update p":                                      "--key, --all-keys, --rule, --any-source or --description is missing: kmsgate aap policy update NAME [flags]",
		"aap policy update p --rule r --any-source":                "--rule and --any-source cannot be given together",
		"aap policy update p --any-source=false":                   "--any-source=false says nothing: leave it out",
		"aap rule create r":                                        `required flag(s) "source" not set`,
		"aap rule create r" + strings.Repeat(" --source ::1", 101): "--source is given 101 times: at most 100 are possible",
		"aap rule update r":                                        "--source or --description is missing: kmsgate aap rule update NAME [flags]",
		"aap rule update":                                          "NAME is missing: kmsgate aap rule update NAME [flags]",
	})
}

// TestClientKeyMistakes: where a client key cannot be written down none is made.
func TestClientKeyMistakes(t *testing.T) {
	t.Chdir(t.TempDir()) // for what a mistake would write that is not noticed
	dir := t.TempDir()
	have, beside := filepath.Join(dir, "have.json"), filepath.Join(dir, "key_Password.txt")
	for _, path := range []string{have, beside} {
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	key := filepath.Join(dir, "key.json")
	create := "clientkey create --aap a "
	mistakes(t, map[string]string{
		"clientkey create":                           `required flag(s) "aap" not set`,
		create + "--not-before 2027-01-01T00:00:00Z": "--not-before is given without --not-after: it takes both, or neither",
		create + "--not-after 2027-01-01T00:00:00Z":  "--not-after is given without --not-before: it takes both, or neither",
		create + "--password-file /nonexistent":      "open /nonexistent: no such file or directory",
		create + "--out " + have:                     have + " is there already, and is not overwritten",
		create + "--out " + have + "/":               have + " is no directory",
		create + "--out " + have + "/x.json":         have + " is no directory",
		create + "--out " + have + "/new/x.json":     have + " is no directory",
		create + "--out " + dir + "/new/x.json":      "there is no directory " + dir + "/new: make it first",
		create + "--out " + dir + "/new/":            "there is no directory " + dir + "/new: make it first",
		create + "--out " + key:                      beside + " is there already, and is not overwritten",
	})

	// A password that was given is written nowhere, so nothing is in its way.
	g := &fakeGateway{answers: map[string]string{"CreateClientKey": aClientKey}}
	if _, _, err := g.kmsgate("correct-horse-1", "clientkey", "create", "--aap", "a", "--out", key, "--password-file", "-"); err != nil {
		t.Error(err)
	}
	if readPrivate(t, key) == "" || readPrivate(t, beside) != "" {
		t.Error("it wrote no key, or a password")
	}
}
