package server

import (
	"crypto/x509"
	"math"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/sluicemq/sluice/config"
	"github.com/sluicemq/sluice/internal/revocation"
)

// certificatesShownMax bounds what metrics have of one file: a bundle of all authorities of the world is none of a fleet.
const certificatesShownMax = 100

// certificateEnd is until when a certificate counts.
type certificateEnd struct {
	key, subject string
	until        time.Time
}

// certificateEnds are those of the files that the configuration names: what the node shows of itself, and who vouches for others. Files that cannot be read are left
// out: whoever needs them says so. Of a file's certificates with one subject, as there are while an authority is being replaced, the one that ends last counts.
func certificateEnds(cfg *config.Config) (ends []certificateEnd) {
	type file struct{ key, path string }
	files := []file{{"tls.cert", cfg.TLS.Cert}, {"tls.client_ca", cfg.TLS.ClientCA}, {"control.client_ca", cfg.Control.ClientCA}, {"cluster.cert", cfg.Cluster.Cert},
		{"cluster.ca", cfg.Cluster.CA}, {"auth.ldap.ca", cfg.Auth.LDAP.CA}}
	for i := range cfg.Bridges {
		b := &cfg.Bridges[i]
		files = append(files, file{"bridges." + b.Name + ".cert", b.Cert}, file{"bridges." + b.Name + ".ca", b.CA})
	}
	for _, f := range files {
		if f.path == "" {
			continue
		}
		data, err := os.ReadFile(f.path)
		if err != nil {
			continue
		}
		var own []certificateEnd
		for _, c := range revocation.Certificates(data) {
			e := certificateEnd{f.key, subjectOf(c), c.NotAfter}
			if i := slices.IndexFunc(own, func(o certificateEnd) bool { return o.subject == e.subject }); i < 0 {
				own = append(own, e)
			} else if e.until.After(own[i].until) {
				own[i] = e
			}
		}
		slices.SortFunc(own, func(a, b certificateEnd) int { return a.until.Compare(b.until) })
		ends = append(ends, own[:min(len(own), certificatesShownMax)]...)
	}
	return ends
}

// subjectOf names a certificate: by its subject, or where it has none by what it is for.
func subjectOf(c *x509.Certificate) string { return strings.ToValidUTF8(rawSubjectOf(c), "?") }

func rawSubjectOf(c *x509.Certificate) string {
	if s := c.Subject.String(); s != "" {
		return s
	}
	for _, u := range c.URIs {
		return u.String()
	}
	if len(c.DNSNames) > 0 {
		return c.DNSNames[0]
	}
	return c.SerialNumber.String()
}

// sayEvery is how long it takes until the log has the same warning of a certificate again.
const sayEvery = 24 * time.Hour

// warnOfEnds has a line in the log, each day, for each certificate that ends soon.
func (k *tlsKeeper) warnOfEnds(now time.Time) {
	before := k.s.cfg.Load().TLS.ExpiryWarning
	if before == config.Never {
		before = math.MaxInt64
	}
	for _, e := range k.s.certs.now.Load().ends {
		name, left := e.key+" "+e.subject, e.until.Sub(now)
		if before == 0 || left > before {
			delete(k.ending, name)
			continue
		}
		if last, there := k.ending[name]; there && now.Sub(last) < sayEvery && last.After(e.until) == now.After(e.until) {
			continue
		}
		k.ending[name] = now
		if left <= 0 {
			k.s.log.Error("a certificate has ended", "of", e.key, "subject", e.subject, "ended", e.until)
		} else {
			k.s.log.Warn("a certificate ends soon", "of", e.key, "subject", e.subject, "ends", e.until, "days", int(left/(24*time.Hour)))
		}
	}
}

// collectCertificates has until when certificates, lists and answers about them count.
func (c *collector) collectCertificates(k sink) {
	set := c.s.certs.now.Load()
	for _, e := range set.ends {
		k.gauge("sluice_tls_certificate_expiry_seconds", float64(e.until.Unix()), e.key, e.subject)
	}
	stapled := 0.0
	if t := set.stapling.until(); !t.IsZero() {
		stapled = float64(t.Unix())
	}
	k.gauge("sluice_tls_staple_expiry_seconds", stapled)
	k.counter("sluice_tls_staple_failures_total", c.s.tlsKeeper.stapleFailures.Load())
	c.collectRevocations(k)
}
