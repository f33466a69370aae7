package mosquitto

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"strconv"
	"strings"

	"github.com/sluicemq/sluice/auth"
)

// users makes the password file.
func (t *translation) users() error {
	at := t.only(func(s *listener) *line { return s.passwords })
	if at == nil {
		return nil
	}
	data, err := readFile(at.value)
	if err != nil {
		return fmt.Errorf("%s:%d: %w", at.file, at.at, err)
	}
	var out bytes.Buffer
	seen := map[string]bool{}
	for i, text := range textLines(data) {
		if strings.TrimSpace(text) == "" || text[0] == '#' {
			continue
		}
		name, hash, _ := strings.Cut(text, ":")
		l := &line{file: at.value, at: i + 1, name: name}
		phc, why := storedPassword(hash)
		if err := auth.CheckUser(name); err != nil {
			why = err.Error()
		} else if seen[name] {
			why = "the user is there twice; the first line counts"
		}
		if why != "" {
			t.note(Lost, l, "%s", why)
			continue
		}
		seen[name] = true
		t.out.Users++
		fmt.Fprintf(&out, "%s:%s\n", name, phc)
	}
	t.set["auth.password_file"] = quote(t.file("users", out.Bytes()))
	return nil
}

// newPassword is what becomes of a user whose hash cannot be taken over.
const newPassword = "the user needs a new password: `sluice passwd --file users NAME`"

// storedPassword says a hash of mosquitto_passwd in the form of this program's password file, or why that cannot be.
func storedPassword(hash string) (phc, why string) {
	fields := strings.Split(hash, "$")
	switch {
	case strings.HasPrefix(hash, "$argon2id$"):
		phc = strings.ReplaceAll(hash, "=$", "$")
		phc = strings.TrimRight(phc, "=")
	case strings.HasPrefix(hash, "$7$") && len(fields) == 5:
		iterations, err := strconv.Atoi(fields[2])
		salt, errSalt := base64.StdEncoding.DecodeString(fields[3])
		sum, errSum := base64.StdEncoding.DecodeString(fields[4])
		if err != nil || errSalt != nil || errSum != nil {
			return "", "the hash cannot be read; " + newPassword
		}
		b64 := base64.RawStdEncoding
		phc = fmt.Sprintf("$pbkdf2-sha512$i=%d$%s$%s", iterations, b64.EncodeToString(salt), b64.EncodeToString(sum))
	case strings.HasPrefix(hash, "$6$"):
		return "", "its hash is one round of SHA-512, which is not taken; " + newPassword
	case hash == "":
		return "", "it has no password; " + newPassword
	default:
		return "", "its password stands there as it is, or in a form that is not known; " + newPassword
	}
	if err := auth.CheckHash(phc); err != nil {
		return "", fmt.Sprintf("%v; %s", err, newPassword)
	}
	return phc, ""
}
