//go:build linux

// Command flush measures what a produce request that waits for stable storage cannot cost less than: the processor time of taking a request from
// a socket, handing it to a thread that writes it with O_DIRECT and O_DSYNC, being woken by that thread, and sending an answer, with nothing in
// it that parses, checks, indexes or counts. With --out the same bytes go to a reader besides, as to a consumer that follows.
//
//	go run ./perf/flush --dir /var/tmp --in 5600 --records 5
//
// Two threads do the work, and the figures are theirs; the producer and the consumer are threads whose time is not counted.
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
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

const block = 4096

type options struct {
	dir     string
	in, out int
	records int
	cycles  int
	every   time.Duration
	failed  atomic.Bool // neither thread waits for the other any more
}

func main() {
	var o options
	flag.StringVar(&o.dir, "dir", ".", "where the file is made; a file system with O_DIRECT")
	flag.IntVar(&o.in, "in", 1120, "bytes of the requests that share a flush")
	flag.IntVar(&o.out, "out", 0, "bytes that a consumer is sent after each")
	flag.IntVar(&o.records, "records", 1, "records in them: the figure is divided by it")
	flag.IntVar(&o.cycles, "cycles", 4000, "flushes in a round")
	flag.DurationVar(&o.every, "every", 0, "time from one to the next; 0: as fast as they come")
	rounds := flag.Int("rounds", 3, "rounds; the median is told too")
	flag.Parse()
	var all []float64
	for range *rounds {
		cpu, took, err := o.round()
		if err != nil {
			fmt.Fprintln(os.Stderr, "flush:", err)
			os.Exit(1)
		}
		fmt.Printf("%.1f µs of CPU a flush, %.2f a record; %.0f µs each\n", cpu, cpu/float64(o.records), took) //nolint:forbidigo // this is the answer
		all = append(all, cpu/float64(o.records))
	}
	slices.Sort(all)
	fmt.Printf("median %.2f µs a record\n", all[len(all)/2]) //nolint:forbidigo // the same
}

// round gives the CPU time and the time of a flush, in µs.
func (o *options) round() (cpu, took float64, err error) {
	name := filepath.Join(o.dir, "flush.tmp")
	size := (o.in + block - 1) / block * block
	if err := os.WriteFile(name, make([]byte, 64*size), 0o600); err != nil { // its blocks are there, as in a segment that was made before
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, os.Remove(name)) }()
	fd, err := unix.Open(name, unix.O_RDWR|unix.O_DIRECT|unix.O_DSYNC|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, unix.Close(fd)) }()
	client, server, err := pair()
	if err != nil {
		return 0, 0, err
	}
	reader, feed, err := pair()
	if err != nil {
		return 0, 0, err
	}
	toDisk, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		return 0, 0, err
	}
	back, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		return 0, 0, err
	}
	used := make(chan result, 2)
	clients := make(chan error, 2)
	buf, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON) // begins with a page, as O_DIRECT wants it
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, unix.Munmap(buf)) }()
	work := func(f func() error) {
		r := measured(f)
		if r.err != nil {
			o.failed.Store(true)
			r.err = errors.Join(r.err, signal(toDisk), signal(back), unix.Shutdown(server, unix.SHUT_RDWR))
		}
		used <- r
	}
	go work(func() error { return o.loop(server, feed, toDisk, back, buf) })
	go work(func() error { return o.disk(fd, toDisk, back, buf) })
	go func() { clients <- o.drink(reader) }()
	start := time.Now()
	go func() { clients <- o.ask(client) }()
	var sum time.Duration
	for range 2 {
		r := <-used
		sum += r.cpu
		err = errors.Join(err, r.err)
	}
	elapsed := time.Since(start)
	for _, f := range []int{server, feed} {
		err = errors.Join(err, unix.Shutdown(f, unix.SHUT_RDWR))
	}
	err = errors.Join(err, <-clients, <-clients)
	for _, f := range []int{client, server, reader, feed, toDisk, back} {
		err = errors.Join(err, unix.Close(f))
	}
	return float64(sum.Nanoseconds()) / 1e3 / float64(o.cycles), float64(elapsed.Microseconds()) / float64(o.cycles), err
}

type result struct {
	cpu time.Duration
	err error
}

// measured runs f on a thread of its own and tells what that used.
func measured(f func() error) result {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var before, after unix.Rusage
	err := unix.Getrusage(unix.RUSAGE_THREAD, &before)
	err = errors.Join(err, f(), unix.Getrusage(unix.RUSAGE_THREAD, &after))
	return result{time.Duration(after.Utime.Nano() + after.Stime.Nano() - before.Utime.Nano() - before.Stime.Nano()), err}
}

// loop takes requests, has them written, answers, and feeds the consumer.
func (o *options) loop(server, feed, toDisk, back int, buf []byte) error {
	var answer [60]byte
	for range o.cycles {
		if err := readFull(server, buf[:o.in]); err != nil {
			return err
		}
		if err := signal(toDisk); err != nil {
			return err
		}
		if err := o.wait(back); err != nil {
			return err
		}
		if err := writeFull(server, answer[:]); err != nil {
			return err
		}
		if err := writeFull(feed, buf[:min(o.out, len(buf))]); err != nil {
			return err
		}
	}
	return nil
}

func (o *options) disk(fd, toDisk, back int, buf []byte) error {
	for n := range o.cycles {
		if err := o.wait(toDisk); err != nil {
			return err
		}
		if _, err := unix.Pwrite(fd, buf, int64(n%64*len(buf))); err != nil {
			return err
		}
		if err := signal(back); err != nil {
			return err
		}
	}
	return nil
}

// ask is the producer.
func (o *options) ask(fd int) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	request, answer := make([]byte, o.in), make([]byte, 60)
	next := time.Now()
	for range o.cycles {
		if o.every > 0 {
			next = next.Add(o.every)
			left := unix.NsecToTimespec(max(time.Until(next), 0).Nanoseconds())
			if err := unix.Nanosleep(&left, nil); err != nil && !errors.Is(err, unix.EINTR) {
				return err
			}
		}
		if err := writeFull(fd, request); err != nil {
			return err
		}
		if err := readFull(fd, answer); err != nil {
			return err
		}
	}
	return nil
}

// drink is the consumer.
func (o *options) drink(fd int) error {
	buf := make([]byte, 1<<20)
	for {
		n, err := unix.Read(fd, buf)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
		if n == 0 && err == nil {
			return nil
		}
	}
}

func signal(fd int) error { return writeFull(fd, []byte{1, 0, 0, 0, 0, 0, 0, 0}) }

func (o *options) wait(fd int) error {
	var b [8]byte
	if err := readFull(fd, b[:]); err != nil || !o.failed.Load() {
		return err
	}
	return errors.New("the other thread has failed")
}

func readFull(fd int, b []byte) error {
	for len(b) > 0 {
		n, err := unix.Read(fd, b)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return err
		}
		if n == 0 {
			return errors.New("the other end is gone")
		}
		b = b[n:]
	}
	return nil
}

func writeFull(fd int, b []byte) error {
	for len(b) > 0 {
		n, err := unix.Write(fd, b)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
		b = b[max(n, 0):]
	}
	return nil
}

// pair is both ends of a connection over loopback, as blocking sockets without Nagle's delay.
func pair() (a, b int, err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	dialed, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		return 0, 0, err
	}
	accepted, err := l.Accept()
	if err != nil {
		return 0, 0, errors.Join(err, dialed.Close())
	}
	var fds [2]int
	for i, c := range []net.Conn{dialed, accepted} {
		f, ferr := c.(*net.TCPConn).File()
		if ferr != nil {
			return 0, 0, errors.Join(err, ferr)
		}
		if fds[i], ferr = unix.Dup(int(f.Fd())); ferr == nil {
			unix.CloseOnExec(fds[i])
			ferr = errors.Join(unix.SetNonblock(fds[i], false), unix.SetsockoptInt(fds[i], unix.IPPROTO_TCP, unix.TCP_NODELAY, 1))
		}
		err = errors.Join(err, ferr, f.Close(), c.Close())
	}
	return fds[0], fds[1], err
}
