package kafka

import (
	"slices"
	"strconv"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/proto/kafka/wire"
)

// listConfigResources names what has a configuration: topics and nodes. Kafka has client metrics, groups and loggers too; here none of
// them has any. Version 0 asks for client metrics alone.
func listConfigResources(r *request, m *kmsg.ListConfigResourcesRequest) {
	resp := m.ResponseKind().(*kmsg.ListConfigResourcesResponse)
	tenant := r.c.tenant()
	if resp.ErrorCode = refused(r.c.mayCluster(broker.OperationDescribeConfigs), wire.ClusterAuthorizationFailed); resp.ErrorCode != 0 {
		r.respond(resp)
		return
	}
	wanted := func(t kmsg.ConfigResourceType) bool {
		return m.Version >= 1 && (len(m.ResourceTypes) == 0 || slices.Contains(m.ResourceTypes, int8(t)))
	}
	for _, t := range m.ResourceTypes {
		switch kmsg.ConfigResourceType(t) {
		case kmsg.ConfigResourceTypeTopic, kmsg.ConfigResourceTypeBroker, kmsg.ConfigResourceTypeBrokerLogger, kmsg.ConfigResourceTypeClientMetrics,
			kmsg.ConfigResourceTypeGroupConfig:
		default:
			resp.ErrorCode = int16(wire.UnsupportedVersion)
			r.respond(resp)
			return
		}
	}
	add := func(t kmsg.ConfigResourceType, name string) {
		o := kmsg.NewListConfigResourcesResponseConfigResource()
		o.Type, o.Name = int8(t), name
		resp.ConfigResources = append(resp.ConfigResources, o)
	}
	if wanted(kmsg.ConfigResourceTypeTopic) {
		var names []string
		r.c.l.h.broker.Topics(tenant, func(t *broker.Topic) bool { names = append(names, t.Name()); return true })
		slices.Sort(names)
		for _, name := range names {
			add(kmsg.ConfigResourceTypeTopic, name)
		}
	}
	if wanted(kmsg.ConfigResourceTypeBroker) {
		for _, n := range r.c.l.h.view().Nodes {
			add(kmsg.ConfigResourceTypeBroker, strconv.Itoa(int(n.ID)))
		}
	}
	r.respond(resp)
}
