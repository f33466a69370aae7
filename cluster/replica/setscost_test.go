package replica

import (
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/sluicemq/sluice/internal/testx"
)

// What sets cost that have no traffic, on the leader and on who follows, beside one that has: processor time of both nodes together.
//
//	go test ./cluster/replica -run - -bench IdleSets -benchtime 2s
func BenchmarkIdleSets(b *testing.B) {
	for _, size := range []int{100, 64 << 10} {
		for _, more := range []int{0, 5, 15} {
			b.Run(fmt.Sprintf("batch=%d/idle=%d", size, more), func(b *testing.B) { idleSets(b, size, more) })
		}
	}
}

func idleSets(b *testing.B, size, more int) {
	b.Helper()
	leader, follower := newNode(b, 1, options{log: large, more: more}), newNode(b, 2, options{log: large, more: more})
	connect(b, leader, follower)
	for k := range 1 + more {
		leader.leadSet(k, 1)
		leader.opensSet(k)
		follower.sets.Of(k).Follow(1, 1)
	}
	for k := range 1 + more {
		sameSet(b, k, leader, follower)
	}
	one := batch("x", size)
	cpu := processorTime(b)
	for b.Loop() {
		leader.append(0, one)
		if size < 1<<10 { // a group for each
			testx.Receive(b, leader.sink.more, soon)
		}
	}
	sameSet(b, 0, leader, follower)
	took := processorTime(b) - cpu
	b.ReportMetric(float64(took.Nanoseconds())/float64(b.N), "cpu-ns/op")
	if size > 1<<10 {
		b.ReportMetric(took.Seconds()*1e6/(float64(b.N)*float64(size)/(1<<20)), "cpu-µs/MiB")
	}
}

func processorTime(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
