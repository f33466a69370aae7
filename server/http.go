package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/net/netutil"

	"github.com/sluicemq/sluice/config"
)

// httpConnectionsMax is how many connections one listener of HTTP has; the next ones wait in the kernel's queue.
const httpConnectionsMax = 1024

// httpServer answers /metrics, /healthz and /readyz, and /api/v1/.
type httpServer struct {
	server    *http.Server
	listeners []net.Listener
	served    chan error
}

func startHTTP(s *Server, addrs config.Addrs) (*httpServer, error) {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(s.metrics, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		code, text := s.readiness()
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.WriteHeader(code)
		_, _ = fmt.Fprintln(w, text)
	})
	mux.Handle("/api/v1/", s.controlOverHTTP())
	h := &httpServer{served: make(chan error, len(addrs))}
	h.server = &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second,
		WriteTimeout: 30 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10}
	for _, a := range addrs {
		ln, err := net.Listen("tcp", a)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("open http on %s: %w", a, err), h.close(context.Background()))
		}
		h.listeners = append(h.listeners, netutil.LimitListener(ln, httpConnectionsMax))
	}
	for _, ln := range h.listeners {
		go func() { h.served <- h.server.Serve(ln) }()
	}
	return h, nil
}

// controlOverHTTP is the control plane's HTTP API where control.http has it.
func (s *Server) controlOverHTTP() http.Handler {
	api := s.control.HTTP()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch where := s.cfg.Load().Control.HTTP; {
		case where == "off":
			http.NotFound(w, r)
		case where == "loopback" && !atLoopback(r):
			http.Error(w, "the control plane answers HTTP on loopback alone: put something that speaks TLS before it there, or set control.http", http.StatusForbidden)
		default:
			api.ServeHTTP(w, r)
		}
	})
}

// atLoopback says whether a request has come to an address of loopback, and so from this machine.
func atLoopback(r *http.Request) bool {
	a, ok := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr)
	return ok && a.IP.IsLoopback()
}

// readiness is what /readyz answers.
func (s *Server) readiness() (code int, text string) {
	if !s.ready.Load() {
		return http.StatusServiceUnavailable, "not ready: starting or draining"
	}
	if err := s.node.storage.err(); err != nil {
		return http.StatusServiceUnavailable, "not ready: the journal does not take writes"
	}
	if !s.node.member.heard() {
		return http.StatusServiceUnavailable, "not ready: this node hears nothing from the majority of its cluster"
	}
	return http.StatusOK, "ready"
}

// listenerName is the name of a listener's address i.
func listenerName(name string, i int) string {
	if i == 0 {
		return name
	}
	return name + "." + strconv.Itoa(i+1)
}

func (h *httpServer) addresses() map[string]string {
	m := make(map[string]string)
	for i, ln := range h.listeners {
		m[listenerName("http", i)] = ln.Addr().String()
	}
	return m
}

func (h *httpServer) close(ctx context.Context) error {
	err := h.server.Shutdown(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		err = h.server.Close() // who still waits is cut off
	}
	for _, ln := range h.listeners {
		_ = ln.Close()
	}
	return err
}
