package auth

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sluicemq/sluice/broker"
	"github.com/sluicemq/sluice/internal/testx"
)

// parseACLs reads ACLs as a table writes them: "allow|deny PRINCIPAL HOST OPERATION TYPE NAME", a name with ... behind it is a prefix.
func parseACLs(t testing.TB, text string) (list []broker.ACL) {
	t.Helper()
	types := map[string]broker.ResourceType{"topic": broker.ResourceTopic, "group": broker.ResourceGroup, "cluster": broker.ResourceCluster,
		"txn": broker.ResourceTransactionalID}
	ops := map[string]broker.Operation{"all": broker.OperationAll, "read": broker.OperationRead, "write": broker.OperationWrite,
		"create": broker.OperationCreate, "delete": broker.OperationDelete, "alter": broker.OperationAlter, "describe": broker.OperationDescribe,
		"describe_configs": broker.OperationDescribeConfigs, "alter_configs": broker.OperationAlterConfigs,
		"idempotent_write": broker.OperationIdempotentWrite}
	for line := range strings.Lines(text) {
		w := strings.Fields(line)
		if len(w) == 0 {
			continue
		}
		if len(w) != 6 || types[w[4]] == 0 || ops[w[3]] == 0 {
			t.Fatalf("cannot read %q", line)
		}
		a := broker.ACL{Permission: broker.PermissionAllow, Principal: w[1], Host: w[2], Operation: ops[w[3]], Resource: types[w[4]],
			Pattern: broker.PatternLiteral, Name: w[5]}
		if w[0] == "deny" {
			a.Permission = broker.PermissionDeny
		}
		if name, ok := strings.CutSuffix(a.Name, "..."); ok {
			a.Name, a.Pattern = name, broker.PatternPrefixed
		}
		list = append(list, a)
	}
	return list
}

func provider(t testing.TB, o Options, acls string) *Provider {
	t.Helper()
	p, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	p.SetACLs(parseACLs(t, acls))
	return p
}

const sampleGrants = `
allow User:alice *        read     topic   orders
allow User:alice *        write    topic   out-...
allow User:*     *        describe topic   public
deny  User:bob   *        all      topic   *
allow User:bob   *        read     topic   orders
allow User:carol 10.0.0.7 all      topic   *
deny  User:carol *        read     topic   secret-...
allow User:dave  *        alter_configs topic conf
allow User:ANONYMOUS *    read     group   g
allow User:alice *        all      cluster kafka-cluster
`

func TestGrantsOfKafka(t *testing.T) {
	p := provider(t, Options{OpenWithoutACL: "false", SuperUsers: []string{"User:root"}}, sampleGrants)
	const (
		topic, group, cluster = broker.ResourceTopic, broker.ResourceGroup, broker.ResourceCluster
		read, write, describe = broker.OperationRead, broker.OperationWrite, broker.OperationDescribe
	)
	tests := []struct {
		user, host string
		op         broker.Operation
		t          broker.ResourceType
		name       string
		want       bool
	}{
		{"alice", "::1", read, topic, "orders", true},
		{"alice", "::1", describe, topic, "orders", true}, // implied
		{"alice", "::1", write, topic, "orders", false},
		{"alice", "::1", write, topic, "out-1", true},
		{"alice", "::1", write, topic, "out-", true},
		{"alice", "::1", write, topic, "out", false},
		{"alice", "::1", broker.OperationDelete, topic, "out-1", false},
		{"alice", "::1", broker.OperationAlter, cluster, broker.ClusterName, true},
		{"eve", "::1", describe, topic, "public", true},
		{"eve", "::1", read, topic, "public", false},
		{"bob", "::1", read, topic, "orders", false}, // a deny counts before an allow
		{"bob", "::1", describe, topic, "public", false},
		{"carol", "10.0.0.7", read, topic, "orders", true},
		{"carol", "::ffff:10.0.0.7", read, topic, "orders", true},
		{"carol", "10.0.0.8", read, topic, "orders", false},
		{"carol", "10.0.0.7", read, topic, "secret-1", false},
		{"carol", "10.0.0.7", describe, topic, "secret-1", true}, // denying implies nothing
		{"carol", "10.0.0.7", broker.OperationDescribeConfigs, topic, "x", true},
		{"dave", "::1", broker.OperationDescribeConfigs, topic, "conf", true},
		{"dave", "::1", describe, topic, "conf", false},
		{"", "::1", read, group, "g", true},
		{"alice", "::1", read, group, "g", false},
		{"alice", "::1", read, group, "none", false},
		{"root", "::1", read, topic, "secret-1", true},
	}
	for _, tt := range tests {
		id := &broker.Identity{User: tt.user, Remote: netip.MustParseAddr(tt.host)}
		if got := p.Allows(id, tt.op, tt.t, []byte(tt.name)); got != tt.want {
			t.Errorf("%s from %s, operation %d on %d %s: %v, want %v", tt.user, tt.host, tt.op, tt.t, tt.name, got, tt.want)
		}
	}
	for user, want := range map[string]bool{"alice": true, "eve": false, "bob": false, "root": true} {
		if got := p.AllowsAny(&broker.Identity{User: user}, write, topic); got != want {
			t.Errorf("%s may write to some topic: %v, want %v", user, got, want)
		}
	}
}

func TestGrantsOfMQTT(t *testing.T) {
	p := provider(t, Options{OpenWithoutACL: "false"}, `
allow User:a * write topic plant/...
allow User:a * read  topic plant/...
allow User:a * read  topic lab/+/temp
allow User:a * read  topic exact
allow User:b * read  topic *
deny  User:b * read  topic plant/7/...
deny  User:b * read  topic lab/+/key
allow User:c * all   topic #
allow User:d * read  topic pla...
`)
	tests := []struct {
		user, what, topic string
		want              bool
	}{
		{"a", "pub", "plant/1", true}, {"a", "pub", "plant", true}, {"a", "pub", "plants", false}, {"a", "pub", "lab/1/temp", false},
		{"a", "sub", "plant/#", true}, {"a", "sub", "plant/+/x", true}, {"a", "sub", "plant", true}, {"a", "sub", "#", false},
		{"a", "sub", "plan/#", false}, {"a", "sub", "+/1", false}, {"a", "sub", "lab/+/temp", true}, {"a", "sub", "lab/3/temp", true},
		{"a", "sub", "lab/+/+", false}, {"a", "sub", "exact", true}, {"a", "sub", "exact/#", false}, {"a", "sub", "$share/g/plant/#", true},
		{"a", "sub", "$share/g", false},
		{"b", "sub", "x/y", true}, {"b", "sub", "plant/#", false}, {"b", "sub", "plant/7", false}, {"b", "sub", "plant/8/#", true},
		{"b", "sub", "#", false}, {"b", "sub", "+/1/key", false}, {"b", "sub", "+/1/temp", true}, {"b", "pub", "x", false},
		{"b", "sub", "plant/+", false}, {"b", "sub", "lab/1/key", false}, {"b", "sub", "plant/70/x", true},
		{"c", "sub", "#", true}, {"c", "pub", "x/y", true}, {"c", "sub", "$SYS/#", false},
		{"d", "sub", "plant/#", true}, {"d", "sub", "pla/#", true}, {"d", "sub", "pla", true}, {"d", "sub", "pl/#", false},
		{"e", "sub", "x", false},
	}
	for _, tt := range tests {
		action := broker.ActionSubscribe
		if tt.what == "pub" {
			action = broker.ActionPublish
		}
		if got := p.Authorize(&broker.Identity{User: tt.user}, action, []byte(tt.topic)); got != tt.want {
			t.Errorf("%s %s %s: %v, want %v", tt.user, tt.what, tt.topic, got, tt.want)
		}
	}
}

// The rule file decides first; what it does not name the ACLs decide; what neither is about depends on what there is.
func TestOrderOfRules(t *testing.T) {
	path := filepath.Join(t.TempDir(), "rules")
	if err := os.WriteFile(path, []byte("deny publish by user a on fixed\nallow subscribe by user a on fixed\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	a, b := &broker.Identity{User: "a"}, &broker.Identity{User: "b"}
	type ask struct {
		id   *broker.Identity
		op   broker.Operation
		t    broker.ResourceType
		name string
		want bool
	}
	const topic, group, cluster = broker.ResourceTopic, broker.ResourceGroup, broker.ResourceCluster
	const read, write, alter = broker.OperationRead, broker.OperationWrite, broker.OperationAlter
	check := func(name string, p *Provider, asks ...ask) {
		t.Helper()
		for _, k := range asks {
			if got := p.Allows(k.id, k.op, k.t, []byte(k.name)); got != k.want {
				t.Errorf("%s: %s, operation %d on %d %s: %v, want %v", name, k.id.User, k.op, k.t, k.name, got, k.want)
			}
		}
	}
	acls := "allow User:* * all topic fixed\nallow User:a * write topic free\nallow User:b * read group g\n"
	check("nothing", provider(t, Options{}, ""), ask{a, write, topic, "fixed", true}, ask{a, alter, cluster, "kafka-cluster", true})
	check("file", provider(t, Options{ACLFile: path}, ""), ask{a, write, topic, "fixed", false}, ask{a, read, topic, "fixed", true},
		ask{a, read, topic, "other", false}, ask{a, alter, cluster, "kafka-cluster", false}, ask{a, read, group, "g", true})
	check("file and ACLs", provider(t, Options{ACLFile: path}, acls), ask{a, write, topic, "fixed", false}, ask{b, write, topic, "fixed", true},
		ask{a, write, topic, "free", true}, ask{b, write, topic, "free", false}, ask{a, read, topic, "other", false},
		ask{a, read, group, "g", false}, ask{b, read, group, "g", true}, ask{a, read, group, "h", true})
	check("ACLs", provider(t, Options{}, acls), ask{a, write, topic, "free", true}, ask{b, write, topic, "free", false},
		ask{b, read, topic, "other", true}, ask{a, alter, cluster, "kafka-cluster", true})
	check("ACLs and super users", provider(t, Options{SuperUsers: []string{"b"}}, acls), ask{a, write, topic, "free", true},
		ask{a, read, topic, "other", false}, ask{b, read, topic, "other", true}, ask{a, alter, cluster, "kafka-cluster", false})
	cluster2 := "allow User:b * idempotent_write cluster kafka-cluster\n"
	check("nobody is locked out", provider(t, Options{}, cluster2), ask{a, alter, cluster, "kafka-cluster", true},
		ask{a, broker.OperationIdempotentWrite, cluster, "kafka-cluster", false}, ask{b, broker.OperationIdempotentWrite, cluster, "kafka-cluster", true})
	check("as Kafka does", provider(t, Options{OpenWithoutACL: "true"}, cluster2), ask{a, alter, cluster, "kafka-cluster", false})
	check("open by name", provider(t, Options{SuperUsers: []string{"b"}, OpenWithoutACL: "true"}, acls), ask{a, read, topic, "other", true},
		ask{b, write, topic, "free", true}, ask{a, read, group, "g", false})
}

// slowAllows is what Kafka says, by looking at every ACL.
func slowAllows(list []broker.ACL, id *broker.Identity, op broker.Operation, rt broker.ResourceType, name string) verdict {
	v := silent
	for i := range list {
		a := &list[i]
		if a.Resource != rt || a.Pattern == broker.PatternLiteral && a.Name != "*" && a.Name != name ||
			a.Pattern == broker.PatternPrefixed && !strings.HasPrefix(name, a.Name) {
			continue
		}
		v = max(v, closed)
		if a.Principal != "User:*" && a.Principal != "User:"+id.Principal() || a.Host != "*" && a.Host != id.Remote.String() {
			continue
		}
		switch a.Permission {
		case broker.PermissionDeny:
			if a.Operation == op || a.Operation == broker.OperationAll {
				v = denied
			}
		default:
			if implied(a.Operation)&bit(op) != 0 {
				v = max(v, allowed)
			}
		}
	}
	return v
}

func randomACLs(r *rand.Rand, names []string) (list []broker.ACL) {
	pick := func(of ...string) string { return of[r.IntN(len(of))] }
	for range r.IntN(12) {
		list = append(list, broker.ACL{Resource: broker.ResourceTopic + broker.ResourceType(r.IntN(2)),
			Pattern: broker.PatternLiteral + broker.PatternType(r.IntN(2)), Name: pick(names...), Principal: "User:" + pick("a", "b", "*"),
			Host: pick("*", "*", "10.0.0.1"), Operation: broker.OperationAll + broker.Operation(r.IntN(8)),
			Permission: broker.PermissionDeny + broker.Permission(min(r.IntN(4), 1))})
	}
	return list
}

func TestGrantsAgainstModel(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	names := []string{"a", "ab", "abc", "b", "*", "a-", "ba"}
	for range 3000 {
		list := randomACLs(r, names)
		g := compileACLs(list)
		id := &broker.Identity{User: string("ab"[r.IntN(2)]), Remote: netip.MustParseAddr([]string{"10.0.0.1", "10.0.0.2"}[r.IntN(2)])}
		for _, name := range names {
			for op := broker.OperationRead; op <= broker.OperationAlterConfigs; op++ {
				for rt := broker.ResourceTopic; rt <= broker.ResourceGroup; rt++ {
					if got, want := g.judge(id, op, rt, []byte(name)), slowAllows(list, id, op, rt, name); got != want {
						t.Fatalf("operation %d on %d %s: %d, want %d\n%+v", op, rt, name, got, want, list)
					}
				}
			}
		}
	}
}

// What is said of a filter holds for each topic that it can match.
func TestFiltersAgainstModel(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	names := []string{"a", "a/", "a/b", "a/b/", "*", "ab", "+/b", "a/#", "a/+", "#", "$S/", "$S", "+", "a/+/c"}
	filters := []string{"#", "+", "a/#", "+/b", "a/+", "a/b/#", "+/+/c", "$S/#", "a/+/#", "ab/#", "+/#"}
	levels := []string{"a", "b", "c", "ab", "$S", ""}
	var topics []string
	for _, x := range levels {
		topics = append(topics, x)
		for _, y := range levels {
			topics = append(topics, x+"/"+y)
			for _, z := range levels {
				topics = append(topics, x+"/"+y+"/"+z)
			}
		}
	}
	said := map[verdict]int{}
	for range 2000 {
		list := randomACLs(r, names)
		g := compileACLs(list)
		id := &broker.Identity{User: "a", Remote: netip.MustParseAddr("10.0.0.1")}
		for _, f := range filters {
			got := g.judgeFilter(id, broker.OperationRead, []byte(f))
			said[got]++
			for _, topic := range topics {
				if topic == "" || !slowMatch(f, topic) {
					continue
				}
				v := g.judgeTopic(id, broker.OperationRead, []byte(topic))
				if got == allowed && v != allowed || v == denied && got != denied || got == silent && v != silent {
					t.Fatalf("%s: %d, and %s: %d\n%+v", f, got, topic, v, list)
				}
			}
		}
	}
	if len(said) != 4 {
		t.Errorf("answers: %v", said)
	}
}

func TestAllowsDoesNotAllocate(t *testing.T) {
	if testx.RaceEnabled {
		t.Skip("the race detector allocates")
	}
	var acls strings.Builder
	for i := range 100 {
		fmt.Fprintf(&acls, "allow User:u%d * all topic devices/%d/...\nallow User:a * read topic t%d\n", i, i, i)
	}
	p := provider(t, Options{}, acls.String())
	id := &broker.Identity{User: "a", Remote: netip.MustParseAddr("10.0.0.1")}
	name, topic, filter := []byte("t7"), []byte("devices/7/x/y/z/a/rather/long/name/of/a/topic"), []byte("devices/7/+/y/z/a/rather/long/name/#")
	if n := testing.AllocsPerRun(100, func() {
		p.Allows(id, broker.OperationRead, broker.ResourceTopic, name)
		p.Authorize(id, broker.ActionPublish, topic)
		p.Authorize(id, broker.ActionSubscribe, filter)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkAllows(b *testing.B) {
	var acls strings.Builder
	for i := range 10_000 {
		fmt.Fprintf(&acls, "allow User:u%d * all topic devices-%d-...\nallow User:a * read topic t%d\n", i, i, i)
	}
	list := parseACLs(b, acls.String())
	p := provider(b, Options{}, "")
	b.Run("compile 20,000", func(b *testing.B) {
		for b.Loop() {
			p.SetACLs(list)
		}
	})
	id := &broker.Identity{User: "a", Remote: netip.MustParseAddr("10.0.0.1")}
	name := []byte("t77")
	b.Run("allows", func(b *testing.B) {
		for b.Loop() {
			p.Allows(id, broker.OperationRead, broker.ResourceTopic, name)
		}
	})
}
