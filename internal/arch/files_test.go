package arch

import (
	"bufio"
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

const (
	fileLinesMax = 800
	funcLinesMax = 70
)

// reasonMark begins the reason of a file or function that is longer than it should be: in a comment before the package clause
// for the file and all its functions, or in a function's own comment.
const reasonMark = "Length:"

// eachFile calls f for every file of the tree that is not built, stored or foreign.
func eachFile(t *testing.T, f func(name string, data []byte)) {
	t.Helper()
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, p)
		if err != nil {
			return err
		}
		name := filepath.ToSlash(rel)
		if d.IsDir() {
			switch {
			case name == ".":
				return nil
			case strings.HasPrefix(d.Name(), ".") && name != ".ci", d.Name() == "testdata", name == "bin", name == "data", name == "dist":
				return fs.SkipDir
			}
			return nil
		}
		if !d.Type().IsRegular() || strings.HasPrefix(d.Name(), ".") {
			return nil
		}
		data, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		f(name, data)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func eachGoFile(t *testing.T, f func(name string, data []byte, file *ast.File, set *token.FileSet)) {
	t.Helper()
	n := 0
	eachFile(t, func(name string, data []byte) {
		if !strings.HasSuffix(name, ".go") {
			return
		}
		set := token.NewFileSet()
		file, err := parser.ParseFile(set, name, data, parser.ParseComments)
		if err != nil {
			t.Error(err)
			return
		}
		n++
		f(name, data, file, set)
	})
	if n < 20 {
		t.Fatalf("%d Go files found", n)
	}
}

// headReason tells whether a comment before the package clause gives a reason.
func headReason(file *ast.File) bool {
	for _, c := range file.Comments {
		if c.Pos() < file.Package && hasReason(c) {
			return true
		}
	}
	return false
}

func hasReason(c *ast.CommentGroup) bool {
	_, reason, found := strings.Cut(c.Text(), reasonMark)
	return found && len(strings.TrimSpace(reason)) > 20
}

func TestLengths(t *testing.T) {
	eachGoFile(t, func(name string, data []byte, file *ast.File, set *token.FileSet) {
		if ast.IsGenerated(file) || headReason(file) {
			return
		}
		if n := bytes.Count(data, []byte("\n")); n > fileLinesMax {
			t.Errorf("%s has %d lines, more than %d: split it by subject, or say why not in a comment before the package clause, "+
				"after %q", name, n, fileLinesMax, reasonMark)
		}
		for _, d := range file.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok || fn.Doc != nil && hasReason(fn.Doc) {
				continue
			}
			if n := set.Position(fn.End()).Line - set.Position(fn.Pos()).Line + 1; n-tableLines(set, fn) > funcLinesMax {
				t.Errorf("%s: %s has %d lines, more than %d: split it, or say why not in its comment, after %q",
					set.Position(fn.Pos()), fn.Name.Name, n, funcLinesMax, reasonMark)
			}
		}
	})
}

// tableLines counts the lines of the tables in a test: data, which is read in one go however long it is.
func tableLines(set *token.FileSet, fn *ast.FuncDecl) int {
	if !strings.HasSuffix(set.Position(fn.Pos()).Filename, "_test.go") {
		return 0
	}
	n := 0
	ast.Inspect(fn, func(node ast.Node) bool {
		c, ok := node.(*ast.CompositeLit)
		if !ok {
			return true
		}
		switch c.Type.(type) {
		case *ast.ArrayType, *ast.MapType:
			n += set.Position(c.End()).Line - set.Position(c.Pos()).Line
			return false
		}
		return true
	})
	return n
}

// promises are words that stand where work should; written so that this file does not hold them.
var promises = regexp.MustCompile(`\b(TO` + `DO|FIX` + `ME|XX` + `X)\b|(?i)\bnot (yet )?imple` + `mented\b|\bunimple` + `mented\b|\bfor n` + `ow\b|\bst` + `ub\b`)

// machinePaths are directories of one machine.
var machinePaths = regexp.MustCompile(`(^|[^[:alnum:]_.])/(wo` + `rk|ro` + `ot)/`)

func TestForbiddenWords(t *testing.T) {
	eachFile(t, func(name string, data []byte) {
		switch filepath.Ext(name) {
		case ".go", ".md", ".sh", ".yaml", ".yml", ".toml", ".service", "":
		default:
			return
		}
		s := bufio.NewScanner(bytes.NewReader(data))
		s.Buffer(nil, 1<<20)
		for line := 1; s.Scan(); line++ {
			text := strings.ReplaceAll(s.Text(), "codes.Unimpl"+"emented", "") // gRPC's name of an answer
			if w := promises.FindString(text); w != "" && strings.HasSuffix(name, ".go") && !strings.HasSuffix(name, "_test.go") && !strings.HasSuffix(name, ".pb.go") {
				t.Errorf("%s:%d: %q promises work instead of doing it", name, line, w)
			}
			if w := machinePaths.FindString(s.Text()); w != "" {
				t.Errorf("%s:%d: %q is a path of one machine", name, line, w)
			}
		}
	})
}

func TestNoSleepInTests(t *testing.T) {
	eachGoFile(t, func(name string, _ []byte, file *ast.File, set *token.FileSet) {
		if !strings.HasSuffix(name, "_test.go") {
			return
		}
		ast.Inspect(file, func(n ast.Node) bool {
			if sel, ok := n.(*ast.SelectorExpr); ok && sel.Sel.Name == "Sleep" {
				if x, ok := sel.X.(*ast.Ident); ok && x.Name == "time" {
					t.Errorf("%s: a test sleeps: wait for the event, with testx.Eventually or a channel", set.Position(n.Pos()))
				}
			}
			return true
		})
	})
}

// A folder of tests alone says what it is too.
func TestTestPackageComments(t *testing.T) {
	type pkg struct{ described, hasCode bool }
	dirs := map[string]*pkg{}
	eachGoFile(t, func(name string, _ []byte, file *ast.File, _ *token.FileSet) {
		dir := filepath.Dir(name)
		if dirs[dir] == nil {
			dirs[dir] = &pkg{}
		}
		p := dirs[dir]
		p.described = p.described || file.Doc != nil && len(file.Doc.Text()) >= 40
		p.hasCode = p.hasCode || !strings.HasSuffix(name, "_test.go")
	})
	for dir, p := range dirs {
		if !p.described {
			t.Errorf("%s has no package comment", dir)
		}
	}
}
