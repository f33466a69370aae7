package topics

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/sluicemq/sluice/internal/testx"
	"pgregory.net/rapid"
)

// matchAll collects all matches in turns of limit.
func matchAll(r *Retained, tenant uint32, filter string, limit int) map[string]uint32 {
	got := make(map[string]uint32)
	var c Cursor
	for !c.Done() {
		r.Match(tenant, []byte(filter), &c, limit, func(slot uint32, topic []byte) bool {
			if _, twice := got[string(topic)]; twice {
				slot = 0 // no test puts it
			}
			got[string(topic)] = slot
			return true
		})
	}
	return got
}

// checkTree says whether the tree is in order, knows its minima and is as long as the rows.
func checkTree(t interface{ Fatalf(string, ...any) }, r *retainedTables) {
	var leaves, inners, rows int
	var last uint32
	var walk func(id uint32, level int)
	walk = func(id uint32, level int) {
		if level == r.tree.height {
			f := r.tree.leaves.At(id)
			leaves++
			for _, row := range f.rows[:f.n] {
				at := r.rows.At(row)
				if rows++; last != 0 && r.compare(last, at.tenant, r.text.Get(at.text)) >= 0 {
					t.Fatalf("%q stands before %q", r.text.Get(r.rows.At(last).text), r.text.Get(at.text))
				}
				last = row
			}
			return
		}
		n := r.tree.inners.At(id)
		inners++
		for i := range n.n {
			if n.mins[i] != r.tree.min(n.kids[i], level+1) {
				t.Fatalf("child %d of %d begins with another row", i, id)
			}
			walk(n.kids[i], level+1)
		}
	}
	if r.tree.root != 0 {
		walk(r.tree.root, 0)
	}
	if rows != r.rows.Len() || rows != r.exact.Len() || leaves != r.tree.leaves.Len() || inners != r.tree.inners.Len() {
		t.Fatalf("%d rows of %d, %d leaves of %d, %d inner nodes of %d", rows, r.rows.Len(), leaves, r.tree.leaves.Len(), inners,
			r.tree.inners.Len())
	}
}

type retainedKey struct {
	tenant uint32
	topic  string
}

// TestRetainedModel compares the index with a map under random changes.
func TestRetainedModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := NewRetained(RetainedOptions{})
		model := make(map[retainedKey]uint32)
		slot := uint32(0)
		put := func(k retainedKey) {
			slot++
			if old, err := r.Put(k.tenant, []byte(k.topic), slot); err != nil || old != model[k] {
				t.Fatalf("Put %v: %d, want %d, %v", k, old, model[k], err)
			}
			model[k] = slot
		}
		remove := func(k retainedKey) {
			if old := r.Delete(k.tenant, []byte(k.topic)); old != model[k] {
				t.Fatalf("Delete %v: %d, want %d", k, old, model[k])
			}
			delete(model, k)
		}
		key := func(t *rapid.T) retainedKey {
			return retainedKey{rapid.Uint32Range(0, 2).Draw(t, "tenant"), drawName(t, false)}
		}
		t.Repeat(map[string]func(*rapid.T){
			"put": func(t *rapid.T) { put(key(t)) },
			"many": func(t *rapid.T) {
				k := key(t)
				for i := range rapid.IntRange(1, 400).Draw(t, "n") {
					put(retainedKey{k.tenant, fmt.Sprintf("%s/%x/t", k.topic, i*7919%1000)})
				}
			},
			"delete": func(t *rapid.T) { remove(key(t)) },
			"clear": func(t *rapid.T) {
				n := rapid.IntRange(1, 500).Draw(t, "n")
				for k := range maps.Clone(model) {
					if n--; n < 0 {
						break
					}
					remove(k)
				}
			},
			"get": func(t *rapid.T) {
				k := key(t)
				if got := r.Get(k.tenant, []byte(k.topic)); got != model[k] {
					t.Fatalf("Get %v: %d, want %d", k, got, model[k])
				}
			},
			"match": func(t *rapid.T) {
				tenant, filter := rapid.Uint32Range(0, 2).Draw(t, "tenant"), drawName(t, true)
				want := make(map[string]uint32)
				for k, s := range model {
					if k.tenant == tenant && FilterMatches([]byte(filter), []byte(k.topic)) {
						want[k.topic] = s
					}
				}
				if got := matchAll(r, tenant, filter, rapid.IntRange(1, 50).Draw(t, "limit")); !maps.Equal(got, want) {
					t.Fatalf("%q: %v, want %v", filter, got, want)
				}
			},
			"": func(t *rapid.T) {
				if r.Len() != len(model) {
					t.Fatalf("Len %d, want %d", r.Len(), len(model))
				}
				checkTree(t, &r.mu.retainedTables)
			},
		})
	})
}

// TestRetainedTurns changes the index between two turns: what stays comes exactly once, also if fn stops early.
func TestRetainedTurns(t *testing.T) {
	r := NewRetained(RetainedOptions{})
	name := func(i int) string { return fmt.Sprintf("a/%05d", i) }
	const n = 3000
	for i := range n {
		if _, err := r.Put(0, []byte(name(i)), uint32(i+1)); err != nil {
			t.Fatal(err)
		}
	}
	var c Cursor
	seen := make(map[string]int)
	for turn := 0; !c.Done(); turn++ {
		if turn > n {
			t.Fatal("no end")
		}
		calls := 0
		r.Match(0, []byte("a/+"), &c, 100, func(_ uint32, topic []byte) bool {
			seen[string(topic)]++
			calls++
			return turn%2 == 0 || calls < 7
		})
		if calls > 100 || turn%2 == 1 && calls > 7 {
			t.Fatalf("%d calls in turn %d", calls, turn)
		}
		r.Delete(0, []byte(name(turn*50+1)))
		if _, err := r.Put(0, []byte(name(turn*50)+"-new"), 9); err != nil {
			t.Fatal(err)
		}
	}
	for i := range n {
		if c := seen[name(i)]; c != 1 && (i%50 != 1 || c != 0) {
			t.Errorf("%s came %d times", name(i), c)
		}
	}
}

// TestRetainedSkips counts how many topics a selective filter looks at.
func TestRetainedSkips(t *testing.T) {
	r := NewRetained(RetainedOptions{})
	const sites, devices = 100, 100
	for s := range sites {
		for d := range devices {
			for _, what := range []string{"hum", "status", "temp"} {
				if _, err := r.Put(0, fmt.Appendf(nil, "s%d/d%d/%s", s, d, what), 1); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	for filter, want := range map[string]struct{ found, looked int }{
		"s5/#":      {devices * 3, devices*3 + 2},
		"s5/+/temp": {devices, 2*devices + 3},
		"+/d7/temp": {sites, 4*sites + 3},
		"s5/d5/+":   {3, 6},
		"nobody/+":  {0, 2},
		"+/d7x/#":   {0, 3*sites + 3},
	} {
		var c Cursor
		found, looked := 0, 0
		for ; !c.Done(); looked++ {
			r.Match(0, []byte(filter), &c, 1, func(uint32, []byte) bool { found++; return true })
		}
		if found != want.found || looked > want.looked {
			t.Errorf("%q: %d found, want %d; %d looked at, at most %d", filter, found, want.found, looked, want.looked)
		}
	}
	var order []string
	var c Cursor
	r.Match(0, []byte("s1/d1/#"), &c, 100, func(_ uint32, topic []byte) bool { order = append(order, string(topic)); return true })
	if !slices.Equal(order, []string{"s1/d1/hum", "s1/d1/status", "s1/d1/temp"}) {
		t.Errorf("%v", order)
	}
}

func TestRetainedFreesMemory(t *testing.T) {
	r := NewRetained(RetainedOptions{})
	name := func(i int) []byte { return fmt.Appendf(nil, "site/%d/a-topic-of-some-length", i*7919%20000) }
	for i := range 20000 {
		if _, err := r.Put(0, name(i), 1); err != nil {
			t.Fatal(err)
		}
	}
	full := r.Bytes()
	for i := range 20000 {
		r.Delete(0, name(i))
	}
	checkTree(t, &r.mu.retainedTables)
	if r.Bytes() > keepBytes || full < 1<<20 {
		t.Errorf("%d bytes full, %d empty", full, r.Bytes())
	}
}

func TestRetainedAllocs(t *testing.T) {
	if testx.RaceEnabled {
		t.Skip("the race detector allocates; the plain run counts")
	}
	r := NewRetained(RetainedOptions{})
	for i := range 1000 {
		if _, err := r.Put(0, fmt.Appendf(nil, "a/%d", i), 1); err != nil {
			t.Fatal(err)
		}
	}
	topic, filter := []byte("a/7"), []byte("a/+")
	var c Cursor
	if n := testing.AllocsPerRun(100, func() {
		if _, err := r.Put(0, topic, 2); err != nil || r.Get(0, topic) != 2 {
			t.Fatal("lost")
		}
		c.done, c.seek = false, c.seek[:0]
		r.Match(0, filter, &c, 100, func(uint32, []byte) bool { return true })
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// FuzzRetained runs a script of puts and deletes, then every filter of few levels, against the model.
func FuzzRetained(f *testing.F) {
	f.Add([]byte("a/b\na/b/c\n-a/b\n$a\na-/b\n/\n//"), "+/b/#")
	f.Add([]byte("a\na/\na//\n\xffa\na\x01"), "a/+/+")
	f.Fuzz(func(t *testing.T, script []byte, filter string) {
		if CheckFilter([]byte(filter)) != nil {
			return
		}
		r := NewRetained(RetainedOptions{})
		model := make(map[string]uint32)
		for i, line := range bytes.Split(script, []byte("\n")) {
			if len(line) > 0 && line[0] == '-' {
				if old := r.Delete(0, line[1:]); old != model[string(line[1:])] {
					t.Fatalf("Delete %q: %d", line, old)
				}
				delete(model, string(line[1:]))
			} else if _, err := r.Put(0, line, uint32(i+1)); err == nil {
				model[string(line)] = uint32(i + 1)
			}
		}
		checkTree(t, &r.mu.retainedTables)
		want := maps.Clone(model)
		maps.DeleteFunc(want, func(topic string, _ uint32) bool { return !FilterMatches([]byte(filter), []byte(topic)) })
		if got := matchAll(r, 0, filter, 2); !maps.Equal(got, want) {
			t.Errorf("%q: %v, want %v", filter, got, want)
		}
	})
}
