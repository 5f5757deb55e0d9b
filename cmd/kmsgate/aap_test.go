package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestAapMistakes: missing and contradicting flags are reported before a gateway is asked.
func TestAapMistakes(t *testing.T) {
	mistakes(t, map[string]string{
		"aap create app": `--permission is missing (see kmsgate aap create --help)`,
		"aap create app --permission a --permission b --permission c --permission d": "--permission is given 4 times: at most 3 are possible",
		"aap update app":                                                        "one of --permission, --description is missing (see kmsgate aap update --help)",
		"aap permission create p":                                               "one of --key, --all-keys is missing (see kmsgate aap permission create --help)",
		"aap permission create p --key k --all-keys":                            "--key and --all-keys exclude each other: give one of them",
		"aap permission create p --all-keys=false":                              "--all-keys=false has no meaning: leave it out",
		"aap permission create p --all-keys" + strings.Repeat(" --rule r", 101): "--rule is given 101 times: at most 100 are possible",
		"aap permission create p" + strings.Repeat(" --key k", 101):             "--key is given 101 times: at most 100 are possible",
		"aap permission update p":                                               "one of --key, --all-keys, --rule, --any-source, --description is missing (see kmsgate aap permission update --help)",
		"aap permission update p --rule r --any-source":                         "--rule and --any-source exclude each other: give one of them",
		"aap permission update p --any-source=false":                            "--any-source=false has no meaning: leave it out",
		"aap rule create r":                                                     `--source is missing (see kmsgate aap rule create --help)`,
		"aap rule create r" + strings.Repeat(" --source ::1", 101):              "--source is given 101 times: at most 100 are possible",
		"aap rule update r":                                                     "one of --source, --description is missing (see kmsgate aap rule update --help)",
		"aap rule update":                                                       "NAME is missing: usage: kmsgate aap rule update NAME [flags]",
	})
}

// TestClientKeyMistakes: no client key is created if its file could not be written.
func TestClientKeyMistakes(t *testing.T) {
	t.Chdir(t.TempDir()) // a command that ignores a mistake would write its files here
	dir := t.TempDir()
	have, passwordFile := filepath.Join(dir, "have.json"), filepath.Join(dir, "key_Password.txt")
	for _, path := range []string{have, passwordFile} {
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	key := filepath.Join(dir, "key.json")
	create := "clientkey create --aap a "
	mistakes(t, map[string]string{
		"clientkey create":                           `--aap is missing (see kmsgate clientkey create --help)`,
		create + "--not-before 2027-01-01T00:00:00Z": "--not-before needs --not-after: give both or neither",
		create + "--not-after 2027-01-01T00:00:00Z":  "--not-after needs --not-before: give both or neither",
		create + "--password-file /nonexistent":      "open /nonexistent: no such file or directory",
		create + "--out " + have:                     have + " exists and is not overwritten: give another name with --out",
		create + "--out " + have + "/":               have + " is not a directory",
		create + "--out " + have + "/x.json":         have + " is not a directory",
		create + "--out " + have + "/new/x.json":     have + " is not a directory",
		create + "--out " + dir + "/new/x.json":      "directory " + dir + "/new does not exist: create it first",
		create + "--out " + dir + "/new/":            "directory " + dir + "/new does not exist: create it first",
		create + "--out " + key:                      passwordFile + " exists and is not overwritten: give another name with --out",
	})

	// A password that was given is not written, so the second file may exist.
	g := &fakeGateway{answers: map[string]string{"CreateClientKey": aClientKey}}
	if _, _, err := g.kmsgate("correct-horse-1", "clientkey", "create", "--aap", "a", "--out", key, "--password-file", "-"); err != nil {
		t.Error(err)
	}
	if readPrivate(t, key) == "" || readPrivate(t, passwordFile) != "" {
		t.Error("the key was not written, or the password was")
	}
}
