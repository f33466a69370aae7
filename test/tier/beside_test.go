package tier

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/journal/tier/backup"
	"github.com/sluicemq/sluice/journal/tier/stores"
	"github.com/sluicemq/sluice/proto/mqtt/wire"
)

// Producers of both protocols go on while a backup is taken. What they were told to be kept before its moment is in the restored node, each once; of what came
// later, nothing behind a gap.
func TestProduceBesideBackup(t *testing.T) { everywhere(t, produceBesideBackup) }

func produceBesideBackup(t *testing.T, store *place) { //nolint:thelper // a test: its own lines are to be told
	vault, text := store.beside(t)
	set := []string{"backup.rate=4MiB", "backup.store=" + text}
	n := start(t, t.TempDir(), store, set...)
	n.sluice("topic", "create", "bulk", "--partitions", "1")
	n.bulk(12 << 20) // so that the backup takes a while
	var writers []*writer
	for i := range 2 {
		writers = append(writers, n.kafkaWriter(fmt.Sprintf("kafka-%d", i)), n.mqttWriter(fmt.Sprintf("mqtt-%d", i)))
	}
	const before = 300
	together(writers, func(w *writer) {
		for range before {
			w.write(t)
		}
	})
	var began, ended atomic.Bool
	var beside sync.WaitGroup
	defer beside.Wait()
	defer ended.Store(true) // whatever ends the test
	beside.Go(func() {
		together(writers, func(w *writer) {
			for !ended.Load() {
				w.write(t)
				began.Store(true)
			}
		})
	})
	testx.Eventually(t, patience, began.Load, "nobody writes")
	out := n.sluiceWithin(2*patience, "backup", "create", "-o", "json")
	ended.Store(true)
	beside.Wait()
	var made struct{ ID, State string }
	if err := json.Unmarshal([]byte(out), &made); err != nil || made.State != "complete" {
		t.Fatalf("%+v, %v: %s", made, err, out)
	}
	taken := vault.taken(t, made.ID)
	n.consumeOnce(writers, func(w *writer, last int) {
		if last != len(w.acked)-1 {
			t.Errorf("%s: the node has up to %d of %d", w.name, last, len(w.acked))
		}
	})
	n.run.Kill()

	dir := filepath.Join(t.TempDir(), "data")
	restore(t, dir, append(store.flags(), set...))
	n = start(t, dir, store, append(set, "node.id=7")...)
	more := 0
	n.consumeOnce(writers, func(w *writer, last int) {
		due := 0
		for due < len(w.acked) && !w.acked[due].After(taken) {
			due++
		}
		if last+1 < due {
			t.Errorf("%s: %d records were acknowledged before the backup's moment, and %d are restored", w.name, due, last+1)
		}
		more += len(w.acked) - before
		t.Logf("%s: %d acknowledged, %d of them before the moment, %d restored", w.name, len(w.acked), due, last+1)
	})
	if more == 0 {
		t.Error("nothing was produced beside the backup")
	}
	for _, kind := range []string{"kafka", "mqtt"} {
		t.Logf("%s: p99 without a backup %v, beside it %v", kind, p99(writers, kind, 0, before), p99(writers, kind, before, 1<<30))
	}
}

// together runs what all writers do, and waits for them.
func together(writers []*writer, do func(*writer)) {
	var wg sync.WaitGroup
	for _, w := range writers {
		wg.Go(func() { do(w) })
	}
	wg.Wait()
}

// writer writes records name/0, name/1 … one after the other.
type writer struct {
	name  string
	send  func(value string) error
	acked []time.Time // of each, when it was told to be kept
	took  []time.Duration
}

// write writes the next one. It is called from any goroutine, so it ends nothing.
func (w *writer) write(tb testing.TB) {
	tb.Helper()
	if tb.Failed() {
		return
	}
	began := time.Now()
	if err := w.send(fmt.Sprintf("%s/%d", w.name, len(w.acked))); err != nil {
		tb.Errorf("%s: %v", w.name, err)
		return
	}
	w.acked, w.took = append(w.acked, time.Now()), append(w.took, time.Since(began))
}

// kafkaWriter waits for acks=all, one record at a time.
func (n *node) kafkaWriter(name string) *writer {
	n.Helper()
	cl := n.kafka(kgo.DefaultProduceTopic("temps"), kgo.RequiredAcks(kgo.AllISRAcks()), kgo.ProducerLinger(0))
	return &writer{name: name, send: func(value string) error {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		return cl.ProduceSync(ctx, &kgo.Record{Key: []byte(name), Value: []byte(value)}).FirstErr()
	}}
}

// mqttWriter waits for PUBACK, one message at a time.
func (n *node) mqttWriter(name string) *writer {
	n.Helper()
	c := n.mqtt(name)
	return &writer{name: name, send: func(value string) error {
		code, err := c.Publish(&wire.PublishOut{Topic: []byte("plant/" + name), Payload: []byte(value), QoS: 1})
		if err == nil && code.Failed() {
			err = fmt.Errorf("reason code %v", code)
		}
		return err
	}}
}

// bulk writes so many bytes to the topic bulk.
func (n *node) bulk(size int) {
	n.Helper()
	cl := n.kafka(kgo.DefaultProduceTopic("bulk"))
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	const each = 16 << 10
	for range size / each {
		cl.Produce(ctx, &kgo.Record{Value: bytes.Repeat([]byte("x"), each)}, func(_ *kgo.Record, err error) {
			if err != nil {
				n.Errorf("produce: %v", err)
			}
		})
	}
	if err := cl.Flush(ctx); err != nil {
		n.Fatal(err)
	}
}

// taken is the moment of a backup.
func (p *place) taken(t *testing.T, id string) time.Time {
	t.Helper()
	s, err := stores.Open(t.Context(), p.kind, p.settings)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	r, err := backup.Open(t.Context(), s, id)
	if err != nil {
		t.Fatal(err)
	}
	return r.Taken
}

// consumeOnce reads all of temps, makes sure that what a writer wrote is there once and in its order, without a gap, and tells the last number of each: -1 if
// there is none.
func (n *node) consumeOnce(writers []*writer, told func(w *writer, last int)) {
	n.Helper()
	cl := n.kafka(kgo.ConsumeTopics("temps"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	mark := fmt.Sprintf("mark/%d", time.Now().UnixNano())
	for p := range int32(2) {
		if err := cl.ProduceSync(ctx, &kgo.Record{Topic: "temps", Partition: p, Value: []byte(mark)}).FirstErr(); err != nil {
			n.Fatal(err)
		}
	}
	next := make(map[string]int)
	for marks := 0; marks < 2; {
		fs := cl.PollFetches(ctx)
		if err := fs.Err(); err != nil {
			n.Fatalf("%v\n%s", err, n.run.Log())
		}
		fs.EachRecord(func(r *kgo.Record) {
			value := string(r.Value)
			name, number, _ := strings.Cut(value, "/")
			switch {
			case value == mark:
				marks++
			case name == "mark":
			case number != fmt.Sprint(next[name]):
				n.Fatalf("%s comes where %d is due", value, next[name])
			default:
				next[name]++
			}
		})
	}
	for _, w := range writers {
		told(w, next[w.name]-1)
	}
}

// p99 is how long 99 of 100 records of a kind's writers have taken at most, of those from one number to another.
func p99(writers []*writer, kind string, from, to int) time.Duration {
	var all []time.Duration
	for _, w := range writers {
		if strings.HasPrefix(w.name, kind) {
			all = append(all, w.took[min(from, len(w.took)):min(to, len(w.took))]...)
		}
	}
	if len(all) == 0 {
		return 0
	}
	slices.Sort(all)
	return all[len(all)*99/100]
}
