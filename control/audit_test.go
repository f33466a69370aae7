package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/sluicemq/sluice/control/api"
)

const marker = "marker-of-a-secret"

// filled gives a message of a type with something in each field: marker in those that hold a secret, "shown" in the others. Which hold one is said
// here once more, name by name, so that a field that the code forgets is found; depth bounds what is within itself.
func filled(m protoreflect.Message, depth int) {
	secret := func(f protoreflect.FieldDescriptor) bool {
		return f.Kind() == protoreflect.BytesKind || slices.Contains([]string{"password", "token", "secret", "stored_key", "server_key", "salt", "private_key"}, string(f.Name()))
	}
	scalar := func(f protoreflect.FieldDescriptor, secret bool) protoreflect.Value {
		text := "shown"
		if secret {
			text = marker
		}
		switch f.Kind() {
		case protoreflect.StringKind:
			return protoreflect.ValueOfString(text)
		case protoreflect.BytesKind:
			return protoreflect.ValueOfBytes([]byte(text))
		case protoreflect.BoolKind:
			return protoreflect.ValueOfBool(true)
		case protoreflect.EnumKind:
			return protoreflect.ValueOfEnum(1)
		case protoreflect.DoubleKind:
			return protoreflect.ValueOfFloat64(7)
		case protoreflect.Int32Kind:
			return protoreflect.ValueOfInt32(7)
		case protoreflect.Uint32Kind:
			return protoreflect.ValueOfUint32(7)
		case protoreflect.Uint64Kind:
			return protoreflect.ValueOfUint64(7)
		default:
			return protoreflect.ValueOfInt64(7)
		}
	}
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		switch {
		case f.IsMap():
			values := m.Mutable(f).Map()
			for _, key := range []string{"plain", "secret_key"} {
				values.Set(protoreflect.ValueOfString(key).MapKey(), scalar(f.MapValue(), key != "plain"))
			}
		case f.Message() != nil && depth == 0:
		case f.Message() != nil && f.IsList():
			filled(m.Mutable(f).List().AppendMutable().Message(), depth-1)
		case f.Message() != nil:
			filled(m.Mutable(f).Message(), depth-1)
		case f.IsList():
			m.Mutable(f).List().Append(scalar(f, secret(f)))
		default:
			m.Set(f, scalar(f, secret(f)))
		}
	}
}

// No message of any method, request or answer, is recorded with a secret; all else of it is.
func TestNoSecretIsRecorded(t *testing.T) {
	s := New(Options{})
	g := s.newGRPC(insecure.NewCredentials())
	defer g.Stop()
	secrets := 0
	for service := range g.GetServiceInfo() {
		if !strings.HasPrefix(service, "sluice.") {
			continue
		}
		d, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(service))
		if err != nil {
			t.Fatal(err)
		}
		methods := d.(protoreflect.ServiceDescriptor).Methods()
		for i := range methods.Len() {
			for _, of := range []protoreflect.MessageDescriptor{methods.Get(i).Input(), methods.Get(i).Output()} {
				mt, err := protoregistry.GlobalTypes.FindMessageByName(of.FullName())
				if err != nil {
					t.Fatal(err)
				}
				m := mt.New().Interface()
				filled(m.ProtoReflect(), 3)
				before := proto.Clone(m)
				text := string(recorded(m))
				whole := fmt.Sprint(before)
				if strings.Contains(whole, marker) {
					secrets++
				}
				if strings.Contains(text, marker) || strings.Contains(text, "bWFya2Vy") { // base64 of its beginning
					t.Errorf("%s is recorded as %s", of.FullName(), text)
				}
				if strings.Contains(whole, `"shown"`) && !strings.Contains(text, `"shown"`) {
					t.Errorf("nothing of %s is recorded: %s", of.FullName(), text)
				}
				if !proto.Equal(m, before) {
					t.Errorf("%s was changed by recording it", of.FullName())
				}
			}
		}
	}
	if secrets < 5 {
		t.Errorf("%d messages hold secrets: the test looks for the wrong fields", secrets)
	}
}

func TestLongRequestsAreCut(t *testing.T) {
	long := recorded(&api.CreateTopicRequest{Name: strings.Repeat("é", 20_000)})
	var cut struct {
		Bytes int
		Cut   string
	}
	if err := json.Unmarshal(long, &cut); err != nil || len(long) > 2*auditBytes || cut.Bytes < 40_000 || !strings.HasPrefix(cut.Cut, `{"name":"é`) {
		t.Errorf("%d bytes: %v, %.60s", len(long), err, long)
	}
}

func quietAudit(t *testing.T, path string, required bool) *auditFile {
	t.Helper()
	a := newAuditFile(slog.New(slog.DiscardHandler))
	a.set(path, required)
	t.Cleanup(func() { a.close(context.Background()) })
	return a
}

// Lines of many goroutines are whole, each once; who waited has his on the disk.
func TestAuditFileParallel(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	a := quietAudit(t, path, true)
	var writers sync.WaitGroup
	for i := range 200 {
		writers.Go(func() {
			line := fmt.Sprintf("{\"n\":%d}\n", i)
			if i%4 == 0 {
				a.add([]byte(line))
			} else if err := a.write(t.Context(), []byte(line)); err != nil {
				t.Error(err)
			} else if b, err := os.ReadFile(path); err != nil || !strings.Contains(string(b), line) {
				t.Errorf("%s is not in the file: %v", line, err)
			}
		})
	}
	writers.Wait()
	a.close(t.Context())
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	seen := make(map[string]int)
	for _, l := range strings.Split(strings.TrimSuffix(string(b), "\n"), "\n") {
		seen[l]++
	}
	for i := range 200 {
		if seen[fmt.Sprintf(`{"n":%d}`, i)] != 1 {
			t.Errorf("record %d is there %d times", i, seen[fmt.Sprintf(`{"n":%d}`, i)])
		}
	}
	if written, lost := a.written.Load(), a.lost.Load(); written != 200 || lost != 0 || len(seen) != 200 {
		t.Errorf("%d written, %d lost, %d lines", written, lost, len(seen))
	}
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", st.Mode(), err)
	}
	if a.write(t.Context(), []byte("x\n")) == nil {
		t.Error("a line is written after close")
	}
	a.add([]byte("x\n"))
	if a.lost.Load() != 1 {
		t.Errorf("%d lost after close", a.lost.Load())
	}
}

// A file that was moved away is made anew by set; half a line that a crash has left is ended before the next.
func TestAuditFileReopened(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "audit.jsonl")
	if err := os.WriteFile(path, []byte("{\"half"), 0o600); err != nil {
		t.Fatal(err)
	}
	a := quietAudit(t, path, true)
	write := func(line string) {
		t.Helper()
		if err := a.write(t.Context(), []byte(line+"\n")); err != nil {
			t.Fatal(err)
		}
	}
	write("one")
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	write("two") // nobody has said yet that it was moved
	a.set(path, true)
	write("three")
	for name, want := range map[string]string{path + ".1": "{\"half\none\ntwo\n", path: "three\n"} {
		if b, err := os.ReadFile(name); err != nil || string(b) != want {
			t.Errorf("%s: %q, %v, want %q", name, b, err, want)
		}
	}
}

// A disk that is full is an error to who waits, a count to who does not; once it takes lines again, they are written again.
func TestAuditFileFails(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("/dev/full is Linux's")
	}
	a := quietAudit(t, "/dev/full", true)
	if err := a.write(t.Context(), []byte("x\n")); err == nil || !strings.Contains(err.Error(), "no space") {
		t.Errorf("a full disk: %v", err)
	}
	path := filepath.Join(t.TempDir(), "absent", "audit.jsonl")
	a.set(path, true)
	if a.write(t.Context(), []byte("x\n")) == nil {
		t.Error("no directory, no error")
	}
	a.add([]byte("x\n"))
	if a.write(t.Context(), []byte("x\n")) == nil { // behind the one before it
		t.Error("no directory, no error")
	}
	if a.lost.Load() != 1 {
		t.Errorf("%d lost", a.lost.Load())
	}
	if err := os.Mkdir(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := a.write(t.Context(), []byte("y\n")); err != nil {
		t.Error(err)
	}
	if err := CheckAudit(filepath.Join(path, "below-a-file")); err == nil {
		t.Error("a file below a file can be written")
	}
}

// A pipe without a reader is an error, and holds up nobody.
func TestAuditPipe(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Skip(err)
	}
	if err := CheckAudit(path); !errors.Is(err, syscall.ENXIO) {
		t.Errorf("a pipe that nobody reads: %v", err)
	}
	a := quietAudit(t, path, true)
	if err := a.write(t.Context(), []byte("x\n")); !errors.Is(err, syscall.ENXIO) {
		t.Errorf("a pipe that nobody reads: %v", err)
	}
	r, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.write(t.Context(), []byte("y\n")); err != nil {
		t.Errorf("a pipe with a reader: %v", err)
	}
	a.add(make([]byte, 1<<20)) // more than a pipe holds
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	a.close(ctx) // does not wait for the reader
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	<-a.done
}

// Strangers have records of their own: what they send leaves room for what insiders are refused.
func TestStrangersRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	var log bytes.Buffer
	s := New(Options{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	s.SetAudit(path, false)
	const method = "/sluice.control.v1.Topics/Delete"
	began := time.Now().Unix()
	for range 100 {
		stranger := s.refuse(t.Context(), method, caller{}, status.Error(codes.Unauthenticated, "who?"))
		s.refusedChange(t.Context(), caller{}, method, nil, stranger)
	}
	eve := caller{name: "eve"}
	s.refusedChange(t.Context(), eve, method, nil, s.refuse(t.Context(), method, eve, status.Error(codes.PermissionDenied, "no")))
	seconds := int(time.Now().Unix()-began) + 1
	s.Close(t.Context())
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for of, text := range map[string]string{"the trail": string(b), "the log": log.String()} {
		if n := strings.Count(text, "Unauthenticated") + strings.Count(text, "who?"); n > 2*seconds {
			t.Errorf("%s has %d words of strangers in %d s", of, n, seconds)
		}
		if !strings.Contains(text, "eve") {
			t.Errorf("%s has nothing of an insider: %s", of, text)
		}
	}
}
