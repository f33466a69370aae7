package auth

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// cheap keeps tests fast; the least that argon2 takes.
var cheap = Params{MemoryKiB: 8, Time: 1, Threads: 1}

func mustHash(t testing.TB, password string) string {
	t.Helper()
	s, err := Hash([]byte(password), cheap)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestHashRoundTrip(t *testing.T) {
	s := mustHash(t, "secret")
	h, err := parsePHC(s)
	if err != nil {
		t.Fatal(err)
	}
	if h.String() != s {
		t.Errorf("%s became %s", s, h)
	}
	if !h.verify([]byte("secret")) || h.verify([]byte("Secret")) || h.verify(nil) {
		t.Error("verify took a wrong password or refused the right one")
	}
	if mustHash(t, "secret") == s {
		t.Error("two hashes of one password are the same: no salt")
	}
	if _, err := Hash(nil, cheap); err == nil {
		t.Error("an empty password was hashed")
	}
}

// The vector is argon2's own command: echo -n password | argon2 somesalt -id -t 2 -m 16 -p 1 -l 32 gives the hash below.
func TestKnownVector(t *testing.T) {
	h, err := parsePHC("$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc")
	if err != nil {
		t.Fatal(err)
	}
	if !h.verify([]byte("password")) {
		t.Error("the reference implementation's hash was not verified")
	}
}

// The line is one of mosquitto_passwd's: `ada:$7$101$u1HnVOCUE3yunvPa...` of the password `secret`, in this file's form.
func TestPBKDF2(t *testing.T) {
	const line = "$pbkdf2-sha512$i=101$u1HnVOCUE3yunvPa$mFUONaGxfEW8XrPrxuZ7eeG01Lqzk/mmU9eZMN9ULh5Ki5bZq/gf/4B8bDo9/ODiuN58r+G10qhIbXIYYavDjQ"
	h, err := parsePHC(line)
	if err != nil || h.String() != line {
		t.Fatalf("%v, %v", h, err)
	}
	if !h.verify([]byte("secret")) || h.verify([]byte("Secret")) || h.verify(nil) {
		t.Error("verify took a wrong password or refused the right one")
	}
	for _, bad := range []string{"$pbkdf2-sha512$i=0$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc", "$pbkdf2-sha512$i=2000000$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc",
		"$pbkdf2-sha512$i=01$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc", "$pbkdf2-sha512$i=1$c29tZXNhbHQ", "$pbkdf2-sha512$i=1$c2E$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc"} {
		if _, err := parsePHC(bad); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

func TestParsePHCRefuses(t *testing.T) {
	const salt, sum = "c29tZXNhbHQ", "CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc"
	for _, s := range []string{
		"", "secret", "$argon2i$v=19$m=8,t=1,p=1$" + salt + "$" + sum, "$argon2id$v=16$m=8,t=1,p=1$" + salt + "$" + sum,
		"$argon2id$v=19$m=8,t=1$" + salt + "$" + sum, "$argon2id$v=19$t=1,m=8,p=1$" + salt + "$" + sum,
		"$argon2id$v=19$m=4294967295,t=1,p=1$" + salt + "$" + sum, "$argon2id$v=19$m=8,t=0,p=1$" + salt + "$" + sum,
		"$argon2id$v=19$m=8,t=1,p=0$" + salt + "$" + sum, "$argon2id$v=19$m=8,t=1,p=256$" + salt + "$" + sum,
		"$argon2id$v=19$m=08,t=1,p=1$" + salt + "$" + sum, "$argon2id$v=19$m=8,t=1,p=1$c2E$" + sum,
		"$argon2id$v=19$m=8,t=1,p=1$" + salt + "$YWJj", "$argon2id$v=19$m=8,t=1,p=1$" + salt + "$" + sum + "$x",
		"$argon2id$v=19$m=1048576,t=64,p=1$" + salt + "$" + sum,
	} {
		if _, err := parsePHC(s); err == nil {
			t.Errorf("%q was taken", s)
		}
	}
}

func TestUsersFileErrorsSayWhere(t *testing.T) {
	line := mustHash(t, "x")
	for in, want := range map[string]string{
		"bob":                             "users:1: want NAME:HASH",
		"# c\n\nbob:plain":                "users:3: user bob: want $argon2id$",
		"bob:" + line + "\nbob:" + line:   "users:2: user bob is there twice",
		":" + line:                        "a user name is empty",
		" bob:" + line:                    "begins or ends with a space",
		"b\x01b:" + line:                  "control character",
		"ok:" + line + "\r\n\xff:" + line: "users:2: a user name is UTF-8",
	} {
		if _, err := parseUsers("users", []byte(in)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q", in, err, want)
		}
	}
}

func TestSetUser(t *testing.T) {
	path := filepath.Join(t.TempDir(), "users")
	set := func(user, phc string, want bool) {
		t.Helper()
		if got, err := SetUser(path, user, phc); err != nil || got != want {
			t.Fatalf("SetUser(%s) = %v, %v", user, got, err)
		}
	}
	one, two := mustHash(t, "1"), mustHash(t, "2")
	set("bob", one, false)
	if err := os.WriteFile(path, []byte("# kept\nbob:"+one), 0o640); err != nil {
		t.Fatal(err)
	}
	set("eve", two, false)
	set("bob", two, true)
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if want := "# kept\nbob:" + two + "\neve:" + two + "\n"; string(got) != want {
		t.Errorf("file is\n%swant\n%s", got, want)
	}
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o640 && st.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", st.Mode(), err)
	}
	if err := RemoveUser(path, "bob"); err != nil {
		t.Fatal(err)
	}
	if err := RemoveUser(path, "bob"); err == nil {
		t.Error("a user that is not there was removed")
	}
	if _, err := SetUser(path, "a:b", one); err == nil {
		t.Error("a name with a colon was taken")
	}
	if _, err := SetUser(path, "a", "plain"); err == nil {
		t.Error("a plain password was written")
	}
}

func FuzzUsers(f *testing.F) {
	f.Add([]byte("# users\nbob:$argon2id$v=19$m=8,t=1,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		u, err := parseUsers("users", data)
		if err != nil {
			return
		}
		for name, h := range u.byName {
			again, err := parsePHC(h.String())
			if err != nil || again != h {
				t.Errorf("%s: %v became %v, %v", name, h, again, err)
			}
		}
	})
}
