package kafka

import (
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/proto/kafka/wire"
)

// alteration collects changes of topics' configurations and, beside each, where its answer goes.
type alteration struct {
	topics []TopicAlteration
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

// run has the catalog do it, or the node that leads, and answers.
func (a *alteration) run(r *request, validateOnly bool, resp kmsg.Response, tell func(at int, res *TopicResult)) {
	if len(a.topics) == 0 {
		r.respond(resp)
		return
	}
	l, t := r.c.l, r.ticket()
	alter := l.h.catalog.AlterConfigs
	if !r.c.controls() {
		alter = l.h.leader.AlterConfigs
	}
	alter(r.c.tenant(), a.topics, validateOnly, func(results []TopicResult) {
		t.later(l, func(r *request) {
			for k, at := range a.place {
				tell(at, &results[k])
			}
			r.respond(resp)
		})
	})
}

// alterConfigs replaces whole configurations.
func alterConfigs(r *request, m *kmsg.AlterConfigsRequest) {
	resp := m.ResponseKind().(*kmsg.AlterConfigsResponse)
	var a alteration
	for i := range m.Resources {
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
	a.run(r, m.ValidateOnly, resp, func(at int, res *TopicResult) {
		resp.Resources[at].ErrorCode = int16(res.Code)
		if res.Message != "" {
			resp.Resources[at].ErrorMessage = &res.Message
		}
	})
}
