package auth

import (
	"crypto/pbkdf2"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/sluicemq/sluice/broker"
)

// scramClient is the other end of a conversation.
type scramClient struct {
	mechanism, user, password string
	gs2, nonce, extensions    string
	repeated                  bool // as librdkafka before 2.6.1
	badProof                  bool
	change                    func(final string) string // may be nil

	salt      string
	signature string // what the server's final message has to say
}

func newSCRAMClient(mechanism, user, password string) *scramClient {
	return &scramClient{mechanism: mechanism, user: user, password: password, gs2: "n,,", nonce: "fyko+d2lbbFgONRv9qkxdawL"}
}

func (c *scramClient) bare() string {
	name := strings.ReplaceAll(strings.ReplaceAll(c.user, "=", "=3D"), ",", "=2C")
	return "n=" + name + ",r=" + c.nonce + c.extensions
}

// final answers the server's first message.
func (c *scramClient) final(t *testing.T, first string) string {
	t.Helper()
	fields := strings.Split(first, ",")
	if len(fields) != 3 || !strings.HasPrefix(fields[0], "r="+c.nonce) {
		t.Fatalf("the server's first message: %q", first)
	}
	salt, err := base64.StdEncoding.DecodeString(fields[1][2:])
	if err != nil {
		t.Fatal(err)
	}
	c.salt = string(salt)
	iterations, _ := strconv.Atoi(fields[2][2:])
	h := scramHash(c.mechanism)
	salted, err := pbkdf2.Key(h, c.password, salt, iterations, h().Size())
	if err != nil {
		t.Fatal(err)
	}
	nonce := fields[0][2:]
	if c.repeated {
		nonce = c.nonce + nonce
	}
	without := "c=" + base64.StdEncoding.EncodeToString([]byte(c.gs2)) + ",r=" + nonce
	message := []byte(c.bare() + "," + first + "," + without)
	key := mac(h, salted, []byte("Client Key"))
	stored := h()
	stored.Write(key)
	subtle.XORBytes(key, key, mac(h, stored.Sum(nil), message))
	if c.badProof {
		key[3] ^= 1
	}
	c.signature = "v=" + base64.StdEncoding.EncodeToString(mac(h, mac(h, salted, []byte("Server Key")), message))
	final := without + ",p=" + base64.StdEncoding.EncodeToString(key)
	if c.change != nil {
		final = c.change(final)
	}
	return final
}

// run has the conversation, and says where it failed: 0 nowhere, 1 at the client's first message, 2 at the final one.
func (c *scramClient) run(t *testing.T, p *Provider) (id broker.Identity, failed int, err error) {
	t.Helper()
	talk := p.Converse(c.mechanism, broker.Credentials{ClientID: "x"})
	first, done, err := talk.Step(t.Context(), []byte(c.gs2+c.bare()))
	if err != nil || done {
		return id, 1, err
	}
	last, done, err := talk.Step(t.Context(), []byte(c.final(t, string(first))))
	if err != nil {
		return id, 2, err
	}
	if !done || string(last) != c.signature {
		t.Errorf("the server says %q, expected %q", last, c.signature)
	}
	if _, _, err := talk.Step(t.Context(), nil); err == nil {
		t.Error("more was said after the end")
	}
	return talk.Identity(), 0, nil
}

func scramBench(t *testing.T) (*bench, *fakeDirectory) {
	t.Helper()
	b, d := directoryBench(t, map[string]string{"file": "right"})
	d.set("ann", accountOf(t, "right"))
	d.set("a=b,c", accountOf(t, "right"))
	off := accountOf(t, "right")
	off.Disabled = true
	d.set("off", off)
	d.set("half", Account{SHA256: accountOf(t, "right").SHA256})
	return b, d
}

func TestSCRAM(t *testing.T) {
	b, _ := scramBench(t)
	for _, mechanism := range b.Mechanisms() {
		for _, user := range []string{"ann", "a=b,c"} {
			for _, gs2 := range []string{"n,,", "y,,", "n,a=" + saslEscape(user) + ","} {
				c := newSCRAMClient(mechanism, user, "right")
				c.gs2, c.extensions = gs2, ",x=ignored,tokenauth=false"
				id, _, err := c.run(t, b.Provider)
				if err != nil || id.User != user || id.Source != mechanism || id.ClientID != "x" || b.Recheck(&id, nil) != nil {
					t.Errorf("%s %s %s: %+v, %v", mechanism, user, gs2, id, err)
				}
			}
		}
	}
	if b.Converse("SCRAM-SHA-1", broker.Credentials{}) != nil {
		t.Error("SHA-1 is spoken")
	}
}

func saslEscape(s string) string {
	return strings.ReplaceAll(strings.ReplaceAll(s, "=", "=3D"), ",", "=2C")
}

// Whoever is refused for who he is hears it at the end alone, and a user who is not there has a salt of his own that stays the same.
func TestSCRAMTellsNothing(t *testing.T) {
	b, d := scramBench(t)
	key := []byte("secret")
	b.o.SaltKey = func() []byte { return key }
	salts := map[string]string{}
	for round := range 2 {
		if err := b.Reload(b.o); err != nil {
			t.Fatal(err)
		}
		for _, user := range []string{"ann", "off", "nobody", "else", "file", "half"} {
			c := newSCRAMClient(SCRAMSHA512, user, "right")
			c.badProof = user == "ann"
			if _, failed, err := c.run(t, b.Provider); failed != 2 || !errors.Is(err, broker.ErrBadCredentials) {
				t.Errorf("%s failed at step %d: %v", user, failed, err)
			}
			if round == 1 && salts[user] != c.salt {
				t.Errorf("%s has another salt", user)
			}
			for other, salt := range salts {
				if other != user && salt == c.salt {
					t.Errorf("%s and %s have one salt", user, other)
				}
			}
			salts[user] = c.salt
			if len(c.salt) != newSaltBytes {
				t.Errorf("%s: a salt of %d bytes", user, len(c.salt))
			}
		}
	}
	a, _ := d.Account("off")
	if salts["off"] != a.SHA512.Salt {
		t.Error("a disabled user has another salt")
	}
}

// A change of the credential is seen; one that comes in the middle of a conversation is caught by Recheck.
func TestSCRAMRecheck(t *testing.T) {
	b, d := scramBench(t)
	id, _, err := newSCRAMClient(SCRAMSHA256, "ann", "right").run(t, b.Provider)
	if err != nil {
		t.Fatal(err)
	}
	a, _ := d.Account("ann")
	other := a
	other.SHA512, other.Password = accountOf(t, "x").SHA512, mustHash(t, "x")
	d.set("ann", other)
	if err := b.Recheck(&id, nil); err != nil {
		t.Errorf("has to go for what it did not use: %v", err)
	}
	other.SHA256 = accountOf(t, "right").SHA256
	d.set("ann", other)
	if b.Recheck(&id, nil) == nil {
		t.Error("stays with a credential that is gone")
	}
}

func TestSCRAMMalformed(t *testing.T) {
	b, _ := scramBench(t)
	for _, first := range []string{
		"", "n", "n,", "n,,", "n,,n=ann", "n,,r=x,n=ann", "n,,n=ann,x=1", "n,,n=,r=x", "n,,n=a=b,r=x", "n,,n=a=2D,r=x", "n,,n=ann,r=", "n,,n=ann,r=\x01",
		"n,,m=1,n=ann,r=x", "p=tls-unique,,n=ann,r=x", "x,,n=ann,r=x", "n,a=bob,n=ann,r=x", "n,a=,n=ann,r=x", "n,bob,n=ann,r=x",
		"n,,n=ann,r=x,tokenauth=true", "n,,n=ann,r=x,bad", "n,,n=ann,r=x,", "n,,n=ann,r=" + strings.Repeat("x", scramMessageMax),
	} {
		talk := b.Converse(SCRAMSHA256, broker.Credentials{})
		if answer, done, err := talk.Step(t.Context(), []byte(first)); !errors.Is(err, broker.ErrBadCredentials) || done || answer != nil {
			t.Errorf("%q: %q, %v", first, answer, err)
		}
	}
	for name, change := range map[string]func(string) string{
		"no proof":          func(f string) string { return f[:strings.LastIndex(f, ",p=")] },
		"empty proof":       func(f string) string { return f[:strings.LastIndex(f, ",p=")+3] },
		"proof cut":         func(f string) string { return f[:len(f)-8] },
		"not base64":        func(f string) string { return f[:strings.LastIndex(f, ",p=")] + ",p=!!!" },
		"other binding":     func(f string) string { return strings.Replace(f, "c=biws", "c=eSws", 1) },
		"no binding":        func(f string) string { return f[strings.Index(f, ",")+1:] },
		"the server's only": func(f string) string { return strings.Replace(f, newSCRAMClient("", "", "").nonce, "", 1) },
		"another nonce":     func(f string) string { return strings.Replace(f, ",r=", ",r=x", 1) },
		"empty":             func(string) string { return "" },
	} {
		c := newSCRAMClient(SCRAMSHA256, "ann", "right")
		c.change = change
		if _, failed, err := c.run(t, b.Provider); failed != 2 || !errors.Is(err, broker.ErrBadCredentials) {
			t.Errorf("%s: step %d, %v", name, failed, err)
		}
	}
}

// A nonce that begins with the client's own once more is refused, and taken where the setting says so.
func TestSCRAMRepeatedNonce(t *testing.T) {
	b, _ := scramBench(t)
	for _, allowed := range []bool{false, true} {
		b.o.RepeatedNonce = allowed
		if err := b.Reload(b.o); err != nil {
			t.Fatal(err)
		}
		for _, repeated := range []bool{false, true} {
			c := newSCRAMClient(SCRAMSHA256, "ann", "right")
			c.repeated = repeated
			if _, _, err := c.run(t, b.Provider); (err == nil) != (allowed || !repeated) {
				t.Errorf("allowed %v, repeated %v: %v", allowed, repeated, err)
			}
		}
	}
}

// RFC 7677, 3: the example exchange of SCRAM-SHA-256.
func TestSCRAMExample(t *testing.T) {
	b, d := scramBench(t)
	salt, _ := base64.StdEncoding.DecodeString("W22ZaJ0SNY7soEsUEjb6gQ==")
	v := Verifier{Iterations: 4096, Salt: string(salt)}
	if err := v.derive(scramHash(SCRAMSHA256), []byte("pencil")); err != nil {
		t.Fatal(err)
	}
	d.set("user", Account{SHA256: &v})
	b.nonce = func() string { return "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0" }
	talk := b.Converse(SCRAMSHA256, broker.Credentials{})
	first, _, err := talk.Step(t.Context(), []byte("n,,n=user,r=rOprNGfwEbeRWgbNEkqO"))
	if want := "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"; err != nil || string(first) != want {
		t.Fatalf("%q, %v", first, err)
	}
	last, done, err := talk.Step(t.Context(), []byte("c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="))
	if want := "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="; err != nil || !done || string(last) != want {
		t.Fatalf("%q, %v", last, err)
	}
}

func FuzzSCRAM(f *testing.F) {
	f.Add("n,,n=ann,r=fyko", "c=biws,r=fykox,p=AAAA")
	f.Add("y,a=x,n=x,r=1,tokenauth=true", "c=")
	p, err := New(Options{Anonymous: "off"})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, first, final string) {
		talk := p.Converse(SCRAMSHA512, broker.Credentials{})
		for _, message := range []string{first, final, first} {
			if _, done, err := talk.Step(t.Context(), []byte(message)); done {
				t.Fatal(fmt.Sprint("in by ", first, final, err))
			} else if err != nil {
				return
			}
		}
	})
}

// Who has proven who he is is kept out as whoever has: by the forms of client ids, and by bans, which are counted.
func TestSCRAMByRules(t *testing.T) {
	b, _ := scramBench(t)
	b.o.ClientIDs, b.o.Bans = []string{"%u", "ann-x"}, NewBans(b.o.Now)
	if err := b.Reload(b.o); err != nil {
		t.Fatal(err)
	}
	if id, failed, err := newSCRAMClient(SCRAMSHA256, "ann", "right").run(t, b.Provider); failed != 2 || !errors.Is(err, broker.ErrNotAuthorized) || id.User != "" {
		t.Errorf("another client id: step %d, %+v, %v", failed, id, err)
	}
	b.o.ClientIDs = nil
	if err := b.Reload(b.o); err != nil {
		t.Fatal(err)
	}
	b.o.Bans.Set([]Ban{{Kind: BanUser, Name: "ann"}})
	if id, failed, err := newSCRAMClient(SCRAMSHA256, "ann", "right").run(t, b.Provider); failed != 2 || !errors.Is(err, broker.ErrBanned) || id.User != "" {
		t.Errorf("banned: step %d, %+v, %v", failed, id, err)
	}
	if n := b.o.Bans.Refused(BanUser); n != 1 {
		t.Errorf("%d refused for a ban", n)
	}
	if _, _, err := newSCRAMClient(SCRAMSHA256, "half", "right").run(t, b.Provider); err != nil {
		t.Errorf("who is not banned: %v", err)
	}
}
