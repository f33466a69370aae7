package journal

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/journal/record"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestAppendFetchReopen(t *testing.T) {
	for _, mode := range []Durability{Sync, Async} {
		t.Run(mode.String(), func(t *testing.T) {
			o := Options{Dir: t.TempDir(), Durability: mode, SegmentBytes: 1 << 20, TailBytes: 256 << 10, GroupBytesMax: 64 << 10}
			l := open(t, o)
			next := record.Offset(0)
			for range 100 {
				g := recordsFrame(nil, 7, next, 3, 5000)
				g = recordsFrame(g, 8, next, 3, 1000)
				if err := l.src.commit(t, g); err != nil {
					t.Fatal(err)
				}
				next += 3
			}
			check := func(l *opened) {
				t.Helper()
				for _, p := range []record.PartitionID{7, 8} {
					for _, from := range []record.Offset{0, 1, 150, 299} {
						got := offsets(t, l.Log, p, from)
						if len(got) != int(300-from) || got[0] != from || got[len(got)-1] != 299 {
							t.Fatalf("partition %d from %d: %d offsets", p, from, len(got))
						}
					}
				}
			}
			check(l)
			testx.Eventually(t, waitFor, func() bool { return l.Stats().Segments.Load() >= 2 })
			l.close(t)
			l = open(t, o)
			if len(l.frames) != 200 {
				t.Fatalf("replayed %d frames", len(l.frames))
			}
			check(l)
			l.close(t)
		})
	}
}
