package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/roomlog/roomlog/client"
	"github.com/roomlog/roomlog/transport/admin"
)

const (
	nodeTimeout = 2 * time.Second // for one node's answer
	maxAnswer   = 64 << 20        // bytes
)

// cluster asks all nodes over HTTP. Which nodes there are it has from one of
// them, over QUIC.
type cluster struct {
	nodes []client.Node // by name
	token string
	http  *http.Client
}

// answer is what one node said.
type answer[T any] struct {
	node  client.Node
	value T
	err   error
}

// statusError is an answer other than 200.
type statusError struct {
	status int
	admin.Failure
}

func (e *statusError) Error() string { return fmt.Sprintf("%s (HTTP %d)", e.Failure.Error, e.status) }

// cluster learns the nodes of the profile's cluster.
func (a *app) cluster(ctx context.Context) (*cluster, error) {
	p, err := a.loadProfile()
	if err != nil {
		return nil, err
	}
	nodes, err := a.learn(ctx, p, a.timeout)
	if err != nil {
		return nil, err
	}
	if len(nodes) == 0 {
		return nil, errors.New("the server knows of no node")
	}
	nodes = slices.SortedFunc(slices.Values(nodes), func(a, b client.Node) int { return cmp.Compare(a.Name, b.Name) })
	return &cluster{nodes: nodes, token: p.Token, http: &http.Client{
		Transport:     &http.Transport{}, // no proxy: nodes are asked directly
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

// askAll asks every node at once; answers come in the order of the nodes. That
// some do not answer is no error, that none does is one.
func askAll[T any](ctx context.Context, c *cluster, path string) ([]answer[T], error) {
	answers := make([]answer[T], len(c.nodes))
	var wg sync.WaitGroup
	for i, n := range c.nodes {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, nodeTimeout)
			defer cancel()
			answers[i].node = n
			answers[i].err = c.do(ctx, n, http.MethodGet, path, &answers[i].value)
		})
	}
	wg.Wait()
	var failures []string
	for _, a := range answers {
		if a.err == nil {
			return answers, nil
		}
		failures = append(failures, fmt.Sprintf("%s: %v", a.node.Name, a.err))
	}
	return nil, fmt.Errorf("no node answered: %s", strings.Join(failures, "; "))
}

// do sends a request to a node and decodes its answer into out.
func (c *cluster) do(ctx context.Context, n client.Node, method, path string, out any) error {
	address, err := httpAddress(n)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://"+address+path, nil)
	if err != nil {
		return err
	}
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return withoutURL(err)
	}
	defer resp.Body.Close()
	if name := resp.Header.Get(admin.NodeHeader); name != n.Name {
		return fmt.Errorf("%s answers as node %q: the node's http address must lead to it from here", address, name)
	}
	body := json.NewDecoder(io.LimitReader(resp.Body, maxAnswer))
	if resp.StatusCode != http.StatusOK {
		failed := &statusError{status: resp.StatusCode}
		if err := body.Decode(&failed.Failure); err != nil || failed.Failure.Error == "" {
			failed.Failure.Error = strings.ToLower(http.StatusText(resp.StatusCode))
		}
		return failed
	}
	if err := body.Decode(out); err != nil {
		return fmt.Errorf("answer of %s: %w", address, err)
	}
	return nil
}

// withoutURL drops what net/http puts before an error: the caller names the node.
func withoutURL(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}

// httpAddress is where a node's HTTP is. A node bound to all its addresses is
// reached at the host that clients use.
func httpAddress(n client.Node) (string, error) {
	host, port, err := net.SplitHostPort(n.HTTP)
	if err != nil {
		return "", errors.New("the cluster does not know its http address")
	}
	if isUnspecified(n.HTTP) {
		if host, _, err = net.SplitHostPort(n.Listen); err != nil {
			return "", errors.New("the cluster does not know its address")
		}
	}
	return net.JoinHostPort(host, port), nil
}

// refused tells whether nobody listens at the node's address: it is dead,
// whatever the cluster still believes.
func refused(err error) bool { return errors.Is(err, syscall.ECONNREFUSED) }
