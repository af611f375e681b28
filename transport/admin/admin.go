// Package admin answers operators over HTTP: health, metrics, what a node
// knows of itself as JSON, and profiles.
//
//	GET  /healthz                          "ok" while the process runs
//	GET  /readyz                           "ok", or 503 and why not
//	GET  /metrics                          Prometheus
//	GET  /v1/node                          NodeStatus
//	POST /v1/node/drain                    gives leaderships and clients away: Drained
//	POST /v1/node/undrain                  takes that back: Drained
//	GET  /v1/partitions                    [PartitionStatus], this node's replicas
//	GET  /v1/partitions/{n}                PartitionStatus
//	GET  /v1/rooms?order=&limit=           [RoomStatus]
//	GET  /v1/room?name=                    RoomStatus
//	GET  /v1/drift?limit=                  Drift
//	POST /v1/partitions/{n}/transfer?to=   hands leadership of n to a node
//	GET  /debug/pprof/                     net/http/pprof
//
// The first three are open to all. The others want "Authorization: Bearer
// TOKEN" when a token is configured. Errors of these are {"error": "..."}.
//
// Everything is told as this node sees it; merging nodes is the caller's work.
// Each answer names the node in its Roomlog-Node header, so that a caller sees
// when an address has led it to another one.
// A handler may be called concurrently, and so calls its Source.
package admin

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/pprof"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Config is what the handler is made of.
type Config struct {
	Source   Source
	Token    string // "" lets everybody in
	Registry *prometheus.Registry
	Logger   *slog.Logger
}

// NodeHeader of an answer holds the node's name.
const NodeHeader = "Roomlog-Node"

const (
	defaultRooms = 100     // of a room list without a limit
	maxRooms     = 100_000 // of any room list
	defaultDrift = 10      // rooms and cursors told with the drift
	maxDrift     = 1000

	transferTimeout = 10 * time.Second // and for a drain
	answerTimeout   = 15 * time.Second // for everything but profiles: beyond transferTimeout
	profileTimeout  = 5 * time.Minute
)

// New returns the handler.
func New(cfg Config) http.Handler {
	h := &handler{source: cfg.Source, logger: cfg.Logger, token: sha256.Sum256([]byte(cfg.Token)), open: cfg.Token == ""}
	if h.logger == nil {
		h.logger = slog.New(slog.DiscardHandler)
	}
	h.name = sync.OnceValue(func() string { return h.source.Node().Node })
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", h.ready)
	mux.Handle("GET /metrics", promhttp.HandlerFor(cfg.Registry, promhttp.HandlerOpts{
		Registry:            cfg.Registry,
		ErrorLog:            slog.NewLogLogger(h.logger.Handler(), slog.LevelWarn),
		MaxRequestsInFlight: 8,
	}))
	mux.HandleFunc("GET /v1/node", h.node)
	mux.HandleFunc("POST /v1/node/drain", h.drain)
	mux.HandleFunc("POST /v1/node/undrain", h.undrain)
	mux.HandleFunc("GET /v1/partitions", h.partitions)
	mux.HandleFunc("GET /v1/partitions/{n}", h.partition)
	mux.HandleFunc("POST /v1/partitions/{n}/transfer", h.transfer)
	mux.HandleFunc("GET /v1/rooms", h.rooms)
	mux.HandleFunc("GET /v1/room", h.room)
	mux.HandleFunc("GET /v1/drift", h.drift)
	mux.HandleFunc("GET /debug/pprof/", pprof.Index) // the named profiles too
	mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	h.mux = mux

	// A page in an operator's browser must not reach a POST of ours.
	guard := http.NewCrossOriginProtection()
	guard.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		h.fail(w, http.StatusForbidden, errors.New("cross-origin request refused"))
	}))
	return guard.Handler(h)
}

// NewServer returns a server with bounds on what a caller may make it hold.
// Garbage on the port is logged at debug level only.
func NewServer(handler http.Handler, logger *slog.Logger) *http.Server {
	return &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second, // the handler bounds writing: a profile takes long
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(logger.Handler(), slog.LevelDebug),
	}
}

type handler struct {
	source Source
	name   func() string // the node's
	logger *slog.Logger
	mux    *http.ServeMux
	token  [sha256.Size]byte
	open   bool // no token is configured
}

func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	limit := answerTimeout
	if strings.HasPrefix(r.URL.Path, "/debug/") {
		limit = profileTimeout
	}
	// Unsupported only by recorders in tests.
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(limit))

	w.Header().Set(NodeHeader, h.name())
	if r.ContentLength != 0 { // nothing here takes one: do not even read it
		w.Header().Set("Connection", "close")
		h.fail(w, http.StatusBadRequest, errors.New("send no body"))
		return
	}
	if !public(r.URL.Path) && !h.allowed(r) {
		w.Header().Set("WWW-Authenticate", "Bearer")
		h.fail(w, http.StatusUnauthorized, errors.New("no or a wrong token: send Authorization: Bearer TOKEN"))
		return
	}
	if match, pattern := h.mux.Handler(r); pattern == "" {
		h.noRoute(w, r, match)
		return
	}
	h.mux.ServeHTTP(w, r)
}

func public(path string) bool { return path == "/healthz" || path == "/readyz" || path == "/metrics" }

// allowed compares digests, so that the time taken tells nothing of the token.
func (h *handler) allowed(r *http.Request) bool {
	if h.open {
		return true
	}
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	sum := sha256.Sum256([]byte(token))
	return strings.EqualFold(scheme, "Bearer") && subtle.ConstantTimeCompare(sum[:], h.token[:]) == 1
}

// noRoute says in JSON what the mux would say in plain text: no such path, or
// another method (with the Allow header).
func (h *handler) noRoute(w http.ResponseWriter, r *http.Request, match http.Handler) {
	status := &statusOnly{header: w.Header(), status: http.StatusOK}
	match.ServeHTTP(status, r)
	w.Header().Del("X-Content-Type-Options")
	h.fail(w, status.status, fmt.Errorf("%s %s: %s", r.Method, r.URL.Path, strings.ToLower(http.StatusText(status.status))))
}

// statusOnly keeps a response's status and headers and drops its body.
type statusOnly struct {
	header http.Header
	status int
}

func (s *statusOnly) Header() http.Header         { return s.header }
func (s *statusOnly) WriteHeader(status int)      { s.status = status }
func (s *statusOnly) Write(p []byte) (int, error) { return len(p), nil }

func (h *handler) ready(w http.ResponseWriter, _ *http.Request) {
	if err := h.source.Ready(); err != nil {
		w.WriteHeader(http.StatusServiceUnavailable)
		fmt.Fprintln(w, err)
		return
	}
	fmt.Fprintln(w, "ok")
}

func (h *handler) node(w http.ResponseWriter, _ *http.Request) {
	status := h.source.Node()
	if status.Peers == nil {
		status.Peers = []PeerStatus{}
	}
	h.answer(w, http.StatusOK, status)
}

func (h *handler) partitions(w http.ResponseWriter, _ *http.Request) {
	all := h.source.Partitions()
	if all == nil {
		all = []PartitionStatus{}
	}
	h.answer(w, http.StatusOK, all)
}

func (h *handler) partition(w http.ResponseWriter, r *http.Request) {
	n, err := partitionNumber(r)
	if err != nil {
		h.fail(w, http.StatusBadRequest, err)
		return
	}
	for _, p := range h.source.Partitions() {
		if p.Partition == n {
			h.answer(w, http.StatusOK, p)
			return
		}
	}
	h.fail(w, http.StatusNotFound, fmt.Errorf("partition %d: this node has no replica of it", n))
}

func partitionNumber(r *http.Request) (int, error) {
	n, err := strconv.Atoi(r.PathValue("n"))
	if err != nil || n < 0 {
		return 0, fmt.Errorf("partition %q is no number", r.PathValue("n"))
	}
	return n, nil
}

func (h *handler) rooms(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	order := query.Get("order")
	switch order {
	case "", "drift", "rate", "subscribers":
	default:
		h.fail(w, http.StatusBadRequest, fmt.Errorf("order %q: use drift, rate, subscribers or none", order))
		return
	}
	limit, err := limitOf(query, defaultRooms, maxRooms)
	if err != nil {
		h.fail(w, http.StatusBadRequest, err)
		return
	}
	rooms := h.source.Rooms(limit, order)
	if rooms == nil {
		rooms = []RoomStatus{}
	}
	h.answer(w, http.StatusOK, rooms)
}

func limitOf(query url.Values, otherwise, most int) (int, error) {
	s := query.Get("limit")
	if s == "" {
		return otherwise, nil
	}
	limit, err := strconv.Atoi(s)
	if err != nil || limit < 1 || limit > most {
		return 0, fmt.Errorf("limit %q: use 1 to %d", s, most)
	}
	return limit, nil
}

func (h *handler) drift(w http.ResponseWriter, r *http.Request) {
	limit, err := limitOf(r.URL.Query(), defaultDrift, maxDrift)
	if err != nil {
		h.fail(w, http.StatusBadRequest, err)
		return
	}
	h.answer(w, http.StatusOK, h.source.Drift(limit))
}

func (h *handler) room(w http.ResponseWriter, r *http.Request) {
	status, err := h.source.Room(r.URL.Query().Get("name"))
	if err != nil {
		h.fail(w, http.StatusBadRequest, err)
		return
	}
	h.answer(w, http.StatusOK, status)
}

func (h *handler) transfer(w http.ResponseWriter, r *http.Request) {
	n, err := partitionNumber(r)
	to := r.URL.Query().Get("to")
	if err == nil && to == "" {
		err = errors.New("to: name the node that shall lead")
	}
	if err != nil {
		h.fail(w, http.StatusBadRequest, err)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), transferTimeout)
	defer cancel()
	if err := h.source.Transfer(ctx, n, to); err != nil {
		h.failTransfer(w, err)
		return
	}
	h.logger.Info("leadership handed over", "partition", n, "to", to, "by", r.RemoteAddr)
	h.answer(w, http.StatusOK, Transferred{Partition: n, Leader: to})
}

func (h *handler) drain(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), transferTimeout)
	defer cancel()
	if err := h.source.Drain(ctx); err != nil {
		h.failTransfer(w, err)
		return
	}
	h.logger.Info("drained", "by", r.RemoteAddr)
	h.answer(w, http.StatusOK, Drained{Node: h.name(), Draining: true})
}

func (h *handler) undrain(w http.ResponseWriter, r *http.Request) {
	if err := h.source.Undrain(); err != nil {
		h.failTransfer(w, err)
		return
	}
	h.logger.Info("draining was taken back", "by", r.RemoteAddr)
	h.answer(w, http.StatusOK, Drained{Node: h.name()})
}

func (h *handler) failTransfer(w http.ResponseWriter, err error) {
	var elsewhere *NotLeaderError
	switch {
	case errors.Is(err, ErrConflict):
		h.fail(w, http.StatusConflict, err)
	case errors.As(err, &elsewhere):
		h.answer(w, http.StatusConflict, Failure{Error: err.Error(), Leader: elsewhere.Leader})
	case errors.Is(err, ErrNotFound):
		h.fail(w, http.StatusNotFound, err)
	case errors.Is(err, context.DeadlineExceeded):
		h.fail(w, http.StatusGatewayTimeout, err)
	default:
		h.fail(w, http.StatusInternalServerError, err)
	}
}

func (h *handler) fail(w http.ResponseWriter, status int, err error) {
	h.answer(w, status, Failure{Error: err.Error()})
}

func (h *handler) answer(w http.ResponseWriter, status int, v any) {
	body, err := json.Marshal(v)
	if err != nil { // a NaN, say: nothing has been written yet
		h.logger.Error("admin answer cannot be encoded", "err", err)
		status, body = http.StatusInternalServerError, []byte(`{"error":"the answer cannot be encoded"}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(append(body, '\n')) // the caller has gone: nobody to tell
}
