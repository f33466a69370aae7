package server

import (
	"time"

	"github.com/sluicemq/sluice/cluster/link"
	"github.com/sluicemq/sluice/journal"
)

// A copy is of use only as long as the leader's log goes on from it. On a busy leader the log would have let go of what was written meanwhile before a large
// copy is carried over, and the node would get one copy after the other. So the log is held from when a copy is begun until its node follows.

const (
	seedHold     = "copy" // the hold's name
	seedHoldLook = time.Second
	seedHoldRest = 2 * time.Minute // for a node that neither reads the copy nor comes back with it
)

// holdFor keeps what is written from now on for the node that gets a copy.
func (s *seeds) holdFor(peer link.NodeID, log *journal.Log) {
	log.HoldNew(seedHold)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.used = time.Now()
	if s.mu.look != nil {
		s.mu.look.Stop()
	}
	s.mu.look = time.AfterFunc(seedHoldLook, func() { s.lookAtHold(peer, log) })
}

// lookAtHold lets go of the log when nobody needs it any more, or it is needed more: who is refused for want of room is a client.
func (s *seeds) lookAtHold(peer link.NodeID, log *journal.Log) {
	s.progress() // so that its pace is known whoever asks first
	free := !s.m.leased() || log.Limited() || log.LowSpace()
	for _, f := range s.m.replicas.Followers() {
		free = free || f.Node == peer // its stream holds what it has not read
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.look == nil { // let go of meanwhile
		return
	}
	if s.mu.peer == peer && !free && !s.mu.over && (s.mu.busy || time.Since(s.mu.used) < seedHoldRest) {
		s.mu.look.Reset(seedHoldLook)
		return
	}
	s.letGoLocked(log)
}

func (s *seeds) letGoLocked(log *journal.Log) {
	if s.mu.look != nil {
		s.mu.look.Stop()
		s.mu.look = nil
		log.Hold(seedHold, journal.Position{})
	}
}
