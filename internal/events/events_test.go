package events

import (
	"encoding/json"
	"net/netip"
	"strings"
	"sync"
	"testing"
)

// Names of kinds and of families switch what they say, and nothing else.
func TestParseSet(t *testing.T) {
	for _, tt := range []struct {
		names string
		want  []Kind
	}{
		{"", nil}, {"off", nil}, {"client.connected", []Kind{ClientConnected}}, {"client", []Kind{ClientConnected, ClientDisconnected}},
		{"session.taken_over client.disconnected", []Kind{ClientDisconnected, SessionTakenOver}},
		{"session", []Kind{SessionCreated, SessionResumed, SessionEnded, SessionDiscarded, SessionTakenOver, SessionSubscribed, SessionUnsubscribed}},
	} {
		var want Set
		for _, k := range tt.want {
			want |= 1 << k
		}
		if got := ParseSet(strings.Fields(tt.names)); got != want {
			t.Errorf("%q: %b, want %b", tt.names, got, want)
		}
	}
}

// A full list takes no more, in number and in bytes, counts what it leaves out, and is whole again once it was read.
func TestBounds(t *testing.T) {
	q := New()
	for range waitingMax + 3 {
		q.Add(Event{Kind: ClientConnected})
	}
	if c := q.Counts(); c.Waiting != waitingMax || c.Full != 3 || c.Added[ClientConnected] != waitingMax {
		t.Errorf("%+v", c)
	}
	<-q.Ready()
	if n := len(q.Take(nil)); n != waitingMax {
		t.Errorf("took %d", n)
	}
	long := strings.Repeat("x", 1<<16)
	for range 300 {
		q.Add(Event{Kind: SessionSubscribed, Filter: long})
	}
	if c := q.Counts(); c.Waiting*len(long) > bytesMax || c.Waiting < 200 || c.Full != uint64(3+300-c.Waiting) {
		t.Errorf("%+v", c)
	}
	<-q.Ready()
	q.Take(nil)
	q.Add(Event{Kind: ClientConnected})
	<-q.Ready()
}

// What several loops add at once comes once, in the order of each.
func TestOrder(t *testing.T) {
	q := New()
	var all sync.WaitGroup
	const each = 2000
	for loop := range 4 {
		all.Go(func() {
			for i := range each {
				q.Add(Event{Connection: uint64(loop), At: int64(i)})
			}
		})
	}
	var next [4]int64
	var spare []Event
	for n := 0; n < 4*each; {
		<-q.Ready()
		list := q.Take(spare)
		for i := range list {
			e := &list[i]
			if e.At != next[e.Connection] {
				t.Fatalf("%d comes where %d of loop %d is due", e.At, next[e.Connection], e.Connection)
			}
			next[e.Connection]++
		}
		n += len(list)
		spare = list
	}
	all.Wait()
	if c := q.Counts(); c.Full != 0 || c.Waiting != 0 {
		t.Errorf("%+v", c)
	}
}

// A nil Queue and a new one want nothing.
func TestWantsNothing(t *testing.T) {
	var none *Queue
	none.Add(Event{})
	if none.Wants(ClientConnected) || New().Wants(ClientConnected) {
		t.Error("somebody wants to know")
	}
}

// Each kind has what docs/mqtt.md says, and what a client has chosen cannot break out of its string.
func TestJSON(t *testing.T) {
	e := Event{At: 1700000000000, Connection: 7, Since: 1699999999000, BytesIn: 1, BytesOut: 2, ClientID: "a\"b\n\xff", User: "u", Listener: "mqtt.tcp", Protocol: "MQTT 5",
		Filter: "t/#", Group: "g", By: "server", Reason: "Session taken over", Detail: "why", Remote: netip.MustParseAddrPort("10.0.0.1:5"), Expiry: -1, KeepAlive: 60, Code: 0x8e, QoS: 1}
	fields := map[Kind]string{
		ClientConnected:     "address at clean_start client_id connection event keep_alive listener node protocol reason session_expiry session_present tls user will",
		ClientDisconnected:  "address at by bytes_in bytes_out client_id connected_ms connection detail event listener node protocol reason reason_code tls user",
		SessionCreated:      "at client_id connection event node reason user",
		SessionResumed:      "at client_id connection event node reason user",
		SessionEnded:        "at client_id connection event node reason",
		SessionDiscarded:    "at client_id connection event node reason",
		SessionTakenOver:    "at client_id connection event node reason user",
		SessionSubscribed:   "at client_id connection event filter group no_local node qos reason user",
		SessionUnsubscribed: "at client_id connection event filter group node reason user",
	}
	for k := range Kinds {
		e.Kind = k
		var got map[string]any
		if err := json.Unmarshal(e.JSON(3), &got); err != nil {
			t.Fatalf("%s: %v", k, err)
		}
		for _, name := range strings.Fields(fields[k]) {
			if _, ok := got[name]; !ok {
				t.Errorf("%s has no %s", k, name)
			}
			delete(got, name)
		}
		if len(got) > 0 {
			t.Errorf("%s has %v", k, got)
		}
	}
	e.Kind = ClientDisconnected
	var got struct {
		ClientID    string `json:"client_id"`
		ConnectedMS int64  `json:"connected_ms"`
	}
	if err := json.Unmarshal(e.JSON(3), &got); err != nil || got.ClientID != "a\"b\n\uFFFD" || got.ConnectedMS != 1000 {
		t.Errorf("%+v %v", got, err)
	}
}

// BenchmarkAdd is what a loop pays for an event that is wanted, and BenchmarkJSON what the reader does.
func BenchmarkAdd(b *testing.B) {
	q := New()
	e := Event{Kind: ClientConnected, ClientID: "device-000017", User: "plant", Remote: netip.MustParseAddrPort("10.0.0.1:5")}
	var spare []Event
	n := 0
	for b.Loop() {
		q.Add(e)
		if n++; n == 4096 {
			spare, n = q.Take(spare), 0
		}
	}
}

func BenchmarkJSON(b *testing.B) {
	e := Event{Kind: ClientConnected, ClientID: "device-000017", User: "plant", Remote: netip.MustParseAddrPort("10.0.0.1:5")}
	for b.Loop() {
		e.JSON(1)
	}
}
