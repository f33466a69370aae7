package mqtt

import (
	"errors"
	"log/slog"
	"strings"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/internal/events"
	"github.com/sluicemq/sluice/proto/mqtt/wire"
)

// AutoSubscription is a subscription that every new session begins with.
type AutoSubscription struct {
	Filter            string // %c is the client identifier, %u the user; $share/GROUP/ and $exclusive/ may come before it
	QoS               uint8
	NoLocal           bool
	RetainAsPublished bool
	RetainHandling    uint8
}

// failTemplate is said of a client that a template has no filter for.
var failTemplate = &failure{wire.TopicFilterInvalid, "client has no user, or its id or user has /, + or #"}

// filter is the template's filter for a client; false: it has none.
func (a *AutoSubscription) filter(clientID, user string) ([]byte, bool) {
	text, ok := expand(a.Filter, clientID, user)
	if !ok {
		return nil, false
	}
	return []byte(text), true
}

// expand puts the client's identifier for %c and its user for %u; false: it has none. A client cannot name itself into other levels, or into wildcards.
func expand(template, clientID, user string) (string, bool) {
	for name, value := range map[string]string{"%c": clientID, "%u": user} {
		if strings.Contains(template, name) && (value == "" || strings.ContainsAny(value, "/+#")) {
			return "", false
		}
	}
	return strings.NewReplacer("%c", clientID, "%u", user).Replace(template), true
}

// beginAuto has a new session subscribed to what it begins with, before any other packet of its client is taken.
func (c *conn) beginAuto(s *Settings) {
	if len(s.AutoSubscribe) > 0 && !c.insider(s) {
		c.block(blockAuto)
		c.l.put(after{c: c, auto: true})
	}
}

// autoSubscribe goes the way of a SUBSCRIBE: limits and rules are asked. What they refuse is left out.
func (c *conn) autoSubscribe() {
	if c.state != stateUp {
		return
	}
	l, s := c.l, c.l.h.settings.Load()
	l.reqs, l.rewrite = l.reqs[:0], l.rewrite[:0]
	for i := range s.AutoSubscribe {
		a := &s.AutoSubscribe[i]
		text, ok := a.filter(c.clientID(), c.who.user)
		if !ok {
			c.autoRefused(failTemplate)
			continue
		}
		filter, exclusive, why := c.judgeFilter(&wire.FilterRequest{Filter: text}, s)
		if why != nil {
			c.autoRefused(why)
			continue
		}
		l.reqs = append(l.reqs, broker.SubscribeRequest{Filter: filter.Topic, Group: filter.Share, Exclusive: exclusive, QoS: min(a.QoS, s.MaxQoS),
			NoLocal: a.NoLocal, RetainAsPublished: a.RetainAsPublished, RetainHandling: a.RetainHandling})
	}
	l.errs = append(l.errs[:0], make([]error, len(l.reqs))...)
	outcome, err := broker.Routed, error(nil)
	if len(l.reqs) > 0 {
		outcome, err = l.core.Subscribe(c.client, l.reqs, l.errs, token(tokenAuto, 0, 0))
	}
	if errors.Is(err, broker.ErrBusy) {
		c.block(blockBusy)
		c.extras().autoAgain = true
		return
	}
	for _, e := range append(l.errs, err) {
		switch {
		case errors.Is(e, broker.ErrNotLeader):
			c.end(*failElsewhere)
			return
		case e != nil:
			c.autoRefused(coreFailure(e))
		}
	}
	if err != nil {
		c.unblock(blockAuto)
		return
	}
	told := c.subscriptionEvents(events.SessionSubscribed)
	if outcome != broker.Pending {
		l.events.Add(told...)
		c.unblock(blockAuto)
	} else if told != nil {
		c.extras().told = &told
	}
}

// autoDone takes the core's word about what was pending.
func (c *conn) autoDone(err error) {
	if err != nil {
		c.autoRefused(coreFailure(err))
	}
	if x := c.extra; x != nil && x.told != nil {
		if err == nil {
			c.l.events.Add(*x.told...)
		}
		x.told = nil
	}
	c.unblock(blockAuto)
}

func (c *conn) autoRefused(why *failure) {
	c.l.h.log.Debug("automatic subscription refused", slog.String("client_id", c.clientID()), slog.String("detail", why.detail))
}
