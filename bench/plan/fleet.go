package plan

import (
	"slices"
	"time"

	"github.com/sluicemq/sluice/config"
)

// Fleet is what a user wants to serve, as their file describes it. The key tags are its keys; docs/capacity.md explains them.
type Fleet struct {
	Name     string   `key:"name"`
	Node     Node     `key:"node"`
	Headroom Share    `key:"headroom"` // of CPU, disk and network, left free at the peak
	Burst    float64  `key:"burst"`    // the peak, in usual rates
	Survive  int      `key:"survive"`  // failures of nodes at the same time
	Devices  []Class  `key:"devices"`
	Streams  []Stream `key:"streams"`
}

// Node is what one machine has.
type Node struct {
	Cores     float64     `key:"cores"`
	Memory    config.Size `key:"memory"`
	Disk      config.Size `key:"disk"`       // 0: not looked at
	DiskWrite config.Size `key:"disk_write"` // bytes in a second; 0: not looked at
	Network   Bits        `key:"network"`    // of each direction; 0: not looked at
	Price     Price       `key:"price"`      // of one, in whatever time
	Currency  string      `key:"currency"`
}

// Class is a kind of device.
type Class struct {
	Name          string        `key:"name"`
	Count         float64       `key:"count"`
	Connected     Share         `key:"connected"` // of them at a time
	Transport     Transport     `key:"transport"`
	KeepAlive     time.Duration `key:"keep_alive"`
	Reconnects    Rate          `key:"reconnects"` // of each device
	Kept          bool          `key:"kept"`       // their sessions outlive connections
	Subscriptions float64       `key:"subscriptions"`
	OnEveryNode   bool          `key:"on_every_node"` // each connects to every node
	Shared        bool          `key:"shared"`        // they share their subscriptions: each message goes to one of them
	Publish       []Publish     `key:"publish"`
}

// Publish is what each device of a class sends.
type Publish struct {
	Rate   Rate        `key:"rate"` // of one device
	Size   config.Size `key:"size"` // of a payload
	QoS    int         `key:"qos"`
	Retain bool        `key:"retain"`
	Topics float64     `key:"topics"` // retained: topics of each device
	To     []Delivery  `key:"to"`
}

// Delivery says who gets a message.
type Delivery struct {
	Class  string  `key:"class"`
	Copies float64 `key:"copies"` // to how many of the class
	QoS    int     `key:"qos"`
}

// Stream is a topic, or several alike, of Kafka's clients.
type Stream struct {
	Name       string        `key:"name"`
	Producers  float64       `key:"producers"`
	Rate       Rate          `key:"rate"` // records of all producers
	Size       config.Size   `key:"size"` // of a record
	Batch      config.Size   `key:"batch"`
	Linger     time.Duration `key:"linger"`
	Partitions float64       `key:"partitions"`
	Consumers  float64       `key:"consumers"` // of each group
	Groups     float64       `key:"groups"`    // how often everything is read
	Retention  time.Duration `key:"retention"`

	Transactions Rate `key:"transactions"` // that all producers end
}

func (f *Fleet) defaults() { f.Headroom, f.Burst, f.Survive = 0.3, 1, 1 }
func (c *Class) defaults() { c.Connected, c.KeepAlive = 1, time.Minute }
func (p *Publish) defaults() {
	p.Size, p.Topics = 128, 1
}
func (t *Delivery) defaults() { t.Copies, t.QoS = 1, 2 } // the publisher's QoS decides
func (s *Stream) defaults() {
	s.Producers, s.Batch, s.Partitions, s.Groups, s.Retention = 1, 16*config.KiB, 1, 1, 7*24*time.Hour
}

// recordOverhead is what a record has in a batch beside key and value.
const recordOverhead = 12

// load is what one of n nodes has to do when rates are burst times the usual. Each device is on one node, with those who get its
// messages; a class that is on every node connects to all of them.
func (f *Fleet) load(n, burst float64) *Load {
	l := &Load{Cores: f.Node.Cores}
	for i := range f.Devices {
		f.Devices[i].add(f, l, n, burst)
	}
	for i := range f.Streams {
		f.Streams[i].add(l, n, burst)
	}
	if len(l.Kafka) > 0 || slices.ContainsFunc(l.Flows, func(f Flow) bool { return f.kept() }) {
		l.Logged = tailBytes // in time
	}
	return l
}

// on is how many of a class are on one of n nodes.
func (c *Class) on(n float64) float64 {
	if c.OnEveryNode {
		return c.Count
	}
	return c.Count / n
}

func (c *Class) add(f *Fleet, l *Load, n, burst float64) {
	devices := c.on(n)
	up := devices * float64(c.Connected)
	l.Conns[c.Transport] += up
	l.Connects[c.Transport] += devices * float64(c.Reconnects) * burst
	l.Subscriptions += devices * c.Subscriptions
	if c.Kept {
		l.Sessions += devices
	}
	sent := 0.0
	for i := range c.Publish {
		p := &c.Publish[i]
		sent += float64(p.Rate)
		rate := c.Count / n * float64(c.Connected) * float64(p.Rate) * burst
		if p.Retain {
			l.RetainedCount += c.Count / n * p.Topics
			l.RetainedBytes += c.Count / n * p.Topics * float64(p.Size)
			l.StoredBytes += c.Count / n * p.Topics * float64(p.Size)
		}
		p.add(f, l, c, n, rate, up)
	}
	if c.KeepAlive > 0 && c.KeepAlive != config.Never { // a client that publishes need not ping
		l.Pings += up * max(0, 1/c.KeepAlive.Seconds()-sent)
	}
}

// add makes a flow for each class that gets the messages. The publishing is counted with the first, which is one for whose sake the
// messages are kept, if there is any.
func (p *Publish) add(f *Fleet, l *Load, from *Class, n, rate, publishers float64) {
	base := Flow{Publishers: publishers, Rate: rate, Size: float64(p.Size), QoS: p.QoS, From: from.Transport, Retain: p.Retain}
	if len(p.To) == 0 {
		l.Flows = append(l.Flows, base)
		return
	}
	var flows []Flow
	for i := range p.To {
		t := &p.To[i]
		to := f.class(t.Class)
		x := base
		x.OutQoS, x.To, x.Durable, x.Shared = min(p.QoS, t.QoS), to.Transport, to.Kept, to.Shared
		x.Receivers = to.on(n) * float64(to.Connected)
		x.Fanout = t.Copies * float64(to.Connected)
		x.Cross = Spread(x.Fanout, f.Node.Cores)
		if away := t.Copies * float64(1-to.Connected); away > 0 && x.OutQoS > 0 {
			x.Absent = away
			l.addWaiting(&x, rate*away, float64(1-to.Connected)/float64(to.Reconnects))
		}
		flows = append(flows, x)
	}
	slices.SortStableFunc(flows, func(a, b Flow) int { return boolOrder(b.kept()) - boolOrder(a.kept()) })
	for i := range flows {
		flows[i].Again = i > 0
	}
	l.Flows = append(l.Flows, flows...)
}

func boolOrder(b bool) int {
	if b {
		return 1
	}
	return 0
}

// addWaiting adds deliveries of a flow that wait for absent sessions, so many in a second, each for up to absence seconds.
func (l *Load) addWaiting(x *Flow, rate, absence float64) {
	l.Drains = append(l.Drains, Drain{Rate: rate, Size: x.Size, QoS: x.OutQoS, Receivers: x.Receivers, To: x.To})
	l.QueuedRefs += rate * absence
	l.StoredBytes += rate * absence * x.Size
}

func (s *Stream) add(l *Load, n, burst float64) {
	rate := float64(s.Rate) / n * burst
	size := float64(s.Size) + recordOverhead
	k := KafkaFlow{Producers: s.Producers / n, Rate: rate, Size: size, Consumers: s.Consumers * s.Groups / n, Read: rate * size * s.Groups}
	if s.Consumers == 0 {
		k.Read = 0
	}
	// A producer's batch goes when it has waited for linger or is full; with no linger each record goes by itself.
	each := rate / max(k.Producers, 1e-9)
	batches := each / (1 + each*s.Linger.Seconds())
	batches = max(batches, each*size/float64(s.Batch))
	k.Batches = batches * k.Producers
	k.Produces, k.Transactions = k.Batches, float64(s.Transactions)/n*burst
	l.Kafka = append(l.Kafka, k)
	l.KafkaConns += k.Producers + k.Consumers
	l.Partitions += s.Partitions / n
	if s.Retention != config.Never {
		l.StoredBytes += float64(s.Rate) / n * size * s.Retention.Seconds()
	}
}
