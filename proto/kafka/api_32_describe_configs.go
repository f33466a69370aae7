package kafka

import (
	"slices"
	"strconv"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/proto/kafka/wire"
)

// described is a DescribeConfigs request under way.
type described struct {
	m    *kmsg.DescribeConfigsRequest
	resp *kmsg.DescribeConfigsResponse
}

// describeConfigs shows configurations of topics and of the node.
func describeConfigs(r *request, m *kmsg.DescribeConfigsRequest) {
	r.inParts(len(m.Resources), &described{m: m, resp: m.ResponseKind().(*kmsg.DescribeConfigsResponse)})
}

func (b *described) look(r *request, i int) int {
	ask := &b.m.Resources[i]
	out := kmsg.NewDescribeConfigsResponseResource()
	out.ResourceType, out.ResourceName = ask.ResourceType, ask.ResourceName
	values, code, why := []ConfigValue(nil), r.c.configFault(broker.OperationDescribeConfigs, ask.ResourceType, ask.ResourceName), ""
	if code == wire.None {
		values, code, why = r.c.configOf(ask.ResourceType, ask.ResourceName)
	}
	if code != wire.None {
		out.ErrorCode, out.ErrorMessage = int16(code), &why
	}
	for k := range values {
		v := &values[k]
		if ask.ConfigNames == nil || slices.Contains(ask.ConfigNames, v.Key) {
			out.Configs = append(out.Configs, describedConfig(v, b.m))
		}
	}
	b.resp.Resources = append(b.resp.Resources, out)
	return 1
}

func (b *described) change(*request, func([]TopicResult)) bool { return false }

func (b *described) changed(*request, []TopicResult) {}

func (b *described) end(r *request) { r.respond(b.resp) }

// configFault says why the client may not do op with a resource's configuration.
func (c *conn) configFault(op broker.Operation, kind kmsg.ConfigResourceType, name string) wire.ErrorCode {
	switch kind {
	case kmsg.ConfigResourceTypeTopic:
		if !c.mayTopic(op, name) {
			return wire.TopicAuthorizationFailed
		}
	case kmsg.ConfigResourceTypeGroupConfig:
		if !c.mayGroup(op, name) {
			return wire.GroupAuthorizationFailed
		}
	default: // what can be seen of a broker's are the defaults of topics, a tenant's among them
		may := c.mayCluster
		if op != broker.OperationDescribeConfigs {
			may = c.mayNode
		}
		if !may(op) {
			return wire.ClusterAuthorizationFailed
		}
	}
	return wire.None
}

// configOf finds a resource's configuration.
func (c *conn) configOf(kind kmsg.ConfigResourceType, name string) (values []ConfigValue, code wire.ErrorCode, why string) {
	switch kind {
	case kmsg.ConfigResourceTypeTopic:
		if !ValidTopicName(name) {
			return nil, wire.InvalidTopicException, "no topic has this name"
		}
		t := c.l.h.broker.Topic(c.tenant(), name)
		if t == nil {
			return nil, wire.UnknownTopicOrPartition, "there is no such topic"
		}
		return c.l.h.catalog.DescribeTopic(t.Spec()), wire.None, ""
	case kmsg.ConfigResourceTypeBroker:
		if name != "" && name != strconv.Itoa(int(c.l.h.nodeID)) {
			return nil, wire.InvalidRequest, "this node is broker " + strconv.Itoa(int(c.l.h.nodeID))
		}
		return c.l.h.catalog.DescribeNode(), wire.None, ""
	case kmsg.ConfigResourceTypeBrokerLogger, kmsg.ConfigResourceTypeClientMetrics, kmsg.ConfigResourceTypeGroupConfig:
		return nil, wire.InvalidRequest, "resources of this type have no configuration here"
	default:
		return nil, wire.InvalidRequest, "no such resource type"
	}
}

func describedConfig(v *ConfigValue, m *kmsg.DescribeConfigsRequest) kmsg.DescribeConfigsResponseResourceConfig {
	out := kmsg.NewDescribeConfigsResponseResourceConfig()
	out.Name, out.Value, out.ReadOnly, out.IsSensitive = v.Key, v.Value, v.ReadOnly, v.Sensitive
	out.Source, out.ConfigType = v.Source, v.Type
	out.IsDefault = v.Source == kmsg.ConfigSourceDefaultConfig
	if m.IncludeDocumentation {
		out.Documentation = &v.Doc
	}
	if !m.IncludeSynonyms {
		return out
	}
	synonym := func(value *string, source kmsg.ConfigSource) {
		s := kmsg.NewDescribeConfigsResponseResourceConfigConfigSynonym()
		s.Name, s.Value, s.Source = v.Key, value, source
		out.ConfigSynonyms = append(out.ConfigSynonyms, s)
	}
	if v.Source != kmsg.ConfigSourceDefaultConfig {
		synonym(v.Value, v.Source)
	}
	if v.Default != nil {
		synonym(v.Default, kmsg.ConfigSourceDefaultConfig)
	}
	return out
}
