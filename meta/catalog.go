package meta

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
)

// Group makes changes durable, in one order for all. Propose never blocks; it is all of changes or none. done runs once, when Apply has been
// called with them, or with what refused them; it may run before Propose returns. Propose keeps the values.
type Group interface {
	Propose(changes []Entry, done func(error))
}

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

// Apply takes over what the group has decided: one call for each command, in the order of the log. Readers see all of it or nothing.
// Subscribers are told before it returns.
func (c *Catalog) Apply(changes []Entry) {
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
		batch, changes := c.nextCommand()
		if len(changes) == 0 {
			c.settle(batch, nil)
			if c.idle() {
				return
			}
			continue
		}
		// Propose may answer before it returns: then this loop goes on, else the answer does.
		var first atomic.Bool
		c.group.Propose(changes, func(err error) {
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
func (c *Catalog) nextCommand() (batch []update, changes []Entry) {
	e := c.Load().edit()
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
	return batch, changes
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

// settle answers the updates of a command. Those that failed together come again, each alone: one may have been the reason for all.
func (c *Catalog) settle(batch []update, err error) {
	if err != nil && len(batch) > 1 {
		for i := range batch {
			batch[i].alone = true
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
