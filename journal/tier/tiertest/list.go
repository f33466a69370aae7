//nolint:thelper // what takes a testing.T here are the tests themselves
package tiertest

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/sluicemq/sluice/journal/tier"
)

func listAll(t *testing.T, s tier.Store, prefix, after string, limit int) (names []string) {
	t.Helper()
	for range 1000 {
		page, more, err := s.List(background(t), prefix, after, limit)
		if err != nil {
			t.Fatalf("list %s after %s: %v", prefix, after, err)
		}
		if limit > 0 && len(page) > limit {
			t.Fatalf("a page of %d, where %d were asked", len(page), limit)
		}
		for _, info := range page {
			names = append(names, info.Name)
		}
		if !more {
			return names
		}
		if len(page) == 0 {
			t.Fatal("an empty page, and more")
		}
		after = page[len(page)-1].Name
	}
	t.Fatal("it has no end")
	return nil
}

func testListPages(t *testing.T, env Env) {
	s := open(t, env)
	if names := listAll(t, s, "", "", 0); len(names) > 0 {
		t.Fatalf("a store that is not empty: %v", names)
	}
	// Signs around the slash: names have to come in the order of their bytes, not of their folders.
	want := []string{"a", "b/c", "b+c", "b-c", "b.c", "b.c2/d", "b0", "b0/x.y/z", "b/c+d/1", "b/d", "b/cc", "c/00000001-0000000a", "c/00000001-0000000b", "c/0000000a-00000000",
		"ca/1", "A", "_", "b=1"}
	for i, name := range want {
		if name == "b0" {
			continue // is a folder of another
		}
		put(t, s, name, content(uint64(i), int64(i)))
	}
	want = slices.DeleteFunc(want, func(n string) bool { return n == "b0" })
	slices.Sort(want)
	for _, limit := range []int{0, 1, 2, 3, 7, len(want), len(want) + 1, tier.MaxPage + 5} {
		if got := listAll(t, s, "", "", limit); !slices.Equal(got, want) {
			t.Errorf("pages of %d: %q, not %q", limit, got, want)
		}
	}
	for _, after := range []string{"a", "aa", "b", "b-", "b-c", "b/", "b/c", "b/c+", "b/zzz", "b0", "c/00000001-0000000a", "c/00000001-0000000b", "zzz"} {
		behind := slices.Clone(want)
		behind = slices.DeleteFunc(behind, func(n string) bool { return n <= after })
		if got := listAll(t, s, "", after, 4); !slices.Equal(got, behind) {
			t.Errorf("behind %s: %q, not %q", after, got, behind)
		}
	}
}

func testListPrefix(t *testing.T, env Env) {
	s := open(t, env)
	for _, name := range []string{"t1/0001/a", "t1/0001/b", "t1/0002/a", "t10/0001/a", "t2/0001/a"} {
		put(t, s, name, []byte("x"))
	}
	for prefix, want := range map[string][]string{
		"t1/":          {"t1/0001/a", "t1/0001/b", "t1/0002/a"},
		"t1":           {"t1/0001/a", "t1/0001/b", "t1/0002/a", "t10/0001/a"},
		"t1/0001":      {"t1/0001/a", "t1/0001/b"},
		"t1/0001/":     {"t1/0001/a", "t1/0001/b"},
		"t1/0001/a":    {"t1/0001/a"},
		"t1/0001/a/":   nil,
		"t3":           nil,
		"t1/0003/":     nil,
		"none/at/all/": nil,
	} {
		if got := listAll(t, s, prefix, "", 2); !slices.Equal(got, want) {
			t.Errorf("prefix %s: %q, not %q", prefix, got, want)
		}
	}
	if got := listAll(t, s, "t1/", "t1/0001/a", 1); !slices.Equal(got, []string{"t1/0001/b", "t1/0002/a"}) {
		t.Errorf("prefix and after: %q", got)
	}
	if got := listAll(t, s, "t1/", "t2", 1); len(got) > 0 {
		t.Errorf("behind the prefix: %q", got)
	}
	if got := listAll(t, s, "t2/", "t1", 1); len(got) != 1 {
		t.Errorf("after is before the prefix: %q", got)
	}
}

// testListMany lists more than a page, of names as the journal has them.
func testListMany(t *testing.T, env Env) {
	s := open(t, env)
	var want []string
	for i := range env.Many {
		want = append(want, fmt.Sprintf("%08x/%04x/%08x-%016x", 1+i%2, i%5, 3, i))
	}
	slices.Sort(want)
	var wg sync.WaitGroup
	for k := range 8 {
		wg.Go(func() {
			for i := k; i < len(want); i += 8 {
				if err := s.Put(background(t), want[i], bytes.NewReader([]byte("x")), 1, tier.PutOptions{}); err != nil {
					t.Errorf("put %s: %v", want[i], err)
					return
				}
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		return
	}
	for _, limit := range []int{0, env.Many/3 + 1} {
		if got := listAll(t, s, "", "", limit); !slices.Equal(got, want) {
			t.Errorf("in pages of %d: %d of %d objects", limit, len(got), len(want))
		}
	}
	behind := want[env.Many/2]
	if got := listAll(t, s, behind[:9], behind, 0); !slices.Equal(got, slices.DeleteFunc(slices.Clone(want), func(n string) bool { return n[:9] != behind[:9] || n <= behind })) {
		t.Errorf("behind %s: %d objects", behind, len(got))
	}
}

// testListWhileChanged pages through objects that stay while others come and go.
func testListWhileChanged(t *testing.T, env Env) {
	s := open(t, env)
	var stay []string
	for i := range 20 {
		name := fmt.Sprintf("l/%02d/stay", i)
		stay = append(stay, name)
		put(t, s, name, []byte("x"))
	}
	ctx, stop := context.WithCancel(background(t))
	var wg sync.WaitGroup
	wg.Go(func() {
		for k := 0; ctx.Err() == nil; k++ {
			name := fmt.Sprintf("l/%02d/go", k%20)
			put(t, s, name, []byte("y"))
			if err := s.Delete(context.WithoutCancel(ctx), name); err != nil {
				t.Errorf("delete: %v", err)
			}
		}
	})
	for range 5 {
		got := listAll(t, s, "l/", "", 3)
		if !slices.IsSorted(got) || len(slices.Compact(slices.Clone(got))) != len(got) {
			t.Errorf("out of order, or twice: %q", got)
		}
		got = slices.DeleteFunc(got, func(n string) bool { return !slices.Contains(stay, n) })
		if !slices.Equal(got, stay) {
			t.Errorf("of those that stay: %q", got)
		}
	}
	stop()
	wg.Wait()
}
