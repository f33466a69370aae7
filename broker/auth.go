package broker

import (
	"context"
	"crypto/x509"
	"errors"
	"net/netip"
)

// Credentials are what a client has shown of itself when it asks to come in. Password is a view of the caller's memory:
// an Authenticator keeps no reference to it past its return.
type Credentials struct {
	ClientID         string
	Username         string
	HasUsername      bool
	Password         []byte
	Remote           netip.AddrPort // the zero value for a peer on a unix socket
	PeerCertificates []*x509.Certificate
	Listener         string
	// ProxyUser is whom a trusted proxy says the client's certificate to be of; empty: nobody.
	ProxyUser string
}

// Identity is who a connection acts as from its CONNECT to its end. It is immutable.
type Identity struct {
	User     string // empty for an anonymous client
	ClientID string
	Remote   netip.Addr // the zero value for a peer on a unix socket
	Tenant   uint32
	Source   string // what vouched for it: "password", "certificate", "anonymous", "http", or a SASL mechanism
	// Secret names the stored password that vouched for it, so that a change of that shows. It means nothing elsewhere; 0: none did.
	Secret uint64
	// Listener is the one by which the client came; empty where nobody asks.
	Listener string
	// Expires is when what the client has shown ends to hold, in Unix milliseconds; 0: never.
	Expires int64
	// Own is what an Authorizer goes by for this client alone, as it was told when the client came in: a pointer, or nil. It means nothing elsewhere.
	Own any

	// Generation of the users and rules in force when the client came in; what changed since decides whether it may stay.
	Generation uint64
}

// Action is what an Authorizer is asked about.
type Action uint8

// The actions. A will and a retained message are publishes.
const (
	ActionPublish Action = iota + 1
	ActionSubscribe
)

// The answers of an Authenticator beside success; errors.Is tells them apart.
var (
	ErrBadCredentials = errors.New("bad user name or password")
	ErrNotAuthorized  = errors.New("not authorized")
	ErrAuthBusy       = errors.New("too many clients are being verified")
	ErrBanned         = errors.New("banned")
)

// Authenticator says who a client is. Authenticate may take as long as a password hash takes and may wait for its turn:
// it is called off the loops. It is safe for concurrent use. Errors wrap ErrBadCredentials, ErrNotAuthorized,
// ErrAuthBusy, ErrBanned or the context's error.
type Authenticator interface {
	Authenticate(ctx context.Context, c Credentials) (Identity, error)
}

// QuickAuthenticator is an Authenticator that often knows the answer at once (a certificate, an anonymous client, a password
// seen a moment ago). Quick never blocks and may be called on a loop; done tells whether id and err are the answer, else
// Authenticate must be asked, off the loop.
type QuickAuthenticator interface {
	Authenticator
	Quick(c Credentials) (id Identity, done bool, err error)
}

// The lanes in which clients wait for an Authenticator.
const (
	LaneHere      = iota // nobody else is asked
	LaneKeys             // a server of keys may be
	LaneDirectory        // a directory server is asked about the client
	LaneServer           // a server is asked about the client
	Lanes                // how many there are
)

// LaneAuthenticator is an Authenticator that may ask others. Lane says which, so that clients who wait for one that is slow do not hold up
// the rest. It never blocks.
type LaneAuthenticator interface {
	Authenticator
	Lane(c Credentials) int
}

// Conversation is one client's way through a SASL mechanism, for one goroutine at a time. Step takes a message of the client, which is a view, and
// gives the answer to it, which is the caller's. done: Identity is who the client is, and nothing more is said. An error is the end of it, and wraps
// what an Authenticator's do. Step may block as an Authenticator does.
type Conversation interface {
	Step(ctx context.Context, message []byte) (answer []byte, done bool, err error)
	Identity() Identity
}

// SASLAuthenticator is an Authenticator that knows SASL mechanisms in which more is said than a name and a password. Neither method blocks.
type SASLAuthenticator interface {
	// Mechanisms are those by which somebody can come in, by their names in SASL. PLAIN is not among them: Authenticate answers that.
	Mechanisms() []string
	// Converse begins a conversation with a client, whose name and password in c do not count; nil: there is no such mechanism.
	Converse(mechanism string, c Credentials) Conversation
}

// Authorizer says what a client may do. For ActionPublish topic is a topic name; for ActionSubscribe it is a filter as the
// client sent it, $share prefix included, and the answer is yes only if everything that the filter can match is allowed.
// Authorize never blocks, does not allocate, keeps no reference to id or topic, and is safe for concurrent use. Callers may keep an
// answer for as long as Generation stays the same.
type Authorizer interface {
	Authorize(id *Identity, a Action, topic []byte) bool
	Generation() uint64
}

// AnonymousPrincipal is what rules and quotas call a client without credentials.
const AnonymousPrincipal = "ANONYMOUS"

// Principal is the name by which rules and quotas know the client.
func (id *Identity) Principal() string {
	if id.User == "" {
		return AnonymousPrincipal
	}
	return id.User
}
