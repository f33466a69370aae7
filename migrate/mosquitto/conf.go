package mosquitto

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Kind says how much a Note matters.
type Kind string

// The kinds of notes.
const (
	Lost    Kind = "not carried over" // somebody has to do something about it
	Differs Kind = "differs"          // carried over, and not quite the same
	Unused  Kind = "not needed"       // there is nothing here that it would be for
)

// Note is what became of a line that has no exact counterpart.
type Note struct {
	Kind Kind
	File string
	Line int    // 0: the file as a whole
	Text string // the line
	Why  string
}

// String gives `file:line: text: kind: why`.
func (n Note) String() string {
	at := n.File
	if n.Line > 0 {
		at += ":" + strconv.Itoa(n.Line)
	}
	if n.Text != "" {
		at += ": " + n.Text
	}
	return fmt.Sprintf("%s: %s: %s", at, n.Kind, n.Why)
}

// fileBytesMax bounds what is read of one file.
const fileBytesMax = 64 << 20

// line is an option as mosquitto.conf has it: a name, and the rest of the line.
type line struct {
	file  string
	at    int
	name  string
	value string
}

func (l *line) text() string { return strings.TrimSpace(l.name + " " + l.value) }

// words are the value's, at single spaces as Mosquitto splits them.
func (l *line) words() []string { return strings.Fields(l.value) }

// readConf reads a file, and those of its include_dir lines in their order.
func readConf(path string) (lines []line, err error) {
	own, err := readLines(path)
	if err != nil {
		return nil, err
	}
	for _, l := range own {
		if l.name != "include_dir" {
			lines = append(lines, l)
			continue
		}
		included, err := readDir(l.value)
		if err != nil {
			return nil, fmt.Errorf("%s:%d: %w", path, l.at, err)
		}
		lines = append(lines, included...)
	}
	return lines, nil
}

// readDir reads the files of an include_dir. One that includes others is not read on: Mosquitto does not, either.
func readDir(dir string) (lines []line, err error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.conf"))
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(dir); err != nil {
		return nil, err
	}
	slices.SortFunc(files, func(a, b string) int { return strings.Compare(strings.ToLower(a), strings.ToLower(b)) })
	for _, f := range files {
		own, err := readLines(f)
		if err != nil {
			return nil, err
		}
		lines = append(lines, own...)
	}
	return lines, nil
}

// readLines reads what of one file is no comment.
func readLines(path string) (lines []line, err error) {
	data, err := readFile(path)
	if err != nil {
		return nil, err
	}
	for i, text := range textLines(data) {
		text = strings.TrimSpace(text)
		if text == "" || text[0] == '#' {
			continue
		}
		name, value, _ := strings.Cut(text, " ")
		lines = append(lines, line{file: path, at: i + 1, name: name, value: strings.TrimSpace(value)})
	}
	return lines, nil
}

func textLines(data []byte) (out []string) {
	for text := range bytes.Lines(data) {
		out = append(out, strings.TrimRight(string(text), "\r\n"))
	}
	return out
}

func readFile(path string) ([]byte, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() || st.Size() > fileBytesMax {
		return nil, fmt.Errorf("%s: want a file of at most %d bytes", path, fileBytesMax)
	}
	return os.ReadFile(path)
}
