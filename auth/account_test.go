package auth

import (
	"errors"
	"maps"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/sluicemq/sluice/broker"
)

// fakeDirectory is a Directory that a test writes to.
type fakeDirectory struct {
	mu    sync.Mutex
	users map[string]Account
}

func (d *fakeDirectory) Account(name string) (Account, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	a, found := d.users[name]
	return a, found
}

func (d *fakeDirectory) Accounts() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.users)
}

func (d *fakeDirectory) set(name string, a Account) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.users = maps.Clone(d.users)
	if d.users == nil {
		d.users = make(map[string]Account)
	}
	d.users[name] = a
}

// accountOf makes what is stored of a password, cheaply.
func accountOf(t *testing.T, password string) Account {
	t.Helper()
	a := Account{Password: mustHash(t, password)}
	for _, m := range []string{SCRAMSHA256, SCRAMSHA512} {
		v, err := NewVerifier(m, []byte(password), 4096)
		if err != nil {
			t.Fatal(err)
		}
		if m == SCRAMSHA256 {
			a.SHA256 = &v
		} else {
			a.SHA512 = &v
		}
	}
	return a
}

// directoryBench is a bench with users in a directory, and such in the file.
func directoryBench(t *testing.T, users map[string]string) (*bench, *fakeDirectory) {
	t.Helper()
	b, d := newBench(t, users), &fakeDirectory{}
	b.o.Directory = d
	if err := b.Reload(b.o); err != nil {
		t.Fatal(err)
	}
	return b, d
}

func (b *bench) comesIn(t *testing.T, user, password string) error {
	t.Helper()
	_, err := b.Authenticate(t.Context(), creds(user, password))
	return err
}

// A user of the directory comes in by a password, whatever is stored of it; the file wins where both have a name.
func TestDirectory(t *testing.T) {
	b, d := directoryBench(t, map[string]string{"bob": "file"})
	all := accountOf(t, "right")
	d.set("ann", all)
	d.set("bob", accountOf(t, "directory"))
	d.set("sha256", Account{SHA256: all.SHA256})
	d.set("sha512", Account{SHA512: all.SHA512})
	d.set("none", Account{})
	d.set("off", Account{Disabled: true, Password: all.Password})
	d.set("off512", Account{Disabled: true, SHA512: all.SHA512})
	for _, user := range []string{"ann", "sha256", "sha512"} {
		if err := b.comesIn(t, user, "right"); err != nil {
			t.Errorf("%s: %v", user, err)
		}
	}
	for user, password := range map[string]string{"ann": "wrong", "sha256": "wrong", "none": "", "off": "right", "off512": "right", "bob": "directory", "eve": "right"} {
		if err := b.comesIn(t, user, password); !errors.Is(err, broker.ErrBadCredentials) {
			t.Errorf("%s with %q: %v", user, password, err)
		}
	}
	if err := b.comesIn(t, "bob", "file"); err != nil || !b.InFile("bob") || b.InFile("ann") || len(b.FileUsers()) != 1 {
		t.Errorf("bob is of the file: %v", err)
	}
}

// Whoever may not come in, for whatever reason, costs one hash of argon2id.
func TestRefusalCostsTheSame(t *testing.T) {
	b, d := directoryBench(t, map[string]string{"bob": "file"})
	all := accountOf(t, "right")
	d.set("ann", all)
	d.set("sha256", Account{SHA256: all.SHA256})
	d.set("none", Account{})
	d.set("off", Account{Disabled: true, Password: all.Password})
	for _, user := range []string{"ann", "bob", "sha256", "none", "off", "eve"} {
		before := b.hashed.Load()
		if err := b.comesIn(t, user, "wrong"); err == nil {
			t.Errorf("%s came in", user)
		}
		if n := b.hashed.Load() - before; n != 1 {
			t.Errorf("%s cost %d hashes", user, n)
		}
	}
}

// What changes of a user shows at once: nothing that was remembered of the old password counts, in either direction.
func TestDirectoryChanges(t *testing.T) {
	b, d := directoryBench(t, nil)
	old := accountOf(t, "old")
	d.set("ann", old)
	id, err := b.Authenticate(t.Context(), creds("ann", "old"))
	if err != nil || b.Recheck(&id, nil) != nil {
		t.Fatalf("%v, %v", err, b.Recheck(&id, nil))
	}
	more := old
	more.SHA512 = accountOf(t, "other").SHA512
	d.set("ann", more)
	if err := b.Recheck(&id, nil); err != nil {
		t.Errorf("has to go for a credential that it did not use: %v", err)
	}
	if err := b.comesIn(t, "ann", "new"); err == nil {
		t.Error("the new password came in early")
	}
	d.set("ann", accountOf(t, "new"))
	if err := b.comesIn(t, "ann", "old"); err == nil {
		t.Error("the old password came in")
	}
	if err := b.comesIn(t, "ann", "new"); err != nil {
		t.Errorf("the new password: %v", err)
	}
	if b.Recheck(&id, nil) == nil {
		t.Error("may stay by the old password")
	}
	d.set("ann", Account{Disabled: true, Password: old.Password})
	if err := b.comesIn(t, "ann", "old"); err == nil || b.Recheck(&id, nil) == nil {
		t.Error("disabled, and in")
	}
	d.set("ann", old)
	if err := b.comesIn(t, "ann", "old"); err != nil || b.Recheck(&id, nil) != nil {
		t.Errorf("enabled again: %v", err)
	}
	b.now = b.now.Add(time.Hour)
	d.mu.Lock()
	d.users = nil
	d.mu.Unlock()
	if b.Recheck(&id, nil) == nil || b.comesIn(t, "ann", "old") == nil {
		t.Error("gone, and in")
	}
}

// A user is changed while its password is hashed: the answer is by what it is then.
func TestDirectoryChangesDuringHash(t *testing.T) {
	b, d := directoryBench(t, nil)
	d.set("ann", accountOf(t, "one"))
	once := false
	b.hashes = func(h hashed, password []byte) bool {
		if !once {
			once = true
			d.set("ann", accountOf(t, "two"))
		}
		return h.verify(password)
	}
	if err := b.comesIn(t, "ann", "one"); !errors.Is(err, broker.ErrBadCredentials) {
		t.Errorf("the old password: %v", err)
	}
	if err := b.comesIn(t, "ann", "two"); err != nil {
		t.Errorf("the new password: %v", err)
	}
}

// Without a file, and as long as the directory is empty, a name means nothing.
func TestEmptyDirectory(t *testing.T) {
	d := &fakeDirectory{}
	p, err := New(Options{Anonymous: "everywhere", Directory: d})
	if err != nil {
		t.Fatal(err)
	}
	if id, err := p.Authenticate(t.Context(), creds("ann", "x")); err != nil || id.User != "" {
		t.Errorf("%+v, %v", id, err)
	}
	d.set("ann", accountOf(t, "right"))
	if _, err := p.Authenticate(t.Context(), creds("ann", "x")); !errors.Is(err, broker.ErrBadCredentials) {
		t.Errorf("wrong password: %v", err)
	}
	if id, err := p.Authenticate(t.Context(), creds("ann", "right")); err != nil || id.User != "ann" {
		t.Errorf("%+v, %v", id, err)
	}
}

func TestNewAccount(t *testing.T) {
	a, err := NewAccount([]byte("right"))
	if err != nil || a.Password == "" || !a.SHA256.verify([]byte("right")) || !a.SHA512.verify([]byte("right")) || a.SHA256.verify([]byte("wrong")) {
		t.Errorf("%+v, %v", a, err)
	}
	if _, err := NewAccount(nil); err == nil {
		t.Error("an empty password")
	}
	if _, err := NewVerifier("SCRAM-SHA-1", []byte("x"), 4096); err == nil {
		t.Error("SHA-1")
	}
}

// The file may go: its users are gone, the directory's stay.
func TestFileGoes(t *testing.T) {
	b, d := directoryBench(t, map[string]string{"bob": "file"})
	d.set("ann", accountOf(t, "right"))
	bob, err := b.Authenticate(t.Context(), creds("bob", "file"))
	if err != nil {
		t.Fatal(err)
	}
	_ = os.Remove(b.o.PasswordFile)
	b.o.PasswordFile = ""
	if err := b.Reload(b.o); err != nil {
		t.Fatal(err)
	}
	if b.Recheck(&bob, nil) == nil || b.comesIn(t, "bob", "file") == nil || b.InFile("bob") || b.FileUsers() != nil {
		t.Error("bob is still there")
	}
	if err := b.comesIn(t, "ann", "right"); err != nil {
		t.Error(err)
	}
}
