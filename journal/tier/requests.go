package tier

import "sync/atomic"

// Op is what a request asks of a service.
type Op uint8

// The requests. What makes, renames or ends something is a put: stores ask as much for it.
const (
	OpPut Op = iota
	OpGet
	OpStat
	OpList
	OpDelete
	Ops // how many there are
)

var opNames = [Ops]string{"put", "get", "stat", "list", "delete"}

// opCosts are the classes by which stores ask for money: writes and lists (S3's class A) are some ten times as dear as reads (class B), and deletes
// are free.
var opCosts = [Ops]string{"write", "read", "read", "write", "free"}

// String names it, as metrics do.
func (o Op) String() string { return opNames[o] }

// Cost is the class by which stores ask for money: write, read or free.
func (o Op) Cost() string { return opCosts[o] }

// Requests counts what a store has asked of its service, failed requests included. The zero value is ready; all methods may be called concurrently.
type Requests struct{ n [Ops]atomic.Int64 }

// Add counts n requests.
func (r *Requests) Add(op Op, n int) { r.n[op].Add(int64(n)) }

// Load tells how many there have been.
func (r *Requests) Load(op Op) int64 { return r.n[op].Load() }

// Metered is a Store that tells what it asks of its service: one call may take several requests, an upload in parts for instance.
type Metered interface {
	// Requests are counted on for as long as the store is open, and stay readable afterwards.
	Requests() *Requests
}
