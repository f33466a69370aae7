package broker

import (
	"sync"

	"github.com/sluicemq/sluice/journal/record"
)

// Volatile is the Log of durability "memory": it commits at once and keeps nothing. Retained messages live in the tables; no
// session outlives its connection (Options.Volatile), so nobody reads back.
type Volatile struct {
	b    *Broker
	wake chan struct{}
	stop chan struct{}
	once sync.Once
	done sync.WaitGroup
	buf  []byte
}

// NewVolatile makes the log of b and starts its goroutine.
func NewVolatile(b *Broker) *Volatile {
	v := &Volatile{b: b, wake: make(chan struct{}, 1), stop: make(chan struct{})}
	v.done.Add(1)
	go v.run()
	return v
}

func (v *Volatile) run() {
	defer v.done.Done()
	for {
		select {
		case <-v.wake:
		case <-v.stop:
			return
		}
		for more := true; more; {
			v.buf, more = v.b.Gather(v.buf[:0], pendingBytesMax*4)
			v.b.Committed(Place{})
		}
	}
}

// Wake has the goroutine commit what waits.
func (v *Volatile) Wake() {
	select {
	case v.wake <- struct{}{}:
	default:
	}
}

// Read finds nothing.
func (v *Volatile) Read(record.PartitionID, record.Offset, func(record.Batch) bool) error { return nil }

// SetLogStart has nothing to let go of.
func (v *Volatile) SetLogStart(record.PartitionID, record.Offset) {}

// DropPartition has nothing to let go of.
func (v *Volatile) DropPartition(record.PartitionID) {}

// Close stops the goroutine.
func (v *Volatile) Close() {
	v.once.Do(func() { close(v.stop) })
	v.done.Wait()
}
