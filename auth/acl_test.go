package auth

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/internal/testx"
)

const sampleACL = `
# operators see the broker, nobody else
allow subscribe  by user ops                      on $SYS/#
deny  all        by all                           on $SYS/#
deny  publish    by user old-* addr 10.0.0.0/8    on #      # retired
allow all        by all                           on devices/%c/#
allow publish    by user "plant 7"                on "plant 7/+/temp"
allow subscribe  by client dash-*                 on plant/#
allow all        by user %odd                     on home/%u
allow subscribe  by anonymous                     on public/#
allow publish    by addr ::1                      on local/%%/x
`

func TestACL(t *testing.T) {
	a, _, err := parseACL("acl", []byte(sampleACL))
	if err != nil {
		t.Fatal(err)
	}
	const pub, sub = broker.ActionPublish, broker.ActionSubscribe
	lo := netip.MustParseAddr("::1")
	ten := netip.MustParseAddr("::ffff:10.1.2.3")
	tests := []struct {
		id     broker.Identity
		action broker.Action
		topic  string
		want   bool
	}{
		{broker.Identity{User: "ops"}, sub, "$SYS/broker/load", true},
		{broker.Identity{User: "ops"}, sub, "$SYS/#", true},
		{broker.Identity{User: "ops"}, sub, "#", false},
		{broker.Identity{User: "ops"}, pub, "$SYS/x", false},
		{broker.Identity{User: "bob"}, sub, "$SYS/x", false},
		{broker.Identity{ClientID: "d1"}, pub, "devices/d1/t", true},
		{broker.Identity{ClientID: "d1"}, sub, "devices/d1/#", true},
		{broker.Identity{ClientID: "d1"}, sub, "$share/g/devices/d1/#", true},
		{broker.Identity{ClientID: "d1"}, sub, "$share/g/devices/#", false},
		{broker.Identity{ClientID: "d1"}, sub, "$share/g", false},
		{broker.Identity{ClientID: "d1"}, sub, "$share//devices/d1/#", true},
		{broker.Identity{ClientID: "d1"}, pub, "devices/d2/t", false},
		{broker.Identity{ClientID: "d1"}, sub, "devices/+/t", false},
		{broker.Identity{ClientID: "+"}, sub, "devices/+/t", false},
		{broker.Identity{ClientID: "#"}, sub, "devices/#", false},
		{broker.Identity{ClientID: ""}, pub, "devices//t", false},
		{broker.Identity{ClientID: "a/b"}, pub, "devices/a/b/t", false},
		{broker.Identity{User: "plant 7"}, pub, "plant 7/oven/temp", true},
		{broker.Identity{User: "plant 7"}, pub, "plant 7/oven/x/temp", false},
		{broker.Identity{ClientID: "dash-9"}, sub, "plant/+/temp", true},
		{broker.Identity{ClientID: "dash"}, sub, "plant/+/temp", false},
		{broker.Identity{User: "old-1", ClientID: "d1", Remote: ten}, pub, "devices/d1/t", false},
		{broker.Identity{User: "old-1", ClientID: "d1", Remote: lo}, pub, "devices/d1/t", true},
		{broker.Identity{}, sub, "public/x", true},
		{broker.Identity{User: "bob"}, sub, "public/x", false},
		{broker.Identity{Remote: lo}, pub, "local/%/x", true},
		{broker.Identity{}, pub, "local/%/x", false},
	}
	for _, tt := range tests {
		if got := a.decide(&tt.id, tt.action, []byte(tt.topic)); got != tt.want {
			t.Errorf("%+v action %d on %s: %v, want %v", tt.id, tt.action, tt.topic, got, tt.want)
		}
	}
}

// What cannot be filled in safely must not open a hole in a rule that denies.
func TestACLDenyWithUnsafeClient(t *testing.T) {
	a, _, err := parseACL("acl", []byte("deny all by all on private/%c/x\nallow all by all on #\n"))
	if err != nil {
		t.Fatal(err)
	}
	for client, want := range map[string]bool{"a": true, "a/b": false, "#": false, "": false} {
		if got := a.decide(&broker.Identity{ClientID: client}, broker.ActionPublish, []byte("private/a/b/x")); got != want {
			t.Errorf("client %q: %v, want %v", client, got, want)
		}
	}
}

func TestACLErrorsSayWhere(t *testing.T) {
	for in, want := range map[string]string{
		"permit all by all on #":                  `acl:1:1: want allow or deny, found "permit"`,
		"\nallow read by all on #":                `acl:2:7: want publish, subscribe or all, found "read"`,
		"allow all on #":                          `acl:1:11: want by, found "on"`,
		"allow all by":                            `acl:1:13: want tenant, user, client, addr, anonymous or all, found ""`,
		"allow all by user":                       `acl:1:14: want a name behind user`,
		"allow all by user bob":                   "want on FILTER",
		"allow all by all":                        "all stands alone",
		"allow all by user a user b on x":         "user is said twice",
		"allow all by addr 10.0.0.0/33 on x":      "want an address or a network",
		"allow all by addr ::ffff:1.2.3.4 on x":   "without ::ffff:",
		"allow all by all on a b":                 `acl:1:23: want nothing behind the filter, found "b"`,
		"allow all by all on a/#/b":               "acl:1:21: # stands in the middle",
		"allow all by all on":                     "want a topic filter",
		`allow all by user "bob on x`:             "a quote is not closed",
		`allow all by user "bob"x on x`:           "want a space behind the closing quote",
		"allow all by all user bob on x":          "all stands alone",
		"allow all by user \"a\\n\" on x":         `stands before`,
		"allow all by all on x\nallow \xff":       "acl:2: want a line of UTF-8",
		"allow all by everybody on x # everybody": `want tenant, user, client, addr, anonymous or all, found "everybody"`,
	} {
		if _, _, err := parseACL("acl", []byte(in)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q in it", in, err, want)
		}
	}
}

func TestGlob(t *testing.T) {
	for _, tt := range []struct {
		pattern, s string
		want       bool
	}{
		{"a*c", "abbc", true}, {"a*c", "ac", true}, {"a*c", "ab", false}, {"*", "", true}, {"a", "a", true}, {"a", "ab", false},
		{"*a*b*", "xaxbx", true}, {"*a*b*", "xbxax", false}, {"a**", "a", true}, {"", "", true}, {"", "a", false},
	} {
		if got := glob(tt.pattern, tt.s); got != tt.want {
			t.Errorf("glob(%q, %q) = %v", tt.pattern, tt.s, got)
		}
	}
}

func TestAuthorizeDoesNotAllocate(t *testing.T) {
	if testx.RaceEnabled {
		t.Skip("allocations are counted in plain builds")
	}
	a, _, err := parseACL("acl", []byte(sampleACL))
	if err != nil {
		t.Fatal(err)
	}
	id := &broker.Identity{User: "bob", ClientID: "d1"}
	topic, filter := []byte("devices/d1/temp"), []byte("$share/g/devices/d1/#")
	if n := testing.AllocsPerRun(100, func() {
		a.decide(id, broker.ActionPublish, topic)
		a.decide(id, broker.ActionSubscribe, filter)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func FuzzACL(f *testing.F) {
	f.Add(sampleACL, "d1", "bob", "devices/d1/t")
	f.Add("deny all by user \"a b\" on %u/+/#", "#", "a b", "a b/#")
	f.Fuzz(func(t *testing.T, file, client, user, topic string) {
		a, _, err := parseACL("acl", []byte(file))
		if err != nil {
			return
		}
		id := &broker.Identity{ClientID: client, User: user}
		if topic == "" {
			return
		}
		a.decide(id, broker.ActionPublish, []byte(topic))
		if a.decide(id, broker.ActionSubscribe, []byte(topic)) && !strings.HasPrefix(topic, "$share/") &&
			!strings.ContainsAny(topic, "+#") && !hasOneSided(a) && !a.decide(id, broker.ActionPublish, []byte(topic)) {
			t.Errorf("%q may be subscribed to and not published, though no rule tells them apart", topic)
		}
	})
}

func hasOneSided(a *acl) bool {
	for i := range a.rules {
		if a.rules[i].publish != a.rules[i].subscribe {
			return true
		}
	}
	return false
}
