package broker

import (
	"errors"
	"time"

	"github.com/sluicemq/sluice/internal/trace"
	"github.com/sluicemq/sluice/journal/record"
)

// Errors that the core answers with; proto/X maps them to its own codes.
var (
	// ErrBusy says that a bounded list is full: stop reading from this publisher until Subscriber.Resume is called.
	ErrBusy = errors.New("broker: busy")
	// ErrUnavailable says that the journal cannot take writes (disk full or failed).
	ErrUnavailable = errors.New("broker: storage unavailable")
	// ErrQuota says that a configured limit refuses the request.
	ErrQuota = errors.New("broker: quota exceeded")
	// ErrNotYet says that a node of the cluster runs a program that would not read what the request makes.
	ErrNotYet = errors.New("broker: a node of the cluster runs an older program")
	// ErrFilter says that a topic filter is outside the limits.
	ErrFilter = errors.New("broker: topic filter refused")
	// ErrClosed says that the broker is stopping.
	ErrClosed = errors.New("broker: closed")
	// ErrTakenOver ends a connection whose session another connection has taken.
	ErrTakenOver = errors.New("broker: session taken over")
	// ErrEnded ends a connection whose session an administrator has ended.
	ErrEnded = errors.New("broker: session ended by an administrator")
	// ErrNoSession says that there is no such session, or that nothing of it outlives its connection.
	ErrNoSession = errors.New("broker: no such session")
	// ErrNoSubscription says that an unsubscribe found nothing.
	ErrNoSubscription = errors.New("broker: no subscription existed")
)

// QoS is MQTT's quality of service; other protocols map theirs to it.
type QoS = uint8

// Message is one message on its way. All its slices are views: they are valid during the call that passes them and
// die with it.
type Message struct {
	Topic   []byte
	Payload []byte
	// Props is the property block that travels with the message: payload format, content type, response topic,
	// correlation data and user properties in MQTT 5 encoding, in their order, without length, expiry, alias or
	// subscription identifiers.
	Props []byte
	// Deadline is when the message expires, in Unix milliseconds; 0 means never.
	Deadline int64
	// Timestamp is when the broker took it, in Unix milliseconds.
	Timestamp int64
	QoS       QoS
	Retain    bool
	// Publisher is the subscriber slot of the publishing session, for no-local; 0 for none.
	Publisher uint32

	// Trace is set while somebody asks what becomes of the message, or its publisher's answer ends a span.
	Trace trace.Mark

	// Cache lets the receiving protocol keep an encoded form while one message is handed to many subscribers of one
	// loop. The core sets it to the Local's own scratch and clears Cache.Kind between messages.
	Cache *EncodeCache

	// Where in a bound stream it lies, for replays, and the durable number of the session that has published it, for no-local: Publisher is known
	// no longer than the node runs.
	part    *Partition
	offset  record.Offset
	durable uint64
	// delayed is the number of the row of its shard that it was, as long as it is one.
	delayed uint64
}

// EncodeCache is scratch space for one encoded packet; see Message.Cache. The protocol owns its meaning: Kind 0 is
// empty.
type EncodeCache struct {
	Kind uint32
	Buf  []byte
}

// Ref names a kept message for the session it was delivered to: shard and sequence. The zero Ref is a message that
// nobody keeps; it needs no Acked.
type Ref struct {
	Seq   uint64
	Shard uint16
	// Group is the durable number of the shared group that handed the message out, 0 for the session's own queue.
	Group uint64
}

// Zero says that nothing is kept for r.
func (r Ref) Zero() bool { return r == Ref{} }

// Delivery says how a message is to be given to one subscriber.
type Delivery struct {
	Ref Ref
	// SubscriptionIDs of all matching subscriptions, a view.
	SubscriptionIDs []uint32
	QoS             QoS  // granted: the lower of the message's and the highest matching subscription's
	Retain          bool // the retain flag to send
	Dup             bool
	// PacketID is set when the packet identifier was fixed before: a granted QoS 2 message (the core takes those from
	// CorePacketIDs up) or a redelivery. 0: the receiver takes a free one below CorePacketIDs.
	PacketID uint16
	// Shared says that the message came by a shared subscription.
	Shared bool
}

// CorePacketIDs is the first of the packet identifiers that the core assigns itself, to QoS 2 messages of durable sessions
// whose identifier has to be on stable storage before they are sent. Receivers take theirs from 1 to below it.
const CorePacketIDs = 0x8000

// Token is what a request wants back with its completion: an opaque word of the caller, such as packet type and
// identifier.
type Token uint64

// Result is the end of a request. Err nil is success.
type Result struct {
	Token   Token
	Err     error
	Matched bool // for a publish: somebody was subscribed
	Trace   trace.Mark
}

// Subscriber is a connection as the core sees it. The protocol implements it; every method runs on the connection's
// loop.
type Subscriber interface {
	// Deliver offers m and returns the packet identifier that it took for it (0 at QoS 0). False means no room now: a
	// message with a Ref stays queued and is offered again after Local.Ready; one without (Ref zero) is the protocol's
	// own business: it holds it within its byte bound, or drops and counts it, or ends the connection.
	Deliver(m *Message, d *Delivery) (packetID uint16, ok bool)
	// Completed ends a request that was pending.
	Completed(r Result)
	// Connected ends Local.Connect.
	Connected(r ConnectResult)
	// Kicked asks the protocol to end the connection: ErrTakenOver, an administrator, a stopping broker. The protocol
	// calls Local.Disconnect when it has closed, at once or later.
	Kicked(why error)
	// Control tells of the rarer events.
	Control(e Control)
}

// Roomy is a Subscriber that can say whether it has room. Retained messages, which come without a Ref, are sent only while it
// has; where it has not, it owes a Local.Ready.
type Roomy interface{ Room() bool }

// Control is an event for a Subscriber that needs no answer.
type Control struct {
	Kind ControlKind
	// PacketID: for ControlRelease, the QoS 2 identifier whose PUBREL is to be sent (again).
	PacketID uint16
}

// ControlKind says what a Control is.
type ControlKind uint8

// The kinds of Control.
const (
	// ControlResume: a publish that answered ErrBusy may be tried again: read on.
	ControlResume ControlKind = iota + 1
	// ControlRelease: send PUBREL for PacketID: the session was resumed in that state. It takes a place in the window.
	ControlRelease
)

// ConnectRequest opens or resumes a session.
type ConnectRequest struct {
	Tenant     uint32
	ClientID   string
	CleanStart bool
	// Expiry is how long the session outlives its connection; 0 ends it with the connection (a live session), and
	// NeverExpires keeps it for good.
	Expiry time.Duration
	Will   *Will
	// ReceiveMax bounds QoS 1 and 2 messages in flight to this client; redelivery at resume keeps within it.
	ReceiveMax uint16
}

// NeverExpires is the session expiry that never comes.
const NeverExpires = time.Duration(1<<63 - 1)

// Will is the message that the broker publishes when a connection ends without a goodbye. It owns its slices.
type Will struct {
	Topic, Payload, Props []byte
	QoS                   QoS
	Retain                bool
	Delay                 time.Duration
	Expiry                time.Duration // message expiry, 0 for none
}

// ConnectResult answers Local.Connect.
type ConnectResult struct {
	Err     error
	Present bool // a session was resumed
	// Received are the packet identifiers of QoS 2 messages that this session sent and has not released.
	Received []uint16
	// Expiry is the session expiry in force (a limit may have lowered it).
	Expiry time.Duration
}

// SubscribeRequest is one subscription of a SUBSCRIBE.
type SubscribeRequest struct {
	// Filter is the topic filter, without the $share prefix; Group is the share name or nil. Views.
	Filter, Group     []byte
	SubscriptionID    uint32 // 0: none
	QoS               QoS
	NoLocal           bool
	RetainAsPublished bool
	RetainHandling    uint8 // 0 send retained, 1 only if the subscription is new, 2 never
	// Exclusive: at most one session has the filter in this way; the others get ErrExclusive. Not together with Group.
	Exclusive bool
	// From is where in the streams behind the filter the subscription starts. A kept session's replay lives as long as its connection.
	From ReplayFrom
}

// DisconnectRequest ends a connection.
type DisconnectRequest struct {
	// PublishWill: the connection ended in a way that sends its will.
	PublishWill bool
	// Expiry replaces the session expiry when HasExpiry is set (MQTT 5 DISCONNECT).
	Expiry    time.Duration
	HasExpiry bool
}

// Outcome says what became of a publish.
type Outcome uint8

// The outcomes of Local.Publish.
const (
	// Routed: done, acknowledge now. NoMatch is the same with nobody subscribed.
	Routed Outcome = iota + 1
	NoMatch
	// Pending: Completed follows on the same loop, with the token.
	Pending
)
