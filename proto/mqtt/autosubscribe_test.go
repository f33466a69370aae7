package mqtt

import "testing"

func TestAutoSubscriptionFilter(t *testing.T) {
	for _, c := range []struct{ template, id, user, want string }{
		{"a/b", "", "", "a/b"},
		{"a/%c/%u", "id", "user", "a/id/user"},
		{"%c%c/#", "id", "", "idid/#"},
		{"a/%c", "%u", "user", "a/%u"}, // what is put in is not looked at again
		{"a/%c", "", "user", ""},
		{"a/%u", "id", "", ""},
		{"a/%u", "id/x", "user", "a/user"},
		{"a/%c", "id/x", "", ""},
		{"a/%c", "#", "", ""},
		{"a/%u", "", "+", ""},
	} {
		a := AutoSubscription{Filter: c.template}
		got, ok := a.filter(c.id, c.user)
		if string(got) != c.want || ok != (c.want != "") {
			t.Errorf("%s for %q, %q: %q, %v, want %q", c.template, c.id, c.user, got, ok, c.want)
		}
	}
}
