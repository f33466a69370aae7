package replica

import (
	"bytes"
	"encoding/binary"
	"slices"
	"testing"

	"github.com/sluicemq/sluice/broker"
)

// A leader's history is read as it was written, and what is none is refused.
func TestHistories(t *testing.T) {
	want := []history{{end: 7}, {epochs: []broker.EpochStart{{Epoch: 1, First: 1}, {Epoch: 4, First: 300}}, end: 1 << 40}}
	var b []byte
	for i := range want {
		b = appendHistory(b, &want[i])
	}
	got, err := decodeHistories(b, len(want))
	if err != nil || !slices.Equal(got[1].epochs, want[1].epochs) || got[0].end != 7 || got[1].end != 1<<40 {
		t.Fatalf("%+v, %v", got, err)
	}
	for cut := range len(b) {
		if _, err := decodeHistories(b[:cut], len(want)); err == nil {
			t.Errorf("cut at %d: it is read", cut)
		}
	}
	many := binary.AppendUvarint(nil, 1<<60)
	if _, err := decodeHistories(many, 1); err == nil {
		t.Error("2^60 epochs are read")
	}
	if e := epochAt(want[1].epochs, 299); e != 1 {
		t.Errorf("frame 299 is of epoch %d", e)
	}
	if e := epochAt(want[1].epochs, 300); e != 4 {
		t.Errorf("frame 300 is of epoch %d", e)
	}
}

func FuzzWire(f *testing.F) {
	f.Add(appendPair(appendPair(nil, 1, 7), 3, 1<<50))
	f.Add(appendHistory(nil, &history{epochs: []broker.EpochStart{{Epoch: 1, First: 1}}, end: 9}))
	f.Add(appendHead(nil, 0, 3))
	f.Add(appendHead(nil, 7, 3))
	set := Set{Number: 7, First: 2, Shards: 4}
	f.Fuzz(func(t *testing.T, b []byte) {
		if set, epoch, err := decodeHead(b); err == nil && !bytes.HasPrefix(b, appendHead(nil, set, epoch)) {
			t.Errorf("%x is a head of set %d in epoch %d", b, set, epoch)
		}
		_, _ = decodeHistories(b, 3)
		_, _ = decodeFrom(b, 3)
		_ = eachPair(b, &set, func(slot int, _ uint64) {
			if slot < 0 || slot >= set.Shards {
				t.Errorf("slot %d of a set of %d shards", slot, set.Shards)
			}
		})
	})
}

// What is marked is told once, however often it was marked.
func TestMarks(t *testing.T) {
	m := newMarks(130)
	for _, s := range []int{0, 63, 64, 129, 64} {
		m.mark(s)
		m.bell.ring()
	}
	var got []int
	m.take(func(s int) { got = append(got, s) })
	m.take(func(s int) { got = append(got, s) })
	if !slices.Equal(got, []int{0, 63, 64, 129}) {
		t.Errorf("told of %v", got)
	}
	if len(m.bell) != 1 {
		t.Error("the bell does not ring")
	}
}
