package plan

import (
	"maps"
	"math"
	"slices"
)

// What is counted of a load. Not all of it costs CPU time by itself: see costs.
const (
	In0            = "publish_in_qos0"  // PUBLISH taken
	In1            = "publish_in_qos1"  //
	In2            = "publish_in_qos2"  //
	InBytes        = "publish_in_bytes" // payload of them
	Out0           = "publish_out_qos0" // PUBLISH sent
	Out1           = "publish_out_qos1" //
	Out2           = "publish_out_qos2" //
	OutBytes       = "publish_out_bytes"
	Ping           = "ping" // PINGREQ answered
	Journaled      = "journaled"
	Batch          = "kafka_batch"
	Record         = "kafka_record"
	Read           = "read" // system calls
	Write          = "write"
	Base           = "base"              // a second of the process's life
	Connect        = "connect"           // CONNECT answered, and the end of that connection
	ConnectTLS     = "connect_tls"       // a TLS handshake before it
	ConnectWS      = "connect_websocket" // a WebSocket handshake before it
	MessagesIn     = "message_in"        // PUBLISH or PINGREQ taken
	MessagesOut    = "message_out"       // PUBLISH sent
	Acks           = "acknowledgement"   // packets that follow a PUBLISH, of either side
	Bytes          = "payload_byte"      // in or out
	OutLarge       = "large_message_out" // of 4 KiB and more, which is sent by reference where nothing is encrypted
	TLSMessages    = "tls_message"       // of either way, on TLS connections
	TLSBytes       = "tls_byte"
	WSMessages     = "websocket_message"
	JournaledBytes = "journaled_byte" // of messages that go to the log
	DurableOut     = "kept_delivery"  // at QoS 1 and 2 to kept sessions
	Retained       = "retained"       // messages stored so
	Queued         = "queued"         // references to messages that wait for absent sessions
	Drained        = "drained"        // deliveries of those when the sessions come back
	RetainedOut    = "retained_delivery"
	ReadBytes      = "read_byte" // payload of both, which is read from the log
	SharedOut      = "shared_delivery"
	Produce        = "kafka_produce" // requests
	ProduceBytes   = "kafka_produce_byte"
	Transaction    = "kafka_transaction" // ended
	Fetch          = "kafka_fetch"       // requests
	FetchBytes     = "kafka_fetch_byte"
	Calls          = "system_call"      // reads and writes of sockets
	Wakeup         = "wakeup"           // a loop comes back from waiting, by what a socket has
	WakeupInside   = "wakeup_inside"    // by another loop or the log, right after one of the other kind
	ColdStart      = "cold_start"       // a client begins something (a message, a ping, a CONNECT) and finds the loop asleep, or goes to sleep before it is answered
	ColdConn       = "cold_connection"  // messages from or to a connection that has been idle for so long that no cache has it any more
	Flush          = "flush"            // a group written to the log
	ColdFlush100   = "cold_flush_100us" // after nothing has been flushed for so long: see coldFlushes
	ColdFlush400   = "cold_flush_400us"
	ColdFlush1600  = "cold_flush_1600us"
	ColdFlush6400  = "cold_flush_6400us"
)

// costs are those of them that cost CPU time by themselves. They are few, since half of the rungs must be enough to tell them apart.
var costs = []string{Base, Connect, ConnectTLS, ConnectWS, MessagesIn, MessagesOut, Acks, Bytes, OutLarge, TLSMessages, TLSBytes, WSMessages,
	Journaled, JournaledBytes, ReadBytes, DurableOut, Retained, Queued, Drained, RetainedOut, SharedOut, Produce, Transaction, ProduceBytes, Fetch, FetchBytes, Calls, Wakeup, WakeupInside, ColdStart,
	ColdConn, Flush, ColdFlush100, ColdFlush400, ColdFlush1600, ColdFlush6400}

// costly sums up what costs the same, and leaves out what costs nothing by itself.
func (t Terms) costly() Terms {
	t[MessagesIn] = t[In0] + t[In1] + t[In2] + t[Ping]
	t[MessagesOut] = t[Out0] + t[Out1] + t[Out2]
	t[Acks] = t[In1] + t[Out1] + 3*(t[In2]+t[Out2])
	t[Bytes] = t[InBytes] + t[OutBytes]
	t[Calls] = t[Read] + t[Write]
	out := make(Terms, len(costs))
	for _, name := range costs {
		out[name] = t[name]
	}
	return out
}

// Terms are numbers by the name of what they count: events in a second, or what one of them costs.
type Terms map[string]float64

// cost is the sum of what each of t costs.
func (t Terms) cost(each Terms) (sum float64) {
	for _, name := range t.names() { // in one order, so that a sum is the same each time
		sum += t[name] * each[name]
	}
	return sum
}

// times multiplies all of t.
func (t Terms) times(f float64) Terms {
	out := make(Terms, len(t))
	for name, v := range t {
		out[name] = v * f
	}
	return out
}

func (t Terms) names() []string { return slices.Sorted(maps.Keys(t)) }

// equation says that terms cost so much in all.
type equation struct {
	terms Terms
	value float64
	trust float64 // how much of a relative error is one of the value; 0 is 1
}

const (
	fitRounds = 12
	// fitTolerated is how many times the usual error an equation may be off before it counts less: one rung that was
	// disturbed must not bend all others.
	fitTolerated = 2
	fitErrorMin  = 0.02
)

// fitLinear finds the costs, none negative, that fit the equations best: the sum of squares of log(said/measured) is least, so that
// twice and half of the truth are as bad as each other, whatever the size. Each round solves the linear problem whose errors
// have the weights that make them those logarithms.
func fitLinear(list []equation) Terms {
	costs, _ := fitLogs(list)
	return costs
}

// fitLogs gives the logarithms of said/measured too.
func fitLogs(list []equation) (Terms, []float64) {
	seen := Terms{}
	for _, e := range list {
		for name, v := range e.terms {
			seen[name] += math.Abs(v)
		}
	}
	names := slices.DeleteFunc(seen.names(), func(n string) bool { return seen[n] == 0 })
	if len(names) == 0 {
		return Terms{}, nil
	}
	a, b := make([][]float64, len(list)), make([]float64, len(list))
	for i, e := range list {
		a[i], b[i] = make([]float64, len(names)), e.value
		for j, n := range names {
			a[i][j] = e.terms[n]
		}
	}
	weights := firstWeights(list, a)
	logs, sizes := make([]float64, len(list)), make([]float64, len(list))
	var x []float64
	for range fitRounds {
		x = nnlsWeighted(a, b, weights)
		said := make([]float64, len(list))
		for i, e := range list {
			for j, v := range a[i] {
				said[i] += v * x[j]
			}
			said[i] = max(said[i], e.value/50)
			logs[i] = math.Log(said[i] / e.value)
			sizes[i] = math.Abs(logs[i]) * e.trusted()
		}
		slices.Sort(sizes)
		tolerated := fitTolerated * 1.5 * max(quantile(sizes, 0.5), fitErrorMin)
		for i, e := range list {
			w := 1 / e.value
			if d := said[i] - e.value; math.Abs(d) > 1e-6*e.value {
				w = logs[i] / d
			}
			w *= e.trusted()
			if size := math.Abs(logs[i]) * e.trusted(); size > tolerated {
				w *= math.Sqrt(tolerated / size)
			}
			weights[i] = w
		}
	}
	costs := make(Terms, len(names))
	for j, v := range x {
		costs[names[j]] = v
	}
	return costs, logs
}

// firstWeights take as the size of each equation what its terms usually cost, so that one whose value is far too small does not
// outweigh the others.
func firstWeights(list []equation, a [][]float64) []float64 {
	usual := make([]float64, len(a[0]))
	for j := range usual {
		var ratios []float64
		for i, e := range list {
			if a[i][j] > 0 {
				ratios = append(ratios, e.value/a[i][j])
			}
		}
		slices.Sort(ratios)
		usual[j] = quantile(ratios, 0.5)
	}
	weights := make([]float64, len(list))
	for i, e := range list {
		size := e.value
		for j, v := range a[i] {
			size = max(size, v*usual[j])
		}
		weights[i] = e.trusted() / size
	}
	return weights
}

func (e *equation) trusted() float64 {
	if e.trust == 0 {
		return 1
	}
	return e.trust
}
