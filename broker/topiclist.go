package broker

import "encoding/binary"

// topicList collects topics of all tenants, one behind the other in one piece of memory: a map of them would cost a multiple in time and space. One
// topic may stand in it more than once, but it never holds much more than twice of what it would without. The zero value is empty.
type topicList struct {
	buf     []byte // each with its length before it, and its tenant before that
	tidyAt  int    // bytes at which repeats are looked for; 0: topicListTidy
	entries int
}

// topicListTidy is from how many bytes on it is worth to look for repeats.
const topicListTidy = 256 << 10

func (l *topicList) add(tenant uint32, topic []byte) {
	if len(l.buf) >= max(l.tidyAt, topicListTidy) {
		l.tidy()
	}
	l.append(tenant, topic)
}

func (l *topicList) append(tenant uint32, topic []byte) {
	l.buf = binary.AppendUvarint(l.buf, uint64(tenant))
	l.buf = append(binary.AppendUvarint(l.buf, uint64(len(topic))), topic...)
	l.entries++
}

// tidy leaves one of each topic.
func (l *topicList) tidy() {
	type name struct {
		tenant uint32
		topic  string
	}
	seen := make(map[name]struct{}, l.entries)
	old := topicList{buf: l.buf}
	l.buf, l.entries = l.buf[:0], 0
	old.each(func(tenant uint32, topic []byte) { // what is kept never overtakes what is read
		if _, again := seen[name{tenant, string(topic)}]; again {
			return
		}
		seen[name{tenant, string(topic)}] = struct{}{}
		l.append(tenant, topic)
	})
	l.tidyAt = 2 * len(l.buf)
}

// each calls fn with every topic, some perhaps more than once. A topic dies with the call.
func (l *topicList) each(fn func(tenant uint32, topic []byte)) {
	for b := l.buf; len(b) > 0; {
		tenant, at := binary.Uvarint(b)
		b = b[at:]
		n, at := binary.Uvarint(b)
		fn(uint32(tenant), b[at:at+int(n)])
		b = b[at+int(n):]
	}
}
