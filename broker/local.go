package broker

import "sync/atomic"

// Local is the core's part of one loop: its route caches, the bundles it has for other loops, and the inbox in which it
// gets theirs. Everything but post runs on the loop's goroutine.
type Local struct {
	id     int
	b      *Broker
	inbox  inbox
	wakeFn func()
	awake  atomic.Bool
}

// Client is the core's handle of one connection. It belongs to the Local it was made for.
type Client struct {
	local *Local
	sub   Subscriber
	// Slot is the subscriber slot of the client's session, for Message.Publisher. Valid once connected.
	Slot uint32
}

// NewClient makes the handle of a connection on this loop. It costs nothing that needs releasing until Connect.
func (l *Local) NewClient(sub Subscriber) *Client { return nil }

// Connect opens or resumes c's session. It always ends in one Subscriber.Connected, possibly before it returns. A
// session that another connection holds is taken over: that one is Kicked with ErrTakenOver and Connected comes when it
// has let go. Until Connected no other call but Disconnect is allowed on c.
func (l *Local) Connect(c *Client, req *ConnectRequest) {}

// Disconnect ends c. It must be called exactly once for each Client on which Connect was called, when its connection is
// gone or is to be dropped. Nothing is called on its Subscriber afterwards.
func (l *Local) Disconnect(c *Client, req DisconnectRequest) {}

// Publish takes one message from c (nil for the broker's own). m is a view. When dedupe is set (QoS 2), the packet
// identifier in the low 16 bits of t is remembered until Release: for a durable session on stable storage, for a live
// one not at all (the protocol keeps those itself). On ErrBusy nothing was taken: stop reading, leave the packet in the
// input, and come again after ControlResume.
func (l *Local) Publish(c *Client, m *Message, dedupe bool, t Token) (Outcome, error) { return 0, nil }

// Release ends a QoS 2 publish of a durable session (PUBREL). Routed: answer now; Pending: Completed follows.
func (l *Local) Release(c *Client, packetID uint16, t Token) (Outcome, error) { return 0, nil }

// Subscribe adds or replaces subscriptions. errs, as long as reqs, receives what is wrong with single ones (ErrFilter,
// ErrQuota); those are left out. Routed: all done, answer now; Pending: answer at Completed. Retained messages come
// after that, in later turns.
func (l *Local) Subscribe(c *Client, reqs []SubscribeRequest, errs []error, t Token) (Outcome, error) {
	return 0, nil
}

// Unsubscribe removes subscriptions; reqs uses Filter and Group only. errs gets ErrNoSubscription where there was none.
func (l *Local) Unsubscribe(c *Client, reqs []SubscribeRequest, errs []error, t Token) (Outcome, error) {
	return 0, nil
}

// Acked tells that the receiver has finished with a delivery that carried a Ref (PUBACK, PUBCOMP, or a PUBREC with an
// error). Deliveries without a Ref need no Acked.
func (l *Local) Acked(c *Client, packetID uint16) {}

// Received tells that the receiver has a QoS 2 message that carried a Ref (PUBREC). Routed: send PUBREL now; Pending:
// at Completed.
func (l *Local) Received(c *Client, packetID uint16, t Token) (Outcome, error) { return 0, nil }

// Ready tells that c has room again after a Deliver that answered false.
func (l *Local) Ready(c *Client) {}

// Drain runs what other goroutines have posted. The server calls it when the loop is woken.
func (l *Local) Drain() {}

// EndTurn posts what this turn gathered for other loops. The server calls it at the end of each turn, before writes are
// flushed.
func (l *Local) EndTurn() {}
