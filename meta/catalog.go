package meta

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
)

// Group makes changes durable, in one order for all. Propose never blocks; it is all of changes or none. done runs once, when Apply has been
// called with them, or with what refused them; it may run before Propose returns. Propose keeps the values. base is the Index of the snapshot
// that the changes were made of: ErrConflict says that others have changed the same since, and that Apply has been called with it.
type Group interface {
	Propose(base uint64, changes []Entry, done func(error))
}

// ErrConflict says that a change was made of a catalog that is not the last one. The catalog itself makes it again.
var ErrConflict = errors.New("meta: others are changing the same all the time")

// ErrNoMajority says that a change could not be made because too few nodes can be reached. Nothing has changed.
var ErrNoMajority = errors.New("meta: the catalog cannot be changed: fewer than half of its nodes can be reached")

// ErrUnknown says that a change was sent off and that nobody knows whether it is made: what is in the catalog later tells.
var ErrUnknown = errors.New("meta: the change of the catalog was not answered in time: it may be made yet")

// What a group of several nodes says beside that.
var (
	ErrGroupClosed = errors.New("meta: the node is closing")
	ErrBounds      = errors.New("meta: more than the catalog takes")
	ErrHalted      = errors.New("meta: this node does not apply changes of the catalog any more")
	ErrSelf        = errors.New("meta: ask another node for it")
)

// conflictsMax bounds how often a change is made again.
const conflictsMax = 64

// ErrBusy says that too many updates wait: come again.
var ErrBusy = errors.New("meta: too many changes of the catalog are waiting")

// updatesMax bounds the updates that wait.
const updatesMax = 4096

// commandBytes is from how many bytes on a command is sent off, whatever waits.
const commandBytes = 128 << 10

// Catalog is the entries that the group has applied. Make it with New, give its Apply to the group, call Recovered when the group has told
// all that was there before.
type Catalog struct {
	group Group
	now   atomic.Pointer[Snapshot]

	apply struct { // one at a time
		sync.Mutex
		loading *edit // until Recovered
		err     error
	}
	subs struct {
		sync.Mutex
		list []*subscription // replaced, never written to
	}
	mu struct {
		sync.Mutex
		running bool
		waiting []update
	}
}

type subscription struct{ fn func(old, now *Snapshot) }

// update is a change that is to be made of what is there when its turn has come.
type update struct {
	change func(*Snapshot) ([]Entry, error)
	done   func(error)
	alone  bool // it has failed together with others

	conflicts int
}

// New makes a catalog without entries.
func New(g Group) *Catalog {
	c := &Catalog{group: g}
	s := emptySnapshot()
	c.now.Store(s)
	c.apply.loading = s.edit()
	return c
}

// Load gives the catalog as it is.
func (c *Catalog) Load() *Snapshot { return c.now.Load() }

// Apply takes over what the group has decided: one call for each command, in the order of the log; index is its place there, 0 for a group
// that has one node alone. Readers see all of it or nothing. Subscribers are told before it returns.
func (c *Catalog) Apply(index uint64, changes []Entry) {
	c.apply.Lock()
	defer c.apply.Unlock()
	e := c.apply.loading
	if e == nil {
		e = c.Load().edit()
	}
	for i := range changes {
		k, name, v, err := changes[i].decode()
		if err != nil {
			c.apply.err = errors.Join(c.apply.err, err)
			continue
		}
		e.set(k, name, v)
	}
	e.next.index = max(e.next.index, index)
	if c.apply.loading == nil {
		c.publish(e)
	}
}

// publish makes e's snapshot the catalog. The caller holds apply.
func (c *Catalog) publish(e *edit) {
	old, now := c.Load(), e.take()
	c.now.Store(now)
	c.subs.Lock()
	list := c.subs.list
	c.subs.Unlock()
	for _, s := range list {
		s.fn(old, now)
	}
}

// Recovered ends recovery: what was applied so far is the catalog. The error says what of it this program does not understand; a node does
// not start with it.
func (c *Catalog) Recovered() error {
	c.apply.Lock()
	defer c.apply.Unlock()
	if e := c.apply.loading; e != nil {
		c.apply.loading = nil
		c.publish(e)
	}
	if c.apply.err != nil {
		return fmt.Errorf("the catalog holds what this program does not know: a newer one has written it? %w", c.apply.err)
	}
	return nil
}

// Subscribe has fn called after each change, with the catalog before and after it, in order, one call at a time. It must not block, nor wait
// for a change. Changes before the call are not told.
func (c *Catalog) Subscribe(fn func(old, now *Snapshot)) (cancel func()) {
	s := &subscription{fn}
	c.subs.Lock()
	defer c.subs.Unlock()
	c.subs.list = append(c.subs.list[:len(c.subs.list):len(c.subs.list)], s)
	return func() {
		c.subs.Lock()
		defer c.subs.Unlock()
		var rest []*subscription
		for _, other := range c.subs.list {
			if other != s {
				rest = append(rest, other)
			}
		}
		c.subs.list = rest
	}
}

// Update changes the catalog by what change makes of it. Updates are made one after the other, each on what the ones before have made, however
// many are in one command; change may be called again if such a command fails, and must not block. done runs when the change is in Load, or
// with what refused it.
func (c *Catalog) Update(change func(*Snapshot) ([]Entry, error), done func(error)) {
	c.mu.Lock()
	if len(c.mu.waiting) >= updatesMax {
		c.mu.Unlock()
		done(ErrBusy)
		return
	}
	c.mu.waiting = append(c.mu.waiting, update{change: change, done: done})
	begin := !c.mu.running
	c.mu.running = true
	c.mu.Unlock()
	if begin {
		c.run()
	}
}

// run sends off what waits, command by command, until nothing does or one is under way that goes on with it later.
func (c *Catalog) run() {
	for {
		base, batch, changes := c.nextCommand()
		if len(changes) == 0 {
			c.settle(batch, nil)
			if c.idle() {
				return
			}
			continue
		}
		// Propose may answer before it returns: then this loop goes on, else the answer does.
		var first atomic.Bool
		c.group.Propose(base, changes, func(err error) {
			c.settle(batch, err)
			if first.Swap(true) {
				c.run()
			}
		})
		if !first.Swap(true) {
			return
		}
	}
}

// idle ends the run if nothing waits.
func (c *Catalog) idle() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mu.running = len(c.mu.waiting) > 0
	return !c.mu.running
}

// nextCommand makes a command of the updates that wait, as many as go into one.
func (c *Catalog) nextCommand() (base uint64, batch []update, changes []Entry) {
	now := c.Load()
	e := now.edit()
	size := 0
	for size < commandBytes && (len(batch) == 0 || !batch[0].alone) {
		u, ok := c.nextUpdate(len(batch) == 0)
		if !ok {
			break
		}
		list, err := u.change(e.take())
		if err == nil {
			err = e.enter(list)
		}
		if err != nil {
			u.done(err)
			continue
		}
		batch = append(batch, u)
		changes = append(changes, list...)
		for i := range list {
			size += len(list[i].Key) + len(list[i].Value)
		}
	}
	return now.index, batch, changes
}

// nextUpdate takes the next one that waits; one that is to be alone only as the first.
func (c *Catalog) nextUpdate(first bool) (u update, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.mu.waiting) == 0 || !first && c.mu.waiting[0].alone {
		return u, false
	}
	u = c.mu.waiting[0]
	c.mu.waiting[0] = update{}
	c.mu.waiting = c.mu.waiting[1:]
	return u, true
}

// enter enters changes, all of them or none.
func (e *edit) enter(changes []Entry) error {
	type decoded struct {
		k    kindID
		name string
		v    any
	}
	list := make([]decoded, len(changes))
	for i := range changes {
		d := &list[i]
		var err error
		if d.k, d.name, d.v, err = changes[i].decode(); err != nil {
			return err
		}
	}
	for _, d := range list {
		e.set(d.k, d.name, d.v)
	}
	return nil
}

// settle answers the updates of a command. Those that failed together come again, each alone: one may have been the reason for all. So do
// those that others were faster than; but none of a command that the group could not make, or of which nobody knows what becomes.
func (c *Catalog) settle(batch []update, err error) {
	conflict := errors.Is(err, ErrConflict) && batch[0].conflicts < conflictsMax
	if conflict || err != nil && len(batch) > 1 && !errors.Is(err, ErrUnknown) && !errors.Is(err, ErrNoMajority) {
		for i := range batch {
			if conflict {
				batch[i].conflicts++
			} else {
				batch[i].alone = true
			}
		}
		c.mu.Lock()
		c.mu.waiting = append(batch, c.mu.waiting...)
		c.mu.Unlock()
		return
	}
	for i := range batch {
		batch[i].done(err)
	}
}
