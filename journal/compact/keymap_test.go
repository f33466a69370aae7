package compact

import (
	"encoding/binary"
	"testing"

	"github.com/sluicemq/sluice/journal/record"
)

func TestKeyMap(t *testing.T) {
	m := newKeyMap(1000, 1<<20)
	key := func(i int) []byte { return binary.AppendUvarint(nil, uint64(i)) }
	n := 0
	for ; n < 1<<20; n++ {
		if !m.put(key(n), record.Offset(1000+n)) {
			break
		}
	}
	if want := 1 << 20 / keySlotSize / 4 * 3; n != want {
		t.Errorf("it took %d keys, want %d", n, want)
	}
	if !m.put(key(3), record.Offset(5000+n)) {
		t.Error("a key that is there does not fit")
	}
	for i := range n {
		last := record.Offset(1000 + i)
		if i == 3 {
			last = record.Offset(5000 + n)
		}
		if !m.after(key(i), last-1) || m.after(key(i), last) {
			t.Fatalf("key %d is lost", i)
		}
	}
	if m.after(key(n), 0) {
		t.Error("a key that is not there")
	}
	if m.put(key(4), 1000+1<<keyOffsetBits) {
		t.Error("an offset beyond what a slot takes")
	}
}
