package topics

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/sluicemq/sluice/internal/testx"
	"pgregory.net/rapid"
)

// checkEmpty says that nothing of what was subscribed is left.
func checkEmpty(t interface{ Errorf(string, ...any) }, x *Index) {
	if f, s := x.Len(); f != 0 || s != 0 {
		t.Errorf("%d filters, %d subscriptions left", f, s)
	}
	for i := range x.shards {
		m := &x.shards[i].mu.tables
		left := m.rows.Len() + m.exact.Len() + m.shared.Len() + m.trie.nodes.Len() + m.trie.children.Len() + m.entries.few.Len() +
			m.entries.many.Len() + m.entries.blocks.Len() + m.entries.places.Len() + int(m.text.Live())
		if left != 0 {
			t.Errorf("shard %d keeps %d things: %d rows, %d nodes, %d bytes of text", i, left, m.rows.Len(), m.trie.nodes.Len(),
				m.text.Live())
		}
	}
}

// modelRow is a filter of the slow model.
type modelRow struct {
	tenant        uint32
	group, filter string // no group: ""
}

func (r modelRow) args() (tenant uint32, group, filter []byte) {
	if r.group != "" {
		group = []byte(r.group)
	}
	return r.tenant, group, []byte(r.filter)
}

// drawName makes names of few different levels, among them a long one, so that they meet.
func drawName(t *rapid.T, wild bool) string {
	levels := []string{"a", "b", "", "$x", "a-", "a-level-too-long-for-its-node", strings.Repeat("long", 30), "c"}
	if wild {
		levels = append(levels, "+", "+", "+")
	}
	list := rapid.SliceOfN(rapid.SampledFrom(levels), 1, 5).Draw(t, "levels")
	if wild && rapid.IntRange(0, 3).Draw(t, "multi") == 0 {
		list[len(list)-1] = "#"
	}
	name := strings.Join(list, "/")
	if name == "" {
		return "a"
	}
	return name
}

func drawRow(t *rapid.T) modelRow {
	return modelRow{rapid.Uint32Range(0, 2).Draw(t, "tenant"), rapid.SampledFrom([]string{"", "", "g", "h"}).Draw(t, "group"),
		drawName(t, true)}
}

// indexModel is an index, and maps that have to agree with it.
type indexModel struct {
	x     *Index
	rows  map[modelRow]map[uint32]Entry
	ids   map[modelRow]FilterID
	marks map[modelRow]uint64
	m     Matches
}

func (l *indexModel) subscribe(t *rapid.T, r modelRow, e Entry) {
	before := l.x.Generation()
	tenant, group, filter := r.args()
	id, isNew, err := l.x.Subscribe(tenant, group, filter, e)
	old, had := l.rows[r][e.Subscriber]
	if err != nil || isNew == had {
		t.Fatalf("%v: new %v, had %v, %v", r, isNew, had, err)
	}
	if l.rows[r] == nil {
		l.rows[r] = make(map[uint32]Entry)
		l.ids[r] = id
	}
	l.rows[r][e.Subscriber] = e
	if l.ids[r] != id {
		t.Fatalf("%v: id %d, was %d", r, id, l.ids[r])
	}
	if (l.x.Generation() != before) != (!had || old != e) {
		t.Fatalf("generation %d, was %d, for %v in place of %v", l.x.Generation(), before, e, old)
	}
}

func (l *indexModel) unsubscribe(t *rapid.T, r modelRow, subscriber uint32) {
	tenant, group, filter := r.args()
	_, had := l.rows[r][subscriber]
	id, existed := l.x.Unsubscribe(tenant, group, filter, subscriber)
	if existed != had || had && id != l.ids[r] {
		t.Fatalf("%v: existed %v, had %v, id %d of %d", r, existed, had, id, l.ids[r])
	}
	if delete(l.rows[r], subscriber); len(l.rows[r]) == 0 {
		delete(l.rows, r)
		delete(l.ids, r)
		delete(l.marks, r)
	}
}

// leave takes up to n entries out of any one filter.
func (l *indexModel) leave(t *rapid.T, n int) {
	for r, members := range l.rows {
		for s := range maps.Clone(members) {
			if n--; n < 0 {
				break
			}
			l.unsubscribe(t, r, s)
		}
		return
	}
}

func (l *indexModel) match(t *rapid.T, tenant uint32, topic string) {
	want := make(map[FilterID]modelRow)
	for r := range l.rows {
		if r.tenant == tenant && FilterMatches([]byte(r.filter), []byte(topic)) {
			want[l.ids[r]] = r
		}
	}
	l.x.Match(tenant, []byte(topic), &l.m)
	for _, f := range l.m.Filters {
		r, ok := want[f.ID]
		delete(want, f.ID)
		if !ok || f.Shared != (r.group != "") || f.Mark != l.marks[r] || len(f.Entries) != len(l.rows[r]) {
			t.Fatalf("%q: %v is %v, %v, %d entries of %d", topic, f.ID, ok, r, len(f.Entries), len(l.rows[r]))
		}
		for _, e := range f.Entries {
			if l.rows[r][e.Subscriber] != e {
				t.Fatalf("%v: %v, want %v", r, e, l.rows[r][e.Subscriber])
			}
		}
	}
	if len(want) != 0 {
		t.Fatalf("%q: no match of %v", topic, want)
	}
}

// list goes through all entries, in pieces; in between others may come.
func (l *indexModel) list(t *rapid.T) {
	want := make(map[modelRow]map[uint32]Entry)
	for r, members := range l.rows {
		want[r] = maps.Clone(members)
	}
	n := rapid.IntRange(1, 50).Draw(t, "page")
	var at Place
	for end := false; !end; {
		var list []Listed
		if list, at, end = l.x.List(at, n, nil); len(list) > n {
			t.Fatalf("%d entries of %d", len(list), n)
		}
		for _, e := range list {
			r := modelRow{e.Tenant, string(e.Group), string(e.Filter)}
			if have, ok := want[r][e.Entry.Subscriber]; ok && have == e.Entry {
				delete(want[r], e.Entry.Subscriber)
			} else if !strings.HasPrefix(r.filter, "late/") {
				t.Fatalf("%v is listed twice, or wrong", e)
			}
		}
		if rapid.IntRange(0, 20).Draw(t, "late") == 0 {
			l.subscribe(t, modelRow{0, "", "late/" + drawName(t, true)}, Entry{Subscriber: 7})
		}
	}
	for r, members := range want {
		if len(members) > 0 {
			t.Fatalf("%v: %v is not listed", r, members)
		}
	}
}

// check reads every row back.
func (l *indexModel) check(t *rapid.T) {
	n := 0
	for r, members := range l.rows {
		n += len(members)
		tenant, group, filter := r.args()
		id, ok := l.x.Lookup(tenant, group, filter)
		gotTenant, gotGroup, gotFilter := l.x.Filter(id)
		if !ok || id != l.ids[r] || gotTenant != tenant || !bytes.Equal(gotGroup, group) || (gotGroup == nil) != (group == nil) ||
			!bytes.Equal(gotFilter, filter) || l.x.Mark(id) != l.marks[r] {
			t.Fatalf("%v: id %d, %v, %d %q %q, mark %d", r, id, ok, gotTenant, gotGroup, gotFilter, l.x.Mark(id))
		}
	}
	if filters, subscriptions := l.x.Len(); filters != len(l.rows) || subscriptions != n {
		t.Fatalf("Len %d, %d, want %d, %d", filters, subscriptions, len(l.rows), n)
	}
}

// TestIndexModel compares the index with maps under random changes.
func TestIndexModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := &indexModel{x: New(Options{}), rows: make(map[modelRow]map[uint32]Entry), ids: make(map[modelRow]FilterID),
			marks: make(map[modelRow]uint64)}
		t.Repeat(map[string]func(*rapid.T){
			"subscribe": func(t *rapid.T) {
				l.subscribe(t, drawRow(t), Entry{rapid.Uint32Range(0, 3).Draw(t, "sub"), rapid.Uint32Range(0, 1).Draw(t, "opts"), 5})
			},
			"crowd": func(t *rapid.T) {
				r := drawRow(t)
				for i := range rapid.Uint32Range(1, 200).Draw(t, "n") {
					l.subscribe(t, r, Entry{Subscriber: i})
				}
			},
			"unsubscribe": func(t *rapid.T) { l.unsubscribe(t, drawRow(t), rapid.Uint32Range(0, 3).Draw(t, "sub")) },
			"leave":       func(t *rapid.T) { l.leave(t, rapid.IntRange(1, 300).Draw(t, "n")) },
			"mark": func(t *rapid.T) {
				r := drawRow(t)
				if id, ok := l.ids[r]; ok {
					l.marks[r] = rapid.Uint64().Draw(t, "mark")
					l.x.SetMark(id, l.marks[r])
				}
			},
			"match": func(t *rapid.T) { l.match(t, rapid.Uint32Range(0, 2).Draw(t, "tenant"), drawName(t, false)) },
			"list":  l.list,
			"":      l.check,
		})
		for len(l.rows) > 0 {
			l.leave(t, 1000)
		}
		checkEmpty(t, l.x)
	})
}

// TestStaleID asks for rows that are gone or never were.
func TestStaleID(t *testing.T) {
	x := New(Options{})
	id, _, err := x.Subscribe(0, nil, []byte("a/+"), Entry{})
	if err != nil {
		t.Fatal(err)
	}
	x.SetMark(id, 9)
	x.Unsubscribe(0, nil, []byte("a/+"), 0)
	for _, stale := range []FilterID{0, id, 1, 127, 1 << 20, 1<<32 - 1} {
		x.SetMark(stale, 1)
		if _, _, filter := x.Filter(stale); filter != nil || x.Mark(stale) != 0 {
			t.Errorf("%d: %q, mark %d", stale, filter, x.Mark(stale))
		}
	}
	again, _, _ := x.Subscribe(0, nil, []byte("a/+"), Entry{})
	if again != id || x.Mark(again) != 0 {
		t.Errorf("id %d after %d, mark %d", again, id, x.Mark(again))
	}
}

// TestFreesMemory fills one shard and empties it.
func TestFreesMemory(t *testing.T) {
	x := New(Options{})
	name := func(i int) []byte { return fmt.Appendf(nil, "site/+/device-with-a-name-%d/#", i) }
	for round := range 3 {
		for i := range 5000 {
			if _, _, err := x.Subscribe(0, nil, name(i), Entry{}); err != nil {
				t.Fatal(err)
			}
		}
		full := x.Bytes()
		for i := range 5000 {
			x.Unsubscribe(0, nil, name(i), 0)
		}
		checkEmpty(t, x)
		if left := x.Bytes(); full < 500_000 || left > keepBytes {
			t.Errorf("round %d: %d bytes full, %d empty", round, full, left)
		}
	}
}

// TestHostile keeps filters that are made to cost: deep ones, all combinations of wildcards, and many groups of one filter.
func TestHostile(t *testing.T) {
	x := New(Options{MaxLevels: 40000})
	var m Matches
	deep := bytes.Repeat([]byte("+/"), 32000)
	topic := bytes.Repeat([]byte("a/"), 32000)
	if _, _, err := x.Subscribe(0, nil, deep, Entry{}); err != nil {
		t.Fatal(err)
	}
	if x.Match(0, topic, &m); len(m.Filters) != 1 {
		t.Errorf("32,001 levels: %d matches", len(m.Filters))
	}
	if x.Match(0, topic[:len(topic)-1], &m); len(m.Filters) != 0 {
		t.Errorf("one level less: %d matches", len(m.Filters))
	}
	x.Unsubscribe(0, nil, deep, 0)

	const depth = 10
	combination := func(i int) []byte {
		list := make([]string, depth+1)
		for j := range depth {
			list[j] = "a"
			if i>>j&1 != 0 {
				list[j] = "+"
			}
		}
		list[depth] = "b"
		return []byte(strings.Join(list, "/"))
	}
	for i := range 1 << depth {
		if _, _, err := x.Subscribe(0, nil, combination(i), Entry{}); err != nil {
			t.Fatal(err)
		}
	}
	if x.Match(0, []byte(strings.Repeat("a/", depth)+"b"), &m); len(m.Filters) != 1<<depth {
		t.Errorf("%d matches of %d", len(m.Filters), 1<<depth)
	}
	if x.Match(0, []byte(strings.Repeat("a/", depth)+"c"), &m); len(m.Filters) != 0 || cap(m.stack) > 4*depth {
		t.Errorf("%d matches, stack of %d", len(m.Filters), cap(m.stack))
	}
	for i := range 1 << depth {
		x.Unsubscribe(0, nil, combination(i), 0)
	}
	for i := range 5000 {
		if _, isNew, err := x.Subscribe(0, fmt.Append(nil, i), []byte("a/+"), Entry{}); err != nil || !isNew {
			t.Fatal(isNew, err)
		}
	}
	if x.Match(0, []byte("a/b"), &m); len(m.Filters) != 5000 {
		t.Errorf("%d groups matched", len(m.Filters))
	}
	for i := range 5000 {
		x.Unsubscribe(0, fmt.Append(nil, i), []byte("a/+"), 0)
	}
	checkEmpty(t, x)
}

// TestConcurrent lets readers match while writers come and go. What stays subscribed is always matched, once.
func TestConcurrent(t *testing.T) {
	x := New(Options{})
	stay := []string{"a/b/c", "a/+/c", "#", "+/b/#"}
	for i, f := range stay {
		if _, _, err := x.Subscribe(0, nil, []byte(f), Entry{Subscriber: 1000, SubscriptionID: uint32(i)}); err != nil {
			t.Fatal(err)
		}
	}
	var readers, writers sync.WaitGroup
	var stop atomic.Bool
	for range 2 {
		readers.Go(func() {
			var m Matches
			for !stop.Load() {
				x.Match(0, []byte("a/b/c"), &m)
				found := 0
				for _, f := range m.Filters {
					x.Mark(f.ID)
					x.Filter(f.ID)
					if slices.ContainsFunc(f.Entries, func(e Entry) bool { return e.Subscriber == 1000 }) {
						found++
					}
				}
				if found != len(stay) {
					t.Errorf("%d of %d filters matched", found, len(stay))
					return
				}
			}
		})
	}
	for w := range 2 {
		writers.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(w), 1))
			filters := append(stay, "a/#", "+/+/+", "a/b/+", "x/+")
			for range 3000 {
				f := []byte(filters[rnd.IntN(len(filters))])
				sub := uint32(rnd.IntN(40) + 100*w)
				if rnd.IntN(2) == 0 {
					id, _, err := x.Subscribe(0, nil, f, Entry{Subscriber: sub})
					if err != nil {
						t.Error(err)
					}
					x.SetMark(id, rnd.Uint64())
				} else {
					x.Unsubscribe(0, nil, f, sub)
				}
			}
		})
	}
	writers.Wait()
	stop.Store(true)
	readers.Wait()
}

// TestMatchAllocs guards the publish path.
func TestMatchAllocs(t *testing.T) {
	if testx.RaceEnabled {
		t.Skip("the race detector allocates; the plain run counts")
	}
	x := New(Options{})
	for i := range 1000 {
		for _, f := range []string{"site/%d/temp", "site/+/dev%d", "site/#", "+/%d/#", "#"} {
			filter := []byte(f)
			if strings.Contains(f, "%") {
				filter = fmt.Appendf(nil, f, i)
			}
			if _, _, err := x.Subscribe(0, nil, filter, Entry{Subscriber: uint32(i)}); err != nil {
				t.Fatal(err)
			}
		}
	}
	var m Matches
	topic := []byte("site/5/temp")
	if n := testing.AllocsPerRun(100, func() { x.Match(0, topic, &m) }); n != 0 {
		t.Errorf("Match: %v allocations", n)
	}
	if len(m.Filters) != 4 {
		t.Errorf("%d filters", len(m.Filters))
	}
	e := Entry{Subscriber: 1 << 20}
	if n := testing.AllocsPerRun(100, func() {
		if _, isNew, err := x.Subscribe(0, nil, topic, e); err != nil || !isNew {
			t.Fatal(isNew, err)
		}
		x.Unsubscribe(0, nil, topic, e.Subscriber)
	}); n != 0 {
		t.Errorf("Subscribe and Unsubscribe: %v allocations", n)
	}
}
