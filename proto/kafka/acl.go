package kafka

import (
	"errors"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/proto/kafka/wire"
)

// Which operation each request needs on what is Apache Kafka's rule, and so is how a request that needs it is refused. Each API's file
// asks for its own.

// errTopicRefused is why one topic of a request that the core sees as a whole is not looked at.
var errTopicRefused = errors.New("not authorized for the topic")

// may says whether the client may do op with a resource.
func (c *conn) may(op broker.Operation, t broker.ResourceType, name string) bool {
	authz := c.l.h.authz
	return authz == nil || authz.Allows(c.id, op, t, []byte(name))
}

func (c *conn) mayTopic(op broker.Operation, name string) bool {
	return c.may(op, broker.ResourceTopic, name)
}

func (c *conn) mayGroup(op broker.Operation, name string) bool {
	return c.may(op, broker.ResourceGroup, name)
}

func (c *conn) mayTxn(op broker.Operation, id string) bool {
	return c.may(op, broker.ResourceTransactionalID, id)
}

func (c *conn) mayCluster(op broker.Operation) bool {
	return c.may(op, broker.ResourceCluster, broker.ClusterName)
}

// mayNode is mayCluster for what is the node's, or everybody's: a client of a tenant may not, whatever its tenant's rules say.
func (c *conn) mayNode(op broker.Operation) bool { return c.tenant() == 0 && c.mayCluster(op) }

// mayName says whether the client may know that a topic is there.
func (c *conn) mayName(topic string) bool { return c.mayTopic(broker.OperationDescribe, topic) }

// mayCreate says whether the client may create a topic.
func (c *conn) mayCreate(topic string) bool {
	return c.mayCluster(broker.OperationCreate) || c.mayTopic(broker.OperationCreate, topic)
}

// mayProduceSomewhere says whether the client may have a producer id.
func (c *conn) mayProduceSomewhere() bool {
	authz := c.l.h.authz
	return c.mayCluster(broker.OperationIdempotentWrite) || authz.AllowsAny(c.id, broker.OperationWrite, broker.ResourceTopic)
}

// operationsOf are the operations that the client may do with a resource, as Kafka tells them: a bit for each.
func (c *conn) operationsOf(t broker.ResourceType, name string) (bits int32) {
	for _, op := range broker.ResourceOperations(t) {
		if op == broker.OperationClusterAction && c.tenant() != 0 {
			continue // that is for the nodes
		}
		if c.may(op, t, name) {
			bits |= 1 << op
		}
	}
	return bits
}

// clusterOperations are those of the cluster, for a client that may know anything of it.
func (c *conn) clusterOperations() int32 {
	if !c.mayCluster(broker.OperationDescribe) {
		return 0
	}
	return c.operationsOf(broker.ResourceCluster, broker.ClusterName)
}

// accessCacheSize is how many topics' answers a connection keeps.
const accessCacheSize = 8

// accessCache keeps answers about the topics that a connection reads and writes, as long as the rules are the same.
type accessCache struct {
	generation uint64
	entries    [accessCacheSize]accessEntry
}

type accessEntry struct {
	topic       *broker.Topic
	asked, told uint16 // bits of operations
}

// mayUse is mayTopic for a topic that is there: what is asked for each batch is remembered.
func (c *conn) mayUse(op broker.Operation, t *broker.Topic) bool {
	authz := c.l.h.authz
	if authz == nil {
		return true
	}
	generation := authz.Generation() // before asking: an answer by newer rules is then asked again, never the other way round
	if c.access == nil {
		c.access = &accessCache{generation: generation}
	} else if c.access.generation != generation {
		*c.access = accessCache{generation: generation}
	}
	id := t.ID()
	e := &c.access.entries[id[len(id)-1]%accessCacheSize]
	if e.topic != t {
		*e = accessEntry{topic: t}
	}
	bit := uint16(1) << op
	if e.asked&bit == 0 {
		e.asked |= bit
		if authz.Allows(c.id, op, broker.ResourceTopic, t.NameBytes()) {
			e.told |= bit
		}
	}
	return e.told&bit != 0
}

// refused is a code as kmsg has it.
func refused(ok bool, code wire.ErrorCode) int16 {
	if ok {
		return int16(wire.None)
	}
	return int16(code)
}
