package backup

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/internal/vfs"
	"github.com/sluicemq/sluice/journal/tier"
	"github.com/sluicemq/sluice/journal/tier/localtier"
)

func newStore(t *testing.T) tier.Store {
	t.Helper()
	s, err := localtier.Open(t.Context(), localtier.Options{Dir: "vault", FS: vfs.NewMem()})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func content(seed uint64, n int) []byte {
	b := make([]byte, n)
	r := rand.New(rand.NewPCG(seed, 0))
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// sample is what the tests store: files that end within, at and behind an object, and an empty one.
var sample = map[string][]byte{"a/large": content(1, 1000), "a/even": content(2, 512), "a/empty": {}, "a/small": content(3, 7)}

var sampleNames = []string{"a/empty", "a/even", "a/large", "a/small"}

func store(ctx context.Context, s tier.Store, o Options) (*Writer, error) {
	o.Begin.Cluster, o.Begin.Node = "cluster", 3
	o.ObjectBytes = 256
	w, err := Create(ctx, s, o)
	if err != nil {
		return w, err
	}
	for _, name := range sampleNames {
		b := sample[name]
		if err := w.File(ctx, name, bytes.NewReader(b), int64(len(b)), int64(len(b))*2); err != nil {
			return w, err
		}
	}
	err = w.Stream(ctx, "rows", func(write func([]byte) error) error {
		for i := range 1000 {
			if err := write(fmt.Appendf(nil, "row %d\n", i)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return w, err
	}
	_, err = w.Finish(ctx, func(m *Manifest) { m.Shards = 64 })
	return w, err
}

func mustStore(t *testing.T, s tier.Store) string {
	t.Helper()
	w, err := store(t.Context(), s, Options{})
	if err != nil {
		t.Fatal(err)
	}
	return w.ID()
}

func readAll(ctx context.Context, s tier.Store, id string) (map[string][]byte, error) {
	r, err := Open(ctx, s, id)
	if err != nil {
		return nil, err
	}
	out := make(map[string][]byte)
	for i := range r.Files {
		src := r.Read(ctx, &r.Files[i])
		b, err := io.ReadAll(src)
		if err := errors.Join(err, src.Close()); err != nil {
			return nil, err
		}
		out[r.Files[i].Name] = b
	}
	return out, r.Verify(ctx, nil)
}

func mustBeSample(t *testing.T, s tier.Store, id string) {
	t.Helper()
	got, err := readAll(t.Context(), s, id)
	if err != nil {
		t.Fatal(err)
	}
	for name, b := range sample {
		if !bytes.Equal(got[name], b) {
			t.Errorf("%s has %d bytes, %d were stored", name, len(got[name]), len(b))
		}
	}
	if !strings.HasSuffix(string(got["rows"]), "row 998\nrow 999\n") {
		t.Errorf("rows end in %.40q", got["rows"])
	}
}

func TestStoreListReadDelete(t *testing.T) {
	s, ctx := newStore(t), t.Context()
	if _, err := Latest(ctx, s); !errors.Is(err, ErrNone) {
		t.Errorf("the latest of none: %v", err)
	}
	first := mustStore(t, s)
	second := mustStore(t, s)
	mustBeSample(t, s, first)
	list, err := List(ctx, s)
	if err != nil || len(list) != 2 {
		t.Fatalf("%d backups, %v", len(list), err)
	}
	for _, b := range list {
		if b.State != Complete || b.Cluster != "cluster" || b.Node != 3 || b.Bytes < 1500 || b.Objects != 10 || b.Ended.Before(b.Began) {
			t.Errorf("listed as %+v", b)
		}
	}
	if latest, err := Latest(ctx, s); err != nil || latest != max(first, second) {
		t.Errorf("latest is %s, %v", latest, err)
	}
	if err := Delete(ctx, s, first); err != nil {
		t.Fatal(err)
	}
	if err := Delete(ctx, s, first); !errors.Is(err, ErrNone) {
		t.Errorf("deleted twice: %v", err)
	}
	if _, err := Open(ctx, s, first); !errors.Is(err, ErrNone) {
		t.Errorf("opened what is deleted: %v", err)
	}
	mustBeSample(t, s, second)
	for _, id := range []string{"", "..", "../../etc/passwd", strings.Repeat("a", 26), "20260102T030405Z-0123456~"} {
		if _, err := Open(ctx, s, id); !errors.Is(err, ErrID) {
			t.Errorf("%q: %v", id, err)
		}
		if err := Delete(ctx, s, id); !errors.Is(err, ErrID) {
			t.Errorf("delete %q: %v", id, err)
		}
	}
}

func objects(t *testing.T, s tier.Store) (names []string) {
	t.Helper()
	page, _, err := s.List(t.Context(), "", "", 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range page {
		names = append(names, o.Name)
	}
	return names
}

// Every object of a backup in turn is lost, cut, lengthened, or has another bit: reading it says which one, and never gives other bytes.
func TestDamageIsNamed(t *testing.T) {
	s, ctx := newStore(t), t.Context()
	id := mustStore(t, s)
	for _, name := range objects(t, s) {
		if strings.HasSuffix(name, "/"+beginName) {
			continue // the manifest says all that it does
		}
		body, _, err := s.Get(ctx, name, tier.Range{})
		if err != nil {
			t.Fatal(err)
		}
		whole, err := io.ReadAll(body)
		if err := errors.Join(err, body.Close()); err != nil {
			t.Fatal(err)
		}
		flipped := slices.Clone(whole)
		flipped[len(flipped)/2] ^= 1
		for what, b := range map[string][]byte{"lost": nil, "cut": whole[:len(whole)-1], "longer": append(slices.Clone(whole), 0), "flipped": flipped} {
			if what == "lost" {
				err = s.Delete(ctx, name)
			} else {
				err = s.Put(ctx, name, bytes.NewReader(b), int64(len(b)), tier.PutOptions{})
			}
			if err != nil {
				t.Fatal(err)
			}
			_, err = readAll(ctx, s, id)
			object := name[strings.LastIndexByte(name, '/')+1:]
			switch {
			case what == "lost" && object == manifestName:
				if !errors.Is(err, ErrIncomplete) {
					t.Errorf("manifest lost: %v", err)
				}
			case !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), object):
				t.Errorf("%s %s: %v", object, what, err)
			}
			if list, err := List(ctx, s); err != nil || len(list) != 1 || (list[0].State == Complete) == (object == manifestName) {
				t.Errorf("%s %s: listed as %+v, %v", object, what, list, err)
			}
		}
		if err := s.Put(ctx, name, bytes.NewReader(whole), int64(len(whole)), tier.PutOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	mustBeSample(t, s, id)
}

// faulty is a store that fails at a given call.
type faulty struct {
	tier.Store
	calls atomic.Int64
	fail  func(n int64, op string) error
}

func (f *faulty) turn(op string) error { return f.fail(f.calls.Add(1), op) }

func (f *faulty) Put(ctx context.Context, name string, r io.Reader, size int64, o tier.PutOptions) error {
	if err := f.turn("put"); err != nil {
		_, _ = io.CopyN(io.Discard, r, size/2) // it was cut in the middle
		return err
	}
	return f.Store.Put(ctx, name, r, size, o)
}

func (f *faulty) Delete(ctx context.Context, name string) error {
	if err := f.turn("delete"); err != nil {
		return err
	}
	return f.Store.Delete(ctx, name)
}

// cutBody ends in the middle with an error.
type cutBody struct {
	io.ReadCloser
	left int
}

func (c *cutBody) Read(p []byte) (int, error) {
	if c.left == 0 {
		return 0, &tier.Error{Store: "test", Op: "get", Kind: tier.Unavailable}
	}
	n, err := c.ReadCloser.Read(p[:min(len(p), c.left)])
	c.left -= n
	return n, err
}

func (f *faulty) Get(ctx context.Context, name string, r tier.Range) (io.ReadCloser, tier.Info, error) {
	body, info, err := f.Store.Get(ctx, name, r)
	if err == nil && f.turn("get") != nil {
		body = &cutBody{body, int(info.Size) / 2}
	}
	return body, info, err
}

// A store that fails now and then delays a backup and its reading; they come out whole.
func TestStoreFaults(t *testing.T) {
	f := &faulty{Store: newStore(t), fail: func(n int64, _ string) error {
		if n%3 == 0 {
			return &tier.Error{Store: "test", Op: "put", Kind: tier.Throttled}
		}
		return nil
	}}
	w, err := store(t.Context(), f, Options{})
	if err != nil {
		t.Fatal(err)
	}
	mustBeSample(t, f, w.ID())
	if w.Copied() < 1500 || w.Copied() > 1519+8890 {
		t.Errorf("%d bytes copied", w.Copied())
	}
}

// A backup that a store refuses, at any of its objects, does not exist: it cannot be opened, is no latest one, and the next one of the same node
// clears it away, but not another node's.
func TestBrokenOffAtEachObject(t *testing.T) {
	for at := int64(1); ; at++ {
		inner := newStore(t)
		whole := mustStore(t, inner)
		f := &faulty{Store: inner, fail: func(n int64, op string) error {
			if op == "put" && n >= at {
				return &tier.Error{Store: "test", Op: "put", Kind: tier.Denied}
			}
			return nil
		}}
		w, err := store(t.Context(), f, Options{})
		if err == nil {
			if at < 10 {
				t.Errorf("a backup has %d puts", at)
			}
			return
		}
		if !errors.Is(err, tier.ErrDenied) {
			t.Fatalf("put %d: %v", at, err)
		}
		if _, err := Open(t.Context(), inner, w.ID()); !errors.Is(err, ErrIncomplete) && !errors.Is(err, ErrNone) {
			t.Errorf("put %d: opened: %v", at, err)
		}
		if latest, err := Latest(t.Context(), inner); err != nil || latest != whole {
			t.Errorf("put %d: the latest is %s, not %s, %v", at, latest, whole, err)
		}
		if gone, err := Clean(t.Context(), inner, "cluster", 4, time.Hour); err != nil || len(gone) > 0 {
			t.Errorf("put %d: another node has removed %v, %v", at, gone, err)
		}
		if at%2 == 0 {
			if err := w.Abort(t.Context()); err != nil {
				t.Errorf("put %d: abort: %v", at, err)
			}
		} else if _, err := Clean(t.Context(), inner, "cluster", 3, 0); err != nil {
			t.Errorf("put %d: clean: %v", at, err)
		}
		for _, name := range objects(t, inner) {
			if strings.Contains(name, w.ID()) {
				t.Errorf("put %d: %s is left", at, name)
			}
		}
		mustBeSample(t, inner, whole)
	}
}

// A deletion that is cut leaves what the next one finds, and no backup that seems whole.
func TestDeleteCut(t *testing.T) {
	inner := newStore(t)
	id := mustStore(t, inner)
	for at := int64(1); ; at++ {
		f := &faulty{Store: inner, fail: func(n int64, op string) error {
			if op == "delete" && n > at {
				return &tier.Error{Store: "test", Op: "delete", Kind: tier.Denied}
			}
			return nil
		}}
		err := Delete(t.Context(), f, id)
		if err == nil {
			break
		}
		list, lerr := List(t.Context(), inner)
		if lerr != nil || len(list) != 1 || list[0].State != Incomplete || list[0].Cluster != "cluster" {
			t.Fatalf("after %d deletions: %+v, %v", at, list, lerr)
		}
	}
	if left := objects(t, inner); len(left) > 0 {
		t.Errorf("%v is left", left)
	}
}

// Who goes away ends a backup soon, at any pace.
func TestPaceAndCancel(t *testing.T) {
	s := newStore(t)
	ctx, cancel := context.WithCancel(t.Context())
	w, err := Create(ctx, s, Options{Rate: func() int64 { return 1 << 20 }})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	big := content(1, 8<<20)
	from := time.Now()
	go func() { done <- w.File(ctx, "big", bytes.NewReader(big), int64(len(big)), int64(len(big))) }()
	testx.Eventually(t, 20*time.Second, func() bool { return w.Copied() >= 1<<20 })
	if took := time.Since(from); took < 600*time.Millisecond {
		t.Errorf("the first MiB took %v, at 1 MiB/s", took)
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
	if err := w.Abort(t.Context()); err != nil {
		t.Error(err)
	}
	if left := objects(t, s); len(left) > 0 {
		t.Errorf("%v is left", left)
	}
}

// Names sort by time, to the millisecond.
func TestNewIDSorts(t *testing.T) {
	at := time.Date(2026, 11, 28, 11, 59, 58, 998e6, time.UTC)
	last := ""
	for range 5 {
		id := NewID(at)
		if err := checkID(id); err != nil || id <= last {
			t.Errorf("%s behind %s, %v", id, last, err)
		}
		last, at = id, at.Add(time.Millisecond)
	}
	if a, b := NewID(at), NewID(at); a == b {
		t.Errorf("%s twice", a)
	}
}

// What another node of the cluster has broken off is removed once nothing has been stored of it for long; another cluster's is not.
func TestCleanOfOthers(t *testing.T) {
	for _, c := range []struct {
		cluster string
		age     time.Duration
		goes    bool
	}{{"cluster", 23 * time.Hour, false}, {"cluster", 25 * time.Hour, true}, {"another", 25 * time.Hour, false}} {
		s := &aged{Store: newStore(t), age: c.age}
		w, err := Create(t.Context(), s, Options{Begin: Begin{Cluster: "cluster", Node: 3}})
		if err != nil {
			t.Fatal(err)
		}
		if gone, err := Clean(t.Context(), s, c.cluster, 4, 0); err != nil || len(gone) > 0 {
			t.Errorf("%+v: without a bound %v, %v", c, gone, err)
		}
		gone, err := Clean(t.Context(), s, c.cluster, 4, 24*time.Hour)
		if err != nil || slices.Contains(gone, w.ID()) != c.goes {
			t.Errorf("%+v: %v of %s, %v", c, gone, w.ID(), err)
		}
	}
}

// aged is a store whose objects are all so old.
type aged struct {
	tier.Store
	age time.Duration
}

func (s *aged) List(ctx context.Context, prefix, after string, limit int) ([]tier.Info, bool, error) {
	page, more, err := s.Store.List(ctx, prefix, after, limit)
	for i := range page {
		page[i].ModTime = time.Now().Add(-s.age)
	}
	return page, more, err
}
