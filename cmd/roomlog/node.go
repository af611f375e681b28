package main

import (
	"github.com/spf13/cobra"

	"github.com/roomlog/roomlog/transport/admin"
)

func newNode(a *app) *cobra.Command {
	cmd := &cobra.Command{Use: "node", Short: "Look at nodes"}
	cmd.AddCommand(&cobra.Command{
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
	})
	return cmd
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
}

func (v nodeView) row() []any {
	alive := "no"
	if v.Alive {
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
			v.Listen, v.Peer, v.HTTP = a.value.Listen, a.value.Peer, a.value.HTTP
		} else {
			v.Alive = a.node.Alive && !refused(a.err)
		}
		views = append(views, v)
	}
	return views
}
