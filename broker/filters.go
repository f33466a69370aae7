package broker

import (
	"encoding/binary"
	"math"
	"slices"
	"sync"

	"github.com/sluicemq/sluice/broker/topics"
)

// filterTable knows the durable filters: their numbers, which are on disk and never reused, and who reads their queues. It keeps the
// marks of the index's rows, under its own lock: a mark that one session's leaving clears must not be the one that another's coming
// has set.
type filterTable struct {
	index   *topics.Index
	mu      sync.Mutex
	last    uint64
	byText  map[string]*durableFilter
	byNum   map[uint64]*durableFilter
	pickers map[topics.FilterID]*topics.Picker
	groups  map[topics.FilterID][]topics.Entry // members of shared groups

	// Filters of shared groups, each in one place as long as it is there: listings go through them. nil: free.
	rows []*durableFilter
	free []int
}

// durableFilter is a filter that at least one durable session subscribes to at QoS 1 or 2, or is about to.
type durableFilter struct {
	number uint64
	id     topics.FilterID
	text   string
	shared bool
	row    int // of a shared group, in filterTable.rows
	coming int // subscriptions on their way into the log
	users  []*Session
	place  map[*Session]int // of users, once they are many
}

// usersMany is from how many readers on a filter keeps their places.
const usersMany = 32

func (f *durableFilter) add(sess *Session) {
	f.users = append(f.users, sess)
	switch {
	case f.place != nil:
		f.place[sess] = len(f.users) - 1
	case len(f.users) > usersMany:
		f.place = make(map[*Session]int, 2*usersMany)
		for i, u := range f.users {
			f.place[u] = i
		}
	}
}

func (f *durableFilter) at(sess *Session) int {
	if f.place == nil {
		return slices.Index(f.users, sess)
	}
	if i, ok := f.place[sess]; ok {
		return i
	}
	return -1
}

func (f *durableFilter) remove(sess *Session) {
	i := f.at(sess)
	if i < 0 {
		return
	}
	last := len(f.users) - 1
	f.users[i] = f.users[last]
	f.users[last] = nil
	f.users = f.users[:last]
	if f.place != nil {
		if i < last {
			f.place[f.users[i]] = i
		}
		delete(f.place, sess)
	}
}

func (t *filterTable) init(index *topics.Index) {
	t.index = index
	t.byText = make(map[string]*durableFilter)
	t.byNum = make(map[uint64]*durableFilter)
	t.pickers = make(map[topics.FilterID]*topics.Picker)
	t.groups = make(map[topics.FilterID][]topics.Entry)
}

func filterText(tenant uint32, group, filter string) string {
	var n [4]byte
	binary.BigEndian.PutUint32(n[:], tenant)
	return string(n[:]) + group + "\x00" + filter
}

// reserve gives the filter's number, a new one if it has none, and keeps it until settle.
func (t *filterTable) reserve(tenant uint32, group, filter string) uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	text := filterText(tenant, group, filter)
	f := t.byText[text]
	if f == nil {
		t.last++
		f = &durableFilter{number: t.last, text: text, shared: group != ""}
		t.byText[text], t.byNum[f.number] = f, f
		t.listLocked(f)
	}
	f.coming++
	return f.number
}

// settle ends what reserve began, and answers whether nobody came.
func (t *filterTable) settle(number uint64) (gone bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	f := t.byNum[number]
	if f == nil {
		return false
	}
	f.coming--
	return t.dropLocked(f)
}

// listLocked gives a shared group's filter a row.
func (t *filterTable) listLocked(f *durableFilter) {
	if !f.shared {
		return
	}
	if n := len(t.free); n > 0 {
		f.row, t.free = t.free[n-1], t.free[:n-1]
		t.rows[f.row] = f
		return
	}
	f.row = len(t.rows)
	t.rows = append(t.rows, f)
}

func (t *filterTable) dropLocked(f *durableFilter) (gone bool) {
	if f.coming > 0 || len(f.users) > 0 {
		return false
	}
	delete(t.byNum, f.number)
	if f.shared {
		t.rows[f.row] = nil
		t.free = append(t.free, f.row)
	}
	if t.byText[f.text] == f {
		delete(t.byText, f.text)
	}
	if f.id != 0 && t.index.Mark(f.id) == f.number {
		t.index.SetMark(f.id, 0)
	}
	return true
}

// raise makes sure that numbers up to n are not given out again.
func (t *filterTable) raise(n uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.last = max(t.last, n)
}

func (t *filterTable) lastNumber() uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.last
}

// use adds sess to the readers of a filter. Its number comes from a command. A text has two numbers only on the way through recovery,
// where one shard's rows are older than another's: shard 1 loses the last reader of number 5, shard 0 gets the first of number 6, shard 0
// is checkpointed alone. The higher one is what publishers have to find; the replay takes the lower one away.
func (t *filterTable) use(number uint64, id topics.FilterID, tenant uint32, group, filter string, sess *Session) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.last = max(t.last, number)
	f := t.byNum[number]
	if f == nil {
		f = &durableFilter{number: number, text: filterText(tenant, group, filter), shared: group != ""}
		t.byNum[number] = f
		t.listLocked(f)
		if have := t.byText[f.text]; have == nil || have.number < number {
			t.byText[f.text] = f
		}
	}
	f.id = id
	if t.byText[f.text] == f {
		t.index.SetMark(id, number)
	}
	if f.at(sess) < 0 {
		f.add(sess)
	}
}

// leave removes sess from the readers, and answers whether it was the last.
func (t *filterTable) leave(number uint64, sess *Session) (last bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	f := t.byNum[number]
	if f == nil {
		return false
	}
	f.remove(sess)
	return t.dropLocked(f)
}

// kind says whether a number is known, and whether its filter is a shared group's.
func (t *filterTable) kind(number uint64) (shared, known bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	f := t.byNum[number]
	return f != nil && f.shared, f != nil
}

// sharedNumbers are the filters of shared groups.
func (t *filterTable) sharedNumbers() (list []uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, f := range t.rows {
		if f != nil {
			list = append(list, f.number)
		}
	}
	return list
}

// reads tells whether sess is among the readers of a filter.
func (t *filterTable) reads(number uint64, sess *Session) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	f := t.byNum[number]
	return f != nil && f.at(sess) >= 0
}

// readers appends who reads the queues of a filter: at most max of them, those before a place. It answers the place to go on from, until
// that is 0; everybody begins with readersEnd. It goes backwards so that nobody is missed who was there all the time: who leaves gives his
// place to the last one, which has been seen or is still to come. Who comes meanwhile may be missed.
func (t *filterTable) readers(dst []*Session, number uint64, before, max int) (_ []*Session, next int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	f := t.byNum[number]
	if f == nil {
		return dst, 0
	}
	before = min(before, len(f.users))
	next = before - min(before, max)
	return append(dst, f.users[next:before]...), next
}

// readersEnd is behind the last reader.
const readersEnd = math.MaxInt

// row gives the index's row of a durable filter.
func (t *filterTable) row(number uint64) (topics.FilterID, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if f := t.byNum[number]; f != nil {
		return f.id, true
	}
	return 0, false
}

// join adds a member to a shared group, or replaces it.
func (t *filterTable) join(id topics.FilterID, e topics.Entry) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.partLocked(id, e.Subscriber)
	t.groups[id] = append(t.groups[id], e)
}

// part takes a member out of a shared group.
func (t *filterTable) part(id topics.FilterID, slot uint32) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.partLocked(id, slot)
}

func (t *filterTable) partLocked(id topics.FilterID, slot uint32) {
	list := t.groups[id]
	for i := range list {
		if list[i].Subscriber == slot {
			list = append(append([]topics.Entry(nil), list[:i]...), list[i+1:]...)
			break
		}
	}
	if len(list) == 0 {
		delete(t.groups, id)
		delete(t.pickers, id)
		return
	}
	t.groups[id] = list
}

// members gives the members of a shared group. The slice is never written to.
func (t *filterTable) members(id topics.FilterID) []topics.Entry {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.groups[id][:len(t.groups[id]):len(t.groups[id])]
}

// picker gives the memory of a shared group's choice.
func (t *filterTable) picker(id topics.FilterID) *topics.Picker {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.pickers[id]
	if p == nil {
		p = new(topics.Picker)
		t.pickers[id] = p
	}
	return p
}
