package integration

import (
	"fmt"
	"maps"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/kmsgate/kmsgate/integration/devgateway"
)

// A command is one that kmsgate has, as its own help describes it.
type command struct {
	path     string // such as "kmsgate key show"
	usage    string // the path with its arguments
	short    string
	flags    map[string]bool // with their dashes
	children []string        // the last words of their paths
}

// isFamily reports whether the command does nothing but hold others. One that takes something itself
// says so in its usage.
func (c *command) isFamily() bool { return len(c.children) > 0 && c.usage == c.path }

var (
	helpUsage = regexp.MustCompile(`(?m)^Usage:\n  (.*)$`)
	helpFlag  = regexp.MustCompile(`(?m)^ +(?:(-\w), )?(--[a-z][a-z-]*)`)
)

// commands returns the commands of kmsgate by path.
func commands(t *testing.T) map[string]*command {
	t.Helper()
	all := make(map[string]*command)
	var mu sync.Mutex // guards all
	var running sync.WaitGroup
	slots := make(chan struct{}, 4)
	run := func(args ...string) (string, error) {
		slots <- struct{}{}
		defer func() { <-slots }()
		cmd := exec.Command(binary, args...)
		cmd.Env = devgateway.Environment()
		out, err := cmd.Output()
		return string(out), err
	}
	var visit func(path, short string)
	visit = func(path, short string) {
		words := strings.Fields(path)[1:]
		help, err := run(append(slices.Clone(words), "--help")...)
		if err != nil {
			t.Errorf("%s --help: %v", path, err)
			return
		}
		c := &command{path: path, usage: path, short: short, flags: make(map[string]bool)}
		if m := helpUsage.FindStringSubmatch(help); m != nil {
			c.usage = strings.TrimSuffix(m[1], " [flags]")
		}
		for _, m := range helpFlag.FindAllStringSubmatch(help, -1) {
			c.flags[m[1]], c.flags[m[2]] = true, true
		}
		completions, err := run(append(append([]string{"__complete"}, words...), "")...)
		if err != nil {
			t.Errorf("completing %s: %v", path, err)
			return
		}
		for line := range strings.Lines(completions) {
			name, short, described := strings.Cut(strings.TrimSpace(line), "\t")
			if !described || strings.HasPrefix(name, "-") || path == "kmsgate" && (name == "help" || name == "completion") {
				continue // a required flag, or a command of the framework
			}
			c.children = append(c.children, name)
			running.Go(func() { visit(path+" "+name, short) })
		}
		mu.Lock()
		defer mu.Unlock()
		all[path] = c
	}
	running.Go(func() { visit("kmsgate", "") })
	running.Wait()
	return all
}

// TestCommandsDocumented compares the tables in docs/cli.md with the commands of kmsgate and their
// common options. It checks that every command line in the documents names a command and flags that
// exist.
func TestCommandsDocumented(t *testing.T) {
	all := commands(t)
	table, leaves := "| command | does |\n|---|---|\n", 0
	for _, path := range slices.Sorted(maps.Keys(all)) {
		if c := all[path]; !c.isFamily() {
			leaves++
			table += fmt.Sprintf("| `%s` | %s |\n", c.usage, c.short)
		}
	}
	if leaves < 50 {
		t.Fatalf("kmsgate has %d commands, want at least 50", leaves)
	}
	checkTable(t, "cli.md", "commands", table)
	checkOptions(t, all)
	checked := 0
	for _, path := range documents(t) {
		for _, line := range commandLines(readPage(t, path)) {
			checked++
			if mistake := mistakeIn(all, line); mistake != "" {
				t.Errorf("%s: %q: %s", path, strings.Join(line, " "), mistake)
			}
		}
	}
	if checked < 100 {
		t.Errorf("the documents have %d command lines, want at least 100", checked)
	}
}

// commandLines returns the command lines of kmsgate on a page, in its code blocks and code
// spans, each as its words.
func commandLines(page string) (lines [][]string) {
	take := func(text string) {
		text, _, _ = strings.Cut(text, " #")
		words := strings.Fields(text)
		for i, word := range words {
			word = strings.TrimPrefix(strings.TrimPrefix(word, "$("), "bin/")
			starts := i == 0 || slices.Contains([]string{"|", "||", "&&", ";"}, words[i-1])
			if word != "kmsgate" || !starts {
				continue
			}
			end := i + 1
			for end < len(words) && !slices.Contains([]string{"|", "||", "&&", ";", "&", ">", ">>"}, words[end]) {
				end++
			}
			lines = append(lines, append([]string{"kmsgate"}, words[i+1:end]...))
		}
	}
	for _, block := range fencedCode.FindAllString(page, -1) {
		for line := range strings.Lines(strings.ReplaceAll(block, "\\\n", " ")) {
			take(line)
		}
	}
	for _, span := range codeSpan.FindAllString(fencedCode.ReplaceAllString(page, ""), -1) {
		take(strings.Trim(span, "`"))
	}
	return lines
}

// mistakeIn says what a command line names that does not exist, or "".
func mistakeIn(all map[string]*command, words []string) string {
	path, rest := words[0], words[1:]
	for len(rest) > 0 && all[path+" "+rest[0]] != nil {
		path, rest = path+" "+rest[0], rest[1:]
	}
	c := all[path]
	for _, word := range rest {
		flag, _, _ := strings.Cut(strings.TrimRight(word, ")"), "=")
		switch {
		case word == "--": // another program's words follow
			return ""
		case strings.HasPrefix(word, "-") && word != "-":
			if !c.flags[flag] {
				return fmt.Sprintf("%s has no flag %s", path, flag)
			}
		case c.isFamily() && path+" "+word != "kmsgate completion":
			return fmt.Sprintf("%s has no command %s", path, word)
		case path == "kmsgate":
			return ""
		}
	}
	return ""
}
