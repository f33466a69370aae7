package auth

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"unicode"
	"unicode/utf8"
)

// fileBytesMax bounds both files: a million users take about 130 MB.
const fileBytesMax = 512 << 20

// userBytesMax is MQTT's bound of a user name.
const userBytesMax = 65535

// users are the lines of a password file: `NAME:PHC`.
type users struct {
	byName map[string]hashed
	list   []string // names in the order of the file
}

// CheckUser says what is wrong with a user name in a password file.
func CheckUser(name string) error {
	switch {
	case name == "":
		return errors.New("a user name is empty")
	case len(name) > userBytesMax:
		return fmt.Errorf("a user name has at most %d bytes", userBytesMax)
	case !utf8.ValidString(name):
		return errors.New("a user name is UTF-8")
	case strings.ContainsRune(name, ':'):
		return fmt.Errorf("user name %q holds a colon, which ends it in the file", name)
	case strings.HasPrefix(name, "#"):
		return fmt.Errorf("user name %q begins with #, which begins a comment in the file", name)
	case strings.TrimSpace(name) != name:
		return fmt.Errorf("user name %q begins or ends with a space", name)
	case strings.ContainsFunc(name, unicode.IsControl):
		return fmt.Errorf("user name %q holds a control character", name)
	}
	return nil
}

// parseUsers reads a password file. name is for messages.
func parseUsers(name string, data []byte) (*users, error) {
	u := &users{byName: make(map[string]hashed)}
	line := 0
	for text := range bytes.Lines(data) {
		line++
		s := strings.TrimRight(string(text), "\r\n")
		if strings.TrimSpace(s) == "" || s[0] == '#' {
			continue
		}
		user, phc, ok := strings.Cut(s, ":")
		if !ok {
			return nil, fmt.Errorf("%s:%d: want NAME:HASH as `sluice passwd` writes it", name, line)
		}
		if err := CheckUser(user); err != nil {
			return nil, fmt.Errorf("%s:%d: %w", name, line, err)
		}
		h, err := parsePHC(phc)
		if err != nil {
			return nil, fmt.Errorf("%s:%d: user %s: %w; `sluice passwd` makes such a line", name, line, user, err)
		}
		if _, dup := u.byName[user]; dup {
			return nil, fmt.Errorf("%s:%d: user %s is there twice", name, line, user)
		}
		u.byName[user] = h
		u.list = append(u.list, user)
	}
	return u, nil
}

func loadUsers(path string) (*users, error) {
	data, err := readFile(path)
	if err != nil {
		return nil, err
	}
	return parseUsers(path, data)
}

func readFile(path string) ([]byte, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is no regular file", path)
	}
	if st.Size() > fileBytesMax {
		return nil, fmt.Errorf("%s has %d bytes, more than the %d that are read", path, st.Size(), fileBytesMax)
	}
	return os.ReadFile(path)
}

// SetUser writes the line of user into the password file at path, in place of the one there is, and makes the file if need be.
// The file is replaced as a whole: a reader sees the old one or the new one.
func SetUser(path, user, phc string) (replaced bool, err error) {
	if err := CheckUser(user); err != nil {
		return false, err
	}
	if _, err := parsePHC(phc); err != nil {
		return false, err
	}
	return editUsers(path, user, user+":"+phc+"\n")
}

// RemoveUser takes the line of user out of the password file at path.
func RemoveUser(path, user string) error {
	found, err := editUsers(path, user, "")
	if err == nil && !found {
		return fmt.Errorf("user %s is not in %s", user, path)
	}
	return err
}

// editUsers replaces the line of user by text, or appends text; everything else stays as it is, comments included.
func editUsers(path, user, text string) (found bool, err error) {
	mode := fs.FileMode(0o600)
	data, err := readFile(path)
	switch {
	case err == nil:
		if _, err := parseUsers(path, data); err != nil {
			return false, err
		}
		if st, err := os.Stat(path); err == nil {
			mode = st.Mode().Perm()
		}
	case !errors.Is(err, fs.ErrNotExist):
		return false, err
	case text == "":
		return false, err
	}
	var out bytes.Buffer
	for line := range bytes.Lines(data) {
		if name, _, ok := strings.Cut(string(line), ":"); ok && name == user {
			found = true
			out.WriteString(text)
			continue
		}
		out.Write(line)
		if line[len(line)-1] != '\n' {
			out.WriteByte('\n')
		}
	}
	if !found {
		if text == "" {
			return false, nil
		}
		out.WriteString(text)
	}
	return found, replaceFile(path, out.Bytes(), mode)
}

func replaceFile(path string, data []byte, mode fs.FileMode) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), ".users-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	_, err = f.Write(data)
	if err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
