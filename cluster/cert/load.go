package cert

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluicemq/sluice/internal/revocation"
)

// Files are where a node's certificate, its key and the authorities of the cluster lie, PEM. While an authority is being replaced, CA
// holds the old one and the new one. CRL are lists of certificates that an authority of CA has revoked, PEM or DER; none: nothing is.
type Files struct {
	Cert, Key, CA string
	CRL           []string
}

// Set is what was read at one moment. Nothing changes it.
type Set struct {
	Node    uint32 // whom the certificate names
	Expires time.Time
	pair    tls.Certificate
	roots   *x509.CertPool
	cas     []byte // roots, PEM
	lists   *revocation.Lists
}

// Load reads the files, and checks at wall time now that the certificate names a node and that the node's peers, having the same
// authorities, will take it.
func Load(f Files, now time.Time) (*Set, error) {
	s, _, err := load(f, nil, now)
	return s, err
}

// load is Load with lists of revoked certificates that come after those in force, old. The notes are of what the files would have taken back of these.
func load(f Files, old *revocation.Lists, now time.Time) (s *Set, notes []revocation.Note, err error) {
	if s, err = read(f); err != nil {
		return nil, nil, err
	}
	s.lists, notes = s.lists.Merge(old, time.Time{})
	certs, err := x509.ParseCertificates(bytes.Join(s.pair.Certificate, nil))
	if err != nil {
		return nil, nil, fmt.Errorf("node certificate %s: %w", f.Cert, err)
	}
	if s.Node, err = s.Verify(certs, now); err != nil {
		return nil, nil, fmt.Errorf("node certificate %s with authority %s: %w", f.Cert, f.CA, err)
	}
	return s, notes, nil
}

func read(f Files) (*Set, error) {
	chain, err := readPEM(f.Cert)
	if err != nil {
		return nil, fmt.Errorf("node certificate: %w", err)
	}
	key, err := readPEM(f.Key)
	if err != nil {
		return nil, fmt.Errorf("key of the node certificate: %w", err)
	}
	pair, err := tls.X509KeyPair(chain, key)
	if err != nil {
		return nil, fmt.Errorf("node certificate %s and key %s: %w", f.Cert, f.Key, err)
	}
	roots, err := readPEM(f.CA)
	if err != nil {
		return nil, fmt.Errorf("authority of the cluster: %w", err)
	}
	s := &Set{pair: pair, roots: x509.NewCertPool(), cas: roots, Expires: pair.Leaf.NotAfter}
	if !s.roots.AppendCertsFromPEM(roots) {
		return nil, fmt.Errorf("authority of the cluster: %s holds no PEM certificate", f.CA)
	}
	if s.lists, err = revocation.Read(f.CRL, roots); err != nil {
		return nil, fmt.Errorf("revoked certificates of nodes: %w", err)
	}
	return s, nil
}

// Verify says which node a chain of certificates, its own first, names, if one of the authorities vouches for it at wall time now, for
// both ends of a connection, and has not revoked it. A list that has expired goes on to count: nodes that shut each other out would be worse.
func (s *Set) Verify(chain []*x509.Certificate, now time.Time) (uint32, error) {
	if len(chain) == 0 {
		return 0, errors.New("no certificate shown")
	}
	for _, usage := range []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth} {
		o := x509.VerifyOptions{Roots: s.roots, Intermediates: x509.NewCertPool(), CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{usage}}
		for _, c := range chain[1:] {
			o.Intermediates.AddCert(c)
		}
		chains, err := chain[0].Verify(o)
		if err == nil {
			err = s.lists.CheckAny(chains, time.Time{})
		}
		if err != nil {
			return 0, err
		}
	}
	return NodeOf(chain[0])
}

// NodeOf is the node that a certificate names.
func NodeOf(c *x509.Certificate) (uint32, error) {
	var found uint32
	for _, u := range c.URIs {
		id, ok := nodeOfURI(u)
		switch {
		case !ok:
		case found != 0:
			return 0, errors.New("the certificate names more than one node")
		default:
			found = id
		}
	}
	if found == 0 {
		return 0, errors.New("the certificate names no node: it has no URI sluice:node:ID")
	}
	return found, nil
}

func nodeOfURI(u *url.URL) (uint32, bool) {
	if u.Scheme != uriScheme {
		return 0, false
	}
	digits, ok := strings.CutPrefix(u.Opaque, uriNode)
	if !ok {
		return 0, false
	}
	id, err := strconv.ParseUint(digits, 10, 32)
	return uint32(id), err == nil && id > 0 && id <= nodeIDMost
}

// Source holds what is in force and takes over new files. It is safe for concurrent use.
type Source struct {
	files  Files
	now    atomic.Pointer[Set]
	loads  sync.Mutex // one at a time, and what follows
	stamps revocation.Stamps
	notes  []revocation.Note
}

// NewSource loads the files for the first time.
func NewSource(f Files, now time.Time) (*Source, error) {
	s := &Source{files: f}
	if err := s.Reload(now); err != nil {
		return nil, err
	}
	return s, nil
}

// Reload reads the files again. If anything is wrong with them, what was in force stays. A certificate of another node is refused. Lists of revoked certificates
// come after those in force, as with Refresh.
func (s *Source) Reload(now time.Time) error {
	s.loads.Lock()
	defer s.loads.Unlock()
	s.stamps.Changed(s.files.CRL) // first: what is written meanwhile is read the next time
	var lists *revocation.Lists
	old := s.now.Load()
	if old != nil {
		lists = old.lists
	}
	set, notes, err := load(s.files, lists, now)
	if err != nil {
		return err
	}
	if old != nil && old.Node != set.Node {
		return fmt.Errorf("node certificate %s is of node %d, before it was of node %d", s.files.Cert, set.Node, old.Node)
	}
	s.now.Store(set)
	s.notes = append(s.notes, notes...)
	return nil
}

// Refresh reads the lists of revoked certificates again if a file of theirs has changed, and says whether what is in force has. On error that stays.
// What would have gone with the files, as they have lost an authority's list or have an older one, goes on to count for as long as the node runs and has that authority.
func (s *Source) Refresh() (changed bool, err error) {
	s.loads.Lock()
	defer s.loads.Unlock()
	if len(s.files.CRL) == 0 || !s.stamps.Changed(s.files.CRL) {
		return false, nil
	}
	next := *s.now.Load()
	lists, err := revocation.Read(s.files.CRL, next.cas)
	if err != nil {
		s.stamps = revocation.Stamps{} // it may have been half written
		return false, err
	}
	lists, notes := lists.Merge(next.lists, time.Time{})
	changed = !next.lists.Same(lists)
	next.lists = lists
	s.now.Store(&next)
	s.notes = append(s.notes, notes...)
	return changed, nil
}

// RevocationNotes are what is to be told of lists that were read since the last call.
func (s *Source) RevocationNotes() (notes []revocation.Note) {
	s.loads.Lock()
	defer s.loads.Unlock()
	notes, s.notes = s.notes, nil
	return notes
}

// Revocations are the lists in force.
func (s *Source) Revocations() *revocation.Lists { return s.now.Load().lists }

// Current is what is in force.
func (s *Source) Current() *Set { return s.now.Load() }

// Config is what either end of a connection between nodes uses. Who the peer is must be asked of Verify: host names say nothing here, so
// the library's own check, which goes by them, is off, and both ends call Verify with the chain before a byte is exchanged.
func (s *Source) Config(now func() time.Time) *tls.Config {
	set := s.Current()
	return &tls.Config{
		MinVersion:                  tls.VersionTLS13,
		Certificates:                []tls.Certificate{set.pair},
		ClientAuth:                  tls.RequireAnyClientCert,
		InsecureSkipVerify:          true,
		SessionTicketsDisabled:      true,
		DynamicRecordSizingDisabled: true, // records of 16 KiB from the first byte on
		Time:                        now,
		VerifyConnection: func(cs tls.ConnectionState) error {
			_, err := s.Current().Verify(cs.PeerCertificates, now())
			return err
		},
	}
}
