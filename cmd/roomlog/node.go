package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/spf13/cobra"

	"github.com/roomlog/roomlog/transport/admin"
)

func newNode(a *app) *cobra.Command {
	cmd := &cobra.Command{Use: "node", Short: "Look at nodes, drain one"}
	cmd.AddCommand(newNodeList(a), newNodeDrain(a))
	return cmd
}

func newNodeList(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the nodes of the cluster",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.cluster(cmd.Context())
			if err != nil {
				return err
			}
			answers, err := askAll[admin.NodeStatus](cmd.Context(), c, "/v1/node")
			if err != nil {
				return err
			}
			header := []string{"NODE", "ALIVE", "LEADERS", "REPLICAS", "VERSION", "LISTEN", "PEER", "HTTP"}
			return emitTable(a, nodeViews(answers), header, nodeView.row)
		},
	}
}

func newNodeDrain(a *app) *cobra.Command {
	var undo bool
	cmd := &cobra.Command{
		Use:   "drain NODE",
		Short: "Have a node give its leaderships and clients to others",
		Long: `Have a node hand its leaderships over and send its clients elsewhere, and return
when it leads nothing. It goes on to hold its replicas and to vote, but takes no
leadership and no clients as long as another node can serve them, until it is
started again or the drain is taken back with --undo. Leaderships do not come back by
themselves.

A stop with SIGTERM does all this by itself: drain a node that is to keep running.`,
		Example: `  roomlog node drain n2
  roomlog node drain n2 --undo`,
		Args: oneArg("NODE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.cluster(cmd.Context())
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), a.timeout)
			defer cancel()
			v, err := c.drain(ctx, args[0], !undo)
			if err != nil {
				return err
			}
			return a.emit(v, func(w io.Writer) {
				if v.Draining {
					fmt.Fprintf(w, "%s leads nothing, and is being drained until it is started again\n", v.Node)
				} else {
					fmt.Fprintf(w, "%s may lead and serve clients\n", v.Node)
				}
			})
		},
	}
	cmd.Flags().BoolVar(&undo, "undo", false, "let the node lead and serve clients again")
	return cmd
}

// drain asks a node to drain itself, or not to, and returns when it has.
func (c *cluster) drain(ctx context.Context, node string, drain bool) (v admin.Drained, err error) {
	n, ok := c.node(node)
	if !ok {
		return v, fmt.Errorf("there is no node %q; roomlog node list tells which there are", node)
	}
	path := "/v1/node/drain"
	if !drain {
		path = "/v1/node/undrain"
	}
	for {
		err := c.do(ctx, n, http.MethodPost, path, &v)
		var failed *statusError
		if errors.As(err, &failed) && failed.status == http.StatusGatewayTimeout && ctx.Err() == nil {
			continue // it has been at it for as long as one answer may take
		}
		switch {
		case err != nil && ctx.Err() != nil && drain:
			return v, fmt.Errorf("drain %s: %w; the node may go on draining: roomlog node list tells, roomlog node drain %s --undo takes it back", node, err, node)
		case err != nil:
			return v, fmt.Errorf("drain %s: %w", node, err)
		}
		return v, nil
	}
}

// nodeView is a line of "node list".
type nodeView struct {
	Node     string `json:"node"`
	Alive    bool   `json:"alive"`
	Leaders  int    `json:"leaders"`
	Replicas int    `json:"replicas"`
	Version  string `json:"version"`
	Listen   string `json:"listen"`
	Peer     string `json:"peer"`
	HTTP     string `json:"http"`
	Draining bool   `json:"draining"`
}

func (v nodeView) row() []any {
	alive := "no"
	switch {
	case v.Alive && v.Draining:
		alive = "draining"
	case v.Alive:
		alive = "yes"
	}
	return []any{v.Node, alive, v.Leaders, v.Replicas, dash(v.Version), dash(v.Listen), dash(v.Peer), dash(v.HTTP)}
}

// nodeViews takes each node's word on itself. A node that could not be asked is
// alive if the cluster says so, unless its port is closed.
func nodeViews(answers []answer[admin.NodeStatus]) []nodeView {
	var views []nodeView
	for _, a := range answers {
		v := nodeView{Node: a.node.Name, Alive: true, Listen: a.node.Listen, HTTP: a.node.HTTP}
		if a.err == nil {
			v.Leaders, v.Replicas, v.Version = a.value.Leaders, a.value.Replicas, a.value.Version
			v.Listen, v.Peer, v.HTTP, v.Draining = a.value.Listen, a.value.Peer, a.value.HTTP, a.value.Draining
		} else {
			v.Alive = a.node.Alive && !refused(a.err)
		}
		views = append(views, v)
	}
	return views
}
