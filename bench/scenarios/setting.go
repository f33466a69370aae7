package scenarios

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/sluicemq/sluice/internal/strictyaml"
)

// Setting is one setting of a load or a ladder: a key of a file, and a flag.
type Setting struct {
	Name  string
	About string
	Type  string // as flags name it: int, uint64, float64, duration, bool, string, stringArray
	Show  func() string
	set   func(text string) error
}

// number makes a setting of p, which is a number between lo and hi, def at first.
func number[T int | uint64 | float64](name string, p *T, def, lo, hi T, about string) Setting {
	*p = def
	typ := fmt.Sprintf("%T", def)
	return Setting{
		Name: name, About: about, Type: typ,
		Show: func() string { return fmt.Sprint(*p) },
		set: func(text string) error {
			v, err := parseNumber[T](text)
			if err != nil {
				return err
			}
			*p = v
			return between(v, lo, hi, text)
		},
	}
}

func parseNumber[T int | uint64 | float64](text string) (T, error) {
	plain := strings.ReplaceAll(text, "_", "")
	var zero T
	var v T
	var err error
	switch any(zero).(type) {
	case float64:
		var f float64
		f, err = strconv.ParseFloat(plain, 64)
		v = T(f)
		if f != f {
			err = strconv.ErrSyntax
		}
	case uint64:
		var n uint64
		n, err = strconv.ParseUint(plain, 10, 64)
		v = T(n)
	default:
		var n int64
		n, err = strconv.ParseInt(plain, 10, 64)
		v = T(n)
	}
	if err != nil {
		return v, fmt.Errorf("want a number, found %q", text)
	}
	return v, nil
}

// between refuses what is out of bounds; hi of zero is no bound.
func between[T cmp.Ordered](v, lo, hi T, text string) error {
	var none T
	switch {
	case v < lo:
		return fmt.Errorf("want at least %v, found %q", lo, text)
	case hi != none && v > hi:
		return fmt.Errorf("want at most %v, found %q", hi, text)
	}
	return nil
}

// duration makes a setting of p, which is a duration of at least lo.
func duration(name string, p *time.Duration, def, lo time.Duration, about string) Setting {
	*p = def
	return Setting{
		Name: name, About: about, Type: "duration",
		Show: func() string {
			if *p == 0 {
				return "0"
			}
			return strictyaml.ShortDuration(*p)
		},
		set: func(text string) error {
			d, err := time.ParseDuration(text)
			if err != nil {
				return fmt.Errorf("want a duration such as 500ms, 10s or 2m, found %q", text)
			}
			*p = d
			return between(d, lo, 24*time.Hour, text)
		},
	}
}

func boolean(name string, p *bool, def bool, about string) Setting {
	*p = def
	return Setting{
		Name: name, About: about, Type: "bool",
		Show: func() string { return strconv.FormatBool(*p) },
		set: func(text string) error {
			v, err := strconv.ParseBool(text)
			if err != nil {
				return fmt.Errorf("want true or false, found %q", text)
			}
			*p = v
			return nil
		},
	}
}

// text makes a setting of p. check may be nil.
func text(name string, p *string, def, about string, check func(string) error) Setting {
	*p = def
	return Setting{
		Name: name, About: about, Type: "string",
		Show: func() string { return *p },
		set: func(v string) error {
			*p = v
			if check != nil {
				return check(v)
			}
			return nil
		},
	}
}

// oneOf checks that a text is one of some.
func oneOf(names ...string) func(string) error {
	return func(v string) error {
		for _, n := range names {
			if n == v {
				return nil
			}
		}
		return fmt.Errorf("want %s, found %q", orList(names), v)
	}
}

func orList(names []string) string {
	if len(names) == 1 {
		return names[0]
	}
	return strings.Join(names[:len(names)-1], ", ") + " or " + names[len(names)-1]
}

// find gives the setting of a name, nil if there is none.
func find(settings []Setting, name string) *Setting {
	for i := range settings {
		if settings[i].Name == name {
			return &settings[i]
		}
	}
	return nil
}

func names(settings []Setting) []string {
	out := make([]string, len(settings))
	for i := range settings {
		out[i] = settings[i].Name
	}
	return out
}
