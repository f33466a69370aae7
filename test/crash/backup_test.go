package crash

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/test/common"
)

// tool runs a command of the binary and gives what it prints.
func tool(t *testing.T, args ...string) (string, error) {
	t.Helper()
	var complaint strings.Builder
	cmd := exec.Command(common.Binary(t), args...)
	cmd.Stderr = &complaint
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("%w: %s", err, complaint.String())
	}
	return string(out), err
}

func kafkaOf(t *testing.T, b *common.Broker, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	cl, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(b.Listeners["kafka.tcp"]), kgo.AllowAutoTopicCreation(), kgo.RecordRetries(3),
		kgo.MetadataMinAge(50 * time.Millisecond)}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	return cl
}

// produceSome sends n numbered records, and waits.
func produceSome(t *testing.T, cl *kgo.Client, topic, prefix string, from, n int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	for i := range n {
		r := &kgo.Record{Topic: topic, Partition: 0, Key: fmt.Appendf(nil, "k%d", i%5), Value: fmt.Appendf(nil, "%s%d", prefix, from+i)}
		if err := cl.ProduceSync(ctx, r).FirstErr(); err != nil {
			t.Fatalf("produce to %s: %v", topic, err)
		}
	}
}

// valuesOf reads what a consumer of committed records sees of a topic, up to its end.
func valuesOf(t *testing.T, b *common.Broker, topic string) (values []string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	ends, err := kadm.NewClient(kafkaOf(t, b)).ListCommittedOffsets(ctx, topic)
	if err != nil {
		t.Fatal(err)
	}
	end, _ := ends.Lookup(topic, 0)
	cl := kafkaOf(t, b, kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: {0: kgo.NewOffset().AtStart()}}),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.KeepControlRecords())
	for at := int64(0); at < end.Offset; {
		fs := cl.PollFetches(ctx)
		if err := fs.Err0(); err != nil {
			t.Fatalf("read %s: %v, at %d of %d", topic, err, at, end.Offset)
		}
		fs.EachRecord(func(r *kgo.Record) {
			if at = r.Offset + 1; !r.Attrs.IsControl() {
				values = append(values, string(r.Value))
			}
		})
		if fs.Empty() {
			break
		}
	}
	return values
}

// transaction runs one transaction of n records; decide is told to end it.
func transaction(t *testing.T, cl *kgo.Client, prefix string, n int) (decide func(kgo.TransactionEndTry)) {
	t.Helper()
	if err := cl.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	produceSome(t, cl, "tx", prefix, 0, n)
	return func(try kgo.TransactionEndTry) {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if err := cl.EndTransaction(ctx, try); err != nil {
			t.Fatal(err)
		}
	}
}

// backupWorld is a node under load of which a backup is taken.
type backupWorld struct {
	vault   string
	b       *common.Broker
	before  []*common.Sender // all that they sent was acknowledged before the backup
	during  []*common.Sender
	present []*common.Receiver // connected all the time
	group   []*common.Receiver
	absent  *common.Receiver // it has subscribed, and gone
	plain   int              // records of topic plain that were acknowledged before
}

// TestBackupAndRestore takes a backup of a node under load of both protocols, restores it under another node id, and compares: what was acknowledged
// before is there, what came during it is a prefix of what was sent, transactions are as they were decided, and nothing at QoS 2 comes twice.
func TestBackupAndRestore(t *testing.T) {
	w := &backupWorld{vault: filepath.Join(t.TempDir(), "vault")}
	settings := append([]string{"listeners.kafka.tcp=127.0.0.1:0", "listeners.grpc=127.0.0.1:0", "kafka.check_interval=1s"}, small...)
	w.b = common.Start(t, t.TempDir(), append(settings, "node.id=1", "backup.store=local:dir="+w.vault, "backup.rate=0")...)
	id := w.run(t)
	w.b.Kill()

	dir := filepath.Join(t.TempDir(), "data")
	out, err := tool(t, "restore", "--from", "local:dir="+w.vault, "--data", dir, "--verify", "-o", "json")
	if err != nil {
		t.Fatal(err)
	}
	var restored struct {
		ID       string `json:"id"`
		Verified struct{ Topics, Partitions, Sessions, Retained, Records int64 }
	}
	if err := json.Unmarshal([]byte(out), &restored); err != nil || restored.ID != id {
		t.Fatalf("%v, restored %q", err, out)
	}
	if v := restored.Verified; v.Topics < 3 || v.Sessions < 6 || v.Retained != 1 || v.Records < 300 {
		t.Errorf("found %+v", v)
	}
	if _, err := tool(t, "restore", "--from", "local:dir="+w.vault, "--data", dir); err == nil || !strings.Contains(err.Error(), "not empty") {
		t.Errorf("restored over a node's data: %v", err)
	}
	b := common.Start(t, dir, append(settings, "node.id=7")...)
	w.compareKafka(t, b)
	w.compareMQTT(t, b)
	w.refuseDamaged(t, id)
	if err := b.Stop(); err != nil {
		t.Error(err)
	}
}

// run loads the node, takes the backup, and gives its name. Length: one load after the other.
func (w *backupWorld) run(t *testing.T) string {
	t.Helper()
	for _, name := range []string{"a", "b"} {
		list := []*common.Sender{{Exchange: common.Exchange{ID: name + "1"}, QoS: 1, Topic: "k/1"}, {Exchange: common.Exchange{ID: name + "2"}, QoS: 2, Topic: "k/2"}}
		if name == "a" {
			w.before = append(list, &common.Sender{Exchange: common.Exchange{ID: "pr"}, QoS: 1, Topic: "k/r", Retain: true})
		} else {
			w.during = list
		}
	}
	w.present = []*common.Receiver{common.NewReceiver("s1", 1), common.NewReceiver("s2", 2)}
	w.group = []*common.Receiver{common.NewReceiver("g1", 2), common.NewReceiver("g2", 2)}
	w.absent = common.NewReceiver("s3", 2)
	attach(t, w.b, "k/#", append(w.present[:2:2], w.absent)...)
	attach(t, w.b, "$share/g/k/#", w.group...)
	_ = w.absent.C.Close()
	w.absent.Wait()

	ctx := context.Background()
	plain := kafkaOf(t, w.b)
	admin := kadm.NewClient(plain)
	compact := "compact"
	for topic, configs := range map[string]map[string]*string{"plain": nil, "tx": nil, "latest": {"cleanup.policy": &compact}} {
		if _, err := admin.CreateTopic(ctx, 1, 1, configs, topic); err != nil {
			t.Fatal(err)
		}
	}
	stopBefore, stopDuring := make(chan struct{}), make(chan struct{})
	writer := kafkaOf(t, w.b, kgo.TransactionalID("writer"))
	transaction(t, writer, "committed", 20)(kgo.TryCommit)
	transaction(t, writer, "aborted", 20)(kgo.TryAbort)
	open := transaction(t, kafkaOf(t, w.b, kgo.TransactionalID("open")), "open", 20)
	w.plain = 200
	produceSome(t, plain, "plain", "", 0, w.plain)
	produceSome(t, plain, "latest", "v", 0, 100)
	offsets := make(kadm.Offsets)
	offsets.AddOffset("plain", 0, 123, -1)
	if err := admin.CommitAllOffsets(ctx, "readers", offsets); err != nil {
		t.Fatal(err)
	}
	waitBefore := common.Load(t, w.b.URL(), w.before, stopBefore)
	time.AfterFunc(300*time.Millisecond, func() { close(stopBefore) })
	waitBefore()

	waitDuring := common.Load(t, w.b.URL(), w.during, stopDuring)
	var more sync.WaitGroup
	more.Go(func() {
		for n := w.plain; ; n += 10 {
			select {
			case <-stopDuring:
				return
			default:
				produceSome(t, plain, "plain", "", n, 10)
			}
		}
	})
	out, err := tool(t, "backup", "create", "--server", w.b.Listeners["grpc"], "-o", "json")
	if err != nil {
		t.Fatal(err)
	}
	open(kgo.TryCommit) // the restored node does not know of that
	close(stopDuring)
	waitDuring()
	more.Wait()
	var made struct{ ID, State string }
	if err := json.Unmarshal([]byte(out), &made); err != nil || made.State != "complete" {
		t.Fatalf("%v, made %q", err, out)
	}
	if out, err := tool(t, "backup", "verify", made.ID, "--server", w.b.Listeners["grpc"]); err != nil || !strings.Contains(out, made.ID) {
		t.Errorf("verify: %v %q", err, out)
	}
	return made.ID
}

func (w *backupWorld) compareKafka(t *testing.T, b *common.Broker) {
	t.Helper()
	ctx := context.Background()
	values := valuesOf(t, b, "plain")
	if len(values) < w.plain {
		t.Errorf("topic plain has %d records, and %d were acknowledged before", len(values), w.plain)
	}
	for i, v := range values {
		if v != fmt.Sprint(i) {
			t.Fatalf("record %d of topic plain is %s", i, v)
		}
	}
	if got := valuesOf(t, b, "tx"); len(got) != 20 || slices.ContainsFunc(got, func(v string) bool { return !strings.HasPrefix(v, "committed") }) {
		t.Errorf("topic tx shows %d records: %v", len(got), got)
	}
	latest := make(map[string]bool)
	for _, v := range valuesOf(t, b, "latest") {
		latest[v] = true
	}
	for i := 95; i < 100; i++ {
		if !latest[fmt.Sprintf("v%d", i)] {
			t.Errorf("the compacted topic lacks v%d", i)
		}
	}
	admin := kadm.NewClient(kafkaOf(t, b))
	offsets, err := admin.FetchOffsets(ctx, "readers")
	if o, _ := offsets.Lookup("plain", 0); err != nil || o.At != 123 {
		t.Errorf("the group is at %d, %v", o.At, err)
	}
	// The producer of the open transaction comes back: it is aborted, and what it wrote is never seen.
	again := kafkaOf(t, b, kgo.TransactionalID("open"))
	transaction(t, again, "committed-later", 1)(kgo.TryCommit)
	testx.Eventually(t, 20*time.Second, func() bool { return len(valuesOf(t, b, "tx")) == 21 })
	if brokers, err := admin.ListBrokers(ctx); err != nil || len(brokers) != 1 || brokers[0].NodeID != 7 {
		t.Errorf("brokers are %v, %v", brokers, err)
	}
}

func (w *backupWorld) compareMQTT(t *testing.T, b *common.Broker) {
	t.Helper()
	absent := w.absent.Anew()
	attach(t, b, "k/#", absent)
	common.AwaitAll(w.before, []*common.Receiver{absent}, 10*time.Second)
	common.VerifyRetained(t, b.URL(), w.before[2])
	// What the connected ones had not yet, and had begun, comes from the restored node.
	present := []*common.Receiver{w.present[0].Anew(), w.present[1].Anew()}
	attach(t, b, "k/#", present...)
	group := []*common.Receiver{w.group[0].Anew(), w.group[1].Anew()}
	attach(t, b, "$share/g/k/#", group...)
	probe := []*common.Sender{{Exchange: common.Exchange{ID: "probe"}, QoS: 2, Topic: "k/2"}}
	stop := make(chan struct{})
	wait := common.Load(t, b.URL(), probe, stop)
	time.AfterFunc(200*time.Millisecond, func() { close(stop) })
	wait()
	common.AwaitAll(probe, append(present[:2:2], absent), 10*time.Second)
	common.AwaitGroup(probe, group, 10*time.Second)
	common.Verify(t, append(w.before[:3:3], probe...), []*common.Receiver{absent})
	common.Verify(t, probe, present)
	common.VerifyGroup(t, probe, group)
	for _, s := range w.before {
		for _, n := range s.Acked {
			for i, r := range present {
				if r.Count(s.ID, n)+w.present[i].Count(s.ID, n) == 0 {
					t.Fatalf("%s never got %s/%d", r.ID, s.ID, n)
				}
				if k := r.Count(s.ID, n); k > 1 && s.QoS == 2 && r.QoS == 2 {
					t.Errorf("%s got %s/%d %d times", r.ID, s.ID, n, k)
				}
			}
			if common.CountAll(group, s.ID, n)+common.CountAll(w.group, s.ID, n) == 0 {
				t.Fatalf("the group never got %s/%d", s.ID, n)
			}
			if k := common.CountAll(group, s.ID, n); k > 1 && s.QoS == 2 {
				t.Errorf("the restored group got %s/%d %d times", s.ID, n, k)
			}
		}
	}
	// What was under way is a prefix of what was sent.
	for _, s := range w.during {
		n := 0
		for absent.Count(s.ID, n) > 0 {
			n++
		}
		t.Logf("of %d that %s sent while the backup ran, %d are in it", len(s.Acked), s.ID, n)
		for k := n; k < n+len(s.Acked)+100; k++ {
			if absent.Count(s.ID, k) > 0 {
				t.Fatalf("%s/%d is there, and %s/%d is not", s.ID, k, s.ID, n)
			}
		}
		if len(s.Acked) > 0 && n > s.Acked[len(s.Acked)-1]+1 {
			t.Errorf("%s/%d was never sent", s.ID, n-1)
		}
	}
}

// refuseDamaged has one byte of the backup changed, and then its manifest lost: restore names what is wrong, and no node starts with what it leaves.
func (w *backupWorld) refuseDamaged(t *testing.T, id string) {
	t.Helper()
	object := filepath.Join(w.vault, "backups", id, "00000001")
	raw, err := os.ReadFile(object)
	if err != nil {
		t.Fatal(err)
	}
	raw[len(raw)/2] ^= 4
	if err := os.WriteFile(object, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "data")
	if _, err := tool(t, "restore", "--from", "local:dir="+w.vault, "--data", dir); err == nil || !strings.Contains(err.Error(), "object 00000001") {
		t.Errorf("a damaged backup: %v", err)
	}
	if _, err := tool(t, "start", "--data", dir); err == nil || !strings.Contains(err.Error(), "restore of backup "+id) {
		t.Errorf("a node on half a restore: %v", err)
	}
	raw[len(raw)/2] ^= 4
	if err := os.WriteFile(object, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := tool(t, "restore", "--from", "local:dir="+w.vault, "--data", dir); err != nil {
		t.Errorf("restore begins anew: %v", err)
	}
	if err := os.Remove(filepath.Join(w.vault, "backups", id, "manifest")); err != nil {
		t.Fatal(err)
	}
	_, err = tool(t, "restore", "--from", "local:dir="+w.vault, "--data", filepath.Join(t.TempDir(), "data"), "--backup", id)
	if err == nil || !strings.Contains(err.Error(), "not finished") {
		t.Errorf("a backup without a manifest: %v", err)
	}
}
