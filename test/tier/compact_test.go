package tier

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/sluicemq/sluice/internal/testx"
)

// keyed is a compacted topic in a store, and what its readers have to have in the end.
type keyed struct {
	*node
	state map[string]string
	end   string // the last record's value
}

// write writes records of a few keys, deletions among them, and a last one.
func (k *keyed) write(round, n int) {
	k.Helper()
	cl := k.kafka(kgo.DefaultProduceTopic("keyed"))
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	put := func(key, value string) {
		r := &kgo.Record{Key: []byte(key)}
		if value == "" {
			delete(k.state, key)
		} else {
			r.Value, k.state[key] = []byte(value), value
		}
		cl.Produce(ctx, r, func(_ *kgo.Record, err error) {
			if err != nil {
				k.Errorf("produce: %v", err)
			}
		})
	}
	for i := range n {
		value := fmt.Sprintf("%d.%d %s", round, i, strings.Repeat("x", 300))
		if i%11 == 0 {
			value = ""
		}
		put(fmt.Sprint("key ", i*7%23), value)
	}
	k.end = fmt.Sprint("round ", round)
	put("end", k.end)
	if err := cl.Flush(ctx); err != nil {
		k.Fatal(err)
	}
}

// read reads all from the start on, makes sure of it, and gives how many records that were.
func (k *keyed) read() (records int) {
	k.Helper()
	cl := k.kafka(kgo.ConsumeTopics("keyed"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchIsolationLevel(kgo.ReadCommitted()))
	defer cl.Close()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	state, last := make(map[string]string), int64(-1)
	for state["end"] != k.end {
		fs := cl.PollFetches(ctx)
		if err := fs.Err(); err != nil {
			k.Fatalf("%v, after %d records\n%s", err, records, k.run.Log())
		}
		fs.EachRecord(func(r *kgo.Record) {
			if r.Offset <= last {
				k.Errorf("offset %d behind %d", r.Offset, last)
			}
			last = r.Offset
			records++
			if r.Value == nil {
				delete(state, string(r.Key))
			} else {
				state[string(r.Key)] = string(r.Value)
			}
		})
	}
	if !maps.Equal(state, k.state) {
		k.Errorf("%d keys are read, %d were written, or others", len(state), len(k.state))
	}
	return records
}

// settled offloads, and waits until readers meet few records.
func (k *keyed) settled() {
	k.Helper()
	testx.Eventually(k, patience, func() bool {
		k.sluice("tier", "offload", "--all")
		return k.read() < 80
	}, "it is not compacted in the store")
}

// A compacted topic goes to the store, is compacted there, and comes back from there alone, compacted, to a node that has lost its disk.
func TestCompacted(t *testing.T) { everywhere(t, compacted) }

func compacted(t *testing.T, store *place) { //nolint:thelper // a test: its own lines are to be told
	dir := t.TempDir()
	k := &keyed{node: start(t, dir, store), state: make(map[string]string)}
	k.sluice("topic", "create", "keyed", "--partitions", "1", "--set", "cleanup.policy=compact", "--set", "tier.policy=immediate", "--set", "min.cleanable.dirty.ratio=0.1")
	for round := range 3 {
		k.write(round, 400)
		k.settled()
	}
	k.run.Kill()
	k.node = start(t, dir, store)
	k.read()
	k.run.Kill()

	k.node = start(t, t.TempDir(), store)
	k.sluice("tier", "rebuild")
	if n := k.read(); n >= 80 {
		t.Errorf("%d records come back", n)
	}
	if out := k.sluice("topic", "describe", "keyed"); !strings.Contains(out, "compact") {
		t.Errorf("it is compacted no more: %s", out)
	}
	k.sluice("topic", "alter", "keyed", "--set", "min.cleanable.dirty.ratio=0.1")
	k.write(3, 400)
	k.settled()
	k.sluice("tier", "verify")
}
