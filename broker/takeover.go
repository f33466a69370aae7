package broker

// A session has one holder, and one connection at most that comes next: who comes later takes its place. When the holder lets go the next
// one is posted its turn, and until that has reached its loop it stays the next one, so that who comes meanwhile is behind it and not before
// it:
//
//	A holds, B waits. A's end is committed; B's turn is on the way to its loop. C comes.
//	If C found the session free it would open it, and B, whose CONNECT is older, would then take it over from C.
//
// So C replaces B, which is dismissed, and B's loop passes the turn on. A session that has ended stays in the table as long as somebody is
// its next.

// enter has c open its session, or wait for who holds it.
func (l *Local) enter(c *Client) {
	key := sessionKey{c.req.Tenant, c.req.ClientID}
	s := l.b.shardOf(key.tenant, []byte(key.id))
	s.mu.Lock()
	have := s.mu.sessions.get(key)
	if have == nil || have.client == nil && have.next == nil {
		l.openLocked(c, s, have)
		return
	}
	old, before := have.client, have.next
	have.next = c
	s.mu.Unlock()
	if old != nil {
		old.local.post(post{kind: postKick, c: old, err: ErrTakenOver})
	}
	if before != nil {
		before.local.post(post{kind: postConnected, c: before, err: ErrTakenOver})
	}
}

// turn comes when the connection that held the session has gone: it is c's, unless another one came behind c.
func (l *Local) turn(c *Client) {
	if c.req == nil {
		return // it came in by an earlier turn; this one was passed on to it by somebody who had closed
	}
	key := sessionKey{c.tenant, c.req.ClientID}
	s := l.b.shardOf(key.tenant, []byte(key.id))
	s.mu.Lock()
	have := s.mu.sessions.get(key)
	switch {
	case have == nil || have.client != nil || have.next == nil: // c has closed, and there is nobody behind it or it has come in
		s.mu.Unlock()
	case have.next == c:
		have.next = nil
		l.openLocked(c, s, have)
	default:
		postTurnTo(have.next)
		s.mu.Unlock()
	}
}

func postTurnTo(c *Client) { c.local.post(post{kind: postTurn, c: c}) }

// openLocked makes the session c's: have, which is free, or a new one. It lets go of the shard's lock.
func (l *Local) openLocked(c *Client, s *shard, have *Session) {
	there := have != nil && s.kept(have) // else its opening failed, and it stayed for who comes next
	resume := there && have.resumable(l.b.nowMilli()) && !c.req.CleanStart
	key := sessionKey{c.req.Tenant, c.req.ClientID}
	owed := s.owedLocked(key, have, l.b.nowMilli())
	if c.flags &^= clientPresent; resume {
		c.flags |= clientPresent
	}
	var old *Session
	if !resume {
		if there && !have.d.ending {
			old = have
		}
		if old == nil && c.req.Expiry > 0 && (l.b.stats.Sessions.Load() >= l.b.limits.Load().Sessions || !l.b.mayKeepSession(c.req.Tenant)) {
			s.mu.Unlock()
			l.giveOwed(s, key, owed)
			l.connected(c, ErrQuota)
			return
		}
		if err := l.b.room(); err != nil && old == nil && c.req.Expiry > 0 {
			s.mu.Unlock()
			l.giveOwed(s, key, owed)
			l.connected(c, err)
			return
		}
		if old != nil {
			old.d.ending = true
		}
		have = &Session{tenant: c.req.Tenant, id: c.req.ClientID, shard: s, will: c.req.Will}
		if c.req.Expiry > 0 {
			have.d = &durable{id: l.b.lastSID.Add(1)}
		}
		l.b.slots.alloc(have)
		s.mu.sessions.set(have)
	}
	have.client = c
	s.mu.Unlock()
	c.sess = have
	l.giveOwed(s, key, owed)
	if have.d == nil && old == nil {
		l.connected(c, nil)
		return
	}
	l.journalConnect(c, old)
}

// letGo gives up a session that c holds or waits for without having been connected.
func (l *Local) letGo(c *Client) {
	key := sessionKey{c.tenant, c.req.ClientID}
	s := l.b.shardOf(key.tenant, []byte(key.id))
	s.mu.Lock()
	defer s.mu.Unlock()
	have := s.mu.sessions.get(key)
	if have == nil {
		return
	}
	if have.next == c {
		have.next = nil
	}
	if have.client == c {
		if !s.kept(have) {
			l.b.slots.release(have.slot)
		}
		s.freeLocked(have)
		return
	}
	s.restLocked(have)
}

// vacate makes the session free for the next connection.
func (l *Local) vacate(sess *Session, c *Client) {
	s := sess.shard
	s.mu.Lock()
	defer s.mu.Unlock()
	if sess.client == c {
		s.freeLocked(sess)
	}
}

// kept says whether the session is a row of the shard: one that lives longer than its connection.
func (s *shard) kept(sess *Session) bool { return sess.d != nil && s.mu.byID[sess.d.id] == sess }

// freeLocked ends the hold of a session.
func (s *shard) freeLocked(sess *Session) {
	sess.client = nil
	if sess.next != nil {
		postTurnTo(sess.next)
	}
	s.restLocked(sess)
}

// restLocked looks after a session that nobody may hold any more: if it is kept its timer goes on, if not it leaves the table.
func (s *shard) restLocked(sess *Session) {
	switch {
	case !s.kept(sess):
		s.dropLocked(sess)
	case sess.client == nil && !sess.d.connected && !sess.d.ending:
		s.armLocked(sess.d)
	}
}

// dropLocked takes a session that has ended out of the table, unless somebody holds it or comes next.
func (s *shard) dropLocked(sess *Session) {
	if sess.client == nil && sess.next == nil {
		s.mu.sessions.remove(sess)
	}
}

// forget ends a session with its connection.
func (l *Local) forget(sess *Session, c *Client) {
	l.vacate(sess, c)
	if sess.d == nil {
		l.b.slots.release(sess.slot)
	}
}
