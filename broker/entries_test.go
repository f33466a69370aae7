package broker

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// entryMirror is what EntryChanged has told.
type entryMirror struct {
	entries map[string]string
	calls   int
}

func (m *entryMirror) changed(changes []CatalogEntry) {
	m.calls++
	for _, c := range changes {
		if c.Value == nil {
			delete(m.entries, c.Key)
		} else {
			m.entries[c.Key] = string(c.Value)
		}
	}
}

// mirrored has tb tell of entries. Before anything is loaded.
func (tb *testBroker) mirrored() *entryMirror {
	m := &entryMirror{entries: map[string]string{}}
	tb.b.opts.EntryChanged = m.changed
	return m
}

func (tb *testBroker) setEntries(t *testing.T, changes ...CatalogEntry) error {
	t.Helper()
	var err error
	n := 0
	tb.b.SetEntries(changes, func(e error) { err = e; n++ })
	tb.pump()
	if n != 1 {
		t.Fatalf("answered %d times", n)
	}
	return err
}

func put(key, value string) CatalogEntry { return CatalogEntry{Key: key, Value: []byte(value)} }

// A command is told as a whole, in order, once it is in the log; a value may be empty; what is deleted is gone.
func TestEntries(t *testing.T) {
	tb := newTestBroker(t, 2, nil)
	m := tb.mirrored()
	if err := tb.setEntries(t, put("user/a", "1"), put("user/b", ""), put("user/a", "2")); err != nil {
		t.Fatal(err)
	}
	check(t, "entries", m.entries, map[string]string{"user/a": "2", "user/b": ""})
	check(t, "calls", m.calls, 1)
	if err := tb.setEntries(t, CatalogEntry{Key: "user/b"}, CatalogEntry{Key: "user/none"}); err != nil {
		t.Fatal(err)
	}
	check(t, "entries", m.entries, map[string]string{"user/a": "2"})
	n, size := tb.b.CatalogSize()
	check(t, "size", []int64{n, size}, []int64{1, 7})
	if err := tb.setEntries(t); err != nil {
		t.Errorf("no change: %v", err)
	}
	check(t, "calls", m.calls, 2)
}

func TestEntriesRefused(t *testing.T) {
	tb := newTestBroker(t, 1, nil)
	m := tb.mirrored()
	var many []CatalogEntry
	for i := range 20 {
		many = append(many, CatalogEntry{Key: fmt.Sprint(i), Value: make([]byte, EntryValueMax)})
	}
	for name, changes := range map[string][]CatalogEntry{
		"no key":          {put("a", "1"), put("", "1")},
		"a long key":      {put(strings.Repeat("k", EntryKeyMax+1), "")},
		"a long value":    {{Key: "k", Value: make([]byte, EntryValueMax+1)}},
		"a change as big": many,
	} {
		if err := tb.setEntries(t, changes...); !errors.Is(err, ErrQuota) {
			t.Errorf("%s: %v", name, err)
		}
	}
	tb.b.entryStore.comingEntries = EntriesMax - 1
	if err := tb.setEntries(t, put("a", "1"), put("b", "1")); !errors.Is(err, ErrQuota) {
		t.Errorf("too many: %v", err)
	}
	tb.b.entryStore.comingEntries, tb.b.entryStore.comingBytes = 0, EntryBytesMax-1
	if err := tb.setEntries(t, put("a", "1")); !errors.Is(err, ErrQuota) {
		t.Errorf("too large: %v", err)
	}
	tb.b.entryStore.comingBytes = 0
	tb.log.fail = errors.New("broken")
	if err := tb.setEntries(t, put("a", "1")); err == nil {
		t.Error("a change that the log did not take was answered")
	}
	tb.log.fail = nil
	tb.b.reserved.Store(true)
	if err := tb.setEntries(t, put("a", "1")); !errors.Is(err, ErrUnavailable) {
		t.Errorf("on a full disk: %v", err)
	}
	if err := tb.setEntries(t, CatalogEntry{Key: "a"}); err != nil {
		t.Errorf("deleted on a full disk: %v", err)
	}
	check(t, "told", m.calls, 1)
	check(t, "coming", []int64{tb.b.entryStore.comingEntries, tb.b.entryStore.comingBytes}, []int64{0, 0})
}

// entryModel is a broker with entries, and what must be there: what was acknowledged, and of what was not, all of it or nothing.
type entryModel struct {
	t      *testing.T
	r      *rand.Rand
	tb     *testBroker
	points *memCheckpoints
	mirror *entryMirror
	want   map[string]string
	n      int
}

func (em *entryModel) change() {
	var changes []CatalogEntry
	next := maps.Clone(em.want)
	for range 1 + em.r.IntN(4) {
		em.n++
		key := fmt.Sprint("user/", em.r.IntN(30))
		if em.r.IntN(3) == 0 {
			changes = append(changes, CatalogEntry{Key: key})
			delete(next, key)
			continue
		}
		value := fmt.Sprint(em.n)
		changes = append(changes, put(key, value))
		next[key] = value
	}
	if em.r.IntN(8) == 0 {
		em.tb.log.fail = errors.New("disk full")
	}
	err := em.tb.setEntries(em.t, changes...)
	em.tb.log.fail = nil
	if err == nil {
		em.want = next
	}
}

// restart ends the broker as a kill would.
func (em *entryModel) restart() {
	old := em.tb
	em.mirror = &entryMirror{entries: map[string]string{}}
	old.entryChanged = em.mirror.changed
	tb, err := old.restart(2, em.points)
	if err != nil {
		em.t.Fatal(err)
	}
	old.b.Close()
	em.tb = tb
}

// Entries are what was acknowledged, after any number of kills and checkpoints, some of which fail half way.
func TestEntriesModel(t *testing.T) {
	for seed := range uint64(40) {
		em := &entryModel{t: t, r: rand.New(rand.NewPCG(seed, 1)), points: &memCheckpoints{}, want: map[string]string{}}
		em.tb = openTestBroker(t, 2, nil)
		em.mirror = em.tb.mirrored()
		for range 120 {
			switch k := em.r.IntN(12); k {
			case 0:
				em.restart()
			case 1, 2:
				em.points.step = nil
				if left := em.r.IntN(2 * modelShards); k == 2 {
					em.points.step = func() error {
						if left--; left < 0 {
							return errors.New("the store does not write")
						}
						return nil
					}
				}
				_ = em.tb.b.Checkpoint(em.points)
			default:
				em.change()
			}
			if !maps.Equal(em.mirror.entries, em.want) {
				t.Fatalf("seed %d: %v, expected %v", seed, em.mirror.entries, em.want)
			}
		}
		em.tb.b.Close()
	}
}

// With durability "memory" entries live as long as the run, and nothing is kept for a checkpoint.
func TestEntriesVolatile(t *testing.T) {
	tb := newTestBroker(t, 1, nil)
	tb.b.opts.Volatile = true
	m := tb.mirrored()
	if err := tb.setEntries(t, put("user/a", "1")); err != nil {
		t.Fatal(err)
	}
	check(t, "entries", m.entries, map[string]string{"user/a": "1"})
	check(t, "rows", len(tb.b.homes[0].mu.rows.entries), 0)
}

// An entry's row that is cut is refused, and its encoding is what was encoded.
func TestEntriesEncoding(t *testing.T) {
	want := []CatalogEntry{put("a", "1"), {Key: "b"}, put("c", "")}
	cmd := appendEntries(nil, want)
	d := decoder{b: cmd}
	got := d.entries()
	if !d.ok() || !slices.EqualFunc(got, want, func(a, b CatalogEntry) bool {
		return a.Key == b.Key && bytes.Equal(a.Value, b.Value) && (a.Value == nil) == (b.Value == nil)
	}) {
		t.Errorf("%v, expected %v", got, want)
	}
	for n := range len(cmd) {
		if d := (decoder{b: cmd[:n]}); len(d.entries()) >= 0 && d.ok() {
			t.Errorf("%d bytes of %d pass", n, len(cmd))
		}
	}
}
