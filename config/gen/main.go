// Command gen writes docs/configuration.md from the fields of config.Config: keys, defaults and bounds from their tags, as the
// parser reads them, and the text from their comments. It owns the form of that page and nothing else.
package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"reflect"
	"strings"

	"github.com/sluicemq/sluice/config"
)

func main() {
	page, err := reference("config/config.go")
	if err == nil {
		err = os.WriteFile("docs/configuration.md", []byte(page), 0o644) //nolint:gosec // a document
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "gen:", err)
		os.Exit(1)
	}
}

const head = `# Configuration

<!-- Generated from config/config.go by ` + "`make generate`" + `. Do not edit. -->

One YAML file, given with ` + "`sluice start --config FILE`" + `; nothing has to be in it. Each key can also be an environment variable
or ` + "`--set KEY=VALUE`" + `. What is given nearer to the command wins: flag, environment, file, default. An unknown key is an error that
names the nearest known one. ` + "`sluice check-config --config FILE`" + ` says what is wrong, ` + "`sluice start --print-config`" + ` what is in
force and where each value came from.

- A **size** has a unit: ` + "`64MiB`, `1.5GiB`, `10MB`" + `; without one it is in bytes. A **duration** too: ` + "`250ms`, `5s`, `1h30m`, `7d`, `never`" + `.
- **Addresses** are one ` + "`HOST:PORT`" + `, a list ` + "`[127.0.0.1:1883, \"[::1]:1883\"]`" + `, or ` + "`off`" + `. In a flag or variable a list is separated by commas.
- A **secret** can be ` + "`file:PATH` or `env:NAME`" + `. No output shows it.
- Paths are relative to the directory that the node is started in.
- **Live** keys are taken over when the node is told to reload (SIGHUP); a change of another one is named there and waits for a restart.
- Every variable is ` + "`SLUICE_`" + ` and the key in capitals, dots turned to underscores: ` + "`listeners.mqtt.tcp` is `SLUICE_LISTENERS_MQTT_TCP`" + `.

Keys that the design has and this version does not are unknown keys: [limits.md](limits.md).
`

// reference builds the page; source is the file with the struct.
func reference(source string) (string, error) {
	text, err := comments(source)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	b.WriteString(head)
	section := ""
	for _, k := range config.Keys() {
		s, _, _ := strings.Cut(k.Name, ".")
		if s != section {
			section = s
			fmt.Fprintf(&b, "\n## %s\n", s)
			if s != k.Name { // a section, and not a key of its own
				fmt.Fprintf(&b, "\n%s\n", text[s])
			}
		}
		if text[k.Name] == "" {
			return "", fmt.Errorf("the field of %s has no comment", k.Name)
		}
		fmt.Fprintf(&b, "\n### `%s`\n\n%s\n\n%s\n", k.Name, text[k.Name], facts(&k))
	}
	return b.String(), nil
}

// facts is the line below a key's text.
func facts(k *config.Key) string {
	list := []string{k.Kind}
	if k.OneOf != nil {
		list = []string{"one of `" + strings.Join(k.OneOf, "`, `") + "`"}
		if k.Kind == "list" {
			list[0] = "list of `" + strings.Join(k.OneOf, "`, `") + "`"
		}
	}
	def := "default `" + k.Default + "`"
	if k.Default == "" {
		def = "default: none"
	}
	list = append(list, def)
	switch {
	case k.Min != "" && k.Max != "":
		list = append(list, "`"+k.Min+"` to `"+k.Max+"`")
	case k.Min != "" && strings.Trim(k.Min, "0s") != "":
		list = append(list, "at least `"+k.Min+"`")
	}
	if k.Live {
		list = append(list, "live")
	}
	return strings.Join(list, " · ")
}

// comments gives the text of each key and of each top section.
func comments(source string) (map[string]string, error) {
	f, err := parser.ParseFile(token.NewFileSet(), source, nil, parser.ParseComments)
	if err != nil {
		return nil, err
	}
	structs := map[string]*ast.StructType{}
	docs := map[string]string{}
	for _, d := range f.Decls {
		g, ok := d.(*ast.GenDecl)
		if !ok {
			continue
		}
		for _, s := range g.Specs {
			if ts, ok := s.(*ast.TypeSpec); ok {
				if st, ok := ts.Type.(*ast.StructType); ok {
					structs[ts.Name.Name] = st
					docs[ts.Name.Name] = sentence(ts.Name.Name, g.Doc.Text())
				}
			}
		}
	}
	out := map[string]string{}
	var walk func(name, prefix string)
	walk = func(name, prefix string) {
		for _, field := range structs[name].Fields.List {
			key := prefix + reflect.StructTag(strings.Trim(field.Tag.Value, "`")).Get("key")
			if id, ok := field.Type.(*ast.Ident); ok && structs[id.Name] != nil {
				if prefix == "" {
					out[key] = docs[id.Name]
				}
				walk(id.Name, key+".")
				continue
			}
			out[key] = strings.Join(strings.Fields(field.Doc.Text()), " ")
		}
	}
	walk("Config", "")
	return out, nil
}

// sentence makes "Journal is the durable log." into "The durable log.".
func sentence(name, text string) string {
	s := strings.Join(strings.Fields(text), " ")
	for _, verb := range []string{" is ", " are ", " says ", " say "} {
		if rest, ok := strings.CutPrefix(s, name+verb); ok {
			return strings.ToUpper(rest[:1]) + rest[1:]
		}
	}
	return strings.TrimSpace(strings.TrimPrefix(s, name))
}
