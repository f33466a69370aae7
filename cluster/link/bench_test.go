package link

import (
	"fmt"
	"runtime"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/sluicemq/sluice/alloc"
	"github.com/sluicemq/sluice/internal/testx"
)

// pipe is two nodes and a replication channel from one to the other.
type pipe struct {
	a, b *node
	ch   *Channel
	got  atomic.Int64
}

func newPipe(t testing.TB, with func(*Options)) *pipe {
	t.Helper()
	p := &pipe{}
	p.a = newNode(t, 1, with, nil)
	p.b = newNode(t, 2, with, func(m *Mesh) {
		m.Handle(KindReplication, Messages(func(_ NodeID, m Message) {
			p.got.Add(1)
			m.Release()
		}))
	})
	join(t, p.a, p.b)
	var err error
	if p.ch, err = p.a.Open(2, KindReplication, nil, nil); err != nil {
		t.Fatal(err)
	}
	return p
}

// send sends n messages of block's bytes and waits until they are received.
func (p *pipe) send(t testing.TB, block *alloc.Block, n int) {
	t.Helper()
	want := p.got.Load() + int64(n)
	for range n {
		block.Retain()
		if err := p.ch.SendRefWait(block, block.Bytes()); err != nil {
			t.Fatal(err)
		}
	}
	for p.got.Load() < want {
		runtime.Gosched()
	}
}

// A frame of replication costs no allocation, sent or received.
func TestFramesDoNotAllocate(t *testing.T) {
	if testx.RaceEnabled {
		t.Skip("the race detector allocates")
	}
	c := newCerts(t, 1, 2)
	for name, with := range map[string]func(*Options){
		"plain":      nil,
		"tls":        func(o *Options) { o.TLS = c.source(t, uint32(o.ID)) },
		"compressed": func(o *Options) { o.Limits = map[Kind]Limits{KindReplication: {Compress: true}} },
	} {
		t.Run(name, func(t *testing.T) {
			p := newPipe(t, with)
			for _, size := range []int{100, 4 << 10, 64 << 10} {
				block := alloc.CopyBlock(pattern(size, 1))
				p.send(t, block, 2000)
				const n = 3000
				var before, after runtime.MemStats
				runtime.ReadMemStats(&before)
				p.send(t, block, n)
				runtime.ReadMemStats(&after)
				// A collection empties pools, which are filled again: that is not by frame.
				most := 0.1
				if name == "tls" {
					most += float64(size)/(16<<10) + 0.2 // crypto/tls makes one of 24 bytes for each record that it reads
				}
				if each := float64(after.Mallocs-before.Mallocs) / n; each > most {
					t.Errorf("%d bytes: %.3f allocations a frame", size, each)
				}
				block.Release()
			}
		})
	}
}

func cpu() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkReplication has both ends in this process: what it tells of CPU is of sender and receiver together.
func BenchmarkReplication(b *testing.B) {
	c := newCerts(b, 1, 2)
	for _, way := range []struct {
		name string
		with func(*Options)
	}{
		{"plain", nil},
		{"tls", func(o *Options) { o.TLS = c.source(b, uint32(o.ID)) }},
		{"s2", func(o *Options) { o.Limits = map[Kind]Limits{KindReplication: {Compress: true}} }},
	} {
		for _, size := range []int{100, 1 << 10, 16 << 10, 64 << 10, 256 << 10} {
			b.Run(fmt.Sprintf("%s/%d", way.name, size), func(b *testing.B) {
				p := newPipe(b, way.with)
				block := alloc.CopyBlock(pattern(size, 1))
				defer block.Release()
				p.send(b, block, 100)
				b.SetBytes(int64(size))
				b.ReportAllocs()
				writes, began := p.a.Stats().Writes, cpu()
				b.ResetTimer()
				p.send(b, block, b.N)
				b.StopTimer()
				used := cpu() - began
				b.ReportMetric(float64(used.Microseconds())/float64(b.N), "cpu-us/frame")
				b.ReportMetric(float64(used.Microseconds())/(float64(b.N)*float64(size)/(1<<20)), "cpu-us/MiB")
				b.ReportMetric(float64(b.N)/float64(max(p.a.Stats().Writes-writes, 1)), "frames/write")
			})
		}
	}
}

// BenchmarkCall is a request and its answer, one at a time.
func BenchmarkCall(b *testing.B) {
	a := newNode(b, 1, nil, nil)
	n := newNode(b, 2, nil, func(m *Mesh) { m.Serve(1, func(r *Request) { r.Reply(r.Body.Bytes()) }) })
	join(b, a, n)
	body := make([]byte, 100)
	began := cpu()
	b.ResetTimer()
	for range b.N {
		m, err := a.Call(b.Context(), 2, 1, body)
		if err != nil {
			b.Fatal(err)
		}
		m.Release()
	}
	b.ReportMetric(float64((cpu()-began).Microseconds())/float64(b.N), "cpu-us/call")
}
