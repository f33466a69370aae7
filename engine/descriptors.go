package engine

import (
	"log/slog"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// spareDescriptor is one kept in hand: when none is left it is given up for a moment, so that a client that waits can be taken in and
// closed instead of being left to hang, and the acceptor does not spin over a backlog that it cannot empty.
type spareDescriptor struct {
	mu   sync.Mutex
	file *os.File
}

func (s *spareDescriptor) open() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.file == nil {
		s.file, _ = os.Open(os.DevNull) // without it nothing is lost but the trick
	}
}

func (s *spareDescriptor) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.file != nil {
		_ = s.file.Close()
		s.file = nil
	}
}

// refusedAtOnce is how many connections are refused before the acceptor looks again whether there is a descriptor.
const refusedAtOnce = 64

// refuseWithSpare takes connections of fd and closes them, until none waits or it is time to look again.
func (e *Engine) refuseWithSpare(fd int) {
	e.spare.close()
	for range refusedAtOnce {
		// Another goroutine may take the freed descriptor first; then accept fails again, and the next round tries anew.
		n, _, err := sockAccept(fd)
		if err != nil {
			break
		}
		_ = unix.Close(n)
		e.accepts.spared.Add(1)
	}
	e.spare.open()
}

// limitedLog lets a line through once a second, with the number of those that it held back. Any goroutine may use it.
type limitedLog struct {
	mu   sync.Mutex
	to   *slog.Logger
	last time.Time
	held int
}

func (g *limitedLog) warn(msg string, args ...any) {
	now := time.Now()
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.last.IsZero() && now.Sub(g.last) < time.Second {
		g.held++
		return
	}
	g.last = now
	g.to.Warn(msg, append(args, "more", g.held)...) //nolint:sloglint // the callers' messages are literals
	g.held = 0
}
