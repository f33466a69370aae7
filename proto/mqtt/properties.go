package mqtt

import (
	"bytes"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/internal/template"
	"github.com/sluicemq/sluice/proto/mqtt/wire"
)

// PropertyRule changes user properties of what clients publish to topics that Filter matches. It does not change while it is in use.
type PropertyRule struct {
	Filter []byte
	Set    []PropertyTemplate
	Remove []string // names
}

// PropertyTemplate is a user property that a rule sets: in the place of all that the client has sent under the name.
type PropertyTemplate struct {
	Name  []byte
	Value template.Template
}

// drops says whether the rule takes away what has a name.
func (r *PropertyRule) drops(name []byte) bool {
	for i := range r.Set {
		if bytes.Equal(r.Set[i].Name, name) {
			return true
		}
	}
	for _, n := range r.Remove {
		if n == string(name) {
			return true
		}
	}
	return false
}

// propertyScratch is what the rules of a loop write to: what one has made is what the next one reads.
type propertyScratch struct {
	blocks [2][]byte
	value  []byte
}

// apply appends what the rule makes of a block of properties to dst. What a client has none of, as one without a user, is not set, and neither
// sent under its name.
func (r *PropertyRule) apply(dst, block, topic []byte, client, user string, x *propertyScratch) []byte {
	for all := wire.ReadProperties(block); ; {
		p, ok := all.Next()
		if !ok {
			break
		}
		if p.ID != wire.PropUser || !r.drops(p.Data) {
			dst = wire.AppendProperty(dst, p)
		}
	}
	for i := range r.Set {
		t, whole := &r.Set[i], false
		if x.value, whole = t.Value.Append(x.value[:0], client, user, topic); whole {
			dst = wire.AppendUserProperty(dst, t.Name, x.value)
		}
	}
	return dst
}

// applyRules gives the properties that rules make of a message's, one rule after the other. They are a view that the next message overwrites.
func (c *conn) applyRules(s *Settings, topic, props []byte) []byte {
	if c.insider(s) {
		return props
	}
	x, n := &c.l.properties, 0
	for i := range s.Properties {
		r := &s.Properties[i]
		if !broker.FilterMatches(r.Filter, topic) {
			continue
		}
		props = r.apply(x.blocks[n][:0], props, topic, c.clientID(), c.who.user, x)
		x.blocks[n] = props
		n = 1 - n
	}
	if len(props) == 0 {
		return nil
	}
	return props
}

// applyWillRules is applyRules for a will, whose properties are its own.
func (c *conn) applyWillRules(s *Settings, w *broker.Will) {
	if len(s.Properties) > 0 {
		w.Props = bytes.Clone(c.applyRules(s, w.Topic, w.Props))
	}
}
