package auth

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/sluicemq/sluice/broker"
)

// sourceHTTP vouches for clients about whom a server was asked.
const sourceHTTP = "http"

// CallbackOptions say which server is asked about clients that nothing on this node knows.
type CallbackOptions struct {
	URL         string
	Method      string        // GET or POST
	Token       string        // sent as a bearer's; empty: none
	Timeout     time.Duration // of one question
	Concurrency int           // questions at once
	CacheTTL    time.Duration // how long an answer counts for the same question; 0: not at all
}

// Bounds of a callback.
const (
	callbackBytesMax  = ownBytesMax + 4<<10 // of an answer
	callbackDepthMax  = ownDepthMax + 4
	callbackCachedMax = 1 << 14
	callbackRulesMax  = 1 << 10 // bytes of rules of an answer that is kept
)

// callback asks a server. Its state outlives reloads that change none of its options.
type callback struct {
	asking
	o      CallbackOptions
	client *http.Client
}

func newCallback(o *Options, old *callback) *callback {
	if old != nil && old.o == *o.HTTP {
		return old
	}
	if old != nil {
		old.client.CloseIdleConnections()
	}
	c := &callback{o: *o.HTTP}
	c.begin(o, "the server that is asked about clients", c.o.Timeout, c.o.Concurrency)
	c.client = &http.Client{Timeout: c.o.Timeout, Transport: &http.Transport{Proxy: http.ProxyFromEnvironment, MaxIdleConnsPerHost: cap(c.turns),
		MaxConnsPerHost: cap(c.turns), IdleConnTimeout: time.Minute, TLSHandshakeTimeout: c.o.Timeout, MaxResponseHeaderBytes: 64 << 10},
		// A password goes to nobody but who was named.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	return c
}

// question is what the server is told of a client. A password that is no UTF-8 goes as base64, so that no two are the same.
type question struct {
	ClientID   string `json:"clientid"`
	Username   string `json:"username"`
	Password   string `json:"password"`
	Binary     []byte `json:"password_base64,omitempty"`
	Address    string `json:"peerhost"`
	Listener   string `json:"listener"`
	CommonName string `json:"cert_common_name"`
	Subject    string `json:"cert_subject"`
	Recheck    bool   `json:"recheck,omitempty"` // the client is in, and its password is not known any more
}

// questionOf writes the question about a client. Its password is in it: it is not logged.
func questionOf(c *broker.Credentials) []byte {
	q := question{ClientID: c.ClientID, Username: c.Username, Listener: c.Listener}
	if utf8.Valid(c.Password) {
		q.Password = string(c.Password)
	} else {
		q.Binary = c.Password
	}
	if a := c.Remote.Addr(); a.IsValid() {
		q.Address = a.Unmap().String()
	}
	if len(c.PeerCertificates) > 0 {
		q.CommonName, q.Subject = c.PeerCertificates[0].Subject.CommonName, subjectOf(c.PeerCertificates[0])
	}
	data, _ := json.Marshal(&q) // of strings: it does not fail
	return data
}

// answer is what a server says about a client. It is immutable.
type answer struct {
	verdict verdict // silent: others decide
	user    string  // empty: the name that the client gave
	tenant  string  // empty: the listener's
	expires int64   // Unix milliseconds; 0: never
	own     *own    // nil: nothing
	small   bool    // it may be kept
}

// parseAnswer reads an answer's body.
func parseAnswer(data []byte) (a answer, err error) {
	if err := shallow(data, callbackDepthMax); err != nil {
		return a, err
	}
	var m struct {
		Result string          `json:"result"`
		User   string          `json:"user"`
		Tenant string          `json:"tenant"`
		Super  bool            `json:"is_superuser"`
		Expire *float64        `json:"expire_at"`
		ACL    json.RawMessage `json:"acl"`
	}
	if err := json.Unmarshal(data, &m); err != nil {
		return a, err
	}
	switch m.Result {
	case "allow":
		a.verdict = allowed
	case "deny":
		a.verdict = denied
	case "ignore":
	default:
		return a, errors.New("want a result: allow, deny or ignore")
	}
	if len(m.User) > userBytesMax || !utf8.ValidString(m.User) {
		return a, errors.New("it names a user who cannot be")
	}
	a.user, a.small = m.User, len(m.ACL) <= callbackRulesMax
	a.tenant = m.Tenant[:min(len(m.Tenant), tenantNameMax+1)] // a longer one is no tenant's, and need not be kept
	if m.Expire != nil {
		if *m.Expire <= 0 || *m.Expire > 1<<40 {
			return a, errors.New("want expire_at in seconds since 1970")
		}
		a.expires = int64(*m.Expire * 1000)
	}
	if len(m.ACL) > 0 && string(m.ACL) != "null" {
		if a.own, err = parseOwn(m.ACL); err != nil {
			return a, fmt.Errorf("acl: %w", err)
		}
	}
	if m.Super {
		if a.own == nil {
			a.own = &own{}
		}
		a.own.super = true
	}
	return a, nil
}

// ask puts a question.
func (c *callback) ask(ctx context.Context, question []byte) (a answer, err error) {
	err = c.try(ctx, func(ctx context.Context) error {
		a, err = c.get(ctx, question)
		return err
	})
	return a, err
}

func (c *callback) request(ctx context.Context, question []byte) (*http.Request, error) {
	if c.o.Method == http.MethodGet {
		var fields map[string]any // texts, but for recheck
		if err := json.Unmarshal(question, &fields); err != nil {
			return nil, err
		}
		u, err := url.Parse(c.o.URL)
		if err != nil {
			return nil, err
		}
		q := u.Query()
		for k, v := range fields {
			q.Set(k, fmt.Sprint(v))
		}
		u.RawQuery = q.Encode()
		return http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, c.o.URL, strings.NewReader(string(question)))
	if err == nil {
		r.Header.Set("Content-Type", "application/json")
	}
	return r, err
}

func (c *callback) get(ctx context.Context, question []byte) (answer, error) {
	r, err := c.request(ctx, question)
	if err != nil {
		return answer{}, errors.New("the server's URL cannot be used") // err may show it, with what was asked
	}
	r.Header.Set("Accept", "application/json")
	if c.o.Token != "" {
		r.Header.Set("Authorization", "Bearer "+c.o.Token)
	}
	resp, err := c.client.Do(r)
	if err != nil {
		if ue := (*url.Error)(nil); errors.As(err, &ue) {
			err = ue.Err // without the URL: a password may be in it
		}
		return answer{}, err
	}
	defer func() { _ = resp.Body.Close() }()
	switch resp.StatusCode {
	case http.StatusOK:
	case http.StatusNoContent:
		return answer{verdict: allowed, small: true}, nil
	case http.StatusUnauthorized, http.StatusForbidden:
		return answer{verdict: denied, small: true}, nil
	default:
		return answer{}, fmt.Errorf("it answers %d", resp.StatusCode)
	}
	data, err := io.ReadAll(io.LimitReader(resp.Body, callbackBytesMax+1))
	if err != nil {
		return answer{}, err
	}
	if len(data) > callbackBytesMax {
		return answer{}, fmt.Errorf("it answers with more than %d bytes", callbackBytesMax)
	}
	return parseAnswer(data)
}

// answers remembers what was answered, by the HMAC of the question. It is of one ruleSet, so a reload forgets everything.
type answers struct {
	mu   sync.Mutex
	kept map[digest]keptAnswer
}

type keptAnswer struct {
	answer
	until time.Time
}

func (k *answers) get(d digest, now time.Time) (answer, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	a, found := k.kept[d]
	return a.answer, found && now.Before(a.until)
}

// put keeps an answer: a refusal for a tenth of the time, as somebody may just be making the user.
func (k *answers) put(d digest, a answer, ttl time.Duration, now time.Time) {
	if ttl <= 0 || !a.small {
		return
	}
	if a.verdict == denied {
		ttl /= 10
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	for old := range k.kept { // map's order is random enough
		if len(k.kept) < callbackCachedMax {
			break
		}
		delete(k.kept, old)
	}
	if k.kept == nil {
		k.kept = make(map[digest]keptAnswer)
	}
	k.kept[d] = keptAnswer{a, now.Add(ttl)}
}

func (k *answers) forget() {
	k.mu.Lock()
	defer k.mu.Unlock()
	clear(k.kept)
}

func (rs *ruleSet) questionDigest(question []byte) digest {
	return rs.verdicts.digest("\x00"+sourceHTTP, 0, question)
}

// answered is what an answer makes of a client; passed: others decide.
func (rs *ruleSet) answered(c *broker.Credentials, a *answer, source string) (id broker.Identity, passed bool, err error) {
	id = rs.identity(c)
	switch {
	case a.verdict == silent:
		return id, true, nil
	case a.verdict != allowed:
		return id, false, refuse(broker.ErrBadCredentials, errors.New("the server that was asked refuses the client"))
	case a.expires != 0 && rs.o.Now().UnixMilli() >= a.expires:
		return id, false, refuse(broker.ErrBadCredentials, errors.New("what the server that was asked has allowed is over"))
	}
	if id.Source, id.User, id.Expires = source, a.user, a.expires; id.User == "" {
		id.User = c.Username
	}
	rs.moves(&id, a.tenant)
	if id.User != c.Username {
		mine := own{} // to ask about it again, by the same name
		if a.own != nil {
			mine = *a.own
		}
		mine.renamed, mine.login = true, c.Username
		id.Own = &mine
	} else if a.own != nil {
		id.Own = a.own
	}
	return id, false, nil
}

// byServer asks the server about a client; passed: others decide.
func (rs *ruleSet) byServer(ctx context.Context, c *broker.Credentials) (id broker.Identity, passed bool, err error) {
	q := questionOf(c)
	defer clear(q)
	d := rs.questionDigest(q)
	a, known := rs.answers.get(d, rs.o.Now())
	if !known {
		if a, err = rs.callback.ask(ctx, q); err != nil {
			return broker.Identity{}, false, err
		}
		rs.answers.put(d, a, rs.callback.o.CacheTTL, rs.o.Now())
	}
	return rs.answered(c, &a, sourceHTTP)
}

// recheckAnswer says whether a client that a server has let in may stay.
func (rs *ruleSet) recheckAnswer(id *broker.Identity) error {
	if rs.callback == nil {
		return errors.New("no server is asked about clients any more")
	}
	if id.Expires != 0 && rs.o.Now().UnixMilli() >= id.Expires {
		return errors.New("what the server that was asked has allowed is over")
	}
	return nil
}
