// Package conformance ties the normative statements of the MQTT specifications to the tests that prove them.
//
// It owns the reading of proto/mqtt/testdata/conformance and of the markers in test files, and the table in
// docs/mqtt-conformance.md that comes of both. It proves nothing itself: the tests do. Nothing but its own test and
// generator uses it.
//
// A test claims statements by a line in its comment or body, where each has the versions that it is claimed for:
//
//	// Conformance: MQTT-3.1.2-4 (5.0), MQTT-3.3.1-2 (3.1.1, 5.0)
//
// Each statement has either such a test or a line in untestable.txt that says why it can have none.
package conformance

import (
	"bufio"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// DataDir is where the statements lie, from the root of the module.
const DataDir = "proto/mqtt/testdata/conformance"

// Document is the generated table, from the root of the module.
const Document = "docs/mqtt-conformance.md"

// Versions are the specifications that have numbered statements.
var Versions = []string{"3.1.1", "5.0"}

// Key names a statement.
type Key struct{ Version, ID string }

func (k Key) String() string { return k.Version + " " + k.ID }

// Test is a test function that claims a statement. File is a path from the root of the module.
type Test struct{ File, Name string }

// Statement is one normative statement and what stands for it.
type Statement struct {
	Key
	Role    string // server, client or both
	Summary string
	Tests   []Test
	Reason  string // why no test can be
	Pending bool   // neither yet
}

// Table is what was read: the statements in their order, and what is wrong with them.
type Table struct {
	Statements []*Statement
	Problems   []string

	byKey map[Key]*Statement
}

// Root finds the module's root from the working directory upwards.
func Root() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", errors.New("no go.mod above the working directory")
		}
		dir = filepath.Dir(dir)
	}
}

// Load reads the data files and every test file below root.
func Load(root string) (*Table, error) {
	t := &Table{byKey: map[Key]*Statement{}}
	if err := t.readStatements(root); err != nil {
		return nil, err
	}
	if err := t.readReasons(root); err != nil {
		return nil, err
	}
	if err := t.scanTests(root); err != nil {
		return nil, err
	}
	if err := t.readPending(root); err != nil {
		return nil, err
	}
	for _, s := range t.Statements {
		t.judge(s)
	}
	slices.Sort(t.Problems)
	return t, nil
}

func (t *Table) problem(format string, args ...any) {
	t.Problems = append(t.Problems, fmt.Sprintf(format, args...))
}

func (t *Table) judge(s *Statement) {
	tested, excused := len(s.Tests) > 0, s.Reason != ""
	switch {
	case tested && excused:
		t.problem("%v: untestable.txt excuses it, and %s claims it", s.Key, s.Tests[0].Name)
	case s.Pending && (tested || excused):
		t.problem("%v: settled, but still in pending.txt; run go generate ./internal/conformance", s.Key)
	case !s.Pending && !tested && !excused:
		t.problem("%v: neither a test nor a line in untestable.txt (%s)", s.Key, s.Summary)
	}
}

// readStatements reads the lists of ids, which are the measure, and the summaries.
func (t *Table) readStatements(root string) error {
	for _, version := range Versions {
		err := eachLine(filepath.Join(root, DataDir, "ids-"+version+".txt"), func(line string) {
			s := &Statement{Key: Key{version, line}}
			if t.byKey[s.Key] != nil {
				t.problem("%v: listed twice", s.Key)
				return
			}
			t.byKey[s.Key] = s
			t.Statements = append(t.Statements, s)
		})
		if err != nil {
			return err
		}
	}
	err := t.eachKey(root, "statements.txt", func(s *Statement, rest string) {
		role, summary, _ := strings.Cut(rest, " ")
		if (role != "server" && role != "client" && role != "both") || summary == "" || s.Summary != "" {
			t.problem("statements.txt: %v: want one line with a role and a summary", s.Key)
		}
		s.Role, s.Summary = role, summary
	})
	for _, s := range t.Statements {
		if s.Summary == "" {
			t.problem("statements.txt: %v: missing", s.Key)
		}
	}
	return err
}

func (t *Table) readReasons(root string) error {
	return t.eachKey(root, "untestable.txt", func(s *Statement, reason string) {
		if reason == "" || s.Reason != "" {
			t.problem("untestable.txt: %v: want one line with a reason", s.Key)
		}
		s.Reason = reason
	})
}

func (t *Table) readPending(root string) error {
	err := t.eachKey(root, "pending.txt", func(s *Statement, _ string) { s.Pending = true })
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// eachKey calls f for each line "VERSION ID rest" of a data file.
func (t *Table) eachKey(root, file string, f func(s *Statement, rest string)) error {
	return eachLine(filepath.Join(root, DataDir, file), func(line string) {
		version, rest, _ := strings.Cut(line, " ")
		id, rest, _ := strings.Cut(rest, " ")
		s := t.byKey[Key{version, id}]
		if s == nil {
			t.problem("%s: no statement %s %s", file, version, id)
			return
		}
		f(s, rest)
	})
}

// eachLine calls f for each line of a file that is neither empty nor a comment.
func eachLine(path string, f func(line string)) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		if line := strings.TrimSpace(lines.Text()); line != "" && !strings.HasPrefix(line, "#") {
			f(line)
		}
	}
	return lines.Err()
}

// scanTests reads the markers of every test file below root.
func (t *Table) scanTests(root string) error {
	return filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			if errors.Is(err, fs.ErrNotExist) && path != root {
				return nil // a test running beside this one took its temporary file away
			}
			return err
		}
		name := d.Name()
		if d.IsDir() {
			if path != root && (strings.HasPrefix(name, ".") || name == "testdata" || name == "bin" || name == "data") {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(name, "_test.go") {
			return nil
		}
		source, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		return t.scanFile(filepath.ToSlash(rel), source)
	})
}

var (
	marker = regexp.MustCompile(`(?m)^\s*(?://)?\s*Conformance:(.*)$`)
	claim  = regexp.MustCompile(`(MQTT-\d+\.\d+\.\d+-\d+) \(([^()]*)\)`)
	isTest = regexp.MustCompile(`^(Test|Fuzz)([^a-z]|$)`)
)

// scanFile reads the markers of one test file. A marker belongs to the test function in whose comment or body it stands.
func (t *Table) scanFile(file string, source []byte) error {
	if !strings.Contains(string(source), "Conformance:") {
		return nil
	}
	set := token.NewFileSet()
	parsed, err := parser.ParseFile(set, file, source, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return err
	}
	for _, group := range parsed.Comments {
		for _, comment := range group.List {
			for _, m := range marker.FindAllStringSubmatch(comment.Text, -1) {
				place := set.Position(comment.Pos())
				name := enclosing(parsed, group)
				if name == "" {
					t.problem("%v: marker belongs to no test function", place)
					continue
				}
				t.claim(place, Test{file, name}, m[1])
			}
		}
	}
	return nil
}

// enclosing names the test function that a comment stands above or in.
func enclosing(file *ast.File, group *ast.CommentGroup) string {
	for _, decl := range file.Decls {
		f, ok := decl.(*ast.FuncDecl)
		if !ok || f.Recv != nil || !isTest.MatchString(f.Name.Name) {
			continue
		}
		if f.Doc == group || (f.Pos() <= group.Pos() && group.End() <= f.End()) {
			return f.Name.Name
		}
	}
	return ""
}

// claim books what one marker says.
func (t *Table) claim(place token.Position, test Test, text string) {
	for _, m := range claim.FindAllStringSubmatch(text, -1) {
		for version := range strings.SplitSeq(m[2], ",") {
			key := Key{strings.TrimSpace(version), m[1]}
			s := t.byKey[key]
			if s == nil {
				t.problem("%v: no statement %v", place, key)
				continue
			}
			if !slices.Contains(s.Tests, test) {
				s.Tests = append(s.Tests, test)
			}
		}
	}
	if rest := strings.Trim(claim.ReplaceAllString(text, ""), " ,."); rest != "" {
		t.problem("%v: marker is not a list of MQTT-x.y.z-n (version): %q", place, rest)
	}
}

// Pending gives the statements that have neither a test nor a reason yet.
func (t *Table) Pending() (all []*Statement) {
	for _, s := range t.Statements {
		if s.Pending {
			all = append(all, s)
		}
	}
	return all
}

// Render writes the document.
func (t *Table) Render() []byte {
	var b strings.Builder
	b.WriteString(`# MQTT conformance

<!-- Generated by go generate ./internal/conformance; do not edit. -->

Every numbered normative statement of the OASIS specifications of MQTT 3.1.1 and 5.0, in our own words, with the tests
that prove it or the reason why none can. A statement with neither fails ` + "`make test`" + `.
`)
	for _, version := range Versions {
		fmt.Fprintf(&b, "\n## MQTT %s\n\n", version)
		var tested, excused, pending int
		var rows strings.Builder
		for _, s := range t.Statements {
			if s.Version != version {
				continue
			}
			var proof string
			switch {
			case len(s.Tests) > 0:
				tested++
				proof = links(s.Tests)
			case s.Reason != "":
				excused++
				proof = s.Reason
			default:
				pending++
				proof = "open"
			}
			fmt.Fprintf(&rows, "| %s | %s | %s | %s |\n", s.ID, s.Role, escape(s.Summary), proof)
		}
		fmt.Fprintf(&b, "%d statements: %d proved by tests, %d that no test can prove", tested+excused+pending, tested, excused)
		if pending > 0 {
			fmt.Fprintf(&b, ", %d open", pending)
		}
		b.WriteString(".\n\n| statement | binds | what it asks for | proved by, or why not |\n|---|---|---|---|\n" + rows.String())
	}
	return []byte(b.String())
}

func links(tests []Test) string {
	sorted := slices.SortedFunc(slices.Values(tests), func(a, b Test) int {
		return strings.Compare(a.File+a.Name, b.File+b.Name)
	})
	var parts []string
	for _, t := range sorted {
		parts = append(parts, fmt.Sprintf("[%s](../%s)", t.Name, t.File))
	}
	return strings.Join(parts, ", ")
}

func escape(s string) string { return strings.ReplaceAll(s, "|", `\|`) }

// Generate writes the document anew and takes what has been settled out of pending.txt.
func Generate(root string) error {
	t, err := Load(root)
	if err != nil {
		return err
	}
	var open strings.Builder
	for _, s := range t.Statements {
		if s.Pending && len(s.Tests) == 0 && s.Reason == "" {
			fmt.Fprintln(&open, s.Key)
		}
	}
	pending := filepath.Join(root, DataDir, "pending.txt")
	if open.Len() == 0 {
		if err := os.Remove(pending); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	} else if err := os.WriteFile(pending, []byte(open.String()), 0o644); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(root, Document), t.Render(), 0o644)
}
