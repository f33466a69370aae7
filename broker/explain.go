package broker

import "github.com/sluicemq/sluice/broker/topics"

// BindingPlace is where a binding puts what is published to an MQTT topic.
type BindingPlace struct {
	Binding   *Binding
	Key       []byte
	Partition int32
	Others    []*Binding // that match too, and come behind
}

// ExplainBinding says which binding takes what client publishes to an MQTT topic, and where to; ok false: none does.
func (b *Broker) ExplainBinding(topic, client string) (p BindingPlace, ok bool) {
	to := b.bindings.Load().find([]byte(topic))
	if to == nil {
		return p, false
	}
	p.Binding, p.Key = to.Binding, to.key([]byte(topic), client)
	p.Partition = to.topic.partitionOf(p.Key).Index()
	for _, other := range b.Bindings() {
		if other != to.Binding && topics.FilterMatches(other.filter, []byte(topic)) {
			p.Others = append(p.Others, other)
		}
	}
	return p, true
}

// Before says whether b is tried before other.
func (b *Binding) Before(other *Binding) bool { return compareBindings(b, other) < 0 }
