package server

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluicemq/sluice/internal/revocation"
)

// revocations are the revocation lists of one key of the configuration. The zero value names nothing.
type revocations struct {
	key         string
	files       []string
	lenient     bool   // a list that has expired goes on to count
	authorities []byte // who may have signed them, PEM
	lists       atomic.Pointer[revocation.Lists]

	stamps revocation.Stamps // of who keeps them
	notes  noteList
}

// noteList holds what is to be told of lists that were read again.
type noteList struct {
	mu   sync.Mutex
	list []revocation.Note
}

func (l *noteList) add(notes []revocation.Note) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.list = append(l.list, notes...)
}

// take gives what was added since the last call.
func (l *noteList) take() (notes []revocation.Note) {
	l.mu.Lock()
	defer l.mu.Unlock()
	notes, l.list = l.list, nil
	return notes
}

// load has c check client certificates against the authorities of a file, whose key of the configuration is caKey, and against the lists.
func (r *revocations) load(c *tls.Config, caKey, caFile string) (err error) {
	if r.authorities, err = os.ReadFile(caFile); err != nil {
		return fmt.Errorf("%s: %w", caKey, err)
	}
	c.ClientCAs = x509.NewCertPool()
	if !c.ClientCAs.AppendCertsFromPEM(r.authorities) {
		return fmt.Errorf("%s %s holds no PEM certificate", caKey, caFile)
	}
	if len(r.files) == 0 {
		return nil
	}
	if err := r.read(); err != nil {
		return fmt.Errorf("%s: %w, by %s", r.key, err, caKey)
	}
	// VerifyConnection runs for resumed sessions too, which VerifyPeerCertificate does not see.
	c.VerifyConnection = func(cs tls.ConnectionState) error { return r.check(cs.VerifiedChains) }
	return nil
}

// read takes the files over as they are now, behind what is in force; on error that stays.
func (r *revocations) read() error {
	r.stamps.Changed(r.files) // first: what is written meanwhile is read the next time
	lists, err := revocation.Read(r.files, r.authorities)
	if err == nil {
		r.comeAfter(lists, r.lists.Load())
	}
	return err
}

func (r *revocations) comeAfter(lists, old *revocation.Lists) {
	merged, notes := lists.Merge(old, r.now())
	r.lists.Store(merged)
	r.notes.add(notes)
}

// follow has r come after what was in force until a reload. If its key names other files they count as they are: so lists are taken back on purpose.
func (r *revocations) follow(old *revocations) {
	r.notes.add(old.notes.take())
	if slices.Equal(r.files, old.files) {
		r.comeAfter(r.lists.Load(), old.lists.Load())
	}
}

// now is the time by which lists end; zero: they do not.
func (r *revocations) now() time.Time {
	if r.lenient {
		return time.Time{}
	}
	return time.Now()
}

// check says what is wrong with a certificate, of which chains are the ways to its authorities; none: nothing was shown.
func (r *revocations) check(chains [][]*x509.Certificate) error {
	return r.lists.Load().CheckAny(chains, r.now())
}

// has says whether a list names cert.
func (r *revocations) has(cert *x509.Certificate) bool { return r.lists.Load().Revoked(cert) }

// refresh reads the files again if one has changed, and says whether what is in force has.
func (r *revocations) refresh() (changed bool, err error) {
	old := r.lists.Load()
	if len(r.files) == 0 {
		return false, nil
	}
	if !r.stamps.Changed(r.files) {
		rest, notes := old.Lapse(r.now())
		r.lists.Store(rest)
		r.notes.add(notes)
		return rest != old, nil
	}
	if err = r.read(); err != nil {
		r.stamps = revocation.Stamps{} // it may have been half written
		return false, fmt.Errorf("%s: %w", r.key, err)
	}
	return !old.Same(r.lists.Load()), nil
}

// tlsKeeper looks at files while the node runs.
type tlsKeeper struct {
	s        *Server
	failures atomic.Uint64 // lists that could not be read
	said     map[string]string
	expired  map[string]bool      // lists that the log has a line about
	ending   map[string]time.Time // when the log has said last that a certificate ends

	stapleFailures atomic.Uint64

	stop context.CancelFunc // nil: it does not run
	done sync.WaitGroup
}

func newTLSKeeper(s *Server) *tlsKeeper {
	return &tlsKeeper{s: s, said: make(map[string]string), expired: make(map[string]bool), ending: make(map[string]time.Time)}
}

// start looks at revocation lists every tls.crl_refresh until close.
func (k *tlsKeeper) start() {
	ctx, cancel := context.WithCancel(context.Background())
	k.stop = cancel
	k.done.Go(func() { k.run(ctx) })
	k.done.Go(func() { k.runStapling(ctx) })
}

// keepPause bounds how long a change of tls.crl_refresh waits to count, and the ends of lists to be seen.
const keepPause = time.Second

func (k *tlsKeeper) run(ctx context.Context) {
	tick := time.NewTicker(keepPause)
	defer tick.Stop()
	last := time.Now()
	k.warn(last)
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now := time.Now()
		k.warn(now)
		if every := k.s.cfg.Load().TLS.CRLRefresh; every > 0 && now.Sub(last) >= every {
			last = now
			k.refresh()
		}
	}
}

// refresh reads what has changed, and has those looked at whom it may concern.
func (k *tlsKeeper) refresh() {
	set, n := k.s.certs.now.Load(), k.s.node
	for _, r := range []*revocations{&set.revoked, &set.callersRevoked} {
		if k.took(r.key, r.lists.Load, r.refresh) {
			n.mqtt.Recheck() // callers of the control plane are looked at with each call
			n.kafka.Recheck()
		}
	}
	if n.cluster != nil {
		m := n.cluster.Mesh()
		k.took(clusterCRL, m.Revocations, m.RefreshRevocations)
	}
}

const clusterCRL = "cluster.crl"

// took reads lists by refresh and tells the log what came of it.
func (k *tlsKeeper) took(key string, lists func() *revocation.Lists, refresh func() (bool, error)) bool {
	changed, err := refresh()
	switch {
	case err != nil:
		k.failures.Add(1)
		if k.said[key] != err.Error() {
			k.said[key] = err.Error()
			k.s.log.Warn("a revocation list has changed and cannot be read: what was read before goes on to count", "err", err)
		}
		return false
	case changed:
		k.s.log.Info("revocation lists were read again", "of", key, "certificates", lists().Entries())
	}
	delete(k.said, key)
	return changed
}

// warn has a line in the log for each list that has expired, and for what else ends.
func (k *tlsKeeper) warn(now time.Time) {
	k.warnOfEnds(now)
	k.tellNotes()
	k.s.eachRevocationList(func(key, issuer string, until time.Time, _ bool) {
		name, ended := key+" "+issuer, !until.IsZero() && now.After(until)
		if ended && !k.expired[name] {
			k.s.log.Error("a revocation list has expired: its authority has to make the next one", "of", key, "authority", issuer, "ended", until,
				"certificates", k.expiredPolicy(key))
		}
		k.expired[name] = ended
	})
}

// tellNotes has a line in the log for each list that the files do not have any more, or an older one of.
func (k *tlsKeeper) tellNotes() {
	tell := func(key string, notes []revocation.Note) {
		for _, n := range notes {
			if n.Lost {
				k.s.log.Error("a revocation list counts no more: whom it had revoked are let in again", "of", key, "authority", n.Issuer, "ended", n.Until, "why", n.Why)
			} else {
				k.s.log.Warn("revocation lists were read again, and one that was in force goes on to count", "of", key, "authority", n.Issuer, "ends", n.Until, "why", n.Why)
			}
		}
	}
	set := k.s.certs.now.Load()
	for _, r := range []*revocations{&set.revoked, &set.callersRevoked} {
		tell(r.key, r.notes.take())
	}
	if c := k.s.node.cluster; c != nil {
		tell(clusterCRL, c.Mesh().RevocationNotes())
	}
}

func (k *tlsKeeper) expiredPolicy(key string) string {
	if key == clusterCRL || k.s.cfg.Load().TLS.CRLExpired == "accept" {
		return "are taken by the list as it is"
	}
	return "of this authority are refused"
}

// eachRevocationList shows the lists in force.
func (s *Server) eachRevocationList(see func(key, issuer string, until time.Time, kept bool)) {
	set := s.certs.now.Load()
	for _, r := range []*revocations{&set.revoked, &set.callersRevoked} {
		r.lists.Load().Each(func(issuer string, until time.Time, kept bool) { see(r.key, issuer, until, kept) })
	}
	if s.node.cluster != nil {
		s.node.cluster.Mesh().Revocations().Each(func(issuer string, until time.Time, kept bool) { see(clusterCRL, issuer, until, kept) })
	}
}

func (k *tlsKeeper) close() {
	if k.stop == nil {
		return
	}
	k.stop()
	k.stop = nil
	k.done.Wait()
}

// collectRevocations has until when each list counts. An authority with several has the one that ends first.
func (c *collector) collectRevocations(k sink) {
	type name struct{ key, issuer string }
	ends, over := make(map[name]float64), make(map[name]float64)
	c.s.eachRevocationList(func(key, issuer string, until time.Time, kept bool) {
		end, n := 0.0, name{key, issuer}
		if kept {
			over[n] = 1
		}
		if !until.IsZero() {
			end = float64(until.Unix())
		}
		if old, there := ends[n]; !there || old == 0 || end != 0 && end < old {
			ends[n] = end
		}
	})
	for n, end := range ends {
		k.gauge("sluice_tls_crl_expiry_seconds", end, n.key, n.issuer)
		k.gauge("sluice_tls_crl_kept", over[n], n.key, n.issuer)
	}
	k.counter("sluice_tls_crl_failures_total", c.s.tlsKeeper.failures.Load())
}
