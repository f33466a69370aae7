package engine

import (
	"errors"
	"io"
	"os"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// epollHere tells that this system has the epoll transport.
const epollHere = true

const (
	eventsPerWait = 256

	// readsPerTurn bounds what a flood is read per turn: a read that filled the buffer is repeated so often, then others have their turn.
	readsPerTurn = 2
)

// poller is the epoll instance of a loop. Connections over netpoll do not stand in it: their events are posted.
//
// A loop that has nothing to do parks as any goroutine does, its epoll descriptor being one that the runtime's own poller waits for. To block
// in epoll_wait instead is what such loops usually do, and costs more. Server CPU in us per echo of 64 bytes, two loops, two cores shared
// with the client, medians of four (BenchmarkPaced: 2,000 a second, nothing to batch; BenchmarkEcho: 1, 64 and 64 connections, 1, 1 and 64
// messages under way):
//
//	GOMAXPROCS                      2: paced  1x1   64x1  64x64    3: paced  1x1   64x1  64x64
//	blocking system call             155      33    12.3  0.22        121     26    11.3  0.18
//	poll, then that call             152      22    12.8  0.24        119     31    11.2  0.18
//	poll, 1 ms raw call, then that   258      33    10.6  0.20        109     38    10.2  0.18
//	poll, then park (this)            45      51    11.5  0.21         43     35     9.7  0.20
//
// A P that is held in a system call, raw or not, keeps the runtime's monitor awake, 20 us at a time, which costs more than all the rest when
// the load is light. When there is load the poll finds events, and nothing waits.
type poller struct {
	epfd, evfd int
	n          int
	events     [eventsPerWait]unix.EpollEvent
	waits      int64        // system calls
	wakes      atomic.Int64 // system calls: an addition costs a hundredth of one

	file  *os.File // epfd as the runtime knows it
	raw   syscall.RawConn
	park  func(uintptr) bool
	looks int       // of park, in this wait
	idle  bool      // the last wait has parked: then the next one most likely does, too
	armed time.Time // the file's deadline
	late  bool      // it has passed, so it must be set anew
}

func (p *poller) open() error {
	var err error
	if p.epfd, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return err
	}
	if p.evfd, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		_ = unix.Close(p.epfd)
		return err
	}
	// Edge-triggered, so that a wake-up need not be read away. Slot 0 is no connection's.
	ev := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLET}
	err = errors.Join(
		unix.EpollCtl(p.epfd, unix.EPOLL_CTL_ADD, p.evfd, &ev),
		unix.SetNonblock(p.epfd, true), // says to os.NewFile that the runtime is to poll it
	)
	if err == nil {
		p.file = os.NewFile(uintptr(p.epfd), "epoll")
		p.raw, err = p.file.SyscallConn()
	}
	if err == nil {
		err = p.file.SetReadDeadline(time.Time{}) // fails if the runtime does not poll it
	}
	p.park = func(uintptr) bool {
		p.looks++
		p.n = p.rawWait()
		return p.n > 0
	}
	if err != nil {
		p.close()
	}
	return err
}

func (p *poller) close() {
	_ = unix.Close(p.evfd)
	if p.file != nil {
		_ = p.file.Close()
	} else {
		_ = unix.Close(p.epfd)
	}
}

var wakeBytes = [8]byte{1}

// wake ends the wait. Any goroutine may call it, until close.
func (p *poller) wake() {
	p.wakes.Add(1)
	// EAGAIN means that 1<<64-2 wake-ups are pending; there is no other failure.
	_, _, _ = unix.RawSyscall(unix.SYS_WRITE, uintptr(p.evfd), uintptr(unsafe.Pointer(&wakeBytes[0])), 8)
}

// wait waits for events for at most d ns, for ever if d is negative; it may come back early. A busy loop looks for events first, which saves it
// the way through the runtime. One that has parked before goes that way at once: the runtime looks itself, once it is to be told of what comes,
// and to look twice costs a system call for each message that comes alone.
func (p *poller) wait(l *Loop, d int64) {
	if d == 0 || !p.idle {
		if p.n = p.rawWait(); p.n > 0 || d == 0 {
			return
		}
	}
	// Deadlines cost a timer's change: an earlier one is left as it is, and wakes once in vain.
	if d > 0 {
		if until := l.e.base.Add(time.Duration(l.now + d)); p.late || p.armed.IsZero() || until.Before(p.armed) {
			p.arm(until)
		}
	} else if p.late {
		p.arm(time.Time{})
	}
	p.looks = 0
	if err := p.raw.Read(p.park); err != nil {
		p.n, p.late = 0, true
	}
	if p.idle = p.looks != 1; p.idle {
		l.local.wakeups++
	}
}

func (p *poller) arm(until time.Time) {
	p.armed, p.late = until, false
	_ = p.file.SetReadDeadline(until) // it did not fail in open
}

// rawWait looks for events and does not wait, so the scheduler need not know.
func (p *poller) rawWait() int {
	p.waits++
	n, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(p.epfd), uintptr(unsafe.Pointer(&p.events[0])), eventsPerWait, 0, 0, 0)
	if errno != 0 {
		return 0
	}
	return int(n)
}

// dispatch serves the events of the last wait.
func (p *poller) dispatch(l *Loop) {
	for i := range p.n {
		ev := &p.events[i]
		slot, gen := uint32(ev.Fd), uint32(ev.Pad)
		if slot == 0 {
			continue
		}
		// An event may be older than its slot's owner: an earlier event of this wait closed the one that it meant.
		if c := l.slots[slot]; c != nil && l.gens[slot] == gen {
			c.event(ev.Events)
		}
	}
	p.n = 0
}

func (c *Conn) event(ev uint32) {
	if ev&unix.EPOLLOUT != 0 {
		c.writable()
	}
	if ev&(unix.EPOLLIN|unix.EPOLLHUP|unix.EPOLLERR) == 0 || c.flags&flagClosed != 0 {
		return
	}
	read := c.readyToRead()
	if c.flags&flagClosed != 0 {
		return
	}
	switch {
	case read:
		c.readable()
	case ev&unix.EPOLLERR != 0:
		c.shut(sockError(int(c.fd)))
	case ev&unix.EPOLLHUP != 0 && c.flags&flagEOF != 0:
		c.shut(c.closeErr())
	case ev&unix.EPOLLHUP != 0:
		// Both sides have ended, what came before is not read yet, and the poller would repeat this for ever.
		_ = c.pollCtl(unix.EPOLL_CTL_DEL, 0)
		c.flags = c.flags&^(flagArmedIn|flagArmedOut) | flagUnwatched
	default:
		c.rearm()
	}
}

func (c *Conn) readable() {
	l := c.loop
	for range readsPerTurn {
		to := c.spare()
		direct := to != nil
		if !direct {
			to = l.scratch[headroom:]
		}
		n, errno := sockRead(int(c.fd), to)
		l.local.reads++
		switch {
		case n > 0:
			if direct {
				c.inputSpare(n)
			} else {
				c.input(l.scratch, headroom, n)
			}
			if n < len(to) || c.flags&flagClosed != 0 || !c.wantsRead() {
				return
			}
		case errno == unix.EAGAIN || errno == unix.EINTR:
			return
		case errno != 0:
			c.inputEnd(errno)
			return
		default:
			c.inputEnd(io.EOF)
			return
		}
	}
}

// pollAdd begins to watch c.
func (c *Conn) pollAdd() error {
	c.flags |= flagArmedIn
	return c.pollCtl(unix.EPOLL_CTL_ADD, unix.EPOLLIN)
}

func (c *Conn) pollCtl(op int, events uint32) error {
	c.loop.local.controls++
	ev := unix.EpollEvent{Events: events, Fd: int32(c.slot), Pad: int32(c.loop.gens[c.slot])}
	return unix.EpollCtl(c.loop.poll.epfd, op, int(c.fd), &ev)
}

// pollRearm tells the kernel what c waits for, if that has changed.
func (c *Conn) pollRearm() {
	var want connFlags
	var events uint32
	if c.wantsRead() {
		want |= flagArmedIn
		events |= unix.EPOLLIN
	}
	if c.flags&flagBlocked != 0 {
		want |= flagArmedOut
		events |= unix.EPOLLOUT
	}
	if c.flags&(flagArmedIn|flagArmedOut) == want {
		return
	}
	op := unix.EPOLL_CTL_MOD
	if c.flags&flagUnwatched != 0 {
		op = unix.EPOLL_CTL_ADD
	}
	c.flags = c.flags&^(flagArmedIn|flagArmedOut|flagUnwatched) | want
	if err := c.pollCtl(op, events); err != nil {
		c.shut(err)
	}
}

// iovecs is what a loop offers the kernel in one call.
type iovecs struct {
	v [maxIovecs]unix.Iovec
}

const maxIovecs = 512

// fdSend writes as much of q as fits in one call.
func (c *Conn) fdSend(q *outQueue) (n, offered int, err error) {
	l := c.loop
	l.local.writes++
	var errno syscall.Errno
	var r uintptr
	if q.cipherN > 0 {
		p := q.cipher[len(q.cipher)-q.cipherN:]
		offered = len(p)
		r, _, errno = unix.RawSyscall(unix.SYS_WRITE, uintptr(c.fd), uintptr(unsafe.Pointer(&p[0])), uintptr(len(p)))
	} else if segs := q.segs[q.head:]; len(segs) == 1 && len(segs[0].p) <= maxWriteBytes {
		p := segs[0].p
		offered = len(p)
		r, _, errno = unix.RawSyscall(unix.SYS_WRITE, uintptr(c.fd), uintptr(unsafe.Pointer(&p[0])), uintptr(len(p)))
	} else {
		k := 0
		for i := range segs {
			p := segs[i].p
			if k == maxIovecs || offered >= maxWriteBytes {
				break
			}
			if offered+len(p) > maxWriteBytes {
				p = p[:maxWriteBytes-offered]
			}
			l.iov.v[k].Base = &p[0]
			l.iov.v[k].SetLen(len(p))
			offered += len(p)
			k++
		}
		// Raw as the others are: it does not wait for room, and what lies in mapped files was in memory a moment ago. Telling the
		// scheduler of it wakes its monitor, which may give the loop's processor away meanwhile. Who reads so slowly that his pages have
		// left memory has the loop wait for the disk in either case; here its processor waits too.
		r, _, errno = unix.RawSyscall(unix.SYS_WRITEV, uintptr(c.fd), uintptr(unsafe.Pointer(&l.iov.v[0])), uintptr(k))
		clear(l.iov.v[:k])
	}
	switch {
	case errno == 0:
		return int(r), offered, nil
	case errno == unix.EINTR:
		return 0, offered, unix.EAGAIN
	case errors.Is(errno, unix.EAGAIN):
		return 0, offered, unix.EAGAIN
	}
	return 0, offered, errno
}

func sockRead(fd int, p []byte) (int, syscall.Errno) {
	r, _, errno := unix.RawSyscall(unix.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(&p[0])), uintptr(len(p)))
	if errno != 0 {
		return 0, errno
	}
	return int(r), 0
}

// sockAccept takes one connection, or says EAGAIN at once; the descriptor does not block and is not inherited. unix.Accept4 would tell the
// scheduler of a call that waits, ask the kernel for the protocol of each socket, and put the address on the heap.
func sockAccept(fd int) (int, peerAddr, error) {
	var sa unix.RawSockaddrAny
	size := uint32(unix.SizeofSockaddrAny)
	r, _, errno := unix.RawSyscall6(unix.SYS_ACCEPT4, uintptr(fd), uintptr(unsafe.Pointer(&sa)), uintptr(unsafe.Pointer(&size)),
		unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0, 0)
	if errno != 0 {
		return -1, peerAddr{}, errno
	}
	var p peerAddr
	switch sa.Addr.Family {
	case unix.AF_INET:
		a := (*unix.RawSockaddrInet4)(unsafe.Pointer(&sa))
		copy(p.ip[:], a.Addr[:])
		p.size, p.port = 4, netPort(&a.Port)
	case unix.AF_INET6:
		a := (*unix.RawSockaddrInet6)(unsafe.Pointer(&sa))
		p.ip, p.zone = a.Addr, a.Scope_id
		p.size, p.port = 16, netPort(&a.Port)
	}
	return int(r), p, nil
}

// netPort reads a port that stands in network order.
func netPort(p *uint16) uint16 {
	b := (*[2]byte)(unsafe.Pointer(p))
	return uint16(b[0])<<8 | uint16(b[1])
}
