package kafka

import (
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/proto/kafka/wire"
)

// Types of coordinators.
const (
	coordinatorGroup = 0
	coordinatorTxn   = 1
	coordinatorShare = 2
)

// findCoordinator names the node that has the group or the transaction.
func findCoordinator(r *request, m *kmsg.FindCoordinatorRequest) {
	resp := m.ResponseKind().(*kmsg.FindCoordinatorResponse)
	v := r.c.l.h.view()
	at, gone := r.c.leaderOf(v, v.coordinator(), true)
	keys := m.CoordinatorKeys
	if m.Version < 4 {
		keys = []string{m.CoordinatorKey}
	}
	for _, key := range keys {
		c := kmsg.NewFindCoordinatorResponseCoordinator()
		c.Key, c.NodeID, c.Host, c.Port = key, at.ID, at.Host, at.Port
		if code, why := r.c.coordinatorFault(m.CoordinatorType, key); code != wire.None {
			c.NodeID, c.Host, c.Port, c.ErrorCode, c.ErrorMessage = -1, "", -1, int16(code), &why
		} else if gone != wire.None {
			why := "no node has the group or the transaction now"
			c.NodeID, c.Host, c.Port, c.ErrorCode, c.ErrorMessage = -1, "", -1, int16(wire.CoordinatorNotAvailable), &why
		} else if m.CoordinatorType == coordinatorGroup {
			r.c.l.h.showOffsets(r.c.tenant())
		}
		resp.Coordinators = append(resp.Coordinators, c)
	}
	if m.Version < 4 {
		c := &resp.Coordinators[0]
		resp.NodeID, resp.Host, resp.Port, resp.ErrorCode, resp.ErrorMessage = c.NodeID, c.Host, c.Port, c.ErrorCode, c.ErrorMessage
	}
	r.respond(resp)
}

func (c *conn) coordinatorFault(kind int8, key string) (wire.ErrorCode, string) {
	switch {
	case kind == coordinatorGroup && !c.mayGroup(broker.OperationDescribe, key):
		return wire.GroupAuthorizationFailed, "not authorized to describe the group"
	case kind == coordinatorTxn && !c.mayTxn(broker.OperationDescribe, key):
		return wire.TransactionalIDAuthorizationFailed, "not authorized to describe the transactional id"
	case kind == coordinatorShare && !c.mayNode(broker.OperationClusterAction):
		return wire.ClusterAuthorizationFailed, "not authorized for the cluster"
	case kind == coordinatorShare:
		return wire.InvalidRequest, "share groups are not offered by this version"
	case kind != coordinatorGroup && kind != coordinatorTxn:
		return wire.InvalidRequest, "no such type of coordinator"
	case key == "" && kind == coordinatorGroup:
		return wire.InvalidGroupID, "a group's id is not empty"
	case key == "":
		return wire.InvalidRequest, "a transactional id is not empty"
	}
	return wire.None, ""
}

// showOffsets makes a tenant's topic of groups' offsets, which clients and tools expect to be there from the first look for a coordinator on.
func (h *Handler) showOffsets(tenant uint32) {
	if h.broker.Topic(tenant, broker.OffsetsTopic) == nil {
		h.autoCreateTopics(tenant, []TopicCreation{creationOf(broker.OffsetsTopic, 1)}, func([]TopicResult) {})
	}
}

// creationOf is a topic as it is made when it is only named.
func creationOf(name string, partitions int32) TopicCreation {
	c := TopicCreation{Name: name, Partitions: partitions, ReplicationFactor: 1}
	if name == broker.OffsetsTopic {
		compact := "compact"
		c.Partitions, c.Configs = 1, []ConfigEntry{{"cleanup.policy", &compact}}
	}
	return c
}
