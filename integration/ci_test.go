package integration

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// TestCIDocumented runs what docs/ci.md has for CI: its YAML can be read, and in a directory beside a
// clone its commands build kmsgate-dev and run a test suite.
func TestCIDocumented(t *testing.T) {
	t.Parallel()
	page := readPage(t, "../docs/ci.md")
	clone, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	suites := 0
	for _, block := range regexp.MustCompile("(?s)\n```yaml\n(.*?)\n```").FindAllStringSubmatch(page, -1) {
		var root yaml.Node
		if err := yaml.Unmarshal([]byte(block[1]), &root); err != nil {
			t.Errorf("%v in\n%s", err, block[1])
		}
		script := ""
		for _, command := range scalars(&root) {
			if strings.Contains(command, "kmsgate-dev") {
				script += command + "\n"
			}
		}
		if script == "" {
			continue
		}
		suites++
		dir := t.TempDir()
		seed, err := os.ReadFile("../examples/seed.yaml")
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"tests", "bin"} {
			if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
				t.Fatal(err)
			}
		}
		suite := "#!/bin/sh\n[ \"$KMSGATE_KEY_EC_P256\" = key-example-ec ] && [ \"$ALIBABA_CLOUD_ACCESS_KEY_ID\" = LTAIexample0000000001 ] && curl -s --cacert \"$KMSGATE_CA_FILE\" \"https://$KMSGATE_ENDPOINT/\" >/dev/null && echo the suite has run\n"
		if err := os.WriteFile(filepath.Join(dir, "bin", "suite"), []byte(suite), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "tests", "seed.yaml"), seed, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(clone, filepath.Join(dir, "kmsgate")); err != nil {
			t.Fatal(err)
		}
		script = regexp.MustCompile(`-- .*`).ReplaceAllString(script, "-- bin/suite")
		script = strings.ReplaceAll(script, "-o ../kmsgate-dev", "-o "+dir+"/kmsgate-dev") // the clone is a link here
		cmd := exec.Command("sh", "-eu", "-c", script)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "the suite has run") {
			t.Errorf("%v\n%s\n%s", err, script, out)
		}
	}
	if suites != 2 {
		t.Errorf("docs/ci.md has %d test suites, want 2", suites)
	}
}

// scalars returns all scalars of a document.
func scalars(n *yaml.Node) (all []string) {
	if n.Kind == yaml.ScalarNode {
		return []string{n.Value}
	}
	for _, child := range n.Content {
		all = append(all, scalars(child)...)
	}
	return all
}
