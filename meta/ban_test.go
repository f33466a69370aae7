package meta

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
)

func TestBanEncoding(t *testing.T) {
	b := &Ban{Kind: BanAddress, Name: "10.0.0.0/8", Since: 1, Until: 1 << 41, Reason: "a scanner"}
	if got := entryOf(t, b.Entry()); !reflect.DeepEqual(got, b) {
		t.Errorf("%+v, want %+v", got, b)
	}
	for name, bad := range map[string]Ban{
		"kind": {Kind: 4, Name: "a"}, "no name": {Kind: BanUser}, "a long name": {Kind: BanUser, Name: strings.Repeat("x", BanNameMax+1)},
		"a long reason": {Kind: BanUser, Name: "a", Reason: strings.Repeat("x", BanReasonMax+1)}, "a time": {Kind: BanUser, Name: "a", Until: -1},
	} {
		e := bad.Entry()
		if _, _, _, err := e.decode(); !errors.Is(err, ErrEntry) {
			t.Errorf("%s: %v", name, err)
		}
	}
	e := b.Entry()
	e.Key += "0"
	if _, _, _, err := e.decode(); !errors.Is(err, ErrEntry) {
		t.Errorf("under another name: %v", err)
	}
	largest := &Ban{Kind: BanUser, Name: strings.Repeat("x", BanNameMax), Until: 1 << 62, Reason: strings.Repeat("x", BanReasonMax)}
	if n := len(largest.Entry().Value); n > 64<<10 {
		t.Errorf("the largest has %d bytes, more than an entry takes", n)
	}
}

func TestBanRules(t *testing.T) {
	s := emptySnapshot()
	take := func(list []Entry, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		e := s.edit()
		if err := e.enter(list); err != nil {
			t.Fatal(err)
		}
		s = e.take()
	}
	take(AddBan(s, Ban{Kind: BanUser, Name: "u", Reason: "one"}, 5))
	take(AddBan(s, Ban{Kind: BanUser, Name: "u", Reason: "two"}, 5))
	take(AddBan(s, Ban{Kind: BanClient, Name: "u"}, 5))
	if s.BanCount() != 2 || s.Ban(BanUser, "u").Reason != "two" || s.Ban(BanAddress, "u") != nil || !BansChanged(emptySnapshot(), s) {
		t.Errorf("%d bans, %+v", s.BanCount(), s.Ban(BanUser, "u"))
	}
	take(RemoveBan(s, BanUser, "u"), nil)
	if s.BanCount() != 1 || RemoveBan(s, BanUser, "u") != nil {
		t.Error("it is there still")
	}

	e := s.edit()
	for i := s.BanCount(); i < BansMax; i++ {
		list, err := AddBan(e.take(), Ban{Kind: BanClient, Name: fmt.Sprint(i), Until: int64(i % 2 * 10)}, 5)
		if err = errors.Join(err, e.enter(list)); err != nil {
			t.Fatal(err)
		}
	}
	s = e.take()
	if list, err := AddBan(s, Ban{Kind: BanClient, Name: "new"}, 5); !errors.Is(err, ErrTooManyBans) || list != nil {
		t.Errorf("one too many: %v", err)
	}
	take(AddBan(s, Ban{Kind: BanClient, Name: "u", Reason: "changed"}, 5)) // it is there
	take(AddBan(s, Ban{Kind: BanClient, Name: "new"}, 20))
	if s.BanCount() != BansMax+1-bansLeftOut || s.Ban(BanClient, "new") == nil || s.Ban(BanClient, "u") == nil {
		t.Errorf("what is over makes room: %d bans", s.BanCount())
	}
}

// A node of an earlier program halts by an entry whose kind it does not know.
func TestNoBansBeforeTheirLevel(t *testing.T) {
	p := formed(t, 1) // at the first level
	list, err := AddBan(p.s, Ban{Kind: BanUser, Name: "u"}, 0)
	refused(t, ErrLevel, list, err)
	p.do(ClaimNode(p.s, 1, "disk1", testNode(1).Address, LevelBans))
	p.do(RaiseLevel(p.s, LevelBans))
	p.do(AddBan(p.s, Ban{Kind: BanUser, Name: "u"}, 0))
}
