package link

import "time"

// NodeID is a node's number, 1 to 65535, unique in its cluster and never given to another (node.id).
type NodeID uint32

// Kind says what a channel is for, and so its window, its largest message and its turn at the writer.
type Kind uint8

// The kinds of channels. Their numbers are on the wire.
const (
	KindRaft        Kind = 1 // messages of consensus: small, and always first
	KindSnapshot    Kind = 2 // chunks of snapshots: much, and last
	KindReplication Kind = 3 // frames of the log
	KindRequest     Kind = 4 // requests and their answers
	KindTunnel      Kind = 5 // bytes of one client that is carried to another node
	numKinds             = 6
)

var kindNames = [numKinds]string{"unknown", "raft", "snapshot", "replication", "request", "tunnel"}

// String is the kind's name, as logs and metrics show it.
func (k Kind) String() string {
	if k < numKinds {
		return kindNames[k]
	}
	return kindNames[0]
}

// Kinds are all kinds, for metrics.
func Kinds() []Kind { return []Kind{KindRaft, KindSnapshot, KindReplication, KindRequest, KindTunnel} }

// Limits bound one kind of channel. A zero field is the default of the kind.
type Limits struct {
	Window   int  // bytes that a peer may send ahead of what was released: what this end promises to hold for each channel
	Queue    int  // bytes that wait for credit or the socket at this end; a message that is larger may wait alone
	Message  int  // largest message, either way
	Channels int  // channels that a peer may have open
	Compress bool // compress what is sent, if the peer can open it
}

// kindLimits are the defaults. A window is at least 4 largest frames of a turn, so that a channel fills a wire with a round trip of
// milliseconds; what clients are carried by are many, so theirs are small, and hold least where many of them stand still.
var kindLimits = [numKinds]Limits{
	KindRaft:        {Window: 4 << 20, Queue: 4 << 20, Message: 64 << 20, Channels: 256},
	KindSnapshot:    {Window: 4 << 20, Queue: 2 << 20, Message: 8 << 20, Channels: 16},
	KindReplication: {Window: 8 << 20, Queue: 8 << 20, Message: 64 << 20, Channels: 256},
	KindRequest:     {Window: 4 << 20, Queue: 4 << 20, Message: 64 << 20, Channels: 16},
	KindTunnel:      {Window: 32 << 10, Queue: 16 << 10, Message: 1 << 20, Channels: 65536},
}

const (
	windowLeast = 16 << 10
	windowMost  = 256 << 20
)

// withDefaults fills what is zero, and keeps a window within what the protocol has.
func (l Limits) withDefaults(k Kind) Limits {
	d := kindLimits[k]
	pick := func(have, def int) int {
		if have == 0 {
			return def
		}
		return have
	}
	l.Window = max(windowLeast, min(pick(l.Window, d.Window), windowMost))
	l.Queue = pick(l.Queue, d.Queue)
	l.Message = pick(l.Message, d.Message)
	l.Channels = pick(l.Channels, d.Channels)
	return l
}

// Defaults of Options.
const (
	DefaultDeadAfter        = time.Second
	DefaultHandshakeTimeout = 5 * time.Second
	DefaultWriteTimeout     = 10 * time.Second
	DefaultClockSkewMax     = time.Second
	DefaultHandshakes       = 64
	DefaultMemory           = 256 << 20
	DefaultPeerMemory       = 128 << 20
	DefaultBackoffMin       = 50 * time.Millisecond
	DefaultBackoffMax       = time.Second
)
