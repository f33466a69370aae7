package crash

import (
	"bytes"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/sluicemq/sluice/proto/mqtt/wire"
	"github.com/sluicemq/sluice/test/common"
)

// From the process's start to the line that says ready, on an empty directory. The bound is generous: the figure is what counts.
func TestStartsAtOnce(t *testing.T) {
	common.Binary(t)
	best := time.Hour
	for range 3 {
		began := time.Now()
		b := common.Start(t, t.TempDir())
		best = min(best, time.Since(began))
		b.Kill()
	}
	t.Logf("ready after %v", best)
	if best > time.Second {
		t.Errorf("ready after %v, expected within a second", best)
	}
}

// A log that no checkpoint covers is replayed at hundreds of megabytes a second, and the log tells how far it is.
func TestRecoversLargeLog(t *testing.T) {
	const mib, window = 200, 50
	dir := t.TempDir()
	settings := []string{"journal.checkpoint_interval=1h", "journal.checkpoint_size=1GiB", "journal.durability=async", "limits.packet_size=256KiB"}
	b := common.Start(t, dir, settings...)
	sub, pub := common.Exchange{ID: "sub"}, common.Exchange{ID: "pub"}
	for _, x := range []*common.Exchange{&sub, &pub} {
		if err := x.Connect(b.URL()); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := sub.C.Subscribe(wire.FilterRequest{Filter: []byte("a"), QoS: 1}); err != nil {
		t.Fatal(err)
	}
	_ = sub.C.Close()
	var out []byte
	payload := bytes.Repeat([]byte("x"), 4<<10)
	for i := range window {
		out = wire.AppendPublish(out, wire.V5, &wire.PublishOut{Topic: []byte("a"), QoS: 1, PacketID: uint16(i + 1), Payload: payload})
	}
	acks := make([]byte, 4*window)
	_ = pub.C.Conn().SetDeadline(time.Now().Add(time.Minute))
	for range mib << 20 / (window * len(payload)) {
		if _, err := pub.C.Conn().Write(out); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(pub.C.Conn(), acks); err != nil {
			t.Fatal(err)
		}
	}
	b.Kill()
	began := time.Now()
	b = common.Start(t, dir, settings...)
	took := time.Since(began)
	t.Logf("%d MiB of log: ready after %v", mib, took)
	if took > 20*time.Second {
		t.Errorf("ready after %v", took)
	}
	text := b.Log()
	if !strings.Contains(text, "replay") {
		t.Errorf("no word of the replay:\n%s", text)
	}
	t.Log(text)
	if err := sub.Connect(b.URL()); err != nil {
		t.Fatal(err)
	}
	if m, err := sub.C.Receive(20 * time.Second); err != nil || !bytes.Equal(m.Payload, payload) {
		t.Errorf("the first of what waits: %d bytes, %v", len(m.Payload), err)
	}
	_ = sub.C.Close()
}
