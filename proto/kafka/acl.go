package kafka

import "github.com/sluicemq/sluice/broker"

// What rules are asked: they know publish and subscribe. Writing records, and making, changing and deleting topics is publishing to the
// topic; reading them, and their offsets, is subscribing to it.
const (
	actWrite = broker.ActionPublish
	actRead  = broker.ActionSubscribe
)

// may says whether the client may do something with a topic.
func (c *conn) may(a broker.Action, topic []byte) bool {
	authz := c.l.h.authz
	return authz == nil || authz.Authorize(c.id, a, topic)
}

// mayName says whether the client may know that a topic is there.
func (c *conn) mayName(topic string) bool {
	name := []byte(topic)
	return c.may(actRead, name) || c.may(actWrite, name)
}
