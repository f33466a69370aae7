package config

import (
	"fmt"
	"io"
	"reflect"
	"strings"
)

// Print writes the configuration in force as YAML that the parser reads, each value with where it came from; secrets are masked.
func (l *Loaded) Print(w io.Writer) error {
	var b strings.Builder
	var open []string
	for i := range keys {
		k := &keys[i]
		parts := strings.Split(k.Name, ".")
		shared := 0
		for shared < len(open) && shared < len(parts)-1 && open[shared] == parts[shared] {
			shared++
		}
		for depth := shared; depth < len(parts)-1; depth++ {
			fmt.Fprintf(&b, "%s%s:\n", strings.Repeat("  ", depth), parts[depth])
		}
		open = parts[:len(parts)-1]
		line := strings.Repeat("  ", len(parts)-1) + parts[len(parts)-1] + ": " + yamlValue(k, &l.Config)
		fmt.Fprintf(&b, "%-56s # %s\n", line, l.sources[k.Name])
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// yamlValue quotes what YAML would read as something else.
func yamlValue(k *Key, c *Config) string {
	v := k.format(c)
	switch k.Kind {
	case "text", "secret":
		if v == "" || strings.ContainsAny(v, ":#{}[],&*!|>'\"%@`\\\n") || strings.TrimSpace(v) != v {
			return quote(v)
		}
	case "addresses":
		addrs := reflect.ValueOf(c).Elem().FieldByIndex(k.index).Interface().(Addrs)
		quoted := make(Addrs, len(addrs))
		for i, a := range addrs {
			quoted[i] = quoteAddr(a)
		}
		return quoted.String()
	}
	return v
}

func quoteAddr(a string) string {
	if strings.HasPrefix(a, ":") || strings.ContainsAny(a, "[]{},#'\"\\ ") {
		return quote(a)
	}
	return a
}

func quote(s string) string {
	r := strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`, "\r", `\r`, "\t", `\t`)
	return `"` + r.Replace(s) + `"`
}

// Change is a key whose value differs between two configurations.
type Change struct {
	Key      string
	Old, New string // secrets masked
	Live     bool   // can be taken over at run time
}

// Diff lists the keys that differ, in the order of the fields.
func Diff(old, next *Config) []Change {
	var out []Change
	for i := range keys {
		k := &keys[i]
		a := reflect.ValueOf(old).Elem().FieldByIndex(k.index).Interface()
		b := reflect.ValueOf(next).Elem().FieldByIndex(k.index).Interface()
		if !reflect.DeepEqual(a, b) {
			out = append(out, Change{Key: k.Name, Old: k.format(old), New: k.format(next), Live: k.Live})
		}
	}
	return out
}

// TakeLive copies from next to c what can be taken over at run time.
func TakeLive(c, next *Config) {
	for i := range keys {
		if k := &keys[i]; k.Live {
			reflect.ValueOf(c).Elem().FieldByIndex(k.index).Set(reflect.ValueOf(next).Elem().FieldByIndex(k.index))
		}
	}
}
