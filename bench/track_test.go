package bench

import (
	"testing"

	"pgregory.net/rapid"
)

// TestTrackModel compares a track with a list of all that came.
func TestTrackModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var got track
		came := map[uint64]bool{}
		next := uint64(0)
		for _, seq := range rapid.SliceOfN(rapid.Uint64Range(0, 300), 1, 300).Draw(t, "deliveries") {
			want := seenInOrder
			switch {
			case came[seq]:
				want = seenDuplicate
			case seq < next:
				want = seenLate
			case seq > next:
				want = seenGap
			}
			came[seq] = true
			next = max(next, seq+1)
			if v := got.see(seq, int64(seq)*2e8); v != want {
				t.Fatalf("number %d: %d, want %d", seq, v, want)
			}
		}
		sent := rapid.Uint64Range(next, next+100).Draw(t, "sent")
		open := map[uint64]bool{sent: true}
		wantLost, wantExcused := uint64(0), uint64(0)
		for _, seq := range rapid.SliceOf(rapid.Uint64Range(0, 400)).Draw(t, "unanswered") {
			open[seq] = true
		}
		for seq := range sent {
			if !came[seq] && open[seq] {
				wantExcused++
			} else if !came[seq] {
				wantLost++
			}
		}
		lost, excused := got.lost(sent, open)
		when := uint64(0)
		got.when(sent, open, 0, func(_ int64, n uint64) { when += n })
		if when != lost {
			t.Fatalf("%d lost, and moments of %d", lost, when)
		}
		if lost != wantLost || excused != wantExcused || got.fresh() != uint64(len(came)) {
			t.Fatalf("lost %d, %d; want %d, %d; fresh %d of %d", lost, excused, wantLost, wantExcused, got.fresh(), len(came))
		}
	})
}

func TestStamp(t *testing.T) {
	b := make([]byte, 64)
	want := stamp{run: 1, publisher: 2, seq: 3, intended: -4}
	want.put(b)
	if got, ok := readStamp(b, 64); !ok || got != want {
		t.Fatalf("%+v, %v", got, ok)
	}
	for i := range b {
		b[i] ^= 1
		if _, ok := readStamp(b, 64); ok {
			t.Errorf("a flipped bit in byte %d is not seen", i)
		}
		b[i] ^= 1
	}
	if _, ok := readStamp(b[:63], 64); ok {
		t.Error("a cut payload is not seen")
	}
	if n := testing.AllocsPerRun(100, func() { want.put(b); readStamp(b, 64) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
