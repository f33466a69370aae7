package revocation

import (
	"bytes"
	"crypto/x509"
	"slices"
	"time"
)

// keptMost bounds how many lists count that are in the files no more.
const keptMost = listsMax

// Note says what files that were read again would have taken back without a word, or that something is taken back now.
type Note struct {
	Issuer string    // whose list it is, to be read
	Until  time.Time // when the list in force ends; zero: it names no end
	Why    string    // a sentence's end
	Lost   bool      // whom the list had revoked are let in again
}

// Reasons of notes.
const (
	noteGone     = "the files have no list of this authority any more: the one before goes on to count until it ends"
	noteOlder    = "the files have an older list than the one in force, which goes on to count"
	noteConflict = "the files have a list whose number and date contradict those of the one in force: both count"
	noteEnded    = "a list that the files have no more has ended"
	noteMany     = "too many lists count that the files have no more"
)

// Merge gives what is in force when l is read behind old. Files that have lost a list by mistake, or have an older one, would let in again whom that had revoked: so the
// younger list of each authority counts, and one that l does not have goes on until it ends, if l's authorities include its. now is wall time; zero: lists do not end.
// Neither changes.
func (l *Lists) Merge(old *Lists, now time.Time) (merged *Lists, notes []Note) {
	if l == nil || old == nil {
		return l, nil
	}
	m := l.clone()
	for _, was := range old.all {
		if !slices.ContainsFunc(m.cas, was.mayBeOf) {
			continue // by a certificate of it nobody comes in
		}
		why := m.take(was, now)
		if why == "" || was.kept && (why == noteGone || why == noteConflict) {
			continue // the second was said
		}
		notes = append(notes, Note{was.issuer, was.until, why, why == noteEnded || why == noteMany})
	}
	return m, notes
}

// take has a list that was in force before go on to count in m, and says why; empty: it does not, since there is a younger one or it is the same.
func (l *Lists) take(was *list, now time.Time) (why string) {
	why = noteGone
	for _, one := range l.byIssuer[was.name] {
		if bytes.Equal(one.signature, was.signature) {
			return ""
		}
		if !one.covers(was) {
			continue
		}
		switch age := one.age(was); {
		case age > 0, age < 0 && was.expired(now) && !one.expired(now):
			return ""
		case age < 0:
			why = noteOlder
		case why == noteGone:
			why = noteConflict
		}
	}
	k := *was
	if k.kept, k.younger = why != noteOlder, why == noteOlder; k.younger {
		l.drop(func(one *list) bool { return one.covers(was) && one.age(was) < 0 })
		l.put(&k)
		return why
	}
	if was.expired(now) {
		return noteEnded
	}
	if countKept(l.all) >= keptMost {
		return noteMany
	}
	l.put(&k)
	return why
}

// Lapse takes out the lists that are in the files no more and have ended by wall time now; zero: none has. It gives l itself if there are none.
func (l *Lists) Lapse(now time.Time) (rest *Lists, notes []Note) {
	if l == nil {
		return nil, nil
	}
	ended := func(one *list) bool { return one.kept && one.expired(now) }
	for _, one := range l.all {
		if ended(one) {
			notes = append(notes, Note{one.issuer, one.until, noteEnded, true})
		}
	}
	if len(notes) == 0 {
		return l, nil
	}
	rest = l.clone()
	rest.drop(ended)
	return rest, notes
}

// mayBeOf says whether the list may be one of ca's.
func (l *list) mayBeOf(ca *x509.Certificate) bool {
	return l.name == string(ca.RawSubject) && (len(l.keyID) == 0 || len(ca.SubjectKeyId) == 0 || bytes.Equal(l.keyID, ca.SubjectKeyId))
}

func countKept(all []*list) (n int) {
	for _, one := range all {
		if one.kept {
			n++
		}
	}
	return n
}

// clone shares the lists themselves, which nothing changes.
func (l *Lists) clone() *Lists {
	c := &Lists{byIssuer: make(map[string][]*list, len(l.byIssuer)), cas: l.cas}
	for _, one := range l.all {
		c.put(one)
	}
	return c
}

// Same says whether two are of the same lists, in whatever order.
func (l *Lists) Same(other *Lists) bool {
	if l == nil || other == nil {
		return l == other
	}
	has := make(map[string]bool, len(l.all))
	for _, one := range l.all {
		has[string(one.signature)] = true
	}
	for _, one := range other.all {
		if !has[string(one.signature)] {
			return false
		}
	}
	return len(l.all) == len(other.all)
}
