package meta

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
)

// fakeGroup applies what it is proposed, at once or when the test says so, and keeps it as a log.
type fakeGroup struct {
	c      *Catalog
	log    [][]Entry
	fail   func(changes []Entry) error // may be nil
	held   bool
	queued []func()
}

func (g *fakeGroup) Propose(_ uint64, changes []Entry, done func(error)) {
	work := func() {
		if g.fail != nil {
			if err := g.fail(changes); err != nil {
				done(err)
				return
			}
		}
		g.log = append(g.log, changes)
		g.c.Apply(0, changes)
		done(nil)
	}
	if g.held {
		g.queued = append(g.queued, work)
		return
	}
	work()
}

// step runs what was proposed first.
func (g *fakeGroup) step() bool {
	if len(g.queued) == 0 {
		return false
	}
	work := g.queued[0]
	g.queued = g.queued[1:]
	work()
	return true
}

func newCatalog(t *testing.T) (*Catalog, *fakeGroup) {
	t.Helper()
	g := &fakeGroup{}
	g.c = New(g)
	if err := g.c.Recovered(); err != nil {
		t.Fatal(err)
	}
	return g.c, g
}

func credential(m Mechanism, fill string) Credential {
	return Credential{Mechanism: m, Iterations: 4096, Salt: "salt", StoredKey: strings.Repeat(fill, m.Size()), ServerKey: strings.Repeat(fill, m.Size())}
}

func one(e Entry) func(*Snapshot) ([]Entry, error) {
	return func(*Snapshot) ([]Entry, error) { return []Entry{e}, nil }
}

func update1(t *testing.T, c *Catalog, change func(*Snapshot) ([]Entry, error)) error {
	t.Helper()
	err := errors.New("not answered")
	c.Update(change, func(e error) { err = e })
	return err
}

func TestUserEncoding(t *testing.T) {
	u := &User{Name: "plant/1", Disabled: true, Password: "$argon2id$x", SCRAM: []Credential{credential(SCRAMSHA256, "a"), credential(SCRAMSHA512, "b")}}
	e := u.Entry()
	k, name, v, err := e.decode()
	if got, _ := v.(*User); err != nil || k != kindUser || name != u.Name || got == nil || fmt.Sprint(*got) != fmt.Sprint(*u) {
		t.Fatalf("%v %q %v %v", k, name, v, err)
	}
	for n := range len(e.Value) {
		cut := Entry{e.Key, e.Value[:n]}
		if _, _, _, err := cut.decode(); err == nil {
			t.Errorf("%d bytes of %d pass", n, len(e.Value))
		}
	}
	long := Entry{e.Key, append(slices.Clone(e.Value), 0)}
	if _, _, _, err := long.decode(); !errors.Is(err, ErrEntry) {
		t.Errorf("a byte too many: %v", err)
	}
}

func TestCredentials(t *testing.T) {
	u := &User{Name: "a"}
	b := u.WithCredential(credential(SCRAMSHA512, "1")).WithCredential(credential(SCRAMSHA256, "2")).WithCredential(credential(SCRAMSHA512, "3"))
	if len(u.SCRAM) != 0 || len(b.SCRAM) != 2 || b.SCRAM[0].Mechanism != SCRAMSHA256 || b.Credential(SCRAMSHA512).Salt != "salt" || b.SCRAM[1].StoredKey[0] != '3' {
		t.Errorf("%v", b)
	}
	if d := b.WithoutCredential(SCRAMSHA256); len(d.SCRAM) != 1 || len(b.SCRAM) != 2 || d.Credential(SCRAMSHA256) != nil {
		t.Errorf("%v", d)
	}
	for name, change := range map[string]func(*Credential){
		"mechanism":  func(c *Credential) { c.Mechanism = 3 },
		"iterations": func(c *Credential) { c.Iterations = 4095 },
		"more":       func(c *Credential) { c.Iterations = 16385 },
		"salt":       func(c *Credential) { c.Salt = "" },
		"stored":     func(c *Credential) { c.StoredKey = "x" },
		"server":     func(c *Credential) { c.ServerKey = "" },
	} {
		c := credential(SCRAMSHA256, "x")
		change(&c)
		e := (&User{Name: "a", SCRAM: []Credential{c}}).Entry()
		if _, _, _, err := e.decode(); !errors.Is(err, ErrEntry) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, name := range []string{strings.Repeat("x", UserNameMax+1), "a\x00b", "\xff"} {
		if CheckUserName(name) == nil {
			t.Errorf("%q is a name", name)
		}
	}
}

// What a program does not know it refuses by name when it starts; what it is asked to write, at once.
func TestUnknownEntries(t *testing.T) {
	for key, want := range map[string]error{"user/a": ErrVersion, "cow/a": ErrKind, "user": ErrKind, "user/": ErrKind} {
		c := New(&fakeGroup{})
		c.Apply(0, []Entry{{key, []byte{99, 1}}})
		if err := c.Recovered(); !errors.Is(err, want) || !strings.Contains(err.Error(), key[:3]) {
			t.Errorf("%s: %v", key, err)
		}
		c, g := newCatalog(t)
		if err := update1(t, c, one(Entry{key, []byte{99}})); !errors.Is(err, want) || len(g.log) != 0 {
			t.Errorf("%s written: %v", key, err)
		}
	}
}

// Subscribers hear of every change in order, and of nothing after they have cancelled.
func TestSubscribe(t *testing.T) {
	c, _ := newCatalog(t)
	var heard []string
	last := c.Load()
	cancel := c.Subscribe(func(old, now *Snapshot) {
		if old != last || c.Load() != now || now.Generation() != old.Generation()+1 {
			t.Error("snapshots are not in order")
		}
		last = now
		ChangedUsers(old, now, func(name string) { heard = append(heard, name) })
		if BindingsChanged(old, now) {
			heard = append(heard, "bindings")
		}
	})
	for _, e := range []Entry{(&User{Name: "a"}).Entry(), (&User{Name: "b"}).Entry(), (&User{Name: "a", Disabled: true}).Entry(), DeleteUser("b"),
		(&Binding{Filter: "x/#", Topic: "t", Key: "level:1"}).Entry(), DeleteUser("never")} {
		if err := update1(t, c, one(e)); err != nil {
			t.Fatal(err)
		}
	}
	cancel()
	if err := update1(t, c, one(DeleteUser("a"))); err != nil {
		t.Fatal(err)
	}
	if want := []string{"a", "b", "a", "b", "bindings"}; !slices.Equal(heard, want) {
		t.Errorf("%v, expected %v", heard, want)
	}
	if b := c.Load().Binding("x/#"); b == nil || b.Topic != "t" || b.Key != "level:1" || b.Deliver != "" {
		t.Errorf("%v", b)
	}
	if last.User("a") == nil || c.Load().User("a") != nil {
		t.Error("an old snapshot has changed, or the new one has not")
	}
}

// Updates are made on what those before have made, though they wait together and go into one command.
func TestUpdatesTogether(t *testing.T) {
	c, g := newCatalog(t)
	g.held = true
	var done []string
	add := func(name string, change func(*Snapshot) ([]Entry, error)) {
		c.Update(change, func(err error) { done = append(done, fmt.Sprint(name, " ", err)) })
	}
	add("first", one((&User{Name: "a"}).Entry()))
	refused := errors.New("refused")
	for i, m := range []Mechanism{SCRAMSHA256, SCRAMSHA512} {
		add(fmt.Sprint(i), func(s *Snapshot) ([]Entry, error) {
			return []Entry{s.User("a").WithCredential(credential(m, "x")).Entry()}, nil
		})
	}
	add("no", func(*Snapshot) ([]Entry, error) { return nil, refused })
	add("nothing", func(*Snapshot) ([]Entry, error) { return nil, nil })
	for g.step() {
	}
	if want := []string{"first <nil>", "no refused", "0 <nil>", "1 <nil>", "nothing <nil>"}; !slices.Equal(done, want) {
		t.Errorf("%q, expected %q", done, want)
	}
	if len(g.log) != 2 || len(c.Load().User("a").SCRAM) != 2 {
		t.Errorf("%d commands, %v", len(g.log), c.Load().User("a"))
	}
}

// When a command of several fails, each is tried alone, and only the one that is the reason fails.
func TestUpdatesFailAlone(t *testing.T) {
	c, g := newCatalog(t)
	full := errors.New("full")
	g.fail = func(changes []Entry) error {
		if slices.ContainsFunc(changes, func(e Entry) bool { return strings.HasSuffix(e.Key, "/bad") }) {
			return full
		}
		return nil
	}
	g.held = true
	errs := map[string]error{}
	for _, name := range []string{"a", "b", "bad", "c"} {
		c.Update(one((&User{Name: name}).Entry()), func(err error) { errs[name] = err })
	}
	for g.step() {
	}
	if want := map[string]error{"a": nil, "b": nil, "bad": full, "c": nil}; !maps.Equal(errs, want) {
		t.Errorf("%v", errs)
	}
	if c.Load().UserCount() != 3 || c.Load().User("bad") != nil {
		t.Errorf("%d users", c.Load().UserCount())
	}
}

// The bound holds, and a full queue empties.
func TestUpdatesBounded(t *testing.T) {
	c, g := newCatalog(t)
	g.held = true
	busy, ok := 0, 0
	for i := range updatesMax + 10 {
		c.Update(one((&User{Name: fmt.Sprint("u", i)}).Entry()), func(err error) {
			if errors.Is(err, ErrBusy) {
				busy++
			} else if err == nil {
				ok++
			}
		})
	}
	for g.step() {
	}
	if busy != 9 || ok != updatesMax+1 || c.Load().UserCount() != ok {
		t.Errorf("%d were refused, %d came in", busy, ok)
	}
}

// Any history gives what a plain map gives, in the catalog that lived through it and in one that recovers from the log.
func TestCatalogModel(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 7))
	c, g := newCatalog(t)
	want := map[string]bool{}
	for range 2000 {
		name := fmt.Sprint("u", r.IntN(500))
		change := one(DeleteUser(name))
		if r.IntN(3) > 0 {
			u := &User{Name: name, Disabled: r.IntN(2) == 0}
			want[name], change = u.Disabled, one(u.Entry())
		} else {
			delete(want, name)
		}
		if err := update1(t, c, change); err != nil {
			t.Fatal(err)
		}
	}
	again := New(&fakeGroup{})
	for _, changes := range g.log {
		again.Apply(0, changes)
	}
	if again.Load().UserCount() != 0 {
		t.Error("users before recovery has ended")
	}
	if err := again.Recovered(); err != nil {
		t.Fatal(err)
	}
	for i, c := range []*Catalog{c, again} {
		got, last := map[string]bool{}, ""
		for name, u := range c.Load().Users() {
			if name <= last || u.Name != name {
				t.Errorf("%q behind %q", name, last)
			}
			got[name], last = u.Disabled, name
		}
		if !maps.Equal(got, want) || c.Load().UserCount() != len(want) {
			t.Errorf("catalog %d: %d users, expected %d", i, len(got), len(want))
		}
	}
}

// Readers and updates from many goroutines; each update sees what those before it made.
func TestUpdatesRace(t *testing.T) {
	c, _ := newCatalog(t)
	c.group = &lockedGroup{c: c}
	var wg sync.WaitGroup
	for range 8 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for range 100 {
				answered := make(chan error, 1)
				c.Update(func(s *Snapshot) ([]Entry, error) {
					n := s.UserCount()
					return []Entry{(&User{Name: fmt.Sprint(n)}).Entry()}, nil
				}, func(err error) { answered <- err })
				if err := <-answered; err != nil {
					t.Error(err)
				}
				c.Load().User("7")
			}
		}()
	}
	wg.Wait()
	if n := c.Load().UserCount(); n != 800 {
		t.Errorf("%d users: updates did not see each other", n)
	}
}

// lockedGroup applies on a goroutine of its own for each command.
type lockedGroup struct {
	c *Catalog
	sync.Mutex
}

func (g *lockedGroup) Propose(_ uint64, changes []Entry, done func(error)) {
	go func() {
		g.Lock()
		g.c.Apply(0, changes)
		g.Unlock()
		done(nil)
	}()
}

func FuzzEntry(f *testing.F) {
	f.Add("user/a", (&User{Name: "a", SCRAM: []Credential{credential(SCRAMSHA256, "x")}}).Entry().Value)
	f.Add("binding/x/#", (&Binding{Filter: "x/#", Topic: "t"}).Entry().Value)
	acl := (&ACL{Resource: 2, Pattern: 3, Operation: 3, Permission: 3, Name: "t", Principal: "User:a", Host: "*"}).Entry()
	quota := (&Quota{IP: QuotaName{Kind: QuotaDefault}, Values: []QuotaValue{{"connection_creation_rate", 5}}}).Entry()
	f.Add(acl.Key, acl.Value)
	f.Add(quota.Key, quota.Value)
	f.Fuzz(func(t *testing.T, key string, value []byte) {
		e := Entry{key, value}
		_, _, v, err := e.decode()
		if err != nil || v == nil {
			return
		}
		again := v.(interface{ Entry() Entry }).Entry()
		if _, _, w, err := again.decode(); err != nil || fmt.Sprintf("%v", w) != fmt.Sprintf("%v", v) {
			t.Errorf("%v is %v the second time: %v", v, w, err)
		}
	})
}
