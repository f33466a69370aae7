package mqtt

import (
	"time"

	"github.com/sluicemq/sluice/internal/rewrite"
	"github.com/sluicemq/sluice/proto/mqtt/wire"
)

// Settings are the limits and features that a Handler keeps to, and tells MQTT 5 clients of. A zero means what it says; start from
// DefaultSettings. Set replaces them while connections live: what a CONNACK has promised stays with its connection.
type Settings struct {
	MaxPacket            uint32        // largest packet taken; 0: what the encoding allows
	ReceiveMax           uint16        // QoS 1 and 2 messages that a client may have unanswered, at least 1
	InflightMax          uint16        // the same towards a client that allows more, at least 1
	TopicAliasMax        uint16        // aliases that a client may use
	TopicAliasMaxOut     uint16        // aliases used towards a client that allows more
	ServerKeepAlive      uint16        // seconds; replaces what MQTT 5 clients ask for; 0: as they ask
	KeepAliveMax         uint16        // seconds; lowers what MQTT 5 clients ask for; 0: no bound
	FirstPacketTimeout   time.Duration // until CONNECT is whole; 0: never
	ConnectTimeout       time.Duration // from CONNECT to CONNACK: verification and take-over; 0: never
	StuckTimeout         time.Duration // how long a client may take nothing while its queue is full; 0: for ever
	QueueBytes           int           // bytes that wait for one connection
	OnFullDrop           bool          // at that bound a session without expiry loses the message instead of its connection
	SessionExpiryMax     time.Duration // 0: no bound
	SessionExpiryV3      uint32        // seconds that a session of 3.x with clean session 0 is kept; the largest number: for good
	ClientIDMax          int           // longest client identifier; 0: no bound
	Topics               wire.TopicLimits
	MaxQoS               uint8
	Retain               bool
	Wildcards            bool
	Shared               bool
	Exclusive            bool               // offer $exclusive/FILTER
	Delayed              time.Duration      // the longest that $delayed/SECONDS/TOPIC may ask for; 0: it is not offered
	Rewrite              rewrite.Rules      // nil: topics stay as clients name them
	Properties           []PropertyRule     // what becomes of user properties; nil: they stay as clients send them
	AutoSubscribe        []AutoSubscription // what new sessions begin with
	Mounts               map[string]string  // what the topics of listeners begin with, by the listeners' names: %c is the client identifier, %u the user
	Insiders             string             // a listener whose clients keep their topics and their sessions as they are, and may send all identifiers at once; empty: none
	SubscriptionIDs      bool
	SlowThreshold        time.Duration // from which on a message is late whose acknowledgement has not come; 0: nobody wants to know who is slow
	SlowWindow           time.Duration // how long a client that was late is shown
	SlowTop              int           // how many of them are
	BusyTopics           int           // how many topics are shown with their numbers; 0: none are counted
	ValidatePayload      bool          // check payloads that say they are UTF-8
	AllowSysPublish      bool          // let clients publish below $SYS
	ResponseInfo         string        // what a client that asks for it is told to begin response topics with; empty: nothing
	ServerReference      string        // another server, told to clients that a draining one sends away; empty: none
	ServerReferenceMoved bool          // they are to stay with it
}

// DefaultSettings are those of production.
func DefaultSettings() Settings {
	return Settings{
		MaxPacket: 16 << 20, ReceiveMax: 1024, InflightMax: 1024, TopicAliasMax: 32, TopicAliasMaxOut: 16,
		FirstPacketTimeout: 10 * time.Second, ConnectTimeout: 30 * time.Second, StuckTimeout: 30 * time.Second,
		QueueBytes: 1 << 20, SessionExpiryV3: neverExpires, ClientIDMax: 1024, Topics: wire.TopicLimits{Levels: 128}, MaxQoS: 2,
		Retain: true, Wildcards: true, Shared: true, SubscriptionIDs: true,
		Delayed: delayMost * time.Second,
	}
}

// maxPacketSize is the largest packet that the encoding allows.
const maxPacketSize = wire.MaxRemainingLength + 5

// normal brings s within what the protocol can say.
func (s Settings) normal() *Settings {
	if s.MaxPacket == 0 || s.MaxPacket > maxPacketSize {
		s.MaxPacket = maxPacketSize
	}
	s.ReceiveMax = max(s.ReceiveMax, 1)
	s.InflightMax = max(s.InflightMax, 1)
	s.MaxQoS = min(s.MaxQoS, 2)
	s.QueueBytes = max(s.QueueBytes, 1)
	return &s
}
