package bridge

import (
	"fmt"
	"strings"

	"github.com/sluicemq/sluice/broker/topics"
	"github.com/sluicemq/sluice/proto/mqtt/wire"
)

// Direction says which way messages of a topic go.
type Direction string

// The directions.
const (
	Out  Direction = "out"  // from this node to the other broker
	In   Direction = "in"   // from there to here
	Both Direction = "both" // one and the other
)

// Topic says which messages go over a bridge, and what they are named on either side: LocalPrefix and RemotePrefix stand before the filter
// there, and take each other's place in the names of messages. An empty filter is one topic, whose names are the prefixes.
type Topic struct {
	Filter       string
	Direction    Direction
	QoS          byte
	LocalPrefix  string
	RemotePrefix string
}

// route is one way of a topic.
type route struct {
	filter []byte // what is subscribed to, prefix included
	cut    int    // so many bytes of the name go
	put    string // and this comes
	qos    byte
}

// routes are those of one direction, in the order of the configuration: the first that fits a message counts.
type routes []route

func newRoutes(list []Topic, d Direction) (rs routes, err error) {
	for i := range list {
		t := &list[i]
		if t.Direction != d && t.Direction != Both {
			continue
		}
		from, to := t.LocalPrefix, t.RemotePrefix
		if d == In {
			from, to = to, from
		}
		filter := []byte(from + t.Filter)
		if err := wire.CheckTopicFilter(filter); err != nil {
			return nil, fmt.Errorf("filter %q: %w", filter, err)
		}
		if wire.IsShared(filter) {
			return nil, fmt.Errorf("filter %q: a bridge has no shared subscriptions", filter)
		}
		if strings.ContainsAny(from+to, "+#") {
			return nil, fmt.Errorf("prefixes %q and %q: a prefix has no wildcards", from, to)
		}
		rs = append(rs, route{filter: filter, cut: len(from), put: to, qos: t.QoS})
	}
	return rs, nil
}

// rename appends to dst what a message is named on the other side; ok false: no route takes it.
func (rs routes) rename(dst, topic []byte) (name []byte, ok bool) {
	for i := range rs {
		r := &rs[i]
		if len(topic) < r.cut || !topics.FilterMatches(r.filter, topic) { // site/# matches site, which has no prefix site/
			continue
		}
		name = append(append(dst, r.put...), topic[r.cut:]...)
		return name, wire.CheckTopicName(name) == nil && len(name) <= 65535
	}
	return dst, false
}

// requests are the subscriptions for the routes. Messages that the bridge has brought itself do not come back, and the retain flag
// stays what the publisher set.
func (rs routes) requests(qosMax, retainHandling byte) []wire.FilterRequest {
	out := make([]wire.FilterRequest, len(rs))
	for i := range rs {
		out[i] = wire.FilterRequest{Filter: rs[i].filter, QoS: min(rs[i].qos, qosMax), NoLocal: true, RetainAsPublished: true, RetainHandling: retainHandling}
	}
	return out
}
