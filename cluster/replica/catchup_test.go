package replica

import (
	"flag"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/internal/vfs"
	"github.com/sluicemq/sluice/journal"
	"github.com/sluicemq/sluice/journal/record"
)

var catchUpBytes = flag.Int("replica.catchup", 32<<20, "bytes that BenchmarkCatchUp has a follower get")

// A follower that begins with nothing gets what a leader has: how fast.
//
//	TMPDIR=/dev/shm go test ./cluster/replica -run - -bench CatchUp -benchtime 1x -replica.catchup 1073741824
func BenchmarkCatchUp(b *testing.B) {
	for _, size := range []int{1 << 10, 16 << 10, 256 << 10} {
		b.Run(fmt.Sprintf("%dKiB", size>>10), func(b *testing.B) { catchUp(b, size, *catchUpBytes) })
	}
}

func catchUp(b *testing.B, size, total int) {
	b.Helper()
	production := func(o *journal.Options) {
		*o = journal.Options{Dir: o.Dir, FS: o.FS, RewriteRate: -1}
	}
	for range b.N {
		dir := b.TempDir()
		b.StopTimer()
		leader := newNode(b, 1, options{fs: vfs.OS{}, dir: filepath.Join(dir, "1"), log: production})
		leader.lead(1)
		leader.opens()
		held, err := leader.log.Scan(journal.Position{}) // what lies ahead of it stays in the log
		if err != nil {
			b.Fatal(err)
		}
		one := batch("x", size)
		for i := range total / size {
			leader.append(i%testShards, one)
		}
		follower := newNode(b, 2, options{fs: vfs.OS{}, dir: filepath.Join(dir, "2"), log: production})
		connect(b, leader, follower)
		b.StartTimer()
		begin := time.Now()
		follower.r.Follow(1, 1)
		testx.Eventually(b, 10*soon, func() bool {
			if len(follower.told()) > 0 {
				b.Fatal(follower.told())
			}
			var missing uint64
			for i := range testShards {
				x, y := leader.b.Replica(record.ShardID(i)), follower.b.Replica(record.ShardID(i))
				missing += x.Durable - y.Applied
			}
			return missing == 0
		}, "the follower has all")
		b.ReportMetric(float64(total)/1e6/time.Since(begin).Seconds(), "MB/s")
		b.StopTimer()
		held.Close()
	}
}
