package kafka

import (
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/proto/kafka/wire"
)

// alteration is a request under way that changes configurations, by either of the two APIs: take and tell are what they do in their own ways.
type alteration struct {
	take         func(r *request, i int)                      // takes resource i in, or answers for it
	tell         func(i int, code wire.ErrorCode, why string) // answers for one that was taken in
	resp         kmsg.Response
	validateOnly bool

	topics []TopicAlteration // taken in
	place  []int
	seen   map[string]bool
}

// add takes one resource in, or says why not.
func (a *alteration) add(c *conn, kind kmsg.ConfigResourceType, name string, at int) (*TopicAlteration, wire.ErrorCode, string) {
	if code := c.configFault(broker.OperationAlterConfigs, kind, name); code != wire.None {
		return nil, code, ""
	}
	if kind != kmsg.ConfigResourceTypeTopic {
		return nil, wire.InvalidRequest, "only topics have a configuration that is changed by this request; the node's is in its file"
	}
	if c.controls() { // else the leader says whether there is such a topic: this node may not have heard of it yet
		if _, code, why := c.configOf(kind, name); code != wire.None {
			return nil, code, why
		}
	}
	if a.seen[name] {
		return nil, wire.InvalidRequest, "the topic is named more than once"
	}
	if a.seen == nil {
		a.seen = make(map[string]bool)
	}
	a.seen[name] = true
	a.topics, a.place = append(a.topics, TopicAlteration{Name: name}), append(a.place, at)
	return &a.topics[len(a.topics)-1], wire.None, ""
}

func (a *alteration) look(r *request, i int) int {
	a.take(r, i)
	return 1
}

// change has the catalog do it, or the node that leads.
func (a *alteration) change(r *request, done func([]TopicResult)) bool {
	if len(a.topics) == 0 {
		return false
	}
	alter := r.c.l.h.catalog.AlterConfigs
	if !r.c.controls() {
		alter = r.c.l.h.leader.AlterConfigs
	}
	alter(r.c.tenant(), a.topics, a.validateOnly, done)
	return true
}

func (a *alteration) changed(_ *request, results []TopicResult) {
	for k := range results {
		a.tell(a.place[k], results[k].Code, results[k].Message)
	}
	a.topics, a.place = nil, a.place[:0]
}

func (a *alteration) end(r *request) { r.respond(a.resp) }

// alterConfigs replaces whole configurations.
func alterConfigs(r *request, m *kmsg.AlterConfigsRequest) {
	resp := m.ResponseKind().(*kmsg.AlterConfigsResponse)
	a := &alteration{resp: resp, validateOnly: m.ValidateOnly}
	a.take = func(r *request, i int) {
		ask := &m.Resources[i]
		out := kmsg.NewAlterConfigsResponseResource()
		out.ResourceType, out.ResourceName = ask.ResourceType, ask.ResourceName
		change, code, why := a.add(r.c, ask.ResourceType, ask.ResourceName, i)
		if code != wire.None {
			out.ErrorCode, out.ErrorMessage = int16(code), &why
		} else {
			change.Replace = true
			for _, c := range ask.Configs {
				change.Changes = append(change.Changes, ConfigChange{Key: c.Name, Value: c.Value})
			}
		}
		resp.Resources = append(resp.Resources, out)
	}
	a.tell = func(i int, code wire.ErrorCode, why string) {
		if resp.Resources[i].ErrorCode = int16(code); why != "" {
			resp.Resources[i].ErrorMessage = &why
		}
	}
	r.inParts(len(m.Resources), a)
}
