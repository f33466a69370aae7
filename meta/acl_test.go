package meta

import (
	"errors"
	"reflect"
	"strings"
	"testing"
)

func entryOf(t *testing.T, e Entry) any {
	t.Helper()
	_, _, v, err := e.decode()
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestACLEncoding(t *testing.T) {
	a := &ACL{Resource: 2, Pattern: 4, Operation: 3, Permission: 3, Name: "plant/", Principal: "User:a", Host: "*"}
	if got := entryOf(t, a.Entry()); !reflect.DeepEqual(got, a) {
		t.Errorf("%+v, want %+v", got, a)
	}
	e := a.Entry()
	e.Key = a.Delete().Key + "0"
	if _, _, _, err := e.decode(); !errors.Is(err, ErrEntry) {
		t.Errorf("under another name: %v", err)
	}
	a.Name = strings.Repeat("x", ACLNameMax+1)
	e = a.Entry()
	if _, _, _, err := e.decode(); !errors.Is(err, ErrEntry) {
		t.Errorf("a long name: %v", err)
	}
}

func TestQuotaEncoding(t *testing.T) {
	q := &Quota{User: QuotaName{Kind: QuotaNamed, Name: "a"}, ClientID: QuotaName{Kind: QuotaDefault},
		Values: []QuotaValue{{"consumer_byte_rate", 1 << 20}, {"request_percentage", 12.5}}}
	if got := entryOf(t, q.Entry()); !reflect.DeepEqual(got, q) {
		t.Errorf("%+v, want %+v", got, q)
	}
	empty := *q
	empty.Values = nil
	if e := empty.Entry(); e.Value != nil || e.Key != q.Entry().Key {
		t.Errorf("without values it is %+v, want a deletion", e)
	}
	bad := *q
	bad.Values = []QuotaValue{{"x", -1}}
	if e := bad.Entry(); e.Value != nil {
		if _, _, _, err := e.decode(); !errors.Is(err, ErrEntry) {
			t.Errorf("below zero: %v", err)
		}
	}
}

func TestACLsOfASnapshot(t *testing.T) {
	a := &ACL{Resource: 2, Pattern: 3, Operation: 3, Permission: 3, Name: "t", Principal: "User:a", Host: "*"}
	s := emptySnapshot()
	e := s.edit()
	if err := e.enter([]Entry{a.Entry(), (&Quota{IP: QuotaName{Kind: QuotaDefault}, Values: []QuotaValue{{"connection_creation_rate", 5}}}).Entry()}); err != nil {
		t.Fatal(err)
	}
	now := e.take()
	if !now.HasACL(a) || now.ACLCount() != 1 || now.QuotaCount() != 1 || !ACLsChanged(s, now) || !QuotasChanged(s, now) || BindingsChanged(s, now) {
		t.Error("the ACL and the quota are not there")
	}
	if now.Quota(&Quota{IP: QuotaName{Kind: QuotaDefault}}) == nil || now.Quota(&Quota{IP: QuotaName{Kind: QuotaNamed, Name: "::1"}}) != nil {
		t.Error("a quota is found by what it is for")
	}
}
