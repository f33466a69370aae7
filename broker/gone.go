package broker

import "github.com/sluicemq/sluice/internal/events"

// Events is where the protocols tell of their clients, what the core tells of sessions goes to; nil: nobody wants to know.
func (b *Broker) Events() *events.Queue { return b.opts.Events }

// endedWithClient is why a session has ended that does not outlive its connection.
const endedWithClient = "its connection has ended"

// sessionGone tells that a session is no more. Only who had its end written calls it: nodes that follow, and recovery, apply the same command unsaid.
// Events are the default tenant's.
func (b *Broker) sessionGone(sess *Session, kind events.Kind, why string) {
	if q := b.opts.Events; sess.tenant == 0 && q.Wants(kind) {
		q.Add(events.Event{Kind: kind, At: b.nowMilli(), ClientID: sess.id, Reason: why})
	}
}
