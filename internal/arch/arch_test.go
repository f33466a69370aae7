package arch

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const (
	module = "github.com/sluicemq/sluice"
	root   = "../.."
)

// rule says what a package may import of this module, and whether it may use unsafe. Patterns are as in path.Match, with /** for
// everything below.
type rule struct {
	pkg    string
	may    []string
	unsafe bool
	test   []string // beside may, in test files
}

// rules is the table of who may import whom. The first rule that fits a package decides. A package without one fails the test.
var rules = []rule{
	{pkg: "alloc", may: []string{"internal/*"}, unsafe: true},
	{pkg: "auth", may: []string{"broker", "journal/record", "internal/*"}},
	// bench drives many sockets by raw system calls, so that the generator takes less of the machine than what it measures.
	{pkg: "bench", may: []string{"bench/*", "proto/mqtt/mqttclient", "proto/*/wire", "journal/record", "journal/record/compress", "internal/*"}, unsafe: true, test: []string{"server", "config"}},
	{pkg: "bench/report", may: []string{"bench", "internal/*"}, test: []string{"bench/brokertest"}},
	{pkg: "bench/scenarios", may: []string{"bench", "proto/mqtt/mqttclient", "internal/*"}, test: []string{"bench/brokertest"}},
	{pkg: "bench/plan", may: []string{"config", "internal/*"}},
	{pkg: "bench/plan/measure", may: []string{"bench", "bench/plan"}, test: []string{"bench/brokertest"}},
	{pkg: "bench/compare", may: []string{"bench", "bench/ladder", "internal/*"}},
	{pkg: "bench/ladder", may: []string{"bench", "internal/*"}, test: []string{"bench/brokertest"}},
	{pkg: "bench/**", may: []string{"bench/*", "proto/mqtt/mqttclient", "proto/*/wire", "alloc", "internal/*"}},
	{pkg: "bridge", may: []string{"proto/mqtt/mqttclient", "proto/mqtt/wire", "broker/topics", "engine", "internal/*"}, test: []string{"bench/brokertest"}},
	{pkg: "broker", may: []string{"broker/topics", "alloc", "journal/record", "journal/record/compress", "internal/*"}, test: []string{"journal"}},
	{pkg: "broker/topics", may: []string{"alloc", "internal/*"}},
	{pkg: "cluster", may: []string{"cluster/link", "cluster/replica", "meta", "broker", "journal/record", "internal/*"}},
	{pkg: "cluster/carry", may: []string{"cluster/link", "engine", "alloc", "internal/*"}, test: []string{"server", "proto/mqtt", "proto/mqtt/wire", "broker"}},
	{pkg: "cluster/cert", may: []string{"internal/*"}},
	{pkg: "cluster/replica", may: []string{"cluster/link", "broker", "journal", "journal/record", "alloc", "internal/*"}},
	{pkg: "cluster/link", may: []string{"alloc", "cluster/cert", "internal/*"}},
	{pkg: "cmd/sluice", may: []string{"server", "server/clustergroup", "config", "auth", "cluster/cert", "bench", "bench/*", "bench/plan/measure", "control/api", "migrate/*", "proto/mqtt/mqttclient", "proto/*/wire", "internal/*"}},
	{pkg: "control", may: []string{"control/api", "broker", "meta", "meta/*", "auth", "config", "journal/record", "internal/*"}, test: []string{"server", "proto/mqtt/mqttclient", "proto/mqtt/wire"}},
	{pkg: "control/api", unsafe: true}, // generated
	{pkg: "config", may: []string{"internal/*"}},
	{pkg: "config/gen", may: []string{"config"}},
	{pkg: "engine", may: []string{"alloc", "internal/*"}, unsafe: true},
	{pkg: "internal/conformance/gen", may: []string{"internal/conformance"}},
	{pkg: "internal/**", may: []string{"internal/**"}},
	{pkg: "journal", may: []string{"alloc", "journal/record", "journal/record/compress", "journal/compact", "journal/tier", "internal/*"}, unsafe: true},
	{pkg: "journal/compact", may: []string{"journal/record", "journal/record/compress", "internal/*"}},
	{pkg: "journal/record", may: []string{"alloc", "internal/*"}, unsafe: true},
	{pkg: "journal/record/compress", may: []string{"journal/record", "internal/*"}},
	{pkg: "journal/tier", may: []string{"internal/*"}},
	{pkg: "journal/tier/stores", may: []string{"journal/tier", "journal/tier/*"}},
	{pkg: "journal/tier/history", may: []string{"alloc", "journal/record", "journal/tier", "journal/tier/cache", "journal/tier/object", "internal/*"}, test: []string{"journal/tier/*"}},
	{pkg: "journal/tier/offload", may: []string{"journal/record", "journal/compact", "journal/tier", "journal/tier/object", "journal/tier/history", "internal/*"}, test: []string{"journal/tier/*", "journal/record/compress"}},
	{pkg: "journal/tier/backup", may: []string{"journal/tier", "internal/*"}, test: []string{"journal/tier/*"}},
	{pkg: "journal/tier/rebuild", may: []string{"journal/record", "journal/tier", "journal/tier/object", "journal/tier/history", "internal/*"}, test: []string{"journal/tier/*"}},
	{pkg: "journal/tier/**", may: []string{"alloc", "journal/record", "journal/tier", "internal/*"}, test: []string{"journal/tier/*"}},
	{pkg: "meta", may: []string{"internal/*"}},
	{pkg: "meta/raftgroup", may: []string{"meta", "internal/*"}, test: []string{"cluster/link"}},
	{pkg: "migrate/mosquitto", may: []string{"auth", "proto/mqtt/mqttclient", "proto/mqtt/wire", "internal/*"}, test: []string{"broker", "config"}},
	{pkg: "perf", may: []string{"**"}},
	{pkg: "perf/**", may: []string{"**"}},
	{pkg: "meta/topicconfig", may: []string{"internal/*"}},
	{pkg: "proto/kafka", may: []string{"proto/kafka/wire", "engine", "broker", "journal/record", "alloc", "internal/*"}},
	{pkg: "proto/kafka/wire", may: []string{"alloc", "journal/record", "internal/*"}, unsafe: true},
	{pkg: "proto/mqtt/wire", may: []string{"alloc", "journal/record", "internal/*"}, unsafe: true},
	{pkg: "proto/mqtt/mqttclient", may: []string{"proto/mqtt/wire", "internal/*"}, test: []string{"bench/brokertest"}},
	{pkg: "proto/mqtt", may: []string{"proto/mqtt/wire", "engine", "broker", "journal/record", "alloc", "internal/*"},
		test: []string{"broker/topics", "journal"}},
	{pkg: "server", may: []string{"**"}},
	{pkg: "server/clustergroup", may: []string{"server", "config", "cluster/link", "cluster/cert", "meta", "meta/raftgroup"}},
	{pkg: "test/**", may: []string{"**"}, unsafe: true},
}

// only says which packages may import a third-party module; a module that is not here may be imported by any package.
var only = map[string][]string{
	"github.com/HdrHistogram/hdrhistogram-go": {"bench", "bench/**", "perf/**"},
	"github.com/anishathalye/porcupine":       {"test/**"},
	"github.com/bytedance/gopkg":              {"alloc", "internal/*", "engine"},
	"github.com/cloudwego/netpoll":            {"engine"},
	"github.com/cockroachdb/pebble":           {"meta/raftgroup"},
	"github.com/cockroachdb/pebble/v2":        {"journal", "meta/raftgroup"},
	"github.com/eclipse/paho.golang":          {"test/**"},
	"github.com/eclipse/paho.mqtt.golang":     {"test/**"},
	"github.com/gobwas/ws":                    {"engine", "test/**", "bench/**"},
	"github.com/go-asn1-ber/asn1-ber":         {"auth"},
	"github.com/go-ldap/ldap/v3":              {"auth"},
	"github.com/golang-jwt/jwt/v5":            {"auth", "perf/guards", "test/**"},
	"github.com/klauspost/compress":           {"journal/record/compress", "cluster/link"},
	"github.com/lni/dragonboat/v4":            {"meta/raftgroup"},
	"github.com/minio/minio-go/v7":            {"journal/tier/s3tier", "test/tier"},
	"github.com/colinmarc/hdfs/v2":            {"journal/tier/hdfstier"},
	"github.com/pierrec/lz4/v4":               {"journal/record/compress"},
	"github.com/pkg/profile":                  {"perf/**"},
	"github.com/prometheus/client_golang":     {"server", "test/**"},
	"github.com/puzpuzpuz/xsync/v4":           {"broker"},
	"github.com/spf13/cobra":                  {"cmd/sluice"},
	"github.com/twmb/franz-go/pkg/kmsg":       {"bench", "bench/**", "proto/kafka", "proto/kafka/wire", "server", "perf/**", "test/**"},
	"github.com/twmb/franz-go":                {"cmd/sluice", "perf/**", "test/**"},
	"github.com/valyala/bytebufferpool":       {"alloc", "internal/*", "engine"},
	"go.yaml.in/yaml/v3":                      {"config", "cmd/sluice", "internal/strictyaml", "bench/scenarios", "bench/plan"},
	"golang.org/x/crypto":                     {"auth", "engine", "internal/revocation"},
	"golang.org/x/net":                        {"control", "server"},
	"golang.org/x/sys":                        {"alloc", "internal/*", "engine", "journal", "bench/**", "bench", "cmd/sluice", "server", "perf/**", "test/**"},
	"golang.org/x/term":                       {"cmd/sluice"},
	"go.opentelemetry.io/proto/otlp":          {"internal/otlp", "internal/otlp/**", "test/**"},
	"google.golang.org/grpc":                  {"control", "control/api", "internal/otlp", "internal/otlp/**", "cmd/sluice", "test/**"},
	"google.golang.org/protobuf":              {"control", "control/api", "internal/otlp", "internal/otlp/**", "cmd/sluice", "test/**"},
}

// pkgInfo is what go list tells of a package.
type pkgInfo struct {
	ImportPath, Dir                    string
	Doc                                string
	Imports, TestImports, XTestImports []string
	GoFiles, TestGoFiles, XTestGoFiles []string
}

func (p *pkgInfo) name() string { return strings.TrimPrefix(p.ImportPath, module+"/") }

// goCommand runs the go command for the platform and settings that the binary is built with.
func goCommand(t *testing.T, args ...string) []byte {
	t.Helper()
	cmd := exec.Command("go", args...)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-buildvcs=false", "GOOS=linux", "GOARCH=amd64")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go %s: %v\n%s", strings.Join(args, " "), err, stderr.Bytes())
	}
	return out
}

func packages(t *testing.T) []pkgInfo {
	t.Helper()
	dec := json.NewDecoder(bytes.NewReader(goCommand(t, "list", "-e", "-json", "./...")))
	var out []pkgInfo
	for {
		var p pkgInfo
		err := dec.Decode(&p)
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, p)
	}
}

// fits tells whether name is what pattern stands for.
func fits(pattern, name string) bool {
	if pattern == "**" || pattern == name {
		return true
	}
	if base, ok := strings.CutSuffix(pattern, "/**"); ok {
		return strings.HasPrefix(name, base+"/")
	}
	ok, err := path.Match(pattern, name)
	return ok && err == nil
}

func fitsAny(patterns []string, name string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool { return fits(p, name) })
}

func ruleOf(name string) *rule {
	for i := range rules {
		if fits(rules[i].pkg, name) {
			return &rules[i]
		}
	}
	return nil
}

func TestImports(t *testing.T) {
	list := packages(t)
	if len(list) < 10 {
		t.Fatalf("go list found %d packages", len(list))
	}
	for i := range list {
		p := &list[i]
		r := ruleOf(p.name())
		if r == nil {
			t.Errorf("%s has no rule: say in internal/arch/arch_test.go what it may import", p.name())
			continue
		}
		for _, imp := range p.Imports {
			checkImport(t, p, r, imp, false)
		}
		for _, imp := range slices.Concat(p.TestImports, p.XTestImports) {
			checkImport(t, p, r, imp, true)
		}
	}
}

func checkImport(t *testing.T, p *pkgInfo, r *rule, imp string, inTest bool) {
	t.Helper()
	where := p.name()
	if inTest {
		where += " (tests)"
	}
	if imp == "unsafe" && !r.unsafe && !inTest {
		t.Errorf("%s imports unsafe", where)
	}
	if own, ok := strings.CutPrefix(imp, module+"/"); ok {
		if own == "server" && p.name() != "cmd/sluice" && p.name() != "server/clustergroup" && p.name() != "perf/serve" && !fits("test/**", p.name()) && !inTest {
			t.Errorf("%s imports server: only cmd, test and perf/serve do", where)
		}
		if own != p.name() && !fitsAny(r.may, own) && (!inTest || !fitsAny(r.test, own) && !fits("internal/*", own)) {
			t.Errorf("%s imports %s", where, own)
		}
		return
	}
	if m := moduleOf(imp); m != "" && !fitsAny(only[m], p.name()) && !inTest {
		t.Errorf("%s imports %s, which only %s may", where, imp, strings.Join(only[m], ", "))
	}
}

// moduleOf gives the longest name in only that imp is in.
func moduleOf(imp string) string {
	best := ""
	for m := range only {
		if (imp == m || strings.HasPrefix(imp, m+"/")) && len(m) > len(best) {
			best = m
		}
	}
	return best
}

// No protocol knows another one, and no codec does I/O or reads a clock.
func TestWireIsPure(t *testing.T) {
	for _, p := range packages(t) {
		if !fits("proto/*/wire", p.name()) {
			continue
		}
		for _, imp := range p.Imports {
			if slices.Contains([]string{"net", "os", "io/fs", "time", "sync", "context", "log/slog"}, imp) {
				t.Errorf("%s imports %s", p.name(), imp)
			}
		}
	}
}

func TestPackageComments(t *testing.T) {
	for _, p := range packages(t) {
		if len(p.GoFiles) == 0 {
			continue // tests alone: TestTestPackageComments in files_test.go
		}
		if want := "Package "; len(p.Doc) < 40 || !strings.HasPrefix(p.Doc, want) && !strings.HasPrefix(p.Doc, "Command ") {
			t.Errorf("%s: the package comment is %q; it says what the package owns and never does, and who its neighbours are", p.name(), p.Doc)
		}
	}
}

// The two Pebbles and Dragonboat work together in these versions only.
func TestPins(t *testing.T) {
	mod, err := os.ReadFile(filepath.Join(root, "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"github.com/cockroachdb/pebble v0.0.0-20221207173255-0f086d933dac",
		"github.com/cockroachdb/pebble/v2 v2.1.7",
		"github.com/lni/dragonboat/v4 v4.0.0-20250723143628-076c7f6497dc",
	} {
		if !bytes.Contains(mod, []byte("\t"+want)) {
			t.Errorf("go.mod does not have %s", want)
		}
	}
}
