package engine

import "sync/atomic"

// Stats is what the loops and listeners have done since the engine was made. Counters only grow; Open is a level.
type Stats struct {
	Open           int64 // connections, those in their handshake included
	Accepted       int64 // taken in by a listener
	Opened         int64 // handed to a handler
	Closed         int64
	BytesIn        int64 // from sockets, TLS and frames included
	BytesOut       int64
	Reads          int64 // system calls of sockets
	Writes         int64
	Waits          int64 // system calls that ask what has happened
	Wakes          int64 // system calls that wake a loop
	Controls       int64 // system calls that change what a loop is told of
	WritesBlocked  int64 // writes that the kernel took in part or not at all
	Wakeups        int64 // times that a loop came back from waiting
	Handshakes     int64 // TLS handshakes that succeeded
	BufferBytes    int64 // kept by the loops for reuse, and their scratch buffers
	DescriptorsOut int64 // times that accepting found no descriptor left
	AcceptErrors   int64
	Refused        Refused
}

// Refused counts connections that never got to the handler, by reason.
type Refused struct {
	MaxConns       int64 // over Options.MaxConns
	ListenerConns  int64 // over ListenerOptions.MaxConns
	NoDescriptor   int64 // no descriptor left: taken with the spare one, and closed
	HandshakesFull int64 // too many TLS handshakes wait
	Handshake      int64 // TLS handshake failed
	Upgrade        int64 // WebSocket handshake failed
	Proxy          int64 // no header of the PROXY protocol where one is asked for, or a bad one
	Untrusted      int64 // from no trusted proxy
	Banned         int64 // from an address that ListenerOptions.Admit refuses
	Timeout        int64 // nothing, or not enough, came in time
	Shutdown       int64
}

// loopCounters belong to the loop alone.
type loopCounters struct {
	opened, closed, bytesIn, bytesOut, reads, writes, writesBlocked, wakeups, controls         int64
	refusedFull, refusedHandshake, refusedUpgrade, refusedTimeout, refusedShutdown, handshakes int64
	refusedProxy, refusedBanned                                                                int64
}

// sharedCounters are what others see of them, as of the end of the last turn. The loop alone writes, so it needs no atomic add.
type sharedCounters struct {
	opened, closed, bytesIn, bytesOut, reads, writes, writesBlocked, wakeups, controls         atomic.Int64
	refusedFull, refusedHandshake, refusedUpgrade, refusedTimeout, refusedShutdown, handshakes atomic.Int64
	refusedProxy, refusedBanned                                                                atomic.Int64
	poolBytes, waits                                                                           atomic.Int64
}

func (l *Loop) publish() {
	n, s := &l.local, &l.counters
	publishOne(&s.bytesIn, n.bytesIn)
	publishOne(&s.bytesOut, n.bytesOut)
	publishOne(&s.reads, n.reads)
	publishOne(&s.writes, n.writes)
	publishOne(&s.writesBlocked, n.writesBlocked)
	publishOne(&s.wakeups, n.wakeups)
	publishOne(&s.controls, n.controls)
	publishOne(&s.waits, l.poll.waits)
	publishOne(&s.opened, n.opened)
	publishOne(&s.closed, n.closed)
	publishOne(&s.refusedFull, n.refusedFull)
	publishOne(&s.refusedHandshake, n.refusedHandshake)
	publishOne(&s.refusedUpgrade, n.refusedUpgrade)
	publishOne(&s.refusedProxy, n.refusedProxy)
	publishOne(&s.refusedBanned, n.refusedBanned)
	publishOne(&s.refusedTimeout, n.refusedTimeout)
	publishOne(&s.refusedShutdown, n.refusedShutdown)
	publishOne(&s.handshakes, n.handshakes)
}

// publishOne stores only what has changed: a store is a locked instruction, a look is not.
func publishOne(to *atomic.Int64, v int64) {
	if to.Load() != v {
		to.Store(v)
	}
}

// Stats sums up the counters of all loops and listeners, those that were closed included. Any goroutine may call it.
func (e *Engine) Stats() Stats {
	var s Stats
	for _, l := range e.loops {
		n := &l.counters
		s.Opened += n.opened.Load()
		s.Closed += n.closed.Load()
		s.BytesIn += n.bytesIn.Load()
		s.BytesOut += n.bytesOut.Load()
		s.Reads += n.reads.Load()
		s.Writes += n.writes.Load()
		s.WritesBlocked += n.writesBlocked.Load()
		s.Wakeups += n.wakeups.Load()
		s.Controls += n.controls.Load()
		s.Waits += n.waits.Load()
		s.Wakes += l.poll.wakes.Load()
		s.Handshakes += n.handshakes.Load()
		s.Refused.HandshakesFull += n.refusedFull.Load()
		s.Refused.Handshake += n.refusedHandshake.Load()
		s.Refused.Upgrade += n.refusedUpgrade.Load()
		s.Refused.Proxy += n.refusedProxy.Load()
		s.Refused.Banned += n.refusedBanned.Load()
		s.Refused.Timeout += n.refusedTimeout.Load()
		s.Refused.Shutdown += n.refusedShutdown.Load()
		s.BufferBytes += n.poolBytes.Load()
	}
	a := &e.accepts
	s.Accepted = a.accepted.Load()
	s.Open = s.Accepted - s.Closed
	s.DescriptorsOut = a.noDescriptor.Load()
	s.AcceptErrors = a.errors.Load()
	s.Refused.ListenerConns = a.listenerConns.Load()
	s.Refused.MaxConns = a.maxConns.Load()
	s.Refused.Untrusted = a.untrusted.Load()
	s.Refused.Banned += a.banned.Load()
	s.Refused.NoDescriptor = a.spared.Load()
	return s
}

// acceptCounters are shared by the acceptors; an accept costs far more than an atomic add.
type acceptCounters struct {
	accepted, noDescriptor, errors, maxConns, spared, untrusted, listenerConns, banned atomic.Int64
}
