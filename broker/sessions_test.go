package broker

import (
	"fmt"
	"math/rand/v2"
	"testing"
)

// The table answers as a map does, whatever is entered, replaced and taken out.
func TestSessionTableIsAMap(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	var table sessionTable
	model := make(map[sessionKey]*Session)
	for range 20_000 {
		k := sessionKey{uint32(r.IntN(3)), fmt.Sprint(r.IntN(500))}
		if got := table.get(k); got != model[k] {
			t.Fatalf("%v: %p, want %p", k, got, model[k])
		}
		switch s := (&Session{tenant: k.tenant, id: k.id}); r.IntN(4) {
		case 0, 1:
			table.set(s)
			model[k] = s
		case 2:
			table.remove(s) // not the one that is there
		default:
			if have := model[k]; have != nil {
				table.remove(have)
				delete(model, k)
			}
		}
	}
	if n := table.table.Len(); n != len(model) || len(table.rows)-len(table.free) != n {
		t.Errorf("%d entries, %d rows, %d free, want %d", n, len(table.rows), len(table.free), len(model))
	}
}
