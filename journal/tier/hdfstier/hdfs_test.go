package hdfstier

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/journal/tier"
	"github.com/sluicemq/sluice/journal/tier/tiertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var ctx = context.Background()

// TestContractReal runs against a cluster: SLUICE_TEST_HDFS has its name nodes, with commas; SLUICE_TEST_HDFS_USER, or root, must be
// able to write in /.
func TestContractReal(t *testing.T) {
	nodes := os.Getenv("SLUICE_TEST_HDFS")
	if nodes == "" {
		t.Skip("SLUICE_TEST_HDFS=host:port names no cluster, and there is none to run without Java")
	}
	user := os.Getenv("SLUICE_TEST_HDFS_USER")
	if user == "" {
		user = "root"
	}
	var n atomic.Int64
	dirs := map[string]string{}
	// The first name node answers nothing, as one that is down.
	base := Options{NameNodes: append([]string{testx.ClosedAddr(t)}, strings.Split(nodes, ",")...), User: user, Replication: 2, BlockBytes: 8 << 20}
	at := func(t testing.TB) Options {
		t.Helper()
		o := base
		o.NameNodes = append([]string(nil), base.NameNodes...)
		if dirs[t.Name()] == "" {
			dirs[t.Name()] = fmt.Sprintf("/contract-%x/%d", time.Now().UnixNano(), n.Add(1))
		}
		o.Dir = dirs[t.Name()]
		return o
	}
	open := func(t testing.TB, o Options) tier.Store {
		t.Helper()
		s, err := Open(ctx, o)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	tiertest.Run(t, tiertest.Env{
		Open: func(t testing.TB) tier.Store { t.Helper(); return open(t, at(t)) },
		OpenVia: func(t testing.TB, n *tiertest.Net) tier.Store {
			t.Helper()
			o := at(t)
			o.NameNodes, o.Dial = o.NameNodes[1:], n.Dial
			return open(t, o)
		},
		OpenUnreachable: func(t testing.TB) (tier.Store, error) {
			t.Helper()
			o := at(t)
			o.NameNodes = []string{testx.ClosedAddr(t), testx.ClosedAddr(t)}
			return Open(ctx, o)
		},
		Big: 40 << 20, Many: 1100,
	})
}

// TestUnreachable needs no cluster.
func TestUnreachable(t *testing.T) {
	s, err := Open(ctx, Options{NameNodes: []string{testx.ClosedAddr(t)}, Dir: "/x", User: "u"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Stat(ctx, "a"); !tier.Temporary(err) {
		t.Errorf("%v", err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

func TestSettings(t *testing.T) {
	ok := map[string]string{"name_nodes": "a:8020, b:8020", "dir": "/sluice/", "user": "u", "replication": "2"}
	s, err := FromSettings(ctx, tier.NewSettings(ok))
	if err != nil {
		t.Fatal(err)
	}
	if o := s.(*Store).o; o.NameNodes[1] != "b:8020" || o.Dir != "/sluice" || o.Replication != 2 {
		t.Errorf("%+v", o)
	}
	for key, value := range map[string]string{"name_nodes": "", "dir": "relative", "user": "", "replication": "0", "unknown": "1", "timeout": "x"} {
		bad := map[string]string{}
		for k, v := range ok {
			bad[k] = v
		}
		bad[key] = value
		if _, err := FromSettings(ctx, tier.NewSettings(bad)); err == nil {
			t.Errorf("%s=%q is taken", key, value)
		}
	}
}

// TestRequestsReal: operations of the name node, against the cluster of TestContractReal.
func TestRequestsReal(t *testing.T) {
	nodes := os.Getenv("SLUICE_TEST_HDFS")
	if nodes == "" {
		t.Skip("SLUICE_TEST_HDFS=host:port names no cluster")
	}
	user := os.Getenv("SLUICE_TEST_HDFS_USER")
	if user == "" {
		user = "root"
	}
	s, err := Open(ctx, Options{NameNodes: strings.Split(nodes, ","), User: user, Replication: 2, Dir: fmt.Sprintf("/requests-%x", time.Now().UnixNano())})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	if err := s.Put(ctx, "a", strings.NewReader("x"), 1, tier.PutOptions{IfAbsent: true}); err != nil {
		t.Fatal(err)
	}
	body, _, err := s.Get(ctx, "a", tier.Range{})
	if err != nil {
		t.Fatal(err)
	}
	_ = body.Close()
	if _, _, err := s.List(ctx, "", "", 0); err != nil {
		t.Fatal(err)
	}
	if err := s.Delete(ctx, "a"); err != nil {
		t.Fatal(err)
	}
	got := func(op tier.Op) int64 { return s.Requests().Load(op) }
	// Folder, file, end (tried again until it has its replicas), the folder that it comes into, and the new name.
	if got(tier.OpPut) < 5 || got(tier.OpGet) != 1 || got(tier.OpStat) == 0 || got(tier.OpList) == 0 || got(tier.OpDelete) != 2 {
		t.Errorf("counted %d put, %d get, %d stat, %d list, %d delete", got(tier.OpPut), got(tier.OpGet), got(tier.OpStat), got(tier.OpList), got(tier.OpDelete))
	}
}
