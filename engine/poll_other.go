//go:build unix && !linux

package engine

import (
	"errors"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// epollHere tells that this system has no epoll transport: all connections are netpoll's.
const epollHere = false

var errNoEpoll = errors.New("this system has no epoll")

// poller is how a loop sleeps where all events are posted.
type poller struct {
	c     chan struct{}
	timer *time.Timer
	waits int64        // none: the runtime makes the system calls
	wakes atomic.Int64 // none
}

func (p *poller) open() error {
	p.c = make(chan struct{}, 1)
	p.timer = time.NewTimer(time.Hour)
	return nil
}

func (p *poller) close() { p.timer.Stop() }

func (p *poller) wake() {
	select {
	case p.c <- struct{}{}:
	default: // it is awake already
	}
}

func (p *poller) wait(l *Loop, d int64) {
	if d == 0 {
		return
	}
	l.local.wakeups++
	if d < 0 {
		<-p.c
		return
	}
	p.timer.Reset(time.Duration(d))
	select {
	case <-p.c:
	case <-p.timer.C:
	}
}

func (p *poller) dispatch(*Loop) {}

func (c *Conn) pollAdd() error { return errNoEpoll }

func (c *Conn) pollRearm() {}

// iovecs is nothing here: x/sys has no writev for these systems.
type iovecs struct{}

// fdSend writes the first run of q.
func (c *Conn) fdSend(q *outQueue) (n, offered int, err error) {
	c.loop.local.writes++
	p := q.segs[q.head:][0].p
	if q.cipherN > 0 {
		p = q.cipher[len(q.cipher)-q.cipherN:]
	}
	n, err = unix.Write(int(c.fd), p)
	if errors.Is(err, unix.EINTR) {
		err = unix.EAGAIN
	}
	return max(n, 0), len(p), err
}

// sockAccept takes one connection; the descriptor does not block and is not inherited.
func sockAccept(fd int) (int, peerAddr, error) {
	n, sa, err := unix.Accept(fd)
	if err != nil {
		return -1, peerAddr{}, err
	}
	unix.CloseOnExec(n)
	if err := unix.SetNonblock(n, true); err != nil {
		unix.Close(n)
		return -1, peerAddr{}, err
	}
	return n, peerOf(sa), nil
}
