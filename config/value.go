package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/sluicemq/sluice/internal/strictyaml"
)

// Never is a duration without end, written `never`.
const Never time.Duration = math.MaxInt64

// Size is a number of bytes, written with a unit: `64MiB`.
type Size int64

// The units of a Size.
const (
	KiB Size = 1 << 10
	MiB Size = 1 << 20
	GiB Size = 1 << 30
	TiB Size = 1 << 40
)

var sizeUnits = []struct {
	name string
	mult int64
}{
	{"TiB", 1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10},
	{"TB", 1e12}, {"GB", 1e9}, {"MB", 1e6}, {"kB", 1e3}, {"KB", 1e3}, {"B", 1},
}

// String gives the shortest exact form.
func (s Size) String() string {
	for _, u := range sizeUnits[:4] {
		if s != 0 && int64(s)%u.mult == 0 {
			return strconv.FormatInt(int64(s)/u.mult, 10) + u.name
		}
	}
	return strconv.FormatInt(int64(s), 10)
}

// ParseSize reads `64MiB`, `1.5GiB`, `10MB`, `4096`.
func ParseSize(text string) (Size, error) {
	num, mult := text, int64(1)
	for _, u := range sizeUnits {
		if rest, ok := strings.CutSuffix(text, u.name); ok {
			num, mult = strings.TrimSpace(rest), u.mult
			break
		}
	}
	bad := fmt.Errorf("want a size such as 64MiB, found %q", text)
	if n, err := strconv.ParseInt(num, 10, 64); err == nil {
		if n < 0 || n > math.MaxInt64/mult {
			return 0, bad
		}
		return Size(n * mult), nil
	}
	if strings.ContainsAny(num, "eExXnNiI_+-") {
		return 0, bad
	}
	f, err := strconv.ParseFloat(num, 64)
	if err != nil || f < 0 || f*float64(mult) >= math.MaxInt64 {
		return 0, bad
	}
	return Size(f * float64(mult)), nil
}

// ParseDuration reads `250ms`, `1h30m`, `7d`, `never`. A number without a unit is refused unless it is 0.
func ParseDuration(text string) (time.Duration, error) {
	switch text {
	case "never":
		return Never, nil
	case "0":
		return 0, nil
	}
	var days time.Duration
	rest := text
	if i := strings.IndexByte(text, 'd'); i > 0 {
		n, err := strconv.ParseUint(text[:i], 10, 16)
		if err != nil {
			return 0, fmt.Errorf("want a duration such as 5s, 1h30m or 7d, found %q", text)
		}
		days, rest = time.Duration(n)*24*time.Hour, text[i+1:]
		if rest == "" {
			return days, nil
		}
	}
	d, err := time.ParseDuration(rest)
	if err != nil || d < 0 || strings.ContainsAny(rest, "+-") || d > math.MaxInt64-1-days {
		return 0, fmt.Errorf("want a duration such as 5s, 1h30m or 7d, found %q", text)
	}
	return days + d, nil
}

// FormatDuration is the inverse of ParseDuration, without trailing zero units.
func FormatDuration(d time.Duration) string {
	switch {
	case d == Never:
		return "never"
	case d == 0:
		return "0s"
	case d%(24*time.Hour) == 0:
		return strconv.FormatInt(int64(d/(24*time.Hour)), 10) + "d"
	}
	return strictyaml.ShortDuration(d)
}

// Addrs is a list of addresses; empty is `off`.
type Addrs []string

// Off tells that there is no address.
func (a Addrs) Off() bool { return len(a) == 0 }

// String gives the form that the parser reads.
func (a Addrs) String() string {
	switch len(a) {
	case 0:
		return "off"
	case 1:
		return a[0]
	}
	return "[" + strings.Join(a, ", ") + "]"
}

// Secret is a value that no output shows. It is given as it is, as `file:PATH` or as `env:NAME`. Printing it in any way gives
// where it came from, never what it is.
type Secret struct {
	ref   string // file:PATH or env:NAME; empty for a literal
	value string
}

const mask = "******"

// secretBytesMax bounds what is read for one secret: a key file is a few KiB.
const secretBytesMax = 1 << 20

// Reveal returns the secret itself, for the one place that needs it.
func (s Secret) Reveal() string { return s.value }

// IsSet tells whether there is a secret.
func (s Secret) IsSet() bool { return s.value != "" }

// String masks the value.
func (s Secret) String() string {
	if s.ref != "" {
		return s.ref
	}
	if s.value == "" {
		return ""
	}
	return mask
}

// GoString masks the value for %#v.
func (s Secret) GoString() string { return "Secret(" + s.String() + ")" }

// Format masks the value for every verb.
func (s Secret) Format(w fmt.State, _ rune) { _, _ = io.WriteString(w, s.String()) }

// LogValue masks the value in logs.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// MarshalText masks the value in JSON and YAML.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// parseSecret resolves text. Where bareFile is set, a value without a prefix is a path.
func parseSecret(text string, bareFile bool, lookup func(string) (string, bool)) (Secret, error) {
	if text == "" {
		return Secret{}, nil
	}
	if name, ok := strings.CutPrefix(text, "env:"); ok {
		v, found := lookup(name)
		if !found || v == "" {
			return Secret{}, fmt.Errorf("the environment variable %s is not set", name)
		}
		return Secret{ref: text, value: v}, nil
	}
	path, ok := strings.CutPrefix(text, "file:")
	if !ok {
		if !bareFile {
			return Secret{value: text}, nil
		}
		path = text
	}
	v, err := readSecret(path)
	if err != nil {
		return Secret{}, err
	}
	return Secret{ref: "file:" + path, value: v}, nil
}

func readSecret(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, secretBytesMax+1))
	if err != nil {
		return "", err
	}
	if len(b) > secretBytesMax {
		return "", fmt.Errorf("%s: larger than %v", path, Size(secretBytesMax))
	}
	v := string(bytes.TrimRight(b, "\r\n"))
	if v == "" {
		return "", errors.New(path + " is empty")
	}
	return v, nil
}
