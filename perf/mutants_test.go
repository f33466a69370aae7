package perf

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const mutantEnv = "SLUICE_PERF_MUTANT"

// mutant makes a hot path worse by one thing: code is put behind the line of file that begins with after, or takes the place of from in
// it. The budget's test must say then that key is over.
type mutant struct {
	name, file  string
	after, from string
	code        string
	test, key   string
	traced      bool // only strace sees it
}

var mutants = []mutant{
	{name: "allocation-in", file: "proto/mqtt/publish.go", after: "func (c *conn) onPublish(", code: "mutantSink = new([16]byte)",
		test: "TestBudgetPipelined/qos0$", key: "publish_pipelined_qos0.allocations"},
	{name: "allocation-ack", file: "proto/mqtt/deliver.go", after: "func (c *conn) onAck(", code: "mutantSink = new([16]byte)",
		test: "TestBudgetOne/qos1$", key: "publish_one_qos1.allocations"},
	{name: "allocation-out", file: "proto/mqtt/deliver.go", after: "func (c *conn) Deliver(", code: "mutantSink = new([16]byte)",
		test: "TestBudgetFanout/qos0$", key: "fanout_delivery_qos0.allocations"},
	{name: "allocation-commit", file: "journal/commit.go", after: "func (c *committer) write(", code: "mutantSink = new([16]byte)",
		test: "TestBudgetOne/qos1_durable$", key: "publish_one_qos1_durable.allocations"},
	{name: "allocation-produce", file: "proto/kafka/api_00_produce.go", after: "func (c *conn) append(", code: "mutantSink = new([16]byte)",
		test: "TestBudgetProduce/one$", key: "produce_one.allocations"},
	{name: "allocation-fetch", file: "proto/kafka/api_01_fetch.go", after: "func fetch(", code: "mutantSink = new([16]byte)",
		test: "TestBudgetFetch/small$", key: "fetch_small.allocations"},
	{name: "allocation-release", file: "proto/mqtt/publish.go", after: "func (c *conn) onPubrel(", code: "mutantSink = new([16]byte)",
		test: "TestBudgetOne/qos2$", key: "publish_one_qos2.allocations"},
	{name: "allocation-ping", file: "proto/mqtt/conn.go", from: "\tcase wire.PINGREQ:\n",
		code: "\tcase wire.PINGREQ:\n\t\tif mutant == \"allocation-ping\" { mutantSink = new([16]byte) }\n", test: "TestBudgetPing$", key: "ping.allocations"},
	{name: "allocation-connect", file: "proto/mqtt/connect.go", after: "func (c *conn) admit(", code: "mutantSink = new([16]byte)",
		test: "TestBudgetConnect$", key: "connect.allocations"},
	{name: "bytes-idle", file: "proto/mqtt/handler.go", after: "func (h *Handler) OnOpen(", code: "mutantSink = &[2]any{mutantSink, new([256]byte)}",
		test: "TestBudgetIdle/plain$", key: "idle_connection.plain_heap_bytes"},
	{name: "call-read", file: "engine/epoll_linux.go", from: "n < len(to) ||", code: `n < len(to) && mutant != "call-read" ||`, // until there is no more
		test: "TestBudgetOne/qos1$", key: "publish_one_qos1.socket_calls"},
	{name: "call-park", file: "engine/epoll_linux.go", after: "func (p *poller) wait(", code: "p.n = p.rawWait(); if p.n > 0 { return }",
		test: "TestBudgetOne/qos0$", key: "publish_one_qos0.loop_calls"},
	{name: "call-uncounted", file: "engine/epoll_linux.go", after: "func (c *Conn) fdSend(", code: "_, _, _ = unix.RawSyscall(unix.SYS_GETPPID, 0, 0, 0)",
		test: "TestBudgetTraced/qos0$", key: "traced_qos0.others", traced: true},
	{name: "call-produce", file: "proto/kafka/api_00_produce.go", after: "func produce(", code: "mutantCall()",
		test: "TestBudgetTraced/produce$", key: "traced_produce.others", traced: true},
	{name: "call-fetch", file: "proto/kafka/api_01_fetch.go", after: "func (r *request) sendFetch(", code: "mutantCall()",
		test: "TestBudgetTraced/fetch$", key: "traced_fetch.others", traced: true},
	{name: "call-connect", file: "proto/mqtt/connect.go", after: "func (c *conn) onConnect(", code: "mutantCall()",
		test: "TestBudgetTraced/connect$", key: "traced_connect.others", traced: true},
	{name: "call-disk", file: "journal/commit.go", after: "func (c *committer) write(", code: "_, _ = s.file.WriteAt(b, at)",
		test: "TestBudgetTraced/qos1_durable$", key: "traced_qos1_durable.disk", traced: true},
}

// mutate puts m into the text of its file, where the environment turns it on.
func (m *mutant) mutate(text string) (string, error) {
	place, code := m.from, m.code
	if m.after != "" {
		at := strings.Index(text, "\n"+m.after)
		end := strings.Index(text[max(at, 0)+1:], "\n")
		if at < 0 || end < 0 {
			return "", fmt.Errorf("%s has no line %q any more: tell the mutant %s in perf/mutants_test.go where it lives now", m.file, m.after, m.name)
		}
		place = text[at : at+1+end+1]
		code = place + fmt.Sprintf("\tif mutant == %q { %s }\n", m.name, m.code)
	}
	if strings.Count(text, place) != 1 {
		return "", fmt.Errorf("%q is not once in %s: tell the mutant %s in perf/mutants_test.go where it lives now", place, m.file, m.name)
	}
	return strings.Replace(text, place, code, 1), nil
}

// overlay writes what the go command is to compile in the place of the tree's files, and returns the file that says so.
func overlay(root, dir string) (string, error) {
	replace := make(map[string]string)
	texts := make(map[string]string)
	for i := range mutants {
		m := &mutants[i]
		file := filepath.Join(root, m.file)
		if _, ok := texts[file]; !ok {
			b, err := os.ReadFile(file)
			if err != nil {
				return "", err
			}
			texts[file] = string(b)
		}
		text, err := m.mutate(texts[file])
		if err != nil {
			return "", err
		}
		texts[file] = text
		pkg := filepath.Base(filepath.Dir(file))
		texts[filepath.Join(filepath.Dir(file), "mutant.go")] = fmt.Sprintf(
			"package %s\n\nimport \"os\"\n\nvar mutant = os.Getenv(%q)\n\nvar mutantSink any\n\nfunc mutantCall() { mutantSink = nil; _ = os.Getppid() }\n", pkg, mutantEnv)
	}
	for file, text := range texts {
		name := filepath.Join(dir, fmt.Sprintf("%d.go", len(replace)))
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			return "", err
		}
		replace[file] = name
	}
	list, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return "", err
	}
	file := filepath.Join(dir, "overlay.json")
	return file, os.WriteFile(file, list, 0o600)
}

// TestMutants proves the budget: it builds these tests over a tree in which hot paths can be made worse by one allocation or one system call
// each, and sees that the budget is kept without and broken with each.
func TestMutants(t *testing.T) {
	plainBuild(t)
	if os.Getenv(mutantEnv) != "" {
		t.Skip("this is the run of a mutant")
	}
	root, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	list, err := overlay(root, dir)
	if err != nil {
		t.Fatal(err)
	}
	binary := filepath.Join(dir, "perf.test")
	build := exec.Command("go", "test", "-c", "-vet=off", "-overlay", list, "-o", binary, ".")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	try := func(name, test string) (string, bool) {
		cmd := exec.Command(binary, "-test.run", "^"+strings.Replace(test, "/", "$/^", 1), "-test.v")
		cmd.Env = append(os.Environ(), mutantEnv+"="+name)
		out, err := cmd.CombinedOutput()
		return string(out), err == nil
	}
	healthy := make(map[string]bool)
	for _, m := range mutants {
		t.Run(m.name, func(t *testing.T) {
			if !healthy[m.test] {
				if out, ok := try("none", m.test); !ok {
					t.Fatalf("without the mutant:\n%s", out)
				}
				healthy[m.test] = true
			}
			out, ok := try(m.name, m.test)
			if m.traced && strings.Contains(out, "--- SKIP") {
				t.Skip("strace cannot be used here")
			}
			if ok || !strings.Contains(out, m.key+": ") || !strings.Contains(out, "is over the budget") {
				t.Errorf("the budget does not see it: has the path become cheaper? Then lower %s in budget.toml.\n%s", m.key, out)
			}
			for line := range strings.Lines(out) {
				if strings.Contains(line, "is over the budget") {
					t.Log(strings.TrimSpace(line))
				}
			}
		})
	}
}

// A mutant whose place is gone, or is there twice, is not passed over.
func TestMutantWithoutPlace(t *testing.T) {
	for _, m := range []mutant{{name: "m", file: "f", after: "func gone("}, {name: "m", file: "f", from: "twice"}} {
		if _, err := m.mutate("package p\n\n// twice\nfunc there() {} // twice\n"); err == nil || !strings.Contains(err.Error(), "perf/mutants_test.go") {
			t.Errorf("%v", err)
		}
	}
	m := mutant{name: "m", after: "func there(", code: "worse()"}
	if text, err := m.mutate("package p\n\nfunc there() {\n\treturn\n}\n"); err != nil || text != "package p\n\nfunc there() {\n\tif mutant == \"m\" { worse() }\n\treturn\n}\n" {
		t.Errorf("%q, %v", text, err)
	}
}
