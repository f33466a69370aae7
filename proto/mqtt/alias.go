package mqtt

// aliases are the topic aliases of an MQTT 5 connection, both ways.
type aliases struct {
	in  [][]byte // by alias-1; grows to the connection's aliasInMax as they are set
	out []outAlias
}

// outAlias is a topic that the client has been told an alias of: its place plus one.
type outAlias struct {
	hash  uint32
	topic string
}

// resolveAlias gives the topic that a PUBLISH with an alias is for, and sets the alias if the packet has a topic too.
func (c *conn) resolveAlias(alias uint16, topic []byte) ([]byte, error) {
	if alias > c.aliasInMax {
		return nil, failAliasRange
	}
	a, i := &c.extras().alias, int(alias)-1
	if len(topic) == 0 {
		if i >= len(a.in) || len(a.in[i]) == 0 {
			return nil, failAliasUnknown
		}
		return a.in[i], nil
	}
	for i >= len(a.in) {
		a.in = append(a.in, nil)
	}
	a.in[i] = append(a.in[i][:0], topic...)
	return topic, nil
}

// assignAlias gives the alias to send with topic, 0 for none, and tells whether the client knows it already. An alias belongs to the
// first topic that took it: topics that repeat are few or come early.
func (c *conn) assignAlias(topic []byte) (alias uint16, known bool) {
	if c.aliasOutMax == 0 {
		return 0, false
	}
	a := &c.extras().alias
	h := topicHash(topic)
	for i := range a.out {
		if o := &a.out[i]; o.hash == h && o.topic == string(topic) {
			return uint16(i + 1), true
		}
	}
	if len(a.out) < int(c.aliasOutMax) {
		return uint16(len(a.out) + 1), false
	}
	return 0, false
}

// learned notes that the client has been sent the next alias with topic.
func (a *aliases) learned(topic []byte) {
	a.out = append(a.out, outAlias{topicHash(topic), string(topic)})
}

// topicHash is FNV-1a.
func topicHash(b []byte) uint32 {
	h := uint32(2166136261)
	for _, c := range b {
		h = (h ^ uint32(c)) * 16777619
	}
	return h
}
