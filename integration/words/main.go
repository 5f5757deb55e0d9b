// Command words checks that a tree is written in plain English. It searches Go's comments, strings
// and declared names, Markdown, test scripts (.txtar), and the comments of YAML, Makefiles, shell
// scripts, Dockerfiles, systemd units, .proto files and go.mod for the expressions of words.txt. It
// prints each match as file:line: word: suggestion, and exits with status 1 if there are any.
package main

import (
	_ "embed"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// A kind of text is where an entry of words.txt is looked for.
type kind string

const (
	prose kind = ""     // comments, strings and documents
	doc   kind = "doc"  // prose that is a doc comment of Go
	name  kind = "name" // the name that a Go declaration introduces
	line  kind = "line" // a line of Markdown that can be wrapped
)

// A text is a part of a file, and the line where it starts.
type text struct {
	line int
	kind kind
	body string
}

// An entry is a line of words.txt.
type entry struct {
	kind       kind
	expression *regexp.Regexp
	suggestion string
}

//go:embed words.txt
var words string

var (
	skipped = []string{".git", "bin", "integration/words"} // the last contains the words

	hashComments = regexp.MustCompile(`(?:\.ya?ml|\.sh|\.service|\.gitignore|\.dockerignore|Makefile|Dockerfile)$`)
	fence        = regexp.MustCompile("^\\s*(?:```|~~~)")
	inlineCode   = regexp.MustCompile("`[^`]*`")
	// unwrappable is a row of a table, or a line that is one link.
	unwrappable = regexp.MustCompile(`^\s*(?:\||(?:[-*] )?!?\[[^\]]*\](?:\([^)]*\)|: \S+)[.,;]?$)`)
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: words DIRECTORY")
		os.Exit(2)
	}
	findings, err := check(os.DirFS(os.Args[1]), words)
	for _, finding := range findings {
		fmt.Println(finding)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "words:", err)
	}
	if err != nil || len(findings) > 0 {
		os.Exit(1)
	}
}

// parse reads a list in the format that words.txt describes.
func parse(list string) (entries []entry, err error) {
	format := regexp.MustCompile(`^(?:(doc|name|line):)?(.+)\t(.+)$`)
	for row := range strings.SplitSeq(list, "\n") {
		if row == "" || row[0] == '#' {
			continue
		}
		m := format.FindStringSubmatch(row)
		if m == nil {
			return nil, fmt.Errorf("%q is not an expression, a tab and a suggestion", row)
		}
		expression, err := regexp.Compile("(?i)" + strings.ReplaceAll(m[2], " ", `(?:[ \t]+|[ \t]*\n[ \t]*)`))
		if err != nil {
			return nil, err
		}
		entries = append(entries, entry{kind(m[1]), expression, m[3]})
	}
	return entries, nil
}

// check returns the matches in the files of a tree, each as file:line: word: suggestion.
func check(tree fs.FS, list string) (findings []string, err error) {
	entries, err := parse(list)
	if err != nil {
		return nil, fmt.Errorf("reading words.txt: %w", err)
	}
	err = fs.WalkDir(tree, ".", func(file string, d fs.DirEntry, err error) error {
		if err == nil && slices.Contains(skipped, file) {
			return fs.SkipDir
		}
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		content, err := fs.ReadFile(tree, file)
		if err != nil {
			return err
		}
		texts, err := read(file, string(content))
		slices.SortStableFunc(texts, func(a, b text) int { return a.line - b.line })
		for _, t := range texts {
			findings = append(findings, t.match(file, entries)...)
		}
		return err
	})
	return findings, err
}

// match returns the matches in a text.
func (t text) match(file string, entries []entry) (findings []string) {
	for _, e := range entries {
		if e.kind != t.kind && !(e.kind == prose && t.kind == doc) {
			continue
		}
		for _, m := range e.expression.FindAllStringSubmatchIndex(t.body, -1) {
			start, end := m[len(m)-2], m[len(m)-1] // the last group, or all if there is no group
			number := t.line + strings.Count(t.body[:start], "\n")
			word := strings.Join(strings.Fields(t.body[start:end]), " ")
			findings = append(findings, fmt.Sprintf("%s:%d: %s: %s", file, number, word, e.suggestion))
		}
	}
	return findings
}

// read returns the texts of a file, and none if the file is not of a kind that is checked.
func read(file, content string) ([]text, error) {
	switch extension := path.Ext(file); {
	case extension == ".go":
		return readGo(file, content)
	case extension == ".md":
		return readMarkdown(content), nil
	case extension == ".txtar":
		return []text{{1, prose, content}}, nil
	case extension == ".proto" || extension == ".mod":
		return []text{{1, prose, comments(content, "//")}}, nil
	case hashComments.MatchString(file) || strings.HasPrefix(content, "#!"):
		return []text{{1, prose, comments(content, "#")}}, nil
	}
	return nil, nil
}

// comments blanks everything but the comments that start with a marker. It keeps the lines.
func comments(content, marker string) string {
	code := regexp.MustCompile(`(?m)^(?:.*?[ \t])??` + marker + `|^.*$`)
	return code.ReplaceAllString(content, "")
}

// readMarkdown returns the prose, in which code is left out, and the lines that can be wrapped.
func readMarkdown(content string) (texts []text) {
	lines, inCode := strings.Split(content, "\n"), false
	for i, l := range lines {
		if isFence := fence.MatchString(l); isFence || inCode {
			lines[i], inCode = "", inCode != isFence
		} else if !unwrappable.MatchString(l) {
			texts = append(texts, text{i + 1, line, l})
		}
	}
	body := inlineCode.ReplaceAllStringFunc(strings.Join(lines, "\n"), func(code string) string {
		return "_" + strings.Repeat("\n", strings.Count(code, "\n"))
	})
	return append(texts, text{1, prose, body})
}

// readGo returns the comments, strings and declared names of a Go file that is not generated.
func readGo(file, content string) (texts []text, err error) {
	files := token.NewFileSet()
	parsed, err := parser.ParseFile(files, file, content, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil || ast.IsGenerated(parsed) {
		return nil, err
	}
	add := func(n ast.Node, k kind, body string) {
		texts = append(texts, text{files.Position(n.Pos()).Line, k, body})
	}
	docs := map[*ast.CommentGroup]kind{parsed.Doc: doc}
	declare := func(comment *ast.CommentGroup, names ...*ast.Ident) {
		docs[comment] = doc
		for _, id := range names {
			add(id, name, id.Name)
		}
	}
	define := func(operator token.Token, operands ...ast.Expr) {
		for _, o := range operands {
			if id, ok := o.(*ast.Ident); ok && operator == token.DEFINE {
				add(id, name, id.Name)
			}
		}
	}
	ast.Inspect(parsed, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.ImportSpec:
			return false
		case *ast.BasicLit:
			if n.Kind == token.STRING {
				add(n, prose, literal(n.Value))
			}
		case *ast.FuncDecl:
			declare(n.Doc, n.Name)
		case *ast.GenDecl:
			declare(n.Doc)
		case *ast.TypeSpec:
			declare(n.Doc, n.Name)
		case *ast.ValueSpec:
			declare(n.Doc, n.Names...)
		case *ast.Field:
			declare(n.Doc, n.Names...)
		case *ast.AssignStmt:
			define(n.Tok, n.Lhs...)
		case *ast.RangeStmt:
			define(n.Tok, n.Key, n.Value)
		}
		return true
	})
	for _, group := range parsed.Comments {
		var lines []string
		for _, c := range group.List {
			lines = append(lines, strings.TrimPrefix(strings.TrimPrefix(c.Text, "//"), " "))
		}
		add(group, docs[group], strings.Join(lines, "\n"))
	}
	return texts, nil
}

// literal returns the text of a string literal. A line break that is written \n becomes a vertical
// tab, because the file has no line break there.
func literal(source string) string {
	value, err := strconv.Unquote(source)
	if err != nil || source[0] == '`' {
		return source
	}
	return strings.ReplaceAll(value, "\n", "\v")
}
