package kafka

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/sasl"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"

	"github.com/sluicemq/sluice/auth"
	"github.com/sluicemq/sluice/internal/testx"
	"github.com/sluicemq/sluice/proto/mqtt/mqttclient"
	"github.com/sluicemq/sluice/proto/mqtt/wire"
)

// setSCRAM sets a user's credentials, as kafka-configs does.
func setSCRAM(t testing.TB, c *cluster, user, password string, mechanisms ...kadm.ScramMechanism) {
	t.Helper()
	var upsert []kadm.UpsertSCRAM
	for _, m := range mechanisms {
		upsert = append(upsert, kadm.UpsertSCRAM{User: user, Mechanism: m, Iterations: 4096, Password: password})
	}
	alterSCRAM(t, c, nil, upsert)
}

func alterSCRAM(t testing.TB, c *cluster, del []kadm.DeleteSCRAM, upsert []kadm.UpsertSCRAM) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	res, err := c.admin().AlterUserSCRAMs(ctx, del, upsert)
	if err == nil {
		err = res.Error()
	}
	if err != nil {
		t.Fatal(err)
	}
}

// comesIn says whether a client with these credentials is served.
func (c *cluster) comesIn(m sasl.Mechanism) error {
	c.t.Helper()
	r := c.raw()
	if err := r.authenticate(m, 1).err(); err != nil {
		return err
	}
	_, err := r.try(kmsg.NewPtrMetadataRequest())
	return err
}

func sha(mechanism, user, password string) sasl.Mechanism {
	if mechanism == "SCRAM-SHA-256" {
		return scram.Auth{User: user, Pass: password}.AsSha256Mechanism()
	}
	return scram.Auth{User: user, Pass: password}.AsSha512Mechanism()
}

// mqttComesIn says whether an MQTT client with this name and password is.
func (c *cluster) mqttComesIn(user, password string) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cl, _, err := mqttclient.Connect(ctx, mqttclient.Options{URL: "mqtt://" + c.node.Listeners["mqtt.tcp"],
		Connect: wire.Connect{ClientID: []byte("m"), CleanStart: true, UserName: []byte(user), Password: []byte(password)}})
	if err == nil {
		err = cl.Close()
	}
	return err
}

// Users that Kafka's tools make come in by SCRAM, by PLAIN and over MQTT, also after a kill, and are gone when they are deleted.
func TestSCRAM(t *testing.T) {
	c := start(t, "auth.anonymous=loopback")
	setSCRAM(t, c, "ann", "secret", kadm.ScramSha256, kadm.ScramSha512)
	setSCRAM(t, c, "one", "secret", kadm.ScramSha256)
	c.crash()
	for _, mechanism := range []string{"SCRAM-SHA-256", "SCRAM-SHA-512"} {
		if err := c.comesIn(sha(mechanism, "ann", "secret")); err != nil {
			t.Errorf("%s: %v", mechanism, err)
		}
		for user, password := range map[string]string{"ann": "wrong", "nobody": "secret"} {
			if err := c.comesIn(sha(mechanism, user, password)); !errors.Is(err, kerr.SaslAuthenticationFailed) {
				t.Errorf("%s of %s: %v", mechanism, user, err)
			}
		}
	}
	if err := c.comesIn(sha("SCRAM-SHA-512", "one", "secret")); !errors.Is(err, kerr.SaslAuthenticationFailed) {
		t.Errorf("by a mechanism without a credential: %v", err)
	}
	for _, user := range []string{"ann", "one"} {
		if err := c.comesIn(plain.Auth{User: user, Pass: "secret"}.AsMechanism()); err != nil {
			t.Errorf("PLAIN of %s: %v", user, err)
		}
		if err := c.mqttComesIn(user, "secret"); err != nil {
			t.Errorf("MQTT of %s: %v", user, err)
		}
		if c.comesIn(plain.Auth{User: user, Pass: "wrong"}.AsMechanism()) == nil || c.mqttComesIn(user, "wrong") == nil {
			t.Errorf("%s came in by a wrong password", user)
		}
	}
	alterSCRAM(t, c, []kadm.DeleteSCRAM{{User: "ann", Mechanism: kadm.ScramSha256}, {User: "ann", Mechanism: kadm.ScramSha512}}, nil)
	if err := c.comesIn(sha("SCRAM-SHA-256", "ann", "secret")); !errors.Is(err, kerr.SaslAuthenticationFailed) {
		t.Errorf("deleted: %v", err)
	}
	if err := c.comesIn(sha("SCRAM-SHA-256", "one", "secret")); err != nil {
		t.Errorf("not deleted: %v", err)
	}
}

// Live connections of a user end when its credential goes; others stay.
func TestDeletedUserIsClosed(t *testing.T) {
	c := start(t, "auth.anonymous=loopback")
	setSCRAM(t, c, "ann", "secret", kadm.ScramSha256, kadm.ScramSha512)
	var clients [3]*raw
	for i, m := range []sasl.Mechanism{sha("SCRAM-SHA-256", "ann", "secret"), sha("SCRAM-SHA-512", "ann", "secret")} {
		clients[i] = c.raw()
		if err := clients[i].authenticate(m, 1).err(); err != nil {
			t.Fatal(err)
		}
	}
	clients[2] = c.raw()
	for _, r := range clients {
		r.ask(kmsg.NewPtrMetadataRequest())
	}
	alterSCRAM(t, c, []kadm.DeleteSCRAM{{User: "ann", Mechanism: kadm.ScramSha256}}, nil)
	clients[0].closed()
	for _, r := range clients[1:] {
		r.ask(kmsg.NewPtrMetadataRequest())
	}
}

// closed waits for the end of the connection.
func (r *raw) closed() {
	r.t.Helper()
	_ = r.conn.SetReadDeadline(time.Now().Add(patience))
	if rest, err := io.ReadAll(r.conn); len(rest) > 0 || errors.Is(err, os.ErrDeadlineExceeded) {
		r.t.Errorf("%d bytes and %v instead of the end", len(rest), err)
	}
}

// said is how an authentication ended.
type said struct {
	handshake    int16
	authenticate int16
	message      string
	lifetime     time.Duration
	failed       error
}

func (s said) err() error {
	return errors.Join(kerr.ErrorForCode(s.handshake), kerr.ErrorForCode(s.authenticate), s.failed)
}

// authenticate goes through a mechanism on the connection, at a version of the handshake.
func (r *raw) authenticate(m sasl.Mechanism, version int16) (s said) {
	r.t.Helper()
	hs := kmsg.NewPtrSASLHandshakeRequest()
	hs.Mechanism, hs.Version = m.Name(), version
	resp, err := r.try(hs)
	if err != nil {
		return said{failed: err}
	}
	if s.handshake = resp.(*kmsg.SASLHandshakeResponse).ErrorCode; s.handshake != 0 {
		return s
	}
	session, token, err := m.Authenticate(context.Background(), r.conn.RemoteAddr().String())
	for done := false; err == nil && !done; {
		var answer []byte
		if version == 0 {
			answer, err = r.bare(token)
		} else {
			au := kmsg.NewPtrSASLAuthenticateRequest()
			au.SASLAuthBytes, au.Version = token, 2
			var resp kmsg.Response
			if resp, err = r.try(au); err == nil {
				a := resp.(*kmsg.SASLAuthenticateResponse)
				s.authenticate, s.lifetime, answer = a.ErrorCode, time.Duration(a.SessionLifetimeMillis)*time.Millisecond, a.SASLAuthBytes
				if a.ErrorMessage != nil {
					s.message = *a.ErrorMessage
				}
			}
		}
		if err != nil || s.authenticate != 0 {
			break
		}
		done, token, err = session.Challenge(answer)
	}
	s.failed = err
	return s
}

// bare sends a token without a header and reads one.
func (r *raw) bare(token []byte) ([]byte, error) {
	_ = r.conn.SetDeadline(time.Now().Add(patience))
	if _, err := r.conn.Write(sized(token)); err != nil {
		return nil, err
	}
	head := make([]byte, 4)
	if _, err := io.ReadFull(r.conn, head); err != nil {
		return nil, err
	}
	body := make([]byte, int(head[2])<<8|int(head[3]))
	_, err := io.ReadFull(r.conn, body)
	return body, err
}

// Every mechanism goes with both versions of the handshake; what is said out of turn is refused.
func TestSASLHandshakes(t *testing.T) {
	c := start(t, "auth.anonymous=off")
	c.crash() // the catalog has what the first start gave it
	open := start(t, "auth.anonymous=loopback", "auth.password_file="+passwordFile(t, "bob", "secret"))
	setSCRAM(t, open, "ann", "secret", kadm.ScramSha256, kadm.ScramSha512)
	for _, m := range []sasl.Mechanism{sha("SCRAM-SHA-256", "ann", "secret"), sha("SCRAM-SHA-512", "ann", "secret"), plain.Auth{User: "bob", Pass: "secret"}.AsMechanism()} {
		for version := range int16(2) {
			r := open.raw()
			if err := r.authenticate(m, version).err(); err != nil {
				t.Errorf("%s, version %d: %v", m.Name(), version, err)
				continue
			}
			r.ask(kmsg.NewPtrMetadataRequest())
		}
		r := open.raw()
		hs := kmsg.NewPtrSASLHandshakeRequest()
		hs.Mechanism, hs.Version = m.Name(), 0
		r.ask(hs)
		if _, err := r.bare([]byte("nonsense")); err == nil {
			t.Errorf("%s: a token that cannot be read is answered", m.Name())
		}
	}
	r := c.raw()
	if _, err := r.try(kmsg.NewPtrMetadataRequest()); err == nil {
		t.Error("a request before authentication is answered")
	}
	r = c.raw()
	au := kmsg.NewPtrSASLAuthenticateRequest()
	au.Version = 2
	if code := r.ask(au).(*kmsg.SASLAuthenticateResponse).ErrorCode; code != kerr.IllegalSaslState.Code {
		t.Errorf("a token before the handshake: %d", code)
	}
	hs := kmsg.NewPtrSASLHandshakeRequest()
	hs.Mechanism, hs.Version = "GSSAPI", 1
	resp := r.ask(hs).(*kmsg.SASLHandshakeResponse)
	if resp.ErrorCode != kerr.UnsupportedSaslMechanism.Code || strings.Join(resp.SupportedMechanisms, " ") != "PLAIN SCRAM-SHA-256 SCRAM-SHA-512" {
		t.Errorf("GSSAPI: %+v", resp)
	}
	r.closed()
	r = c.raw() // an oversize request of somebody who has not said who it is
	_, _ = r.conn.Write([]byte{0, 8, 0, 1, 0, 3, 0, 0})
	r.closed()
	only := start(t, "auth.anonymous=off", "kafka.sasl_mechanisms=[SCRAM-SHA-512]")
	hs.Mechanism = "PLAIN"
	if resp := only.raw().ask(hs).(*kmsg.SASLHandshakeResponse); resp.ErrorCode != kerr.UnsupportedSaslMechanism.Code || len(resp.SupportedMechanisms) != 1 {
		t.Errorf("PLAIN, which is not offered: %+v", resp)
	}
}

func passwordFile(t testing.TB, user, password string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "users")
	hash, err := auth.Hash([]byte(password), auth.DefaultParams)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(user+":"+hash+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// Error codes are Kafka's.
func TestUserScramCredentials(t *testing.T) {
	c := start(t, "auth.anonymous=loopback", "auth.password_file="+passwordFile(t, "bob", "secret"))
	r := c.raw()
	alter := func(del []kmsg.AlterUserSCRAMCredentialsRequestDeletion, ups ...kmsg.AlterUserSCRAMCredentialsRequestUpsertion) map[string]int16 {
		m := kmsg.NewPtrAlterUserSCRAMCredentialsRequest()
		m.Deletions, m.Upsertions = del, ups
		got := map[string]int16{}
		for _, res := range r.ask(m).(*kmsg.AlterUserSCRAMCredentialsResponse).Results {
			if _, again := got[res.User]; again {
				t.Errorf("two results for %s", res.User)
			}
			got[res.User] = res.ErrorCode
		}
		return got
	}
	type del = kmsg.AlterUserSCRAMCredentialsRequestDeletion
	up := func(name string, mechanism int8, iterations int32) kmsg.AlterUserSCRAMCredentialsRequestUpsertion {
		return kmsg.AlterUserSCRAMCredentialsRequestUpsertion{Name: name, Mechanism: mechanism, Iterations: iterations, Salt: []byte("salt"), SaltedPassword: []byte("salted")}
	}
	bare := up("bare", 1, 4096)
	bare.SaltedPassword = nil
	saltless := up("saltless", 1, 4096)
	saltless.Salt = nil
	long := strings.Repeat("x", 2000)
	got := alter([]del{{Name: "nobody", Mechanism: 1}, {Name: "strange", Mechanism: 7}, {Name: "half", Mechanism: 1}},
		up("few", 1, 4095), up("many", 2, 16385), up("good", 1, 4096), up("good", 2, 16384), up("mixed", 1, 4096), up("mixed", 0, 4096),
		up("twice", 1, 4096), up("twice", 1, 5000), up("half", 2, 4096), up("", 1, 4096), up("bob", 1, 4096), bare, saltless, up(long, 1, 4096))
	want := map[string]int16{"nobody": 91, "strange": 33, "half": 91, "few": 93, "many": 93, "good": 0, "mixed": 33, "twice": 92, "": 93, "bob": 93, "bare": 93, "saltless": 93, long: 93}
	for user, code := range want {
		if got[user] != code {
			t.Errorf("%.20q: %d, want %d", user, got[user], code)
		}
	}
	if len(got) != len(want) {
		t.Errorf("%d results, want %d", len(got), len(want))
	}
	describe := func(names ...string) map[string]kmsg.DescribeUserSCRAMCredentialsResponseResult {
		m := kmsg.NewPtrDescribeUserSCRAMCredentialsRequest()
		for _, name := range names {
			m.Users = append(m.Users, kmsg.DescribeUserSCRAMCredentialsRequestUser{Name: name})
		}
		got := map[string]kmsg.DescribeUserSCRAMCredentialsResponseResult{}
		for _, res := range r.ask(m).(*kmsg.DescribeUserSCRAMCredentialsResponse).Results {
			got[res.User] = res
		}
		return got
	}
	if got := describe(); len(got) != 1 || len(got["good"].CredentialInfos) != 2 || got["good"].CredentialInfos[1].Iterations != 16384 {
		t.Errorf("all: %+v", got)
	}
	some := describe("good", "few", "twice", "twice", "bob")
	for user, code := range map[string]int16{"good": 0, "few": 91, "twice": 92, "bob": 91} {
		if some[user].ErrorCode != code {
			t.Errorf("described %s: %d, want %d", user, some[user].ErrorCode, code)
		}
	}
	if got := alter([]del{{Name: "good", Mechanism: 1}, {Name: "good", Mechanism: 2}}); got["good"] != 0 || len(describe()) != 0 {
		t.Errorf("deleted: %v", got)
	}
}

func TestDelegationTokensRefused(t *testing.T) {
	c := start(t)
	r := c.raw()
	for key := int16(38); key <= 41; key++ {
		for v := c.versions()[key][0]; v <= c.versions()[key][1]; v++ {
			req := kmsg.RequestForKey(key)
			req.SetVersion(v)
			var code int16
			switch resp := r.ask(req).(type) {
			case *kmsg.CreateDelegationTokenResponse:
				code = resp.ErrorCode
			case *kmsg.RenewDelegationTokenResponse:
				code = resp.ErrorCode
			case *kmsg.ExpireDelegationTokenResponse:
				code = resp.ErrorCode
			case *kmsg.DescribeDelegationTokenResponse:
				code = resp.ErrorCode
			}
			if code != kerr.DelegationTokenAuthDisabled.Code {
				t.Errorf("API %d version %d: %d", key, v, code)
			}
		}
	}
}

// connects counts connections.
type connects struct{ n atomic.Int64 }

func (h *connects) OnBrokerConnect(kgo.BrokerMetadata, time.Duration, net.Conn, error) { h.n.Add(1) }

// A client that says anew who it is goes on over its connections; one that does not is closed.
func TestReauthentication(t *testing.T) {
	c := start(t, "auth.anonymous=loopback", "kafka.session_lifetime=2s")
	setSCRAM(t, c, "ann", "secret", kadm.ScramSha256)
	setSCRAM(t, c, "eve", "secret", kadm.ScramSha256)
	ann, eve := sha("SCRAM-SHA-256", "ann", "secret"), sha("SCRAM-SHA-256", "eve", "secret")
	late := c.raw()
	if s := late.authenticate(ann, 1); s.err() != nil || s.lifetime != 2*time.Second {
		t.Fatalf("%+v", s)
	}
	begun := time.Now()
	late.ask(kmsg.NewPtrMetadataRequest())
	if s := late.authenticate(ann, 1); s.handshake != kerr.IllegalSaslState.Code {
		t.Errorf("anew within a second: %+v", s)
	}
	other, mechanism, between := c.raw(), c.raw(), c.raw()
	for _, r := range []*raw{other, mechanism, between} {
		if err := r.authenticate(ann, 1).err(); err != nil {
			t.Fatal(err)
		}
	}
	hook := &connects{}
	cl := c.client(kgo.SASL(ann), kgo.WithHooks(hook), kgo.DefaultProduceTopic("t"), kgo.AllowAutoTopicCreation())
	produce(t, cl, numbered("t", 1)...)
	before, n := hook.n.Load(), 0
	for ; time.Since(begun) < 7*time.Second; n++ {
		produce(t, cl, numbered("t", 1)...)
		if n == 0 {
			testx.Eventually(t, patience, func() bool { return time.Since(begun) > 1100*time.Millisecond })
			if s := other.authenticate(eve, 1); s.authenticate != kerr.SaslAuthenticationFailed.Code || !strings.Contains(s.message, "user cannot be changed") {
				t.Errorf("another user: %+v", s)
			}
			other.closed()
			if s := mechanism.authenticate(plain.Auth{User: "ann", Pass: "secret"}.AsMechanism(), 1); s.handshake != kerr.UnsupportedSaslMechanism.Code {
				t.Errorf("another mechanism: %+v", s)
			}
			mechanism.closed()
			hs := kmsg.NewPtrSASLHandshakeRequest()
			hs.Mechanism, hs.Version = "SCRAM-SHA-256", 1
			between.ask(hs)
			if _, err := between.try(kmsg.NewPtrMetadataRequest()); err == nil {
				t.Error("a request in the middle of re-authentication is answered")
			}
		}
	}
	if after := hook.n.Load(); after != before {
		t.Errorf("%d connections instead of %d: the client did not go on over those that it had", after, before)
	}
	if _, err := late.try(kmsg.NewPtrMetadataRequest()); err == nil {
		t.Error("a client that did not say anew who it is was served on")
	}
	if bytes.Contains([]byte(c.node.Log()), []byte("panic")) {
		t.Error(c.node.Log())
	}
}

// A request of more credentials than go into one change is refused as a whole, in no time, however often it names them.
func TestManyCredentials(t *testing.T) {
	c := start(t, "auth.anonymous=loopback")
	r := c.raw()
	m := kmsg.NewPtrAlterUserSCRAMCredentialsRequest()
	for i := range 5000 {
		m.Upsertions = append(m.Upsertions, kmsg.AlterUserSCRAMCredentialsRequestUpsertion{Name: fmt.Sprint("u", i), Mechanism: 1, Iterations: 4096,
			Salt: fmt.Append(nil, i), SaltedPassword: fmt.Append(nil, i)})
	}
	results := r.ask(m).(*kmsg.AlterUserSCRAMCredentialsResponse).Results
	if len(results) != 5000 || results[0].ErrorCode != 0 || results[4999].ErrorCode != 0 {
		t.Errorf("%d results, %+v", len(results), results[0])
	}
	if all := r.ask(kmsg.NewPtrDescribeUserSCRAMCredentialsRequest()).(*kmsg.DescribeUserSCRAMCredentialsResponse).Results; len(all) != 5000 {
		t.Errorf("%d users", len(all))
	}
	begun := time.Now()
	for len(m.Upsertions) < 100_000 {
		m.Upsertions = append(m.Upsertions, m.Upsertions[len(m.Upsertions)-5000])
	}
	results = r.ask(m).(*kmsg.AlterUserSCRAMCredentialsResponse).Results
	if len(results) != 5000 || results[7].ErrorCode != kerr.PolicyViolation.Code || time.Since(begun) > 10*time.Second {
		t.Errorf("%d results, %+v, after %v", len(results), results[7], time.Since(begun))
	}
}
