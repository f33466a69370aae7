package tier

import (
	"fmt"
	"strings"
)

// How long names may be, in bytes.
const (
	MaxName    = 512
	MaxSegment = 200
)

// CheckName tells whether an object may have a name: one or more segments with a slash between them, each of letters, digits and
// the signs - _ = + . and not beginning with a dot, so that every store, file system and log can hold it as it is. Names that begin
// with a dot are the stores' own. A name must not be the folder of another (a and a/b): the store may refuse the second one.
func CheckName(name string) error {
	if name == "" || len(name) > MaxName {
		return fmt.Errorf("%w: %d bytes", ErrName, len(name))
	}
	for seg := range strings.SplitSeq(name, "/") {
		if seg == "" || len(seg) > MaxSegment || seg[0] == '.' || !plain(seg) {
			return fmt.Errorf("%w: %.80q", ErrName, name)
		}
	}
	return nil
}

func plain(s string) bool {
	for i := range len(s) {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' && c != '_' && c != '=' && c != '+' && c != '.' {
			return false
		}
	}
	return true
}

// CheckPrefix tells whether a prefix of a store, which it puts before all its names, is fit for it: nothing, or like a name.
func CheckPrefix(prefix string) error {
	if prefix == "" {
		return nil
	}
	return CheckName(strings.TrimSuffix(prefix, "/"))
}
