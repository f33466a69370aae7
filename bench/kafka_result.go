package bench

import "fmt"

// KafkaResult is what a run against a Kafka broker found beside what all runs find.
type KafkaResult struct {
	Topics      int     `json:"topics"`
	Partitions  int     `json:"partitions"` // of each topic
	Keys        int     `json:"keys,omitempty"`
	BatchBytes  int     `json:"batch_bytes"`
	LingerMS    float64 `json:"linger_ms"`
	Acks        int     `json:"acks"`
	Compression string  `json:"compression"`
	Idempotent  bool    `json:"idempotent"`
	CommitMS    float64 `json:"commit_ms,omitempty"`
	AbortEvery  int     `json:"abort_every,omitempty"`
	Groups      int     `json:"groups,omitempty"`
	Members     int     `json:"members,omitempty"`
	HeartbeatMS float64 `json:"heartbeat_ms,omitempty"`

	SentMB     float64 `json:"sent_mb_per_second"`     // of batches as they are on the wire, 10^6 bytes
	ReceivedMB float64 `json:"received_mb_per_second"` // likewise
	CPUPerMB   float64 `json:"cpu_us_per_mb,omitempty"`

	Acknowledged *Distribution `json:"ack_us,omitempty"`    // from the intended time of a batch's first record
	Commits      *Distribution `json:"commit_us,omitempty"` // from the first EndTxn of a transaction to its end
	Assigned     *Distribution `json:"assigned_us,omitempty"`

	Verified  bool   `json:"verified"` // what was stored has been read
	Passes    uint64 `json:"passes,omitempty"`
	Committed uint64 `json:"transactions_committed,omitempty"`
	Aborted   uint64 `json:"transactions_aborted,omitempty"`
	Shown     uint64 `json:"aborted_records_shown"`
	Doubled   uint64 `json:"partitions_with_two_members"`
	Strange   uint64 `json:"strange_partitions,omitempty"` // groups: given to members, and there are not
	Retries   uint64 `json:"retries,omitempty"`            // while the transaction before was not wholly written

	// Of a broker of several nodes.
	Nodes      []KafkaNode `json:"nodes,omitempty"`
	Moves      uint64      `json:"moves,omitempty"`            // of partitions to another leader, as far as they were seen
	Cut        uint64      `json:"connections_lost,omitempty"` // and made again
	Passing    uint64      `json:"passing_errors,omitempty"`   // answers that another node leads, or none at present
	Resent     uint64      `json:"resent,omitempty"`           // records sent again
	MaybeTwice uint64      `json:"maybe_twice,omitempty"`      // of them, those without an idempotent producer that may have been stored the first time

	Pauses     *KafkaPauses `json:"pauses,omitempty"`
	PauseMaxMS float64      `json:"pause_max_ms,omitempty"`
}

// verifyKafka adds up what the partitions miss. The loops have stopped.
func (r *kafkaRun) verifyKafka() {
	c := &r.result.Counts
	c.Refused += r.refused.Load()
	c.Lost, c.Undecided = r.passLost.Load(), r.passUndecided.Load()
	for _, p := range r.producers {
		p.settle()
		p.unsettled(func(b *kbatch) {
			if b.numbered && r.k.Acks != 0 {
				c.Unacknowledged += uint64(b.count)
				r.result.total.marks[faultUnanswered].add(b.intended, uint64(b.count))
			}
		})
	}
	if !r.verified {
		return
	}
	for i, p := range r.pubs { // bound
		r.lanes[i].seq, r.lanes[i].began = p.seq, p.began
		for n := range p.unanswered() {
			r.lanes[i].lost = append(r.lanes[i].lost, span{n, n + 1})
		}
	}
	for _, l := range r.lanes {
		if l.part != nil && l.part.passed { // in the midst of another reading
			c.Lost += l.track.gaps
			if l.track.gaps > 0 {
				l.track.when(0, nil, 0, r.lostAt)
			}
			continue
		}
		lost, excused := l.missing()
		c.Lost += lost
		c.Undecided += excused
		if lost > 0 {
			l.track.when(l.seq, l.unanswered(), l.began, r.lostAt)
		}
	}
}

// settle notes what the broker has not taken over when the run is over.
func (p *kproducer) settle() {
	p.unsettled(func(b *kbatch) {
		if !b.aborted {
			b.lane.lost = append(b.lane.lost, span{b.first, b.first + uint64(b.count)})
		}
	})
	if p.txn == nil {
		return
	}
	for _, h := range p.txn.held { // acknowledged, and never committed
		h.lane.lost = append(h.lane.lost, h.span)
	}
}

// fillKafka turns the counters into the result. The loops have stopped.
func (r *kafkaRun) fillKafka() {
	r.fillResult()
	s, t, k := r.result, &r.result.total, &r.k
	s.Config.Publishers, s.Config.Subscribers = len(r.producers)+len(r.pubs), len(r.consumers)
	x := &KafkaResult{
		Topics: k.Topics, Partitions: k.Partitions, Keys: k.Keys, BatchBytes: k.BatchBytes, LingerMS: k.Linger.Seconds() * 1e3,
		Acks: k.Acks, Compression: k.Compression, Idempotent: k.idempotent(), CommitMS: k.Commit.Seconds() * 1e3, AbortEvery: k.AbortEvery,
		Verified: r.verified, Passes: r.passes.Load(), Committed: r.committed.Load(), Aborted: r.aborted.Load(), Shown: r.shown.Load(),
		Doubled: r.doubled.count, Retries: r.retries.Load(),
		Moves: r.nodes.moves.Load(), Cut: r.cuts.Load(), Passing: r.passing.Load(), Resent: r.resent.Load(), MaybeTwice: r.maybeTwice.Load(),
		Pauses: r.pauses(), PauseMaxMS: k.PauseMax.Seconds() * 1e3,
	}
	x.Nodes = r.nodeResults(s.Seconds)
	s.Kafka = x
	commits := newHist()
	for i := range r.commits {
		commits.Merge(r.commits[i])
	}
	x.Acknowledged, s.Acks = s.Acks, nil
	if k.Scenario == "groups" {
		x.Groups, x.Members, x.HeartbeatMS = k.Groups, k.Members, k.Heartbeat.Seconds()*1e3
		x.Assigned = distribution(commits)
	} else {
		x.Commits = distribution(commits)
	}
	if s.Seconds > 0 {
		x.SentMB, x.ReceivedMB = float64(t.sentBytes)/1e6/s.Seconds, float64(t.receivedBytes)/1e6/s.Seconds
	}
	if v := s.Server; v != nil {
		if t.sentMeasured == 0 && t.receivedMeasured > 0 {
			v.CPUPerDelivery = v.CPUSeconds * 1e6 / float64(t.receivedMeasured)
		}
		if mb := max(float64(t.sentBytes), float64(t.receivedBytes)) / 1e6; mb > 0 {
			x.CPUPerMB = v.CPUSeconds * 1e6 / mb
		}
	}
	t.marks[faultDoubled].merge(&r.doubled)
	t.marks[faultStray].merge(&r.strange)
	x.Strange = r.strange.count
	s.judgeKafka(k)
}

// judgeKafka lists what the broker did wrong.
func (s *Result) judgeKafka(k *KafkaConfig) {
	c, x := &s.Counts, s.Kafka
	s.Violations, s.Faults = []string{}, nil
	if k.Acks == 0 {
		if !k.AllowLoss {
			s.charge(faultLost, c.Lost, "%d records, which nobody acknowledged, never came", c.Lost)
		}
	} else {
		s.charge(faultLost, c.Lost, "%d acknowledged records never came", c.Lost)
	}
	s.charge(faultShown, x.Shown, "%d records of aborted transactions came", x.Shown)
	// Without an idempotent producer, what was sent again may be there twice, or behind what was sent after it the first time.
	again := c.Duplicates - min(c.Duplicates, x.MaybeTwice)
	s.charge(faultDuplicate, again, "%d records came again", again)
	late := c.Reordered
	if !x.Idempotent {
		late -= min(late, x.Resent)
	}
	s.charge(faultReordered, late, "%d records or batches came after a later one of the same partition", late)
	s.charge(faultCorrupt, c.Corrupt, "%d records are not what was sent", c.Corrupt)
	s.charge(faultStray, c.Stray, "%d records came from a partition that they were not sent to", c.Stray)
	s.charge(faultStray, x.Strange, "%d partitions were given to members of a group that there are not", x.Strange)
	s.charge(faultDoubled, x.Doubled, "%d partitions had two members of one group", x.Doubled)
	s.judgeConnections()
	s.charge(faultRefused, c.Refused, "%d records were answered by an error", c.Refused)
	if !s.Partial {
		s.charge(faultUnanswered, c.Unacknowledged, "%d records were never acknowledged", c.Unacknowledged)
	}
	if p := x.Pauses; p != nil {
		s.charge(faultPaused, s.total.marks[faultPaused].count, "%d partitions were without an acknowledgement for more than %v, %.0f ms at most",
			s.total.marks[faultPaused].count, k.PauseMax, p.Longest)
	}
	s.OK = len(s.Violations) == 0 && s.Void == ""
}

// kafkaHead are the rows that say what was run.
func (s *Result) kafkaHead(row func(string, string, ...any)) {
	x := s.Kafka
	row("scenario", "%s, %s, values of %d bytes, batches of %d, linger %.1f ms, acks %d, compression %s", s.Scenario, s.URL, s.Config.Payload,
		x.BatchBytes, x.LingerMS, x.Acks, x.Compression)
	row("clients", "%d publishers or producers, %d consumers, %d topics of %d partitions", s.Config.Publishers, s.Config.Subscribers, x.Topics, x.Partitions)
	if !x.Verified && s.Counts.Sent > 0 {
		row("not verified", "what was stored has not been read")
	}
}

// kafkaRows are the rows with figures.
func (s *Result) kafkaRows(row func(string, string, ...any), spread func(string, *Distribution)) {
	x := s.Kafka
	if x.SentMB+x.ReceivedMB > 0 {
		row("bytes", "%.1f MB/s sent, %.1f MB/s received, server CPU %.1f µs a MB", x.SentMB, x.ReceivedMB, x.CPUPerMB)
	}
	spread("acknowledged µs", x.Acknowledged)
	if x.Pauses != nil {
		x.Pauses.rows(row)
	}
	for i := range x.Nodes {
		x.Nodes[i].rows(row)
	}
	if len(x.Nodes) > 0 {
		text := fmt.Sprintf("%d partitions changed their leader, %d connections lost, %d passing errors, %d records sent again", x.Moves, x.Cut, x.Passing, x.Resent)
		if !x.Idempotent && x.Acks != 0 {
			text += fmt.Sprintf(", of which %d may be there twice and %d are", x.MaybeTwice, s.Counts.Duplicates)
		}
		row("leaders", "%s", text)
	}
	if x.Committed+x.Aborted > 0 {
		row("transactions", "%d committed, %d aborted, %d retries", x.Committed, x.Aborted, x.Retries)
	}
	spread("EndTxn µs", x.Commits)
	if x.Assigned != nil {
		row("groups", "%d of %d members", x.Groups, x.Members)
	}
	spread("assigned µs", x.Assigned)
	if x.Passes > 0 {
		row("readings", "%d of a partition from beginning to end", x.Passes)
	}
}
