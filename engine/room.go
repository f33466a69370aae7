package engine

import (
	"sync"

	"golang.org/x/sys/unix"
)

// roomWatch waits for the kernel to take more of connections that do not stand in a loop's poller: one goroutine with poll(2), which every
// Unix has. A pool of goroutines that block in a write each would be filled by as many peers that do not read, and the others would
// wait for them. Few connections are blocked at a time.
type roomWatch struct {
	read, write int // of the pipe that wakes it
	done        chan struct{}
	mu          struct {
		sync.Mutex
		conns   map[*Conn]struct{}
		woken   bool
		stopped bool
	}
}

func (r *roomWatch) start() error {
	var p [2]int
	if err := unix.Pipe(p[:]); err != nil {
		return err
	}
	for _, fd := range p {
		unix.CloseOnExec(fd)
		if err := unix.SetNonblock(fd, true); err != nil {
			return err
		}
	}
	r.read, r.write = p[0], p[1]
	r.done = make(chan struct{})
	r.mu.conns = make(map[*Conn]struct{})
	go r.run()
	return nil
}

// watch has the loop told once when c takes more.
func (r *roomWatch) watch(c *Conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.mu.conns[c]; ok {
		return
	}
	r.mu.conns[c] = struct{}{}
	r.wakeLocked()
}

// forget is called before the descriptor is closed. A poll(2) that runs meanwhile may see the number's next owner, and tells the loop
// of a connection that is closed, which does no harm.
func (r *roomWatch) forget(c *Conn) {
	r.mu.Lock()
	delete(r.mu.conns, c)
	r.mu.Unlock()
}

func (r *roomWatch) wakeLocked() {
	if !r.mu.woken {
		r.mu.woken = true
		_, _ = unix.Write(r.write, []byte{1}) // one byte at most is in the pipe
	}
}

func (r *roomWatch) stop() {
	r.mu.Lock()
	r.mu.stopped = true
	r.wakeLocked()
	r.mu.Unlock()
	<-r.done
	_ = unix.Close(r.read)
	_ = unix.Close(r.write)
}

func (r *roomWatch) run() {
	defer close(r.done)
	var fds []unix.PollFd
	var conns []*Conn
	for {
		fds = append(fds[:0], unix.PollFd{Fd: int32(r.read), Events: unix.POLLIN})
		conns = append(conns[:0], nil)
		r.mu.Lock()
		if r.mu.stopped {
			r.mu.Unlock()
			return
		}
		for c := range r.mu.conns {
			fds = append(fds, unix.PollFd{Fd: c.fd, Events: unix.POLLOUT})
			conns = append(conns, c)
		}
		r.mu.Unlock()
		if _, err := unix.Poll(fds, -1); err != nil {
			continue // EINTR, or no memory for a moment
		}
		for i := range fds {
			if fds[i].Revents == 0 {
				continue
			}
			if c := conns[i]; c != nil {
				r.forget(c)
				c.loop.Post((*writableTask)(c))
				continue
			}
			var b [8]byte
			_, _ = unix.Read(r.read, b[:])
			r.mu.Lock()
			r.mu.woken = false
			r.mu.Unlock()
		}
		clear(conns)
	}
}

// writableTask tells a connection that the kernel takes more.
type writableTask Conn

// Run writes on.
func (w *writableTask) Run(*Loop) { (*Conn)(w).writable() }
