// Package tiertest is the contract of tier.Store as tests: Run must pass for every store. It owns the faulting network between a store
// and its server (Net), and never knows which store it tests. Its neighbours are the tests of the stores.
//
//nolint:thelper // what takes a testing.T here are the tests themselves
package tiertest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/sluicemq/sluice/journal/tier"
)

// Env is a store under test.
type Env struct {
	// Open opens the store anew on one place that stays the same during a test, and that is empty at its first call in a test. Handles are
	// closed at the end of the test by whoever called.
	Open func(t testing.TB) tier.Store
	// OpenVia does the same with all connections made by n; nil: the store has none.
	OpenVia func(t testing.TB, n *Net) tier.Store
	// OpenDenied opens it with credentials that are wrong; nil: there are none. The error may be of the opening or of the first use.
	OpenDenied func(t testing.TB) (tier.Store, error)
	// OpenUnreachable opens it where nothing answers; nil: it needs nothing. As OpenDenied.
	OpenUnreachable func(t testing.TB) (tier.Store, error)
	// NoIfAbsent: the store is one that answers ErrUnsupported.
	NoIfAbsent bool
	// NoTimes: the store has no clock.
	NoTimes bool
	// Big is the size of the largest object put; 0: 24 MiB.
	Big int64
	// Many is how many objects are listed over several pages; 0: 2100.
	Many int
	// Memory is what a Put and a Get of it may take; 0: 40 MiB.
	Memory int64
}

// Run runs what of the contract applies to the store as subtests.
func Run(t *testing.T, env Env) {
	t.Helper()
	if env.Big == 0 {
		env.Big = 24 << 20
	}
	if env.Many == 0 {
		env.Many = 2100
	}
	if env.Memory == 0 {
		env.Memory = 40 << 20
	}
	for _, c := range []struct {
		name    string
		test    func(*testing.T, Env)
		without bool // the store has nothing of the kind
	}{
		{"PutGetStat", testPutGetStat, false},
		{"Ranges", testRanges, false},
		{"Replace", testReplace, false},
		{"Delete", testDelete, false},
		{"Names", testNames, false},
		{"IfAbsent", testIfAbsent, false},
		{"IfAbsentRace", testIfAbsentRace, env.NoIfAbsent},
		{"PutRace", testPutRace, false},
		{"Sizes", testSizes, false},
		{"Big", testBig, false},
		{"BigIfAbsent", testBigIfAbsent, env.NoIfAbsent},
		{"ListPages", testListPages, false},
		{"ListPrefix", testListPrefix, false},
		{"ListMany", testListMany, false},
		{"ListWhileChanged", testListWhileChanged, false},
		{"CanceledPut", testCanceledPut, false},
		{"CanceledGet", testCanceledGet, false},
		{"Sweep", testSweep, false},
		{"ManyReaders", testManyReaders, false},
		{"Denied", testDenied, env.OpenDenied == nil},
		{"Unreachable", testUnreachable, env.OpenUnreachable == nil},
		{"CutPut", testCutPut, env.OpenVia == nil},
		{"CutGet", testCutGet, env.OpenVia == nil},
		{"Stalled", testStalled, env.OpenVia == nil},
		{"Slow", testSlow, env.OpenVia == nil},
		{"Comeback", testComeback, env.OpenVia == nil},
	} {
		if !c.without {
			t.Run(c.name, func(t *testing.T) { c.test(t, env) })
		}
	}
}

// patience is longer than any call should take on a busy machine.
const patience = 60 * time.Second

func background(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

func open(t testing.TB, env Env) tier.Store {
	t.Helper()
	return closing(t, env.Open(t))
}

func closing(t testing.TB, s tier.Store) tier.Store {
	t.Helper()
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return s
}

// content gives size bytes that seed decides.
func content(seed uint64, size int64) []byte {
	b := make([]byte, size)
	if _, err := io.ReadFull(stream(seed), b); err != nil {
		panic(err)
	}
	return b
}

// stream gives the bytes of content without end.
func stream(seed uint64) io.Reader {
	return rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16)})
}

func put(t testing.TB, s tier.Store, name string, b []byte) {
	t.Helper()
	if err := s.Put(background(t), name, bytes.NewReader(b), int64(len(b)), tier.PutOptions{}); err != nil {
		t.Fatalf("put %s: %v", name, err)
	}
}

func get(ctx context.Context, s tier.Store, name string, r tier.Range) ([]byte, tier.Info, error) {
	body, info, err := s.Get(ctx, name, r)
	if err != nil {
		return nil, info, err
	}
	b, err := io.ReadAll(body)
	return b, info, errors.Join(err, body.Close())
}

func mustGet(t testing.TB, s tier.Store, name string, r tier.Range, want []byte) {
	t.Helper()
	b, _, err := get(background(t), s, name, r)
	if err != nil {
		t.Fatalf("get %s %+v: %v", name, r, err)
	}
	if !bytes.Equal(b, want) {
		t.Fatalf("get %s %+v: %d bytes that differ from the %d put", name, r, len(b), len(want))
	}
}

func mustBe(t testing.TB, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("%s: %v, not %v", what, err, want)
	}
	var e *tier.Error
	if !errors.As(err, &e) {
		t.Fatalf("%s: %v is no *tier.Error", what, err)
	}
}

func mustBeAbsent(t testing.TB, s tier.Store, name string) {
	t.Helper()
	_, err := s.Stat(background(t), name)
	mustBe(t, "stat "+name, err, tier.ErrNotFound)
	_, _, err = s.Get(background(t), name, tier.Range{})
	mustBe(t, "get "+name, err, tier.ErrNotFound)
	page, _, err := s.List(background(t), name, "", 0)
	if err != nil || len(page) > 0 {
		t.Fatalf("list %s: %v, %v", name, page, err)
	}
}

func testPutGetStat(t *testing.T, env Env) {
	s := open(t, env)
	from := time.Now()
	for _, size := range []int64{0, 1, 511, 4096, 100_000} {
		name := "t1/0003/obj-" + string(rune('a'+size%26))
		b := content(uint64(size), size)
		mustBeAbsent(t, s, name)
		put(t, s, name, b)
		// Another handle sees it at once.
		mustGet(t, open(t, env), name, tier.Range{}, b)
		info, err := s.Stat(background(t), name)
		if err != nil || info.Size != size || info.Name != name {
			t.Fatalf("stat: %+v, %v", info, err)
		}
		if d := info.ModTime.Sub(from); !env.NoTimes && (d < -time.Minute || d > 10*time.Minute) {
			t.Errorf("put at %v, and it is %v", info.ModTime, from)
		}
		page, more, err := s.List(background(t), name, "", 0)
		if err != nil || more || len(page) != 1 || page[0].Size != size || page[0].Name != name {
			t.Fatalf("list: %+v, %v, %v", page, more, err)
		}
	}
}

func testRanges(t *testing.T, env Env) {
	s := open(t, env)
	b := content(7, 1000)
	put(t, s, "r/full", b)
	put(t, s, "r/empty", nil)
	for _, r := range []tier.Range{{}, {Off: 1}, {Len: 1}, {Off: 10, Len: 20}, {Off: 990, Len: 100}, {Off: 999}, {Off: 999, Len: 1}, {Off: 1000}, {Off: 1000, Len: 5},
		{Off: -1}, {Off: -10, Len: 3}, {Off: -1000}, {Off: -5000}, {Off: -5000, Len: 10}, {Len: 1000}, {Len: 1 << 40}} {
		off, n, err := r.In(1000)
		if err != nil {
			t.Fatal(err)
		}
		mustGet(t, s, "r/full", r, b[off:off+n])
		_, info, err := get(background(t), s, "r/full", r)
		if err != nil || info.Size != 1000 || info.Name != "r/full" {
			t.Errorf("get %+v tells %+v, %v", r, info, err)
		}
	}
	for _, r := range []tier.Range{{Off: 1001}, {Off: 1 << 40}, {Len: -1}, {Off: 5, Len: -1}} {
		_, _, err := s.Get(background(t), "r/full", r)
		mustBe(t, "get behind the end", err, tier.ErrRange)
	}
	for _, r := range []tier.Range{{}, {Len: 10}, {Off: -1}, {Off: -10, Len: 3}} {
		mustGet(t, s, "r/empty", r, nil)
	}
	_, _, err := s.Get(background(t), "r/empty", tier.Range{Off: 1})
	mustBe(t, "get behind an empty one", err, tier.ErrRange)
}

func testReplace(t *testing.T, env Env) {
	s := open(t, env)
	for i, size := range []int64{5000, 10, 0, 70_000} {
		b := content(uint64(i), size)
		put(t, s, "replace/me", b)
		mustGet(t, s, "replace/me", tier.Range{}, b)
	}
}

func testDelete(t *testing.T, env Env) {
	s := open(t, env)
	for _, name := range []string{"d/none", "d"} {
		if err := s.Delete(background(t), name); err != nil {
			t.Fatalf("delete of nothing: %v", err)
		}
	}
	put(t, s, "d/a/1", content(1, 100))
	put(t, s, "d/a/2", content(2, 100))
	for range 2 {
		if err := s.Delete(background(t), "d/a/1"); err != nil {
			t.Fatal(err)
		}
		mustBeAbsent(t, s, "d/a/1")
	}
	// A folder is no object.
	if err := s.Delete(background(t), "d/a"); err != nil {
		t.Fatal(err)
	}
	mustGet(t, s, "d/a/2", tier.Range{}, content(2, 100))
	if err := s.Delete(background(t), "d/a/2"); err != nil {
		t.Fatal(err)
	}
	put(t, s, "d/a/3", content(3, 100))
	mustGet(t, open(t, env), "d/a/3", tier.Range{}, content(3, 100))
}

func testNames(t *testing.T, env Env) {
	s := open(t, env)
	long := string(bytes.Repeat([]byte("x"), tier.MaxSegment))
	for _, name := range []string{"a.b", "a+b=c_d-E", "00000001/0003/0000000a-000000000000002f", "n/" + long, long + "/" + long} {
		put(t, s, name, []byte(name[:1]))
		mustGet(t, s, name, tier.Range{}, []byte(name[:1]))
	}
	for _, name := range []string{"", "/", "/a", "a/", "a//b", ".a", "a/.b", "..", "a/../b", "a b", "a\x00b", "a%2fb", "a\\b", "ä", "a~", long + "x",
		string(bytes.Repeat([]byte("y/"), tier.MaxName/2)) + "y"} {
		mustBe(t, "put "+name, s.Put(background(t), name, bytes.NewReader(nil), 0, tier.PutOptions{}), tier.ErrName)
		_, _, err := s.Get(background(t), name, tier.Range{})
		mustBe(t, "get "+name, err, tier.ErrName)
		_, err = s.Stat(background(t), name)
		mustBe(t, "stat "+name, err, tier.ErrName)
		mustBe(t, "delete "+name, s.Delete(background(t), name), tier.ErrName)
	}
}

func testSizes(t *testing.T, env Env) {
	s := open(t, env)
	// A source that is cut says io.ErrUnexpectedEOF: as io.ReadFull does at its end.
	for _, boom := range []error{errors.New("the source failed"), io.ErrUnexpectedEOF} {
		testSourceFails(t, s, boom)
	}
	for _, size := range []int64{0, 10, 9 << 20} {
		b := content(3, size)
		if size > 0 {
			err := s.Put(background(t), "sizes/short", bytes.NewReader(b[:size-1]), size, tier.PutOptions{})
			mustBe(t, "short", err, tier.ErrSize)
		}
		err := s.Put(background(t), "sizes/long", bytes.NewReader(append(b, 1)), size, tier.PutOptions{})
		mustBe(t, "long", err, tier.ErrSize)
	}
	mustBeAbsent(t, s, "sizes/short")
	mustBeAbsent(t, s, "sizes/long")
	mustBe(t, "negative", s.Put(background(t), "sizes/negative", bytes.NewReader(nil), -1, tier.PutOptions{}), tier.ErrSize)
	// What is there stays there.
	put(t, s, "sizes/kept", []byte("kept"))
	mustBe(t, "short", s.Put(background(t), "sizes/kept", bytes.NewReader([]byte("x")), 2, tier.PutOptions{}), tier.ErrSize)
	mustGet(t, s, "sizes/kept", tier.Range{}, []byte("kept"))
}

func testSourceFails(t *testing.T, s tier.Store, boom error) {
	t.Helper()
	for _, size := range []int64{10, 9 << 20} {
		for _, at := range []int64{0, size / 2, size - 1, size} {
			err := s.Put(background(t), "sizes/short", io.MultiReader(io.LimitReader(stream(3), at), &failing{boom}), size, tier.PutOptions{})
			mustBe(t, "failing source", err, boom)
			if tier.Temporary(err) {
				t.Errorf("an error of the source is taken for the store's: %v", err)
			}
			mustBeAbsent(t, s, "sizes/short")
		}
	}
}

type failing struct{ err error }

func (f *failing) Read([]byte) (int, error) { return 0, f.err }

func testSweep(t *testing.T, env Env) {
	s := open(t, env)
	sw, ok := s.(tier.Sweeper)
	if !ok {
		t.Skip("nothing is left behind by this store")
	}
	put(t, s, "sweep/a", content(1, 100))
	for range 2 {
		err := s.Put(background(t), "sweep/b", io.MultiReader(bytes.NewReader(content(2, 6<<20)), &failing{errors.New("x")}), 12<<20, tier.PutOptions{})
		if err == nil {
			t.Fatal("a failing source was put")
		}
		if _, err := sw.Sweep(background(t), 24*time.Hour); err != nil {
			t.Fatal(err)
		}
	}
	mustGet(t, s, "sweep/a", tier.Range{}, content(1, 100))
	mustBeAbsent(t, s, "sweep/b")
}
