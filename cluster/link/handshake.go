package link

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"github.com/sluicemq/sluice/internal/clock"
)

type peerCerts = []*x509.Certificate

// session is what a handshake comes to.
type session struct {
	peer     Peer
	windows  [numKinds]uint32
	opens    uint8
	nc, raw  net.Conn
	gathered *gatherConn
	certs    peerCerts
	binding  []byte
}

// handshake is one that runs. Its deadline closes the socket.
type handshake struct {
	m     *Mesh
	raw   net.Conn
	host  string // who connects
	timer clock.Timer
	mu    struct {
		sync.Mutex
		why *Error // the socket was closed from here
	}
}

func (m *Mesh) newHandshake(raw net.Conn) *handshake {
	h := &handshake{m: m, raw: raw}
	h.timer = m.clock.AfterFunc(m.o.HandshakeTimeout, func() { h.stopWith(failure(ReasonTimeout, "the handshake took more than %v", m.o.HandshakeTimeout)) })
	return h
}

func (h *handshake) cancel() { h.stopWith(&Error{Reason: ReasonClosing}) }

// stopWith closes the socket, which ends the handshake with that reason.
func (h *handshake) stopWith(e *Error) {
	h.mu.Lock()
	if h.mu.why == nil {
		h.mu.why = e
	}
	h.mu.Unlock()
	_ = h.raw.Close()
}

// result is err, or why the socket was closed.
func (h *handshake) result(err error) error {
	h.timer.Stop()
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.mu.why != nil {
		return h.mu.why
	}
	return err
}

// secure does TLS, if there is any, and says whom the peer's certificate names.
func (h *handshake) secure(client bool) (*session, NodeID, error) {
	m := h.m
	s := &session{nc: h.raw, raw: h.raw, binding: make([]byte, 32)}
	s.peer.Addr, s.peer.Dialed = addrOf(h.raw), client
	if m.o.TLS == nil {
		if !m.o.AllowPlaintext && !loopback(h.raw.RemoteAddr()) {
			return nil, 0, failure(ReasonPlaintext, "%s is not on loopback, and there are no certificates", s.peer.Addr)
		}
		return s, 0, nil
	}
	s.gathered = &gatherConn{Conn: h.raw}
	cfg := m.o.TLS.Config(m.clock.Now)
	var t *tls.Conn
	if client {
		t = tls.Client(s.gathered, cfg)
	} else {
		t = tls.Server(s.gathered, cfg)
	}
	if err := t.HandshakeContext(m.ctx); err != nil {
		var plain tls.RecordHeaderError
		if errors.As(err, &plain) {
			if !client { // who speaks no TLS can read why, and would wonder at an end without a word
				refuse(h.raw, failure(ReasonPlaintext, "this node speaks TLS, and takes no node without a certificate"))
			}
			return nil, 0, failure(ReasonPlaintext, "the other end does not speak TLS")
		}
		return nil, 0, failure(ReasonCertificate, "%v", err)
	}
	cs := t.ConnectionState()
	node, err := m.o.TLS.Current().Verify(cs.PeerCertificates, m.clock.Now())
	if err != nil {
		return nil, 0, failure(ReasonCertificate, "%v", err)
	}
	if s.binding, err = cs.ExportKeyingMaterial("EXPORTER-sluice-link", nil, 32); err != nil {
		return nil, 0, failure(ReasonCertificate, "%v", err)
	}
	s.nc, s.certs, s.peer.TLS = t, cs.PeerCertificates, true
	return s, NodeID(node), nil
}

// hello is this node's.
func (m *Mesh) hello(to NodeID) (*hello, error) {
	h := &hello{versionMin: VersionMin, versionMax: VersionMax, plaintext: m.o.TLS == nil, from: m.o.ID, to: to, cluster: m.cluster(), identity: m.o.Identity,
		incarnation: m.incarnation, feature: m.o.Feature, featureMin: m.o.FeatureMin, clockMs: m.clock.Now().UnixMilli(), opens: compressS2}
	for k := Kind(1); k < numKinds; k++ {
		h.windows[k] = uint32(m.limits[k].Window)
	}
	_, err := rand.Read(h.nonce[:])
	return h, err
}

// check says what is wrong with a peer's hello, before it has shown that it knows the token.
func (m *Mesh) check(h *hello, cert NodeID) error {
	own := m.cluster()
	switch {
	case h.plaintext != (m.o.TLS == nil):
		return failure(ReasonPlaintext, "one end speaks TLS and the other does not")
	case cert != 0 && cert != h.from:
		return failure(ReasonNode, "the certificate names node %d, the hello node %d", cert, h.from)
	case h.from == m.o.ID && h.incarnation == m.incarnation:
		return failure(ReasonSelf, "this is node %d itself", h.from)
	case h.from == m.o.ID:
		return failure(ReasonNodeInUse, "this is node %d too", h.from)
	case h.cluster != own && h.cluster != [16]byte{} && own != [16]byte{}:
		return failure(ReasonCluster, "this node is of cluster %x, the peer of cluster %x", own, h.cluster)
	case h.feature < m.o.FeatureMin:
		return failure(ReasonFeature, "the cluster has feature level %d, the peer knows %d", m.o.FeatureMin, h.feature)
	}
	return nil
}

func (s *session) learn(m *Mesh, h *hello) {
	p := &s.peer
	p.ID, p.Cluster, p.Identity, p.Incarnation, p.Feature, p.FeatureMin = h.from, h.cluster, h.identity, h.incarnation, h.feature, h.featureMin
	p.ClockOff = time.UnixMilli(h.clockMs).Sub(m.clock.Now())
	s.windows, s.opens = h.windows, h.opens
}

// dial is the dialer's part: hello, proof, welcome. to may be 0: whoever is there. With an error there is a session if it is known who has answered.
func (h *handshake) dial(to NodeID) (*session, error) {
	m := h.m
	s, cert, err := h.secure(true)
	if err != nil {
		return nil, err
	}
	mine, err := m.hello(to)
	if err != nil {
		return nil, err
	}
	own := appendHello(nil, mine)
	if _, err := s.nc.Write(appendShake(nil, shakeHello, own)); err != nil {
		return nil, err
	}
	theirs, err := readShake(s.nc, shakeHello)
	if err != nil {
		return nil, err
	}
	peer, err := decodeHello(theirs)
	if err != nil {
		return nil, err
	}
	if err := m.check(&peer, cert); err != nil {
		return nil, err
	}
	if to != 0 && peer.from != to {
		return nil, failure(ReasonNode, "node %d was called, node %d has answered", to, peer.from)
	}
	s.learn(m, &peer)
	if _, err := s.nc.Write(appendShake(nil, shakeProof, proof(m.o.Token, "dialer", own, theirs, s.binding))); err != nil {
		return nil, err
	}
	welcome, err := readShake(s.nc, shakeWelcome)
	if err != nil {
		return s, err
	}
	if !hmac.Equal(welcome, proof(m.o.Token, "acceptor", own, theirs, s.binding)) {
		return nil, failure(ReasonToken, "the node that was called does not know the cluster's token")
	}
	return s, m.admit(s)
}

// accept is the acceptor's part, but for the welcome, which it returns. What is refused is told to the peer.
func (h *handshake) accept() (*session, []byte, error) {
	s, cert, err := h.secure(false)
	if err != nil {
		return nil, nil, err
	}
	welcome, err := h.acceptHello(s, cert)
	if e := asError(err); e != nil && !e.Peer {
		refuse(s.nc, e)
	}
	return s, welcome, err
}

func (h *handshake) acceptHello(s *session, cert NodeID) ([]byte, error) {
	m := h.m
	theirs, err := readShake(s.nc, shakeHello)
	if err != nil {
		return nil, err
	}
	peer, err := decodeHello(theirs)
	if err != nil {
		return nil, err
	}
	if err := m.check(&peer, cert); err != nil {
		return nil, err
	}
	if peer.to != 0 && peer.to != m.o.ID {
		return nil, failure(ReasonNode, "node %d was called, this is node %d", peer.to, m.o.ID)
	}
	s.learn(m, &peer)
	mine, err := m.hello(0)
	if err != nil {
		return nil, err
	}
	own := appendHello(nil, mine)
	if _, err := s.nc.Write(appendShake(nil, shakeHello, own)); err != nil {
		return nil, err
	}
	got, err := readShake(s.nc, shakeProof)
	if err != nil {
		return nil, err
	}
	if !hmac.Equal(got, proof(m.o.Token, "dialer", theirs, own, s.binding)) {
		return nil, failure(ReasonToken, "node %d has another cluster token", peer.from)
	}
	if err := m.admit(s); err != nil {
		return nil, err
	}
	return appendShake(nil, shakeWelcome, proof(m.o.Token, "acceptor", theirs, own, s.binding)), nil
}

func (m *Mesh) admit(s *session) error {
	if m.o.Admit == nil {
		return nil
	}
	err := m.o.Admit(s.peer)
	if err == nil || asError(err) != nil {
		return err
	}
	return failure(ReasonNotAdmitted, "%v", err)
}

// refuse tells the peer what is wrong.
func refuse(nc net.Conn, e *Error) {
	_, _ = nc.Write(appendShake(nil, shakeRefusal, reasonPayload(e.Reason, e.Text))) // the connection ends either way
}

// readShake reads a message of the handshake, which is of that type or a refusal.
func readShake(r io.Reader, want byte) ([]byte, error) {
	var head [shakeHead]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	typ, n, err := decodeShakeHead(head)
	if err != nil {
		return nil, err
	}
	p := make([]byte, n)
	if _, err := io.ReadFull(r, p); err != nil {
		return nil, err
	}
	switch {
	case typ == shakeRefusal && n > 0:
		return nil, decodeReason(p)
	case typ != want:
		return nil, failure(ReasonMalformed, "handshake message of type %d, want %d", typ, want)
	}
	return p, nil
}

func addrOf(nc net.Conn) string {
	if a := nc.RemoteAddr(); a != nil {
		return a.String()
	}
	return ""
}

// loopback says whether an address is of this machine. A pipe, which has no address, is.
func loopback(a net.Addr) bool {
	switch a := a.(type) {
	case nil:
		return true
	case *net.TCPAddr:
		return a.IP.IsLoopback()
	}
	return a.Network() == "pipe" || a.Network() == "unix"
}
