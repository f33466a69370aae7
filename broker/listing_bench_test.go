package broker

import (
	"fmt"
	"testing"
)

// One slice of a listing of 200,000 rows, which is what a loop or a lock is held for at once: 256 rows of groups or sessions, 64 of shared groups.
func BenchmarkListingSlice(b *testing.B) {
	const rows = 200_000
	tb := newTestBroker(b, 1, nil)
	l := tb.b.Local(0)
	for i := range rows {
		g, err := l.groupFor(tb.b.homes[0], groupKey{0, fmt.Sprint("group-", i)})
		if err != nil {
			b.Fatal(err)
		}
		g.addMember(&member{id: "m"})
	}
	for i := range rows / 20 {
		c := tb.connect(0, kept(fmt.Sprint("session-", i)))
		c.share(fmt.Sprint("g", i), 1, "t")
	}
	b.Run("groups", func(b *testing.B) {
		at, n := RowPlace{}, 0
		for b.Loop() {
			tb.b.Groups(0, at, 256, func(list []GroupDescription, next RowPlace, end bool) {
				if at = next; end {
					at = RowPlace{}
				}
				n += len(list)
			})
			l.Drain()
		}
		if n == 0 {
			b.Error("nothing is listed")
		}
	})
	b.Run("sessions", func(b *testing.B) {
		at, end := RowPlace{}, false
		for b.Loop() {
			if _, at, end = tb.b.Sessions(0, at, 256); end {
				at = RowPlace{}
			}
		}
	})
	b.Run("shared", func(b *testing.B) {
		at, end := 0, false
		for b.Loop() {
			if _, at, end = tb.b.SharedGroups(at, 64); end {
				at = 0
			}
		}
	})
}
