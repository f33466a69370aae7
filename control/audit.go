package control

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/sluicemq/sluice/control/api"
)

// Bounds of what is recorded.
const (
	auditBytes       = 8 << 10 // of a request, of what was before and of what is after; what is longer is cut
	refusedRecords   = 20      // of refused calls of principals in a second; the others are counted
	strangersRecords = 1       // and of those who are not known: they could fill the file
)

// auditRecord is one line of the audit trail; docs/operate/control.md has its form.
type auditRecord struct {
	Time      time.Time       `json:"time"`
	Event     string          `json:"event"` // asked, done, refused or reloaded
	ID        string          `json:"id"`    // the same for asked and done of a call
	Node      uint16          `json:"node"`
	Principal string          `json:"principal"`
	Role      string          `json:"role"`
	Tenant    string          `json:"tenant,omitempty"` // of the call
	By        string          `json:"by,omitempty"`
	Remote    string          `json:"remote,omitempty"`
	Method    string          `json:"method"`
	Subject   string          `json:"subject,omitempty"`
	Request   json.RawMessage `json:"request,omitempty"`
	Before    json.RawMessage `json:"before,omitempty"`
	After     json.RawMessage `json:"after,omitempty"`
	Changes   []string        `json:"changes,omitempty"` // of a reload
	Code      string          `json:"code,omitempty"`
	Error     string          `json:"error,omitempty"`
	TookMS    *float64        `json:"took_ms,omitempty"`
	Omitted   int64           `json:"omitted,omitempty"` // refused calls before it that have no record

	full string // the method as gRPC has it, and the log
}

func (r *auditRecord) line() []byte {
	b, err := json.Marshal(r)
	if err != nil { // what cannot be encoded is not among the fields
		b = []byte(`{"event":"` + r.Event + `"}`)
	}
	return append(b, '\n')
}

// notes are what a service says of a change beside its answer.
type notes struct{ before proto.Message }

type notesKey struct{}

// was notes what a change finds before it changes it. Its caller has checked that m is not nil.
func was(ctx context.Context, m proto.Message) {
	if n, ok := ctx.Value(notesKey{}).(*notes); ok {
		n.before = m
	}
}

// record begins the record of a call.
func (s *Server) record(ctx context.Context, c caller, method string, req any) *auditRecord {
	var id [8]byte
	_, _ = rand.Read(id[:]) // it never fails
	r := &auditRecord{Time: time.Now().UTC(), ID: hex.EncodeToString(id[:]), Node: uint16(s.o.Node), Principal: text(c.name), Role: c.role.String(), Tenant: c.in.name, By: c.by,
		Remote: remote(ctx), Method: methodName(method), Subject: subject(req), full: method}
	if m, ok := req.(proto.Message); ok {
		r.Request = recorded(m)
	}
	return r
}

// asked writes down that a change is asked for, where it must not happen otherwise.
func (s *Server) asked(ctx context.Context, r *auditRecord) error {
	if _, required := s.audit.on(); !required {
		return nil
	}
	r.Event = "asked"
	if err := s.audit.write(ctx, r.line()); err != nil {
		s.log.Error("a change is refused, since its audit record cannot be written", "method", r.Method, "principal", r.Principal, "err", err)
		return status.Errorf(codes.Unavailable, "%s: nothing is changed, since the change cannot be written to the audit trail (control.audit, control.audit_required): %v", r.Method, err)
	}
	return nil
}

// ended writes down what came of a change.
func (s *Server) ended(ctx context.Context, r *auditRecord, n *notes, resp any, err error) {
	words := []any{"method", r.full, "subject", r.Subject, "principal", r.Principal, "role", r.Role, "remote", r.Remote, "code", status.Code(err).String()}
	if r.Tenant != "" {
		words = append(words, "tenant", r.Tenant)
	}
	s.log.Info("control", words...)
	on, required := s.audit.on()
	if !on {
		return
	}
	took := float64(time.Since(r.Time).Microseconds()) / 1000
	r.Event, r.Time, r.TookMS, r.Code = "done", time.Now().UTC(), &took, status.Code(err).String()
	if n.before != nil {
		r.Before = recorded(n.before)
	}
	if m, ok := resp.(proto.Message); ok && m.ProtoReflect().IsValid() {
		r.After = recorded(m)
	}
	if err != nil {
		r.Error = short(status.Convert(err).Message())
	}
	if !required {
		s.audit.add(r.line())
		return
	}
	// It has happened, whether its caller still waits or not.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
	defer cancel()
	if err := s.audit.write(ctx, r.line()); err != nil {
		s.audit.lose(1, err)
	}
}

// refusedChange writes down that somebody may not make a change. What a stranger sends is not written down.
func (s *Server) refusedChange(ctx context.Context, c caller, method string, req any, err error) {
	if on, _ := s.audit.on(); !on || !rules[method].changes {
		return
	}
	records, most := &s.refusedChanges.known, int64(refusedRecords)
	if status.Code(err) == codes.Unauthenticated {
		records, most, req = &s.refusedChanges.strangers, strangersRecords, nil
	}
	if !records.mayLog(time.Now(), most) {
		s.omitted.Add(1)
		return
	}
	r := s.record(ctx, c, method, req)
	r.Event, r.Code, r.Error, r.Omitted = "refused", status.Code(err).String(), short(status.Convert(err).Message()), s.omitted.Swap(0)
	s.audit.add(r.line())
}

// SetAudit changes where the audit trail goes; an empty path is nowhere. The file is opened anew in any case. With required a change that
// cannot be written down is refused.
func (s *Server) SetAudit(path string, required bool) { s.audit.set(path, required) }

// reloadTimeout is how long a reload waits for its record.
const reloadTimeout = 5 * time.Second

// Reloaded is SetAudit of a configuration that was read again: changes are its lines, without secrets. They are written to where records went until
// now, so that whoever turns the trail off is in it.
func (s *Server) Reloaded(changes []string, path string, required bool) {
	on, _ := s.audit.on()
	if !on {
		s.audit.set(path, required)
		if on, _ = s.audit.on(); !on {
			return
		}
	}
	r := s.record(context.Background(), caller{name: "reload", role: RoleAdmin}, "Configuration/Reload", nil)
	r.Event, r.Changes = "reloaded", changes
	ctx, cancel := context.WithTimeout(context.Background(), reloadTimeout)
	defer cancel()
	if err := s.audit.write(ctx, r.line()); err != nil {
		s.audit.lose(1, err)
	}
	s.audit.set(path, required)
}

// AuditRecords are how many records were written, and how many were lost.
func (s *Server) AuditRecords() (written, lost uint64) {
	return s.audit.written.Load(), s.audit.lost.Load()
}

// changing makes a call that changes something, and leaves its trace.
func (s *Server) changing(ctx context.Context, c caller, method string, req any, handle grpc.UnaryHandler) (any, error) {
	r := s.record(ctx, c, method, req)
	if err := s.asked(ctx, r); err != nil {
		return nil, err
	}
	n := new(notes)
	resp, err := handle(context.WithValue(ctx, notesKey{}, n), req)
	s.ended(ctx, r, n, resp, err)
	return resp, err
}

// changingStream is a stream whose call changes something: it knows what was asked and what was answered last.
type changingStream struct {
	grpc.ServerStream
	s      *Server
	caller caller
	method string
	record *auditRecord // nil until the request has come
	last   any
}

// RecvMsg gets the request, and leaves its trace before the service sees it.
func (c *changingStream) RecvMsg(m any) error {
	if err := c.ServerStream.RecvMsg(m); err != nil || c.record != nil {
		return err
	}
	c.record = c.s.record(c.Context(), c.caller, c.method, m)
	return c.s.asked(c.Context(), c.record)
}

// SendMsg sends an answer.
func (c *changingStream) SendMsg(m any) error {
	c.last = m
	return c.ServerStream.SendMsg(m)
}

// ended writes down what came of the call.
func (c *changingStream) ended(err error) {
	if c.record != nil {
		c.s.ended(c.Context(), c.record, new(notes), c.last, err)
	}
}

// recorded is a message as JSON, without secrets, and not longer than is recorded.
func recorded(m proto.Message) json.RawMessage {
	m = proto.Clone(m)
	redact(m.ProtoReflect())
	b, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(m)
	if err != nil {
		return nil
	}
	var out bytes.Buffer
	if json.Compact(&out, b) != nil { // its spaces differ from build to build
		return nil
	}
	if out.Len() <= auditBytes {
		return out.Bytes()
	}
	cut, _ := json.Marshal(struct {
		Bytes int    `json:"bytes"`
		Cut   string `json:"cut"`
	}{out.Len(), strings.ToValidUTF8(out.String()[:auditBytes], "")})
	return cut
}

const redacted = "(not recorded)"

// secretName says whether a field, or a key of a map, holds a secret by its name. Bytes are none's business either: hashes, keys, tokens of pages.
func secretName(name string) bool {
	name = strings.ToLower(name)
	for _, word := range []string{"password", "secret", "token", "credential", "private"} {
		if strings.Contains(name, word) {
			return true
		}
	}
	return false
}

// redact takes secrets out of m.
func redact(m protoreflect.Message) {
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case f.IsMap():
			redactMap(f, v.Map())
		case f.Kind() == protoreflect.BytesKind:
			m.Clear(f)
		case f.Kind() == protoreflect.MessageKind && f.IsList():
			for i := range v.List().Len() {
				redact(v.List().Get(i).Message())
			}
		case f.Kind() == protoreflect.MessageKind:
			redact(v.Message())
		case !secretName(string(f.Name())):
		case f.Kind() == protoreflect.StringKind && !f.IsList():
			m.Set(f, protoreflect.ValueOfString(redacted))
		default:
			m.Clear(f)
		}
		return true
	})
}

func redactMap(f protoreflect.FieldDescriptor, values protoreflect.Map) {
	kind := f.MapValue().Kind()
	values.Range(func(k protoreflect.MapKey, v protoreflect.Value) bool {
		switch {
		case kind == protoreflect.MessageKind:
			redact(v.Message())
		case kind == protoreflect.BytesKind, secretName(k.String()) || secretName(string(f.Name())):
			if kind == protoreflect.StringKind {
				values.Set(k, protoreflect.ValueOfString(redacted))
			} else {
				values.Clear(k)
			}
		}
		return true
	})
}

// subject is what a request is about, for the log.
func subject(req any) string {
	switch r := req.(type) {
	case interface{ GetName() string }:
		return short(r.GetName())
	case interface{ GetId() string }:
		return short(r.GetId())
	case interface{ GetGroup() string }:
		return short(r.GetGroup())
	case interface{ GetTarget() *api.BanTarget }:
		t := r.GetTarget()
		return short(t.GetClientId() + t.GetUser() + t.GetAddress())
	case interface{ GetFilter() string }:
		return short(r.GetFilter())
	case interface{ GetTopic() string }:
		return short(r.GetTopic())
	case interface{ GetId() uint32 }:
		return "node " + strconv.FormatUint(uint64(r.GetId()), 10)
	case *api.MoveShardsRequest:
		return nodeOfSet(r.To, r.Set)
	case *api.ElectUncleanRequest:
		return nodeOfSet(r.Node, r.Set)
	case *api.ShardSetsRequest:
		out := strconv.FormatUint(uint64(r.Sets), 10) + " sets"
		if r.Replicas > 0 {
			out += ", " + strconv.FormatUint(uint64(r.Replicas), 10) + " replicas"
		}
		return out
	case *api.ShardReplicasRequest:
		return "set " + strconv.FormatUint(uint64(r.Set), 10) + ", " + strconv.FormatUint(uint64(r.Replicas), 10) + " replicas"
	}
	return ""
}

// nodeOfSet is a node that is to lead a set of shards.
func nodeOfSet(node, set uint32) string {
	out := "node " + strconv.FormatUint(uint64(node), 10)
	if set > 0 {
		out += ", set " + strconv.FormatUint(uint64(set), 10)
	}
	return out
}
