package mqtt

import (
	"errors"
	"slices"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/internal/events"
	"github.com/sluicemq/sluice/proto/mqtt/wire"
)

// request is a SUBSCRIBE or UNSUBSCRIBE whose answer waits for the core.
type request struct {
	seq   uint32
	id    uint16
	typ   wire.PacketType // SUBACK or UNSUBACK
	codes []wire.ReasonCode
	place []int // of what the core was asked, in codes
	told  []events.Event
}

// Bounds of what may wait before the connection is read no further, and of what a loop keeps for the next packet.
const (
	requestsMax = 32
	askedMax    = 4096 // filters of them
	scratchMax  = 4096 // filters
)

// full says whether no more requests are to be taken until some are answered.
func (in *inbound) full() bool { return len(in.requests) >= requestsMax || in.asked >= askedMax }

// trimRequests lets go of the room that a packet of very many filters has taken, once it is answered or asked for.
func (l *loopState) trimRequests() {
	if cap(l.reqs) > scratchMax || cap(l.codes) > scratchMax || cap(l.rewrite) > 16*scratchMax {
		l.reqs, l.codes, l.place, l.errs, l.rewrite = nil, nil, nil, nil, nil
	}
}

// onSubscribe takes a SUBSCRIBE.
func (c *conn) onSubscribe(h *wire.Header) (took bool, err error) {
	p, err := wire.DecodeSubscribe(h.Body, c.version)
	if err != nil {
		return true, err
	}
	l, s := c.l, c.l.h.settings.Load()
	l.reqs, l.codes, l.place, l.rewrite = l.reqs[:0], l.codes[:0], l.place[:0], l.rewrite[:0]
	var worst *failure
	from, okFrom := replayFrom(p.User)
	for r := p.Filters(); ; {
		f, ok := r.Next()
		if !ok {
			break
		}
		filter, exclusive, why := c.judgeFilter(&f, s)
		if why == nil && p.SubscriptionID != 0 && !s.SubscriptionIDs {
			why = failSubIDs
		}
		if why == nil && !okFrom {
			why = failFrom
		}
		if why != nil {
			worst = why
			l.codes = append(l.codes, why.code)
			continue
		}
		if c.flags&flagBridge != 0 && filter.Share == nil { // what a bridge of version 5 would ask for
			f.NoLocal, f.RetainAsPublished = true, true
		}
		granted := min(f.QoS, s.MaxQoS)
		l.place = append(l.place, len(l.codes))
		l.codes = append(l.codes, wire.ReasonCode(granted))
		l.reqs = append(l.reqs, broker.SubscribeRequest{
			Filter: filter.Topic, Group: filter.Share, Exclusive: exclusive, SubscriptionID: p.SubscriptionID, QoS: granted,
			NoLocal: f.NoLocal, RetainAsPublished: f.RetainAsPublished, RetainHandling: f.RetainHandling, From: from,
		})
	}
	if worst != nil {
		c.misbehaved(*worst)
	}
	return c.ask(wire.SUBACK, p.PacketID)
}

// judgeFilter takes a filter apart and looks for what makes it unacceptable.
func (c *conn) judgeFilter(f *wire.FilterRequest, s *Settings) (filter wire.Filter, exclusive bool, why *failure) {
	full, filter, exclusive, err := c.readFilter(f.Filter, s)
	switch {
	case err != nil, s.Topics.CheckFilter(filter.Topic) != nil, !exclusiveFits(&filter, exclusive, s):
		return filter, exclusive, failFilter
	case filter.Share != nil && !s.Shared:
		return filter, exclusive, failShared
	case filter.Wildcard && !s.Wildcards:
		return filter, exclusive, failWildcards
	}
	if a := c.l.h.authz; a != nil && !a.Authorize(c.identity(), broker.ActionSubscribe, full) {
		return filter, exclusive, failSubscribeACL
	}
	return filter, exclusive, nil
}

// onUnsubscribe takes an UNSUBSCRIBE.
func (c *conn) onUnsubscribe(h *wire.Header) (took bool, err error) {
	p, err := wire.DecodeUnsubscribe(h.Body, c.version)
	if err != nil {
		return true, err
	}
	l := c.l
	l.reqs, l.codes, l.place, l.rewrite = l.reqs[:0], l.codes[:0], l.place[:0], l.rewrite[:0]
	for r := p.Filters(); ; {
		f, ok := r.Next()
		if !ok {
			break
		}
		_, filter, _, err := c.readFilter(f.Filter, l.h.settings.Load())
		if err != nil {
			l.codes = append(l.codes, wire.TopicFilterInvalid)
			continue
		}
		l.place = append(l.place, len(l.codes))
		l.codes = append(l.codes, wire.Success)
		l.reqs = append(l.reqs, broker.SubscribeRequest{Filter: filter.Topic, Group: filter.Share})
	}
	return c.ask(wire.UNSUBACK, p.PacketID)
}

// ask gives l.reqs to the core and answers with l.codes, at once or when the core has done it.
func (c *conn) ask(typ wire.PacketType, id uint16) (took bool, err error) {
	l := c.l
	defer l.trimRequests()
	var outcome broker.Outcome
	if len(l.reqs) == 0 {
		c.sendCodes(typ, id, l.codes)
		return true, nil
	}
	l.errs = append(l.errs[:0], make([]error, len(l.reqs))...)
	in := c.inbound()
	seq := in.nextReq
	in.nextReq++
	if typ == wire.SUBACK {
		outcome, err = l.core.Subscribe(c.client, l.reqs, l.errs, token(tokenRequest, seq, id))
	} else {
		outcome, err = l.core.Unsubscribe(c.client, l.reqs, l.errs, token(tokenRequest, seq, id))
	}
	if errors.Is(err, broker.ErrBusy) {
		c.block(blockBusy)
		return false, nil
	}
	if errors.Is(err, broker.ErrNotLeader) || slices.ContainsFunc(l.errs, func(e error) bool { return errors.Is(e, broker.ErrNotLeader) }) {
		return true, failElsewhere
	}
	for i, place := range l.place {
		why := err
		if why == nil {
			why = l.errs[i]
		}
		if why != nil {
			l.codes[place] = requestCode(typ, why)
		}
	}
	if err != nil {
		c.sendCodes(typ, id, l.codes)
		return true, nil
	}
	told := c.subscriptionEvents(subscriptionKind(typ))
	if outcome != broker.Pending {
		l.events.Add(told...)
		c.sendCodes(typ, id, l.codes)
		return true, nil
	}
	in.requests = append(in.requests, request{seq, id, typ, append([]wire.ReasonCode(nil), l.codes...),
		append([]int(nil), l.place...), told})
	if in.asked += len(l.place); in.full() {
		c.block(blockRequests)
	}
	return true, nil
}

// requestCode is the code of one filter that the core did not take.
func requestCode(typ wire.PacketType, err error) wire.ReasonCode {
	switch {
	case errors.Is(err, broker.ErrNoSubscription):
		return wire.NoSubscriptionExisted
	case errors.Is(err, broker.ErrFilter):
		return wire.TopicFilterInvalid
	case (errors.Is(err, broker.ErrQuota) || errors.Is(err, broker.ErrExclusive)) && typ == wire.SUBACK:
		return wire.QuotaExceeded
	case errors.Is(err, broker.ErrUnavailable), errors.Is(err, broker.ErrNoStream):
		return wire.ImplementationSpecific
	}
	return wire.UnspecifiedError
}

// requestDone answers a request that waited for the core.
func (c *conn) requestDone(seq uint32, err error) {
	if c.in == nil {
		return
	}
	for i := range c.in.requests {
		r := c.in.requests[i]
		if r.seq != seq {
			continue
		}
		c.in.requests = slices.Delete(c.in.requests, i, i+1)
		c.in.asked -= len(r.place)
		if err != nil {
			for _, place := range r.place {
				r.codes[place] = requestCode(r.typ, err)
			}
		} else {
			c.l.events.Add(r.told...)
		}
		c.sendCodes(r.typ, r.id, r.codes)
		if len(c.in.requests) == 0 {
			c.in.requests = nil
		}
		if len(c.in.requests) <= requestsMax/2 && c.in.asked <= askedMax/2 {
			c.unblock(blockRequests)
		}
		return
	}
}

// sendCodes writes a SUBACK or UNSUBACK.
func (c *conn) sendCodes(typ wire.PacketType, id uint16, codes []wire.ReasonCode) {
	a := wire.Suback{PacketID: id, Codes: codes}
	if c.flags&flagProblemInfo != 0 && c.version == wire.V5 {
		for _, code := range codes {
			if why := codeText(code); why != "" {
				a.ReasonString = wire.View(why)
				break
			}
		}
	}
	a.Fit(c.version, c.maxPacket)
	b := c.link.Reserve(wire.SizeSuback(c.version, &a))
	if typ == wire.SUBACK {
		b = wire.AppendSuback(b, c.version, &a)
	} else {
		b = wire.AppendUnsuback(b, c.version, &a)
	}
	c.link.Commit(len(b))
	c.l.sent(typ)
}

// codeText explains the code of a filter; empty for success.
func codeText(code wire.ReasonCode) string {
	switch code {
	case wire.TopicFilterInvalid:
		return failFilter.detail
	case wire.NotAuthorized:
		return failSubscribeACL.detail
	case wire.SharedNotSupported:
		return failShared.detail
	case wire.WildcardsNotSupported:
		return failWildcards.detail
	case wire.SubscriptionIDsNotSupported:
		return failSubIDs.detail
	case wire.QuotaExceeded:
		return failSubscribeQuota
	case wire.ImplementationSpecific:
		return failNotStored
	default: // told by what it is
	}
	if code.Failed() {
		return failInternal.detail
	}
	return ""
}
