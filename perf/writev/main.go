//go:build linux

// Command writev measures what a fetch cannot cost less than: the processor time of sending a mapped file to a socket on loopback by writev, a
// header before each chunk, and nothing else. Run it in turn with sluice bench kafka consume: the ratio counts, not the figure.
//
//	go run ./perf/writev --dir /tmp/d --rounds 3
//
// The figures are those of the sending thread alone. With --pread each chunk is read into a buffer first, with --drop the process lets go of
// the pages behind it and faults them in anew, as the log does when it keeps its resident memory low.
package main

import (
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	var o options
	flag.StringVar(&o.dir, "dir", os.TempDir(), "where the file is made")
	flag.IntVar(&o.size, "size", 256<<20, "its bytes, a multiple of those of a chunk")
	flag.IntVar(&o.chunk, "chunk", 1<<20, "bytes of a chunk")
	flag.IntVar(&o.passes, "passes", 8, "how often the file is sent in a round")
	flag.BoolVar(&o.pread, "pread", false, "read into a buffer instead of mapping")
	flag.BoolVar(&o.drop, "drop", false, "let go of each chunk behind it")
	rounds := flag.Int("rounds", 3, "rounds; the median is told too")
	flag.Parse()
	var all []float64
	for range *rounds {
		cpu, rate, err := o.round()
		if err != nil {
			fmt.Fprintln(os.Stderr, "writev:", err)
			os.Exit(1)
		}
		fmt.Printf("%.1f µs of CPU a MB, %.0f MB/s\n", cpu, rate) //nolint:forbidigo // this is the answer
		all = append(all, cpu)
	}
	slices.Sort(all)
	fmt.Printf("median %.1f µs/MB\n", all[len(all)/2]) //nolint:forbidigo // the same
}

type options struct {
	dir                 string
	size, chunk, passes int
	pread, drop         bool
}

// round makes the file, sends it, and gives the CPU time in µs a MB and the MB a second.
func (o *options) round() (cpu, rate float64, err error) {
	if o.chunk <= 0 || o.size < o.chunk || o.size%o.chunk != 0 {
		return 0, 0, errors.New("the file is to have whole chunks")
	}
	f, err := os.OpenFile(filepath.Join(o.dir, "writev.tmp"), os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, f.Close(), os.Remove(f.Name())) }()
	block := make([]byte, 1<<20)
	for i := range block {
		block[i] = byte(i * 7)
	}
	for at := 0; at < o.size; at += len(block) {
		if _, err := f.WriteAt(block, int64(at)); err != nil {
			return 0, 0, err
		}
	}
	m, err := unix.Mmap(int(f.Fd()), 0, o.size, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, unix.Munmap(m)) }()
	from, to, err := pair()
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, from.Close()) }()
	done := make(chan error, 1)
	go func() { done <- sink(to) }()
	defer func() { err = errors.Join(err, unix.Shutdown(int(from.Fd()), unix.SHUT_WR), <-done) }()
	return o.send(f, from, m)
}

// send sends the file so often, and counts what its thread takes.
func (o *options) send(f, to *os.File, m []byte) (cpu, rate float64, err error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := unix.Madvise(m, unix.MADV_POPULATE_READ); err != nil {
		return 0, 0, err
	}
	head, buf := make([]byte, 100), make([]byte, o.chunk)
	var before, after unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_THREAD, &before); err != nil {
		return 0, 0, err
	}
	start := time.Now()
	for range o.passes {
		for at := 0; at < o.size; at += o.chunk {
			p := m[at:][:o.chunk]
			if o.pread {
				if _, err := unix.Pread(int(f.Fd()), buf, int64(at)); err != nil {
					return 0, 0, err
				}
				p = buf
			}
			if err := o.chunkOut(int(to.Fd()), head, p); err != nil {
				return 0, 0, err
			}
		}
	}
	took := time.Since(start)
	if err := unix.Getrusage(unix.RUSAGE_THREAD, &after); err != nil {
		return 0, 0, err
	}
	mb := float64(o.size) * float64(o.passes) / 1e6
	used := after.Utime.Nano() + after.Stime.Nano() - before.Utime.Nano() - before.Stime.Nano()
	return float64(used) / 1e3 / mb, mb / took.Seconds(), nil
}

// chunkOut sends one chunk. The socket waits for room.
func (o *options) chunkOut(fd int, head, p []byte) error {
	if o.drop {
		if err := unix.Madvise(p, unix.MADV_POPULATE_READ); err != nil {
			return err
		}
		defer func() { _ = unix.Madvise(p, unix.MADV_DONTNEED) }()
	}
	rest := [][]byte{head, p}
	for len(rest) > 0 {
		n, err := unix.Writev(fd, rest)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
		for len(rest) > 0 && n >= len(rest[0]) {
			n, rest = n-len(rest[0]), rest[1:]
		}
		if len(rest) > 0 {
			rest[0] = rest[0][max(n, 0):]
		}
	}
	return nil
}

// sink reads all that comes, as the generator does.
func sink(f *os.File) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	buf := make([]byte, 1<<20)
	for {
		n, err := unix.Read(int(f.Fd()), buf)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return errors.Join(err, f.Close())
		}
		if n == 0 && err == nil {
			return f.Close()
		}
	}
}

// pair is both ends of a connection over loopback, as blocking sockets.
func pair() (a, b *os.File, err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, nil, err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	dialed, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		return nil, nil, err
	}
	accepted, err := l.Accept()
	if err != nil {
		return nil, nil, errors.Join(err, dialed.Close())
	}
	a, err = dialed.(*net.TCPConn).File()
	b, err2 := accepted.(*net.TCPConn).File()
	if err = errors.Join(err, err2, dialed.Close(), accepted.Close()); err != nil {
		return nil, nil, err
	}
	return a, b, errors.Join(unix.SetNonblock(int(a.Fd()), false), unix.SetNonblock(int(b.Fd()), false))
}
