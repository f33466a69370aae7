package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"go.yaml.in/yaml/v3"
)

// listing prints rows as they come, page by page, so that a million of them take no memory. T's fields have json and yaml names.
type listing[T any] struct {
	w      io.Writer
	o      output
	header []string
	row    func(*T) []string
	limit  int // of rows; 0: all
	n      int
}

// pages asks for page after page and prints them. next answers rows and the token of the page behind; an empty one is the end.
func (l *listing[T]) pages(next func(token []byte) ([]T, []byte, error)) error {
	for token := []byte(nil); ; {
		rows, more, err := next(token)
		if err != nil {
			return err
		}
		if l.limit > 0 && len(rows) >= l.limit-l.n {
			rows, more = rows[:l.limit-l.n], nil
		}
		if err := l.print(rows); err != nil {
			return err
		}
		if token = more; len(token) == 0 {
			return l.end()
		}
	}
}

func (l *listing[T]) print(rows []T) error {
	defer func() { l.n += len(rows) }()
	switch l.o {
	case "json":
		for i := range rows {
			if err := l.printJSON(&rows[i], l.n+i); err != nil {
				return err
			}
		}
		return nil
	case "yaml":
		if len(rows) == 0 {
			return nil
		}
		e := yaml.NewEncoder(l.w)
		e.SetIndent(2)
		if err := e.Encode(rows); err != nil {
			return err
		}
		return e.Close()
	}
	if len(rows) == 0 && l.n > 0 {
		return nil
	}
	t := tabwriter.NewWriter(l.w, 0, 0, 2, ' ', 0)
	if l.n == 0 {
		fmt.Fprintln(t, strings.Join(l.header, "\t"))
	}
	for i := range rows {
		cells := l.row(&rows[i])
		for k := range cells {
			cells[k] = plain(cells[k])
		}
		fmt.Fprintln(t, strings.Join(cells, "\t"))
	}
	return t.Flush()
}

func (l *listing[T]) printJSON(row *T, at int) error {
	var b bytes.Buffer
	b.WriteString("[\n  ")
	if at > 0 {
		b.Reset()
		b.WriteString(",\n  ")
	}
	e := json.NewEncoder(&b)
	e.SetIndent("  ", "  ")
	e.SetEscapeHTML(false)
	if err := e.Encode(row); err != nil {
		return err
	}
	_, err := l.w.Write(bytes.TrimRight(b.Bytes(), "\n"))
	return err
}

func (l *listing[T]) end() (err error) {
	switch {
	case l.o == "json" && l.n == 0, l.o == "yaml" && l.n == 0:
		_, err = io.WriteString(l.w, "[]\n")
	case l.o == "json":
		_, err = io.WriteString(l.w, "\n]\n")
	}
	return err
}

// plain is a cell without what would break a table or a terminal: names come from clients.
func plain(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return '\uFFFD'
		}
		return r
	}, s)
}
