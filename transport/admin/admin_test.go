package admin

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

// fakeNode is a Source with two partitions.
type fakeNode struct {
	ready    error
	drift    float64
	transfer func(partition int, to string) error
	drained  error // Drain's answer
	undrains int
}

func (f *fakeNode) Ready() error { return f.ready }

func (f *fakeNode) Node() NodeStatus { return NodeStatus{Node: "n1", Version: "v1", Leaders: 1} }

func (f *fakeNode) Partitions() []PartitionStatus {
	return []PartitionStatus{{Partition: 0, Leader: "n1", Commit: 7}, {Partition: 1, Leader: "n2", QueueBytes: 9}}
}

func (f *fakeNode) Room(name string) (RoomStatus, error) {
	if name == "" {
		return RoomStatus{}, errors.New("room name is empty")
	}
	return RoomStatus{Room: name, First: 1, Last: 5, Drift: f.drift}, nil
}

func (f *fakeNode) Rooms(limit int, order string) []RoomStatus {
	if order == "rate" {
		return nil
	}
	return []RoomStatus{{Room: fmt.Sprintf("limit %d order %q", limit, order)}}
}

func (f *fakeNode) Drift(limit int) Drift { return Drift{Node: "n1", ObjectiveMs: float64(limit)} }

func (f *fakeNode) Transfer(ctx context.Context, partition int, to string) error {
	if _, bounded := ctx.Deadline(); !bounded {
		return errors.New("the context has no deadline")
	}
	return f.transfer(partition, to)
}

func (f *fakeNode) Drain(ctx context.Context) error {
	if _, bounded := ctx.Deadline(); !bounded {
		return errors.New("the context has no deadline")
	}
	return f.drained
}

func (f *fakeNode) Undrain() error { f.undrains++; return nil }

func handlerOf(source Source, token string) http.Handler {
	registry := prometheus.NewRegistry()
	messages := prometheus.NewCounter(prometheus.CounterOpts{Name: "roomlog_test_messages_total"})
	registry.MustRegister(messages)
	messages.Add(3)
	return New(Config{Source: source, Token: token, Registry: registry})
}

func ask(h http.Handler, method, target string, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, target, nil)
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func TestEndpoints(t *testing.T) {
	transferred := errors.New("wrong arguments")
	source := &fakeNode{transfer: func(partition int, to string) error {
		if partition == 1 && to == "n2" {
			return nil
		}
		return transferred
	}}
	h := handlerOf(source, "")
	for _, tt := range []struct {
		name, method, target string
		status               int
		body                 string // the answer holds this
	}{
		{"health", "GET", "/healthz", 200, "ok\n"},
		{"ready", "GET", "/readyz", 200, "ok\n"},
		{"metrics", "GET", "/metrics", 200, "roomlog_test_messages_total 3"},
		{"node", "GET", "/v1/node", 200, `"started":"0001-01-01T00:00:00Z","draining":false,"peers":[]}`},
		{"partitions", "GET", "/v1/partitions", 200, `[{"partition":0,"leader":"n1","term":0,"commit":7,`},
		{"a partition", "GET", "/v1/partitions/1", 200, `"queue_bytes":9}`},
		{"a partition without replica here", "GET", "/v1/partitions/2", 404, `{"error":"partition 2: this node has no replica of it"}`},
		{"no partition number", "GET", "/v1/partitions/-1", 400, `"error":`},
		{"no number at all", "GET", "/v1/partitions/x", 400, `{"error":"partition \"x\" is no number"}`},
		{"rooms", "GET", "/v1/rooms", 200, `limit 100 order \"\"`},
		{"rooms by drift", "GET", "/v1/rooms?order=drift&limit=7", 200, `limit 7 order \"drift\"`},
		{"no rooms", "GET", "/v1/rooms?order=rate", 200, "[]\n"},
		{"rooms by an unknown order", "GET", "/v1/rooms?order=age", 400, `{"error":"order \"age\":`},
		{"most rooms", "GET", "/v1/rooms?limit=100000", 200, `limit 100000`},
		{"too many rooms", "GET", "/v1/rooms?limit=100001", 400, `{"error":"limit \"100001\"`},
		{"too few rooms", "GET", "/v1/rooms?limit=0", 400, `{"error":"limit \"0\"`},
		{"drift", "GET", "/v1/drift", 200, `{"node":"n1","objective_ms":10,`},
		{"more drift", "GET", "/v1/drift?limit=1000", 200, `"objective_ms":1000,`},
		{"too much drift", "GET", "/v1/drift?limit=1001", 400, `{"error":"limit \"1001\"`},
		{"a room", "GET", "/v1/room?name=a+%26+b", 200, `{"room":"a \u0026 b","first":1,"last":5,`},
		{"a bad room name", "GET", "/v1/room", 400, `{"error":"room name is empty"}`},
		{"transfer", "POST", "/v1/partitions/1/transfer?to=n2", 200, `{"partition":1,"leader":"n2"}`},
		{"transfer to nobody", "POST", "/v1/partitions/1/transfer", 400, `{"error":"to: name`},
		{"transfer of no partition", "POST", "/v1/partitions/x/transfer?to=n2", 400, `"error":`},
		{"transfer by reading", "GET", "/v1/partitions/1/transfer?to=n2", 405, `{"error":"GET /v1/partitions/1/transfer: method not allowed"}`},
		{"drain", "POST", "/v1/node/drain", 200, `{"node":"n1","draining":true}`},
		{"drain taken back", "POST", "/v1/node/undrain", 200, `{"node":"n1","draining":false}`},
		{"drain by reading", "GET", "/v1/node/drain", 405, `method not allowed"}`},
		{"no such path", "GET", "/v1/nodes", 404, `{"error":"GET /v1/nodes: not found"}`},
		{"root", "GET", "/", 404, `"error":`},
		{"profiles", "GET", "/debug/pprof/", 200, "goroutine"},
		{"a profile", "GET", "/debug/pprof/goroutine?debug=1", 200, "goroutine profile"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := ask(h, tt.method, tt.target)
			if w.Code != tt.status || !strings.Contains(w.Body.String(), tt.body) {
				t.Errorf("%s %s = %d %s, want %d and %s", tt.method, tt.target, w.Code, w.Body, tt.status, tt.body)
			}
			if got := w.Header().Get(NodeHeader); got != "n1" {
				t.Errorf("%s = %q, want n1", NodeHeader, got)
			}
			isJSON := w.Header().Get("Content-Type") == "application/json"
			if wantJSON := tt.body[0] == '{' || strings.HasPrefix(tt.body, `"error"`); wantJSON && !isJSON {
				t.Errorf("Content-Type = %q", w.Header().Get("Content-Type"))
			}
		})
	}
	if allow := ask(h, "DELETE", "/v1/node").Header().Get("Allow"); allow != "GET, HEAD" {
		t.Errorf("Allow = %q, want GET, HEAD", allow)
	}
}

func TestNotReadySaysWhy(t *testing.T) {
	w := ask(handlerOf(&fakeNode{ready: errors.New("partition 3 has no leader")}, ""), "GET", "/readyz")
	if w.Code != 503 || w.Body.String() != "partition 3 has no leader\n" {
		t.Errorf("readyz = %d %q", w.Code, w.Body)
	}
}

func TestToken(t *testing.T) {
	h := handlerOf(&fakeNode{}, "secret")
	for _, tt := range []struct {
		name, target, authorization string
		status                      int
	}{
		{"health is open", "/healthz", "", 200},
		{"readiness is open", "/readyz", "", 200},
		{"metrics are open", "/metrics", "", 200},
		{"no token", "/v1/node", "", 401},
		{"the token", "/v1/node", "Bearer secret", 200},
		{"the scheme's case does not matter", "/v1/node", "bearer secret", 200},
		{"a wrong token", "/v1/node", "Bearer secre", 401},
		{"the token's beginning", "/v1/node", "Bearer secret2", 401},
		{"an empty token", "/v1/node", "Bearer ", 401},
		{"another scheme", "/v1/node", "Basic secret", 401},
		{"the token alone", "/v1/node", "secret", 401},
		{"profiles", "/debug/pprof/", "", 401},
		{"unknown paths tell nothing", "/v1/nodes", "", 401},
		{"a way round", "/healthz/../v1/node", "", 401},
		{"a doubled slash", "//v1/node", "", 401},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := ask(h, "GET", tt.target, "Authorization", tt.authorization)
			if w.Code != tt.status {
				t.Errorf("GET %s with %q = %d %s, want %d", tt.target, tt.authorization, w.Code, w.Body, tt.status)
			}
		})
	}
	if w := ask(h, "POST", "/v1/partitions/0/transfer?to=n2"); w.Code != 401 {
		t.Errorf("transfer without token = %d, want 401", w.Code)
	}
}

func TestTransferErrors(t *testing.T) {
	for _, tt := range []struct {
		name   string
		err    error
		status int
		body   string
	}{
		{"not the leader", &NotLeaderError{Leader: "n2"}, 409, `"leader":"n2"}`},
		{"no leader", &NotLeaderError{}, 409, `no leader is known"}`},
		{"unknown node", fmt.Errorf("node n9: %w", ErrNotFound), 404, `{"error":"node n9: not found"}`},
		{"too slow", fmt.Errorf("n2 is behind: %w", context.DeadlineExceeded), 504, `{"error":"n2 is behind: `},
		{"anything else", errors.New("no vote"), 500, `{"error":"no vote"}`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := handlerOf(&fakeNode{transfer: func(int, string) error { return tt.err }}, "")
			w := ask(h, "POST", "/v1/partitions/1/transfer?to=n2")
			if w.Code != tt.status || !strings.Contains(w.Body.String(), tt.body) {
				t.Errorf("transfer = %d %s, want %d and %s", w.Code, w.Body, tt.status, tt.body)
			}
		})
	}
}

func TestBrowserPageCannotTransfer(t *testing.T) {
	h := handlerOf(&fakeNode{transfer: func(int, string) error { return nil }}, "")
	w := ask(h, "POST", "/v1/partitions/1/transfer?to=n2", "Sec-Fetch-Site", "cross-site")
	if w.Code != 403 || !strings.Contains(w.Body.String(), `{"error":`) {
		t.Errorf("cross-site transfer = %d %s, want 403", w.Code, w.Body)
	}
}

func TestUnencodableAnswerIsAnError(t *testing.T) {
	w := ask(handlerOf(&fakeNode{drift: math.NaN()}, ""), "GET", "/v1/room?name=a")
	if w.Code != 500 || !strings.Contains(w.Body.String(), `{"error":`) {
		t.Errorf("room with a NaN = %d %s, want 500", w.Code, w.Body)
	}
}

func TestGarbageDoesNoHarm(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := NewServer(handlerOf(&fakeNode{}, ""), slog.New(slog.DiscardHandler))
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	defer func() {
		server.Close()
		<-served
	}()

	address := listener.Addr().String()
	for _, tt := range []struct{ name, send, status string }{
		{"binary", "\x00\xff\x16\x03\x01\r\n\r\n", "400"},
		{"a huge header", "GET /healthz HTTP/1.1\r\nHost: a\r\nX: " + strings.Repeat("x", 64<<10) + "\r\n\r\n", "431"},
		{"a body", "POST /v1/partitions/0/transfer?to=a HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999\r\n\r\n", "400"},
		{"an endless body", "POST /v1/node HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", "400"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			conn, err := net.Dial("tcp", address)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if _, err := io.WriteString(conn, tt.send); err != nil {
				t.Fatal(err)
			}
			line, err := bufio.NewReader(conn).ReadString('\n')
			if err != nil || !strings.HasPrefix(line, "HTTP/1.1 "+tt.status) {
				t.Errorf("answer %q, %v, want %s", line, err, tt.status)
			}
		})
	}
	resp, err := http.Get("http://" + address + "/healthz")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Errorf("healthz afterwards = %d", resp.StatusCode)
	}
}

func TestDrainErrors(t *testing.T) {
	for _, tt := range []struct {
		name   string
		err    error
		status int
		body   string
	}{
		{"nobody else", fmt.Errorf("%w: no other voter is alive", ErrConflict), 409, `{"error":"not possible now: no other voter is alive"}`},
		{"too slow", fmt.Errorf("n1 still leads 3 partitions: %w", context.DeadlineExceeded), 504, `still leads 3 partitions`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := ask(handlerOf(&fakeNode{drained: tt.err}, ""), "POST", "/v1/node/drain")
			if w.Code != tt.status || !strings.Contains(w.Body.String(), tt.body) {
				t.Errorf("drain = %d %s, want %d and %s", w.Code, w.Body, tt.status, tt.body)
			}
		})
	}
	if w := ask(handlerOf(&fakeNode{}, "secret"), "POST", "/v1/node/drain"); w.Code != 401 {
		t.Errorf("drain without token = %d, want 401", w.Code)
	}
}
