package integration

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the tables of the documents that are made from the program")

// documents returns the Markdown files of the project, relative to this directory.
func documents(t *testing.T) []string {
	t.Helper()
	top, err := filepath.Glob("../*.md")
	if err != nil {
		t.Fatal(err)
	}
	pages, err := filepath.Glob("../docs/*.md")
	if err != nil || len(top) < 4 || len(pages) < 15 {
		t.Fatalf("found the documents %v and %v: %v", top, pages, err)
	}
	return append(top, pages...)
}

func readPage(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// checkTable compares a table in a document with the one that the program makes. The table
// stands between the comments <!-- name: … --> and <!-- end -->. With -update, checkTable
// writes it instead.
func checkTable(t *testing.T, page, name, want string) {
	t.Helper()
	path := filepath.Join("../docs", page)
	text := readPage(t, path)
	block := regexp.MustCompile(`(?s)(<!-- ` + name + `: [^>]*-->\n)(.*?)(<!-- end -->)`)
	found := block.FindStringSubmatchIndex(text)
	switch {
	case found == nil:
		t.Fatalf("docs/%s has no place for the table %s", page, name)
	case text[found[4]:found[5]] == want:
	case *update:
		if err := os.WriteFile(path, []byte(text[:found[4]]+want+text[found[5]:]), 0o644); err != nil {
			t.Fatal(err)
		}
	default:
		t.Errorf("the table %s in docs/%s is\n%swant\n%s(run this test with -update to write it)",
			name, page, text[found[4]:found[5]], want)
	}
}

// testNames returns the names of all tests and fuzz targets.
func testNames(t *testing.T) map[string]bool {
	t.Helper()
	list := exec.Command("grep", "-rhoE", "--include=*_test.go", `^func (Test|Fuzz)\w+`, "..")
	out, err := list.Output()
	if err != nil {
		t.Fatal(err)
	}
	names := make(map[string]bool)
	for line := range strings.Lines(string(out)) {
		names[strings.TrimSpace(strings.TrimPrefix(line, "func "))] = true
	}
	return names
}

// TestThreats checks that every test that docs/security.md names exists.
func TestThreats(t *testing.T) {
	tests := testNames(t)
	page := readPage(t, "../docs/security.md")
	named := regexp.MustCompile("`((?:Test|Fuzz)[A-Za-z]+)`").FindAllStringSubmatch(page, -1)
	if len(named) < 30 {
		t.Errorf("docs/security.md names %d tests, want at least 30", len(named))
	}
	for _, name := range named {
		if !tests[name[1]] {
			t.Errorf("docs/security.md names %s, which does not exist", name[1])
		}
	}
}

var (
	fencedCode = regexp.MustCompile("(?ms)^ *```.*?^ *```$")
	codeSpan   = regexp.MustCompile("`[^`\n]+`")
	link       = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading    = regexp.MustCompile(`(?m)^#+ (.*)$`)
	dropped    = regexp.MustCompile(`[^\p{L}\p{N}_ -]`)
)

// anchors returns the anchors that GitHub makes of a page's headings.
func anchors(page string) map[string]bool {
	all := make(map[string]bool)
	for _, h := range heading.FindAllStringSubmatch(fencedCode.ReplaceAllString(page, ""), -1) {
		anchor := strings.ReplaceAll(dropped.ReplaceAllString(strings.ToLower(strings.TrimSpace(h[1])), ""), " ", "-")
		name := anchor
		for n := 1; all[name]; n++ {
			name = fmt.Sprintf("%s-%d", anchor, n)
		}
		all[name] = true
	}
	return all
}

// TestLinks checks that every link in the documents leads to a file or a heading that
// exists, and that every page of docs is in the index.
func TestLinks(t *testing.T) {
	for _, path := range documents(t) {
		text := readPage(t, path)
		prose := codeSpan.ReplaceAllString(fencedCode.ReplaceAllString(text, ""), "")
		for _, l := range link.FindAllStringSubmatch(prose, -1) {
			target, anchor, _ := strings.Cut(l[1], "#")
			if strings.Contains(target, "://") {
				continue
			}
			file := path
			if target != "" {
				file = filepath.Join(filepath.Dir(path), target)
			}
			if _, err := os.Stat(file); err != nil {
				t.Errorf("%s: the link %s leads nowhere: %v", path, l[1], err)
			} else if anchor != "" && !anchors(readPage(t, file))[anchor] {
				t.Errorf("%s: the link %s leads to a heading that does not exist", path, l[1])
			}
		}
	}
	index := readPage(t, "../docs/README.md")
	for _, path := range documents(t) {
		page := filepath.Base(path)
		if strings.Contains(path, "/docs/") && page != "README.md" && !strings.Contains(index, "]("+page+")") {
			t.Errorf("docs/README.md does not mention %s", page)
		}
	}
}

// A metric is what a gateway says of one of its metrics.
type metric struct {
	name, kind, help string
	labels           []string
}

// metricsOf parses the metrics of kmsgate from Prometheus's text format.
func metricsOf(exposition string) []metric {
	byName := make(map[string]*metric)
	labelName := regexp.MustCompile(`([a-z]+)="`)
	for line := range strings.Lines(exposition) {
		words := strings.SplitN(strings.TrimSpace(line), " ", 4)
		switch {
		case len(words) == 4 && words[1] == "HELP" && strings.HasPrefix(words[2], "kmsgate_"):
			byName[words[2]] = &metric{name: words[2], help: words[3]}
		case len(words) == 4 && words[1] == "TYPE" && byName[words[2]] != nil:
			byName[words[2]].kind = words[3]
		}
		name, _, hasLabels := strings.Cut(line, "{")
		m := byName[strings.TrimSuffix(name, "_bucket")]
		if !hasLabels || m == nil {
			continue
		}
		for _, l := range labelName.FindAllStringSubmatch(line, -1) {
			if l[1] != "le" && !slices.Contains(m.labels, l[1]) {
				m.labels = append(m.labels, l[1])
			}
		}
	}
	var all []metric
	for _, m := range byName {
		slices.Sort(m.labels)
		all = append(all, *m)
	}
	slices.SortFunc(all, func(a, b metric) int { return strings.Compare(a.name, b.name) })
	return all
}

// TestMetricsDocumented compares the metrics in docs/serve.md with those that a gateway
// serves, and checks that the page says of each when to be alarmed.
func TestMetricsDocumented(t *testing.T) {
	g := start(t, t.TempDir()+"/gateway")
	_, exposition := observe(t, g.Env, "/metrics")
	table := "| metric | type | labels | help |\n|---|---|---|---|\n"
	metrics := metricsOf(exposition)
	if len(metrics) < 10 {
		t.Fatalf("the gateway serves %d metrics, want at least 10:\n%s", len(metrics), exposition)
	}
	for _, m := range metrics {
		table += fmt.Sprintf("| `%s` | %s | %s | %s |\n", m.name, m.kind, strings.Join(m.labels, ", "), m.help)
	}
	checkTable(t, "serve.md", "metrics", table)
	alarms, _, _ := strings.Cut(readPage(t, "../docs/serve.md"), "<!-- metrics: ")
	for _, m := range metrics {
		if !strings.Contains(alarms, m.name) {
			t.Errorf("docs/serve.md does not say when %s is an alarm", m.name)
		}
	}
}

// TestVariablesDocumented compares the variables in docs/dev.md with those that a dev
// gateway exports.
func TestVariablesDocumented(t *testing.T) {
	g := start(t, t.TempDir()+"/gateway")
	_, page, _ := strings.Cut(readPage(t, "../docs/dev.md"), "| variable | value |\n")
	page, _, _ = strings.Cut(page, "\n\n") // the table
	documented := make(map[string]bool)
	for _, name := range regexp.MustCompile("`((?:KMSGATE|ALIBABA_CLOUD)_[A-Z_]+)`").FindAllStringSubmatch(page, -1) {
		prefix, perSpec := strings.CutSuffix(name[1], "_S")
		if !perSpec {
			documented[name[1]] = true
		}
		for variable := range g.Env {
			if perSpec && strings.HasPrefix(variable, prefix+"_") {
				documented[variable] = true
			}
		}
	}
	for name := range g.Env {
		if !documented[name] {
			t.Errorf("docs/dev.md lacks %s, which a gateway exports", name)
		}
	}
	for name := range documented {
		if _, exported := g.Env[name]; !exported {
			t.Errorf("docs/dev.md has %s, which no gateway exports", name)
		}
	}
}
