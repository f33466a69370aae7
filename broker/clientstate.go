package broker

import "time"

// ClientState is what a connection holds and waits for at one moment, beside its ClientInfo. The protocol that has it fills it in, on its loop.
// A duration of 0 says that it does not wait for that.
type ClientState struct {
	// What it is sent.
	ReceiveMax int           // what the client has asked for; 0: the protocol has none
	Window     int           // messages that may be in flight to it
	Silent     time.Duration // for how long it has acknowledged nothing of what is in flight
	OutBytes   int           // that the socket has not taken
	OutBound   int           // more of them than this, and it gets nothing more
	OutFull    int           // OutBound while the node is not short of memory
	Stalled    time.Duration // for how long the socket has taken nothing
	Network    *NetworkState // nil: the system does not say
	SendOwed   time.Duration // until what it was sent is paid for by its quota

	// What it sends.
	Unanswered int           // publishes or requests that are not answered yet
	NotRead    []ReadPause   // why it is not read from
	ReadOwed   time.Duration // until what it has sent is paid for by its quota

	Pressure int         // how short of memory the node is: 0 not, 1 sheds, 2 refuses
	Dropped  []DropCount // messages of it or to it
	Core     ClientWaits // zero for a protocol that does not say
}

// NetworkState is what the kernel knows of the way to a client.
type NetworkState struct {
	Unsent  int  // bytes
	Full    bool // the client's own receive buffer is full
	Repeats int  // times in a row that it has sent again without an answer
	RTT     time.Duration
}

// ReadPause is why a client is not read from.
type ReadPause uint8

// The reasons.
const (
	PauseLog      ReadPause = iota + 1 // what waits for the log has reached its bound
	PauseAnswers                       // what it has sent waits for the log, as much of it as may
	PauseRequests                      // a SUBSCRIBE or UNSUBSCRIBE waits for the log
	PauseQuota
	PauseOrder // requests that came before are not done
	PauseConnect
	PauseTenant // its tenant is over a limit
)

var pauseNames = [...]string{PauseLog: "log", PauseAnswers: "answers", PauseRequests: "requests", PauseQuota: "quota", PauseOrder: "order", PauseConnect: "connect",
	PauseTenant: "tenant"}

// String is the reason as the control plane says it.
func (p ReadPause) String() string { return pauseNames[p] }

// DropCount is how many messages were dropped for a reason.
type DropCount struct {
	Reason string
	N      uint64
}

// ClientWaits is what a connection waits for in the core, and the core for it.
type ClientWaits struct {
	Commits  int   // of its requests that are on their way into the log
	Behind   bool  // its session's queues hold what it was not sent
	Stalled  bool  // it was offered more and had no room
	Resend   int   // messages of its earlier connections that come before anything else
	Reading  int   // reads of the log that are under way for it
	Granting int   // QoS 2 messages that wait for the log, or behind those that do
	Retained int   // subscriptions whose retained messages are not all sent
	Replays  int   // subscriptions that read a stream's past
	Storage  error // why the log takes nothing
}

// Waits tells what c waits for. On its loop.
func (l *Local) Waits(c *Client) (w ClientWaits) {
	w = ClientWaits{Commits: int(c.waiting), Retained: len(c.jobs()), Storage: l.b.Storage()}
	if c.more != nil {
		w.Replays = len(c.more.replays)
	}
	f := c.feed
	if f == nil {
		return w
	}
	w.Stalled, w.Resend, w.Reading, w.Granting = f.stalled, f.due, f.fetching, len(f.waiting)
	w.Behind = f.parked != nil
	for i := range f.shards {
		w.Behind = w.Behind || f.shards[i].behind
	}
	return w
}
