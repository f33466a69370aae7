package carry

import (
	"io"
	"math"
	"net"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sluicemq/sluice/internal/testx"
)

// BenchmarkEcho compares a client that is carried with one of the leader's own: the CPU of client, both nodes and the link for an echo of 64 bytes
// (cpu-ns/op), with so many clients and so many messages under way of each.
func BenchmarkEcho(b *testing.B) {
	for _, way := range []string{"direct", "carried"} {
		for _, load := range []struct {
			name          string
			clients, deep int
		}{{"1x1", 1, 1}, {"64x1", 64, 1}, {"64x64", 64, 64}} {
			b.Run(way+"/"+load.name, func(b *testing.B) {
				leads, carries, _ := two(b, &talk{})
				at := leads
				if way == "carried" {
					at = carries
				}
				var conns []net.Conn
				for range load.clients {
					c := at.dial()
					_ = c.SetDeadline(time.Now().Add(time.Minute))
					write(b, c, "hello")
					wantRead(b, c, "hello")
					conns = append(conns, c)
				}
				each := max(b.N/load.clients/load.deep, 1)
				before := cpu(b)
				b.ResetTimer()
				var wg sync.WaitGroup
				for _, c := range conns {
					wg.Go(func() {
						msg := make([]byte, 64*load.deep)
						for range each {
							if _, err := c.Write(msg); err != nil {
								b.Error(err)
								return
							}
							if _, err := io.ReadFull(c, msg); err != nil {
								b.Error(err)
								return
							}
						}
					})
				}
				wg.Wait()
				b.StopTimer()
				b.ReportMetric(float64((cpu(b)-before).Nanoseconds())/float64(each*load.clients*load.deep), "cpu-ns/op")
			})
		}
	}
}

func cpu(t testing.TB) time.Duration {
	t.Helper()
	var ru syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &ru); err != nil {
		t.Fatal(err)
	}
	return time.Duration(ru.Utime.Nano() + ru.Stime.Nano())
}

// TestIdle: a carried client that does nothing costs both nodes together so much heap, and no goroutine.
func TestIdle(t *testing.T) {
	if testx.RaceEnabled {
		t.Skip("the race detector's memory is not ours")
	}
	leads, carries, _ := two(t, &talk{})
	talk := func(n int) (all []net.Conn) {
		for range n {
			c := carries.dial()
			write(t, c, "hello")
			wantRead(t, c, "hello")
			all = append(all, c)
		}
		return all
	}
	const clients = 500
	_ = talk(clients) // tables have grown
	heap := func() (bytes, conns int64) {
		testx.Eventually(t, patience, func() bool { return leads.d.Stats().HeldBytes == 0 && carries.d.Stats().HeldBytes == 0 }, "nothing is held")
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc), int64(runtime.NumGoroutine())
	}
	// The test's own end of a connection is a part of what is measured: it is taken from clients that the leader serves itself. What else the process lets go of
	// or takes meanwhile is in it too, so what counts is the middle one of three rounds.
	var all [][]net.Conn
	var extras []int64
	goroutines := int64(math.MaxInt64)
	for range 3 {
		before, _ := heap()
		own := make([]net.Conn, 0, clients)
		for range clients {
			c := leads.dial()
			write(t, c, "hello")
			wantRead(t, c, "hello")
			own = append(own, c)
		}
		direct, had := heap()
		carried := talk(clients)
		after, now := heap()
		all = append(all, own, carried)
		extras, goroutines = append(extras, ((after-direct)-(direct-before))/clients), min(goroutines, now-had)
	}
	slices.Sort(extras)
	extra := extras[1]
	t.Logf("a carried client takes %d bytes of heap more than one of the leader's own", extra)
	if extra > 2500 {
		t.Errorf("%d bytes of heap more for each carried client", extra)
	}
	if goroutines > 10 {
		t.Errorf("%d goroutines more for %d clients", goroutines, clients)
	}
	runtime.KeepAlive(all)
}
