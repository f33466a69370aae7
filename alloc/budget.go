package alloc

import "sync/atomic"

// Share is one of the parts that a node's memory is spent on.
type Share uint8

const (
	// ShareOutbound is what connections wait to send.
	ShareOutbound Share = iota
	// ShareTail is the log's tail ring.
	ShareTail
	// ShareAccumulators is what waits to be committed.
	ShareAccumulators
	// ShareCache is what could be read again.
	ShareCache
	// ShareTables is sessions, subscriptions, retained messages and the rest of the rows.
	ShareTables
	// NumShares is the number of shares.
	NumShares
)

var shareNames = [NumShares]string{"outbound", "tail", "accumulators", "cache", "tables"}

// String is the share's name, as metrics show it.
func (s Share) String() string {
	if s < NumShares {
		return shareNames[s]
	}
	return "unknown"
}

// Level is how full the budget is, and so what has to be done. Each level includes those below it.
type Level uint8

const (
	// LevelNormal asks for nothing.
	LevelNormal Level = iota
	// LevelShed is from 80 %: copy out what pins more than it needs, and shed the slowest receivers.
	LevelShed
	// LevelPause is from 90 %: stop reading publishers.
	LevelPause
	// LevelRefuse is from 95 %: refuse connections.
	LevelRefuse
)

var levelNames = [...]string{"normal", "shed", "pause", "refuse"}

// String is the level's name, as logs show it.
func (l Level) String() string {
	if int(l) < len(levelNames) {
		return levelNames[l]
	}
	return "unknown"
}

// Budget is what a node may pin in memory (limits.memory), with a counter per share. It is charged by bytes pinned, not by bytes
// used. All methods are safe for concurrent use. It enforces nothing: those who charge it ask for the level and act.
type Budget struct {
	limit  atomic.Int64
	_      [56]byte // the counters change often; readers of the limit need not notice
	total  atomic.Int64
	_      [56]byte
	shares [NumShares]struct {
		used atomic.Int64
		_    [56]byte
	}
}

// NewBudget returns a budget of limit bytes; 0 or less is none, whose level is always normal.
func NewBudget(limit int64) *Budget {
	b := &Budget{}
	b.limit.Store(limit)
	return b
}

// Charge adds n bytes to a share, or takes them off if n is negative.
func (b *Budget) Charge(s Share, n int64) {
	b.shares[s].used.Add(n)
	b.total.Add(n)
}

// TryCharge adds n bytes to a share if the total stays below the limit.
func (b *Budget) TryCharge(s Share, n int64) bool {
	limit := b.limit.Load()
	if b.total.Add(n) > limit && limit > 0 {
		b.total.Add(-n)
		return false
	}
	b.shares[s].used.Add(n)
	return true
}

// Used is what a share has been charged.
func (b *Budget) Used(s Share) int64 { return b.shares[s].used.Load() }

// Total is what all shares have been charged.
func (b *Budget) Total() int64 { return b.total.Load() }

// Limit is the budget's size.
func (b *Budget) Limit() int64 { return b.limit.Load() }

// SetLimit changes the budget's size: limits are reloaded without a restart.
func (b *Budget) SetLimit(n int64) { b.limit.Store(n) }

// Level is how full the budget is.
func (b *Budget) Level() Level {
	limit := b.limit.Load()
	if limit <= 0 {
		return LevelNormal
	}
	switch used := b.total.Load(); {
	case used >= limit-limit/20:
		return LevelRefuse
	case used >= limit-limit/10:
		return LevelPause
	case used >= limit-limit/5:
		return LevelShed
	default:
		return LevelNormal
	}
}

// accountSlack is how far an account may lag behind, each way.
const accountSlack = 64 << 10

// Account charges one share of a budget for one goroutine, in steps: per message it costs an addition, not an atomic. Its owner
// calls Flush when idle.
type Account struct {
	b       *Budget
	share   Share
	pending int64
}

// NewAccount returns an account of share s.
func (b *Budget) NewAccount(s Share) Account { return Account{b: b, share: s} }

// Charge adds n bytes, or takes them off if n is negative.
func (a *Account) Charge(n int64) {
	a.pending += n
	if a.pending >= accountSlack || a.pending <= -accountSlack {
		a.Flush()
	}
}

// Flush makes the budget exact for this account.
func (a *Account) Flush() {
	if a.pending != 0 {
		a.b.Charge(a.share, a.pending)
		a.pending = 0
	}
}
