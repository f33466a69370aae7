package kafka

// bulk is a request that may change, or show, thousands of topics. It is done in parts: the loop serves others between two, and no group of the log has more than
// one of them, so whoever applies it serves others as well. If the client goes, what is left is not done.
type bulk interface {
	// look takes topic i up into what is changed next, or answers for it, and says how many partitions that concerns.
	look(r *request, i int) (partitions int)
	// change has the catalog change what was taken up, with a result for each, and is answered from anywhere. false: there was nothing.
	change(r *request, done func([]TopicResult)) bool
	// changed takes over what came of it, and of what was answered for in this part.
	changed(r *request, results []TopicResult)
	// end answers.
	end(r *request)
}

// bulkPart is how many partitions a part may concern, each topic counting for one at least: a topic takes a loop some 35 µs to make, and its answer as much.
const bulkPart = 50

// inParts does b, of n topics.
func (r *request) inParts(n int, b bulk) {
	r.clientID = []byte(r.c.client) // what it had was a view
	r.part(0, n, b)
}

// part does what is left from a topic on.
func (r *request) part(from, n int, b bulk) {
	for weight := 0; from < n && weight < bulkPart; from++ {
		weight += max(b.look(r, from), 1)
	}
	l, t := r.c.l, r.ticket()
	done := func(r *request, results []TopicResult) {
		if b.changed(r, results); from < n {
			r.part(from, n, b)
			return
		}
		b.end(r)
	}
	switch later := func(results []TopicResult) { t.later(l, func(r *request) { done(r, results) }) }; {
	case b.change(r, later):
	case from < n:
		later(nil)
	default:
		done(r, nil)
	}
}

// creationMost is how many partitions one request may make, as in Kafka.
const creationMost = 10_000

const creationTooMany = "Excessively large number of partitions per request."
