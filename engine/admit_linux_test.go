package engine

import (
	"net"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// BenchmarkRefuse is what a connection costs that is accepted and closed for its address: CPU of the accepting thread alone, without the client's
// part of the handshake, in cpu-µs/op. What the kernel does for it in the client's thread, over loopback, is not in it.
func BenchmarkRefuse(b *testing.B) {
	e, err := New(Options{Loops: 1})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = e.Close(b.Context()) })
	ln, err := newListener(e, ListenerOptions{Address: "127.0.0.1:0", Handler: echo(), Admit: func(netip.Addr) bool { return false }})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(ln.shut)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var spent time.Duration
	for done := 0; done < b.N; {
		n := min(acceptBatch, b.N-done)
		clients := make([]net.Conn, n)
		for i := range clients {
			if clients[i], err = net.Dial("tcp", ln.addr.String()); err != nil {
				b.Fatal(err)
			}
		}
		from := threadCPU(b)
		for taken := 0; taken < n; {
			ln.tokens = acceptBatch
			if err := ln.raw.Control(func(fd uintptr) { ln.take(int(fd)) }); err != nil {
				b.Fatal(err)
			}
			for _, a := range ln.batch {
				ln.admit(a)
			}
			taken += len(ln.batch)
			ln.batch = ln.batch[:0]
		}
		spent += threadCPU(b) - from
		done += n
		for _, c := range clients {
			_ = c.Close()
		}
	}
	if refused := e.Stats().Refused.Banned; refused != int64(b.N) {
		b.Fatalf("%d of %d refused", refused, b.N)
	}
	b.ReportMetric(float64(spent.Nanoseconds())/1e3/float64(b.N), "cpu-µs/op")
}

func threadCPU(b *testing.B) time.Duration {
	b.Helper()
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts); err != nil {
		b.Fatal(err)
	}
	return time.Duration(ts.Nano())
}
