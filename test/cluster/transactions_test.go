package cluster

import (
	"context"
	"fmt"
	"sync"

	"github.com/twmb/franz-go/pkg/kgo"
)

// outcome is what the producer knows of a transaction.
type outcome int

const (
	unanswered outcome = iota // asked to commit, without an answer
	takenBack                 // never asked to commit
	answered                  // committed
)

// txRecords is how many records a transaction has in each partition.
const txRecords = 3

// transactions is a producer that commits some and takes back others, and what became of them.
type transactions struct {
	mu       sync.Mutex
	outcomes []outcome
}

// transact writes transactions until stop, and then a last one.
func (l *load) transact() {
	var cl *kgo.Client
	defer func() { cl.Close() }()
	for n := 0; ; n++ {
		last := false
		select {
		case <-l.stop:
			last = true
		default:
		}
		if cl == nil {
			cl = l.open(kgo.TransactionalID("chaos"))
		}
		got := l.transaction(cl, n, last || n%3 != 2)
		if got == unanswered && l.ctx.Err() == nil {
			cl.CloseAllowingRebalance() // as a program that is restarted
			cl = nil
		}
		l.tx.mu.Lock()
		l.tx.outcomes = append(l.tx.outcomes, got)
		l.tx.mu.Unlock()
		if got == answered {
			l.committed.Add(1)
		}
		if last && got == answered || l.ctx.Err() != nil {
			if cl == nil {
				cl = l.open()
			}
			return
		}
	}
}

// transaction makes one in all partitions.
func (l *load) transaction(cl *kgo.Client, n int, commit bool) outcome {
	if cl.BeginTransaction() != nil {
		return unanswered
	}
	var mu sync.Mutex
	whole := true
	for i := range txRecords * chaosPartitions {
		r := &kgo.Record{Topic: "whole", Partition: int32(i % chaosPartitions), Value: fmt.Appendf(nil, "%d/%d", n, i/chaosPartitions)}
		cl.Produce(l.ctx, r, func(_ *kgo.Record, err error) {
			mu.Lock()
			defer mu.Unlock()
			whole = whole && err == nil
		})
	}
	whole = cl.Flush(l.ctx) == nil && whole
	if !whole || !commit {
		if cl.EndTransaction(l.ctx, kgo.TryAbort) != nil {
			return unanswered
		}
		return takenBack
	}
	if cl.EndTransaction(l.ctx, kgo.TryCommit) != nil {
		return unanswered
	}
	return answered
}

// readCommitted reads all transactions from the begin until it has all: each is there in its order and once, or not at all.
func (l *load) readCommitted(ctx context.Context, all func(seen map[int]int) bool) (seen map[int]int) {
	cl := l.open(kgo.ConsumeTopics("whole"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchIsolationLevel(kgo.ReadCommitted()))
	defer cl.Close()
	seen = make(map[int]int) // records by transaction
	next, wrong := [chaosPartitions][2]int{}, false
	for {
		few, cancel := context.WithTimeout(ctx, pollTime)
		fs := cl.PollFetches(few)
		cancel()
		fs.EachRecord(func(r *kgo.Record) {
			var n, i int
			at := &next[r.Partition]
			if _, err := fmt.Sscanf(string(r.Value), "%d/%d", &n, &i); err != nil || n < at[0] || i != at[1] || i > 0 && n != at[0] {
				wrong = true
				l.t.Errorf("transactions, partition %d at %d: %s behind record %d of %d", r.Partition, r.Offset, r.Value, at[1]-1, at[0])
			}
			if *at = [2]int{n, i + 1}; i+1 == txRecords {
				*at = [2]int{n + 1, 0}
			}
			seen[n]++
		})
		switch {
		case all(seen) || wrong:
			return seen
		case ctx.Err() != nil:
			l.t.Errorf("transactions: read %d, and not all", len(seen))
			return seen
		}
	}
}

// verifyTransactions compares what a reader has seen with what the producer knows.
func (l *load) verifyTransactions(who string, seen map[int]int) {
	var count [3]int
	for n, o := range l.tx.outcomes {
		count[o]++
		k := seen[n]
		whole := k == txRecords*chaosPartitions
		if o == answered && !whole || o == takenBack && k != 0 || k != 0 && !whole {
			l.t.Errorf("%s has %d records of transaction %d, which was %s", who, k, n, [...]string{"left without an answer", "taken back", "committed"}[o])
		}
	}
	l.t.Logf("%s: %d transactions committed, %d taken back, %d without an answer", who, count[answered], count[takenBack], count[unanswered])
}

// haveLast says whether the last transaction, which is committed, is among those seen.
func (l *load) haveLast(seen map[int]int) bool {
	select {
	case <-l.sent:
		return seen[len(l.tx.outcomes)-1] == txRecords*chaosPartitions
	default:
		return false
	}
}
