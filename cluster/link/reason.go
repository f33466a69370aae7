package link

import (
	"errors"
	"fmt"
)

// Reason is why a handshake was refused, or a connection or channel ended. Its number is on the wire and its name in logs and metrics.
type Reason uint8

// Reasons. Numbers are never given to another meaning.
const (
	ReasonNone        Reason = 0  // an orderly end
	ReasonMalformed   Reason = 1  // bytes that no version of the protocol has
	ReasonVersion     Reason = 2  // no version of the protocol that both speak
	ReasonCluster     Reason = 3  // a node, or a disk, of another cluster
	ReasonToken       Reason = 4  // another cluster token
	ReasonNode        Reason = 5  // not the node that was called, or not the one that the certificate names
	ReasonNodeInUse   Reason = 6  // another process lives under that node's id
	ReasonFeature     Reason = 7  // the cluster has features that the node lacks
	ReasonNotAdmitted Reason = 8  // the owner does not want that node
	ReasonDuplicate   Reason = 9  // there is a connection of these two already
	ReasonReplaced    Reason = 10 // a newer connection of these two has taken its place
	ReasonBusy        Reason = 11 // too much of it at the same time
	ReasonTimeout     Reason = 12 // not in time
	ReasonCertificate Reason = 13 // no certificate that counts (any more)
	ReasonPlaintext   Reason = 14 // no TLS, where it is asked for
	ReasonClosing     Reason = 15 // the node goes down, or the owner ended it
	ReasonDead        Reason = 16 // nothing was heard for too long
	ReasonNotReading  Reason = 17 // the peer does not read
	ReasonChecksum    Reason = 18 // bytes changed on their way
	ReasonCredit      Reason = 19 // more sent than was allowed
	ReasonChannel     Reason = 20 // a frame of a channel that there is not
	ReasonTooLarge    Reason = 21 // a frame or a message above the bound
	ReasonFlood       Reason = 22 // control frames faster than they can be answered
	ReasonMemory      Reason = 23 // no memory left for what is received
	ReasonKind        Reason = 24 // a kind of channel that nobody serves here
	ReasonLost        Reason = 25 // the connection broke
	ReasonSelf        Reason = 26 // the node called itself
	numReasons               = 27
)

var reasonNames = [numReasons]string{"none", "malformed", "version", "cluster", "token", "node", "node_in_use", "feature", "not_admitted",
	"duplicate", "replaced", "busy", "timeout", "certificate", "plaintext", "closing", "dead", "not_reading", "checksum", "credit", "channel",
	"too_large", "flood", "memory", "kind", "lost", "self"}

// String is the reason's name.
func (r Reason) String() string {
	if r < numReasons {
		return reasonNames[r]
	}
	return fmt.Sprintf("reason_%d", uint8(r))
}

// Error is an end with its reason.
type Error struct {
	Reason Reason
	Text   string // what was found, for people
	Peer   bool   // the other end said so
}

// Error says whose words it is, the reason and what was found.
func (e *Error) Error() string {
	s := e.Reason.String()
	if e.Text != "" {
		s += ": " + e.Text
	}
	if e.Peer {
		return "peer says: " + s
	}
	return s
}

func failure(r Reason, format string, args ...any) *Error {
	return &Error{Reason: r, Text: fmt.Sprintf(format, args...)}
}

// ReasonOf is the reason in err: ReasonLost for an error without one, ReasonNone for nil.
func ReasonOf(err error) Reason {
	if err == nil {
		return ReasonNone
	}
	if e := asError(err); e != nil {
		return e.Reason
	}
	return ReasonLost
}

func asError(err error) *Error {
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	return nil
}

var (
	// ErrDown says that there is no connection to that node now.
	ErrDown = errors.New("link: node is not connected")
	// ErrEnded says that the channel has ended, at either end.
	ErrEnded = errors.New("link: channel has ended")
	// ErrBusy says that the queue is full. Wait for Room, or drop it.
	ErrBusy = errors.New("link: queue is full")
	// ErrTooLarge says that a message is above the bound of its kind.
	ErrTooLarge = errors.New("link: message is too large")
	// ErrTimeout says that no answer came in time.
	ErrTimeout = errors.New("link: no answer in time")
	// ErrCanceled says that the caller gave up.
	ErrCanceled = errors.New("link: canceled")
)
