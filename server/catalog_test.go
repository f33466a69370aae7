package server

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluicemq/sluice/auth"
	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/internal/vfs"
	"github.com/sluicemq/sluice/meta"
	"github.com/sluicemq/sluice/proto/mqtt/mqttclient"
	"github.com/sluicemq/sluice/proto/mqtt/wire"
)

// change changes the catalog and waits for the answer.
func change(c *catalogStore, entries ...meta.Entry) error {
	done := make(chan error, 1)
	c.Update(func(*meta.Snapshot) ([]meta.Entry, error) { return entries, nil }, func(err error) { done <- err })
	return <-done
}

// The power goes at random moments while the catalog changes. What was acknowledged is there, what was not is there as a whole or not at all.
func TestCatalogPowerCut(t *testing.T) {
	t.Logf("-powerseed %d", *powerSeed)
	rng := rand.New(rand.NewPCG(*powerSeed, 4))
	disk := vfs.NewMem()
	acked := make([]int, 4) // of each writer: the number that its two users carry
	var some atomic.Bool
	for round := range min(*powerCuts, 6) {
		power := newMains(disk, vfs.Cut{Rand: rand.New(rand.NewPCG(*powerSeed, uint64(round)))})
		n, _ := testNode(t, &vfs.Fault{FS: disk, Judge: power.judge})
		s := n.catalog.Load()
		for w := range acked {
			got := numberOf(s, fmt.Sprint("a/", w))
			if other := numberOf(s, fmt.Sprint("b/", w)); got != other {
				t.Errorf("round %d: a command is there in part: %d and %d", round, got, other)
			}
			if got < acked[w] {
				t.Errorf("round %d: writer %d has %d, and %d was acknowledged", round, w, got, acked[w])
			}
			acked[w] = got
		}
		var wg sync.WaitGroup
		for w := range acked {
			wg.Add(1)
			go func() {
				defer wg.Done()
				for i := acked[w] + 1; ; i++ {
					if change(n.catalog, numbered(fmt.Sprint("a/", w), i), numbered(fmt.Sprint("b/", w), i)) != nil {
						return
					}
					acked[w] = i
					some.Store(true)
				}
			}()
		}
		testx.Eventually(t, 30*time.Second, some.Load, "something is acknowledged")
		pause(time.Duration(20+rng.IntN(150)) * time.Millisecond)
		power.armed.Store(true)
		for !power.off.Load() {
			pause(time.Millisecond)
		}
		disk = power.end()
		wg.Wait()
		_ = stopNode(n)
	}
}

// numbered is a user who carries a number.
func numbered(name string, n int) meta.Entry {
	return (&meta.User{Name: name, Password: fmt.Sprint(n)}).Entry()
}

func numberOf(s *meta.Snapshot, name string) (n int) {
	if u := s.User(name); u != nil {
		_, _ = fmt.Sscan(u.Password, &n)
	}
	return n
}

// A catalog with an entry of a newer program stops the start by name, and stays as it is; with durability "memory" it lives as long as the run.
func TestCatalogAtStart(t *testing.T) {
	mem := vfs.NewMem()
	n, _ := testNode(t, mem)
	if err := change(n.catalog, numbered("a", 7)); err != nil {
		t.Fatal(err)
	}
	set := make(chan error, 1)
	n.broker.SetEntries([]broker.CatalogEntry{{Key: "user/future", Value: []byte{200}}}, func(err error) { set <- err })
	if err := <-set; err != nil {
		t.Fatal(err)
	}
	if err := stopNode(n); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		_, err := newNode(t.Context(), nodeOptions{logger: slog.New(slog.DiscardHandler), loops: 1, shards: 4, storage: n.o.storage})
		if err == nil || !strings.Contains(err.Error(), "future") {
			t.Fatalf("started: %v", err)
		}
	}
	volatile := func(o *nodeOptions) { o.storage = storageOptions{durability: "memory"} }
	for range 2 {
		n, _ := testNode(t, mem, volatile)
		if n.catalog.Load().UserCount() != 0 {
			t.Error("the catalog of an earlier run")
		}
		if err := change(n.catalog, numbered("a", 7)); err != nil || numberOf(n.catalog.Load(), "a") != 7 {
			t.Errorf("in memory: %v", err)
		}
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		if err := n.close(ctx); err != nil {
			t.Error(err)
		}
		cancel()
	}
}

// userEntry is a user as the control plane makes one.
func userEntry(t *testing.T, name, password string, disabled bool) meta.Entry {
	t.Helper()
	phc, err := auth.Hash([]byte(password), auth.Params{MemoryKiB: 8, Time: 1, Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	return (&meta.User{Name: name, Password: phc, Disabled: disabled}).Entry()
}

// A user of the catalog comes in with its password. Live connections end when the user is gone, disabled or has another password; others stay.
func TestCatalogUsers(t *testing.T) {
	store := newCatalogStore()
	gate, err := auth.New(auth.Options{Anonymous: "off", Directory: catalogUsers{store.Catalog}})
	if err != nil {
		t.Fatal(err)
	}
	n, url := testNode(t, vfs.NewMem(), func(o *nodeOptions) { o.catalog, o.authn, o.authz = store, gate, gate })
	come := func(user, password string) (*mqttclient.Client, error) {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		c, _, err := mqttclient.Connect(ctx, mqttclient.Options{URL: url, Connect: wire.Connect{ClientID: []byte(user), CleanStart: true,
			UserName: []byte(user), Password: []byte(password)}})
		return c, err
	}
	set := func(entries ...meta.Entry) {
		t.Helper()
		if err := change(n.catalog, entries...); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := come("gone", "x"); err == nil {
		t.Fatal("a user who is not there came in")
	}
	set(userEntry(t, "gone", "x", false), userEntry(t, "off", "x", false), userEntry(t, "changed", "x", false), userEntry(t, "stays", "x", false))
	clients := map[string]*mqttclient.Client{}
	for _, user := range []string{"gone", "off", "changed", "stays"} {
		c, err := come(user, "x")
		if err != nil {
			t.Fatalf("%s: %v", user, err)
		}
		clients[user] = c
	}
	for user, e := range map[string]meta.Entry{"gone": meta.DeleteUser("gone"), "off": userEntry(t, "off", "x", true), "changed": userEntry(t, "changed", "y", false)} {
		set(e)
		if _, err := clients[user].Receive(patience); err == nil {
			t.Errorf("%s: got a message", user)
		}
		if _, err := come(user, "x"); err == nil {
			t.Errorf("%s came in again", user)
		}
	}
	if _, err := clients["stays"].Publish(&wire.PublishOut{Topic: []byte("t"), QoS: 1}); err != nil {
		t.Errorf("one who was not changed: %v", err)
	}
	if _, err := come("changed", "y"); err != nil {
		t.Error(err)
	}
	if err := stopNode(n); err != nil {
		t.Error(err)
	}
}
